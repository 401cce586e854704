package tlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/gofrs/flock"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

const (
	stateVersion = 1
	// maxState is more bytes than a state file has: two checkpoints, and a size for each
	// witness.
	maxState = 1 << 20
)

// state is the content of the state file.
type state struct {
	Version int `json:"version"`
	// Signed is the checkpoint that was signed last, with the log's signature alone; "" for none.
	Signed string `json:"signed"`
	// Witnessed is the newest checkpoint that had a quorum of cosignatures, with these, and when
	// it had it, in Unix seconds; "" for none.
	Witnessed   string `json:"witnessed"`
	WitnessedAt uint64 `json:"witnessed_at"`
	// Sizes are what witnesses have cosigned last, by their public keys: a hint, which they
	// correct.
	Sizes map[string]uint64 `json:"sizes,omitempty"`
}

// readState reads a state file. fs.ErrNotExist if there is none.
func readState(path string) (*state, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%w: %s has %d bytes, which keytree has not written", ErrMismatch, path, info.Size())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := new(state)
	if err := json.Unmarshal(content, s); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMismatch, path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%w: %s is of version %d, expected %d: a later keytree has made it; use that one", ErrMismatch, path, s.Version, stateVersion)
	}
	return s, nil
}

// write puts the state on disk.
func (s *state) write(path string) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.Write(path, append(content, '\n'))
}

// open reads the key and the state, or makes both. The state is there before the key is: a
// key without one has lost it. Who only reads, and may not read the key, gets none.
func (o *Options) open() (*tlog.Key, *state, error) {
	text, err := durable.ReadSecret(o.KeyFile)
	noKey := errors.Is(err, fs.ErrNotExist)
	hidden := o.ReadOnly && errors.Is(err, fs.ErrPermission)
	if err != nil && !noKey && !hidden {
		return nil, nil, err
	}
	s, err := readState(o.StateFile)
	noState := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !noState, hidden:
		return nil, s, err
	case noKey && !noState && s.Signed != "":
		return nil, nil, fmt.Errorf("%w: %s tells what was signed with %s, which is missing: restore it", ErrMismatch, o.StateFile, o.KeyFile)
	case !noKey && noState:
		return nil, nil, fmt.Errorf("%w: %s, which tells what was signed last with %s, is missing: restore it; or, if it is lost, remove the key: the next start makes a new one, which readers of the log have to be told",
			ErrMismatch, o.StateFile, o.KeyFile)
	case noKey && o.ReadOnly:
		return nil, nil, fmt.Errorf("%w: %s is missing: the keyserver was never started by a keytree that serves a log", ErrNone, o.KeyFile)
	}
	if noState {
		s = &state{Version: stateVersion}
		if err := s.write(o.StateFile); err != nil {
			return nil, nil, err
		}
	}
	if !noKey {
		key, err := tlog.ParseKey(strings.TrimSuffix(string(text), "\n"))
		if err == nil && key.Name() != o.Origin {
			err = fmt.Errorf("expected the key of %s, got that of %s", o.Origin, key.Name())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %w", ErrMismatch, o.KeyFile, err)
		}
		return key, s, nil
	}
	key, err := tlog.GenerateKey(o.Origin)
	if err == nil {
		err = durable.CreateSecret(o.KeyFile, []byte(key.Text()+"\n"))
	}
	return key, s, err
}

// LockKey keeps other processes from signing with the key in a file, until the lock is closed:
// ErrLocked if one does.
func LockKey(path string) (*flock.Flock, error) {
	lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		err = fmt.Errorf("%w: another process signs with %s", ErrLocked, path)
	}
	return lock, err
}
