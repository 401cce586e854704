package client

import (
	"errors"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// TestSessions has two users write to each other.
func TestSessions(t *testing.T) {
	ctx := t.Context()
	s := newServer(t, token.Open{})
	hers, his := s.mustInit(t.TempDir()), s.mustInit(t.TempDir())
	create := func(c *Client, name string) *Identity {
		return must(c.Create(ctx, name, testPassphrase, Wishes{ForwardSec: uid.Mandatory, Paper: new(paper).show}))(t)
	}
	alices := create(hers, alice)
	must(hers.AddKeyInits(ctx, alices, make([]string, 2), Anchor{MixAddress: "mix@example.net"}, day, false))(t)
	bobs := create(his, "bob@example.org") // whom Alice's copy does not have yet

	var taken, spent int
	pay := Payment{
		Take:  func() (string, error) { taken++; return "", nil },
		Spent: func() error { spent++; return nil },
	}
	first := Draft{ReplyTo: session.Address{Mix: "mix@example.com", Nym: []byte("bob")}, Text: []byte("Hi Alice")}
	start := func() (*session.Message, *session.Pending) {
		t.Helper()
		letter, pending, err := his.StartSession(ctx, bobs, alice, first, pay)
		if err != nil {
			t.Fatal(err)
		}
		if letter.To.Mix != "mix@example.net" {
			t.Errorf("the letter goes to %q", letter.To.Mix)
		}
		return must(session.Parse(letter.Message))(t), pending
	}
	m, pending := start()
	if taken != 0 || spent != 1 {
		t.Errorf("a keyserver that wants no token got %d; told %d times that it may be spent", taken, spent)
	}
	kept, ok := bobs.Session(pending.ID)
	if peer, _, begunHere, err := kept.Peer(); !ok || !begunHere || peer != alice || err != nil {
		t.Errorf("Bob keeps a session with %q, begun by him: %v (%v)", peer, begunHere, err)
	}

	if _, err := hers.Receive(ctx, alices, m); !errors.Is(err, session.ErrBehind) {
		t.Errorf("on an old copy: got %v, want %v", err, session.ErrBehind)
	}
	must(hers.Sync(ctx))(t)
	if _, err := his.Receive(ctx, bobs, m); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("for another: got %v, want %v", err, session.ErrUnknown)
	}
	got := must(hers.Receive(ctx, alices, m))(t)
	if got.Kind != session.First || got.From != "bob@example.org" || string(got.Text) != "Hi Alice" || got.Session != pending.ID || got.ReplyTo.Mix != "mix@example.com" {
		t.Errorf("Alice received %+v", got)
	}
	if _, err := hers.Receive(ctx, alices, m); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("again: got %v, want %v", err, session.ErrUnknown)
	}
	kept, ok = alices.Session(got.Session)
	if peer, replyTo, begunHere, err := kept.Peer(); !ok || begunHere || peer != "bob@example.org" || string(replyTo.Nym) != "bob" || err != nil {
		t.Errorf("Alice keeps a session with %q, begun by her: %v (%v)", peer, begunHere, err)
	}

	answer := Draft{ReplyTo: session.Address{Mix: "mix@example.net"}, Text: []byte("Hi Bob")}
	if _, _, err := bobs.Answer(pending.ID, answer); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("Bob answers his own message: got %v, want %v", err, session.ErrUnknown)
	}
	letter, peer, err := alices.Answer(got.Session, answer)
	if err != nil || peer != "bob@example.org" || letter.To.Mix != "mix@example.com" {
		t.Fatalf("Alice answers %q: %v", peer, err)
	}
	m = must(session.Parse(letter.Message))(t)
	got = must(his.Receive(ctx, bobs, m))(t)
	if got.Kind != session.Answer || got.From != alice || string(got.Text) != "Hi Bob" || got.Session != pending.ID {
		t.Errorf("Bob received %+v", got)
	}
	if _, err := his.Receive(ctx, bobs, m); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("the answer again: got %v, want %v", err, session.ErrUnknown)
	}

	// What was received is on disk.
	again := must(hers.OpenIdentity(alice, testPassphrase))(t)
	if len(again.Sessions()) != 1 || len(must(his.OpenIdentity("bob@example.org", testPassphrase))(t).Sessions()) != 0 {
		t.Errorf("Alice keeps %d sessions, expected 1, and Bob none", len(again.Sessions()))
	}
	failed := errors.New("the file of tokens cannot be written")
	pay.Spent = func() error { return failed }
	if _, _, err := his.StartSession(ctx, bobs, alice, first, pay); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
}
