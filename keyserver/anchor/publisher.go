package anchor

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
)

// Defaults and bounds.
const (
	DefaultFeeRate = protocol.DefaultFeeRate
	// MostFeeRate is the highest rate at which a publisher can start, in satoshi per byte.
	MostFeeRate = 100
	// maxRaise is how many times the fee rate it may raise itself to, for a node that
	// wants more.
	maxRaise = 32

	// MaxUnconfirmed is how many anchors may wait for a block, one upon the other. The
	// next one waits until some of them are confirmed.
	MaxUnconfirmed = 20

	// buried is how many blocks deep an anchor is not looked after any more.
	buried = 100
	// settled is how many blocks deep an anchor is before a key that was replaced is
	// removed: nodes do not go back further by themselves.
	settled = 10

	// defaultPoll is how often the publisher looks around when no block comes.
	defaultPoll = time.Second
	// maxPause is the longest pause after a failure.
	maxPause = time.Minute
	// offerEvery is how often an unconfirmed anchor is handed to the node again, which
	// may have been started anew, though no block has come.
	offerEvery = time.Minute
	// remindEvery is how often a lasting trouble is said again.
	remindEvery = time.Hour
	// fewAnchors is the number of anchors that funds pay for below which there is a
	// warning with each.
	fewAnchors = 200
)

// Options are what a Publisher is told. All without a default are required.
type Options struct {
	Domain    string
	Network   *chaincfg.Params
	KeyFile   string // with the key that holds the baton; made if no anchor was ever made
	StateFile string // made with the first anchor

	Hashchain Hashchain
	Chain     Chain
	Node      Node

	Schedule schedule.Schedule // schedule.Default() if it is zero
	FeeRate  int64             // satoshi per byte, up to MostFeeRate; DefaultFeeRate

	// AnchorChain, if not nil, is the txid of a genesis anchor. Check compares the
	// hashchain with that chain of anchors, too, and has the database name it if nothing
	// else tells which chain it is.
	AnchorChain *chainhash.Hash

	// NeedFunds, if not nil, is called, at most once, when there is nothing to pay the
	// genesis anchor with. The URI asks a wallet for a payment to the key.
	NeedFunds func(uri string)

	Poll time.Duration    // how often it looks around when no block comes; 1 s
	Now  func() time.Time // the clock; time.Now
	Log  zerolog.Logger
}

