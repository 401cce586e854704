package coinstest

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// ElectrumServer is an Electrum server as the text of the protocol describes one
// (https://electrum-cash-protocol.readthedocs.io), for what keytree asks. It answers from
// another source of coins, and, asked to, lies. Its fields are set before Serve.
type ElectrumServer struct {
	Of     Access
	Height func(ctx context.Context) (uint32, error)
	// Version is the protocol's that it speaks, 1.5.2 for example.
	Version string
	// Genesis is the hash of its chain's first block.
	Genesis string
	TLS     *tls.Config // nil: plain TCP
	// Instead, if not nil, may change an answer, which is an error if it is one.
	Instead func(method string, answer any) any
	// Chatty has it send notifications before each answer.
	Chatty bool
}

// Serve answers until the test ends, and returns HOST:PORT.
func (s *ElectrumServer) Serve(t *testing.T) string {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	address := listener.Addr().String()
	if s.TLS != nil {
		listener = tls.NewListener(listener, s.TLS)
	}
	if s.Genesis == "" {
		s.Genesis = regtest.Params.GenesisHash.String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		listener.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				defer conn.Close()
				(&electrumConn{server: s}).serve(ctx, conn)
			})
		}
	})
	return address
}

// electrumConn is one client's connection.
type electrumConn struct {
	server *ElectrumServer
	v15    bool
	agreed bool
}

// electrumError is what JSON-RPC answers in place of a result.
type electrumError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (c *electrumConn) serve(ctx context.Context, conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 4<<20)
	out := json.NewEncoder(conn) // which ends each message with a newline
	for lines.Scan() {
		var question struct {
			ID     int
			Method string
			Params []json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &question); err != nil {
			return
		}
		if c.server.Chatty {
			_ = out.Encode(map[string]any{"jsonrpc": "2.0", "method": "blockchain.headers.subscribe", "params": []any{map[string]any{"height": 7}}})
		}
		answer := c.answer(ctx, question.Method, question.Params)
		if c.server.Instead != nil {
			answer = c.server.Instead(question.Method, answer)
		}
		message := map[string]any{"jsonrpc": "2.0", "id": question.ID, "result": answer}
		if refused, ok := answer.(*electrumError); ok {
			delete(message, "result")
			message["error"] = refused
		}
		if out.Encode(message) != nil {
			return
		}
	}
}

// Refuse is an answer for ElectrumServer.Instead.
func Refuse(code int, message string) any { return &electrumError{code, message} }

func (c *electrumConn) answer(ctx context.Context, method string, params []json.RawMessage) any {
	text := func(i int) (s string) {
		if i < len(params) {
			_ = json.Unmarshal(params[i], &s)
		}
		return s
	}
	// Only the first server.version is accepted, and has to be the first of all.
	if (method == "server.version") == c.agreed {
		return Refuse(1, "bad time for "+method)
	}
	switch method {
	case "server.version":
		var wanted [2]string
		if len(params) != 2 || json.Unmarshal(params[1], &wanted) != nil || wanted != [2]string{"1.4.5", "1.5"} {
			return Refuse(1, "unsupported protocol version")
		}
		c.agreed, c.v15 = true, c.server.Version >= "1.5"
		return []string{"Imitation 1.0", min(c.server.Version, wanted[1])}
	case "server.ping":
		return nil
	case "server.features":
		return map[string]any{"genesis_hash": c.server.Genesis, "hash_function": "sha256"}
	case "blockchain.address.listunspent":
		// The filter came with 1.5, and its default is to include tokens.
		if filter := text(1); c.v15 && filter != "exclude_tokens" || !c.v15 && len(params) != 1 {
			return Refuse(1, "this client would spend tokens")
		}
		return c.unspent(ctx, text(0))
	case "blockchain.headers.get_tip", "blockchain.headers.subscribe":
		if (method == "blockchain.headers.get_tip") != c.v15 {
			return Refuse(-32601, "unknown method")
		}
		height, err := c.server.Height(ctx)
		if err != nil {
			return Refuse(-1, err.Error())
		}
		return map[string]any{"height": height, "hex": ""}
	case "blockchain.utxo.get_info":
		hash, err := chainhash.NewHashFromStr(text(0))
		var index uint32
		if err == nil && len(params) == 2 {
			err = json.Unmarshal(params[1], &index)
		}
		unspent := false
		if err == nil {
			unspent, err = c.server.Of.Unspent(ctx, wire.OutPoint{Hash: *hash, Index: index})
		}
		if err != nil {
			return Refuse(1, err.Error())
		}
		if !unspent {
			return nil
		}
		return map[string]any{"value": 1, "scripthash": ""}
	case "blockchain.transaction.get":
		hash, err := chainhash.NewHashFromStr(text(0))
		if err != nil {
			return Refuse(1, err.Error())
		}
		raw, err := c.server.Of.Transaction(ctx, *hash)
		if err != nil {
			return Refuse(2, "daemon error: No such mempool or blockchain transaction.")
		}
		return hex.EncodeToString(raw)
	case "blockchain.transaction.broadcast":
		return c.broadcast(ctx, text(0))
	}
	return Refuse(-32601, "unknown method")
}

func (c *electrumConn) unspent(ctx context.Context, address string) any {
	key, err := protocol.ParseAddress(address, regtest.Params)
	if err != nil {
		return Refuse(1, err.Error())
	}
	found, err := c.server.Of.Coins(ctx, key)
	if err != nil {
		return Refuse(-1, err.Error())
	}
	listed := []map[string]any{}
	for _, coin := range found { // immature coinbases among them
		if !coin.HasToken {
			listed = append(listed, map[string]any{
				"tx_hash": coin.OutPoint.Hash.String(), "tx_pos": coin.OutPoint.Index, "value": coin.Value, "height": coin.Height,
			})
		}
	}
	return listed
}

// broadcast refuses what is there already in words of its own, as servers do.
func (c *electrumConn) broadcast(ctx context.Context, text string) any {
	raw, err := hex.DecodeString(text)
	if err != nil {
		return Refuse(1, "not hex")
	}
	txid := chainhash.DoubleHashH(raw)
	if _, known := c.server.Of.Transaction(ctx, txid); known == nil {
		return Refuse(1, "the transaction was rejected by network rules.\n\ntransaction already in block chain")
	}
	switch err := c.server.Of.Submit(ctx, raw); {
	case errors.Is(err, node.ErrFee):
		return Refuse(1, "the transaction was rejected by network rules.\n\nmin relay fee not met (code 66)")
	case err != nil:
		return Refuse(1, "the transaction was rejected by network rules.\n\n"+err.Error())
	}
	return txid.String()
}
