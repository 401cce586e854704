package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// notProven is what a state proof says nothing about.
const notProven = "how many keys an identity has (key_count), which action named it (named_by), and anything that is pending"

func (a *app) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE... --policy POLICY",
		Short: "Check, offline, a proof of which identity is behind an address",
		Long: `verify checks a state proof, as keytree resolve --proof saves it, and prints what it
proves: that after a block an address had this parent, this root and this identity, or was
in no link, and that no revocation up to that block was left out. It asks nobody. What it
trusts are the state logs and the witnesses that the policy names: whoever else answers can
say what it wants.

That the block is on the best chain is the witnesses' word. With --headers FILE, a file of
keytree audit headers that begins with the block of --checkpoint, that is checked as well,
and the work is told that is on top. On test networks, where blocks cost nothing, that
proves little.

A proof is of one block, and says nothing of what came later. Cosignatures of more than a
day are called old; with --max-age, those that are older than that are not accepted.
--address and --id name what the file has to be about: somebody else's proof is as valid.

Of several files each is checked, and whether two of them contradict each other: two
entries of one block with another state hash or state root, or two checkpoints of one log,
of one size with two roots, are evidence that a log has lied. That needs no witness.

Exit codes: 0 it is proven; 1 it is not, or not what is demanded; 2 wrong usage;
3 evidence: two files contradict each other.`,
		Example: `  keytree verify alice.proof --policy witnesses.policy --address bitcoincash:qz...
  keytree verify alice.proof --policy witnesses.policy --headers headers.bin --checkpoint 800000:0000... --max-age 6h
  keytree verify one.proof two.proof --policy witnesses.policy`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return takes("FILE")(cmd, args)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	policy := statePolicyFlag(flags)
	demands := newProofDemands(flags)
	asJSON := flags.Bool("json", false, "print one JSON object for each file, and one for evidence")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *policy == "" {
			return usagef("no policy given: expected --policy FILE, which names the state logs and witnesses that are trusted (C2SP tlog-policy)")
		}
		if err := demands.check(); err != nil {
			return err
		}
		p, err := readPolicy(*policy)
		if err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
		v := &verifier{app: a, policy: p, demands: demands, json: *asJSON, several: len(args) > 1}
		for _, path := range args {
			if err := v.verify(cmd.Context(), path); err != nil {
				return err
			}
		}
		return v.verdict()
	}
	return cmd
}

func statePolicyFlag(flags *pflag.FlagSet) *string {
	return flags.String("policy", "", "`FILE` that names the state logs and witnesses that are trusted, and how many of them it takes (C2SP tlog-policy)")
}

// proofDemands are what a proof has to be beside valid.
type proofDemands struct {
	addresses  *[]string
	ids        *parsed[[]chainhash.Hash]
	maxAge     *parsed[time.Duration]
	headers    *string
	checkpoint *parsed[audit.Checkpoint]
}

func newProofDemands(flags *pflag.FlagSet) *proofDemands {
	d := &proofDemands{
		addresses:  flags.StringSlice("address", nil, "`ADDRESS` that the proof has to be about; may be given more than once"),
		ids:        newParsed("TXID,…", "", commaSeparated(parseTxID)),
		maxAge:     durationFlag(flags, "max-age", 0, "age above which cosignatures are not accepted; 0: they are called old after a day"),
		headers:    flags.String("headers", "", "`FILE` of block headers that shows that the block is on the best chain (keytree audit headers)"),
		checkpoint: newParsed("HEIGHT:HASH", "", audit.ParseCheckpoint),
	}
	flags.Var(d.ids, "id", "ids of identities that the proof has to be about")
	flags.Var(d.checkpoint, "checkpoint", "pinned block, with which the headers begin")
	return d
}

func (d *proofDemands) check() error {
	if (*d.headers != "") != (d.checkpoint.text != "") {
		return usagef("--headers and --checkpoint go together: a file of headers proves nothing without a block that is known")
	}
	return nil
}

// subjects are what the proof has to be about, on a network.
func (d *proofDemands) subjects(net *chaincfg.Params) (subjects []proof.StateSubject, err error) {
	for _, address := range *d.addresses {
		key, err := protocol.ParseAddress(address, net)
		if err != nil {
			return nil, usagef("--address: %w", err)
		}
		subjects = append(subjects, proof.StateSubject{Key: key})
	}
	for _, id := range d.ids.value {
		subjects = append(subjects, proof.StateSubject{IsID: true, ID: id})
	}
	return subjects, nil
}