func (o *Options) complete() error {
	if o.Schedule == (schedule.Schedule{}) {
		o.Schedule = schedule.Default()
	}
	if err := o.Schedule.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if o.FeeRate == 0 {
		o.FeeRate = DefaultFeeRate
	}
	if o.FeeRate < 1 || o.FeeRate > MostFeeRate {
		return fmt.Errorf("%w: expected a fee rate of 1 to %d satoshi per byte, got %d", ErrMismatch, MostFeeRate, o.FeeRate)
	}
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Publisher anchors one keyserver's hashchain. Check, then Run, are called once each,
// one after the other; Status, List and Rotate at any time, concurrently.
type Publisher struct {
	opt       Options
	rotations chan rotation
	status    atomic.Pointer[Status] // as of the last look around

	checked atomic.Bool // Check has returned nil

	// Check and Run own what follows.
	keys     *keyring
	state    *state
	offers   map[chainhash.Hash]offer // what the node said of anchors
	asked    chainhash.Hash           // the block as of which the node was asked last
	funds    funds                    // as it said then
	signed   bool                     // an anchor was, since funds were last judged
	begged   bool                     // NeedFunds was called
	reminded time.Time                // when a lasting trouble was last logged
	trouble  string                   // which

	// Caches, of what cannot become wrong.
	agreed   map[chainhash.Hash]bool    // anchors that the hashchain agrees with
	batons   map[chainhash.Hash]*signed // what output 0 of a transaction is the baton of; nil: of nothing
	searched chainhash.Hash             // the block as of which found is
	found    search
}

func newPublisher(opt Options) *Publisher {
	return &Publisher{
		opt: opt, rotations: make(chan rotation),
		agreed: make(map[chainhash.Hash]bool), batons: make(map[chainhash.Hash]*signed), offers: make(map[chainhash.Hash]offer),
	}
}

// Open reads key and state, and makes the key file if there is neither.
// ErrMismatch if they do not belong together.
func Open(opt Options) (*Publisher, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	p := newPublisher(opt)
	var err error
	if p.state, err = openState(opt.StateFile, opt.Domain, opt.Network.Name); err != nil {
		return nil, err
	}
	if p.keys, err = openKeyring(opt.KeyFile, opt.Network, p.state.genesis == nil); err != nil {
		return nil, err
	}
	p.report(new(facts), "the anchors have not been compared with the hashchain yet")
	return p, nil
}

// Check compares the hashchain with what was anchored before, which takes an index that
// is at the end of the node's chain: it waits for that, and for the node, until ctx
// ends. The keyserver must not answer anybody before it returns nil. ErrAhead and
// ErrContradicts if the hashchain is not what was anchored; ErrUndecided, ErrMismatch or
// ErrUnsuitable if that cannot be found out.
func (p *Publisher) Check(ctx context.Context) error { return p.await(ctx, p.check) }

// CheckUnanchored is Check for a hashchain of a domain that is not anchored, and needs no
// key. ErrUndecided if there are chains of anchors that may be its own.
func CheckUnanchored(ctx context.Context, domain string, entries Hashchain, chain Chain, log zerolog.Logger) error {
	p := newPublisher(Options{Domain: domain, Hashchain: entries, Chain: chain, Poll: defaultPoll, Now: time.Now, Log: log})
	p.keys, p.state = new(keyring), new(state)
	return p.await(ctx, func(ctx context.Context) error {
		_, err := p.pursue(ctx, (*facts).settle)
		return err
	})
}

// await tries a check until it ends, for good or bad.
func (p *Publisher) await(ctx context.Context, check func(context.Context) error) error {
	pauses := p.newPauses()
	for {
		err := check(ctx)
		if err == nil || isFinal(err) {
			return err
		}
		if !errors.Is(err, ErrBehind) {
			p.opt.Log.Warn().Err(err).Msg("comparing the hashchain with its anchors: trying again")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

var errNotChecked = errors.New("held back: the hashchain has not been compared with its anchors yet; try again when the index has caught up")

// Run publishes until ctx ends, which is no error, or until it must not go on: with
// one of the errors of Check.
func (p *Publisher) Run(ctx context.Context) error {
	pauses := p.newPauses()
	for ctx.Err() == nil {
		pause, changed := p.opt.Poll, p.opt.Chain.Changed()
		err := p.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, ErrBehind):
			pauses.Reset()
		case isFinal(err):
			return fmt.Errorf("anchors: %w", err)
		default:
			pause, changed = pauses.NextBackOff(), nil
			p.opt.Log.Warn().Err(err).Dur("pause", pause).Msg("anchoring: trying again")
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
		case r := <-p.rotations:
			txid, err := p.rotate(ctx)
			r.reply(txid, err)
			if err != nil && isFinal(err) {
				timer.Stop()
				return fmt.Errorf("anchors: %w", err)
			}
		}
		timer.Stop()
	}
	return nil
}

// newPauses returns the pauses between attempts: from Poll up to maxPause.
func (p *Publisher) newPauses() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(p.opt.Poll),
		backoff.WithMaxInterval(max(maxPause, p.opt.Poll)), backoff.WithMaxElapsedTime(0))
}

// rotation is a request for Rotate.
type rotation struct{ done chan<- rotated }

type rotated struct {
	txid chainhash.Hash
	err  error
}

// reply never waits.
func (r rotation) reply(txid chainhash.Hash, err error) { r.done <- rotated{txid, err} }

// Rotate hands the baton to a new key, by an anchor of its own, and returns its txid.
// The key file holds the new key then; the old one is kept beside it until nodes would
// not undo the change any more.
//
// After an error, Status tells which key holds the baton. Rotate has to wait for a step
// that is under way, and fails before Check has returned nil.
func (p *Publisher) Rotate(ctx context.Context) (chainhash.Hash, error) {
	if !p.checked.Load() {
		return chainhash.Hash{}, errNotChecked
	}
	done := make(chan rotated, 1)
	select {
	case p.rotations <- rotation{done}:
	case <-ctx.Done():
		return chainhash.Hash{}, context.Cause(ctx)
	}
	select {
	case r := <-done:
		return r.txid, r.err
	case <-ctx.Done():
		return chainhash.Hash{}, fmt.Errorf("%w: the key may have been replaced all the same: look at the status", context.Cause(ctx))
	}
}
