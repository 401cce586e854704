package bitcoind

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keytree-bch/keytree/indexer/node"
)

// reader reads the body of an answer, which expectAnswer has looked at. It returns
// the node's own error as an *rpcError.
type reader func(*bufio.Reader) error

// errNotRPC says that what came is no answer of JSON-RPC at all. It is from
// something in front of the node or in its place, and says nothing about the node.
var errNotRPC = errors.New("its port does not serve JSON-RPC")

// errNull says that neither a result nor an error is in an answer. The result of
// gettxout may be null.
var errNull = fmt.Errorf("%w: neither a result nor an error", errNotRPC)

var errTooLong = errors.New("longer than any answer may be")

// rpcError is an error that the node's JSON-RPC answers with.
type rpcError struct {
	Code    int
	Message string
}

func (e *rpcError) Error() string { return fmt.Sprintf("%.300q (code %d)", e.Message, e.Code) }

// Codes of rpcError, by Bitcoin Core's names (rpc/protocol.h).
const (
	miscError           = -1
	invalidAddressOrKey = -5 // also: no such block, no such transaction
	invalidParameter    = -8
	// What becomes of a transaction that is sent.
	deserializationError = -22
	verifyError          = -25 // also: what it spends is not there
	verifyRejected       = -26
	verifyAlreadyInChain = -27
	inWarmup             = -28
	methodNotFound       = -32601
	invalidParams        = -32602
)

// UnmarshalJSON implements json.Unmarshaler. Proxies too give errors in JSON, of
// another form.
func (e *rpcError) UnmarshalJSON(b []byte) error {
	var fields struct {
		Code    *int
		Message *string
	}
	if err := json.Unmarshal(b, &fields); err != nil || fields.Code == nil || fields.Message == nil {
		return fmt.Errorf("%w: its error has no code and message", errNotRPC)
	}
	e.Code, e.Message = *fields.Code, *fields.Message
	return nil
}

// maxBefore is where the result or the error of an answer begins at the latest, in
// bytes: only "jsonrpc", "id", and of the two the one that is null can be in front.
const maxBefore = 1 << 10

// expectAnswer returns errNotRPC unless what comes begins as an answer does: as an
// object with a result or an error. It takes nothing off r.
func expectAnswer(r *bufio.Reader) error {
	beginning, err := r.Peek(maxBefore)
	whole := errors.Is(err, io.EOF)
	if err != nil && !whole {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(beginning))
	err = object(d, func(key string) error {
		value := bytes.TrimLeft(beginning[d.InputOffset():], ": \t\r\n")
		isNull := len(value) == 0 || value[0] == 'n'
		if (key == "result" || key == "error") && !isNull {
			return errEnded
		}
		return d.Decode(new(json.RawMessage))
	})
	switch {
	case errors.Is(err, errEnded):
		return nil
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if whole && len(bytes.TrimSpace(beginning)) == 0 {
			return fmt.Errorf("%w: nothing came", errNotRPC)
		}
		if whole {
			return err
		}
		return fmt.Errorf("%w: neither a result nor an error in its first %d bytes", errNotRPC, maxBefore)
	case err != nil:
		return fmt.Errorf("%w: %w", errNotRPC, err)
	}
	return errNull
}

// parseAnswer returns the result in a whole answer, after which nothing may follow.
func parseAnswer(body []byte) (json.RawMessage, error) {
	var answer struct {
		Result json.RawMessage
		Error  *rpcError
		ID     any // that of the question
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&answer); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the answer", errNotRPC)
	}
	if answer.Error != nil {
		return nil, answer.Error
	}
	if answer.ID == nil {
		return nil, fmt.Errorf("%w: an answer without an id", errNotRPC)
	}
	return answer.Result, nil
}

// into reads an answer whose result is small.
func into(result any) reader {
	return func(r *bufio.Reader) error {
		value, err := readAnswer(r)
		if err != nil {
			return err
		}
		return json.Unmarshal(value, result)
	}
}

// readAnswer returns the result in an answer that is small.
func readAnswer(r *bufio.Reader) (json.RawMessage, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("%w: %w, %d bytes", errNotRPC, errTooLong, maxAnswer)
	}
	return parseAnswer(body)
}

// judge says in the terms of package node what it means that an answer could not be
// read.
func (m method) judge(err error) error {
	if e := new(rpcError); errors.As(err, &e) {
		return m.classify(e)
	}
	switch {
	case err == nil || classified(err):
		return err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the answer broke off", node.ErrUnavailable)
	case errors.As(err, new(*json.SyntaxError)):
		err = fmt.Errorf("%w: %w", errNotRPC, err)
		fallthrough
	case errors.Is(err, errNotRPC):
		return fmt.Errorf("%w: %w: give the node's -rpcport, with https if it speaks TLS", node.ErrUnsuitable, err)
	}
	return fmt.Errorf("%w: %w", node.ErrInvalid, err)
}

// classify gives a JSON-RPC error the meaning that it has in this dialect.
func (m method) classify(e *rpcError) error {
	kind := node.ErrUnavailable
	switch {
	case e.Code == invalidAddressOrKey,
		// Above the tip; bchd says it with -1.
		m == "getblockhash" && (e.Code == invalidParameter || e.Code == miscError):
		kind = node.ErrNotFound
	case m.rejects(e.Code):
		kind = node.ErrRejected
	case m == "scantxoutset" && e.Code == invalidParameter: // it is at another one
	case e.Code == methodNotFound, e.Code == invalidParameter, e.Code == invalidParams,
		strings.Contains(e.Message, "Block not available"): // pruned
		kind = node.ErrUnsuitable
	}
	return fmt.Errorf("%w: %s: %w", kind, m, e)
}

func classified(err error) bool {
	return errors.Is(err, node.ErrUnavailable) || errors.Is(err, node.ErrUnsuitable) ||
		errors.Is(err, node.ErrNotFound) || errors.Is(err, node.ErrInvalid) || errors.Is(err, node.ErrRejected)
}
