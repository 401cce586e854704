package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

func (a *app) verifyEvidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify-evidence FILE --fingerprint HEX",
		Short: "Check a file of evidence against a keyserver",
		Long: `audit verify-evidence checks evidence that keytree audit has found: that what a
keyserver has signed, or the chain has, cannot all be true. Whose keys and anchors
these are no file can say, since anybody can make some in the name of a domain. So
the reader pins the keyserver, by what its operator has published or others have:

  --fingerprint  the hash of the first entry (keytree user status)
  --genesis      where the evidence has anchors: the txid of the genesis anchor
  --rotation     a position at which the keyserver is known to have replaced its key,
                 which evidence can leave out to make a stolen key look in force
  --keyserver    the keyserver itself, to be asked for all such positions

Where it has anchors, --node or --headers with --checkpoint say whether their blocks
are on the best chain. What is missing is printed under compare. Under assumes is what
nobody was asked for: that a key had not been replaced when it signed.

Exit codes: 1 it convicts nobody, or not for who has pinned so little; 2 wrong usage;
3 it convicts the pinned keyserver.`,
		Example: `  keytree audit verify-evidence 5f1d3c8a90b2e417.json --fingerprint 91c0...
  keytree audit verify-evidence 5f1d3c8a90b2e417.json --fingerprint 91c0... --genesis 3f2c... --headers headers.bin --checkpoint 800000:0000...`,
		Args: takes("FILE"),
	}
	flags := cmd.Flags()
	placeFlags(flags)
	network := networkFlag(flags)
	blocks := newHeaderFlags(flags)
	fingerprint := newParsed("HEX", "", parseFingerprint)
	flags.Var(fingerprint, "fingerprint", "hash of the keyserver's first entry, 64 hex characters, pinned")
	genesis := genesisFlag(flags)
	rotations := &list[uint64]{kind: "POSITION", parse: func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }}
	flags.Var(rotations, "rotation", "entry that is known to have replaced the keyserver's key; can be given more than once")
	keyserver := flags.String("keyserver", "", "`URL` of the accused keyserver, to be asked where it has replaced its key")
	ca := newCAFlag(flags, "keyserver-ca")
	asJSON := flags.Bool("json", false, "print what it shows as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err := blocks.check(); err != nil {
			return err
		}
		if *keyserver != "" && fingerprint.value == nil {
			return usagef("--keyserver goes with --fingerprint, which says whose answer counts")
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
		pins := audit.Pins{Fingerprint: fingerprint.value, Rotations: rotations.values}
		if genesis.text != "" {
			pins.Genesis = &genesis.value
		}
		if *keyserver != "" {
			said, err := askRotations(cmd.Context(), *keyserver, ca, evidence.Domain, *fingerprint.value)
			if err != nil {
				return fmt.Errorf("--keyserver: where it has replaced its key: %w", err)
			}
			pins.Rotations, pins.Asked = append(pins.Rotations, said...), math.MaxUint64
		}
		c, err := evidence.Verify(cmd.Context(), pins, headers)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *asJSON {
			err = json.NewEncoder(a.stdout).Encode(c)
		} else {
			printConviction(a.stdout, evidence, c)
		}
		switch {
		case err != nil:
			return err
		case c.Verdict == audit.Misbehaviour:
			return misbehaviour{fmt.Errorf("the keyserver of %s is convicted of misbehaviour", evidence.Domain)}
		}
		return errors.New("nobody is convicted: see under compare")
	}
	return cmd
}

// askRotations asks the keyserver under a URL where it has replaced its key.
func askRotations(ctx context.Context, url string, ca *caFlag, domain string, fingerprint hashchain.Hash) ([]uint64, error) {
	if err := keyclient.CheckURL(url); err != nil {
		return nil, err
	}
	transport, err := keyserverTransport(ca)
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	return audit.AskRotations(ctx, &sources.Keyserver{Reader: keyclient.NewReader(url, transport)}, domain, fingerprint)
}

// printConviction prints what evidence shows for people.
func printConviction(out io.Writer, e *audit.Evidence, c *audit.Conviction) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "verdict\t%s\n", c.Verdict)
	fmt.Fprintf(w, "evidence\tby %s, of a keyserver of %s\n", e.Proof, e.Domain)
	for _, s := range c.Shows {
		fmt.Fprintf(w, "shows\t%s\n", s)
	}
	for _, s := range c.Compare {
		fmt.Fprintf(w, "compare\t%s\n", s)
	}
	for _, s := range c.Assumes {
		fmt.Fprintf(w, "assumes\t%s\n", s)
	}
}
