// Package electrum asks an Electrum server, such as Fulcrum or ElectrumX, what an address
// can spend, and hands transactions to it. It speaks the Electrum Cash Protocol
// (https://electrum-cash-protocol.readthedocs.io), 1.4.5 to 1.5, over TCP or TLS.
//
// The server is trusted with nothing: a transaction is checked against its txid, and what
// else it tells can only lead to a transaction that the network refuses. What never belongs
// here: which coins may be spent, and keys.
package electrum

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// URLForm is what ParseURL takes: electrums is TLS. Without cert the server's certificate
// is one that this system trusts.
const URLForm = "electrum://HOST:PORT or electrums://HOST:PORT, optionally with cert=FILE"

// The protocol versions that are spoken, the lowest and the highest.
const (
	minVersion = "1.4.5"
	maxVersion = "1.5"
)

// Config says how to reach a server.
type Config struct {
	Address string // HOST:PORT
	// TLS says that the server speaks it. CertFile is then a PEM file with the certificate
	// to trust, usually the server's own; empty: the system's certificate authorities.
	TLS      bool
	CertFile string
	// Network is the one that the server has to be on.
	Network *chaincfg.Params
	// RetryFor is how long one call goes on trying while the server does not answer; 0
	// means reach.RetryFor.
	RetryFor time.Duration
	// Log hears about waiting.
	Log zerolog.Logger
}

// ParseURL reads a URL of the form URLForm. The fields without a part in it are left to the
// caller.
func ParseURL(s string) (Config, error) {
	form := reach.URLForm{
		Text: URLForm, Schemes: []string{"electrum", "electrums"}, Keys: []string{"cert"},
		PutSecret: "an Electrum server asks for none",
	}
	u, err := form.Parse(s)
	if err != nil {
		return Config{}, err
	}
	cfg := Config{Address: u.Address, TLS: u.Scheme == "electrums", CertFile: u.Query.Get("cert")}
	if cfg.CertFile != "" && !cfg.TLS {
		return Config{}, form.Refuse("has a certificate, which goes with electrums")
	}
	return cfg, nil
}

func (cfg Config) tls() (*tls.Config, error) {
	config, err := reach.TLS(cfg.CertFile, "a copy of the Electrum server's")
	if err == nil {
		config.ServerName, _, err = net.SplitHostPort(cfg.Address)
	}
	return config, err
}

// Client is a connection to one server. It reconnects by itself. All methods may be called
// concurrently, Close once and last. Errors are those of package node.
type Client struct {
	cfg  Config
	turn chan struct{} // holds a value while a question is asked, of which there is one at a time
	conn *conn         // turn; nil: none

	closing context.Context // ends with Close
	close   context.CancelFunc
}

