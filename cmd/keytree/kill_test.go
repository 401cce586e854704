package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

const kills = 20

// TestKilledWhileCatchingUp kills a server with SIGKILL again and again while it
// catches up with a chain that is full of actions and grows meanwhile, over a
// line that is slow, so that it does not get there. Whatever it says after each
// start must be what a server that was never killed says of the same block, and
// so must be the end.
func TestKilledWhileCatchingUp(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newBusyChain(t, random)
	c.grow(150)
	slow := slowLine(t, c.node.GRPCAddress())
	slowURL := strings.Replace(c.node.URL(), c.node.GRPCAddress(), slow, 1)

	dir := t.TempDir()
	seen := make(map[uint32]string) // state hash by height, as the killed servers told
	amid := 0                       // kills between the first block and the tip
	var heights []string
	for n := range kills {
		target, _, err := c.node.Tip(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := startProgram(t, nil, serveArgs(slowURL, dir)...)
		if n%5 == 4 {
			time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
			p.kill()
			heights = append(heights, "opening")
			continue
		}
		server, _ := p.awaitServing()
		reached := c.killSometime(p, server, target, n%2 == 0, seen)
		if reached == nil {
			heights = append(heights, fmt.Sprintf("-/%d", target))
		} else {
			heights = append(heights, fmt.Sprintf("%d/%d", *reached, target))
			if *reached < target {
				amid++
			}
		}
		c.grow(10 + random.IntN(20))
	}
	t.Logf("killed at heights %s", strings.Join(heights, " "))
	if amid < kills/4 {
		t.Errorf("%d of %d kills hit between the first block and the tip: this shows too little", amid, kills)
	}

	// What the status says of the mempool comes a moment after the block.
	last := startProgram(t, nil, append(serveArgs(c.node.URL(), dir), "--mempool=false")...)
	server, _ := last.awaitServing()
	awaitTip(t, server, c.node)
	got := mustKeytree(t, "status", "--json", "--server", server)

	undisturbed := startProgram(t, nil, append(serveArgs(c.node.URL(), t.TempDir()), "--mempool=false")...)
	reference, rest := undisturbed.awaitServing()
	awaitTip(t, reference, c.node)
	if want := mustKeytree(t, "status", "--json", "--server", reference); got != want {
		t.Errorf("after %d kills\n%s\na server that was never killed\n%s", kills, got, want)
	}
	if links := field(t, got, "counts"); strings.Contains(links, "links:0") {
		t.Errorf("nothing is linked at the end: %s", got)
	}
	for height, hash := range seen {
		var page struct {
			Blocks []struct {
				StateHash string `json:"state_hash"`
			}
		}
		events := (&linkWorld{t: t, rest: rest}).get(fmt.Sprintf("/v1/events?from_height=%d&to_height=%d&page_size=10000", height, height))
		if err := json.Unmarshal(events, &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Blocks) != 1 || page.Blocks[0].StateHash != hash {
			t.Errorf("state hash of block %d: a killed server said %s, one that was never killed %+v", height, hash, page.Blocks)
		}
	}
	t.Logf("state hashes of %d heights on the way are equal", len(seen))
}

// killSometime kills p at a random moment: as soon as the
// server has reached a random height on the way to target, or else
// after a random time, which can be before the first block. It notes state
// hashes and returns the height that was seen last, nil for none.
func (c *busyChain) killSometime(p *program, server string, target uint32, byHeight bool, seen map[uint32]string) (reached *uint32) {
	c.t.Helper()
	var wanted *uint32
	deadline := time.Now().Add(time.Duration(c.random.IntN(800)) * time.Millisecond)
	for {
		o := keytree(c.t, "status", "--json", "--server", server)
		var s struct {
			TipHeight uint32 `json:"tip_height"`
			TipHash   string `json:"tip_hash"`
			StateHash string `json:"state_hash"`
		}
		if o.code != exitDone {
			c.t.Fatalf("the server does not answer: %s; standard error:\n%s", o.stderr, p.errors())
		}
		if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
			c.t.Fatal(err)
		}
		if s.TipHash != "" {
			seen[s.TipHeight], reached = s.StateHash, &s.TipHeight
		}
		if wanted == nil {
			wanted = new(uint32)
			*wanted = s.TipHeight + uint32(c.random.IntN(max(1, int(target)-int(s.TipHeight))))
		}
		if byHeight && s.TipHeight >= *wanted || !byHeight && time.Now().After(deadline) {
			p.kill()
			return reached
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// busyChain is a chain in which keys link, are cut off and link again, in ways
// that are refused now and then.
type busyChain struct {
	t        *testing.T
	random   *rand.Rand
	node     *regtest.Node
	actors   []*actor
	requests []offer // MLRs
	accepts  []offer // MLAs
}

// actor is a key and the coin that its next action spends.
type actor struct {
	key  *regtest.Key
	coin regtest.Coin
}

// offer is a transaction that its parent can answer.
type offer struct {
	txid   chainhash.Hash
	parent *actor
}

func newBusyChain(t *testing.T, random *rand.Rand) *busyChain {
	t.Helper()
	c := &busyChain{t: t, random: random, node: regtest.ForTest(t, regtest.Options{Blocks: 110})}
	var outputs []*wire.TxOut
	for range 12 {
		a := &actor{key: regtest.NewKey()}
		c.actors, outputs = append(c.actors, a), append(outputs, a.key.Output(10_000_000))
	}
	coins, err := c.node.Fund(t.Context(), outputs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, coin := range coins {
		c.actors[i].coin = coin
	}
	if _, err := c.node.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return c
}

// grow adds blocks of random actions.
func (c *busyChain) grow(blocks int) {
	c.t.Helper()
	for range blocks {
		var txs []*wire.MsgTx
		for range 4 {
			txs = append(txs, c.act())
		}
		if _, err := c.node.MineBlock(c.t.Context(), txs...); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *busyChain) act() *wire.MsgTx {
	c.t.Helper()
	switch kind := c.random.IntN(5); {
	case kind < 2 && len(c.requests) > 0:
		i := c.random.IntN(len(c.requests))
		request := c.requests[i]
		c.requests = slices.Delete(c.requests, i, i+1)
		script, err := protocol.AcceptScript(request.txid, nil)
		tx := c.spend(request.parent, script, err)
		c.accepts = append(c.accepts, offer{tx.TxHash(), request.parent})
		return tx
	case kind == 2 && len(c.accepts) > 0:
		i := c.random.IntN(len(c.accepts))
		accept := c.accepts[i]
		c.accepts = slices.Delete(c.accepts, i, i+1)
		script, err := protocol.RevokeScript(accept.txid, nil)
		return c.spend(accept.parent, script, err)
	default:
		child, parent := c.actors[c.random.IntN(len(c.actors))], c.actors[c.random.IntN(len(c.actors))]
		script, err := protocol.RequestScript(parent.key.Hash(), nil)
		tx := c.spend(child, script, err)
		c.requests = append(c.requests, offer{tx.TxHash(), parent})
		return tx
	}
}

func (c *busyChain) spend(a *actor, script []byte, err error) *wire.MsgTx {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	tx, change, err := regtest.Spend(a.key, a.coin, wire.NewTxOut(0, script, wire.TokenData{}))
	if err != nil {
		c.t.Fatal(err)
	}
	a.coin = change
	return tx
}

// slowLine passes connections on to address, slowly on the way back, and returns
// where it listens.
func slowLine(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		listener.Close()
		running.Wait()
	})
	pass := func(near net.Conn) {
		defer near.Close()
		far, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		defer far.Close()
		defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
		running.Go(func() {
			io.Copy(far, near)
			far.Close()
		})
		chunk := make([]byte, 1024)
		for {
			n, err := far.Read(chunk)
			if _, writeErr := near.Write(chunk[:n]); err != nil || writeErr != nil {
				return
			}
			time.Sleep(4 * time.Millisecond)
		}
	}
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { pass(near) })
		}
	})
	return listener.Addr().String()
}
