package anchor

import (
	"context"
	"errors"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol"
)

// Hashchain is what is anchored. Its methods may be called concurrently.
type Hashchain interface {
	// Chain returns the present state, all of which is on disk.
	Chain() hashchain.Chain
	// ChainAt returns the state after the first size entries.
	ChainAt(ctx context.Context, size uint64) (hashchain.Chain, error)
	// SetAnchorChain hears the txid of the genesis anchor, as it is displayed, whenever
	// it is known to be confirmed, and keeps it together with the hashchain.
	SetAnchorChain(ctx context.Context, name string) error
	// AnchorChain returns what SetAnchorChain heard last; "" if it never did.
	AnchorChain() string
	// Unanchored reports whether the operator has said that no chain of anchors which he
	// does not have the key of is this hashchain's.
	Unanchored() bool
}

// Chain is the index of the anchors that are confirmed.
type Chain interface {
	// View opens the index as of the end of the chain, and fails with ErrBehind while
	// that is not the node's. The caller closes the view.
	View() (View, error)
	// Changed returns a channel that is closed when the chain has changed after the call.
	Changed() <-chan struct{}
}

// View is what graph.View says of anchors as of one block. After a reorganisation its
// methods may fail: open another one.
type View interface {
	Height() uint32
	Hash() chainhash.Hash
	// Time is that in the header of the last block.
	Time() time.Time
	AnchorChain(id chainhash.Hash) (anchors.Chain, error)
	AnchorChainsOf(ctx context.Context, domain string, after *store.Position, limit int) ([]anchors.Chain, *store.Position, error)
	Anchors(ctx context.Context, chain chainhash.Hash, from uint32, limit int) ([]anchors.Status, error)
	Anchor(txid chainhash.Hash) (anchors.Status, error)
	AnchorProof(txid chainhash.Hash) (anchors.Proof, error)
	Close()
}

// Coin is an unspent output to a key.
type Coin struct {
	protocol.UTXO
	Confirmed bool // and mature
}

// Node is where transactions go. Errors that wrap none of those below are passing
// ones: it is asked again.
type Node interface {
	// Coins returns the outputs to a key that neither chain nor mempool spends.
	Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error)
	// Unspent reports whether an output is there, in the chain or the mempool, and
	// spent in neither.
	Unspent(ctx context.Context, out wire.OutPoint) (bool, error)
	// Transaction returns a transaction of the chain or the mempool, whose txid has
	// been checked. ErrUnknown if there is none.
	Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error)
	// Submit hands in a transaction; one that it has already is taken. ErrFee if it
	// wants a higher fee, ErrRefused if it does not take it for another reason.
	Submit(ctx context.Context, raw []byte) error
}

var (
	// ErrBehind says that the index is not at the end of the node's chain yet. Wait.
	ErrBehind = errors.New("the index has not caught up with the node")
	// ErrUnknown says that a node does not know a transaction.
	ErrUnknown = errors.New("not known to the node")
	// ErrFee says that a node wants a higher fee.
	ErrFee = errors.New("fee too low")
	// ErrRefused says that a node does not take a transaction.
	ErrRefused = errors.New("transaction refused")
)

// Why a publisher cannot go on. Nothing is anchored any more, and the keyserver must
// not be served.
var (
	// ErrAhead says that an anchor commits to entries that the hashchain does not have:
	// it is that of an older backup. Restore a newer one.
	ErrAhead = errors.New("an anchor is ahead of the hashchain")
	// ErrContradicts says that an anchor commits to another hashchain: this one is not
	// what was anchored.
	ErrContradicts = errors.New("an anchor contradicts the hashchain")
	// ErrUndecided says that there are chains of anchors for the domain that may be this
	// hashchain's, which nothing here tells. The message lists them: see
	// Options.AnchorChain.
	ErrUndecided = errors.New("chains of anchors that may be this keyserver's")
	// ErrMismatch says that state file, key file, chain and options do not belong
	// together. The message says what to correct.
	ErrMismatch = errors.New("anchors, key and state do not belong together")
	// ErrUnsuitable says that the node cannot do what is needed. The message says what
	// to switch on.
	ErrUnsuitable = errors.New("node unsuitable for anchoring")
)

func isFinal(err error) bool {
	return errors.Is(err, ErrAhead) || errors.Is(err, ErrContradicts) || errors.Is(err, ErrMismatch) ||
		errors.Is(err, ErrUndecided) || errors.Is(err, ErrUnsuitable) || errors.Is(err, errDisk)
}
