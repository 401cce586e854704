package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/anchor/onchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
)

const (
	// minAnchorInterval is the shortest --anchor-interval that makes sense.
	minAnchorInterval = time.Second
	// anchorRetry is how long one question to the node is tried: the publisher waits
	// by itself.
	anchorRetry = 5 * time.Second
)

// anchoringFlags are the flags of a keyserver that anchors.
type anchoringFlags struct {
	keyFile    *string
	interval   *parsed[time.Duration]
	heartbeat  *parsed[time.Duration]
	maxEntries *parsed[uint32]
	feeRate    *parsed[uint32]
	chain      *parsed[anchorChoice]
}

// anchoringFlagNames are those of anchoringFlags.
func anchoringFlagNames() []string {
	return []string{"anchor-key-file", "anchor-interval", "anchor-heartbeat", "anchor-max-entries", "anchor-fee-rate", "anchor-chain"}
}

// anchorChoice is what the operator says of chains of anchors that may be the
// keyserver's; zero is nothing.
type anchorChoice struct {
	none  bool
	chain *chainhash.Hash // txid of the genesis anchor
}

func parseAnchorChoice(s string) (c anchorChoice, err error) {
	if s == "none" {
		return anchorChoice{none: true}, nil
	}
	if c.chain, err = chainhash.NewHashFromStr(s); err != nil || len(s) != 2*chainhash.HashSize {
		return c, fmt.Errorf("expected none, or the txid of a genesis anchor in hex, got %q", shortened(s))
	}
	return c, nil
}

func newAnchoringFlags(flags *pflag.FlagSet) anchoringFlags {
	f := anchoringFlags{
		keyFile:    flags.String("anchor-key-file", "", "anchor the hashchain on the chain, with the key in `FILE`, which is made at the first start"),
		interval:   durationFlag(flags, "anchor-interval", schedule.DefaultInterval, "time between anchors, if the hashchain has grown"),
		heartbeat:  durationFlag(flags, "anchor-heartbeat", schedule.DefaultHeartbeat, "time, by that of blocks, after which the last anchor is repeated if the hashchain has not grown, so that auditors see the keyserver alive"),
		maxEntries: numberFlag(flags, "anchor-max-entries", schedule.DefaultMaxEntries, 1, schedule.MostEntries, "how many entries at most wait for that time to pass"),
		feeRate:    numberFlag(flags, "anchor-fee-rate", anchor.DefaultFeeRate, 1, anchor.MostFeeRate, "fee of anchors in satoshi per byte; raised if the node wants more"),
		chain:      newParsed("TXID|none", "", parseAnchorChoice),
	}
	flags.Var(f.chain, "anchor-chain", "which chain of anchors is the keyserver's, where neither its database nor the anchor key tells, as with an old backup: TXID of its genesis anchor, or none")
	setting(flags, anchoringFlagNames()...)
	return f
}

// unanchored is what a keyserver that has anchors is refused.
const unanchored = "to serve it without --anchor-key-file"

// anchoringConfig is what a publisher of anchors is made of.
type anchoringConfig struct {
	keyFile   string // "": none is run
	stateFile string
	schedule  schedule.Schedule
	feeRate   int64
	choice    anchorChoice
}

func (f anchoringFlags) config(flags *pflag.FlagSet, stateFile string) (anchoringConfig, error) {
	c := anchoringConfig{
		keyFile: *f.keyFile, stateFile: stateFile, feeRate: int64(f.feeRate.value), choice: f.chain.value,
		schedule: schedule.Schedule{Interval: f.interval.value, MaxEntries: uint64(f.maxEntries.value), Heartbeat: f.heartbeat.value},
	}
	if c.keyFile == "" {
		for _, name := range anchoringFlagNames() {
			if flags.Changed(name) && !(name == "anchor-chain" && c.choice.none) {
				return c, usagef("--%s goes with --anchor-key-file, which says that the hashchain is to be anchored", name)
			}
		}
		return c, c.refuseUnchecked(unanchored)
	}
	if c.schedule.Interval < minAnchorInterval {
		return c, usagef("--anchor-interval: expected at least %v, got %v", minAnchorInterval, c.schedule.Interval)
	}
	if err := c.schedule.Check(); err != nil {
		return c, usagef("--anchor-interval, --anchor-max-entries, --anchor-heartbeat: %v", err)
	}
	return c, nil
}