// Dial connects to a server and returns when it has answered and is on the network. It
// waits for one that does not answer yet, saying so in the log, until ctx ends.
// node.ErrUnsuitable of a server of another network, of one that speaks none of the
// versions, and for a certificate that does not verify.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Network == nil {
		return nil, errors.New("electrum.Config: Network is missing")
	}
	if err := reach.CheckAddress(cfg.Address); err != nil {
		return nil, err
	}
	if _, err := cfg.tls(); err != nil {
		return nil, err
	}
	if cfg.RetryFor == 0 {
		cfg.RetryFor = reach.RetryFor
	}
	c := &Client{cfg: cfg, turn: make(chan struct{}, 1)}
	c.closing, c.close = context.WithCancel(context.Background())
	err := reach.Wait(ctx, cfg.Log.With().Str("electrum", cfg.Address).Logger(), func(ctx context.Context) error {
		return c.once(ctx, new(any), "server.ping")
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends the connection and all calls.
func (c *Client) Close() error {
	c.close()
	c.turn <- struct{}{} // for good
	c.hangUp()
	return nil
}

// UnspentOutput is an output that an address can spend, by the server's word.
type UnspentOutput struct {
	OutPoint wire.OutPoint
	Value    int64  // satoshi
	Height   uint32 // of its block; 0 while unconfirmed
}

// UnspentOutputs returns the outputs without tokens to an address (CashAddr) that neither
// chain nor mempool spends, those of coinbases that are not mature yet among them.
func (c *Client) UnspentOutputs(ctx context.Context, address string) ([]UnspentOutput, error) {
	var listed []struct {
		TxHash string `json:"tx_hash"`
		TxPos  uint32 `json:"tx_pos"`
		Value  int64
		Height int64
	}
	err := c.callBy(ctx, &listed, func(v version) (string, []any) {
		if v == v14 { // which leaves out tokens, and knows no filter
			return "blockchain.address.listunspent", []any{address}
		}
		return "blockchain.address.listunspent", []any{address, "exclude_tokens"}
	})
	if err != nil {
		return nil, err
	}
	outputs := make([]UnspentOutput, 0, len(listed))
	seen := make(map[wire.OutPoint]bool, len(listed))
	for _, l := range listed {
		hash, err := parseHash(l.TxHash)
		if err == nil && (l.Height > math.MaxInt32 || l.Height < -1) {
			err = fmt.Errorf("%w: an output at height %d", node.ErrInvalid, l.Height)
		}
		if err != nil {
			return nil, c.named("outputs of "+address, err)
		}
		out := wire.OutPoint{Hash: hash, Index: l.TxPos}
		if seen[out] { // it was mined while the server answered
			continue
		}
		seen[out] = true
		outputs = append(outputs, UnspentOutput{OutPoint: out, Value: l.Value, Height: uint32(max(0, l.Height))})
	}
	return outputs, nil
}

// Height returns the height of the server's last block.
func (c *Client) Height(ctx context.Context) (uint32, error) {
	var tip struct{ Height *uint32 }
	err := c.callBy(ctx, &tip, func(v version) (string, []any) {
		if v == v14 {
			return "blockchain.headers.subscribe", nil
		}
		return "blockchain.headers.get_tip", nil
	})
	if err == nil && (tip.Height == nil || *tip.Height > math.MaxInt32) {
		err = c.named("tip", fmt.Errorf("%w: expected a height up to %d", node.ErrInvalid, math.MaxInt32))
	}
	if err != nil {
		return 0, err
	}
	return *tip.Height, nil
}

// Unspent reports whether an output is there, in the chain or the mempool, and spent in
// neither. It is the server's word alone.
func (c *Client) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	var found *struct{} // null where there is no such output
	err := c.call(ctx, &found, "blockchain.utxo.get_info", out.Hash.String(), out.Index)
	return found != nil, err
}

// Transaction returns a transaction of the chain or the mempool, whose txid has been
// checked. node.ErrNotFound if there is none.
func (c *Client) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	var text string
	if err := c.call(ctx, &text, "blockchain.transaction.get", txid.String()); err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(text)
	if err == nil && chainhash.DoubleHashH(raw) != txid {
		err = fmt.Errorf("it sent transaction %v", chainhash.DoubleHashH(raw))
	}
	if err != nil {
		return nil, c.named(fmt.Sprintf("transaction %v", txid), fmt.Errorf("%w: %w", node.ErrInvalid, err))
	}
	return raw, nil
}

// Submit hands a serialized transaction to the server, which passes it on to the network.
// What it does not take is node.ErrRejected, or node.ErrFee; one that it has already, in
// the mempool or in a block, is taken.
func (c *Client) Submit(ctx context.Context, raw []byte) error {
	txid := chainhash.DoubleHashH(raw)
	var answer string
	err := c.call(ctx, &answer, "blockchain.transaction.broadcast", hex.EncodeToString(raw))
	if errors.Is(err, node.ErrRejected) {
		// It may be there already: servers pass on, in words of their own, what a node
		// says of that.
		if _, lookup := c.Transaction(ctx, txid); lookup == nil {
			return nil
		}
		if strings.Contains(err.Error(), "min relay fee not met") || strings.Contains(err.Error(), "mempool min fee not met") {
			return fmt.Errorf("%w: %w", node.ErrFee, err)
		}
	}
	if err == nil && answer != txid.String() {
		return c.named(fmt.Sprintf("submitting transaction %v", txid), fmt.Errorf("%w: it took a transaction %.80q", node.ErrInvalid, answer))
	}
	return err
}

// named says in an error which server it was, and what was asked for.
func (c *Client) named(what string, err error) error {
	return fmt.Errorf("electrum server at %s: %s: %w", c.cfg.Address, what, err)
}

// parseHash reads a hash in display order, which chainhash would also take when it is too
// short.
func parseHash(s string) (chainhash.Hash, error) {
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil || len(s) != chainhash.MaxHashStringSize {
		return chainhash.Hash{}, fmt.Errorf("%w: expected a hash of %d hex characters, got %.80q", node.ErrInvalid, chainhash.MaxHashStringSize, s)
	}
	return *hash, nil
}
