// Package keyserver answers for a keyserver: on the wire that deployed clients speak,
// JSON-RPC (keyserver/WIRE.md), and as keytree.v1.KeyserverService, with proofs. It reads
// messages and writes answers and errors; whether a message is accepted, the keyserver says.
//
// What never belongs here: a rule for a message, an identity of the graph, a listener.
package keyserver

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"
	"math"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Sizes of pages, and of the messages of a stream, in entries.
const (
	defaultEntries = 1000
	maxEntries     = 10_000
)

// service implements keytree.v1.KeyserverService; the .proto file documents
// its calls.
type service struct {
	keytreev1.UnimplementedKeyserverServiceServer
	service *keyserver.Service
	allow   *Allowances
	log     zerolog.Logger
}

// NewService returns the gRPC service of a keyserver. It lets clients fetch the KeyInits that they
// are allowed; calls are for whoever serves it to count.
func NewService(of *keyserver.Service, allow *Allowances, log zerolog.Logger) keytreev1.KeyserverServiceServer {
	return &service{service: of, allow: allow, log: log}
}

func (s *service) fault(err error) error { return refusalStatus(err, s.log) }

// GetCapabilities implements KeyserverService.
func (s *service) GetCapabilities(ctx context.Context, _ *keytreev1.GetCapabilitiesRequest) (*keytreev1.Capabilities, error) {
	c, err := s.service.Capabilities(ctx)
	if err != nil {
		return nil, s.fault(err)
	}
	answer := &keytreev1.Capabilities{
		Methods:               wire{service: s.service}.methodNames(),
		Domains:               c.Domains,
		KeyRepositoryUris:     c.KeyRepositoryURIs,
		KeyInitRepositoryUris: c.KeyInitRepositoryURIs,
		KeyHashchainUris:      c.KeyHashchainURIs,
		TknPubKey:             c.TknPubKey,
		KeyInitFetch:          c.KeyInitFetch,
		AnchorChain:           c.AnchorChain,
		AnchorInterval:        c.AnchorInterval,
		AnchorHeartbeat:       c.AnchorHeartbeat,
		AnchorMaxEntries:      c.AnchorMaxEntries,
	}
	if answer.KeyHashchainEntry, err = canonical.Decode(c.KeyHashchainEntry, hashchain.EntrySize); err != nil {
		return nil, s.damaged(err)
	}
	for _, text := range c.SigPubKeys {
		key, err := canonical.Decode(text, ed25519.PublicKeySize)
		if err != nil {
			return nil, s.damaged(err)
		}
		answer.SigPubKeys = append(answer.SigPubKeys, key)
	}
	answer.LogVkey = c.LogVKey
	if said := c.LogStatement; said != nil {
		root, err1 := canonical.Decode(said.Statement.Root, len(hashchain.Hash{}))
		signature, err2 := canonical.Decode(said.ServerSignature, ed25519.SignatureSize)
		if err := errors.Join(err1, err2); err != nil {
			return nil, s.damaged(err)
		}
		answer.LogStatement = &keytreev1.LogStatement{
			Domain: said.Statement.Domain, LogOrigin: said.Statement.LogOrigin, LogVkey: said.Statement.LogVKey,
			Root: root, Size: said.Statement.Size, Time: said.Statement.Time, ServerSignature: signature,
		}
	}
	return answer, nil
}

// damaged is the error for what the keyserver itself made and cannot be read.
func (s *service) damaged(err error) error {
	return s.fault(fmt.Errorf("%w: %v", keyserver.ErrDamaged, err))
}

// GetSignedHead implements KeyserverService.
func (s *service) GetSignedHead(ctx context.Context, _ *keytreev1.GetSignedHeadRequest) (*keytreev1.SignedHead, error) {
	signed, err := s.service.SignedHead(ctx)
	if err != nil {
		return nil, s.fault(err)
	}
	answer := &keytreev1.SignedHead{Domain: signed.Head.Domain, Size: signed.Head.Size, Time: signed.Head.Time, AnchorChain: signed.Head.AnchorChain}
	for to, from := range map[*[]byte]string{
		&answer.EntryHash:       signed.Head.EntryHash,
		&answer.TreeRoot:        signed.Head.TreeRoot,
		&answer.ServerSignature: signed.ServerSignature,
	} {
		if *to, err = canonical.Decode(from, -1); err != nil {
			return nil, s.damaged(err)
		}
	}
	return answer, nil
}

