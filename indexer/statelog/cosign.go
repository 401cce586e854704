package statelog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

const (
	// maxEvidence is how many differing checkpoints are kept. A log that has signed one has lied, or is
	// on another chain; more of its tell nothing new, and it decides how many it signs.
	maxEvidence = 64
	// maxSearches is how many of them wait to be searched for the entry that differs.
	maxSearches = 8
	// A search asks the other server for so many tiles at most, each of no more bytes than a bundle has, and takes
	// so long at most; after one that failed nothing is searched for as long.
	maxTiles      = 256
	maxTile       = format.TileWidth * (2 + int64(protocol.StateEntrySize))
	searchTimeout = time.Minute
)

// CosignerOptions are what a Cosigner is told. All but Name, Transport and Now are required.
type CosignerOptions struct {
	Publisher *Publisher // that computes what is compared
	KeyFile   string     // made at the first start, for which Name is needed, with KeyFile.json
	Name      string
	// Policy names the state logs that are cosigned, with the URLs under which their tiles are.
	Policy    *format.Policy
	Evidence  string            // folder for what differs
	Transport http.RoundTripper // http.DefaultTransport by default
	Now       func() time.Time
	Log       zerolog.Logger
}

// Cosigner is a witness of state logs that cosigns what it has computed itself, and nothing else. What differs
// it keeps as evidence. Its methods may be called concurrently.
type Cosigner struct {
	opt     CosignerOptions
	witness *witness.Witness
	differs atomic.Int64   // checkpoints that were kept since the start
	found   chan differing // what Run is to look at
}

// differing is a checkpoint with another root than was computed here.
type differing struct {
	log        format.PolicyLog
	checkpoint format.Checkpoint
	signed     []byte
}

