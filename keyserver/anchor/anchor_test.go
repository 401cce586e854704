package anchor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/wire"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/protocol"
)

func TestFirstAnchorWaitsForFunds(t *testing.T) {
	r := newRig(t)
	r.start()
	r.step()
	r.step()
	if len(r.uris) != 1 || !strings.HasPrefix(r.uris[0], r.p.address()+"?") || !strings.HasPrefix(r.uris[0], "bchreg:q") {
		t.Errorf("asked for funds by %q", r.uris)
	}
	if s := r.p.Status(); s.NotAnchored != 1 || s.Chain != "" || !strings.Contains(s.Problem, "confirmed payment") {
		t.Errorf("the status is %+v", s)
	}
	r.w.pay(r.p.keys.current.hash, 100_000, 0)
	r.step() // a payment that is not confirmed can be undone
	if len(r.w.mempool) != 1 {
		t.Fatal("an unconfirmed payment was spent")
	}
	r.w.mine(1)
	r.step()
	if r.ks.named != "" {
		t.Errorf("an unconfirmed genesis anchor was named: %s", r.ks.named)
	}
	r.w.mine(1)
	r.step()
	c := r.wantOne(1)
	if r.ks.named != c.ID.String() {
		t.Errorf("the keyserver was told of %q, want %v", r.ks.named, c.ID)
	}
	s := r.p.Status()
	if s.NotAnchored != 0 || s.Problem != "" || s.Last.Confirmations != 1 || s.Chain != c.ID.String() || s.Left < 200 || s.Balance < 99_000 {
		t.Errorf("the status is %+v", s)
	}
}

func TestWhenAnAnchorIsDue(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.step()
	for _, test := range []struct {
		name    string
		pass    time.Duration
		entries int
		want    int // anchors afterwards
	}{
		{"the head did not move", 2 * time.Hour, 0, 1},
		{"the interval is over", 0, 1, 2},
		{"within the interval", 59 * time.Minute, 5, 2},
		{"too many entries within the interval", 0, 5, 3},
		{"within the next interval", 59 * time.Minute, 1, 3},
		{"it is over", time.Minute, 0, 4},
	} {
		r.now = r.now.Add(test.pass)
		r.ks.grow(t, test.entries, 0)
		r.step()
		r.w.mine(1)
		r.step()
		t.Log(test.name)
		r.wantOne(test.want)
	}
	list, err := r.p.List(t.Context(), 1, 2)
	if err != nil || len(list) != 2 || list[0].Number != 1 || list[1].Position != 11 {
		t.Errorf("listed %+v, %v", list, err)
	}
}

// TestOneChain makes a long run with all that can go wrong with node and process, in
// random order.
func TestOneChain(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	r.start()
	r.fund(10_000_000)
	r.step()
	r.w.mine(1)
	for range 200 {
		switch random.IntN(12) {
		case 0:
			r.w.mine(1 + random.IntN(3))
		case 1:
			depth := 1 + random.IntN(min(5, len(r.w.blocks)-2)) // never the payment
			r.w.reorg(depth, random.IntN(2) == 0)
		case 2: // what the node forgets, but its blocks
			r.w.mempool = nil
		case 3:
			r.start()
		case 4:
			r.w.away = true
			r.now = r.now.Add(time.Hour)
			r.ks.grow(t, 1, 0)
			r.p.step(t.Context()) // fails, unless there was nothing to ask
			r.w.away = false
		case 5: // killed between storing and broadcasting
			r.ks.grow(t, 1, 0)
			r.now = r.now.Add(time.Hour)
			r.w.refuse = func(*wire.MsgTx) error { return errAway }
			r.p.step(t.Context())
			r.w.refuse = nil
			r.start()
		case 6:
			r.w.pay(r.p.keys.current.hash, 50_000, random.IntN(2))
		case 7:
			r.w.minRate = 1 + random.Int64N(4)
		default:
			r.ks.grow(t, random.IntN(3), 0)
			r.now = r.now.Add(time.Duration(random.IntN(90)) * time.Minute)
		}
		if random.IntN(4) == 0 {
			r.wantUntouched()
		}
		if err := r.p.step(t.Context()); err != nil && isFinal(err) {
			t.Fatal(err)
		}
	}
	r.w.minRate = 1
	for range 4 {
		r.step()
		r.w.mine(1)
	}
	r.anchor()
	r.w.mine(1)
	r.step()
	v, _ := r.w.View()
	c := r.wantOne(int(v.(*index).chains[0].Anchors))
	if c.Last.Position != r.ks.Chain().Size-1 || c.Anchors < 20 {
		t.Errorf("%d anchors, the last at position %d of %d", c.Anchors, c.Last.Position, r.ks.Chain().Size)
	}
	t.Logf("%d anchors in %d blocks", c.Anchors, len(r.w.blocks))
}