// refuseUnchecked refuses to do what would let the hashchain grow, or be seen, without
// comparing it with its anchors, if there are any.
func (c anchoringConfig) refuseUnchecked(what string) error {
	switch _, err := os.Stat(c.stateFile); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return unchecked(c.stateFile, what)
}

// refuseAnchored is refuseUnchecked for a database without its state file: one that
// was restored, for example.
func refuseAnchored(s *keyserver.Service, what string) error {
	if name := s.AnchorChain(); name != "" {
		return unchecked("in the chain of anchors "+name, what)
	}
	return nil
}

func unchecked(how, what string) error {
	return fmt.Errorf("this keyserver's hashchain is anchored (%s): %s could fork history, since nothing would compare it with its anchors; "+
		"run keytree serve with --anchor-key-file", how, what)
}

// guard sees to it that a keyserver with an index beside it is held until its hashchain
// was compared with what is anchored.
func (k *runningKeyserver) guard(ctx context.Context, c serverConfig, index *runningIndex) error {
	var chain onchain.Index // without an index nobody asks it
	if index != nil {
		chain = onchain.Index{Graph: index.graph, Synced: index.synced}
	}
	own := c.keyserver.anchor
	if own.choice.none && k.service.AnchorChain() == "" && !k.service.Unanchored() && !k.service.Standby() {
		if err := k.service.SetUnanchored(ctx); err != nil {
			return err
		}
		c.log.Warn().Msg("--anchor-chain none: no chain of anchors by another key is taken for the keyserver's any more")
	}
	if own.keyFile != "" {
		return k.anchor(c, chain)
	}
	if err := refuseAnchored(k.service, unanchored); err != nil {
		return err
	}
	switch {
	case c.network == nil:
		c.log.Info().Msg("keyserver: without an index nobody tells whether an old backup of it was anchored: after a restore, run keytree serve")
	case k.service.Unanchored():
		k.service.Release()
	default:
		c.log.Info().Msg("the keyserver is held back until the index has caught up and shows no chain of anchors that may be its own; " +
			"--anchor-chain none, for one that was never anchored, ends that for good")
		k.check = func(ctx context.Context) error {
			return anchor.CheckUnanchored(ctx, c.keyserver.domain, k.service, chain, c.log)
		}
	}
	return nil
}

// anchoring is a running publisher of anchors.
type anchoring struct {
	*anchor.Publisher
	coins coinsConfig
	node  *onchain.Node
}

// anchor adds a publisher to a keyserver that is held, until run has released it.
func (k *runningKeyserver) anchor(c serverConfig, chain anchor.Chain) (err error) {
	own := c.keyserver.anchor
	a := &anchoring{coins: c.coinsConfig(anchorRetry), node: &onchain.Node{}}
	if err := os.MkdirAll(filepath.Dir(own.keyFile), 0o700); err != nil {
		return err
	}
	a.Publisher, err = anchor.Open(anchor.Options{
		Domain: c.keyserver.domain, Network: c.network, KeyFile: own.keyFile, StateFile: own.stateFile,
		Hashchain: k.service, Chain: chain, Node: a.node,
		Schedule: own.schedule, FeeRate: own.feeRate, AnchorChain: own.choice.chain, Log: c.log,
		NeedFunds: func(uri string) {
			c.log.Info().Str("uri", uri).Msg("the hashchain is not anchored yet: pay for the first anchors")
			if c.line != nil {
				// If the terminal is gone, the log and keytree anchor status have it.
				_, _ = fmt.Fprintf(c.line, "\nPay for the anchors of %s; one payment is enough for thousands:\n\n%s\n%s\n",
					c.keyserver.domain, uri, qrCode(uri))
			}
		},
	})
	if err != nil {
		return fmt.Errorf("anchors: %w", err)
	}
	k.anchors = a
	return nil
}

// release lets the keyserver answer, unless the comparison has failed, or ctx has ended,
// which is no error.
func (k *runningKeyserver) release(ctx context.Context, failure error, why string) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case failure != nil:
		return fmt.Errorf("anchors: the keyserver must not be served: %w", failure)
	}
	k.log.Info().Msg(why + ": the keyserver answers")
	k.service.Release()
	return nil
}
