package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a node that holds its chain in memory. Each of its lies, if not nil, changes
// an answer.
type memory struct {
	Node
	lies
	closed  chan struct{}
	changes chan struct{}
}

type lies struct {
	tip      func(*node.Tip)
	hash     func(height uint32, err *error)
	headers  func(height, want uint32, headers *[]protocol.Header, err *error)
	block    func(raw *[]byte, err *error)
	spent    func([]node.Spent)
	previous func(protocol.Tx)
}

func newMemory(n Node, l lies) *memory {
	return &memory{n, l, make(chan struct{}), make(chan struct{})}
}

func (m *memory) Close() error {
	close(m.closed)
	close(m.changes)
	return nil
}

func (m *memory) Changes() <-chan struct{} { return m.changes }

func (m *memory) ended(ctx context.Context) error {
	select {
	case <-m.closed:
		return node.ErrUnavailable
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", node.ErrUnavailable, context.Cause(ctx))
	default:
		return nil
	}
}

func (m *memory) Tip(ctx context.Context) (node.Tip, error) {
	height := m.Chain.Height()
	tip := node.Tip{Height: height, Hash: m.Chain.Hash(height), Headers: height, Peers: node.Untold}
	if m.tip != nil {
		m.tip(&tip)
	}
	return tip, m.ended(ctx)
}

func (m *memory) BlockHash(ctx context.Context, height uint32) (hash chainhash.Hash, err error) {
	if height > m.Chain.Height() {
		err = node.ErrNotFound
	} else {
		hash = m.Chain.Hash(height)
	}
	if m.hash != nil {
		m.hash(height, &err)
	}
	return hash, errors.Join(err, m.ended(ctx))
}

func (m *memory) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) (headers []protocol.Header, err error) {
	for height := uint64(height) + 1; height <= uint64(m.Chain.Height()) && len(headers) < int(min(want, 10)); height++ {
		header, err := protocol.ParseHeader(m.Chain.Raw(uint32(height)))
		check(err)
		headers = append(headers, header)
	}
	if after != m.Chain.Hash(height) || len(headers) == 0 {
		headers, err = nil, node.ErrNotFound
	}
	if m.headers != nil {
		m.headers(height, want, &headers, &err)
	}
	return headers, errors.Join(err, m.ended(ctx))
}

func (m *memory) Block(ctx context.Context, hash chainhash.Hash) (raw []byte, err error) {
	height, ok := m.find(hash)
	switch {
	case !ok:
		err = node.ErrNotFound
	case height < m.Pruned:
		err = node.ErrUnsuitable
	default:
		raw = m.Chain.Raw(height)
	}
	if m.block != nil {
		m.block(&raw, &err)
	}
	return raw, errors.Join(err, m.ended(ctx))
}

func (m *memory) find(hash chainhash.Hash) (height uint32, ok bool) {
	at := slices.IndexFunc(m.Chain.blocks, func(b *wire.MsgBlock) bool { return b.BlockHash() == hash })
	return uint32(at), at >= 0
}

func (m *memory) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) (spent []node.Spent, err error) {
	for _, spender := range by {
		if m.Index {
			spender.Inputs = spender.Inputs[:1]
		}
		s := node.Spent{Proven: m.Index}
		for _, out := range spender.Inputs {
			made, ok := m.Chain.made[out]
			if !ok {
				return nil, errors.Join(node.ErrNotFound, m.ended(ctx))
			}
			made.output.Script = bytes.Clone(made.output.Script)
			s.Outputs = append(s.Outputs, made.output)
		}
		spent = append(spent, s)
	}
	if m.spent != nil {
		m.spent(spent)
	}
	return spent, m.ended(ctx)
}

func (m *memory) Previous(ctx context.Context, _, _ chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	made, ok := m.Chain.made[out]
	if !ok || made.height < m.Pruned {
		return nil, errors.Join(node.ErrNotFound, m.ended(ctx))
	}
	txs := m.Chain.blocks[made.height].Transactions
	at := slices.IndexFunc(txs, func(tx *wire.MsgTx) bool { return tx.TxHash() == out.Hash })
	raw := serialize(txs[at])
	if m.previous != nil {
		m.previous(raw)
	}
	return raw, m.ended(ctx)
}

// TestRun runs the suite on nodes without fault.
func TestRun(t *testing.T) {
	chain, _ := NewChain()
	for name, n := range map[string]Node{
		"index":  {Chain: chain, Index: true},
		"undo":   {Chain: chain},
		"pruned": {Chain: chain, Pruned: TokensFrom},
	} {
		t.Run(name, func(t *testing.T) {
			n.Dial = func(*testing.T) Client { return newMemory(n, lies{}) }
			Run(t, n)
		})
	}
}

