package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/indexer/statelog"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/anchor/onchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// stateLogFlags tell whether and how an index publishes its states, and whose it cosigns.
type stateLogFlags struct{ key, host, policy, cosignKey, cosignName, cosignLogs, anchor *string }

func newStateLogFlags(flags *pflag.FlagSet) stateLogFlags {
	f := stateLogFlags{
		key: flags.String("state-log-key", "", "key `FILE` of the log that publishes state hash and state root of each block, made at the first start, with "+
			"FILE.json for what it has signed, and FILE.2 and so on for later epochs"),
		host:       flags.String("state-log-host", "", "`HOST` name under which readers reach the state log, in its name for good"),
		policy:     flags.String("state-witness-policy", "", "`FILE` that names the witnesses of the state log, and how many of them a checkpoint needs (C2SP tlog-policy)"),
		anchor:     flags.String("anchor-state", "", "anchor the state log on the chain, once a day, with the key in `FILE`, which is made at the first start, with FILE.json for what it has signed, and FILE.2 and so on for later epochs"),
		cosignKey:  flags.String("cosign-key", "", "key `FILE` of a witness of others' state logs, which cosigns what this index has computed, too; made at the first start, with FILE.json for what it remembers"),
		cosignName: flags.String("cosign-name", "", "`NAME` of that witness, as its host with a path, in its key and signatures; for the first start"),
		cosignLogs: flags.String("cosign-logs", "", "`POLICY` file that names the state logs to be cosigned, in lines of the form log KEY URL"),
	}
	setting(flags, "state-log-key", "state-log-host", "state-witness-policy", "anchor-state", "cosign-key", "cosign-name", "cosign-logs")
	return f
}

// stateLogConfig is what a state log and a witness of others' are made of.
type stateLogConfig struct {
	dir     string // of its entries
	keyFile string // "": no log is signed
	host    string
	policy  *format.Policy // nil: no witness is asked
	believe string         // what that is made of
	anchor  string         // file with the key of anchors; "": none is made

	cosignKey  string // "": none is cosigned
	cosignName string
	cosignLogs *format.Policy
	evidence   string // folder

	// A demo does not wait two hours: its clock, and how often it and witnesses are asked. Zero elsewhere.
	now                    func() time.Time
	every, witnessInterval time.Duration
}

// config returns what was asked for, nil if neither log nor witness was. stateRoot tells whether blocks get a state
// root.
func (f stateLogFlags) config(dataDir, network string, stateRoot bool) (*stateLogConfig, error) {
	switch {
	case *f.key == "" && (*f.host != "" || *f.policy != "" || *f.anchor != ""):
		return nil, usagef("--state-log-host, --state-witness-policy and --anchor-state go with --state-log-key, which says that there is to be a state log")
	case *f.cosignKey == "" && (*f.cosignName != "" || *f.cosignLogs != ""):
		return nil, usagef("--cosign-name and --cosign-logs go with --cosign-key, which says that state logs are to be cosigned")
	case *f.key == "" && *f.cosignKey == "":
		return nil, nil
	case !stateRoot:
		return nil, usagef("--state-log-key and --cosign-key need the state root of each block: expected --state-root on")
	case *f.key != "" && *f.host == "":
		return nil, usagef("--state-log-key needs --state-log-host HOST, which is in the log's name")
	case *f.cosignKey != "" && *f.cosignLogs == "":
		return nil, usagef("--cosign-key needs --cosign-logs POLICY, which names the logs to be cosigned")
	}
	c := &stateLogConfig{
		dir: filepath.Join(dataDir, "state-log"), keyFile: *f.key, host: *f.host, anchor: *f.anchor,
		cosignKey: *f.cosignKey, cosignName: *f.cosignName, evidence: filepath.Join(dataDir, "state-evidence"),
	}
	var err error
	if *f.host != "" {
		if err := uid.CheckDomain(*f.host); err != nil {
			return nil, usagef("--state-log-host: %w", err)
		}
	}
	if domain := statelog.AnchorDomain(*f.host, network); *f.anchor != "" && len(domain) > protocol.MaxAnchorDomain {
		return nil, usagef("--anchor-state: anchors of the state log are under the domain %s, which has more than %d bytes: expected a shorter --state-log-host", domain, protocol.MaxAnchorDomain)
	}
	if *f.policy != "" {
		var text []byte
		if c.policy, text, err = readPolicyText(*f.policy); err != nil {
			return nil, err
		}
		c.believe = string(text)
	}
	if *f.cosignKey == "" {
		return c, nil
	}
	if _, err := os.Stat(*f.cosignKey); *f.cosignName == "" && err != nil {
		return nil, usagef("%s is not there: expected --cosign-name NAME, for which a key is made", *f.cosignKey)
	}
	if c.cosignLogs, err = readPolicy(*f.cosignLogs); err != nil {
		return nil, err
	}
	if len(c.cosignLogs.Logs) == 0 {
		return nil, usagef("%s names no log: expected lines of the form log KEY URL", *f.cosignLogs)
	}
	return c, nil
}

// stateLog is the state log of an index, and its witness of others'.
type stateLog struct {
	*statelog.Publisher
	cosigner *statelog.Cosigner // nil: none is cosigned
}