// verifier verifies files, one after the other.
type verifier struct {
	app     *app
	policy  *format.Policy
	demands *proofDemands
	json    bool
	several bool // files

	said     []statement // what logs have signed, in the files so far
	failed   error       // the first file's that is not proven
	failures int
	evidence []string
}

// statement is what a file has a log say.
type statement struct {
	path string
	*proof.StateStatement
}

// verify verifies a file, and prints what it proves. An error only if something could not be read, or was asked for wrongly.
func (v *verifier) verify(ctx context.Context, path string) error {
	file, err := readProof(path)
	if err != nil {
		return err
	}
	v.compare(path, file)
	shown, err := v.judge(ctx, file)
	if errors.As(err, new(usageError)) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		if v.failures++; v.failed == nil {
			v.failed = fmt.Errorf("%s: %w", path, err)
		}
		shown = &shownProof{Error: oneLine(err)}
	}
	shown.File = path
	if v.json {
		return json.NewEncoder(v.app.stdout).Encode(shown)
	}
	if v.several {
		fmt.Fprintf(v.app.stdout, "file  %s\n", harmless(path))
	}
	if err != nil {
		if v.several { // else the error says it
			fmt.Fprintf(v.app.stdout, "not proven  %s\n\n", shown.Error)
		}
		return nil
	}
	if v.several {
		defer fmt.Fprintln(v.app.stdout)
	}
	return v.app.printShownProof(shown)
}

// compare looks whether what a log has said in a file contradicts what one has said in a file before.
func (v *verifier) compare(path string, file []byte) {
	s, err := proof.ReadStateStatement(file, v.policy)
	if err != nil {
		return // it accuses nobody
	}
	for _, other := range v.said {
		if why := other.Contradicts(s); why != "" {
			v.evidence = append(v.evidence, fmt.Sprintf("%s and %s: %s", other.path, path, why))
		}
	}
	v.said = append(v.said, statement{path, s})
}

func (v *verifier) judge(ctx context.Context, file []byte) (*shownProof, error) {
	proven, err := proof.VerifyState(file, v.policy)
	if err != nil {
		return nil, err
	}
	net, err := protocol.Network(proven.Network)
	if err != nil {
		return nil, err
	}
	d := audit.StateDemands{MaxAge: v.demands.maxAge.value}
	if d.Subjects, err = v.demands.subjects(net); err != nil {
		return nil, err
	}
	if *v.demands.headers != "" {
		headers, done, err := openHeaders(ctx, *v.demands.headers, v.demands.checkpoint.value, net)
		if err != nil {
			return nil, err
		}
		defer done()
		d.Headers = headers
	}
	judged, err := audit.JudgeState(ctx, proven, d, time.Now())
	if err != nil {
		return nil, err
	}
	return newShownProof(proven, judged, d.Subjects, net), nil
}

