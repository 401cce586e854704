package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gofrs/flock"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Keyserver is what the auditor asks the keyserver, or a file. Nothing of the
// answers is believed.
type Keyserver interface {
	// Entries yields the hashchain from a position on, in pieces of at most some
	// 10,000 entries, to its end; nothing if it ends before.
	Entries(ctx context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error]
	// Positions returns where the entries of an identity (mapped) are said to be.
	Positions(ctx context.Context, identity string) ([]uint64, error)
	// Reply returns what the key repository has under a UIDIndex.
	Reply(ctx context.Context, index hashchain.Hash) (*uid.Reply, error)
	// Head returns the keyserver's signed head; nil if it offers none.
	Head(ctx context.Context) (*hashchain.SignedHead, error)
	// Schedule returns how often it says that it anchors; nil if it does not say.
	Schedule(ctx context.Context) (*schedule.Schedule, error)
}

// Sources are where an audit takes everything from.
type Sources struct {
	Keyserver Keyserver
	// Bundle opens the proof bundle of the pinned chain of anchors, from the anchor
	// with a number on or from an earlier one.
	Bundle  func(ctx context.Context, first uint32) (io.ReadCloser, error)
	Headers Headers
	// Log is the keyserver's transparency log. It is asked if there is a Config.Policy.
	Log Log
	// OtherChains lists the chains of anchors for a domain that are known, by the
	// txids of their genesis anchors. It may be nil.
	OtherChains func(ctx context.Context, domain string) ([]chainhash.Hash, error)
	// Newest returns the time in the header of the best chain's last block that is
	// known, for clocks that are behind. It may be nil.
	Newest func(ctx context.Context) (time.Time, error)
	// Spending asks one's own node whether an output, which the best chain has, is
	// spent. It may be nil.
	Spending func(ctx context.Context, out wire.OutPoint) (Spending, error)
}

// Config is what an auditor is told.
type Config struct {
	Dir     string // for what it keeps
	Network *chaincfg.Params
	Genesis chainhash.Hash // txid of the genesis anchor: pinned

	// Limits beside those of the keyserver's schedule: on the age of the last anchor,
	// and on the entries after it; 0 for none.
	MaxAge     time.Duration
	MaxEntries uint64

	// Policy says whose cosignatures the keyserver's log must have, and perhaps its key; nil if the
	// log is not audited.
	Policy *tlog.Policy

	Now func() time.Time // the clock; time.Now by default
	// Progress is called now and then while something takes long, from the goroutine
	// that called. done and all count what; all is 0 if that is not known.
	Progress func(what string, done, all uint64)
}

// Auditor audits one keyserver, again and again. It is for one goroutine at a
// time.
type Auditor struct {
	dir     string
	net     *chaincfg.Params
	genesis chainhash.Hash
	config  Config
	lock    *flock.Flock

	state   state
	copy    *entryFile
	anchors *os.File
	chain   hashchain.Chain // of the copy, as far as it agrees with anchors
	search  rotationSearch
}

// Open opens the folder of an auditor, or makes it. ErrLocked, ErrOtherChain,
// ErrDamaged, or an error of the disk.
func Open(config Config) (*Auditor, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Progress == nil {
		config.Progress = func(string, uint64, uint64) {}
	}
	a := &Auditor{dir: config.Dir, net: config.Network, genesis: config.Genesis, config: config}
	return a, a.open()
}

func (a *Auditor) now() time.Time { return a.config.Now() }

// saveAnchors is after how many anchors the state is saved while more come: some 3 MB.
const saveAnchors = 1 << 12

// run is one audit.
type run struct {
	*Auditor
	from   Sources
	report *Report

	head *hashchain.SignedHead // as the keyserver states it; nil: none
	// checkpoint is what the keyserver's log shows; nil: none, or no policy.
	checkpoint *witnessed
	fetched    bool              // the copy has all that the keyserver showed
	forked     bool              // the keyserver shows another history than the copy
	broken     *hashchain.Entry  // that the keyserver shows behind the copy, which it does not follow
	closing    *proof.BundleItem // that broke the chain of anchors
	closed     *Closed
	// contradicts is the first anchor that the copy disagrees with; as its number
	// is Compared all before it agree.
	contradicts *Anchored

	spending Spending // of the last baton; unasked if nobody could tell
	silent   error    // why the node did not tell; nil if it did, or was not asked
}

