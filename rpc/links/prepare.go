package links

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// PrepareLink implements LinkService.
func (s *Service) PrepareLink(ctx context.Context, request *keytreev1.PrepareLinkRequest) (*keytreev1.PrepareLinkResponse, error) {
	act, script, err := s.parseAction(request)
	if err != nil {
		return nil, err
	}
	named, err := parseCoins(request.GetCoins())
	if err != nil {
		return nil, err
	}
	if rate := request.GetFeeRate(); rate > protocol.MaxFeeRate {
		return nil, fault.Field(codes.InvalidArgument, "fee_rate", "expected up to %d, got %d", protocol.MaxFeeRate, rate)
	}
	form, err := parseForm(request)
	if err != nil {
		return nil, err
	}
	access, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	spendable, err := s.spendable(ctx, access, act.Author, named)
	if err != nil {
		return nil, s.fault(err)
	}
	tx, err := protocol.NewLinkTx(script, protocol.Funding{
		Author: act.Author, UTXOs: spendable, FeeRate: int64(request.GetFeeRate()), Schnorr: form.wallet,
	})
	if err != nil {
		return nil, s.fault(err)
	}
	expected, err := s.expect(ctx, access, act)
	if err != nil && !errors.As(err, new(*linkcheck.Refusal)) {
		return nil, s.fault(err)
	}
	subject := signing.Subject{
		Kind: act.Kind, Counterpart: expected.Counterpart, Reference: act.Ref.String(), Message: expected.Message, Fee: tx.Fee,
	}
	params, err := form.params(tx, subject.Prompt())
	if err != nil {
		return nil, s.fault(err)
	}
	return &keytreev1.PrepareLinkResponse{Params: params, Facts: &keytreev1.LinkFacts{
		Kind: act.Kind.String(), AuthorAddress: protocol.FormatAddress(act.Author, s.c.Net),
		CounterpartAddress: expected.Counterpart, Says: signing.CallsItself(expected.Message),
		FeeSatoshi: tx.Fee, ChangeSatoshi: tx.Change(), Expected: expected.State,
	}}, nil
}

// parseAction reads what is to be published, and its script.
func (s *Service) parseAction(request *keytreev1.PrepareLinkRequest) (act linkcheck.Action, script []byte, err error) {
	if act.Author, err = protocol.ParseAddress(request.GetAuthorAddress(), s.c.Net); err != nil {
		return act, nil, fault.Field(codes.InvalidArgument, "author_address", "%v", err)
	}
	message := []byte(request.GetMessage())
	switch kind := request.GetKind(); kind {
	case "MLR":
		if act.Parent, err = protocol.ParseAddress(request.GetParentAddress(), s.c.Net); err != nil {
			return act, nil, fault.Field(codes.InvalidArgument, "parent_address", "%v", err)
		}
		act.Kind = protocol.MLR
		script, err = protocol.RequestScript(act.Parent, message)
	case "MLA", "MCR":
		if act.Ref, err = parseHash("ref_tx_hash", request.GetRefTxHash()); err != nil {
			return act, nil, err
		}
		if act.Kind = protocol.MLA; kind == "MCR" {
			act.Kind = protocol.MCR
		}
		if script, err = protocol.AcceptScript(act.Ref, message); kind == "MCR" {
			script, err = protocol.RevokeScript(act.Ref, message)
		}
	default:
		return act, nil, fault.Field(codes.InvalidArgument, "kind", "expected MLR, MLA or MCR, got %q", fault.Shortened(kind))
	}
	if err != nil {
		return act, nil, fault.Field(codes.InvalidArgument, "message", "%v", err)
	}
	return act, script, nil
}

// parseCoins reads the coins that a client names.
func parseCoins(list []*keytreev1.LinkCoin) (named []protocol.UTXO, err error) {
	if len(list) > maxCoins {
		return nil, fault.Field(codes.InvalidArgument, "coins", "expected up to %d, got %d", maxCoins, len(list))
	}
	for _, c := range list {
		hash, err := parseHash("coins", c.GetTxHash())
		if err != nil {
			return nil, err
		}
		if v := c.GetValueSatoshi(); v < 0 || v > protocol.MaxSatoshi {
			return nil, fault.Field(codes.InvalidArgument, "coins", "expected a value from 0 to %d satoshi, got %d", int64(protocol.MaxSatoshi), v)
		}
		named = append(named, protocol.UTXO{OutPoint: wire.OutPoint{Hash: hash, Index: c.GetOutputIndex()}, Value: c.GetValueSatoshi()})
	}
	return named, nil
}

func parseHash(field, s string) (chainhash.Hash, error) {
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil || len(s) != chainhash.MaxHashStringSize {
		return chainhash.Hash{}, fault.Field(codes.InvalidArgument, field, "expected a txid of %d hex characters, got %q", chainhash.MaxHashStringSize, fault.Shortened(s))
	}
	return *hash, nil
}

var errNoIndex = status.Error(codes.FailedPrecondition,
	"coins: this server cannot tell what an address can spend without having its node look through all outputs: name the coins")

// spendable returns the coins that are named, or what the author has.
func (s *Service) spendable(ctx context.Context, a *reading, author protocol.KeyHash, named []protocol.UTXO) ([]protocol.UTXO, error) {
	if len(named) > 0 {
		return coins.Named(ctx, a, author, named)
	}
	if !a.Indexed {
		return nil, errNoIndex
	}
	utxos, _, err := coins.Spendable(ctx, a, author)
	if errors.Is(err, node.ErrUnsuitable) { // a bchd without --addrindex
		return nil, errNoIndex
	}
	return utxos, err
}

// form is how a wallet is asked.
type form struct {
	wallet  bool // it is asked by an object, and signs by Schnorr
	wizard  bool
	keyPath signing.KeyPath // wizard
}

func parseForm(request *keytreev1.PrepareLinkRequest) (f form, err error) {
	switch format := request.GetFormat(); format {
	case "", "walletconnect":
		f.wallet = true
	case "wizardconnect":
		f.wallet, f.wizard = true, true
		if f.keyPath, err = signing.ParseKeyPath(request.GetKeyPath()); err != nil {
			return f, fault.Field(codes.InvalidArgument, "key_path", "%v", err)
		}
	case "hex":
	default:
		return f, fault.Field(codes.InvalidArgument, "format", "expected walletconnect, wizardconnect or hex, got %q", fault.Shortened(format))
	}
	if !f.wizard && request.GetKeyPath() != "" {
		return f, fault.Field(codes.InvalidArgument, "key_path", "goes with the format wizardconnect")
	}
	return f, nil
}

func (f form) params(tx *protocol.RecordTx, prompt string) (*structpb.Value, error) {
	if !f.wallet {
		return structpb.NewStringValue(hex.EncodeToString(tx.Raw())), nil
	}
	var request any = signing.WalletConnect(tx, prompt)
	if f.wizard {
		request = signing.WizardConnect(tx, prompt, f.keyPath)
	}
	text, err := signing.JSON(request)
	if err != nil {
		return nil, err
	}
	value := new(structpb.Value)
	return value, value.UnmarshalJSON(text)
}