// ListEntries implements KeyserverService.
func (s *service) ListEntries(ctx context.Context, request *keytreev1.ListEntriesRequest) (*keytreev1.Entries, error) {
	size := cmp.Or(request.GetPageSize(), defaultEntries)
	if size > maxEntries {
		return nil, fault.Field(codes.InvalidArgument, "page_size", "expected at most %d, got %d", maxEntries, size)
	}
	first := request.GetFirstPosition()
	last := first + min(uint64(size-1), math.MaxUint64-first)
	answer := &keytreev1.Entries{TreeSize: s.service.Chain().Size}
	from, entries, err := s.service.Entries(ctx, first, last)
	if err != nil {
		return nil, s.fault(err)
	}
	answer.FirstPosition = from
	for entry, err := range entries {
		if err != nil {
			return nil, s.fault(err)
		}
		answer.Entries = append(answer.Entries, entry[:])
	}
	return answer, nil
}

// StreamEntries implements KeyserverService.
func (s *service) StreamEntries(request *keytreev1.StreamEntriesRequest, to grpc.ServerStreamingServer[keytreev1.Entries]) error {
	last := uint64(math.MaxUint64)
	if request.LastPosition != nil {
		last = request.GetLastPosition()
	}
	if err := admitEntries(to.Context(), s.service, request.GetFirstPosition(), last); err != nil {
		return err
	}
	size := s.service.Chain().Size
	from, entries, err := s.service.Entries(to.Context(), request.GetFirstPosition(), last)
	if err != nil {
		return s.fault(err)
	}
	message := &keytreev1.Entries{FirstPosition: from, TreeSize: size}
	for entry, err := range entries {
		if err != nil {
			return s.fault(err)
		}
		message.Entries = append(message.Entries, entry[:])
		if len(message.Entries) < defaultEntries {
			continue
		}
		if err := to.Send(message); err != nil {
			return err
		}
		message = &keytreev1.Entries{FirstPosition: message.FirstPosition + defaultEntries, TreeSize: size}
	}
	if len(message.Entries) == 0 {
		return nil
	}
	return to.Send(message)
}

// longEntries is how many entries are a long answer, and as much work as another call.
const longEntries = 10_000

// admitEntries lets a client have the entries of the hashchain from first to last, as far as
// there are any.
func admitEntries(ctx context.Context, service *keyserver.Service, first, last uint64) error {
	last = min(last, service.Chain().Size)
	if first > last || last-first < longEntries {
		return nil
	}
	if err := admission.Work(ctx, int((last-first)/longEntries)); err != nil {
		return err
	}
	return admission.Long(ctx)
}

// GetInclusionProof implements KeyserverService.
func (s *service) GetInclusionProof(ctx context.Context, request *keytreev1.GetInclusionProofRequest) (*keytreev1.InclusionProof, error) {
	position, size := request.GetPosition(), request.GetTreeSize()
	if size == 0 {
		size = s.service.Chain().Size
	}
	hashes, err := s.service.InclusionProof(ctx, position, size)
	if err != nil {
		return nil, s.fault(err)
	}
	answer := &keytreev1.InclusionProof{Position: position, TreeSize: size, Hashes: bytesOf(hashes)}
	_, entries, err := s.service.Entries(ctx, position, position)
	if err != nil {
		return nil, s.fault(err)
	}
	for entry, err := range entries {
		if err != nil {
			return nil, s.fault(err)
		}
		answer.Entry = entry[:]
	}
	return answer, nil
}

// GetConsistencyProof implements KeyserverService.
func (s *service) GetConsistencyProof(ctx context.Context, request *keytreev1.GetConsistencyProofRequest) (*keytreev1.ConsistencyProof, error) {
	first, second := request.GetFirstSize(), request.GetSecondSize()
	if second == 0 {
		second = s.service.Chain().Size
	}
	hashes, err := s.service.ConsistencyProof(ctx, first, second)
	if err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.ConsistencyProof{FirstSize: first, SecondSize: second, Hashes: bytesOf(hashes)}, nil
}

func bytesOf(hashes []hashchain.Hash) (all [][]byte) {
	for _, h := range hashes {
		all = append(all, h[:])
	}
	return all
}

// LookupUID implements KeyserverService.
func (s *service) LookupUID(ctx context.Context, request *keytreev1.LookupUIDRequest) (*keytreev1.LookupUIDResponse, error) {
	last := uint64(math.MaxUint64)
	if request.LastPosition != nil {
		last = request.GetLastPosition()
	}
	positions, earlier, err := s.service.LookupUID(ctx, request.GetIdentity(), last)
	if err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.LookupUIDResponse{Positions: positions, Earlier: earlier}, nil
}

// FetchUID implements KeyserverService.
func (s *service) FetchUID(ctx context.Context, request *keytreev1.FetchUIDRequest) (*keytreev1.UIDMessageReply, error) {
	index, err := sized("uid_index", request.GetUidIndex(), len(hashchain.Hash{}))
	if err != nil {
		return nil, err
	}
	stored, err := s.service.FetchUID(ctx, hashchain.Hash(index))
	if err != nil {
		return nil, s.fault(err)
	}
	reply, err := uid.ParseReply(stored)
	if err != nil {
		return nil, s.damaged(err)
	}
	return s.reply(reply)
}

