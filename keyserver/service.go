package keyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	// inspectEvery is how often the tables are checked for damage that came after the
	// start.
	inspectEvery = 10 * time.Minute
	// renewBefore is how long before the keyserver's own identity expires it says so.
	renewBefore = 30 * 24 * time.Hour
)

// Service is a keyserver for one domain. Its methods may be called concurrently.
type Service struct {
	opt    Options
	db     store.Store
	writer *writer
	format int // of the database; an earlier one only with Options.ReadOnly

	gate   sync.RWMutex // held for reading while db is read
	closed bool         // gate

	held     atomic.Bool // Options.Held, and not released yet
	rotating sync.Mutex  // held while the key file is changed

	anchorChain atomic.Pointer[string]       // as on disk; nil if there is none
	unanchored  atomic.Bool                  // as on disk
	log         atomic.Pointer[announcedLog] // nil: the chain is served as none

	shared       store.Shared  // db, if several processes can reach it, else nil
	standby      atomic.Bool   // Options.Standby, and not taken over yet
	tookOver     bool          // the store was taken over; TakeOver's
	following    sync.Mutex    // held while a standby replaces the writer's state
	mayTakeOver  chan struct{} // gets one when a standby was seen to have the right keys
	acknowledged *acknowledged // nil if nothing is remembered

	stopWorking context.CancelFunc // ends what works beside calls
	working     sync.WaitGroup
}

// Open opens the keyserver's database, or makes it together with the server's
// keys and the first entry. It verifies what is stored (see the package's
// comment), which takes time in proportion to the length of the chain.
//
// ErrMismatch if folder, key file and domain do not belong together, ErrFormat,
// ErrDamaged, ErrLocked, ErrDiskFull, or an error of the file system.
func Open(ctx context.Context, opt Options) (*Service, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	db, err := opt.open(ctx)
	if err != nil {
		return nil, err
	}
	s := &Service{opt: opt, db: db, mayTakeOver: make(chan struct{}, 1)}
	s.shared, _ = db.(store.Shared)
	s.standby.Store(opt.Standby)
	if opt.Acknowledged != "" {
		s.acknowledged = &acknowledged{path: opt.Acknowledged}
	}
	s.held.Store(opt.Held)
	s.writer = newWriter(db, func(writes []store.Write) error { return opt.commit(db, writes) }, s.now)
	s.writer.far = s.shared != nil
	s.writer.landed = func(now *state) { s.acknowledge(&now.chain) }
	if err := s.start(ctx); err != nil {
		db.Close()
		return nil, err
	}
	s.work()
	return s, nil
}

// open opens the store that the options say, as they say.
func (o *Options) open(ctx context.Context) (store.Store, error) {
	place := o.place()
	switch {
	case o.ReadOnly:
		return place.OpenReadOnly(ctx)
	case o.Standby:
		shared, ok := place.(store.SharedPlace)
		if !ok {
			return nil, fmt.Errorf("%w: a standby needs a store that several servers can reach, which %s is not", ErrMismatch, place)
		}
		return shared.OpenStandby(ctx)
	}
	return place.Open(ctx)
}

// work begins what works beside calls.
func (s *Service) work() {
	ctx, stop := context.WithCancel(context.Background())
	s.stopWorking = stop
	if s.acknowledged != nil && !s.opt.ReadOnly {
		s.working.Go(func() { s.syncAcknowledged(ctx) })
	}
	switch {
	case s.opt.ReadOnly:
	case s.standby.Load():
		s.working.Go(func() { s.followAlways(ctx) })
	default:
		s.writer.start()
		s.working.Go(func() { s.sweep(ctx) })
		s.working.Go(func() { s.inspectAgain(ctx) })
		if s.shared != nil {
			s.working.Go(func() { s.watchLost(ctx) })
		}
	}
}

// Close ends the service: calls that are at the writer are still made and
// answered, later ones get ErrClosed. It waits for reads, backups among them.
func (s *Service) Close() error {
	s.stopWorking()
	s.working.Wait()
	s.gate.Lock()
	again := s.closed
	s.closed = true
	s.gate.Unlock()
	if again {
		return nil
	}
	s.writer.stop()
	err := s.db.Close()
	if s.acknowledged != nil {
		err = errors.Join(err, s.acknowledged.close())
	}
	return err
}

// Failed is closed when the service cannot go on; Err says why then. The process
// should end, or open the service anew.
func (s *Service) Failed() <-chan struct{} { return s.writer.failed }

// Err returns why the service has failed, wrapping ErrFailed, or nil.
func (s *Service) Err() error {
	select {
	case <-s.writer.failed:
		return s.writer.err
	default:
		return nil
	}
}

// Release ends what Options.Held began, for good.
func (s *Service) Release() { s.held.Store(false) }

