package linkcheck_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
)

var (
	child, parent, other = protocol.KeyHash{1}, protocol.KeyHash{2}, protocol.KeyHash{3}
	ref                  = chainhash.Hash{7}
)

func address(key protocol.KeyHash) string {
	return protocol.FormatAddress(key, &chaincfg.RegressionNetParams)
}

// server answers about what ref names, and about two keys.
type server struct {
	status        client.Status
	action        *client.Action
	pending       *client.Action
	parentOfChild string
	rootOfParent  string
}

func (s *server) Status(context.Context) (*client.Status, error) { return &s.status, nil }

func (s *server) Resolve(_ context.Context, of string) (*client.Resolution, error) {
	switch of {
	case address(child):
		return &client.Resolution{MainAddress: of, ParentAddress: s.parentOfChild}, nil
	case address(parent):
		return &client.Resolution{MainAddress: s.rootOfParent}, nil
	}
	return nil, status.Error(codes.InvalidArgument, "who is that?")
}

func (s *server) Action(_ context.Context, txid string) (*client.Action, error) {
	if s.action == nil || txid != ref.String() {
		return nil, status.Error(codes.NotFound, "no such action")
	}
	return s.action, nil
}

func (s *server) Pending(_ context.Context, txid string) (*client.Action, error) {
	if s.pending == nil || txid != ref.String() {
		return nil, status.Error(codes.NotFound, "no such action")
	}
	return s.pending, nil
}

// TestCheck has one case for each reason, and for each note.
func TestCheck(t *testing.T) {
	request := linkcheck.Action{Kind: protocol.MLR, Author: child, Parent: parent}
	accept := linkcheck.Action{Kind: protocol.MLA, Author: parent, Ref: ref}
	revoke := linkcheck.Action{Kind: protocol.MCR, Author: parent, Ref: ref}
	mlr := func(change func(a *client.Action)) func(*server) {
		a := &client.Action{Kind: "MLR", State: "OPEN", ChildAddress: address(child), ParentAddress: address(parent)}
		change(a)
		return func(s *server) { s.action = a }
	}
	mla := func(change func(a *client.Action)) func(*server) {
		a := &client.Action{Kind: "MLA", State: "IN_FORCE", AuthorAddress: address(parent)}
		change(a)
		return func(s *server) { s.action = a }
	}
	good := func(*client.Action) {}
	for _, test := range []struct {
		name   string
		act    linkcheck.Action
		change func(*server)
		want   linkcheck.Reason
		note   string
	}{
		{name: "request", act: request},
		{name: "request to oneself", act: linkcheck.Action{Kind: protocol.MLR, Author: child, Parent: child}, want: linkcheck.SelfLink},
		{name: "request of who has a parent", act: request, change: func(s *server) { s.parentOfChild = address(other) }, note: "the child has a parent, " + address(other)},
		{name: "request that would be a loop", act: request, change: func(s *server) { s.rootOfParent = address(child) }, note: "is the root of the parent's own tree"},
		{name: "another network", act: accept, change: func(s *server) { s.status.Network = "mainnet" }, note: "is on mainnet, not on regtest"},
		{name: "not synced", act: request, change: func(s *server) { s.status.Synced = false }, note: "has not caught up"},

		{name: "accept", act: accept, change: mlr(good)},
		{name: "accept of an accept", act: accept, change: mla(good), want: linkcheck.WrongKind},
		{name: "accept of a refused request", act: accept, change: mlr(func(a *client.Action) { a.State = "REFUSED" }), want: linkcheck.RequestRefused},
		{name: "accept by another", act: linkcheck.Action{Kind: protocol.MLA, Author: other, Ref: ref}, change: mlr(good), want: linkcheck.NotTheParent},
		{name: "accept again", act: accept, change: mlr(func(a *client.Action) { a.State = "USED" }), want: linkcheck.RequestUsed},
		{name: "accept of who has a parent", act: accept, change: func(s *server) { mlr(good)(s); s.parentOfChild = address(other) }, want: linkcheck.ChildHasParent},
		{name: "accept that is a loop", act: accept, change: func(s *server) { mlr(good)(s); s.rootOfParent = address(child) }, want: linkcheck.Loop},

		{name: "revoke", act: revoke, change: mla(good)},
		{name: "revoke of a request", act: revoke, change: mlr(good), want: linkcheck.WrongKind},
		{name: "revoke of a refused accept", act: revoke, change: mla(func(a *client.Action) { a.State = "REFUSED" }), want: linkcheck.AcceptRefused},
		{name: "revoke again", act: revoke, change: mla(func(a *client.Action) { a.State = "CUT" }), want: linkcheck.AlreadyRevoked},
		{name: "revoke by another", act: linkcheck.Action{Kind: protocol.MCR, Author: other, Ref: ref}, change: mla(good), want: linkcheck.NotTheParent},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &server{status: client.Status{Network: "regtest", Synced: true}, rootOfParent: address(parent)}
			if test.change != nil {
				test.change(s)
			}
			var notes []string
			c := &linkcheck.Checker{Server: s, Name: "here", Network: &chaincfg.RegressionNetParams, Note: func(text string) { notes = append(notes, text) }}
			err := c.Check(t.Context(), test.act)
			var refusal *linkcheck.Refusal
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v", err)
			case test.want != "" && (!errors.As(err, &refusal) || refusal.Reason != test.want):
				t.Errorf("got %v, want it refused as %s", err, test.want)
			}
			if said := strings.Join(notes, "\n"); (test.note == "") != (said == "") || !strings.Contains(said, test.note) {
				t.Errorf("notes %q, want %q", said, test.note)
			}
		})
	}
}

