package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	domain    = "example.org"
	aliceName = "alice@" + domain
	bobName   = "bob@" + domain
	aliceNym  = "a nym of Alice's"
	keyInits  = 3
	// further is how many entries Alice lets follow hers.
	further = 3
)

// PlayKeyserver plays the use-case of a keyserver, with everything in dir, and ends
// everything, in whichever way it ends.
func PlayKeyserver(ctx context.Context, h Host, dir string) (err error) {
	k := newKeyserver(dir)
	server, err := h.Servers.StartKeyserver(ctx, k)
	if err != nil {
		return err
	}
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		return server.Stop()
	}
	defer func() { err = errors.Join(err, stop()) }()
	mix, err := StartMix()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mix.Close()) }()
	issuer, err := token.OpenIssuer(k.IssuerFile)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	p := &keyserverPlay{
		out: h.Out, dir: dir, url: server.URL, transport: transport, issuer: issuer, mix: mix, stopServer: stop,
	}
	return p.play(ctx)
}

// keyserverPlay is the use-case, with its parties.
type keyserverPlay struct {
	out        io.Writer
	dir        string
	url        string // of the keyserver
	transport  http.RoundTripper
	issuer     *token.Issuer
	mix        *Mix
	stopServer func() error

	alice, bob, others party
	first              []byte // Bob's message, as the mix delivered it
}

// party is a user of the keyserver, with a folder and one identity of its own.
type party struct {
	client *keyclient.Client
	id     *keyclient.Identity // nil before it was created
}

func (p *keyserverPlay) play(ctx context.Context) (err error) {
	fmt.Fprintf(p.out, "A keyserver for %s is at %s, a mix at %s.\n", domain, p.url, p.mix.Client().Server)
	defer func() {
		for _, party := range []party{p.alice, p.bob, p.others} {
			if party.client != nil {
				err = errors.Join(err, party.client.Close())
			}
		}
	}()
	return p.playAll(ctx, "as the use-case tells", []act{
		{"The hashchain: Alice and Bob copy it", p.copies},
		{"Alice becomes a user", p.register},
		{"Alice waits, and verifies that she is there", p.confirm},
		{"Bob finds Alice, and starts a session", p.startSession},
		{"What is refused", p.refusals},
		{"Alice opens and answers, without the keyserver", p.answer},
	})
}

// act is a part of a demo, which fails if anything is not as it must be.
type act struct {
	title string
	play  func(context.Context) error
}

// playAll plays one scene after the other, and then says what they have shown.
func (p *keyserverPlay) playAll(ctx context.Context, shown string, scenes []act) error {
	for i, scene := range scenes {
		fmt.Fprintf(p.out, "\n── %d. %s %s\n\n", i+1, scene.title, strings.Repeat("─", max(0, 60-len(scene.title))))
		if err := scene.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", scene.title, err)
		}
	}
	fmt.Fprintf(p.out, "\n✓ %s\n\n", shown)
	return nil
}

// says prints what a party does.
func (p *keyserverPlay) says(who, format string, args ...any) {
	fmt.Fprintf(p.out, "%-10s %s\n", who, fmt.Sprintf(format, args...))
}

// checked prints what a party has checked.
func (p *keyserverPlay) checked(format string, args ...any) {
	fmt.Fprintf(p.out, "%-10s ✓ %s\n", "", fmt.Sprintf(format, args...))
}

// join begins the copy of a party.
func (p *keyserverPlay) join(ctx context.Context, name string) (party, error) {
	c, err := keyclient.Init(ctx, filepath.Join(p.dir, name), p.url, "", nil, keyclient.Options{Transport: p.transport})
	return party{client: c}, err
}

func (p *keyserverPlay) token() (string, error) { return p.issuer.Issue(domain) }

// create registers a name for a party. paper hears the escrow key.
func (p *keyserverPlay) create(ctx context.Context, who *party, name string, forwardSec string, paper func(string) error) error {
	pay, err := p.token()
	if err != nil {
		return err
	}
	who.id, err = who.client.Create(ctx, name, []byte("passphrase of "+name), keyclient.Registration{ForwardSec: forwardSec, Token: pay, Paper: paper})
	return err
}

func onPaper(string) error { return nil }

func (p *keyserverPlay) copies(ctx context.Context) (err error) {
	for _, who := range []struct {
		name  string
		party *party
	}{{"Alice", &p.alice}, {"Bob", &p.bob}, {"others", &p.others}} {
		if *who.party, err = p.join(ctx, strings.ToLower(who.name)); err != nil {
			return err
		}
	}
	p.says("Alice, Bob", "ask what the keyserver offers, and download its hashchain from position 0")
	p.checked("each entry is the hash of itself and the one before: %d so far", p.alice.client.Size())
	p.checked("position 0 is keyserver@%s; its message names the key that must sign from now on:", domain)
	p.checked("%x", p.alice.client.ServerKeys()[0].Public)
	if p.alice.client.Fingerprint() != p.bob.client.Fingerprint() {
		return errors.New("expected one hashchain for both, they have two")
	}
	p.checked("both have the same fingerprint, %s", p.alice.client.Fingerprint())
	return nil
}

