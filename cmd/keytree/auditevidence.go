package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/audit"
)

func (a *app) verifyEvidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify-evidence FILE",
		Short: "Check a file of evidence against a keyserver",
		Long: `audit verify-evidence checks evidence that keytree audit has found, with nothing but
the file: that what the keyserver signed, or the chain has, cannot all be true. It
prints what the file shows, and what the reader has to compare with what is known
from elsewhere: the evidence names keys and a chain of anchors, and that they are
those of the keyserver in question is for the reader to see.

Where the evidence has anchors, their blocks carry work; whether they are on the
best chain only --node or --headers with --checkpoint can tell.

Exit codes: 0 it convinces, 1 it does not.`,
		Example: `  keytree audit verify-evidence 5f1d3c8a90b2e417.json
  keytree audit verify-evidence 5f1d3c8a90b2e417.json --headers headers.bin --checkpoint 800000:0000...`,
		Args: takes("FILE"),
	}
	flags := cmd.Flags()
	placeFlags(flags)
	network := networkFlag(flags)
	blocks := newHeaderFlags(flags)
	asJSON := flags.Bool("json", false, "print what it shows as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err := blocks.check(); err != nil {
			return err
		}
		file, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		evidence, err := audit.ReadEvidence(file)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		headers, done, err := blocks.open(cmd.Context(), a, network.value)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		c, err := evidence.Verify(cmd.Context(), headers)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *asJSON {
			err = json.NewEncoder(a.stdout).Encode(c)
		} else {
			printConviction(a.stdout, evidence, c)
		}
		if err == nil && !c.Convicts {
			err = errors.New("nobody is convicted: see under compare")
		}
		return err
	}
	return cmd
}

// printConviction prints what evidence shows for people.
func printConviction(out io.Writer, e *audit.Evidence, c *audit.Conviction) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	if c.Convicts {
		fmt.Fprintf(w, "verdict\tmisbehaviour by %s, of the keyserver of %s if it is as under compare\n", e.Proof, e.Domain)
	} else {
		fmt.Fprintf(w, "verdict\tconvicts nobody\n")
	}
	for _, s := range c.Shows {
		fmt.Fprintf(w, "shows\t%s\n", s)
	}
	for _, s := range c.Compare {
		fmt.Fprintf(w, "compare\t%s\n", s)
	}
}
