package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/keyserver/audit"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit --genesis TXID --keyserver URL",
		Short: "Find out whether a keyserver has shown everyone one history",
		Long: `audit checks a keyserver's hashchain against the heads that it has anchored on the
chain, and trusts neither the keyserver nor who hands out the proofs:

  entries              each entry follows the one before it, from the first on
  blocks               each anchor is in a block with work on the best chain
  baton                each anchor spends the one before it, from the pinned one on
  anchors and entries  position, head and root of each agree with the hashchain
  freshness            anchors follow what the keyserver shows, by its own schedule

--genesis pins the chain of anchors: take the txid from where the operator has
published it. The proof bundle comes from a keytree server or from --bundle FILE,
it does not matter which. What does matter is who says which blocks are on the best
chain: --node, one's own node; or --headers FILE with a pinned --checkpoint, for
machines without network (see audit headers); or else --server, which then must be
one's own.

With --keyserver-grpc the keyserver's signed heads are compared too, so that more
can be proved if it cheats.

--policy FILE, in the form of C2SP's tlog-policy, has the keyserver's transparency log
audited, too (keyserver/TLOG.md):

  checkpoint           the log's key has signed it, which the keyserver has named, and
                       the policy, if it has a line for it; the policy's quorum of
                       witnesses has cosigned it, within 24h; its root, and the log's
                       tiles, are those of the entries, and so of the anchors

The schedule says how soon an entry has to be anchored, after how many entries, and how
often the last anchor is repeated while nothing is new. The keyserver publishes it,
within bounds; else it is the default one: 1h, 1,000 entries, 24h. Miners have 6h more.
--max-age and --max-entries are stricter limits of your own.

What was verified is kept in --state DIR, and not fetched again. What the keyserver
shows later has to continue it, as far as it was signed or anchored; what was only
shown may have been made up on the way, and does not count. A first audit cannot know
for how long entries wait.

Exit codes: 0 sound up to the position that is printed, and entries after it could
still be replaced; 1 not sound, since anchors or cosignatures do not come as they have to, or it could
not be checked, since something is missing or what contradicts the keyserver is not
signed; 2 wrong usage; 3 evidence of misbehaviour, which is in the file that is printed
and convinces others: audit verify-evidence. It stays 3 as long as the evidence is in
--state DIR and holds.`,
		Example: `  keytree audit --genesis 3f2c... --keyserver https://keys.example.org/ --node 'bchd://127.0.0.1:8335?cert=rpc.cert'
  keytree audit --genesis 3f2c... --keyserver https://keys.example.org/ --watch --metrics-listen 127.0.0.1:9436
  keytree audit --genesis 3f2c... --entries chain --bundle keys.bundle --headers headers.bin --checkpoint 800000:0000...`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	r := &auditRun{
		app: a, dataDir: dataDir,
		sources:    newAuditSources(a, flags),
		state:      stateFlag(flags),
		maxAge:     durationFlag(flags, "max-age", 0, "age of the last anchor above which it is too old, if the keyserver's schedule allows more; 0 for that alone"),
		policy:     flags.String("policy", "", "`FILE` that names the witnesses of the keyserver's transparency log, and how many a checkpoint needs (C2SP tlog-policy): audit it, too"),
		maxEntries: flags.Uint64("max-entries", 0, "how many entries, `N`, may come after the last anchor, if the keyserver's schedule allows more; 0 for that alone"),
		asJSON:     flags.Bool("json", false, "print the report as JSON, one object a line"),
		watch:      flags.Bool("watch", false, "audit again and again until interrupted"),
		every:      durationFlag(flags, "every", 10*time.Minute, "with --watch: pause between two audits"),
		metrics:    newParsed("HOST:PORT", "", parseHostPort(true)),
	}
	// No setting: in the config file it is that of a server, whose port it cannot have as well.
	flags.Var(r.metrics, "metrics-listen", "with --watch: serve Prometheus metrics under /metrics, unencrypted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) }
	cmd.AddCommand(a.auditBundleCommand(), a.auditHeadersCommand(), a.verifyEvidenceCommand(), a.auditResetCommand())
	return cmd
}

func stateFlag(flags *pflag.FlagSet) *string {
	return flags.String("state", "", "`DIR` of what was verified (default audit/TXID in the data folder)")
}

// durationFlag is a duration of 0 or more.
func durationFlag(flags *pflag.FlagSet, name string, byDefault time.Duration, usage string) *parsed[time.Duration] {
	p := newParsed("DURATION", byDefault.String(), func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("expected a duration such as 90m or 24h, got %q", shortened(s))
		}
		return d, nil
	})
	flags.Var(p, name, usage)
	return p
}

// misbehaviour is the error of an audit that found evidence.
type misbehaviour struct{ error }

// auditRun is one keytree audit.
type auditRun struct {
	app        *app
	dataDir    *string
	sources    *auditSources
	state      *string
	maxAge     *parsed[time.Duration]
	maxEntries *uint64
	policy     *string
	asJSON     *bool
	watch      *bool
	every      *parsed[time.Duration]
	metrics    *parsed[string]

	line *progressLine // nil without a terminal
}