// TestNotices has nodes each of which breaks one promise.
func TestNotices(t *testing.T) {
	chain, _ := NewChain()
	height := chain.Height()
	last := func(spent []node.Spent) *protocol.Output {
		outputs := spent[len(spent)-1].Outputs
		return &outputs[len(outputs)-1]
	}
	kept, shared := chain.Raw(height), chain.Raw(height)
	for name, test := range map[string]struct {
		promise string
		lies
	}{
		"tip too low":       {"Tip", lies{tip: func(tip *node.Tip) { tip.Height-- }}},
		"tip of another":    {"Tip", lies{tip: func(tip *node.Tip) { tip.Hash[0]++ }}},
		"tip of nothing":    {"Tip", lies{tip: func(tip *node.Tip) { tip.Headers = 0 }}},
		"tip of a download": {"Tip", lies{tip: func(tip *node.Tip) { tip.Downloading = true }}},
		"height unknown": {"BlockHash", lies{hash: func(h uint32, err *error) {
			if h == height {
				*err = node.ErrNotFound
			}
		}}},
		"height that does not exist": {"BlockHash", lies{hash: func(h uint32, err *error) { *err = nil }}},
		"height of 31 bits": {"BlockHash", lies{hash: func(h uint32, err *error) {
			if h > 1<<31 {
				*err = node.ErrInvalid
			}
		}}},
		"headers left out": {"Headers", lies{headers: func(_, _ uint32, headers *[]protocol.Header, _ *error) {
			*headers = (*headers)[min(1, len(*headers)):]
		}}},
		"header changed": {"Headers", lies{headers: func(_, want uint32, headers *[]protocol.Header, _ *error) {
			if len(*headers) == 3 {
				(*headers)[2].Time++
			}
		}}},
		"headers not wanted": {"Headers", lies{headers: func(_, want uint32, headers *[]protocol.Header, err *error) {
			if len(*headers) == int(want) {
				*headers = append(*headers, (*headers)[0])
			}
		}}},
		"no headers behind the tip": {"Headers", lies{headers: func(_, _ uint32, headers *[]protocol.Header, err *error) { *err = nil }}},
		"block unknown": {"Block", lies{block: func(raw *[]byte, err *error) {
			if bytes.Equal(*raw, kept) {
				*err = node.ErrNotFound
			}
		}}},
		"block that does not exist": {"Block", lies{block: func(_ *[]byte, err *error) { *err = nil }}},
		"block too long":            {"Block", lies{block: func(raw *[]byte, _ *error) { *raw = append(*raw, 0) }}},
		"block shared": {"Block", lies{block: func(raw *[]byte, _ *error) {
			if bytes.Equal(*raw, kept) {
				*raw = shared
			}
		}}},
		"a satoshi less":        {"Spent", lies{spent: func(s []node.Spent) { last(s).Value-- }}},
		"script without tokens": {"Spent", lies{spent: func(s []node.Spent) { last(s).Script = protocol.StripTokenPrefix(last(s).Script) }}},
		"another order":         {"Spent", lies{spent: func(s []node.Spent) { slices.Reverse(s) }}},
		"proven without index":  {"Spent", lies{spent: func(s []node.Spent) { s[0].Proven = true }}},
		"input 0 alone":         {"Spent", lies{spent: func(s []node.Spent) { s[0].Outputs = s[0].Outputs[:1] }}},
		"another transaction":   {"Previous", lies{previous: func(tx protocol.Tx) { tx[0]++ }}},
	} {
		t.Run(name, func(t *testing.T) {
			n := Node{Chain: chain}
			m := newMemory(n, test.lies)
			for _, p := range n.promises() {
				err := p.check(t.Context(), m)
				if err == nil && test.block != nil {
					err = p.check(t.Context(), m) // what was handed out has been changed
				}
				if (err != nil) != (p.what == test.promise) {
					t.Errorf("%s: %v", p.what, err)
				}
			}
		})
	}
}

// TestNewChain looks for what the suite relies on.
func TestNewChain(t *testing.T) {
	chain, _ := NewChain()
	if again, _ := NewChain(); again.Hash(again.Height()) != chain.Hash(chain.Height()) {
		t.Error("it is another chain each time")
	}
	found := make(map[string]int)
	for height := range chain.Height() + 1 {
		block, err := protocol.ReadBlock(chain.Raw(height))
		if err == nil {
			err = block.CheckMerkleRoot()
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(chain.spendings(height)) >= 16 {
			found["block with many spending transactions"]++
		}
		for _, s := range chain.spendings(height) {
			for i, output := range s.spent {
				made := chain.made[s.tx.TxIn[i].PreviousOutPoint]
				if made.height == height {
					found["spends what its block makes"]++
				}
				if protocol.HasTokenPrefix(output.Script) && height < TokensFrom {
					t.Errorf("block %d spends tokens", height)
				}
				if protocol.HasTokenPrefix(output.Script) && i == 0 {
					found["tokens in input 0"]++
				}
			}
			if len(s.spent) >= 40 {
				found["many inputs"]++
			}
			tx, err := protocol.ParseTx(serialize(s.tx))
			if err != nil {
				t.Fatal(err)
			}
			claim, ok := tx.Claim()
			if !ok {
				t.Errorf("block %d: transaction %v claims nothing", height, s.tx.TxHash())
			} else if !claim.HeldBy(s.spent[0].Script) {
				found["false claim"]++
			} else if len(claim.Inputs) > 1 {
				found["signature over all that is spent"]++
			}
		}
	}
	for _, what := range []string{
		"block with many spending transactions", "spends what its block makes", "tokens in input 0", "many inputs", "false claim",
		"signature over all that is spent",
	} {
		if found[what] == 0 {
			t.Errorf("the chain has no %s", what)
		}
	}
}
