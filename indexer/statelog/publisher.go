package statelog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// Chain is what the index makes of the chain, a *graph.Graph. Its methods may be called concurrently.
type Chain interface {
	Params() graph.Params
	Tip() (tip graph.Tip, ok bool)
	Changed() <-chan struct{}
	// At returns a view as of a height, nil meaning the tip.
	At(height *uint32) (*graph.View, error)
}

// Options are what a Publisher is told. Chain and Dir are required; elsewhere zero means the default.
type Options struct {
	Chain Chain
	Dir   string // of the entries, and what is known of headers; made if it is not there

	// KeyFile is that of the first epoch's log, with KeyFile.json for what it has signed; the next ones' have their
	// numbers behind it. "": none is signed, but entries are computed.
	KeyFile string
	Host    string // in the log's name
	// Policy, WitnessInterval, WitnessTimeout and Transport are as keyserver/tlog has them.
	Policy          *format.Policy
	WitnessInterval time.Duration
	WitnessTimeout  time.Duration
	Transport       http.RoundTripper

	Now func() time.Time // the clock; time.Now by default
	// Every is how often is looked, at least, whether time alone has let entries be published; 10 s by default.
	Every time.Duration
	Log   zerolog.Logger

	interval time.Duration // as keyserver/tlog has it; tests do not wait so long
	// between, if not nil, is called between two steps, by their name; tests kill the process there.
	between func(step string)
}

// maxEpochs is more epochs than there are: each took a reorganisation below ten blocks and two hours.
const maxEpochs = 1000

// Publisher has the state log of an index. Log, Size and Status may be called concurrently with Run.
type Publisher struct {
	opt   Options
	known *known // Run's goroutine

	stop context.CancelFunc // Run's goroutine; ends the log's Run
	done chan struct{}      // Run's goroutine; closed when it has ended; nil: it does not run

	stopped atomic.Bool // Run has returned an error

	mu     sync.RWMutex
	epochs []*epoch // mu; by their numbers from 1 on; the last is not frozen
}

// epoch is a log with its entries.
type epoch struct {
	number uint32
	*tree
	log    *tlog.Log // nil without a key
	chain  Chain
	signed uint64        // entries that the log had signed when it was opened
	frozen chan struct{} // closed when the epoch has ended
}

