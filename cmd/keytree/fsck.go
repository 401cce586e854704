package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/protocol"
)

func (a *app) fsckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check a server's database",
		Long: `fsck compares everything in the graph of the data folder with everything else in
it: the files with their checksums, the chain of state hashes with the effects
of each block, and every record with what the effects make of it. It says what
is wrong and where. No server may be running on the folder. Nothing is repaired:
remove the folder named graph and let serve index again.

It changes nothing in the folder, not even after a server was killed there: the file
system may be mounted to be read, and any user who can read the files can check them.
What a killed server had not sorted into tables yet is copied to the temporary folder
(TMPDIR), 100 megabytes at most.`,
		Example: `  keytree fsck
  keytree fsck --data-dir /srv/keytree --network chipnet --json`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	network := networkFlag(flags)
	startHeight := heightFlag(flags, "start-height",
		fmt.Sprintf("first block of the index (default %d on mainnet, else 0)", protocol.StartHeight(&chaincfg.MainNetParams)))
	setting(flags, "start-height")
	asJSON := flags.Bool("json", false, "print the report as one JSON object")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		params := graph.Params{Network: network.value.Name, StartHeight: protocol.StartHeight(network.value)}
		if h := startHeight.value; h != nil {
			params.StartHeight = *h
		}
		return a.fsck(cmd.Context(), filepath.Join(*dataDir, "graph"), params, *asJSON)
	}
	return cmd
}

// fsckProgress is how often a long check says how far it is.
const fsckProgress = 5 * time.Second

// errUnsound ends a check that found something.
var errUnsound = errors.New("the graph is damaged: remove its folder and index again")

func (a *app) fsck(ctx context.Context, dir string, params graph.Params, asJSON bool) error {
	said := time.Now()
	progress := func(done, all uint32) {
		if now := time.Now(); now.Sub(said) >= fsckProgress {
			fmt.Fprintf(a.stderr, "%d of %d blocks compared\n", done, all)
			said = now
		}
	}
	report, err := fsck.Check(ctx, dir, params, fsck.Options{Memory: limitMemory(nil), Log: zerolog.Nop()}, progress)
	if err != nil {
		return err
	}
	if asJSON {
		err = json.NewEncoder(a.stdout).Encode(newFsckReport(report))
	} else {
		printFsck(a.stdout, dir, report)
	}
	if err == nil && len(report.Findings) > 0 {
		err = errUnsound
	}
	return err
}

func printFsck(out *output, dir string, report *fsck.Report) {
	for _, finding := range report.Findings {
		fmt.Fprintln(out, finding)
	}
	if report.Omitted > 0 {
		fmt.Fprintf(out, "… and %d more\n", report.Omitted)
	}
	switch {
	case len(report.Findings) > 0:
	case report.Tip == nil:
		fmt.Fprintf(out, "%s is sound; no block is indexed\n", dir)
	default:
		fmt.Fprintf(out, "%s is sound: %d blocks, %d records, tip %d %v, state hash %x\n",
			dir, report.Blocks, report.Records, report.Tip.Height, report.Tip.Hash, report.Tip.StateHash)
	}
}

// fsckReport is what --json prints.
type fsckReport struct {
	Sound     bool          `json:"sound"`
	TipHeight *uint32       `json:"tip_height,omitempty"`
	TipHash   string        `json:"tip_hash,omitempty"`
	StateHash string        `json:"state_hash,omitempty"`
	StateRoot string        `json:"state_root,omitempty"`
	Blocks    uint32        `json:"blocks"`
	Records   uint64        `json:"records"`
	Findings  []fsckFinding `json:"findings"`
	Omitted   uint64        `json:"omitted"`
}

type fsckFinding struct {
	File    string  `json:"file,omitempty"`
	Key     string  `json:"key,omitempty"` // hex
	Height  *uint32 `json:"height,omitempty"`
	Problem string  `json:"problem"`
}

func newFsckReport(report *fsck.Report) fsckReport {
	out := fsckReport{
		Sound: len(report.Findings) == 0, Blocks: report.Blocks, Records: report.Records,
		Findings: []fsckFinding{}, Omitted: report.Omitted,
	}
	if tip := report.Tip; tip != nil {
		out.TipHeight, out.TipHash, out.StateHash = &tip.Height, tip.Hash.String(), hex.EncodeToString(tip.StateHash[:])
		if tip.StateRoot != [32]byte{} {
			out.StateRoot = hex.EncodeToString(tip.StateRoot[:])
		}
	}
	for _, f := range report.Findings {
		out.Findings = append(out.Findings, fsckFinding{f.File, hex.EncodeToString(f.Key), f.Height, f.Problem})
	}
	return out
}