func (p *keyserverPlay) register(ctx context.Context) error {
	p.says("Alice", "makes SIGKEY and SIGESCROW, and a UID message for %s signed by both", aliceName)
	err := p.create(ctx, &p.alice, aliceName, uid.Strict, func(key string) error {
		p.checked("no entry of her copy has the name")
		p.says("Alice", "puts the escrow key on paper:")
		fmt.Fprintf(p.out, "\n    %s\n    %s\n\n", key[:len(key)/2], key[len(key)/2+1:])
		p.says("Alice", "pays with a token, and calls CreateUID")
		return nil
	})
	if err != nil {
		return err
	}
	p.says("Keyserver", "checks signatures, name, LASTENTRY, dates, token; appends an entry, returns a signed reply")
	p.checked("Alice: the reply is signed by the keyserver's key, and decrypts to her message")
	p.checked("Alice: the entry is in her copy, at position %d; SIGESCROW is deleted here", p.alice.id.Position())

	tokens := make([]string, keyInits)
	for i := range tokens {
		if tokens[i], err = p.token(); err != nil {
			return err
		}
	}
	made, err := p.alice.client.AddKeyInits(ctx, p.alice.id, tokens,
		keyclient.Anchor{MixAddress: MixAddress, NymAddress: canonical.Encode([]byte(aliceNym))}, 30*24*time.Hour, false)
	if err != nil {
		return err
	}
	p.says("Alice", "publishes %d KeyInits, each with a key and her address at the mix for one session", len(made))
	p.checked("the keyserver's receipts are signatures over them")
	return nil
}

func (p *keyserverPlay) confirm(ctx context.Context) error {
	for i := range further {
		name := fmt.Sprintf("somebody.%c@%s", 'a'+i, domain)
		if i == further-1 {
			name = bobName
		}
		who := &p.others
		if name == bobName {
			who = &p.bob
		}
		if err := p.create(ctx, who, name, uid.Mandatory, onPaper); err != nil {
			return err
		}
		p.says("Keyserver", "%s registers, too: position %d", name, who.id.Position())
	}
	if err := p.alice.client.Confirm(ctx, p.alice.id, further, time.Second); err != nil {
		return err
	}
	p.says("Alice", "brings her copy up to date: %d entries", p.alice.client.Size())
	p.checked("her entry is where the keyserver said, as she demanded it, with %d behind it", further)
	p.checked("no other entry has her name, and who asks gets the same message")
	p.says("Alice", "tells Bob her name: %s", aliceName)
	return nil
}

func (p *keyserverPlay) startSession(ctx context.Context) error {
	p.says("Bob", "brings his copy up to date, and searches all of it for the name: the keyserver does not learn it")
	if _, err := p.bob.client.Sync(ctx); err != nil {
		return err
	}
	if a, b := p.alice.client.Head(), p.bob.client.Head(); a != b {
		return fmt.Errorf("expected the head %s, Bob has %s", a, b)
	}
	p.checked("his hashchain ends like Alice's: %s", p.bob.client.Head())
	contact, err := p.bob.client.Lookup(ctx, aliceName)
	if err != nil {
		return err
	}
	if !bytes.Equal(contact.SigKey(), p.aliceKey()) {
		return errors.New("expected Alice's own signature key")
	}
	p.checked("%d entry, at position %d; the message is signed by SIGKEY and SIGESCROW", len(contact.History), contact.Position())
	p.says("Bob", "fetches a KeyInit, makes the first message, keeps what opens the answer, and sends it by mail")
	_, err = p.bob.client.Send(ctx, p.bob.id, aliceName, keyclient.Draft{
		ReplyTo: session.Address{Mix: MixAddress, Nym: []byte("bob, this time")}, Text: []byte("Hello Alice, it is Bob."),
	}, keyclient.Payment{Take: p.token}, p.mix.Client())
	if err != nil {
		return err
	}
	p.checked("the KeyInit is signed by Alice's SIGKEY, valid now, for this keyserver")
	if p.first, err = p.mix.Fetch(aliceNym); err != nil {
		return err
	}
	p.says("Mix", "has a mail of %d bytes for the nym, from nobody; delivers it to Alice", len(p.first))
	for _, secret := range []string{"Hello Alice", aliceName, bobName} {
		if bytes.Contains(p.first, []byte(secret)) {
			return fmt.Errorf("the mix can read %q", secret)
		}
	}
	p.checked("neither the text nor a name can be read in it")
	return nil
}