// openStateLog opens what was asked for.
func (x *runningIndex) openStateLog() (err error) {
	c, log := x.config.stateLog, x.config.log
	if c == nil || x.graph == nil {
		return nil
	}
	s := new(stateLog)
	s.Publisher, err = statelog.Open(statelog.Options{
		Chain: x.graph, Dir: c.dir, KeyFile: c.keyFile, Host: c.host, Policy: c.policy, WitnessInterval: c.witnessInterval, Now: c.now, Every: c.every, Log: log,
	})
	if err != nil {
		return err
	}
	x.stateLog = s
	if c.keyFile != "" {
		epoch := s.Status().Epoch
		log.Info().Uint32("epoch", epoch).Stringer("key", s.Log(epoch).Key()).Msg("state log")
		if x.metrics != nil {
			x.metrics.WatchStateLog(s.Publisher)
		}
	}
	if c.cosignKey == "" {
		return nil
	}
	s.cosigner, err = statelog.OpenCosigner(statelog.CosignerOptions{
		Publisher: s.Publisher, KeyFile: c.cosignKey, Name: c.cosignName, Policy: c.cosignLogs, Evidence: c.evidence, Log: log,
	})
	if err != nil {
		return err
	}
	if x.metrics != nil {
		x.metrics.WatchCosigner(s.cosigner)
	}
	log.Info().Stringer("key", s.witness().Key()).Strs("logs", origins(c.cosignLogs)).Msg("witness of state logs")
	return nil
}

// publicPolicy is by what the explorer checks the proofs of this index; "" if no log is signed.
func (s *stateLog) publicPolicy(c *stateLogConfig) string {
	if c.keyFile == "" {
		return ""
	}
	return policyOf(s.Log(s.Status().Epoch).Key(), c.believe)
}

// policyOf is a policy that names a log, and the witnesses that another policy does; none if that is "".
func policyOf(log *format.PublicKey, witnesses string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "log %v\n", log)
	if witnesses == "" {
		b.WriteString("quorum none\n")
	}
	for line := range strings.Lines(witnesses) {
		if words := strings.Fields(line); len(words) == 0 || words[0] != "log" { // others' logs say nothing of this one
			b.WriteString(line)
		}
	}
	return b.String()
}

// witness is what answers logs that want to be cosigned; nil if none is.
func (s *stateLog) witness() *witness.Witness {
	if s.cosigner == nil {
		return nil
	}
	return s.cosigner.Witness()
}

func (s *stateLog) close() error {
	if s.cosigner == nil {
		return s.Close()
	}
	return errors.Join(s.cosigner.Close(), s.Close())
}

// publish has the state log follow the graph until ctx ends. Where it cannot go on, what it signed is served on.
func (x *runningIndex) publish(ctx context.Context) {
	var beside sync.WaitGroup
	defer beside.Wait()
	if c := x.stateLog.cosigner; c != nil {
		beside.Go(func() { c.Run(ctx) })
	}
	if x.config.stateLog.anchor != "" {
		beside.Go(func() {
			if err := x.anchorStates(ctx); err != nil && ctx.Err() == nil {
				x.config.log.Error().Err(err).Msg("the state log is not anchored any more until keytree is started anew; the rest goes on")
			}
		})
	}
	if err := x.stateLog.Run(ctx); err != nil {
		x.config.log.Error().Err(err).Msg("the state log goes on with the next start: until then nothing more is signed; what was signed is answered, and the rest goes on")
	}
}

// anchorStates anchors the state log until ctx ends, each epoch with a key and a chain of anchors of its own.
func (x *runningIndex) anchorStates(ctx context.Context) (err error) {
	wallet, err := x.config.coinsConfig(anchorRetry).open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wallet.Close()) }()
	for ctx.Err() == nil {
		anchored, err := x.stateLog.Anchored(ctx)
		if err == nil {
			err = x.anchorEpoch(ctx, anchored, &onchain.Node{Source: wallet})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// anchorEpoch anchors the log of an epoch until that ends, or ctx.
func (x *runningIndex) anchorEpoch(ctx context.Context, anchored *statelog.Anchored, node *onchain.Node) error {
	c, log := x.config.stateLog, x.config.log
	keyFile := c.anchor
	if epoch := anchored.Epoch(); epoch > 1 {
		keyFile += "." + strconv.Itoa(int(epoch))
	}
	domain := statelog.AnchorDomain(c.host, x.config.network.Name)
	p, err := anchor.Open(anchor.Options{
		Domain: domain, Network: x.config.network, KeyFile: keyFile, StateFile: keyFile + ".json",
		Hashchain: anchored, Chain: onchain.Index{Graph: x.graph, Synced: x.synced}, Node: node, Log: log,
		// An anchor covers all that came before.
		Schedule: schedule.Schedule{Interval: 24 * time.Hour, MaxEntries: schedule.DefaultMaxEntries, Heartbeat: 7 * 24 * time.Hour},
		NeedFunds: func(uri string) {
			log.Info().Str("uri", uri).Str("domain", domain).Msg("the state log is not anchored yet: pay for the first anchors")
		},
	})
	if err != nil {
		return fmt.Errorf("anchors of the state log: %w", err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() {
		select {
		case <-anchored.Frozen():
			cancel()
		case <-running.Done():
		}
	})
	if err = p.Check(running); err == nil {
		err = p.Run(running)
	}
	if running.Err() != nil {
		return nil
	}
	return err
}