// OpenCosigner opens a witness, or makes its key and its state at the first start. Close it before its Publisher.
// It cosigns at once; Run finds out which entries differ.
//
// An error if a log of the policy is none of the Publisher's network, or what witness.Open has.
func OpenCosigner(opt CosignerOptions) (*Cosigner, error) {
	if opt.Transport == nil {
		opt.Transport = http.DefaultTransport
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	for _, l := range opt.Policy.Logs {
		if host := hostOf(l.Key.Name(), opt.Publisher.opt.Chain.Params().Network); uid.CheckDomain(host) != nil {
			return nil, fmt.Errorf("%s is no state log of this network and these rules: expected a name such as %s", l.Key.Name(),
				protocol.StateOrigin("keys.example.org", opt.Publisher.opt.Chain.Params().Network, 1))
		}
	}
	if err := os.MkdirAll(opt.Evidence, 0o700); err != nil {
		return nil, err
	}
	c := &Cosigner{opt: opt, found: make(chan differing, maxSearches)}
	var err error
	c.witness, err = witness.Open(witness.Options{
		KeyFile: opt.KeyFile, StateFile: opt.KeyFile + ".json", Name: opt.Name, Policy: opt.Policy, Now: opt.Now, Judge: c.judge,
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// hostOf returns the host of a state log's name; "" if it is none of a network.
func hostOf(origin, network string) string {
	host, of, _, err := protocol.ParseStateOrigin(origin)
	if err != nil || of != network {
		return ""
	}
	return host
}

// Close lets other processes open the witness. Run has to have returned.
func (c *Cosigner) Close() error { return c.witness.Close() }

// Differing is how many checkpoints differed since the start.
func (c *Cosigner) Differing() int64 { return c.differs.Load() }

// Witness is what answers logs.
func (c *Cosigner) Witness() *witness.Witness { return c.witness }

// judge returns nil if a checkpoint has the root that was computed here.
func (c *Cosigner) judge(checkpoint format.Checkpoint, signed []byte) error {
	e := c.opt.Publisher.current()
	later := func(err error) error { return fmt.Errorf("%w: %w", witness.ErrLater, err) }
	if err := e.Ready(); err != nil {
		return later(err)
	}
	if size := e.Size(); checkpoint.Size > size {
		return later(fmt.Errorf("expected at most %d entries, got %d", size, checkpoint.Size))
	}
	root, err := e.RootAt(context.Background(), checkpoint.Size)
	if err != nil {
		return later(err)
	}
	if root == checkpoint.Root {
		return nil
	}
	c.keep(checkpoint, signed)
	return fmt.Errorf("%w: expected the root %v of %d entries, got %v", witness.ErrRefused, root, checkpoint.Size, checkpoint.Root)
}

// path is where evidence about a checkpoint is kept.
func (c *Cosigner) path(checkpoint format.Checkpoint) string {
	sum := sha256.Sum256([]byte(checkpoint.Text()))
	return filepath.Join(c.opt.Evidence, fmt.Sprintf("%x.json", sum[:8]))
}

// keep stores a checkpoint that differs, and has it be searched, unless both was done.
func (c *Cosigner) keep(checkpoint format.Checkpoint, signed []byte) {
	d := differing{*c.opt.Policy.Log(checkpoint.Origin), checkpoint, signed}
	path := c.path(checkpoint)
	known, err := readEvidence(path)
	switch {
	case err == nil && len(known.StateLog.Entry) > 0:
		return
	case errors.Is(err, fs.ErrNotExist):
		kept, err := os.ReadDir(c.opt.Evidence)
		if err == nil && len(kept) >= maxEvidence {
			err = fmt.Errorf("%s holds %d files already: move them elsewhere", c.opt.Evidence, len(kept))
		}
		if err == nil {
			err = c.write(d, audit.StateLog{})
		}
		if err != nil {
			c.opt.Log.Error().Err(err).Str("log", checkpoint.Origin).Uint64("size", checkpoint.Size).Stringer("root", checkpoint.Root).Msg("a state log has signed another tree, which could not be kept as evidence")
			return
		}
		c.differs.Add(1)
		c.opt.Log.Error().Str("log", checkpoint.Origin).Uint64("size", checkpoint.Size).Stringer("root", checkpoint.Root).Str("evidence", path).
			Msg("a state log has signed another tree than was computed here")
	}
	select {
	case c.found <- d:
	default: // the log comes again
	}
}

// readEvidence reads a file of evidence about a state log.
func readEvidence(path string) (*audit.Evidence, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	e, err := audit.ReadEvidence(f)
	if err == nil && e.StateLog == nil {
		err = fmt.Errorf("%s is not about a state log", path)
	}
	return e, err
}

// write stores evidence of a checkpoint, with what was found out of the entry.
func (c *Cosigner) write(d differing, s audit.StateLog) error {
	s.Key, s.Checkpoint = d.log.Key.String(), string(d.signed)
	host := hostOf(d.checkpoint.Origin, c.opt.Publisher.opt.Chain.Params().Network)
	return audit.NewStateEvidence(host, s, uint64(max(0, c.opt.Now().Unix()))).Write(c.path(d.checkpoint))
}

// Run finds out at which block those differ that have signed another tree, until ctx ends.
func (c *Cosigner) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-c.found:
			if known, err := readEvidence(c.path(d.checkpoint)); err == nil && len(known.StateLog.Entry) > 0 {
				continue // it came twice
			}
			s, err := c.locate(ctx, d)
			if err == nil {
				err = c.write(d, s)
			}
			if err != nil {
				c.opt.Log.Warn().Err(err).Str("log", d.checkpoint.Origin).Msg("which entry of a state log differs was not found out: it is asked again when the checkpoint comes again")
				select { // anybody can send the checkpoint again and again
				case <-ctx.Done():
				case <-time.After(searchTimeout):
				}
				continue
			}
			c.opt.Log.Error().Str("log", d.checkpoint.Origin).Uint64("index", s.Index).Str("evidence", c.path(d.checkpoint)).Msg("found out which entry of a state log differs")
		}
	}
}

// locate asks another server for the tiles that show which entry is the first that differs. All that it says is
// checked against the checkpoint that its log has signed.
func (c *Cosigner) locate(ctx context.Context, d differing) (s audit.StateLog, err error) {
	if d.log.URL == "" {
		return s, errors.New("the policy does not tell the log's URL: expected a line of the form log KEY URL")
	}
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	tiles := make(map[format.Tile][]byte)
	read := func(t format.Tile) ([]byte, error) {
		if known, ok := tiles[t]; ok {
			return known, nil
		}
		if len(tiles) >= maxTiles {
			return nil, fmt.Errorf("it takes more than %d tiles", maxTiles)
		}
		content, err := get(ctx, c.opt.Transport, d.log.URL+"/"+format.Path(t))
		tiles[t] = content
		return content, err
	}
	own := c.opt.Publisher.current()
	same, differs := uint64(0), d.checkpoint.Size // sizes
	for differs-same > 1 {
		size := same + (differs-same)/2
		theirs, _, err := format.Prove(d.checkpoint, size, read)
		if err != nil {
			return s, err
		}
		root, err := own.RootAt(ctx, size)
		if err != nil {
			return s, err
		}
		if root == theirs {
			same = size
		} else {
			differs = size
		}
	}
	s.Index = same
	proof, err := format.ProveEntry(d.checkpoint, s.Index, read)
	if err != nil {
		return s, err
	}
	for i := range proof {
		s.Inclusion = append(s.Inclusion, proof[i][:])
	}
	first := s.Index / format.TileWidth * format.TileWidth
	width := int(min(format.TileWidth, d.checkpoint.Size-first))
	bundle, err := read(format.NewTile(-1, int64(first/format.TileWidth), width))
	if err != nil {
		return s, err
	}
	entries, err := format.ParseBundle(bundle, width)
	if err != nil {
		return s, err
	}
	s.Entry = entries[s.Index-first]
	if err := format.CheckInclusion(d.checkpoint, s.Index, s.Entry, proof); err != nil {
		return s, err
	}
	computed, err := own.entry(s.Index)
	if err != nil {
		return s, err
	}
	b := computed.Bytes()
	s.Computed = b[:]
	return s, nil
}

// get asks for a tile.
func get(ctx context.Context, transport http.RoundTripper, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxTile+1))
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s has answered %d: %.200q", url, response.StatusCode, content)
	case int64(len(content)) > maxTile:
		return nil, fmt.Errorf("%s has answered more than %d bytes", url, maxTile)
	}
	return content, nil
}
