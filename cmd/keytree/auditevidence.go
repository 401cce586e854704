package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
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

Evidence about a state log, which an index with --cosign-key keeps, is about the log's key,
and about one block:

  --log-key      the log's public key, as its operator has published it
  --state        what the reader's own index makes of the block, or one that the reader
                 believes: the block's hash, its state hash and its state root

Where it has anchors, --node or --headers with --checkpoint say whether their blocks
are on the best chain. What is missing is printed under compare. Under assumes is what
nobody was asked for: that a key had not been replaced when it signed.

Exit codes: 1 it convicts nobody, or not for who has pinned so little; 2 wrong usage;
3 it convicts the pinned keyserver or state log.`,
		Example: `  keytree audit verify-evidence 7a0e5d21c9b4f386.json --log-key keys.example.org/state/... --state 0000...:51fe...:9c02...
  keytree audit verify-evidence 5f1d3c8a90b2e417.json --fingerprint 91c0...
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
	logKey := newParsed("KEY", "", format.ParseLogKey)
	flags.Var(logKey, "log-key", "public key of the accused state log, NAME+ID+BASE64, pinned")
	state := newParsed("BLOCK:HASH:ROOT", "", parseState)
	flags.Var(state, "state", "a block's hash with its state hash and state root, 64 hex characters each, as an index tells them that the reader believes")
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
		pins := audit.Pins{Fingerprint: fingerprint.value, Rotations: rotations.values, StateLog: logKey.value, State: state.value}
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
			return misbehaviour{fmt.Errorf("the %s of %s is convicted of misbehaviour", accused(evidence), evidence.Domain)}
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

// accused is what evidence is about.
func accused(e *audit.Evidence) string {
	if e.StateLog != nil {
		return "state log"
	}
	return "keyserver"
}

// parseState reads a block's hash, state hash and state root.
func parseState(s string) (*protocol.StateEntry, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return nil, fmt.Errorf("expected three hashes with colons between them, got %q", shortened(s))
	}
	block, err := chainhash.NewHashFromStr(parts[0])
	if err != nil || len(parts[0]) != 2*chainhash.HashSize {
		return nil, fmt.Errorf("expected a block's hash of 64 hex characters, got %q", shortened(parts[0]))
	}
	e := &protocol.StateEntry{Block: *block}
	for i, to := range []*[32]byte{&e.StateHash, &e.StateRoot} {
		if n, err := hex.Decode(to[:], []byte(parts[1+i][:min(64, len(parts[1+i]))])); err != nil || n != len(to) || len(parts[1+i]) != 64 {
			return nil, fmt.Errorf("expected a state hash and a state root of 64 hex characters each, got %q", shortened(parts[1+i]))
		}
	}
	return e, nil
}

// printConviction prints what evidence shows for people.
func printConviction(out io.Writer, e *audit.Evidence, c *audit.Conviction) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "verdict\t%s\n", c.Verdict)
	fmt.Fprintf(w, "evidence\tby %s, of a %s of %s\n", e.Proof, accused(e), e.Domain)
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
