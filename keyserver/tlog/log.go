package tlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Defaults of Options.
const (
	// DefaultInterval is how long after a checkpoint the next one may be made.
	DefaultInterval = time.Second
	// DefaultWitnessInterval is how long after witnesses were asked they are asked again. Public
	// ones have daily quotas.
	DefaultWitnessInterval = time.Minute
	// DefaultWitnessTimeout is how long a witness is waited for.
	DefaultWitnessTimeout = 5 * time.Second

	// witnessAgain is after how long witnesses are asked again though nothing is new: a
	// cosignature tells when it was made.
	witnessAgain = time.Hour
	// loneAfter is how long the newest checkpoint with a quorum is served while there are
	// newer ones without.
	loneAfter = time.Hour
)

// Origin returns the name of the log of a domain's keyserver.
func Origin(domain string) string { return domain + "/keytree" }

// Tree is what a log publishes: entries, and the Merkle tree over them. Its methods may be called concurrently.
type Tree interface {
	// Ready returns why nothing may be signed or shown, or nil.
	Ready() error
	// Size returns how many entries are on disk.
	Size() uint64
	// RootAt returns the root over the first size entries.
	RootAt(ctx context.Context, size uint64) (tlog.Hash, error)
	// TileHashes returns count hashes of a level of the Merkle tree, from index first on.
	TileHashes(ctx context.Context, level uint, first, count uint64) ([]tlog.Hash, error)
	// Bundle returns count entries from index first on, as tlog.AppendEntry has them.
	Bundle(ctx context.Context, first, count uint64) ([]byte, error)
	// Consistency proves that the tree of size1 entries is the beginning of that of size2.
	Consistency(ctx context.Context, size1, size2 uint64) ([]tlog.Hash, error)
}

// Options are what a Log is told. Source or Tree, Origin, KeyFile and StateFile are required; elsewhere zero
// means the default.
type Options struct {
	Source    Source // a keyserver, whose hashchain is the log
	Tree      Tree   // any other log
	Origin    string // as Origin returns it of a keyserver
	KeyFile   string // made at the first start, with StateFile
	StateFile string

	// Policy names the witnesses that are asked, by their URLs, and the quorum with which a
	// checkpoint is served; nil if there are none.
	Policy *tlog.Policy
	// Interval is how long after a checkpoint the next one may be made, at least.
	Interval time.Duration
	// WitnessInterval is how long after witnesses were asked they are asked again.
	WitnessInterval time.Duration
	// WitnessTimeout is how long a witness is waited for.
	WitnessTimeout time.Duration
	// Transport makes the requests to witnesses; http.DefaultTransport by default.
	Transport http.RoundTripper

	// Shared says that other servers have the same key and sign the log by turns, each as long as it alone
	// writes the hashchain: what StateFile says may be older than what another one has signed.
	Shared bool

	// ReadOnly opens a log, which must be there, only to be read: nothing is signed, and the files
	// stay as they are. Whoever may not read the key can do so, too; Run and Key must not be
	// called.
	ReadOnly bool

	Now func() time.Time // the clock; time.Now by default
	Log zerolog.Logger

	// between, if not nil, is called between two steps, by their name; tests kill the process there.
	between func(step string)
}

