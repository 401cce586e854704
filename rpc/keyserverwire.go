package rpc

import (
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// keyserverWire is the methods of the keyserver's JSON-RPC (keyserver-wire,
// "Transport"). Results have exactly the members of the table there.
type keyserverWire struct {
	service *keyserver.Service
	fetches *fetches
}

func (k keyserverWire) methods() map[string]method {
	return map[string]method{
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
	}
}

// methodNames are what Capabilities lists.
func (k keyserverWire) methodNames() []string { return slices.Sorted(maps.Keys(k.methods())) }

func (k keyserverWire) capabilities(ctx context.Context, p *params) (any, error) {
	if err := p.done(); err != nil {
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

func (k keyserverWire) fetchLastHashChain(ctx context.Context, p *params) (any, error) {
	if err := p.done(); err != nil {
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
func (k keyserverWire) fetchHashChain(ctx context.Context, p *params) (any, error) {
	first := p.number("StartPosition")
	last := p.numberOr("EndPosition", first)
	if err := p.done(); err != nil {
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
	return stream(func(w io.Writer) error {
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

func (k keyserverWire) lookupUID(ctx context.Context, p *params) (any, error) {
	identity := p.text("Identity")
	if err := p.done(); err != nil {
		return nil, err
	}
	positions, err := k.service.LookupUID(ctx, identity)
	return struct {
		HCPositions []uint64 // null if there are none
	}{positions}, err
}

func (k keyserverWire) fetchUID(ctx context.Context, p *params) (any, error) {
	index := p.binary("UIDIndex", len(hashchain.Hash{}))
	if err := p.done(); err != nil {
		return nil, err
	}
	reply, err := k.service.FetchUID(ctx, hashchain.Hash(index))
	return struct{ UIDMessageReply json.RawMessage }{reply}, err
}

func (k keyserverWire) createUID(ctx context.Context, p *params) (any, error) {
	return uidMessage(ctx, p, k.service.CreateUID)
}

func (k keyserverWire) updateUID(ctx context.Context, p *params) (any, error) {
	return uidMessage(ctx, p, k.service.UpdateUID)
}

func uidMessage(ctx context.Context, p *params, accept func(context.Context, *uid.Message, string) (*uid.Reply, error)) (any, error) {
	text, payment := p.object("UIDMessage"), p.text("Token")
	if err := p.done(); err != nil {
		return nil, err
	}
	message, err := uid.Parse(text)
	if err != nil {
		return nil, err
	}
	reply, err := accept(ctx, message, payment)
	return struct{ UIDMessageReply *uid.Reply }{reply}, err
}

func (k keyserverWire) getLink(ctx context.Context, p *params) (any, error) {
	domain := p.text("Domain")
	if err := p.done(); err != nil {
		return nil, err
	}
	identity, position, err := k.service.GetLink(ctx, domain)
	return struct {
		Identity string
		HCPos    uint64
	}{identity, position}, err
}

func (k keyserverWire) addKeyInit(ctx context.Context, p *params) (any, error) {
	sigKey := p.binary("SigPubKey", ed25519.PublicKeySize)
	texts := p.list("KeyInits", keyserver.MaxKeyInitsPerCall)
	payments := p.texts("Tokens", keyserver.MaxKeyInitsPerCall)
	if err := p.done(); err != nil {
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

func (k keyserverWire) fetchKeyInit(ctx context.Context, p *params) (any, error) {
	hash := p.binary("SigKeyHash", sha512.Size)
	payment := ""
	if _, ok := p.left["Token"]; ok { // which deployed clients do not send
		payment = p.text("Token")
	}
	if err := p.done(); err != nil {
		return nil, err
	}
	message, err := k.fetches.fetch(ctx, [sha512.Size]byte(hash), payment)
	return struct{ KeyInit string }{string(message)}, err
}

func (k keyserverWire) flushKeyInit(ctx context.Context, p *params) (any, error) {
	sigKey := p.binary("SigPubKey", ed25519.PublicKeySize)
	nonce, signature := p.number("Nonce"), p.text("Signature")
	if err := p.done(); err != nil {
		return nil, err
	}
	return struct{}{}, k.service.FlushKeyInit(ctx, sigKey, nonce, signature)
}
