package client

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
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
		return must(c.Create(ctx, name, testPassphrase, Registration{ForwardSec: uid.Mandatory, Paper: new(paper).show}))(t)
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
	start := func() (*session.Message, *Sent) {
		t.Helper()
		var by postman
		sent, err := his.Send(ctx, bobs, alice, first, pay, &by)
		if err != nil {
			t.Fatal(err)
		}
		if sent.By.Mix != "mix@example.net" || sent.To != alice {
			t.Errorf("sent: %+v", sent)
		}
		return must(session.Parse(by.letters[0].Message))(t), sent
	}
	m, sent := start()
	if taken != 0 || spent != 1 {
		t.Errorf("a keyserver that wants no token got %d; told %d times that it may be spent", taken, spent)
	}
	kept, ok := bobs.Session(sent.Session)
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
	if got.Kind != session.First || got.From != "bob@example.org" || string(got.Text) != "Hi Alice" || got.Session != sent.Session || got.ReplyTo.Mix != "mix@example.com" {
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
	if _, _, err := bobs.Answer(sent.Session, answer); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("Bob answers his own message: got %v, want %v", err, session.ErrUnknown)
	}
	letter, peer, err := alices.Answer(got.Session, answer)
	if err != nil || peer != "bob@example.org" || letter.To.Mix != "mix@example.com" {
		t.Fatalf("Alice answers %q: %v", peer, err)
	}
	m = must(session.Parse(letter.Message))(t)
	got = must(his.Receive(ctx, bobs, m))(t)
	if got.Kind != session.Answer || got.From != alice || string(got.Text) != "Hi Bob" || got.Session != sent.Session {
		t.Errorf("Bob received %+v", got)
	}
	if _, err := his.Receive(ctx, bobs, m); !errors.Is(err, session.ErrReplay) {
		t.Errorf("the answer again: got %v, want %v", err, session.ErrReplay)
	}
	// Until it was shown it is there, without what has opened it.
	bobs = must(his.OpenIdentity("bob@example.org", testPassphrase))(t)
	kept, _ = bobs.Session(got.Session)
	if peer, _, begunHere, err := kept.Peer(); err != nil || peer != alice || !begunHere || len(kept.State) > 0 || kept.Answer == nil || string(kept.Answer.Text) != "Hi Bob" {
		t.Errorf("kept: %+v, %v", kept, err)
	}
	if err := bobs.EndSession(got.Session); err != nil {
		t.Error(err)
	}
	if _, err := his.Receive(ctx, bobs, m); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("the answer again, after it was shown: got %v, want %v", err, session.ErrUnknown)
	}

	// What was received is on disk.
	again := must(hers.OpenIdentity(alice, testPassphrase))(t)
	if len(again.Sessions()) != 1 || len(must(his.OpenIdentity("bob@example.org", testPassphrase))(t).Sessions()) != 0 {
		t.Errorf("Alice keeps %d sessions, expected 1, and Bob none", len(again.Sessions()))
	}
	failed := errors.New("the file of tokens cannot be written")
	pay.Spent = func() error { return failed }
	if _, err := his.Send(ctx, bobs, alice, first, pay, new(postman)); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	pay.Spent = nil
	if n := s.called("KeyInitRepository.FetchKeyInit"); n != 2 {
		t.Fatalf("%d KeyInits were fetched, want 2", n)
	}
	if _, err := his.Send(ctx, bobs, alice, first, pay, new(postman)); err != nil || s.called("KeyInitRepository.FetchKeyInit") != 2 {
		t.Errorf("the one that was fetched is lost: %v", err)
	}
}

// postman is a Deliverer that fails as it is told to.
type postman struct {
	ready, send error
	letters     []session.Letter // that it took
}

func (p *postman) Ready(context.Context) error { return p.ready }

func (p *postman) Send(_ context.Context, letter *session.Letter) error {
	if p.send == nil || errors.Is(p.send, session.ErrUnsure) {
		p.letters = append(p.letters, *letter)
	}
	return p.send
}

// TestSendAgain has a mail server fail in each way: no KeyInit is lost, and no message is
// made twice of one KeyInit that the recipient may have.
func TestSendAgain(t *testing.T) {
	ctx := t.Context()
	s := newServer(t, token.Open{})
	hers, his := s.mustInit(t.TempDir()), s.mustInit(t.TempDir())
	create := func(c *Client, name string) *Identity {
		return must(c.Create(ctx, name, testPassphrase, Registration{ForwardSec: uid.Mandatory, Paper: new(paper).show}))(t)
	}
	alices := create(hers, alice)
	must(hers.AddKeyInits(ctx, alices, make([]string, 2), Anchor{MixAddress: "mix@example.net"}, day, false))(t)
	bobs := create(his, "bob@example.org")
	must(hers.Sync(ctx))(t)
	draft := func(text string) Draft {
		return Draft{ReplyTo: session.Address{Mix: "mix@example.com"}, Text: []byte(text)}
	}
	fetched := func(want int) {
		t.Helper()
		if n := s.called("KeyInitRepository.FetchKeyInit"); n != want {
			t.Errorf("%d KeyInits were fetched, want %d", n, want)
		}
		bobs = must(his.OpenIdentity("bob@example.org", testPassphrase))(t) // what is on disk counts
	}
	down := errors.New("down")
	send := func(text string, by *postman, want error) {
		t.Helper()
		if _, err := his.Send(ctx, bobs, alice, draft(text), Payment{}, by); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", text, err, want)
		}
	}
	send("not ready", &postman{ready: down}, down)
	if count := must(hers.CountKeyInits(ctx, alices))(t); count != (keyinit.Count{Once: 2}) {
		t.Errorf("the keyserver has %+v", count)
	}
	fetched(0)
	send("too long"+strings.Repeat("x", session.MaxText), new(postman), session.ErrTooLong)
	fetched(0)
	send("refused", &postman{send: down}, down)
	fetched(1)
	if n := len(bobs.Sessions()); n != 0 {
		t.Errorf("%d sessions are kept of what nobody has", n)
	}
	first := &postman{send: session.ErrUnsure}
	send("the connection broke", first, session.ErrUnsure)
	fetched(1)
	send("something else", new(postman), nil)
	fetched(2)
	send("more", new(postman), ErrNoKeyInits)
	fetched(3)
	again := new(postman)
	send("the connection broke", again, nil)
	fetched(3)
	if string(again.letters[0].Message) != string(first.letters[0].Message) {
		t.Error("another letter was made on the same KeyInit")
	}
	send("more", new(postman), ErrNoKeyInits) // nothing is left over
	if got := must(hers.Receive(ctx, alices, must(session.Parse(again.letters[0].Message))(t)))(t); string(got.Text) != "the connection broke" {
		t.Errorf("received %q", got.Text)
	}
	if count := must(hers.CountKeyInits(ctx, alices))(t); count != (keyinit.Count{}) {
		t.Errorf("the keyserver has %+v", count)
	}
	must(hers.AddKeyInits(ctx, alices, make([]string, 1), Anchor{MixAddress: "mix@example.net"}, day, true))(t)
	if count := must(hers.CountKeyInits(ctx, alices))(t); count != (keyinit.Count{Fallback: 1}) {
		t.Errorf("the keyserver has %+v", count)
	}
	if left := must(his.fetchedOf(alice))(t); len(left) != 0 {
		t.Errorf("%d KeyInits are kept", len(left))
	}
}
