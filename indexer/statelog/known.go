package statelog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/durable"
)

const (
	// knownFor is for how long a header has to have been known (protocol/STATELOG.md §1).
	knownFor = 2 * time.Hour
	// depth is how many blocks have to be on top.
	depth = 10
	// lookAgain is how much time is between two sightings at least. So there are some 120.
	lookAgain = time.Minute
	// maxKnown is more bytes than the file of sightings has.
	maxKnown = 1 << 20
)

// sighting says that a block was the tip at a time: its header was known then, and those of all below.
type sighting struct {
	Time   int64  `json:"time"` // Unix seconds
	Height uint32 `json:"height"`
	Block  string `json:"block"` // its hash, as it is shown
}

// known tells since when headers are known. It is for one goroutine.
type known struct {
	path      string
	sightings []sighting // as on disk, from low heights and early times to high and late
}

// readKnown reads what was seen; nothing if there is no file, or it holds none: then all begins anew.
func readKnown(path string) (*known, error) {
	k := &known{path: path}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil && info.Size() > maxKnown {
		err = fmt.Errorf("%s has %d bytes, which keytree has not written: remove it", path, info.Size())
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &k.sightings); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it, and headers count as unknown before now", path, err)
	}
	return k, nil
}

// see notes that a block is the tip. onChain tells whether a block at a height is.
func (k *known) see(height uint32, block chainhash.Hash, now time.Time, onChain func(height uint32, block string) bool) error {
	kept := slices.Clone(k.sightings)
	// What was taken off the chain goes, and, after the clock was set back, what is yet to come. Below a block that is on
	// the chain all are.
	for len(kept) > 0 {
		if s := kept[len(kept)-1]; s.Height <= height && s.Time <= now.Unix() && onChain(s.Height, s.Block) {
			break
		}
		kept = kept[:len(kept)-1]
	}
	for len(kept) > 1 && ripe(kept[1], now) {
		kept = kept[1:] // which tells less than the next
	}
	due := len(kept) == 0 || kept[len(kept)-1].Height < height && now.Sub(time.Unix(kept[len(kept)-1].Time, 0)) >= lookAgain
	if due {
		kept = append(kept, sighting{now.Unix(), height, block.String()})
	}
	if !due && len(kept) == len(k.sightings) {
		return nil
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if err := durable.Write(k.path, append(text, '\n')); err != nil {
		return fmt.Errorf("storing since when headers are known: %w", err)
	}
	k.sightings = kept
	return nil
}

func ripe(s sighting, now time.Time) bool { return now.Sub(time.Unix(s.Time, 0)) >= knownFor }

// until returns up to which height headers were known for long enough; false if none were.
func (k *known) until(now time.Time) (height uint32, ok bool) {
	for _, s := range k.sightings {
		if ripe(s, now) {
			height, ok = s.Height, true
		}
	}
	return height, ok
}
