package anchor

import (
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
)

// Hashes of keys, and txids.
var (
	currentKey, nextKey, previousKey, strangersKey = protocol.KeyHash{1}, protocol.KeyHash{2}, protocol.KeyHash{3}, protocol.KeyHash{4}
	genesisID, lastID, pendingID, paymentID        = chainhash.Hash{1}, chainhash.Hash{2}, chainhash.Hash{3}, chainhash.Hash{4}
)

// testAnchor returns an anchor whose baton pays a key.
func testAnchor(txid, spends chainhash.Hash, to protocol.KeyHash) *signed {
	return &signed{
		Anchor: protocol.Anchor{Domain: testDomain}, txid: txid, spends: wire.OutPoint{Hash: spends},
		script: protocol.P2PKHScript(to), value: 100_000, made: time.Unix(1_000_000, 0), rate: 1,
	}
}

// testFacts are those of a publisher at rest: a chain of two confirmed anchors of a
// hashchain with one entry, and a node that was asked.
func testFacts() *facts {
	chain := anchors.Chain{ID: genesisID, Domain: testDomain, Anchors: 2, Last: anchors.Status{TxID: lastID, Height: 90, Author: &currentKey}}
	last := testAnchor(lastID, genesisID, currentKey)
	return &facts{
		rules: rules{Schedule: schedule.Schedule{Interval: time.Hour, MaxEntries: 10, Heartbeat: 24 * time.Hour}, domain: testDomain, feeRate: 1,
			keyFile: "KEY", state: "STATE"},
		now: time.Unix(1_000_000, 0), height: 100, block: chainhash.Hash{100}, time: time.Unix(2_000_000, 0),
		head: hashchain.Chain{Size: 1}, named: genesisID.String(),
		genesis: &genesisID, stored: []*signed{last}, keys: holders{current: &currentKey},
		ours: &chain, last: last, lastTime: time.Unix(2_000_000, 0),
		confirmed: map[chainhash.Hash]anchors.Status{lastID: chain.Last},
		offers:    map[chainhash.Hash]offer{}, counted: time.Unix(1_000_000, 0),
		node: &nodeFacts{unspent: map[wire.OutPoint]bool{}},
	}
}

// addPending adds an anchor that is not confirmed.
func (f *facts) addPending(txid, spends chainhash.Hash, to protocol.KeyHash) {
	a := testAnchor(txid, spends, to)
	f.stored, f.pending = append(f.stored, a), append(f.pending, a)
}

// unconfirmedGenesis makes the last anchor a genesis anchor that is not confirmed.
func (f *facts) unconfirmedGenesis() {
	f.genesis, f.ours, f.last, f.named = &lastID, nil, nil, ""
	f.stored[0].spends, f.pending = wire.OutPoint{Hash: paymentID}, f.stored
	clear(f.confirmed)
}

// nothing makes it a publisher that has neither anchors nor state.
func (f *facts) nothing() {
	f.genesis, f.ours, f.last, f.named, f.stored, f.first = nil, nil, nil, "", nil, true
	clear(f.confirmed)
}

func (f *facts) addCoin(value int64, key protocol.KeyHash, confirmed bool) *ownCoin {
	f.node.coins = append(f.node.coins, ownCoin{
		Coin: Coin{protocol.UTXO{OutPoint: wire.OutPoint{Hash: chainhash.Hash{9, byte(len(f.node.coins))}}, Value: value, Script: protocol.P2PKHScript(key)}, confirmed},
		key:  key, examined: true,
	})
	return &f.node.coins[len(f.node.coins)-1]
}

// ownGenesis returns a chain by the current key.
func ownGenesis(id chainhash.Hash, spends chainhash.Hash, how protocol.Break) ownChain {
	return ownChain{anchors.Chain{ID: id, Domain: testDomain, Break: how}, testAnchor(id, spends, currentKey)}
}

func unclaimed(position uint64, have *hashchain.Chain) unclaimedChain {
	return unclaimedChain{anchors.Chain{ID: lastID, Anchors: 3}, commitment{Anchor: protocol.Anchor{Position: position}, have: have}}
}

