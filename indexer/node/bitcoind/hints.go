package bitcoind

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// topic is what is subscribed to: the hash of each new end of the best chain.
// Reorganisations announce only their last block, initial downloads none.
const topic = "hashblock"

// hints turns the node's notifications by ZeroMQ into hints. Notifications may be lost, and
// a connection may fall silent without a sign. So Tip tells hints which blocks it sees. If one
// of them stays unannounced for too long, hints connects anew.
type hints struct {
	address    string // HOST:PORT; empty: no hints
	stallAfter time.Duration
	trouble    *node.Trouble

	changes chan struct{}       // sent to and closed by follow
	done    chan struct{}       // closed when follow has ended
	tips    chan chainhash.Hash // what Tip saw
}

func newHints(address string, stallAfter time.Duration, log zerolog.Logger) *hints {
	if stallAfter == 0 {
		stallAfter = DefaultStallAfter
	}
	return &hints{
		address: address, stallAfter: stallAfter,
		trouble: node.NewTrouble(log.With().Str("zmq", address).Logger(), node.WarnEvery,
			"block notifications interrupted, subscribing again and again", "block notifications arrive again"),
		changes: make(chan struct{}, 1), done: make(chan struct{}), tips: make(chan chainhash.Hash, 1),
	}
}

// seen tells which block the node, asked, says is the tip.
func (h *hints) seen(tip chainhash.Hash) {
	select {
	case h.tips <- tip:
	default: // the last one has not been looked at yet; another look will follow
	}
}

func (h *hints) hint() {
	select {
	case h.changes <- struct{}{}:
	default: // the last hint has not been taken yet
	}
}

// follow owns the connection until ctx ends.
func (h *hints) follow(ctx context.Context) {
	defer close(h.done)
	defer close(h.changes)
	if h.address == "" {
		<-ctx.Done()
		return
	}
	pauses := reach.NewPauses()
	for {
		began := time.Now()
		err := h.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		h.trouble.Warn(err)
		if time.Since(began) > reach.MaxPause {
			pauses.Reset()
		}
		if !pauses.Sleep(ctx) {
			return
		}
	}
}

// listen subscribes, and hints until the connection fails or falls silent.
func (h *hints) listen(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "tcp", h.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	subscription, err := subscribe(conn, topic, shortFrame)
	if err != nil {
		return err
	}
	// This hint stands for whatever happened without a subscription.
	h.hint()
	announced, failed := make(chan chainhash.Hash), make(chan error, 1)
	watching, stop := context.WithCancel(ctx)
	go func() { failed <- receive(watching, subscription, announced) }()
	err = h.watch(announced, failed)
	stop()
	conn.Close()
	if errors.Is(err, errSilent) {
		<-failed
	}
	return err
}

// errSilent says that a connection stands but is of no use.
var errSilent = errors.New("a new block was not announced: does the node publish hashblock there?")

// watch hints at what is announced, until receive has failed, whose error it
// returns, or a block was not announced.
func (h *hints) watch(announced <-chan chainhash.Hash, failed <-chan error) error {
	var (
		last   chainhash.Hash   // announced
		tip    chainhash.Hash   // last seen since the subscription
		silent <-chan time.Time // while a tip waits for its announcement
	)
	for {
		select {
		case err := <-failed:
			return err
		case last = <-announced:
			silent = nil
			h.trouble.Over() // not before: a subscription that stands may be to something else
			h.hint()
		case seen := <-h.tips:
			// The first one may be from before the subscription.
			isNew := tip != (chainhash.Hash{}) && seen != tip
			tip = seen
			if isNew && seen != last && silent == nil {
				silent = time.After(h.stallAfter)
			}
		case <-silent:
			return errSilent
		}
	}
}

// subscribe opens a ZeroMQ connection over conn and subscribes to a topic, whose frames
// have at most so many bytes. It uses the library's connections, not its sockets, which
// reconnect out of reach.
func subscribe(conn net.Conn, topic string, frame uint64) (*zmq4.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return nil, err
	}
	subscription, err := zmq4.Open(&frameGuard{Conn: conn, body: greetingSize, most: frame}, null.Security(), zmq4.Sub, nil, false, nil)
	if err != nil {
		return nil, err
	}
	if err := subscription.SendMsg(zmq4.NewMsg(append([]byte{1}, topic...))); err != nil {
		return nil, err
	}
	return subscription, conn.SetDeadline(time.Time{})
}

// receive hands over the announced hashes until the connection fails or ctx
// ends.
func receive(ctx context.Context, subscription *zmq4.Conn, announced chan<- chainhash.Hash) error {
	for {
		msg, err := subscription.RecvMsg()
		if err != nil {
			return err
		}
		if len(msg.Frames) < 2 || string(msg.Frames[0]) != topic {
			continue // a command
		}
		// In display order. A wrong one does no harm: the node is asked anyway.
		var hash chainhash.Hash
		copy(hash[:], msg.Frames[1])
		slices.Reverse(hash[:])
		select {
		case announced <- hash:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Sizes of ZMTP 3.0 (https://rfc.zeromq.org/spec/23/).
const (
	greetingSize = 64
	flagMore     = 1
	flagLong     = 2
	// shortFrame is the most that a frame has whose size takes one byte; hashblock's are
	// shorter.
	shortFrame = 255
	// maxFrames in a message; hashblock's and rawtx's have three.
	maxFrames = 8
)

// frameGuard refuses what the library would allocate memory for on the peer's
// word: frames longer than any on the topic, and messages of more than a few.
type frameGuard struct {
	net.Conn
	most   uint64 // bytes of a frame
	body   uint64 // bytes until the next frame's header
	size   int    // bytes of the frame's size that are still to come
	frames int    // of the message so far
}

// Read implements io.Reader.
func (g *frameGuard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		switch {
		case g.size > 0:
			g.body, g.size, rest = g.body<<8|uint64(rest[0]), g.size-1, rest[1:]
			if g.size == 0 && g.body > g.most {
				return 0, errLongFrame
			}
		case g.body > 0:
			skip := min(g.body, uint64(len(rest)))
			g.body -= skip
			rest = rest[skip:]
		default:
			flags := rest[0]
			if flags&flagLong != 0 && g.most <= shortFrame || g.frames == maxFrames {
				return 0, errLongFrame
			}
			g.frames++
			if flags&flagMore == 0 {
				g.frames = 0
			}
			g.size, rest = 1, rest[1:]
			if flags&flagLong != 0 {
				g.size = 8
			}
		}
	}
	return n, err
}

var errLongFrame = errors.New("expected a short notification, got a longer one: is it the address of -zmqpubhashblock?")