func TestKilledBeforeBroadcast(t *testing.T) {
	for _, genesis := range []bool{true, false} {
		r := newRig(t)
		r.start()
		r.fund(1_000_000)
		want := 1
		if !genesis {
			r.step()
			r.w.mine(1)
			want++
		}
		r.ks.grow(t, 1, 0)
		r.now = r.now.Add(time.Hour)
		r.w.refuse = func(*wire.MsgTx) error { return errAway }
		r.wantStep(errAway)
		r.w.refuse = nil
		signed := r.p.state.anchors[len(r.p.state.anchors)-1].txid
		r.ks.grow(t, 3, 0) // the head moves before the next start
		r.now = r.now.Add(time.Hour)
		r.start()
		r.step()
		if tx, _ := r.w.find(signed); tx == nil {
			t.Error("the anchor that was stored was not broadcast")
		}
		r.w.mine(1)
		r.step()
		r.wantOne(want + 1) // and the next one follows it, unconfirmed at first
		if c := r.p.Status().Last; c.Number != uint32(want) {
			t.Errorf("the last one has number %d", c.Number)
		}
	}
}

func TestFeeTooLow(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.w.minRate = 5
	r.step() // the genesis anchor, too
	r.w.mine(1)
	r.step()
	c := r.wantOne(1)
	if a := r.p.state.anchors[0]; a.rate != 8 || *r.p.state.genesis != c.ID {
		t.Errorf("the rate is %d", a.rate)
	}
	r.w.minRate = 33
	r.ks.grow(t, 1, 0)
	r.now = r.now.Add(time.Hour)
	r.wantStep(ErrFee)
	stored := r.p.state.anchors[1]
	if stored.rate != 32 || stored.Position != 1 || !strings.Contains(r.p.Status().Problem, "raise --anchor-fee-rate") {
		t.Errorf("stored at rate %d: %q", stored.rate, r.p.Status().Problem)
	}
	r.w.minRate = 1
	r.ks.grow(t, 5, 0)
	r.step()
	r.w.mine(1)
	r.step()
	if c := r.wantOne(2); c.Last.TxID != stored.txid {
		t.Error("another version was broadcast than the stored one")
	}
}

func TestEmptyBaton(t *testing.T) {
	r := newRig(t)
	r.start()
	cost := r.p.cost()
	r.fund(3*cost + protocol.DustLimit)
	r.step()
	if s := r.p.Status(); s.Left != 2 {
		t.Errorf("%d anchors are said to be left, want 2: %+v", s.Left, s)
	}
	r.anchor()
	r.anchor()
	r.w.mine(1)
	r.anchor()
	if s := r.p.Status(); s.Left != 0 || s.Problem == "" || s.NotAnchored != 1 {
		t.Errorf("the status is %+v", s)
	}
	r.wantOne(3)
	r.w.pay(r.p.keys.current.hash, 10*cost, 3)
	r.step()
	r.wantOne(3)
	r.w.mine(1)
	r.step()
	r.w.mine(1)
	r.step()
	c := r.wantOne(4)
	if s := r.p.Status(); s.Problem != "" || s.Left < 8 {
		t.Errorf("the status is %+v", s)
	}
	if tx, _ := r.w.find(c.Last.TxID); len(tx.TxIn) != 2 {
		t.Errorf("the payment was taken up by %d inputs", len(tx.TxIn))
	}
}

func TestUnconfirmedAnchorsAreBounded(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	for range MaxUnconfirmed + 5 {
		r.anchor()
	}
	if n := len(r.p.Status().Pending); n != MaxUnconfirmed || r.p.Status().NotAnchored != 5 {
		t.Errorf("%d are unconfirmed, %d entries are not anchored", n, r.p.Status().NotAnchored)
	}
	r.w.mine(1)
	r.step()
	r.w.mine(1)
	r.step()
	r.wantOne(MaxUnconfirmed + 1)
}

// TestTokensAndForeignBatons pays the key with what it must not touch.
func TestTokensAndForeignBatons(t *testing.T) {
	r := newRig(t)
	r.start()
	foreign, err := (&protocol.Anchor{Domain: testDomain, Position: 99}).Script()
	if err != nil {
		t.Fatal(err)
	}
	bait := wire.NewMsgTx(2)
	from := r.w.pay(protocol.KeyHash{1}, 1_000_000, 0)
	bait.AddTxIn(wire.NewTxIn(&from, nil))
	bait.AddTxOut(wire.NewTxOut(900_000, protocol.P2PKHScript(r.p.keys.current.hash), wire.TokenData{}))
	bait.AddTxOut(wire.NewTxOut(0, foreign, wire.TokenData{}))
	if err := r.w.Submit(t.Context(), rawOf(bait)); err != nil {
		t.Fatal(err)
	}
	token := r.w.pay(r.p.keys.current.hash, 500_000, 0)
	r.node = tokens{r.w, token}
	r.w.mine(1)
	r.ks.denied = true // the operator knows that the chain is not his
	r.start()
	r.step()
	if r.w.spender(token) != nil || r.w.spender(wire.OutPoint{Hash: bait.TxHash()}) != nil || r.p.state.genesis != nil {
		t.Fatal("a token or a foreign baton was spent")
	}
	r.fund(100_000)
	r.step()
	r.w.mine(1)
	r.step()
	v, _ := r.w.View()
	chains := v.(*index).chains
	if len(chains) != 2 || chains[0].Break != protocol.Unbroken || chains[1].ID.String() != r.ks.named {
		t.Errorf("%d chains, named %s", len(chains), r.ks.named)
	}
	r.start() // an impostor's anchor ahead of the hashchain keeps nobody from serving
}

