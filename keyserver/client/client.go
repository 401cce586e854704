package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

var (
	// ErrNotInitialized says that a folder has no copy of a hashchain: see Init.
	ErrNotInitialized = errors.New("no copy of a keyserver's hashchain")
	// ErrInitialized says that a folder belongs to another keyserver.
	ErrInitialized = errors.New("the folder belongs to another keyserver")
	// ErrLocked says that another process works with the folder.
	ErrLocked = errors.New("another process uses the folder")
	// ErrDamaged says that a file in the folder is not what was written. If it is not
	// ErrDamagedCopy, take it from a backup; or Init another folder, and copy the files
	// of identities into it.
	ErrDamaged = errors.New("local file damaged")
	// ErrDamagedCopy is ErrDamaged about the copy of the hashchain, or what was found in
	// it: Resync begins it again.
	ErrDamagedCopy = fmt.Errorf("%w, of what can be downloaded again", ErrDamaged)
	// ErrToken says that a call has to be paid with a token, and none was given.
	ErrToken = errors.New("a token is needed")
	// ErrFingerprint says that the chain does not begin as it should.
	ErrFingerprint = errors.New("another hashchain than expected")
)

// Options are what a client is told. All may be left out.
type Options struct {
	Transport http.RoundTripper // http.DefaultTransport by default
	Now       func() time.Time  // the clock; time.Now by default
	// Progress is called now and then while something takes long, from the goroutine
	// that called: what is done is "downloading", "comparing", "searching" or
	// "waiting"; done and all are entries.
	Progress func(what string, done, all uint64)
	// Notice is called with a sentence about what was done to the folder that nobody
	// asked for, from the goroutine that called.
	Notice func(text string)
	// Policy is what Init pins (Pin) before it downloads anything; nil to pin nothing.
	Policy []byte
	// Plaintext lets tokens go to a keyserver beyond this machine without TLS.
	Plaintext bool

	readOnly    bool          // OpenReadOnly
	argonMemory uint32        // KiB; tests take less
	patience    time.Duration // with a keyserver that says nothing; tests take less
}

// complete returns the options with what was left out.
func (o Options) complete() Options {
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = func(string, uint64, uint64) {}
	}
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	if o.argonMemory == 0 {
		o.argonMemory = argonMemory
	}
	if o.patience == 0 {
		o.patience = patience
	}
	return o
}

// Client is a folder with the copy of a keyserver's hashchain and the identities
// of its user. It is for one goroutine at a time.
type Client struct {
	dir   string
	opt   Options
	lock  *flock.Flock
	wire  *wire
	caps  *capabilities // nil until the first call
	since uint64        // size of the copy when caps came
	// compared is set when caps was found to agree with the chain.
	compared bool
	// pin is the hash that the chain's first entry must have; nil: whatever comes.
	pin   *hashchain.Hash
	chain *chainCopy
	state state
}

// state is keyserver.json.
type state struct {
	Domain string     `json:"domain"`
	URL    string     `json:"url"`
	Size   uint64     `json:"size"` // entries in the copy
	Head   []byte     `json:"head"` // hash of the last
	Keys   serverKeys `json:"keys"` // of the keyserver, each since the entry that named it
	// Message is the keyserver's last UID message, which the next must follow.
	Message *uid.Message `json:"message"`

	// Fingerprint is the hash of the first entry. It stays, once there was one. Earlier
	// versions wrote neither this nor what follows.
	Fingerprint []byte `json:"fingerprint,omitempty"`
	// Covers is the keyserver's reply about the copy's last entry: its signature covers
	// all of the copy.
	Covers *uid.Reply `json:"covers,omitempty"`
	// Before is what Covers was before a Resync, until the copy is as long again.
	Before *uid.Reply `json:"before,omitempty"`

	// Policy is the pinned one, as a file has it; "" for none. Seen is the newest checkpoint of the
	// keyserver's log that does as it demands, LogKey the key that has signed it.
	Policy string `json:"policy,omitempty"`
	Seen   *seen  `json:"seen,omitempty"`
	LogKey string `json:"log_key,omitempty"`
}

const (
	stateFile     = "keyserver.json"
	chainFile     = "chain"
	lookupsDir    = "lookups"
	identitiesDir = "identities"
	fetchedDir    = "fetched"
	evidenceDir   = "evidence"

	// maxFile is the most bytes that are read of a file other than chain.
	maxFile = 64 << 20
)

