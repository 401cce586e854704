package keyserver

import (
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
)

// wire is the methods of the keyserver's JSON-RPC (keyserver/WIRE.md
// §2). Results have exactly the members of the table there.
type wire struct {
	service *keyserver.Service
	allow   *Allowances
}

// NewWire returns what answers the wire of a keyserver, whose clients have allowances. observe, if not
// nil, hears of each call: its method, OK or the number of its error, and how long it took
// without the sending of a long answer.
func NewWire(service *keyserver.Service, allow *Allowances, observe func(method, code string, took time.Duration), log zerolog.Logger) http.Handler {
	methods := wire{service, allow}.methods()
	fault := func(err error) *jsonrpc.Error { return callFault(err, log) }
	if observe != nil {
		for name, method := range methods {
			methods[name] = func(ctx context.Context, p *jsonrpc.Params) (any, error) {
				began := time.Now()
				result, err := method(ctx, p)
				observe(name, codeOf(err), time.Since(began))
				return result, err
			}
		}
	}
	return unlessHeld(service, jsonrpc.NewHandler(methods, allow.calls, fault, log))
}

// codeOf is OK, or the number of an error.
func codeOf(err error) string {
	if err == nil {
		return "OK"
	}
	return strconv.Itoa(callFault(err, zerolog.Nop()).Code) // whoever answers logs it
}