// tokens is a node with one coin that carries tokens.
type tokens struct {
	*world
	out wire.OutPoint
}

func (n tokens) Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error) {
	coins, err := n.world.Coins(ctx, key)
	for i := range coins {
		coins[i].HasToken = coins[i].OutPoint == n.out
	}
	return coins, err
}

// TestOtherVersionWins has a version confirmed that was replaced because of its fee.
func TestOtherVersionWins(t *testing.T) {
	for _, genesis := range []bool{true, false} {
		r := newRig(t)
		r.start()
		r.fund(1_000_000)
		if !genesis {
			r.step()
			r.w.mine(1)
			r.step()
			r.ks.grow(t, 1, 0)
			r.now = r.now.Add(time.Hour)
		}
		var first *wire.MsgTx
		r.w.refuse = func(tx *wire.MsgTx) error {
			if first == nil {
				first = tx
				return ErrFee
			}
			return errAway
		}
		r.wantStep(errAway)
		r.w.refuse = nil
		if err := r.w.Submit(t.Context(), rawOf(first)); err != nil {
			t.Fatal(err)
		}
		r.wantStep(ErrRefused)
		r.w.mine(1)
		r.step()
		r.anchor()
		r.w.mine(1)
		r.step()
		want := 3
		if genesis {
			want = 2
		}
		if c := r.wantOne(want); c.anchors[want-2].TxID != first.TxHash() || r.ks.named != c.ID.String() {
			t.Errorf("named %s", r.ks.named)
		}
	}
}

// TestTopUpUndone has a payment disappear that an anchor takes up.
func TestTopUpUndone(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.step()
	r.w.mine(1)
	r.step()
	r.w.pay(r.p.keys.current.hash, 50_000, 0)
	r.w.mine(1)
	r.anchor()
	r.w.reorg(1, false)
	r.step()
	r.w.mine(1)
	r.step()
	if c := r.wantOne(2); c.Last.Position != 1 {
		t.Errorf("the last anchor is at position %d", c.Last.Position)
	}
}

// TestBatonSpentElsewhere uses the key without a record.
func TestBatonSpentElsewhere(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.step()
	r.w.mine(1)
	r.step()
	baton := r.p.state.anchors[0].baton()
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&baton, nil))
	tx.AddTxOut(wire.NewTxOut(900_000, protocol.P2PKHScript(r.p.keys.current.hash), wire.TokenData{}))
	if err := r.w.Submit(t.Context(), rawOf(tx)); err != nil {
		t.Fatal(err)
	}
	r.ks.grow(t, 1, 0)
	r.now = r.now.Add(time.Hour)
	r.wantStep(errElsewhere)
	r.w.mine(1)
	r.step()
	if s := r.p.Status(); !strings.Contains(s.Broken, protocol.NoRecord.String()) || !strings.Contains(s.Problem, tx.TxHash().String()) {
		t.Errorf("the status is %+v", s)
	}
	if err := os.Remove(r.p.state.path); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.step()
	r.w.mine(1)
	v, _ := r.w.View()
	if n := len(v.(*index).chains); n != 1 {
		t.Errorf("%d chains: another one was begun by the same key", n)
	}
}

// TestDiskFails has the state file fail: nothing may be broadcast then.
func TestDiskFails(t *testing.T) {
	r := newRig(t)
	r.start()
	r.fund(1_000_000)
	r.p.state.path = filepath.Join(r.dir, "nowhere", "anchor.json")
	r.wantStep(errDisk)
	if len(r.w.mempool) != 0 {
		t.Error("something was broadcast that is not on disk")
	}
	if err := r.p.Run(t.Context()); !errors.Is(err, errDisk) {
		t.Errorf("it goes on: %v", err)
	}
}

func TestRun(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := newRig(t)
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	r.p.opt.Poll, r.p.opt.Now = time.Millisecond, time.Now
	r.w.away = true
	checked := make(chan error, 1)
	go func() { checked <- r.p.Check(t.Context()) }()
	if _, err := r.p.Rotate(t.Context()); !errors.Is(err, errNotChecked) {
		t.Errorf("before the check: %v", err)
	}
	r.w.set(func() { r.w.away = false })
	if err := <-checked; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.p.Run(ctx) }()
	address, err := protocol.ParseAddress(r.p.Status().Address, &chaincfg.RegressionNetParams)
	if err != nil {
		t.Fatal(err)
	}
	r.w.pay(address, 1_000_000, 0)
	r.w.mine(1)
	for r.p.Status().Chain == "" {
		time.Sleep(time.Millisecond)
	}
	if _, err := r.p.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(r.p.Status().Pending); n != 2 || r.p.Status().Address == fmt.Sprint(address) {
		t.Errorf("%d anchors are unconfirmed", n)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