// Open opens what was published. Close it. The log begins to sign with Run.
//
// ErrNoStateRoot, tlog.ErrMismatch, tlog.ErrLocked, durable.ErrReadable, or an error of the file system.
func Open(opt Options) (p *Publisher, err error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Every == 0 {
		opt.Every = 10 * time.Second
	}
	if opt.between == nil {
		opt.between = func(string) {}
	}
	p = &Publisher{opt: opt}
	if p.known, err = readKnown(filepath.Join(opt.Dir, "known.json")); err != nil {
		return nil, err
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Publisher) open() error {
	if start := p.opt.Chain.Params().StartHeight; p.hasBlock(start) {
		if _, _, err := entryAt(p.opt.Chain, start); err != nil {
			return err
		}
	}
	last := uint32(1)
	for p.opt.KeyFile != "" {
		if _, err := os.Stat(p.stateFile(last + 1)); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		if last++; last > maxEpochs {
			return fmt.Errorf("%w: there are more than %d epochs of %s", tlog.ErrMismatch, maxEpochs, p.opt.KeyFile)
		}
	}
	for n := uint32(1); n <= last; n++ {
		e, err := p.openEpoch(n, n < last)
		if err != nil {
			return err
		}
		p.epochs = append(p.epochs, e)
	}
	return nil
}

func (p *Publisher) hasBlock(height uint32) bool {
	tip, ok := p.opt.Chain.Tip()
	return ok && tip.Height >= height
}

func (p *Publisher) keyFile(epoch uint32) string {
	if epoch == 1 {
		return p.opt.KeyFile
	}
	return p.opt.KeyFile + "." + strconv.Itoa(int(epoch))
}

func (p *Publisher) stateFile(epoch uint32) string { return p.keyFile(epoch) + ".json" }

// openEpoch opens an epoch's entries and log. That of a frozen one is only read.
func (p *Publisher) openEpoch(n uint32, frozen bool) (*epoch, error) {
	dir := strconv.Itoa(int(n))
	if p.opt.KeyFile == "" {
		dir = "unsigned" // what is frozen stays as it is
	}
	t, err := openTree(filepath.Join(p.opt.Dir, dir))
	if err != nil {
		return nil, err
	}
	e := &epoch{number: n, tree: t, chain: p.opt.Chain, frozen: make(chan struct{})}
	if p.opt.KeyFile == "" {
		return e, nil
	}
	e.log, err = tlog.Open(tlog.Options{
		Tree: e, Origin: protocol.StateOrigin(p.opt.Host, p.opt.Chain.Params().Network, n), KeyFile: p.keyFile(n), StateFile: p.stateFile(n),
		Policy: p.opt.Policy, Interval: p.opt.interval, WitnessInterval: p.opt.WitnessInterval, WitnessTimeout: p.opt.WitnessTimeout, Transport: p.opt.Transport,
		ReadOnly: frozen, Now: p.opt.Now, Log: p.opt.Log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state log, epoch %d: %w", n, err), t.close())
	}
	e.signed = e.log.Status().Signed
	return e, nil
}

func (e *epoch) close() error {
	if e.log == nil {
		return e.tree.close()
	}
	return errors.Join(e.log.Close(), e.tree.close())
}

// Ready implements tlog.Tree: nothing is signed before the entries that were signed are all there again, nor while
// the newest one's block is not on the chain.
func (e *epoch) Ready() error {
	size := e.Size()
	if size < e.signed {
		return fmt.Errorf("the state log has %d of the %d entries that were signed", size, e.signed)
	}
	if size == 0 {
		return nil
	}
	newest, err := e.entry(size - 1)
	if err != nil {
		return err
	}
	there, _, err := entryAt(e.chain, newest.Height)
	if err == nil && there != newest {
		err = fmt.Errorf("block %v is not on the chain any more", newest.Block)
	}
	return err
}

// entryAt returns the entry of the block at a height, and the hash of the block before.
func entryAt(chain Chain, height uint32) (e protocol.StateEntry, prev chainhash.Hash, err error) {
	v, err := chain.At(&height)
	if err != nil {
		return e, prev, err
	}
	defer v.Close()
	at, prev := v.Block()
	if at.StateRoot == [32]byte{} {
		return e, prev, fmt.Errorf("%w: block %d, %v, came while none was kept: index again with --state-root on", ErrNoStateRoot, height, at.Hash)
	}
	return protocol.StateEntry{Height: height, Block: at.Hash, StateHash: at.StateHash, StateRoot: at.StateRoot}, prev, nil
}

// Close lets other processes open the log. Run has to have returned.
func (p *Publisher) Close() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.epochs {
		err = errors.Join(err, e.close())
	}
	p.epochs = nil
	return err
}

// Log returns the log of an epoch; nil if there is none.
func (p *Publisher) Log(epoch uint32) *tlog.Log {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if epoch == 0 || int(epoch) > len(p.epochs) {
		return nil
	}
	return p.epochs[epoch-1].log
}

// Size returns how many entries the epoch has that is not frozen, signed or not.
func (p *Publisher) Size() uint64 { return p.current().Size() }

// Status is how far a state log has come.
type Status struct {
	Epoch   uint32 // that is not frozen
	Signed  uint64 // entries in its last checkpoint; 0 for none
	Stopped bool   // nothing is signed until the next start
}

// Status returns how far the state log has come.
func (p *Publisher) Status() Status {
	e := p.current()
	s := Status{Epoch: e.number, Stopped: p.stopped.Load()}
	if e.log != nil {
		s.Signed, s.Stopped = e.log.Status().Signed, s.Stopped || e.log.Err() != nil
	}
	return s
}

func (p *Publisher) current() *epoch {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.epochs[len(p.epochs)-1]
}

// Run publishes until ctx ends, which is no error, or what it cannot mend is found: ErrNoStateRoot, ErrContradiction,
// or that something cannot be stored. It is called once.
func (p *Publisher) Run(ctx context.Context) error {
	defer p.stopSigning()
	again := time.NewTicker(p.opt.Every)
	defer again.Stop()
	p.startSigning(ctx)
	for {
		changed := p.opt.Chain.Changed()
		if err := p.step(ctx); err != nil && ctx.Err() == nil && !graph.OffChain(err) {
			p.stopped.Store(true)
			return fmt.Errorf("state log: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again.C:
		}
	}
}

// startSigning has the log of the current epoch sign.
func (p *Publisher) startSigning(ctx context.Context) {
	log := p.current().log
	if log == nil {
		return
	}
	ctx, p.stop = context.WithCancel(ctx)
	done := make(chan struct{})
	p.done = done
	go func() {
		defer close(done)
		log.Run(ctx)
	}()
}

// stopSigning returns when nothing is signed any more.
func (p *Publisher) stopSigning() {
	if p.done != nil {
		p.stop()
		<-p.done
		p.done = nil
	}
}

// step looks at the chain once.
func (p *Publisher) step(ctx context.Context) error {
	tip, ok := p.opt.Chain.Tip()
	if !ok {
		return nil
	}
	onChain := func(height uint32, block string) bool {
		v, err := p.opt.Chain.At(&height)
		if err != nil {
			return false
		}
		defer v.Close()
		return v.Hash().String() == block
	}
	now := p.opt.Now()
	if err := p.known.see(tip.Height, tip.Hash, now, onChain); err != nil {
		return err
	}
	start, e := p.opt.Chain.Params().StartHeight, p.current()
	if size := e.Size(); size > 0 && tip.Height >= start {
		// Where the chain is shorter, as while blocks are taken off, what is left of it is compared.
		at := min(tip.Height, start+uint32(size-1))
		own, err := e.entry(uint64(at - start))
		if err != nil {
			return err
		}
		there, _, err := entryAt(p.opt.Chain, at)
		switch {
		case err != nil:
			return err
		case own.Block != there.Block:
			return p.reorganised(ctx, e, at)
		case own != there:
			return fmt.Errorf("%w: of block %d, %v, the log has H %x and R %x, the graph %x and %x", ErrContradiction, at, own.Block, own.StateHash, own.StateRoot, there.StateHash, there.StateRoot)
		}
	}
	until, ok := p.known.until(now)
	if !ok || tip.Height < depth {
		return nil
	}
	return p.publish(ctx, e, min(until, tip.Height-depth))
}

// publish adds the entries up to a height.
func (p *Publisher) publish(ctx context.Context, e *epoch, until uint32) error {
	const atOnce = 4096 // entries are synced together
	start := p.opt.Chain.Params().StartHeight
	for next := start + uint32(e.Size()); next <= until && ctx.Err() == nil; next = start + uint32(e.Size()) {
		var before protocol.StateEntry
		if next > start {
			var err error
			if before, err = e.entry(uint64(next - start - 1)); err != nil {
				return err
			}
		}
		var entries []protocol.StateEntry
		for ; next <= until && len(entries) < atOnce; next++ {
			there, prev, err := entryAt(p.opt.Chain, next)
			if err != nil {
				return err
			}
			if next > start && prev != before.Block {
				return nil // the chain has changed since the last look
			}
			entries, before = append(entries, there), there
		}
		p.opt.between("computed")
		if err := e.append(entries); err != nil {
			return fmt.Errorf("storing entries: %w", err)
		}
		p.opt.between("stored")
	}
	return nil
}

// reorganised is called when another block stands at a height than the entry there says. Entries that no checkpoint
// covers are taken back; if one is, the epoch ends.
func (p *Publisher) reorganised(ctx context.Context, e *epoch, at uint32) error {
	p.stopSigning()
	start := p.opt.Chain.Params().StartHeight
	var failed error
	same := sort.Search(int(at-start), func(i int) bool { // how many entries are on the chain
		own, err := e.entry(uint64(i))
		there, _, thereErr := entryAt(p.opt.Chain, start+uint32(i))
		if err := errors.Join(err, thereErr); err != nil {
			failed = err
		}
		return own.Block != there.Block
	})
	var signed uint64
	if e.log != nil {
		signed = e.log.Status().Signed
	}
	if failed != nil || uint64(same) >= signed {
		if failed == nil {
			failed = e.truncate(int64(same))
		}
		p.startSigning(ctx)
		return failed
	}
	own, err := e.entry(uint64(same))
	if err != nil {
		return err
	}
	p.opt.Log.Error().Uint32("height", own.Height).Stringer("block", own.Block).Uint32("epoch", e.number).Uint64("signed", signed).
		Msg("state log: a published block was taken off the chain: the log is frozen, and a new epoch begins, whose key its readers and witnesses have to be told")
	p.opt.between("reorganised")
	next, err := p.openEpoch(e.number+1, false) // from now on the old key signs nothing
	if err != nil {
		return err
	}
	p.opt.between("next")
	p.mu.Lock()
	p.epochs = append(p.epochs, next)
	p.mu.Unlock()
	close(e.frozen)
	p.opt.Log.Info().Stringer("key", next.log.Key()).Uint32("epoch", next.number).Msg("state log: the next epoch's key")
	p.startSigning(ctx)
	return nil
}
