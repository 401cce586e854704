package indexer_test

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// wordNode answers as a BCHN without an index of transactions does: what a
// transaction spends is its word, and it finds the previous transactions in its
// blocks unless it has pruned them.
type wordNode struct {
	*fakeNode
	txs    map[chainhash.Hash]protocol.Tx // of all blocks; never changes
	pruned bool

	asks   sync.Mutex
	proved map[chainhash.Hash]int // asks; how often it was asked for a previous transaction of each
}

// Spent implements node.Node.
func (n *wordNode) Spent(ctx context.Context, _ chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	if err := n.wait(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	spent := make([]node.Spent, len(by))
	for i := range by {
		for _, in := range by[i].Inputs {
			output, ok := n.spent[in]
			if !ok {
				return nil, fmt.Errorf("%w: output %v", node.ErrNotFound, in)
			}
			spent[i].Outputs = append(spent[i].Outputs, output)
		}
	}
	return spent, nil
}

// Previous implements node.Node.
func (n *wordNode) Previous(_ context.Context, _, spender chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	n.asks.Lock()
	n.proved[spender]++
	n.asks.Unlock()
	tx, ok := n.txs[out.Hash]
	if !ok || n.pruned {
		return nil, fmt.Errorf("%w: transaction %v", node.ErrNotFound, out.Hash)
	}
	return tx, nil
}

// asked returns the transactions of which it was asked for a previous one, and how
// often.
func (n *wordNode) asked() map[chainhash.Hash]int {
	n.asks.Lock()
	defer n.asks.Unlock()
	return maps.Clone(n.proved)
}

// liar changes answers of another node, in one place or many. A nil field leaves
// them as they are.
type liar struct {
	node.Node
	onTip      func(node.Tip) (node.Tip, error)
	onHash     func(height uint32, hash chainhash.Hash) (chainhash.Hash, error)
	onHeaders  func(height uint32, headers []protocol.Header) ([]protocol.Header, error)
	onBlock    func(hash chainhash.Hash, raw []byte) ([]byte, error)
	onSpent    func(by []node.Spender, spent []node.Spent) ([]node.Spent, error)
	onPrevious func(spender chainhash.Hash, out wire.OutPoint, tx protocol.Tx) (protocol.Tx, error)
}

// Tip implements node.Node.
func (l *liar) Tip(ctx context.Context) (node.Tip, error) {
	tip, err := l.Node.Tip(ctx)
	if err != nil || l.onTip == nil {
		return tip, err
	}
	return l.onTip(tip)
}

// BlockHash implements node.Node.
func (l *liar) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	hash, err := l.Node.BlockHash(ctx, height)
	if err != nil || l.onHash == nil {
		return hash, err
	}
	return l.onHash(height, hash)
}

// Headers implements node.Node. That there is one at least, adapters see to.
func (l *liar) Headers(ctx context.Context, after chainhash.Hash, height, want uint32) ([]protocol.Header, error) {
	headers, err := l.Node.Headers(ctx, after, height, want)
	if err == nil && l.onHeaders != nil {
		headers, err = l.onHeaders(height, headers)
	}
	if err == nil && len(headers) == 0 {
		err = node.ErrNotFound
	}
	return headers, err
}

// Block implements node.Node.
func (l *liar) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	raw, err := l.Node.Block(ctx, hash)
	if err != nil || l.onBlock == nil {
		return raw, err
	}
	return l.onBlock(hash, raw)
}

// Spent implements node.Node.
func (l *liar) Spent(ctx context.Context, block chainhash.Hash, by []node.Spender) ([]node.Spent, error) {
	spent, err := l.Node.Spent(ctx, block, by)
	if err != nil || l.onSpent == nil {
		return spent, err
	}
	return l.onSpent(by, spent)
}

// Previous implements node.Node.
func (l *liar) Previous(ctx context.Context, block, spender chainhash.Hash, out wire.OutPoint) (protocol.Tx, error) {
	tx, err := l.Node.Previous(ctx, block, spender, out)
	if err != nil || l.onPrevious == nil {
		return tx, err
	}
	return l.onPrevious(spender, out, tx)
}
