package regtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// RPCError is an error that bchd's JSON-RPC answers with.
type RPCError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *RPCError) Error() string { return fmt.Sprintf("%s (code %d)", e.Message, e.Code) }

// Call calls a method of bchd's JSON-RPC and decodes its result into result,
// unless that is nil. An error of the node's is an *RPCError.
func (n *Node) Call(ctx context.Context, result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return fmt.Errorf("bchd %s: %w", method, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+n.rpcAddress, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("bchd %s: %w", method, err)
	}
	req.SetBasicAuth(rpcUser, n.password)
	resp, err := n.http.Do(req)
	if err != nil {
		return fmt.Errorf("bchd %s: %w", method, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("bchd %s: %w", method, err)
	}
	var envelope struct {
		Result json.RawMessage
		Error  *RPCError
	}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		return fmt.Errorf("bchd %s: status %s, not JSON: %w", method, resp.Status, err)
	}
	if envelope.Error != nil {
		return fmt.Errorf("bchd %s: %w", method, envelope.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(envelope.Result, result); err != nil {
		return fmt.Errorf("bchd %s: unexpected result: %w", method, err)
	}
	return nil
}