// Init begins a copy of the hashchain of a keyserver in a folder, which is made if
// it does not exist, and downloads it from position 0. Called again for the same
// keyserver, also at another URL, it goes on where it was. domain is the one to use of a keyserver that
// serves several; "" if it serves one. fingerprint is that of the expected chain,
// nil to take whatever comes.
//
// The client is returned, open, also with an error of the download, unless that
// shows the folder or the keyserver to be the wrong one. ErrInitialized if the folder
// has the copy of another hashchain.
func Init(ctx context.Context, dir, url, domain string, fingerprint *hashchain.Hash, opt Options) (*Client, error) {
	if err := CheckURL(url); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := open(dir, opt)
	if errors.Is(err, ErrNotInitialized) {
		c, err = begin(ctx, dir, url, domain, opt)
	} else if err == nil && c.Size() == 0 {
		if err = c.choose(ctx, url, domain); err != nil {
			err = errors.Join(err, c.Close())
		}
	}
	if err != nil {
		return nil, err
	}
	if domain != "" && c.state.Domain != domain {
		err = fmt.Errorf("%w: %s (%s)", ErrInitialized, c.state.Domain, c.state.URL)
	} else if c.state.URL != url {
		err = c.move(ctx, url)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if fingerprint != nil && c.pin != nil && *fingerprint != *c.pin {
		err = fmt.Errorf("%w: it begins with %s", ErrFingerprint, *c.pin)
	} else if fingerprint != nil {
		c.pin = fingerprint
	}
	if err == nil && opt.Policy != nil {
		err = c.Pin(opt.Policy)
	}
	if err == nil {
		_, err = c.Sync(ctx)
	}
	if errors.Is(err, ErrFingerprint) {
		return nil, errors.Join(err, c.Close())
	}
	return c, err
}

// choose writes where the keyserver of a copy that has no entry yet is, and its domain.
// What an earlier attempt was told of that, nobody had signed.
func (c *Client) choose(ctx context.Context, url, domain string) error {
	w := newWire(url, c.opt)
	domain, err := w.domain(ctx, domain)
	if err != nil {
		return err
	}
	c.wire, c.state.URL, c.state.Domain = w, url, domain
	return c.saveState()
}

// move goes on at another URL, if the keyserver there has a hashchain that begins like
// the copy: ErrInitialized otherwise.
func (c *Client) move(ctx context.Context, url string) error {
	before := c.state.URL
	c.wire, c.state.URL = newWire(url, c.opt), url
	_, err := c.online(ctx)
	if err == nil && c.chain.Size() > 0 {
		err = c.checkFirst(ctx, c.Fingerprint())
	}
	if errors.Is(err, ErrUnsupported) || errors.Is(err, ErrFingerprint) {
		return fmt.Errorf("%w: %s (%s): %s: %w", ErrInitialized, c.state.Domain, before, url, err)
	}
	if err != nil {
		return err
	}
	return c.saveState()
}

// checkFirst compares the first entry that is shown with the expected one.
func (c *Client) checkFirst(ctx context.Context, fingerprint hashchain.Hash) error {
	caps, err := c.online(ctx)
	if err != nil {
		return err
	}
	entries, err := c.wire.entries(ctx, caps, 0, 1)
	if err == nil && entries[0].Hash() != fingerprint {
		err = fmt.Errorf("%w: it begins with %s", ErrFingerprint, entries[0].Hash())
	}
	return err
}

// begin writes the state of a copy that has no entry yet.
func begin(ctx context.Context, dir, url, domain string, opt Options) (*Client, error) {
	domain, err := newWire(url, opt).domain(ctx, domain)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{lookupsDir, identitiesDir, evidenceDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, stateFile), state{Domain: domain, URL: url}); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	if err := lock.Unlock(); err != nil {
		return nil, err
	}
	return open(dir, opt)
}

// Open opens a folder that Init has made. ErrNotInitialized, ErrLocked, ErrDamaged.
func Open(dir string, opt Options) (*Client, error) { return open(dir, opt) }

// OpenReadOnly is Open only to tell what is in the folder, which stays as it is: it may be one that
// cannot be written. Calls that would change it fail. Several can do so at once, and whoever
// may not read the lock file of the folder's owner goes without it.
func OpenReadOnly(dir string, opt Options) (*Client, error) {
	opt.readOnly = true
	return open(dir, opt)
}

func open(dir string, opt Options) (*Client, error) {
	c, err := openState(dir, opt)
	if err != nil {
		return nil, err
	}
	opened := openCopy
	if opt.readOnly {
		opened = openCopyReadOnly
	}
	if c.chain, err = opened(c.path(chainFile), c.state.Size, c.state.Head); err != nil {
		return nil, errors.Join(err, c.lock.Unlock())
	}
	if c.Size() == 0 {
		return c, nil
	}
	if first := c.Fingerprint(); c.pin == nil {
		c.pin = &first
	} else if *c.pin != first {
		return nil, errors.Join(fmt.Errorf("%w: %s begins with %s, expected %s", ErrDamagedCopy, c.path(chainFile), first, *c.pin), c.Close())
	}
	return c, nil
}