// TestCheckUnconfirmed refers to what is in no block yet.
func TestCheckUnconfirmed(t *testing.T) {
	script, err := protocol.RequestScript(parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	funds := []protocol.UTXO{{Value: 10_000, Script: protocol.P2PKHScript(child)}}
	request, err := protocol.NewRecordTx(script, funds, child, 1)
	if err != nil {
		t.Fatal(err)
	}
	record, err := (&protocol.Anchor{Domain: "example.org"}).Script()
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := protocol.NewRecordTx(record, funds, child, 1)
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("the node does not answer")
	unknown := func(context.Context, chainhash.Hash) ([]byte, bool, error) { return nil, false, nil }
	found := func(raw []byte) func(context.Context, chainhash.Hash) ([]byte, bool, error) {
		return func(context.Context, chainhash.Hash) ([]byte, bool, error) { return raw, true, nil }
	}
	pending := func(state string) *client.Action {
		return &client.Action{Kind: "MLR", State: state, ParentAddress: address(parent), ChildAddress: address(child)}
	}
	for _, test := range []struct {
		name    string
		author  protocol.KeyHash
		pending *client.Action
		ask     func(context.Context, chainhash.Hash) ([]byte, bool, error)
		want    error
		reason  linkcheck.Reason
		note    string
	}{
		{name: "nobody to ask", author: parent, want: linkcheck.ErrNoAction},
		{name: "nobody knows it", author: parent, ask: unknown, want: linkcheck.ErrNoAction},
		{name: "no action", author: parent, ask: found(anchor.Raw()), want: linkcheck.ErrNoAction},
		{name: "torn", author: parent, ask: found(request.Raw()[:9]), want: protocol.ErrMalformed},
		{name: "no answer", author: parent, ask: func(context.Context, chainhash.Hash) ([]byte, bool, error) { return nil, false, failed }, want: failed},
		{name: "good", author: parent, ask: found(request.Raw()), note: "is not confirmed yet"},
		{name: "pending", author: parent, pending: pending("OPEN"), note: "is not confirmed yet"},
		{name: "another is asked in what is pending", author: other, pending: pending("OPEN"), reason: linkcheck.NotTheParent, note: "is not confirmed yet"},
		{name: "pending and accepted", author: parent, pending: pending("USED"), reason: linkcheck.RequestUsed, note: "is not confirmed yet"},
		{name: "another is asked", author: other, ask: found(request.Raw()), reason: linkcheck.NotTheParent, note: "is not confirmed yet"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var notes []string
			c := &linkcheck.Checker{
				Server: &server{status: client.Status{Network: "regtest", Synced: true}, pending: test.pending}, Name: "here", Network: &chaincfg.RegressionNetParams,
				Unconfirmed: test.ask, Note: func(text string) { notes = append(notes, text) },
			}
			err := c.Check(t.Context(), linkcheck.Action{Kind: protocol.MLA, Author: test.author, Ref: ref})
			var refusal *linkcheck.Refusal
			switch {
			case test.reason != "":
				if !errors.As(err, &refusal) || refusal.Reason != test.reason {
					t.Errorf("got %v, want it refused as %s", err, test.reason)
				}
			case !errors.Is(err, test.want):
				t.Errorf("got %v, want %v", err, test.want)
			}
			if said := strings.Join(notes, "\n"); (test.note == "") != (said == "") || !strings.Contains(said, test.note) {
				t.Errorf("notes %q, want %q", said, test.note)
			}
		})
	}
}
