package bitcoind

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
	"github.com/keytree-bch/keytree/protocol"
)

// txTopic is each transaction that the mempool takes, and those of each block.
const txTopic = "rawtx"

// announcedAhead is how many announced transactions wait to be taken: 64 MB at most, of a
// node that announces the largest that there may be.
const announcedAhead = 64

// announcements are the node's transactions by ZeroMQ: from the address of hints, over a
// connection of their own. As with those, a connection may fall silent without a sign, or
// the node may not publish this topic there: who follows the mempool tells what was missed.
type announcements struct {
	address    string // HOST:PORT; empty: there are none
	stallAfter time.Duration
	trouble    *node.Trouble

	begin sync.Once
	begun atomic.Bool   // announce was begun
	txs   chan []byte   // sent to and closed by announce
	done  chan struct{} // closed when announce has ended
	miss  chan struct{} // holds a value after a transaction was missed
	works atomic.Bool   // there is a connection, over which they come as far as is known

	silent bool // the last connection was of no use; belongs to announce
}

func newAnnouncements(address string, stallAfter time.Duration, log zerolog.Logger) *announcements {
	if stallAfter == 0 {
		stallAfter = DefaultStallAfter
	}
	return &announcements{
		address: address, stallAfter: stallAfter,
		trouble: node.NewTrouble(log.With().Str("zmq", address).Logger(), node.WarnEvery,
			"transaction notifications interrupted, subscribing again and again", "transaction notifications arrive again"),
		txs: make(chan []byte, announcedAhead), done: make(chan struct{}), miss: make(chan struct{}, 1),
	}
}

// Announced returns a channel that receives serialized transactions as the node's topic rawtx
// has them: none of them has been checked, any may be lost, and those of blocks come too. The
// first call subscribes; the channel is closed when the client is closed. Without ZeroMQ
// nothing comes. It is mempool.Node's.
func (c *Client) Announced() <-chan []byte {
	a := c.announced
	a.begin.Do(func() {
		a.begun.Store(true)
		go a.announce(c.closing)
	})
	return a.txs
}

// Announces returns how transactions are announced: "zmq", or "" while they are not, as far
// as is known. It is mempool.Node's.
func (c *Client) Announces() string {
	if c.announced.works.Load() {
		return "zmq"
	}
	return ""
}

// Missed tells that a transaction is in the mempool for a while that was not announced. If
// that lasts, the connection is made anew. It is mempool.Node's.
func (c *Client) Missed() {
	select {
	case c.announced.miss <- struct{}{}:
	default: // the last one has not been looked at yet
	}
}

// close waits until announce has ended, if it was begun. The context of announce has to have
// ended.
func (a *announcements) close() {
	a.begin.Do(func() {}) // it never will
	if a.begun.Load() {
		<-a.done
	}
}

// announce owns the connection until ctx ends.
func (a *announcements) announce(ctx context.Context) {
	defer close(a.done)
	defer close(a.txs)
	if a.address == "" {
		<-ctx.Done()
		return
	}
	pauses := reach.NewPauses()
	for {
		began := time.Now()
		err := a.listen(ctx)
		a.works.Store(false)
		a.silent = errors.Is(err, errUnannounced)
		if ctx.Err() != nil {
			return
		}
		a.trouble.Warn(err)
		if time.Since(began) > reach.MaxPause {
			pauses.Reset()
		}
		if !pauses.Sleep(ctx) {
			return
		}
	}
}

// listen subscribes, and hands over transactions until the connection fails or falls silent.
func (a *announcements) listen(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "tcp", a.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	subscription, err := subscribe(conn, txTopic, protocol.MaxTxSize)
	if err != nil {
		return err
	}
	a.works.Store(!a.silent)
	came, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() { failed <- a.receive(subscription, came) }()
	err = a.watch(came, failed)
	conn.Close()
	if errors.Is(err, errUnannounced) {
		<-failed
	}
	return err
}

// errUnannounced says that a connection stands but is of no use.
var errUnannounced = errors.New("new transactions were not announced: does the node publish rawtx there?")

// watch waits until receive has failed, whose error it returns, or transactions were missed
// for too long while none came.
func (a *announcements) watch(came <-chan struct{}, failed <-chan error) error {
	var silent <-chan time.Time // since a transaction was missed
	for {
		select {
		case err := <-failed:
			return err
		case <-came:
			silent = nil
			a.trouble.Over()
			a.works.Store(true)
		case <-a.miss:
			if silent == nil {
				silent = time.After(a.stallAfter)
			}
		case <-silent:
			return errUnannounced
		}
	}
}

// receive hands over transactions until the connection fails.
func (a *announcements) receive(subscription *zmq4.Conn, came chan<- struct{}) error {
	for {
		msg, err := subscription.RecvMsg()
		if err != nil {
			return err
		}
		if len(msg.Frames) < 2 || string(msg.Frames[0]) != txTopic {
			continue // a command
		}
		select {
		case came <- struct{}{}:
		default: // it is known that they come
		}
		select {
		case a.txs <- msg.Frames[1]:
		default: // the list has it
		}
	}
}