// openState is open without the copy.
func openState(dir string, opt Options) (_ *Client, err error) {
	if _, err := os.Stat(filepath.Join(dir, stateFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNotInitialized, dir)
	}
	opt = opt.complete()
	c := &Client{dir: dir, opt: opt}
	lock := lockDir
	if opt.readOnly {
		lock = lockToRead
	}
	if c.lock, err = lock(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.lock.Unlock())
		}
	}()
	if err := readJSON(c.path(stateFile), &c.state); err != nil {
		return nil, err
	}
	errs := []error{CheckURL(c.state.URL), uid.CheckDomain(c.state.Domain)}
	for _, key := range c.state.Keys {
		errs = append(errs, sigkey.Check(key.Public))
	}
	if n := len(c.state.Fingerprint); n > 0 && n != len(hashchain.Hash{}) {
		errs = append(errs, fmt.Errorf("a fingerprint of %d bytes", n))
	} else if n > 0 {
		first := hashchain.Hash(c.state.Fingerprint)
		c.pin = &first
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, c.path(stateFile), err)
	}
	c.wire = newWire(c.state.URL, opt)
	return c, nil
}

func lockDir(dir string) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(dir, ".lock"), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	return lock, err
}

// lockToRead keeps others from changing the folder, if its lock file can be read.
func lockToRead(dir string) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(dir, ".lock"), flock.SetFlag(os.O_RDONLY))
	ok, err := lock.TryRLock()
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && !ok:
		err = fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	return lock, err
}

// Close ends the use of the folder.
func (c *Client) Close() error { return errors.Join(c.chain.Close(), c.lock.Unlock()) }

// leave lets others work with the folder for a time, and until they have done, and then goes
// on with what they have left. If ctx ends first, c can only be closed.
func (c *Client) leave(ctx context.Context, d time.Duration) error {
	if err := c.lock.Unlock(); err != nil {
		return err
	}
	for {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		again, err := open(c.dir, c.opt)
		if errors.Is(err, ErrLocked) {
			continue
		}
		if err != nil {
			return err
		}
		err = c.chain.Close()
		c.lock, c.wire, c.caps, c.compared = again.lock, again.wire, nil, false
		c.pin, c.chain, c.state = again.pin, again.chain, again.state
		return err
	}
}

func (c *Client) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

func (c *Client) now() uint64 { return uint64(c.opt.Now().Unix()) }

// Domain is the keyserver's.
func (c *Client) Domain() string { return c.state.Domain }

// URL is where the keyserver is.
func (c *Client) URL() string { return c.state.URL }

// Size is how many entries the copy has.
func (c *Client) Size() uint64 { return c.chain.Size() }

// Head is the hash of the copy's last entry: who has the same at the same size has
// the same chain.
func (c *Client) Head() hashchain.Hash { return c.chain.Head() }

// Fingerprint is the hash of the entry at position 0, which names the chain.
func (c *Client) Fingerprint() hashchain.Hash { return c.chain.first }

// ServerKeys are the keyserver's public signature keys, the present one last.
func (c *Client) ServerKeys() []SigKey { return slices.Clone(c.state.Keys) }

// ServerNotAfter is until when the keyserver's present key is valid, in Unix
// seconds; 0 if it is not known yet. It should have been replaced by then.
func (c *Client) ServerNotAfter() uint64 {
	if c.state.Message == nil {
		return 0
	}
	return c.state.Message.Content.NotAfter
}

// saveState writes the state with the copy's present end.
func (c *Client) saveState() error {
	head := c.chain.Head()
	c.state.Size, c.state.Head = c.chain.Size(), head[:]
	if c.Size() > 0 {
		c.state.Fingerprint = c.chain.first[:]
	}
	return writeJSON(c.path(stateFile), c.state)
}

// online asks the keyserver what it offers, once.
func (c *Client) online(ctx context.Context) (*capabilities, error) {
	if c.caps != nil {
		return c.caps, nil
	}
	caps, err := c.wire.capabilities(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(caps.Domains, c.state.Domain) {
		return nil, fmt.Errorf("%w: it serves %.200q, and %s no more", ErrUnsupported, caps.Domains, c.state.Domain)
	}
	if err := c.wire.clocks.check(clockSkew); err != nil {
		c.opt.Notice(err.Error())
	}
	c.caps, c.since = caps, c.Size()
	return caps, nil
}

func writeJSON(path string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return durable.Write(path, append(content, '\n'))
}

// readJSON reads what writeJSON wrote.
func readJSON(path string, into any) error {
	content, err := readFile(path)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrDamaged, path, maxFile)
	}
	return content, err
}