// verdict is the error of all files together.
func (v *verifier) verdict() error {
	if len(v.evidence) > 0 {
		for _, e := range v.evidence {
			if v.json {
				if err := json.NewEncoder(v.app.stdout).Encode(map[string]string{"evidence": e}); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(v.app.stdout, "evidence  %s\n", harmless(e))
		}
		return misbehaviour{errors.New("two files contradict each other: a state log has lied, or rules differ; keep both, and show them to whoever indexes the chain")}
	}
	if v.failures > 1 {
		return fmt.Errorf("%d files are not proven, the first: %w", v.failures, v.failed)
	}
	return v.failed
}

// shownProof is a proof as it is printed.
type shownProof struct {
	File         string             `json:"file"`
	Proven       bool               `json:"proven"`
	Error        string             `json:"error,omitempty"` // why it is not
	Network      string             `json:"network,omitempty"`
	Height       uint32             `json:"as_of_height"`
	Block        string             `json:"as_of_hash,omitempty"`
	StateHash    string             `json:"state_hash,omitempty"`
	StateRoot    string             `json:"state_root,omitempty"`
	Log          string             `json:"log,omitempty"`
	LogSize      uint64             `json:"log_size,omitempty"`
	Cosigners    []string           `json:"cosigners,omitempty"`
	CosignedAt   string             `json:"cosigned_at,omitempty"` // RFC 3339; "" if the policy demands no witness
	Old          bool               `json:"old"`
	Chain        *shownChain        `json:"chain,omitempty"` // if headers were given
	Subjects     []shownSubject     `json:"subjects,omitempty"`
	Transactions []shownTransaction `json:"transactions,omitempty"`
	NotProven    string             `json:"not_proven,omitempty"`

	age       time.Duration
	unchecked bool // against a policy
}

type shownChain struct {
	Above uint32   `json:"blocks_above"`
	Work  *big.Int `json:"work"`
}

// shownSubject is what is proven of an address or an id.
type shownSubject struct {
	Address     string   `json:"address,omitempty"`
	ID          string   `json:"id_tx_hash"` // that was asked for, or of the address's identity; "" if it was in no link, or that is cut
	Known       bool     `json:"known"`      // the address was in a link, the id named something
	Cut         bool     `json:"cut"`        // only the beginning of its way is shown
	MainAddress string   `json:"main_address"`
	Parent      string   `json:"parent_address,omitempty"`
	Path        []string `json:"path,omitempty"`
	Accept      string   `json:"accept_tx_hash,omitempty"`
	Since       uint32   `json:"since_height,omitempty"` // of the block that last changed the address's record
	MergedInto  []string `json:"merged_into,omitempty"`  // one id after the other
}

type shownTransaction struct {
	TxID   string `json:"tx_hash"`
	Height uint32 `json:"height"`
	Block  string `json:"block_hash"`
}

// newShownProof renders a proof of which some subjects were demanded; of none, all are shown.
func newShownProof(p *proof.ProvenState, j *audit.StateJudgement, demanded []proof.StateSubject, net *chaincfg.Params) *shownProof {
	s := &shownProof{
		Proven: true, Network: p.Network, Height: p.Entry.Height, Block: p.Entry.Block.String(),
		StateHash: fmt.Sprintf("%x", p.Entry.StateHash), StateRoot: fmt.Sprintf("%x", p.Entry.StateRoot),
		Log: p.Checkpoint.Origin, LogSize: p.Checkpoint.Size, Cosigners: p.Cosigners, Old: j.Old, NotProven: notProven, age: j.Age,
	}
	if !p.CosignedAt.IsZero() {
		s.CosignedAt = p.CosignedAt.UTC().Format(time.RFC3339)
	}
	if j.Work != nil {
		s.Chain = &shownChain{j.Above, j.Work}
	}
	for i := range p.Subjects {
		if len(demanded) == 0 || slices.Contains(demanded, p.Subjects[i].StateSubject) {
			s.Subjects = append(s.Subjects, newShownSubject(&p.Subjects[i], net))
		}
	}
	for _, tx := range p.Transactions {
		s.Transactions = append(s.Transactions, shownTransaction{tx.TxID.String(), tx.Height, tx.Header.Hash.String()})
	}
	return s
}

func newShownSubject(p *proof.ProvenSubject, net *chaincfg.Params) (s shownSubject) {
	address := func(key protocol.KeyHash) string { return protocol.FormatAddress(key, net) }
	s.Cut = p.Cut
	if p.IsID {
		s.ID, s.Known = p.ID.String(), len(p.IDs) > 0 || p.Cut
		for _, r := range p.IDs {
			if r.Merged {
				s.MergedInto = append(s.MergedInto, r.Into.String())
			} else {
				s.MainAddress = address(r.Root)
			}
		}
		return s
	}
	s.Address, s.Known = address(p.Key), len(p.Keys) > 0 || p.Cut
	if !s.Known {
		s.MainAddress = s.Address
	}
	for i, r := range p.Keys {
		s.Path = append(s.Path, address(r.Key))
		if i == 0 {
			s.Since = r.Height
			if r.HasParent() {
				s.Parent, s.Accept = address(r.Parent), r.Accept.String()
			}
		}
		if !r.HasParent() {
			s.MainAddress, s.ID = address(r.Key), r.ID.String()
		}
	}
	return s
}

// printShownProof prints a proof for people.
func (a *app) printShownProof(s *shownProof) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	verdict := "proven"
	if s.unchecked {
		verdict = "shown"
	}
	fmt.Fprintf(w, "%s\tafter block %d of %s, %s\n", verdict, s.Height, s.Network, s.Block)
	fmt.Fprintf(w, "log\t%s, checkpoint of %s entries\n", harmless(s.Log), number(s.LogSize))
	switch {
	case s.unchecked:
		fmt.Fprintf(w, "cosigned\tnot looked at: the proof was not checked against a policy (keytree verify FILE --policy POLICY)\n")
	case s.CosignedAt == "":
		fmt.Fprintf(w, "cosigned\tthe policy demands no witness: all of it is the log's word\n")
	default:
		for _, by := range s.Cosigners {
			fmt.Fprintf(w, "cosigned\tby %s\n", harmless(by))
		}
		when := fmt.Sprintf("%s ago", (s.age).Round(time.Second))
		if s.age >= 2*time.Hour {
			when = humanize.RelTime(time.Now().Add(-s.age), time.Now(), "ago", "")
		}
		if s.Old {
			when = "old: " + when
		}
		fmt.Fprintf(w, "\t%s, at %s\n", when, s.CosignedAt)
	}
	if c := s.Chain; c != nil {
		fmt.Fprintf(w, "chain\tthe block is on the chain of the headers, with %s blocks on top; they and it carry the work of %s hashes\n",
			number(uint64(c.Above)), hashes(c.Work))
	} else if !s.unchecked {
		fmt.Fprintf(w, "chain\tthat the block is on the best chain is the witnesses' word (--headers FILE checks it)\n")
	}
	for i := range s.Subjects {
		if len(s.Subjects) > 1 {
			fmt.Fprintln(w)
		}
		printShownSubject(w, &s.Subjects[i])
	}
	if len(s.Subjects) > 1 {
		fmt.Fprintln(w)
	}
	for _, tx := range s.Transactions {
		fmt.Fprintf(w, "transaction\t%s, in block %d, %s\n", tx.TxID, tx.Height, tx.Block)
	}
	fmt.Fprintf(w, "not proven\t%s\n", notProven)
	return w.Flush()
}

