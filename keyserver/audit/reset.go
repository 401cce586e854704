package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// ErrNothingKept says that a folder has nothing of an audit.
var ErrNothingKept = errors.New("nothing of an audit is kept there")

// Reset has the next audit in a folder begin again from the pins, which it returns. It
// keeps the pinned genesis anchor, the first entry of the hashchain, the replies that
// name the keyserver's keys if they follow from that, and evidence. It drops the copy of
// the hashchain, the anchors, and what else the keyserver has signed. If not even the
// state can be read, the genesis anchor and evidence are kept.
//
// Whenever the process is killed the folder has what it had, or nothing but the pins.
// ErrNothingKept, ErrLocked, ErrOtherChain.
func Reset(config Config) (pins Pins, err error) {
	a := &Auditor{dir: config.Dir, net: config.Network, genesis: config.Genesis}
	if _, err := os.Stat(a.path(stateFile)); errors.Is(err, fs.ErrNotExist) {
		return Pins{}, fmt.Errorf("%w: %s", ErrNothingKept, a.dir)
	}
	if err := a.lockDir(); err != nil {
		return Pins{}, err
	}
	defer func() { err = errors.Join(err, a.lock.Unlock()) }()
	if err := a.readState(); errors.Is(err, ErrDamaged) {
		a.state = a.fresh()
	} else if err != nil {
		return Pins{}, err
	}
	a.keepPins()
	for _, step := range a.resetSteps() {
		if err := step(); err != nil {
			return Pins{}, err
		}
	}
	return a.pins(), nil
}

// keepPins makes the state one that has the pins alone.
func (a *Auditor) keepPins() {
	pinned := a.fresh()
	if a.state.Fingerprint == nil && a.state.Compared > 0 {
		// An earlier version did not write it.
		if file, err := os.Open(a.path(entriesFile)); err == nil {
			var first hashchain.Entry
			if _, err := file.ReadAt(first[:], 0); err == nil && first.Follows(hashchain.Hash{}) {
				hash := first.Hash()
				a.state.Fingerprint = hash[:]
			}
			file.Close()
		}
	}
	if len(a.state.Fingerprint) == len(hashchain.Hash{}) {
		pinned.Fingerprint = a.state.Fingerprint
	}
	if a.followsPins() {
		pinned.Keyserver = a.state.Keyserver
	}
	a.state = pinned
}

// followsPins tells whether the keyserver's keys follow from the pinned first entry.
func (a *Auditor) followsPins() bool {
	replies := a.state.Keyserver
	if len(replies) == 0 || replies[0] == nil {
		return false
	}
	first, err := hashchain.Parse(replies[0].Entry.HashchainEntry)
	if hash := first.Hash(); err != nil || string(hash[:]) != string(a.state.Fingerprint) {
		return false
	}
	if a.state.Last == nil {
		return true // as the reset before has left them
	}
	_, err = readKeys(a.state.Last.Domain, replies)
	return err == nil
}

// resetSteps are what has the folder begin again from the state's pins, after each of
// which it is a good one. Only the state makes the difference: what the files have beyond
// it is no more than what was shown, and is checked again.
func (a *Auditor) resetSteps() []func() error {
	empty := func(name string) func() error {
		return func() error {
			err := os.Truncate(a.path(name), 0)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
	}
	return []func() error{
		func() error {
			content, err := json.Marshal(&a.state)
			if err != nil {
				return err
			}
			return durable.Write(a.path(stateFile), append(content, '\n'))
		},
		empty(entriesFile), empty(anchorsFile), func() error { return durable.Remove(a.path(otherFile)) },
	}
}