// CreateUID implements KeyserverService.
func (s *service) CreateUID(ctx context.Context, request *keytreev1.CreateUIDRequest) (*keytreev1.UIDMessageReply, error) {
	return s.accept(ctx, request.GetUidMessage(), request.GetToken(), s.service.CreateUID)
}

// UpdateUID implements KeyserverService.
func (s *service) UpdateUID(ctx context.Context, request *keytreev1.UpdateUIDRequest) (*keytreev1.UIDMessageReply, error) {
	return s.accept(ctx, request.GetUidMessage(), request.GetToken(), s.service.UpdateUID)
}

func (s *service) accept(ctx context.Context, text, payment string, call func(context.Context, *uid.Message, string) (*uid.Reply, error)) (*keytreev1.UIDMessageReply, error) {
	message, err := uid.Parse([]byte(text))
	if err != nil {
		return nil, fault.Field(codes.InvalidArgument, "uid_message", "%v", err)
	}
	reply, err := call(ctx, message, payment)
	if err != nil {
		return nil, s.fault(err)
	}
	return s.reply(reply)
}

func (s *service) reply(r *uid.Reply) (*keytreev1.UIDMessageReply, error) {
	answer := &keytreev1.UIDMessageReply{HashchainPos: r.Entry.HashchainPos}
	for to, from := range map[*[]byte]string{
		&answer.UidMessageEncrypted: r.Entry.UIDMessageEncrypted,
		&answer.HashchainEntry:      r.Entry.HashchainEntry,
		&answer.ServerSignature:     r.ServerSignature,
	} {
		var err error
		if *to, err = canonical.Decode(from, -1); err != nil {
			return nil, s.damaged(err)
		}
	}
	return answer, nil
}

// GetLink implements KeyserverService.
func (s *service) GetLink(ctx context.Context, request *keytreev1.GetLinkRequest) (*keytreev1.Link, error) {
	identity, position, err := s.service.GetLink(ctx, request.GetDomain())
	if err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.Link{Identity: identity, Position: position}, nil
}

// AddKeyInit implements KeyserverService.
func (s *service) AddKeyInit(ctx context.Context, request *keytreev1.AddKeyInitRequest) (*keytreev1.AddKeyInitResponse, error) {
	sigKey, err := sized("sig_pub_key", request.GetSigPubKey(), ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	texts := request.GetKeyInits()
	if len(texts) > keyserver.MaxKeyInitsPerCall {
		return nil, fault.Field(codes.InvalidArgument, "key_inits", "expected at most %d, got %d", keyserver.MaxKeyInitsPerCall, len(texts))
	}
	if err := admitKeyInits(ctx, len(texts)); err != nil {
		return nil, err
	}
	inits := make([]*keyinit.KeyInit, len(texts))
	for i, text := range texts {
		if inits[i], err = keyinit.Parse([]byte(text)); err != nil {
			return nil, fault.Field(codes.InvalidArgument, fmt.Sprintf("key_inits[%d]", i), "%v", err)
		}
	}
	signatures, err := s.service.AddKeyInit(ctx, sigKey, inits, request.GetTokens())
	if err != nil {
		return nil, s.fault(err)
	}
	answer := &keytreev1.AddKeyInitResponse{Signatures: make([][]byte, len(signatures))}
	for i, text := range signatures {
		if answer.Signatures[i], err = canonical.Decode(text, ed25519.SignatureSize); err != nil {
			return nil, s.damaged(err)
		}
	}
	return answer, nil
}

// FetchKeyInit implements KeyserverService.
func (s *service) FetchKeyInit(ctx context.Context, request *keytreev1.FetchKeyInitRequest) (*keytreev1.FetchKeyInitResponse, error) {
	hash, err := sized("sig_key_hash", request.GetSigKeyHash(), sha512.Size)
	if err != nil {
		return nil, err
	}
	message, err := s.allow.fetch(ctx, s.service, [sha512.Size]byte(hash), request.GetToken())
	if err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.FetchKeyInitResponse{KeyInit: string(message)}, nil
}

// FlushKeyInit implements KeyserverService.
func (s *service) FlushKeyInit(ctx context.Context, request *keytreev1.FlushKeyInitRequest) (*keytreev1.FlushKeyInitResponse, error) {
	sigKey, err := sized("sig_pub_key", request.GetSigPubKey(), ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	if err := s.service.FlushKeyInit(ctx, sigKey, request.GetNonce(), canonical.Encode(request.GetSignature())); err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.FlushKeyInitResponse{}, nil
}

// sized checks that a field of a request has so many bytes.
func sized(field string, b []byte, size int) ([]byte, error) {
	if len(b) != size {
		return nil, fault.Field(codes.InvalidArgument, field, "expected %d bytes, got %d", size, len(b))
	}
	return b, nil
}