// hashes writes how many hashes something takes.
func hashes(work *big.Int) string {
	if work.BitLen() < 64 {
		return number(work.Uint64())
	}
	f, _ := new(big.Float).SetInt(work).Float64()
	return fmt.Sprintf("%.3g", f)
}

// mostPath is how many addresses of a path are printed.
const mostPath = 100

func printShownSubject(w *tabwriter.Writer, s *shownSubject) {
	switch {
	case s.Address == "":
		fmt.Fprintf(w, "identity\t%s\n", s.ID)
		for i, id := range s.MergedInto {
			if i < mostPath {
				fmt.Fprintf(w, "merged into\t%s\n", id)
			}
		}
		if more := len(s.MergedInto) - mostPath; more > 0 {
			fmt.Fprintf(w, "\t… %d more\n", more)
		}
		if !s.Known {
			fmt.Fprintf(w, "\tnames nothing\n")
		}
	case !s.Known:
		fmt.Fprintf(w, "address\t%s\nidentity\tin no link, its own identity\n", s.Address)
		return
	default:
		fmt.Fprintf(w, "address\t%s\n", s.Address)
		if s.ID != "" {
			fmt.Fprintf(w, "identity\t%s\n", s.ID)
		}
	}
	if s.MainAddress != "" {
		fmt.Fprintf(w, "main address\t%s\n", s.MainAddress)
	}
	above := "child of"
	for i, address := range s.Path[min(1, len(s.Path)):] {
		if i == mostPath {
			fmt.Fprintf(w, "\t… %d more\n", len(s.Path)-1-mostPath)
			break
		}
		fmt.Fprintf(w, "%s\t%s\n", above, address)
		above = ""
	}
	if s.Cut {
		fmt.Fprintf(w, "cut short\tonly the beginning of its way is shown: neither its root nor its identity is proven\n")
	}
	if s.Accept != "" {
		fmt.Fprintf(w, "linked by\t%s, not revoked\n", s.Accept)
	}
	if s.Since > 0 {
		fmt.Fprintf(w, "unchanged\tsince block %d\n", s.Since)
	}
}