// Audit does all checks. What is wrong with the sources or what they say is in the
// report; the error is of the auditor's own disk, or says that ctx has ended.
// What was verified until then is kept in either case.
func (a *Auditor) Audit(ctx context.Context, from Sources) (*Report, error) {
	r := &Report{Network: a.net.Name, Genesis: a.genesis.String(), Time: a.now().UTC()}
	u := &run{Auditor: a, from: from, report: r}
	size, count := a.copy.Size(), u.count()

	head, err := from.Keyserver.Head(ctx) // before the entries, which must reach it
	if err != nil {
		if err := u.report.note(unavailable(ctx, "the keyserver's signed head", err)); err != nil {
			return nil, err
		}
	}
	u.head = head
	for _, step := range []func(context.Context) error{
		u.askLog, u.checkEntries, u.checkAnchors, u.compare, u.checkStatements, u.checkLog, u.prove, u.earlier, u.checkFreshness, u.others,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if left := a.copy.Size() - a.copy.kept; left > 0 {
		r.NotCovered = append(r.NotCovered, fmt.Sprintf("%d entries, from position %d on: they were shown, but nothing that is signed or anchored covers them, and somebody between may have made them up", left, a.copy.kept))
	}
	r.Entries, r.Anchors, r.Covered = a.copy.Size(), u.count(), a.chain.Size
	r.NewEntries, r.NewAnchors = r.Entries-min(size, r.Entries), r.Anchors-min(count, r.Anchors)
	r.conclude()
	return r, a.save()
}

// count is how many anchors were verified.
func (a *Auditor) count() uint32 {
	if a.state.Last == nil {
		return 0
	}
	return a.state.Last.Number + 1
}

// fails is note for a check: it also says that the check failed.
func (u *run) fails(name string, err error) error {
	if err := u.report.note(err); err != nil {
		return err
	}
	u.report.check(name, Failed, "%v", err)
	return nil
}

// checkEntries is check 1, but for the roots, which compare computes where there
// is an anchor.
func (u *run) checkEntries(ctx context.Context) error {
	const name = "entries"
	if err := u.fetchEntries(ctx); err != nil {
		return errors.Join(u.fails(name, err), u.save())
	}
	u.fetched = true
	u.report.check(name, Passed, "%d entries, each of which follows the one before it", u.copy.Size())
	return nil
}

// fetchEntries adds what is shown to the copy. Nothing of it is signed. What an earlier
// audit was shown, and is not kept, is dropped if it is not shown any more: somebody
// between may have made it up.
func (u *run) fetchEntries(ctx context.Context) error {
	shown := u.copy.Size() > u.copy.kept
	err := u.fetchBehind(ctx)
	p := new(problem)
	if shown && (u.forked || u.broken != nil || errors.As(err, &p) && p.kind == Behind) {
		u.forked, u.broken, u.search = false, nil, rotationSearch{}
		if err := u.copy.drop(); err != nil {
			return err
		}
		err = u.fetchBehind(ctx)
	}
	return err
}

// fetchBehind begins with the copy's last entry, to see that it is still that.
func (u *run) fetchBehind(ctx context.Context) error {
	compared := u.copy.Size() == 0
	for entries, err := range u.from.Keyserver.Entries(ctx, max(u.copy.Size(), 1)-1) {
		if err != nil {
			return unavailable(ctx, "the keyserver's hashchain", err)
		}
		if !compared && len(entries) > 0 {
			mine, err := u.copy.At(u.copy.Size() - 1)
			if err != nil {
				return err
			}
			if mine != entries[0] {
				u.forked = true
				return problemf("", "the keyserver shows another entry at position %d than before: another history", u.copy.Size()-1)
			}
			entries, compared = entries[1:], true
		}
		added, err := u.copy.add(entries)
		if err != nil {
			return err
		}
		if added < len(entries) {
			u.broken = &entries[added]
			return problemf("", "the entry at position %d does not follow the one before it", u.copy.Size())
		}
		u.config.Progress("entries", u.copy.Size(), 0)
	}
	if !compared {
		return problemf(Behind, "the keyserver shows fewer entries than before, when there were %d: it withholds some, has lost them, or this is an old copy of it", u.copy.Size())
	}
	return nil
}

// checkAnchors is checks 2 and 3.
func (u *run) checkAnchors(ctx context.Context) error {
	const blocks, baton = "blocks", "baton"
	err := u.followAnchors(ctx)
	var withheld error
	if err == nil {
		withheld, err = u.askBaton(ctx)
	}
	if err := u.save(); err != nil {
		return err
	}
	if last := u.state.Last; last != nil {
		u.report.Last, u.report.Domain = last, last.Domain
	}
	if err != nil {
		if err := u.fails(blocks, err); err != nil {
			return err
		}
		u.report.check(baton, NotDone, "%d anchors were followed from the pinned genesis anchor on", u.count())
		return nil
	}
	u.report.check(blocks, Passed, "%d anchors, each in a block with work on the best chain", u.count())
	if u.closed != nil {
		u.report.check(baton, Failed, "%s", u.closed.text(u.state.Last))
		return nil
	}
	if withheld != nil {
		return u.fails(baton, withheld)
	}
	u.report.check(baton, Passed, "%d anchors, each spends the baton of the one before it, from the pinned genesis anchor on", u.count())
	return nil
}

// followAnchors verifies the anchors that are not yet.
func (u *run) followAnchors(ctx context.Context) error {
	if last := u.state.Last; last != nil {
		err := u.from.Headers.OnBestChain(ctx, last.Height, last.Block)
		switch {
		case errors.Is(err, ErrNotOnBestChain):
			u.report.Notes = append(u.report.Notes, fmt.Sprintf("block %d with anchor %d has left the best chain: the anchors were verified from the beginning", last.Height, last.Number))
			if err := u.forgetAnchors(); err != nil {
				return err
			}
		case errors.Is(err, ErrNoHeader):
			return problemf(StaleHeaders, "anchor %d, block %d: %w", last.Number, last.Height, err)
		case err != nil:
			return unavailable(ctx, fmt.Sprintf("asking for header %d", last.Height), err)
		}
	}
	known := u.count()
	in, err := u.from.Bundle(ctx, known)
	if err != nil {
		return unavailable(ctx, "the proof bundle", err)
	}
	defer in.Close()
	r, err := proof.NewBundleReader(in)
	if err != nil {
		return bundleProblem(ctx, err)
	}
	if r.Network != u.net.Name {
		return problemf(BadBundle, "the proof bundle is of %q, expected %s", r.Network, u.net.Name)
	}
	if r.Chain != u.genesis {
		return problemf(Unrelated, "the proof bundle is of the chain of anchors %v, which does not descend from the pinned genesis anchor %v: it says nothing about it", r.Chain, u.genesis)
	}
	if r.First > known {
		return problemf(Gap, "the proof bundle begins with anchor %d, expected at most %d", r.First, known)
	}
	f := newFollower(u.net, u.genesis, u.from.Headers, u.state.Last)
	at, saved := r.First, known
	for it, err := range r.Items() {
		if err != nil {
			return bundleProblem(ctx, err)
		}
		if at++; at <= known { // verified before
			if at == known {
				if err := u.sameAsLast(it); err != nil {
					return err
				}
			}
			continue
		}
		if err := f.next(ctx, it); err != nil {
			return err
		}
		if f.closed != nil {
			u.closing, u.closed = it, f.closed
			continue
		}
		if err := u.keep(it, f.last); err != nil {
			return err
		}
		u.config.Progress("anchors", uint64(u.count()), 0)
		if u.count()-saved >= saveAnchors {
			if err := u.save(); err != nil {
				return err
			}
			saved = u.count()
		}
	}
	if u.count() == 0 {
		return problemf(Gap, "the proof bundle has no anchor")
	}
	return nil
}

// sameAsLast compares an item with the last anchor that was verified.
func (u *run) sameAsLast(it *proof.BundleItem) error {
	tx, err := protocol.ParseTx(it.Raw)
	if err != nil {
		return problemf(WrongBranch, "anchor %d: %w", u.state.Last.Number, err)
	}
	if txid := tx.TxID(); txid != u.state.Last.TxID {
		return problemf(Gap, "anchor %d of the proof bundle is tx %v, but tx %v was verified and is on the best chain", u.state.Last.Number, txid, u.state.Last.TxID)
	}
	return nil
}

func bundleProblem(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, proof.ErrTruncated):
		return problemf(Truncated, "%w: get it again", err)
	case errors.Is(err, proof.ErrFormat), errors.Is(err, proof.ErrSum):
		return problemf(BadBundle, "%w", err)
	}
	return unavailable(ctx, "the proof bundle", err)
}

// others names the chains of anchors that do not descend from the pinned one.
func (u *run) others(ctx context.Context) error {
	if u.from.OtherChains == nil || u.report.Domain == "" {
		return nil
	}
	chains, err := u.from.OtherChains(ctx, u.report.Domain)
	if err != nil {
		u.report.Notes = append(u.report.Notes, fmt.Sprintf("other chains of anchors for %s could not be listed: %v", u.report.Domain, err))
		return nil
	}
	for _, c := range chains {
		if c != u.genesis {
			u.report.Notes = append(u.report.Notes, fmt.Sprintf("%s: the chain of anchors %v names the same domain and does not descend from the pinned genesis anchor: anybody can make one, it is no misbehaviour", Unrelated, c))
		}
	}
	return nil
}
