package anchor

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/durable"
)

// errDisk says that the state file could not be written. Nothing may be broadcast.
var errDisk = errors.New("anchor state could not be stored")

const (
	stateVersion = 1
	// maxState is more bytes than a state file has: buried anchors leave it.
	maxState = 64 << 20
)

// state is what survives a restart: the chain's name, and the transactions that a
// reorganisation could take out of the chain again, or that are yet to be confirmed.
type state struct {
	path    string
	domain  string
	network string

	genesis *chainhash.Hash // nil: no anchor was ever made
	anchors []*signed       // no two spend the same output with their first input

	// failed is why the file could not be written. From then on nobody can say what is
	// on disk, and nothing may be broadcast.
	failed error
}

// stateFile is the content of the state file.
type stateFile struct {
	Version int           `json:"version"`
	Domain  string        `json:"domain"`
	Network string        `json:"network"`
	Genesis string        `json:"genesis"` // txid as displayed; "" for none
	Anchors []anchorEntry `json:"anchors"`
}

type anchorEntry struct {
	Made int64  `json:"made"` // Unix seconds; 0 if not known
	Rate int64  `json:"rate"` // satoshi per byte; 0 if not known
	Tx   string `json:"tx"`   // hex
}

// openState reads the state file; if there is none, the state is empty.
func openState(path, domain, network string) (*state, error) {
	s := &state{path: path, domain: domain, network: network}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%w: %s: %d bytes: not a state file that keytree wrote", ErrMismatch, path, info.Size())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f stateFile
	if err := json.Unmarshal(content, &f); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMismatch, path, err)
	}
	if f.Version != stateVersion || f.Domain != domain || f.Network != network {
		return nil, fmt.Errorf("%w: %s is of version %d, for the anchors of %q on %s: expected version %d, %q, %s",
			ErrMismatch, path, f.Version, f.Domain, f.Network, stateVersion, domain, network)
	}
	if f.Genesis != "" {
		if s.genesis, err = chainhash.NewHashFromStr(f.Genesis); err != nil {
			return nil, fmt.Errorf("%w: %s: genesis: %w", ErrMismatch, path, err)
		}
	}
	for i, e := range f.Anchors {
		raw, err := hex.DecodeString(e.Tx)
		var a *signed
		if err == nil {
			a, err = readSigned(raw, fromUnix(e.Made), e.Rate)
		}
		if err == nil && a.Domain != domain {
			err = fmt.Errorf("it is for %q", a.Domain)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: anchor %d: %w", ErrMismatch, path, i, err)
		}
		s.anchors = append(s.anchors, a)
	}
	return s, nil
}

func fromUnix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// save makes the state durable: afterwards the file is either as before or as the
// state is now, and the latter if there is no error.
func (s *state) save() error {
	f := stateFile{Version: stateVersion, Domain: s.domain, Network: s.network}
	if s.genesis != nil {
		f.Genesis = s.genesis.String()
	}
	for _, a := range s.anchors {
		e := anchorEntry{Rate: a.rate, Tx: hex.EncodeToString(a.raw)}
		if !a.made.IsZero() {
			e.Made = a.made.Unix()
		}
		f.Anchors = append(f.Anchors, e)
	}
	content, err := json.MarshalIndent(f, "", "\t")
	if err == nil {
		err = durable.Write(s.path, append(content, '\n'))
	}
	if err != nil {
		s.failed = fmt.Errorf("%w: %w", errDisk, err)
	}
	return s.failed
}

// find returns a stored anchor, nil if it is not there.
func (s *state) find(txid chainhash.Hash) *signed { return findAnchor(s.anchors, txid) }

// findAnchor returns the anchor with a txid, nil if it is not there.
func findAnchor(anchors []*signed, txid chainhash.Hash) *signed {
	for _, a := range anchors {
		if a.txid == txid {
			return a
		}
	}
	return nil
}

// followerOf returns the anchor that spends an output with its first input, nil if there
// is none.
func followerOf(anchors []*signed, out wire.OutPoint) *signed {
	for _, a := range anchors {
		if a.spends == out {
			return a
		}
	}
	return nil
}

// put adds an anchor, in the place of the one that spends the same output. What
// follows that one is dropped: it cannot be confirmed if the new one is.
func (s *state) put(a *signed) {
	if s.find(a.txid) != nil {
		return
	}
	for out := a.spends; ; {
		old := followerOf(s.anchors, out)
		if old == nil {
			break
		}
		s.anchors = slices.DeleteFunc(s.anchors, func(b *signed) bool { return b == old })
		out = old.baton()
	}
	s.anchors = append(s.anchors, a)
}
