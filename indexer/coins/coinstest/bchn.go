package coinstest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/go-zeromq/zmq4"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// ServeBCHN serves the JSON-RPC of a BCHN that has an index of transactions, until the test
// ends, and returns its URL. What bchd does not have or answers otherwise is answered from a
// source of bchd's coins, in the words of BCHN 28.0.1; all else a bchd answers.
func ServeBCHN(t *testing.T, n *regtest.Node, from Access) string {
	b := &bchn{n, from}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return "http://keytree:hush@" + server.Listener.Addr().String() + "?zmq=tcp://" + b.publish(t)
}

// publish announces each new block, as with -zmqpubhashblock, and returns HOST:PORT.
func (b *bchn) publish(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	socket := zmq4.NewPub(ctx)
	check(t, socket.Listen("tcp://127.0.0.1:0"))
	var announcing sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		announcing.Wait()
		_ = socket.Close() // of connections that the other side has closed
	})
	announcing.Go(func() {
		var last chainhash.Hash
		for ctx.Err() == nil {
			if _, hash, err := b.node.Tip(ctx); err == nil && hash != last {
				last = hash
				slices.Reverse(hash[:])
				_ = socket.Send(zmq4.NewMsgFrom([]byte("hashblock"), hash[:], []byte{1, 0, 0, 0})) // it is a hint
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return socket.Addr().String()
}

type bchn struct {
	node *regtest.Node
	from Access
}

// ServeHTTP implements http.Handler.
func (b *bchn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var question struct {
		ID     any
		Method string
		Params []any
	}
	body, err := io.ReadAll(r.Body)
	if r.Method != http.MethodPost || err != nil || json.Unmarshal(body, &question) != nil {
		w.WriteHeader(http.StatusNotFound) // it runs without -rest
		return
	}
	result, err := b.answer(r, question.Method, question.Params)
	answer := map[string]any{"id": question.ID, "result": result, "error": nil}
	if err != nil {
		refused := new(regtest.RPCError)
		if !errors.As(err, &refused) {
			refused = &regtest.RPCError{Code: -1, Message: err.Error()}
		}
		answer["error"] = map[string]any{"code": refused.Code, "message": refused.Message}
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = json.NewEncoder(w).Encode(answer) // or the client has left
}

func (b *bchn) answer(r *http.Request, method string, params []any) (any, error) {
	switch method {
	case "scantxoutset":
		return b.scan(r, params)
	case "gettxout":
		return b.output(r, params)
	case "sendrawtransaction":
		return b.send(r, fmt.Sprint(params...))
	}
	var result json.RawMessage
	err := b.node.Call(r.Context(), &result, method, params...)
	return result, err
}

func (b *bchn) scan(r *http.Request, params []any) (any, error) {
	var address string
	if len(params) == 2 && params[0] == "start" {
		address = strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(params[1].([]any)...), "addr("), ")")
	}
	key, err := protocol.ParseAddress(address, regtest.Params)
	if err != nil {
		return nil, &regtest.RPCError{Code: -5, Message: "Invalid descriptor"}
	}
	found, err := b.from.Coins(r.Context(), key)
	if err != nil {
		return nil, err
	}
	unspents := []any{}
	for _, c := range found {
		if c.Height > 0 {
			unspents = append(unspents, map[string]any{
				"txid": c.OutPoint.Hash.String(), "vout": c.OutPoint.Index, "amount": float64(c.Value) / 1e8, "height": c.Height,
			})
		}
	}
	return map[string]any{"success": true, "unspents": unspents}, nil
}

// output answers for the mempool too, which bchd's gettxout does not see spending.
func (b *bchn) output(r *http.Request, params []any) (any, error) {
	hash, err := chainhash.NewHashFromStr(fmt.Sprint(params[0]))
	if err != nil {
		return nil, err
	}
	index := uint32(params[1].(float64))
	if len(params) < 3 || params[2] == true {
		unspent, err := b.from.Unspent(r.Context(), wire.OutPoint{Hash: *hash, Index: index})
		if err != nil || !unspent {
			return nil, err
		}
	}
	var result json.RawMessage
	err = b.node.Call(r.Context(), &result, "gettxout", params...)
	return result, err
}

func (b *bchn) send(r *http.Request, text string) (any, error) {
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil, &regtest.RPCError{Code: -22, Message: "TX decode failed"}
	}
	txid := chainhash.DoubleHashH(raw)
	if _, known := b.from.Transaction(r.Context(), txid); known == nil {
		return nil, &regtest.RPCError{Code: -27, Message: "transaction already in block chain"}
	}
	switch err := b.from.Submit(r.Context(), raw); {
	case errors.Is(err, node.ErrFee):
		return nil, &regtest.RPCError{Code: -26, Message: "min relay fee not met (code 66)"}
	case err != nil:
		return nil, &regtest.RPCError{Code: -26, Message: err.Error()}
	}
	return txid.String(), nil
}
