// Package witness is a witness of transparency logs, of keyservers and of others, that speaks
// C2SP's tlog-witness: it cosigns a checkpoint after it has checked that the log has only grown
// since the last one (keyserver/TLOG.md §5).
//
// What a witness has cosigned last is on disk, synced, before a cosignature leaves, in a file
// beside its key. A process that is killed in between has said nothing. The two files belong
// together: a witness without its memory would cosign a fork, and is refused.
//
// Known gap. Whoever restores both files out of an old backup makes a witness that forgets what it
// cosigned since. Restore neither: make a new key, which the logs are told.
//
// What never belongs here: how HTTP requests are answered (rpc/witness), what entries mean.
package witness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// Why a checkpoint is not cosigned, beside format.ErrFormat, ErrSignature and ErrProof.
var (
	// ErrUnknown says that the log is none of those that are witnessed.
	ErrUnknown = errors.New("log is not witnessed here")
	// ErrMismatch says that key and state do not belong together. Restore the one that is
	// missing.
	ErrMismatch = errors.New("files of the witness do not belong together")
	// ErrRefused says that the witness, which computes itself what the log states, has another root.
	ErrRefused = errors.New("the witness has computed another tree")
	// ErrLater says that the witness has not computed so much yet. Ask again later.
	ErrLater = errors.New("the witness has not computed as much yet")
)

// ConflictError says that a submission does not begin where the witness stands. Submit again
// from Size on; if the log has signed another root of that size, it has shown two histories.
type ConflictError struct{ Size uint64 }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("expected a submission from %d entries on, which were cosigned last", e.Size)
}

// Options are what a Witness is told. All but Name, Now and Judge are required.
type Options struct {
	KeyFile   string // made with StateFile at the first start, for which Name is needed
	StateFile string
	Name      string // of the key; "" for what the key file says
	// Policy names the logs, whose keys it has; of anything else in it there is no use.
	Policy *format.Policy
	Now    func() time.Time // the clock; time.Now by default
	// Judge, if not nil, returns why a checkpoint, which one of the logs has signed, is not cosigned whatever was
	// before: an error that wraps ErrRefused or ErrLater. It is called concurrently.
	Judge func(c format.Checkpoint, signed []byte) error

	// between, if not nil, is called between two steps, by their name; tests kill the process there.
	between func(step string)
}

const (
	stateVersion = 1
	// maxState is more bytes than a state file has: some hundred for each log of a policy.
	maxState = 1 << 20
)

// state is the content of the state file.
type state struct {
	Version int                 `json:"version"`
	Logs    map[string]cosigned `json:"logs"` // by origin
}

// cosigned is the checkpoint of a log that was cosigned last.
type cosigned struct {
	Size uint64 `json:"size"`
	Root string `json:"root"` // base64
}

// Witness is a witness. Its methods may be called concurrently.
type Witness struct {
	opt  Options
	key  *format.Key
	lock *flock.Flock

	mu    sync.Mutex
	state state // mu; as on disk
}

// Open opens a witness, or makes its key and its state at the first start. Close it.
//
// ErrMismatch, tlog.ErrLocked, durable.ErrReadable, format.ErrFormat for a name that is not
// allowed, or an error of the file system.
func Open(opt Options) (*Witness, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.between == nil {
		opt.between = func(string) {}
	}
	w := &Witness{opt: opt}
	if err := w.open(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *Witness) open() error {
	text, err := durable.ReadSecret(w.opt.KeyFile)
	noKey := errors.Is(err, fs.ErrNotExist)
	if err != nil && !noKey {
		return err
	}
	if noKey {
		if err := w.first(); err != nil {
			return err
		}
	} else if w.key, err = format.ParseKey(strings.TrimSuffix(string(text), "\n")); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMismatch, w.opt.KeyFile, err)
	}
	if w.opt.Name != "" && w.key.Name() != w.opt.Name {
		return fmt.Errorf("%w: %s is the key of %s, not of %s", ErrMismatch, w.opt.KeyFile, w.key.Name(), w.opt.Name)
	}
	if w.lock, err = tlog.LockKey(w.opt.KeyFile); err != nil {
		return err
	}
	w.state, err = readState(w.opt.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s, which tells what was cosigned with %s, is missing: restore it; or, if it is lost, make a new key, which the logs have to be told",
			ErrMismatch, w.opt.StateFile, w.opt.KeyFile)
	}
	return err
}