func (p *keyserverPlay) aliceKey() []byte { return p.alice.id.Message().Content.SigKey.Public() }

// refusals shows what does not work.
func (p *keyserverPlay) refusals(ctx context.Context) error {
	size := p.others.client.Size()
	err := p.create(ctx, &party{client: p.others.client}, "A1ice@"+domain, uid.Strict, onPaper)
	if err := p.refused("a name that looks like hers, A1ice@"+domain, err, keyclient.ErrTaken); err != nil {
		return err
	}
	if p.others.client.Size() < size {
		return errors.New("the hashchain became shorter")
	}

	contact, err := p.bob.client.Lookup(ctx, aliceName)
	if err != nil {
		return err
	}
	first, err := session.Parse(p.first)
	if err != nil {
		return err
	}
	seen := map[[sha256.Size]byte]bool{first.For: true}
	for range keyInits - 1 {
		k, _, err := p.bob.client.FetchKeyInit(ctx, contact, keyclient.Payment{})
		if err != nil {
			return err
		}
		if err := p.bob.client.UsedKeyInit(contact, k.Digest()); err != nil {
			return err
		}
		seen[k.Digest()] = true
	}
	if len(seen) != keyInits {
		return errors.New("a KeyInit was handed out twice")
	}
	_, _, err = p.bob.client.FetchKeyInit(ctx, contact, keyclient.Payment{})
	if err == nil || !errors.As(err, new(*keyclient.ServerError)) {
		return fmt.Errorf("expected that no KeyInit is left, got %w", err)
	}
	p.checked("refused: a KeyInit twice. All were different, and none is left")

	victim, err := keyclient.Init(ctx, filepath.Join(p.dir, "victim"), p.url, "", nil, keyclient.Options{Transport: tampering{p.transport}})
	if victim != nil {
		if err := victim.Close(); err != nil {
			return err
		}
	}
	if err := p.refused("a hashchain with one letter changed", err, keyclient.ErrUnsigned); err != nil {
		return err
	}

	changed := bytes.Clone(p.first)
	changed[len(changed)/2] ^= 1
	return p.refused("Bob's message with one bit changed", p.open(ctx, changed), session.ErrForged)
}

// refused checks that something was, for a reason.
func (p *keyserverPlay) refused(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: expected it refused (%w), got %w", what, want, err)
	}
	p.checked("refused: %s: %s", what, oneLine(err))
	return nil
}

// open has Alice open a message, with her copy as it is.
func (p *keyserverPlay) open(ctx context.Context, message []byte) error {
	m, err := session.Parse(message)
	if err != nil {
		return err
	}
	_, err = p.alice.client.Receive(ctx, p.alice.id, m)
	return err
}

func (p *keyserverPlay) answer(ctx context.Context) error {
	if _, err := p.alice.client.Sync(ctx); err != nil {
		return err
	}
	if err := p.stopServer(); err != nil {
		return err
	}
	p.says("Keyserver", "is stopped")
	m, err := session.Parse(p.first)
	if err != nil {
		return err
	}
	got, err := p.alice.client.Receive(ctx, p.alice.id, m)
	if err != nil {
		return err
	}
	if got.From != bobName {
		return fmt.Errorf("expected a message from %s, got one from %s", bobName, got.From)
	}
	p.says("Alice", "opens Bob's message with the private key of the KeyInit, which is deleted then: %q", got.Text)
	p.checked("the sender's key is in the UID message in force of %s, by her own copy of the hashchain", got.From)
	if err := p.refused("the same message again", p.open(ctx, p.first), session.ErrUnknown); err != nil {
		return err
	}

	letter, _, err := p.alice.id.Answer(got.Session, keyclient.Draft{
		ReplyTo: session.Address{Mix: MixAddress, Nym: []byte("alice, this time")}, Text: []byte("Hello Bob, it is Alice."),
	})
	if err != nil {
		return err
	}
	p.says("Alice", "answers with a new key for this session, to the address that came with the message")
	if err := p.mix.Client().Send(ctx, letter); err != nil {
		return err
	}
	delivered, err := p.mix.Fetch("bob, this time")
	if err != nil {
		return err
	}
	if m, err = session.Parse(delivered); err != nil {
		return err
	}
	if got, err = p.bob.client.Receive(ctx, p.bob.id, m); err != nil {
		return err
	}
	p.says("Bob", "opens the answer, and deletes the session's key: %q", got.Text)
	p.checked("it is in the session that he began, and only who has the private keys of %s could make it", got.From)
	return nil
}

// oneLine returns an error's text with its lines joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