func (o *Options) complete() {
	if o.Tree == nil {
		o.Tree = hashchainTree{o.Source}
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.WitnessInterval == 0 {
		o.WitnessInterval = DefaultWitnessInterval
	}
	if o.WitnessTimeout == 0 {
		o.WitnessTimeout = DefaultWitnessTimeout
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.between == nil {
		o.between = func(string) {}
	}
}

// Log is the transparency log of a keyserver. Its methods may be called concurrently.
type Log struct {
	opt  Options
	key  *tlog.Key
	lock *flock.Flock // nil with Options.ReadOnly

	asked bool // Check has asked the witnesses; Check's and Run's goroutine

	// unmet are the witnesses, by their public keys, that have not cosigned since the start; none if nothing was
	// signed before it. It is for the goroutine that asks witnesses.
	unmet map[string]bool

	mu      sync.Mutex
	state   state           // mu; as on disk, or about to be
	signed  tlog.Checkpoint // mu; what state.Signed says
	checked bool            // mu; the hashchain begins with signed
	stopped error           // mu; why nothing is signed any more
	quorum  uint64          // mu; size of state.Witnessed, if that has what the policy demands; else 0
	// failures is how often each witness has not cosigned, by its name.
	failures map[string]uint64 // mu
}

// Open opens a log, and makes its key and state at the first start. Whoever opens it has the
// keyserver's database open. Close it.
//
// ErrMismatch, ErrLocked, durable.ErrReadable, or an error of the file system; with
// Options.ReadOnly also ErrNone.
func Open(opt Options) (*Log, error) {
	opt.complete()
	l := &Log{opt: opt, failures: make(map[string]uint64)}
	key, s, err := opt.open()
	if err != nil {
		return nil, err
	}
	l.key, l.state = key, *s
	if !opt.ReadOnly {
		if l.lock, err = LockKey(opt.KeyFile); err != nil {
			return nil, err
		}
		// What another process has signed before it ended.
		if s, err = readState(opt.StateFile); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.state = *s
	}
	if l.state.Signed != "" {
		if key != nil {
			l.signed, err = tlog.Open([]byte(l.state.Signed), key.Log())
		} else {
			l.signed, err = tlog.Stated([]byte(l.state.Signed))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %s was not signed with %s: %w", ErrMismatch, opt.StateFile, opt.KeyFile, err), l.Close())
		}
	}
	l.quorum = l.quorumOf(l.state.Witnessed)
	if c, err := tlog.Stated([]byte(l.state.Witnessed)); opt.ReadOnly && err == nil {
		l.quorum = c.Size // as the policy was when it was stored
	}
	return l, nil
}

// Close lets other processes open the log. Run has to have returned.
func (l *Log) Close() error {
	if l.lock == nil {
		return nil
	}
	return l.lock.Close()
}

// Key returns the log's public key.
func (l *Log) Key() *tlog.PublicKey { return l.key.Log() }

// Err returns why nothing is signed any more: ErrBehind, ErrForked or ErrOutgrown; nil if
// something is.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

// Check compares the hashchain with what was signed last, and has witnesses say what they have
// cosigned, before the keyserver shows anything: its source need not be ready. ErrBehind, ErrForked
// or ErrOutgrown, or ctx's error. It is called once, before Run, or not at all.
func (l *Log) Check(ctx context.Context) error {
	l.mu.Lock()
	err := l.check(ctx)
	l.mu.Unlock()
	if err == nil && !l.askFirst(ctx) {
		err = l.Err()
	}
	l.asked = true
	return cmp.Or(ctx.Err(), err)
}

// Run signs checkpoints and has witnesses cosign them, until ctx ends. What goes wrong it logs:
// readers have the last checkpoint meanwhile. It may be called again when it has returned.
func (l *Log) Run(ctx context.Context) {
	if !l.awaitReady(ctx) || !l.asked && !l.askFirst(ctx) {
		return
	}
	var asking sync.WaitGroup
	if l.opt.Policy != nil {
		asking.Go(func() { l.askAgain(ctx) })
	}
	defer asking.Wait()
	timer := time.NewTicker(l.opt.Interval)
	defer timer.Stop()
	for {
		if err := l.sign(ctx); err != nil && ctx.Err() == nil {
			l.opt.Log.Error().Err(err).Msg("transparency log: signing a checkpoint")
			if l.Err() != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// awaitReady waits until the keyserver may show its history. It returns false if ctx has ended
// before.
func (l *Log) awaitReady(ctx context.Context) bool {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for l.opt.Tree.Ready() != nil {
		select {
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
	return true
}

// sign signs a checkpoint if there are new entries. An error that Err returns, too, is final.
func (l *Log) sign(ctx context.Context) error {
	if l.opt.Tree.Ready() != nil {
		return nil // and nothing is shown either
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped != nil {
		return l.stopped
	}
	if err := l.check(ctx); err != nil {
		return err
	}
	size := l.opt.Tree.Size()
	if size <= l.signed.Size {
		return nil
	}
	root, err := l.opt.Tree.RootAt(ctx, size)
	if err != nil {
		return err
	}
	next := tlog.Checkpoint{Origin: l.opt.Origin, Size: size, Root: root}
	s := l.state
	s.Signed = string(l.key.Sign(next))
	l.opt.between("signed")
	if err := s.write(l.opt.StateFile); err != nil {
		return fmt.Errorf("storing what was signed: %w", err) // which nobody gets
	}
	l.opt.between("stored")
	l.state, l.signed = s, next
	return nil
}

// check compares the hashchain, once, with what was signed last. mu is held.
func (l *Log) check(ctx context.Context) error {
	if l.checked || l.signed.Size == 0 {
		l.checked = true
		return nil
	}
	if have := l.opt.Tree.Size(); have < l.signed.Size {
		l.stopped = fmt.Errorf("%w: expected %d entries, got %d: restore the newest database", ErrBehind, l.signed.Size, have)
		return l.stopped
	}
	root, err := l.opt.Tree.RootAt(ctx, l.signed.Size)
	if err != nil {
		return err
	}
	if root != l.signed.Root {
		l.stopped = fmt.Errorf("%w: expected the root %v of %d entries, got %v", ErrForked, l.signed.Root, l.signed.Size, root)
		return l.stopped
	}
	l.checked = true
	return nil
}