// Ready returns why the service answers nothing: ErrFailed, ErrHeld, ErrUnavailable where the
// database has been out of reach for so long that another server may write it, or nil.
func (s *Service) Ready() error {
	if err := s.Err(); err != nil {
		return err
	}
	if s.held.Load() {
		return ErrHeld
	}
	if s.shared != nil {
		return s.shared.Usable()
	}
	return nil
}

func (s *Service) now() uint64 { return uint64(max(0, s.opt.Now().Unix())) }

// view runs a read of what is on disk, to be shown. ErrHeld while the service is held.
func (s *Service) view(ctx context.Context, read func(store.Reader) error) error {
	if err := s.current(ctx); err != nil {
		return err
	}
	return s.viewHeld(ctx, read)
}

// change has the writer make a change. ErrHeld while the service is held, ErrStandby on a
// standby.
func (s *Service) change(ctx context.Context, apply func(*tx) error) error {
	return s.makeChange(&change{ctx: ctx, apply: apply})
}

// makeChange is change for one that may have been read ahead.
func (s *Service) makeChange(c *change) error {
	if err := s.Ready(); err != nil {
		return err
	}
	if s.standby.Load() {
		return ErrStandby
	}
	return s.writer.submit(c)
}

// viewHeld is view, also while the service is held: for those whom doc.go names.
// If what is on disk is found damaged the service fails.
func (s *Service) viewHeld(ctx context.Context, read func(store.Reader) error) error {
	return s.whileOpen(func() error { return s.db.View(ctx, read) })
}

// whileOpen calls read unless the service is closed, which it cannot be meanwhile, or has
// failed.
func (s *Service) whileOpen(read func() error) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.closed {
		return ErrClosed
	}
	if err := s.Err(); err != nil {
		return err
	}
	err := read()
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrLocked) {
		s.writer.fail(err) // nothing may be built on it
	}
	return err
}

// inspectAgain checks the tables from time to time, until ctx ends or they are
// damaged.
func (s *Service) inspectAgain(ctx context.Context) {
	timer := time.NewTicker(inspectEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.writer.failed:
			return
		case <-timer.C:
			s.inspect(ctx)
		}
	}
}

// inspect checks the tables of the open database. If one is damaged the service
// fails: where Badger cannot read a table it may take what is in it for missing, and
// a name that is taken for free.
func (s *Service) inspect(ctx context.Context) {
	err := s.db.Inspect(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	s.opt.Log.Error().Err(err).Msg("checking the files of the keyserver")
	if errors.Is(err, ErrDamaged) {
		s.writer.fail(err)
	}
}

// warnExpiry says in time that the keyserver's own identity must be renewed:
// clients stop trusting it after its NOTAFTER.
func (s *Service) warnExpiry() {
	rotations := s.writer.state.Load().rotations
	notAfter := rotations[len(rotations)-1].notAfter
	if now := s.now(); !uid.Trusted(notAfter, now+uint64(renewBefore/time.Second)) {
		s.opt.Log.Warn().Time("not_after", time.Unix(int64(notAfter), 0).UTC()).
			Msg("the keyserver's own identity expires: rotate its key")
	}
}

// Domain is the one that the keyserver serves.
func (s *Service) Domain() string { return s.opt.Domain }

// identity is the keyserver's own.
func (s *Service) identity() string { return uid.KeyserverLocalpart + "@" + s.opt.Domain }

// checkFormat compares the format record with the options and returns the format; 0
// if there is none because the database is empty.
func (s *Service) checkFormat(view store.Reader) (format int, err error) {
	b, ok, err := view.Get([]byte{prefixFormat})
	if err != nil {
		return 0, err
	}
	if !ok {
		any, err := store.Has(view, nil)
		if any {
			err = fmt.Errorf("%w: %s: no format record", ErrDamaged, s.opt.place())
		}
		return 0, err
	}
	var f formatRecord
	if err := json.Unmarshal(b, &f); err != nil {
		return 0, fmt.Errorf("%w: format record: %w", ErrDamaged, err)
	}
	if f.Domain != s.opt.Domain {
		return 0, fmt.Errorf("%w: %s is the database of %q, not of %q", ErrMismatch, s.opt.place(), f.Domain, s.opt.Domain)
	}
	switch {
	case f.Version < 1 || f.Version > formatVersion:
		return 0, fmt.Errorf("%w: %s has format %d, expected 1 to %d: a later keytree has made it; use that one",
			ErrMismatch, s.opt.place(), f.Version, formatVersion)
	case f.Version < formatVersion && !s.opt.Migrate && !s.opt.ReadOnly:
		return 0, fmt.Errorf("%w: %s has format %d, expected %d: nothing was changed; keytree keyserver backup saves it as it is, and serve converts it",
			ErrFormat, s.opt.place(), f.Version, formatVersion)
	}
	return f.Version, nil
}