// first makes the key and the state, which is there first.
func (w *Witness) first() error {
	s, err := readState(w.opt.StateFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = state{Version: stateVersion}.write(w.opt.StateFile)
	case err == nil && len(s.Logs) > 0:
		err = fmt.Errorf("%w: %s tells what was cosigned with %s, which is missing: restore it", ErrMismatch, w.opt.StateFile, w.opt.KeyFile)
	}
	if err != nil {
		return err
	}
	if w.key, err = format.GenerateKey(w.opt.Name); err != nil {
		return fmt.Errorf("name of the witness: %w", err)
	}
	return durable.CreateSecret(w.opt.KeyFile, []byte(w.key.Text()+"\n"))
}

func readState(path string) (s state, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return s, err
	}
	if info.Size() > maxState {
		return s, fmt.Errorf("%w: %s has %d bytes, which keytree has not written", ErrMismatch, path, info.Size())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(content, &s); err != nil {
		return s, fmt.Errorf("%w: %s: %w", ErrMismatch, path, err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("%w: %s is of version %d, expected %d", ErrMismatch, path, s.Version, stateVersion)
	}
	for origin := range s.Logs {
		if _, err := s.last(origin); err != nil {
			return s, fmt.Errorf("%w: %s: %w", ErrMismatch, path, err)
		}
	}
	return s, nil
}

func (s state) write(path string) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.Write(path, append(content, '\n'))
}

// last returns the checkpoint of a log that was cosigned last; that of no entries if none was.
func (s state) last(origin string) (format.Checkpoint, error) {
	c, ok := s.Logs[origin]
	if !ok {
		return format.Checkpoint{Origin: origin, Root: format.EmptyRoot}, nil
	}
	return format.ParseCheckpoint(fmt.Sprintf("%s\n%d\n%s\n", origin, c.Size, c.Root))
}

// Close lets other processes open the witness.
func (w *Witness) Close() error {
	if w.lock == nil {
		return nil
	}
	return w.lock.Close()
}

// Key returns the public key of the witness.
func (w *Witness) Key() *format.PublicKey { return w.key.Witness() }

// Add cosigns the checkpoint of a submission and returns the line with the signature; or says
// why not: format.ErrFormat, ErrUnknown, format.ErrSignature, what Options.Judge says, a *ConflictError,
// format.ErrProof, or that it could not be stored.
func (w *Witness) Add(submission []byte) (line []byte, err error) {
	s, err := format.ParseSubmission(submission)
	if err != nil {
		return nil, err
	}
	// Who may have signed it depends on what it says of itself.
	origin, _, _ := strings.Cut(string(s.Checkpoint), "\n")
	log := w.opt.Policy.Log(origin)
	if log == nil {
		return nil, fmt.Errorf("%w: %.80q", ErrUnknown, origin)
	}
	c, err := format.Open(s.Checkpoint, log.Key)
	if err != nil {
		return nil, err
	}
	if s.Old > c.Size {
		return nil, fmt.Errorf("%w: expected a size of %d or more, got %d", format.ErrFormat, s.Old, c.Size)
	}
	if w.opt.Judge != nil {
		if err := w.opt.Judge(c, s.Checkpoint); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last, err := w.state.last(origin)
	if err != nil {
		return nil, err
	}
	if s.Old != last.Size || c.Size == last.Size && c.Root != last.Root {
		return nil, &ConflictError{last.Size}
	}
	if err := format.CheckConsistency(last, c, s.Proof); err != nil {
		return nil, err
	}
	if c != last {
		next := state{Version: stateVersion, Logs: maps.Clone(w.state.Logs)}
		if next.Logs == nil {
			next.Logs = make(map[string]cosigned)
		}
		next.Logs[origin] = cosigned{c.Size, c.Root.String()}
		w.opt.between("checked")
		if err := next.write(w.opt.StateFile); err != nil {
			return nil, fmt.Errorf("storing what is to be cosigned: %w", err)
		}
		w.state = next
		w.opt.between("stored")
	}
	return w.key.Cosign(s.Checkpoint, w.opt.Now()), nil
}
