package identity

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/statelog"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

const (
	// longProof is above how many addresses a proof is long work, longText above how many bytes it is a long answer.
	longProof = 100
	longText  = 1 << 20
	// A proof counts as another call for so many subjects, for so many records that it shows, and for so many that have to be made
	// again for the map of an older block.
	unitProven  = 2
	unitRecords = 10
	unitRemade  = 25
	// longRemade is above how many of the last it is long work.
	longRemade = 1000
)

// StateLog publishes the states of the graph's blocks. It is called concurrently.
type StateLog interface {
	// Served returns the checkpoint that readers get. tlog.ErrNone if nothing was signed yet.
	Served() (*statelog.Served, error)
}

var (
	errNoStateLog = status.Error(codes.FailedPrecondition, "this server publishes no state log, to which proofs lead: ask one that does (keytree serve --state-log-key)")
	errUnsigned   = status.Error(codes.Unavailable, "the state log has no checkpoint yet: a block is in it when ten others are on top and it was known for two hours; try again later")
	errMoved      = status.Error(codes.Unavailable, "the chain was reorganised below the block that the proof would be about, and the state log has not followed yet; try again later")
)

// ProveAddress implements IdentityService.
func (s *identityService) ProveAddress(ctx context.Context, request *keytreev1.ProveAddressRequest) (*keytreev1.StateProof, error) {
	key, err := parseAddress("address", request.GetAddress(), s.net)
	if err != nil {
		return nil, err
	}
	return s.prove(ctx, []proof.StateSubject{{Key: key}}, request.AtHeight, request.GetTransactions())
}

// ProveIdentity implements IdentityService.
func (s *identityService) ProveIdentity(ctx context.Context, request *keytreev1.ProveIdentityRequest) (*keytreev1.StateProof, error) {
	id, err := parseHash("id_tx_hash", request.GetIdTxHash())
	if err != nil {
		return nil, err
	}
	return s.prove(ctx, []proof.StateSubject{{IsID: true, ID: id}}, request.AtHeight, false)
}

// ProveAddresses implements IdentityService.
func (s *identityService) ProveAddresses(ctx context.Context, request *keytreev1.ProveAddressesRequest) (*keytreev1.StateProof, error) {
	addresses := request.GetAddresses()
	if len(addresses) == 0 || len(addresses) > proof.MaxStateSubjects {
		return nil, fault.Field(codes.InvalidArgument, "addresses", "expected 1 to %d addresses, got %d", proof.MaxStateSubjects, len(addresses))
	}
	subjects := make([]proof.StateSubject, len(addresses))
	for i, address := range addresses {
		key, err := protocol.ParseAddress(address, s.net)
		if err != nil {
			return nil, fault.Field(codes.InvalidArgument, fmt.Sprintf("addresses[%d]", i), "%v", err)
		}
		subjects[i].Key = key
	}
	return s.prove(ctx, subjects, request.AtHeight, request.GetTransactions())
}

// prove makes the state proof of subjects, of which some may be there twice.
func (s *identityService) prove(ctx context.Context, asked []proof.StateSubject, height *uint32, transactions bool) (*keytreev1.StateProof, error) {
	if err := admission.Work(ctx, len(asked)/unitProven); err != nil {
		return nil, err
	}
	if len(asked) > longProof {
		if err := admission.Turn(ctx); err != nil {
			return nil, err
		}
	}
	served, err := s.served()
	if err != nil {
		return nil, err
	}
	at := served.Newest()
	if height != nil {
		at = *height
	}
	if start := s.graph.Params().StartHeight; at < start || at > served.Newest() {
		return nil, fault.Field(codes.OutOfRange, "at_height", "expected a height from %d (start height) to %d (the newest that the state log's checkpoint covers), got %d", start, served.Newest(), at)
	}
	entry, file, err := served.Entry(ctx, at)
	if err != nil {
		return nil, s.fault(err)
	}
	p, err := s.proveState(ctx, at, unique(asked))
	if err != nil {
		return nil, err
	}
	if p.Entry != entry {
		return nil, errMoved
	}
	held := admission.Make(ctx)
	defer held.Release()
	if err := held.Grow(len(p.Tree)); err != nil {
		return nil, err
	}
	shown, err := p.Walk()
	if err != nil {
		return nil, s.fault(err)
	}
	if err := admission.Work(ctx, records(shown)/unitRecords); err != nil {
		return nil, err
	}
	answer := &keytreev1.StateProof{
		AsOfHeight: at, AsOfHash: entry.Block.String(), Log: served.Origin, LogSize: uint32(served.Size), Cut: cut(asked, shown),
	}
	if transactions {
		if answer.LinksWithoutTransactions, err = s.addTransactions(ctx, p, served, shown, held); err != nil {
			return nil, err
		}
	}
	if file.Extra, err = p.Marshal(); err != nil {
		return nil, s.fault(err)
	}
	text := file.Marshal()
	if err := held.Grow(len(text)); err != nil {
		return nil, err
	}
	answer.Proof = string(text)
	return answer, nil
}