// describe tells what was decided, in short.
func describe(d decision, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	what := strings.TrimPrefix(fmt.Sprintf("%T", d), "anchor.")
	switch d := d.(type) {
	case nil:
		return "nothing"
	case keep:
		for _, a := range d.anchors {
			what += fmt.Sprintf(" %x", a.txid[0])
		}
		if d.genesis != nil {
			what += fmt.Sprintf(" of %x", d.genesis[0])
		}
	case prune:
		what += fmt.Sprintf(" to %d", len(d.kept))
	case hand:
		what += fmt.Sprintf(" %x", d.anchor.txid[0])
	case sign:
		what += fmt.Sprintf(" position %d, %d inputs, to %x, rate %d", d.record.Position, len(d.spends), d.to[0], d.rate)
		if d.instead != nil {
			what += fmt.Sprintf(", instead of %x", d.instead.txid[0])
		}
	}
	return what
}

// TestDecide changes one thing about a publisher at rest, and looks at what it does.
func TestDecide(t *testing.T) {
	publish, check, handOn := (*facts).publish, (*facts).check, (*facts).handOn
	for _, test := range []struct {
		name   string
		decide func(*facts) (decision, error)
		change func(*facts)
		want   string
	}{
		{"at rest", publish, func(*facts) {}, "nothing"},
		{"at rest, the start", check, func(f *facts) { f.first = true }, "nothing"},
		{"the node is asked at the start", check, func(f *facts) { f.node = nil }, "askNode"},
		{"the node is not asked at each step", publish, func(f *facts) { f.node = nil }, "nothing"},
		{"funds not counted for long", publish, func(f *facts) { f.node, f.counted = nil, f.now.Add(-countEvery) }, "askNode"},
		{"funds counted in the future", publish, func(f *facts) { f.node, f.counted = nil, f.now.Add(1) }, "askNode"},

		// Whether the hashchain agrees.
		{"ahead", publish, func(f *facts) { f.commitments = []commitment{{Anchor: protocol.Anchor{Position: 7}}} }, "error: an anchor is ahead"},
		{"contradicts", publish, func(f *facts) {
			f.commitments = []commitment{{Anchor: protocol.Anchor{Head: hashchain.Hash{1}}, have: &hashchain.Chain{Size: 1}}}
		}, "error: an anchor contradicts"},

		// Which chain is ours.
		{"the last anchor is not stored", publish, func(f *facts) { f.stored = nil }, "keep 2"},
		{"the database names another chain", publish, func(f *facts) { f.named = "" }, "name"},
		{"state file lost", check, func(f *facts) {
			f.nothing()
			f.own = []ownChain{ownGenesis(genesisID, paymentID, protocol.Unbroken)}
		}, "keep 1 of 1"},
		{"state file lost, a broken chain and an open one", check, func(f *facts) {
			f.nothing()
			f.own = []ownChain{ownGenesis(genesisID, paymentID, protocol.Unbroken), ownGenesis(lastID, paymentID, protocol.NoRecord)}
		}, "keep 1 of 1"},
		{"state file lost, two open chains", check, func(f *facts) {
			f.nothing()
			f.own = []ownChain{ownGenesis(genesisID, paymentID, protocol.Unbroken), ownGenesis(lastID, paymentID, protocol.Unbroken)}
		}, "error: " + ErrMismatch.Error() + ": the key has made 2 chains"},
		{"another version of the genesis anchor confirmed", publish, func(f *facts) {
			f.unconfirmedGenesis()
			f.own = []ownChain{ownGenesis(genesisID, paymentID, protocol.Unbroken)}
		}, "keep 1 of 1"},
		{"another genesis anchor confirmed", publish, func(f *facts) {
			f.unconfirmedGenesis()
			f.own = []ownChain{ownGenesis(genesisID, pendingID, protocol.Unbroken)}
		}, "error: " + ErrMismatch.Error() + ": STATE names the chain"},
		{"the state file's chain is not there", check, func(f *facts) { f.ours, f.last, f.stored = nil, nil, nil },
			"error: " + ErrMismatch.Error() + ": STATE names the chain"},
		{"the database's chain is not there", check, func(f *facts) { f.nothing(); f.named = genesisID.String() },
			"error: " + ErrMismatch.Error() + ": the keyserver's database names"},
		{"key lost, the database's chain is there", check, func(f *facts) {
			f.nothing()
			f.named, f.namedChain = genesisID.String(), &anchors.Chain{}
		}, "nothing"},

		// A backup from before the first anchor.
		{"no chain there is", check, func(f *facts) { f.nothing() }, "nothing"},
		{"a chain that may be ours", check, func(f *facts) { f.nothing(); f.unclaimed = []unclaimedChain{unclaimed(7, nil)} },
			"error: chains of anchors that may be"},
		{"more chains than were looked at", check, func(f *facts) { f.nothing(); f.more = true }, "error: chains of anchors that may be"},
		{"it is none of them", check, func(f *facts) {
			f.nothing()
			f.unclaimed, f.unanchored = []unclaimedChain{unclaimed(7, nil)}, true
		}, "nothing"},
		{"a chain that may be ours comes later", publish, func(f *facts) {
			f.nothing()
			f.unclaimed, f.first = []unclaimedChain{unclaimed(7, nil)}, false
		}, "error: " + errFunds.Error()},
		{"a chain that may be ours, and one by the key", check, func(f *facts) {
			f.nothing()
			f.unclaimed, f.own = []unclaimedChain{unclaimed(7, nil)}, []ownChain{ownGenesis(genesisID, paymentID, protocol.Unbroken)}
		}, "keep 1 of 1"},
		{"the operator names the chain", check, func(f *facts) {
			f.nothing()
			f.unclaimed = []unclaimedChain{unclaimed(7, nil)}
			f.choice, f.choiceChain = &lastID, &anchors.Chain{ID: lastID, Domain: testDomain}
		}, "name"},
		{"the operator names a chain that is not there", check, func(f *facts) { f.nothing(); f.choice = &lastID },
			"error: " + ErrMismatch.Error() + ": --anchor-chain"},
		{"the operator names a chain of another domain", check, func(f *facts) {
			f.nothing()
			f.choice, f.choiceChain = &lastID, &anchors.Chain{ID: lastID, Domain: "example.net"}
		}, "error: " + ErrMismatch.Error() + ": --anchor-chain"},

		// Keys.
		{"the baton is with nobody here", publish, func(f *facts) { f.last.script = protocol.P2PKHScript(strangersKey) },
			"error: " + ErrMismatch.Error() + ": output 0 of anchor"},
		{"the baton goes to the next key", publish, func(f *facts) { f.keys.next = &nextKey; f.addPending(pendingID, lastID, nextKey) }, "promote"},
		{"the next key is prepared", publish, func(f *facts) { f.keys.next = &nextKey }, "nothing"},
		{"old key, settled", publish, func(f *facts) { f.keys.previous = &previousKey }, "retire"},
		{"old key, settled, the node not asked as of this block", publish, func(f *facts) { f.keys.previous = &previousKey; f.node = nil }, "askNode"},
		{"old key, settled, the node was asked", publish, func(f *facts) { f.keys.previous = &previousKey; f.node, f.asked = nil, f.block }, "nothing"},
		{"old key, not settled", publish, func(f *facts) { f.keys.previous = &previousKey; f.height = 90 + settled - 2 }, "nothing"},
		{"old key, anchors by it alone", publish, func(f *facts) {
			f.keys.previous = &previousKey
			f.confirmed[lastID] = anchors.Status{Height: 90, Author: &previousKey}
		}, "nothing"},
		{"old key, a payment to it", publish, func(f *facts) { f.keys.previous = &previousKey; f.addCoin(f.cost(), previousKey, false) }, "nothing"},
		{"old key, dust to it", publish, func(f *facts) { f.keys.previous = &previousKey; f.addCoin(f.cost()-1, previousKey, true) }, "retire"},
		{"old key, a token to it", publish, func(f *facts) { f.keys.previous = &previousKey; f.addCoin(f.cost(), previousKey, true).HasToken = true }, "retire"},

		// What is kept.
		{"a buried anchor", publish, func(f *facts) {
			f.height = 200
			f.stored = append(f.stored, testAnchor(genesisID, paymentID, currentKey))
			f.confirmed[genesisID] = anchors.Status{Height: 100}
		}, "prune to 1"},
		{"one that is not buried", publish, func(f *facts) {
			f.height = 199
			f.stored = append(f.stored, testAnchor(genesisID, paymentID, currentKey))
			f.confirmed[genesisID] = anchors.Status{Height: 100}
		}, "nothing"},
		{"one that cannot be confirmed", publish, func(f *facts) { f.stored = append(f.stored, testAnchor(pendingID, paymentID, currentKey)) }, "prune to 1"},

		// What the node gets.
		{"not offered yet", publish, func(f *facts) { f.addPending(pendingID, lastID, currentKey) }, "hand 3"},
		{"offered", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID] = offer{block: f.block, at: f.now}
		}, "nothing"},
		{"offered a minute ago", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID] = offer{block: f.block, at: f.now.Add(-offerEvery)}
		}, "hand 3"},
		{"offered before the last block", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID] = offer{at: f.now}
		}, "hand 3"},
		{"the fee refused", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID] = offer{refusal: ErrFee}
		}, "sign position 0, 1 inputs, to 1, rate 2, instead of 3"},
		{"the fee refused, the node not asked", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID], f.node = offer{refusal: ErrFee}, nil
		}, "askNode"},
		{"the highest fee refused", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID], f.pending[0].rate = offer{refusal: ErrFee}, maxRaise
		}, "error: anchor 0000000000000000000000000000000000000000000000000000000000000003 at 32 satoshi per byte: raise --anchor-fee-rate"},
		{"the fee refused, and no funds for more", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID], f.last.value = offer{refusal: ErrFee}, 600
		}, "error: " + errFunds.Error()},
		{"refused, the baton there", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID] = offer{refusal: ErrRefused}
			f.node.unspent[f.last.baton()] = true
		}, "sign position 0, 1 inputs, to 1, rate 1, instead of 3"},
		{"refused, the baton spent", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID] = offer{refusal: ErrRefused}
		}, "error: anchor 0000000000000000000000000000000000000000000000000000000000000003: " + errElsewhere.Error()},
		{"a genesis anchor refused", publish, func(f *facts) {
			f.unconfirmedGenesis()
			f.offers[lastID] = offer{refusal: ErrFee}
			f.node.payer = &protocol.Output{Script: protocol.P2PKHScript(currentKey), Value: 50_000}
		}, "sign position 0, 1 inputs, to 1, rate 2, instead of 2"},
		{"a genesis anchor refused that others pay", publish, func(f *facts) {
			f.unconfirmedGenesis()
			f.offers[lastID] = offer{refusal: ErrFee}
			f.node.payer = &protocol.Output{Script: protocol.P2PKHScript(strangersKey), Value: 50_000}
		}, "error: output 0000000000000000000000000000000000000000000000000000000000000004:0, which the genesis anchor spends"},

		// When the next is due.
		{"no funds", publish, func(f *facts) { f.nothing(); f.first = false }, "error: " + errFunds.Error()},
		{"the first", publish, func(f *facts) {
			f.nothing()
			f.first = false
			f.addCoin(50_000, currentKey, true)
		}, "sign position 0, 1 inputs, to 1, rate 1"},
		{"an unconfirmed payment", publish, func(f *facts) {
			f.nothing()
			f.first = false
			f.addCoin(50_000, currentKey, false)
		}, "error: " + errFunds.Error()},
		{"an entry", publish, func(f *facts) { f.head.Size = 2 }, "nothing"},
		{"an entry, the interval over", publish, func(f *facts) { f.head.Size, f.now = 2, f.now.Add(time.Hour) }, "sign position 1, 1 inputs, to 1, rate 1"},
		{"an entry, the clock set back", publish, func(f *facts) { f.head.Size, f.now, f.counted = 2, f.now.Add(-1), f.now.Add(-1) }, "sign position 1, 1 inputs, to 1, rate 1"},
		{"many entries", publish, func(f *facts) { f.head.Size = 11 }, "sign position 10, 1 inputs, to 1, rate 1"},
		{"a heartbeat", publish, func(f *facts) { f.time = f.time.Add(24 * time.Hour) }, "sign position 0, 1 inputs, to 1, rate 1"},
		{"a heartbeat, a second early", publish, func(f *facts) { f.time = f.time.Add(24*time.Hour - 1) }, "nothing"},
		{"a heartbeat by the clock alone", publish, func(f *facts) { f.now = f.now.Add(48 * time.Hour); f.counted = f.now }, "nothing"},
		{"a heartbeat, made unknown", publish, func(f *facts) { f.last.made = time.Time{} }, "nothing"},
		{"a heartbeat, an anchor unconfirmed", publish, func(f *facts) {
			f.addPending(pendingID, lastID, currentKey)
			f.offers[pendingID], f.time = offer{block: f.block, at: f.now}, f.time.Add(24*time.Hour)
		}, "nothing"},
		{"the node not asked", publish, func(f *facts) { f.head.Size, f.node = 11, nil }, "askNode"},
		{"top-ups", publish, func(f *facts) {
			f.head.Size = 11
			f.addCoin(1000, currentKey, true)
			f.addCoin(1000, currentKey, false)
			f.addCoin(1000, currentKey, true).HasToken = true
			f.addCoin(1000, currentKey, true).anchor = testAnchor(pendingID, paymentID, currentKey)
			f.addCoin(1000, currentKey, true).examined = false
			f.addCoin(protocol.P2PKHInputSize, currentKey, true)
			f.addCoin(100_000, currentKey, true).OutPoint = f.last.baton()
		}, "sign position 10, 2 inputs, to 1, rate 1"},
		{"the baton is empty", publish, func(f *facts) { f.head.Size, f.last.value = 11, 600 }, "error: " + errFunds.Error()},
		{"the baton is spent", publish, func(f *facts) { f.head.Size, f.node.spent = 11, true }, "error: anchor"},
		{"the baton is spent, at the start", check, func(f *facts) { f.node.spent = true }, "error: anchor"},
		{"crowded", publish, func(f *facts) {
			f.head.Size = 11
			for i := range MaxUnconfirmed {
				f.addPending(chainhash.Hash{50, byte(i)}, f.tail().txid, currentKey)
				f.offers[f.tail().txid] = offer{block: f.block, at: f.now}
			}
		}, "error: " + errCrowded.Error()},
		{"broken", publish, func(f *facts) { f.ours.Break = protocol.NoRecord }, "error: " + errBroken.Error()},
		{"broken, at the start", check, func(f *facts) { f.ours.Break = protocol.NoRecord }, "nothing"},

		// A new key.
		{"hand on, no anchor", handOn, func(f *facts) { f.nothing() }, "error: there is no anchor yet"},
		{"hand on, broken", handOn, func(f *facts) { f.ours.Break = protocol.NoRecord }, "error: " + errBroken.Error()},
		{"hand on, not settled", handOn, func(f *facts) { f.keys.previous, f.height = &previousKey, 91 }, "error: the last change of the key"},
		{"hand on, offer first", handOn, func(f *facts) { f.addPending(pendingID, lastID, currentKey) }, "hand 3"},
		{"hand on, no key", handOn, func(*facts) {}, "prepare"},
		{"hand on", handOn, func(f *facts) { f.keys.next = &nextKey }, "sign position 0, 1 inputs, to 2, rate 1"},
	} {
		f := testFacts()
		test.change(f)
		if got := describe(test.decide(f)); !strings.HasPrefix(got, test.want) || test.want == "nothing" && got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestWhoseChain judges genesis anchors by others beside the hashchain.
func TestWhoseChain(t *testing.T) {
	have := hashchain.Chain{Size: 1, Head: hashchain.Hash{1}, Edge: []hashchain.Hash{{1}}}
	same := protocol.Anchor{Head: have.Head, Root: have.Root()}
	later := same
	later.Position = 5
	for _, test := range []struct {
		name            string
		c               commitment
		agrees, foreign bool
	}{
		{"the same entry 0", commitment{Anchor: same, have: &have}, true, false},
		{"another entry 0", commitment{Anchor: protocol.Anchor{Head: have.Head}, have: &have}, false, true},
		{"agrees later on", commitment{Anchor: later, have: &have}, true, false},
		{"contradicts later on", commitment{Anchor: protocol.Anchor{Position: 5}, have: &have}, false, false},
		{"ahead", commitment{Anchor: later}, false, false},
	} {
		if test.c.agrees() != test.agrees || test.c.foreign() != test.foreign {
			t.Errorf("%s: agrees %v, foreign %v", test.name, test.c.agrees(), test.c.foreign())
		}
	}
}

// TestLine judges anchors that a node tells of.
func TestLine(t *testing.T) {
	private, err := bchec.NewPrivateKey(bchec.S256())
	if err != nil {
		t.Fatal(err)
	}
	own := newKey(private)
	ring := &keyring{current: own}
	record := protocol.Anchor{Domain: testDomain}
	if _, err := rand.Read(record.Head[:]); err != nil {
		t.Fatal(err)
	}
	spend := func(spends wire.OutPoint, value int64) link {
		d := draft{record: record, spends: []protocol.UTXO{{OutPoint: spends, Value: value, Script: protocol.P2PKHScript(own.hash)}}, to: own.hash, rate: 1}
		raw, err := d.sign(ring)
		if err != nil {
			t.Fatal(err)
		}
		a, err := readSigned(raw, time.Time{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return link{a, protocol.Output{Value: value, Script: protocol.P2PKHScript(own.hash)}}
	}
	tail := spend(wire.OutPoint{Hash: paymentID}, 100_000)
	first := spend(tail.baton(), tail.value)
	second := spend(first.baton(), first.value)
	unsigned := first
	unsigned.from.Value++
	for _, test := range []struct {
		name string
		line line
		tail *signed
		keys holders
		want []*signed
	}{
		{"behind the tail", line{first}, tail.signed, ring.holders(), []*signed{first.signed}},
		{"two behind the tail", line{second, first}, tail.signed, ring.holders(), []*signed{first.signed, second.signed}},
		{"all of it", line{second, first, tail}, nil, ring.holders(), []*signed{tail.signed, first.signed, second.signed}},
		{"the middle not signed", line{second, unsigned}, tail.signed, ring.holders(), nil},
		{"genesis", line{tail}, nil, ring.holders(), []*signed{tail.signed}},
		{"genesis by another key", line{tail}, nil, holders{current: &strangersKey}, nil},
		{"not from the tail", line{tail}, first.signed, ring.holders(), nil},
		{"the tail itself", line{tail}, tail.signed, ring.holders(), nil},
		{"not signed", line{unsigned}, tail.signed, ring.holders(), nil},
		{"empty", nil, tail.signed, ring.holders(), nil},
	} {
		if got := test.line.after(test.tail, &facts{keys: test.keys}); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	f := testFacts()
	f.nothing()
	f.keys, f.node.lines = ring.holders(), []line{{tail}}
	d, err := f.check()
	if k, ok := d.(keep); err != nil || !ok || *k.genesis != tail.txid {
		t.Errorf("recovered %v, %v", d, err)
	}
	f.node.lines = nil
	if d, err := f.check(); d != nil || err != nil {
		t.Errorf("with nothing to recover: %v, %v", d, err)
	}
	if !errors.Is((&draft{record: record, rate: 1}).affordable(), errFunds) {
		t.Error("an anchor without inputs is affordable")
	}
}