// unlessHeld has HTTP say, too, that all calls of a request would be refused while the
// keyserver is held.
func unlessHeld(service *keyserver.Service, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := service.Ready(); errors.Is(err, keyserver.ErrHeld) {
			jsonrpc.Refuse(w, http.StatusServiceUnavailable, jsonrpc.Errorf(CodeDown, "%v", err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (k wire) methods() map[string]jsonrpc.Method {
	return map[string]jsonrpc.Method{
		"KeyRepository.Capabilities":      k.capabilities,
		"KeyRepository.CreateUID":         k.createUID,
		"KeyRepository.UpdateUID":         k.updateUID,
		"KeyRepository.FetchUID":          k.fetchUID,
		"KeyRepository.GetLink":           k.getLink,
		"KeyRepository.FetchHashChain":    k.fetchHashChain, // as the use-case has it
		"KeyHashchain.FetchHashChain":     k.fetchHashChain,
		"KeyHashchain.FetchLastHashChain": k.fetchLastHashChain,
		"KeyHashchain.LookupUID":          k.lookupUID,
		"KeyInitRepository.AddKeyInit":    k.addKeyInit,
		"KeyInitRepository.FetchKeyInit":  k.fetchKeyInit,
		"KeyInitRepository.FlushKeyInit":  k.flushKeyInit,
		"KeyInitRepository.CountKeyInit":  k.countKeyInit,
	}
}

// methodNames are what Capabilities lists.
func (k wire) methodNames() []string { return slices.Sorted(maps.Keys(k.methods())) }

func (k wire) capabilities(ctx context.Context, p *jsonrpc.Params) (any, error) {
	if err := p.Done(); err != nil {
		return nil, err
	}
	c, err := k.service.Capabilities(ctx)
	if err != nil {
		return nil, err
	}
	c.Methods = k.methodNames()
	return struct {
		Capabilities *keyserver.Capabilities `json:"CAPABILITIES"`
	}{c}, nil
}

func (k wire) fetchLastHashChain(ctx context.Context, p *jsonrpc.Params) (any, error) {
	if err := p.Done(); err != nil {
		return nil, err
	}
	entry, position, err := k.service.LastEntry(ctx)
	return struct {
		HCEntry string
		HCPos   uint64
	}{entry.String(), position}, err
}

// fetchHashChain answers with all entries of the range, however many: clients take
// a short answer for the end of the chain.
func (k wire) fetchHashChain(ctx context.Context, p *jsonrpc.Params) (any, error) {
	first := p.Number("StartPosition")
	last := p.NumberOr("EndPosition", first)
	if err := p.Done(); err != nil {
		return nil, err
	}
	if err := admitEntries(ctx, k.service, first, last); err != nil {
		return nil, err
	}
	// The stream outlives the call's time: admission has the client take each piece in time,
	// and when the connection ends, every write fails.
	from, entries, err := k.service.Entries(context.Background(), first, last)
	if err != nil {
		return nil, err
	}
	return jsonrpc.Stream(func(w io.Writer) error {
		text := append(make([]byte, 0, admission.Piece+1024), `{"HCEntries":[`...)
		separator := ""
		for entry, err := range entries {
			if err != nil {
				return err
			}
			text = append(append(text, separator...), '"')
			text = append(base64.StdEncoding.AppendEncode(text, entry[:]), '"')
			if separator = ","; len(text) < admission.Piece {
				continue
			}
			if _, err := w.Write(text); err != nil {
				return err
			}
			text = text[:0]
		}
		text = append(text, `],"HCFirstPos":`...)
		text = append(strconv.AppendUint(text, from, 10), '}')
		_, err := w.Write(text)
		return err
	}), nil
}

func (k wire) lookupUID(ctx context.Context, p *jsonrpc.Params) (any, error) {
	identity := p.Text("Identity")
	last := p.NumberOr("EndPosition", math.MaxUint64) // which deployed clients do not send
	if err := p.Done(); err != nil {
		return nil, err
	}
	positions, earlier, err := k.service.LookupUID(ctx, identity, last)
	return struct {
		HCPositions []uint64 // null if there are none
		HCEarlier   bool     `json:",omitempty"`
	}{positions, earlier}, err
}

func (k wire) fetchUID(ctx context.Context, p *jsonrpc.Params) (any, error) {
	index := takeBinary(p, "UIDIndex", len(hashchain.Hash{}))
	if err := p.Done(); err != nil {
		return nil, err
	}
	reply, err := k.service.FetchUID(ctx, hashchain.Hash(index))
	return struct{ UIDMessageReply json.RawMessage }{reply}, err
}

func (k wire) createUID(ctx context.Context, p *jsonrpc.Params) (any, error) {
	return uidMessage(ctx, p, k.service.CreateUID)
}

func (k wire) updateUID(ctx context.Context, p *jsonrpc.Params) (any, error) {
	return uidMessage(ctx, p, k.service.UpdateUID)
}

func uidMessage(ctx context.Context, p *jsonrpc.Params, accept func(context.Context, *uid.Message, string) (*uid.Reply, error)) (any, error) {
	text, payment := p.Object("UIDMessage"), p.Text("Token")
	if err := p.Done(); err != nil {
		return nil, err
	}
	message, err := uid.Parse(text)
	if err != nil {
		return nil, err
	}
	reply, err := accept(ctx, message, payment)
	return struct{ UIDMessageReply *uid.Reply }{reply}, err
}

func (k wire) getLink(ctx context.Context, p *jsonrpc.Params) (any, error) {
	domain := p.Text("Domain")
	if err := p.Done(); err != nil {
		return nil, err
	}
	identity, position, err := k.service.GetLink(ctx, domain)
	return struct {
		Identity string
		HCPos    uint64
	}{identity, position}, err
}

func (k wire) addKeyInit(ctx context.Context, p *jsonrpc.Params) (any, error) {
	sigKey := takeBinary(p, "SigPubKey", ed25519.PublicKeySize)
	texts := p.List("KeyInits", keyserver.MaxKeyInitsPerCall)
	payments := p.Texts("Tokens", keyserver.MaxKeyInitsPerCall)
	if err := p.Done(); err != nil {
		return nil, err
	}
	if err := admitKeyInits(ctx, len(texts)); err != nil {
		return nil, err
	}
	inits := make([]*keyinit.KeyInit, len(texts))
	for i, text := range texts {
		var err error
		if inits[i], err = keyinit.Parse(text); err != nil {
			return nil, fmt.Errorf("KeyInits[%d]: %w", i, err)
		}
	}
	signatures, err := k.service.AddKeyInit(ctx, sigKey, inits, payments)
	return struct{ Signatures []string }{signatures}, err
}

func (k wire) fetchKeyInit(ctx context.Context, p *jsonrpc.Params) (any, error) {
	hash := takeBinary(p, "SigKeyHash", sha512.Size)
	payment := ""
	if p.Has("Token") { // which deployed clients do not send
		payment = p.Text("Token")
	}
	if err := p.Done(); err != nil {
		return nil, err
	}
	message, err := k.allow.fetch(ctx, k.service, [sha512.Size]byte(hash), payment)
	return struct{ KeyInit string }{string(message)}, err
}

func (k wire) flushKeyInit(ctx context.Context, p *jsonrpc.Params) (any, error) {
	sigKey := takeBinary(p, "SigPubKey", ed25519.PublicKeySize)
	nonce, signature := p.Number("Nonce"), p.Text("Signature")
	if err := p.Done(); err != nil {
		return nil, err
	}
	return struct{}{}, k.service.FlushKeyInit(ctx, sigKey, nonce, signature)
}

func (k wire) countKeyInit(ctx context.Context, p *jsonrpc.Params) (any, error) {
	sigKey := takeBinary(p, "SigPubKey", ed25519.PublicKeySize)
	nonce, signature := p.Number("Nonce"), p.Text("Signature")
	if err := p.Done(); err != nil {
		return nil, err
	}
	count, err := k.service.CountKeyInit(ctx, sigKey, nonce, signature)
	return count, err
}

// takeBinary takes base64 of size bytes.
func takeBinary(p *jsonrpc.Params, name string, size int) []byte {
	b, err := canonical.Decode(p.Text(name), size)
	if err != nil {
		p.Fail(fmt.Errorf("%s: %w", name, err))
	}
	return b
}