// served returns the checkpoint to which proofs lead now, or what a client is told in its place.
func (r *graphReader) served() (*statelog.Served, error) {
	if r.states == nil {
		return nil, errNoStateLog
	}
	if err := r.unavailable(); err != nil {
		return nil, err
	}
	served, err := r.states.Served()
	switch {
	case errors.Is(err, tlog.ErrNone):
		return nil, errUnsigned
	case err != nil:
		r.log.Error().Err(err).Msg("the state log shows nothing that could be proven")
		return nil, status.Error(codes.Unavailable, "the state log shows nothing that could be proven; the server's log has the cause")
	}
	return served, nil
}

// proveState has the graph make the proof as of a height, and counts before what it takes to make the map of an older block.
func (s *identityService) proveState(ctx context.Context, height uint32, subjects []proof.StateSubject) (*proof.StateProof, error) {
	remade, err := s.graph.ProofWork(height)
	if err != nil {
		return nil, s.proofFault(err)
	}
	if err := admission.Work(ctx, remade/unitRemade); err != nil {
		return nil, err
	}
	if remade > longRemade {
		if err := admission.Turn(ctx); err != nil {
			return nil, err
		}
	}
	p, err := s.graph.ProveState(ctx, height, subjects)
	if err != nil {
		return nil, s.proofFault(err)
	}
	return p, nil
}

// proofFault is what a client is told of a proof that the graph does not make.
func (s *identityService) proofFault(err error) error {
	switch {
	case errors.Is(err, graph.ErrRebuild), errors.Is(err, graph.ErrNoStateRoot):
		return fault.Field(codes.FailedPrecondition, "at_height", "%v", err)
	case graph.OffChain(err), errors.Is(err, graph.ErrReorganised):
		return errMoved
	case errors.Is(err, graph.ErrMemory):
		return fault.Field(codes.FailedPrecondition, "at_height", "this server has no memory for the map of that block: ask as of a later one, or of none")
	}
	return s.fault(err)
}

// unique leaves out what is there before.
func unique(subjects []proof.StateSubject) []proof.StateSubject {
	out, seen := make([]proof.StateSubject, 0, len(subjects)), make(map[proof.StateSubject]bool, len(subjects))
	for _, subject := range subjects {
		if !seen[subject] {
			seen[subject] = true
			out = append(out, subject)
		}
	}
	return out
}

// cut returns which of the subjects that were asked for are cut short.
func cut(asked []proof.StateSubject, shown []proof.ProvenSubject) (indexes []uint32) {
	short := make(map[proof.StateSubject]bool)
	for i := range shown {
		if shown[i].Cut {
			short[shown[i].StateSubject] = true
		}
	}
	for i, subject := range asked {
		if short[subject] {
			indexes = append(indexes, uint32(i))
		}
	}
	return indexes
}

// records counts the records that subjects come by.
func records(shown []proof.ProvenSubject) (n int) {
	for i := range shown {
		n += len(shown[i].Keys) + len(shown[i].IDs)
	}
	return n
}

// sendProof writes a state proof over REST, unless there is an error. It is held, and counted, until its client has taken it; a
// long one as a long answer.
func sendProof(ctx context.Context, p *keytreev1.StateProof, err error, out *rest.Answer) error {
	if err != nil {
		return err
	}
	held := admission.Make(ctx)
	defer held.Release()
	if err := held.Grow(len(p.Proof)); err != nil {
		return err
	}
	if len(p.Proof) > longText {
		if err := admission.Long(ctx); err != nil {
			return err
		}
	}
	return writeProof(p, out)
}

// writeProof writes a state proof in JSON, piece by piece.
func writeProof(p *keytreev1.StateProof, out *rest.Answer) error {
	o := jsonObject(append(out.Text, '{'))
	o.number("as_of_height", p.AsOfHeight)
	o.text("as_of_hash", p.AsOfHash)
	o.text("log", p.Log)
	o.number("log_size", p.LogSize)
	o.name("proof")
	out.Text = append(o, '"')
	for text := p.Proof; len(text) > 0; {
		n := min(len(text), admission.Piece)
		for n < len(text) && !utf8.RuneStart(text[n]) {
			n--
		}
		quoted := appendJSONString(nil, text[:n])
		out.Text, text = append(out.Text, quoted[1:len(quoted)-1]...), text[n:]
		if err := out.Pass(); err != nil {
			return err
		}
	}
	o = append(out.Text, '"')
	o.name("cut")
	o = append(o, '[')
	for i, index := range p.Cut {
		if i > 0 {
			o = append(o, ',')
		}
		o = fmt.Append(o, index)
	}
	o = append(o, ']')
	o.number("links_without_transactions", p.LinksWithoutTransactions)
	out.Text = append(o, '}')
	return nil
}