func (r *auditRun) check() error {
	switch {
	case r.metrics.text != "" && !*r.watch:
		return usagef("--metrics-listen goes with --watch")
	case *r.watch && r.every.value < time.Second:
		return usagef("--every: expected a second at least, got %v", r.every.value)
	case *r.policy != "" && *r.sources.keyserver == "":
		return usagef("--policy goes with --keyserver, whose log it is")
	}
	return r.sources.check()
}

func (r *auditRun) run(ctx context.Context) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	dir, err := auditDir(*r.state, *r.dataDir, r.sources.genesis.value.String())
	if err != nil {
		return err
	}
	config := audit.Config{
		Dir: dir, Network: r.sources.network.value, Genesis: r.sources.genesis.value,
		MaxAge: r.maxAge.value, MaxEntries: *r.maxEntries,
	}
	if *r.policy != "" {
		if config.Policy, err = readPolicy(*r.policy); err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
	}
	if isTerminal(r.app.stderr) {
		r.line = &progressLine{w: r.app.stderr}
		defer r.line.clear()
		said := time.Time{}
		config.Progress = func(what string, done, all uint64) {
			if now := time.Now(); now.Sub(said) >= 100*time.Millisecond {
				said = now
				of := ""
				if all > 0 {
					of = fmt.Sprintf(" of %d", all)
				}
				r.line.show("verifying  %d%s %s", done, of, what)
			}
		}
	}
	if err := keepOwner(config.Dir); err != nil {
		return err
	}
	auditor, err := audit.Open(config)
	if err != nil {
		return explainAudit(err)
	}
	defer func() { err = errors.Join(err, auditor.Close()) }()
	if *r.watch {
		return r.keepAuditing(ctx, auditor)
	}
	report, err := r.once(ctx, auditor)
	if err != nil {
		return err
	}
	if err := r.print(report); err != nil {
		return err
	}
	return verdictError(report)
}

// once does one audit.
func (r *auditRun) once(ctx context.Context, auditor *audit.Auditor) (_ *audit.Report, err error) {
	from, done, err := r.sources.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	report, err := auditor.Audit(ctx, from)
	if r.line != nil {
		r.line.clear()
	}
	return report, explainAudit(err)
}

// verdictError is the error that makes the exit code.
func verdictError(r *audit.Report) error {
	switch r.Verdict {
	case audit.Sound:
		return nil
	case audit.Misbehaviour:
		return misbehaviour{errors.New("evidence of misbehaviour was found")}
	case audit.NotSound:
		return errors.New("the keyserver is not sound: its anchors, or its witnesses' cosignatures, do not come as they have to")
	}
	return errors.New("the keyserver could not be audited")
}

func (r *auditRun) print(report *audit.Report) error {
	if *r.asJSON {
		return json.NewEncoder(r.app.stdout).Encode(report)
	}
	printReport(r.app.stdout, report)
	return nil
}

// printReport prints a report for people.
func printReport(out io.Writer, r *audit.Report) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "verdict\t%s\n", r.Summary())
	if r.Domain != "" {
		fmt.Fprintf(w, "keyserver\t%s\n", r.Domain)
	}
	fmt.Fprintf(w, "anchored in\t%s on %s\n", r.Genesis, r.Network)
	if last := r.Last; last != nil {
		fmt.Fprintf(w, "last anchor\tnumber %d, tx %v, block %d, %s\n", last.Number, last.TxID, last.Height, last.Time.Format(time.DateTime+" MST"))
	}
	fmt.Fprintf(w, "entries\t%s, the last anchor covers %s\n", number(r.Entries), number(r.Covered))
	fmt.Fprintf(w, "since before\t%s entries and %d anchors are new\n", number(r.NewEntries), r.NewAnchors)
	if s := r.Schedule; s != nil {
		from := "by default"
		if s.Published {
			from = "as the keyserver publishes, unsigned"
		}
		fmt.Fprintf(w, "schedule\tan anchor within %v or %s entries, repeated after %v without any: %s\n",
			time.Duration(s.Interval)*time.Second, number(s.MaxEntries), time.Duration(s.Heartbeat)*time.Second, from)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(w, "check\t%s: %s: %s\n", c.Name, c.Status, c.Detail)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "finding\t%s: %s\n", f.Kind, f.Text)
		if f.Evidence != "" {
			fmt.Fprintf(w, "evidence\t%s\n", f.Evidence)
		}
		for _, c := range f.Compare {
			fmt.Fprintf(w, "compare\t%s\n", c)
		}
		for _, a := range f.Assumes {
			fmt.Fprintf(w, "assumes\t%s\n", a)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	for _, n := range r.NotCovered {
		fmt.Fprintf(w, "not covered\t%s\n", n)
	}
}

// number writes a number of many digits in groups of three.
func number(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}
