package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

func (a *app) userProofCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proof NAME --out FILE --genesis TXID",
		Short: "Save a proof that a name's newest entry is in the hashchain",
		Long: `proof saves in one file (C2SP tlog-proof) what shows to anybody that the newest entry of
a name is in the hashchain: that it is in the newest checkpoint of the keyserver's log
that was taken, with the witnesses' cosignatures; and that this continues what the
keyserver has anchored on the chain, with the anchors from the genesis anchor on up to
the first that covers the entry. keytree verify-proof checks it, without the keyserver.

The proof bundle comes from a keytree server or from --bundle FILE, it does not matter
which. The block is printed that has the last of these anchors.`,
		Example: `  keytree user proof alice@example.org --out alice.tlog-proof --genesis 3f2c...
  keytree user proof alice@example.org --out alice.tlog-proof --genesis 3f2c... --bundle keys.bundle --no-sync`,
		Args: takes("NAME"),
	}
	u := a.userFlags(cmd)
	network, genesis, out := networkFlag(u.flags), genesisFlag(u.flags), outFlag(u.flags)
	bundle := u.flags.String("bundle", "", "`FILE` with the proof bundle (default from the server)")
	server := newServerFlags(u.flags)
	noSync := u.flags.Bool("no-sync", false, "take the copy as it is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		switch {
		case err != nil:
			return err
		case genesis.text == "":
			return usagef("no chain of anchors given: expected --genesis TXID")
		case *out == "":
			return usagef("no file given: expected --out FILE")
		}
		return u.with(func(c *keyclient.Client) error {
			contact, err := lookUp(cmd.Context(), c, name, !*noSync)
			if err != nil {
				return err
			}
			in, err := openBundle(cmd.Context(), *bundle, server, genesis.value)
			if err != nil {
				return err
			}
			defer in.Close()
			raw, anchor, err := proveEntry(cmd.Context(), c, contact.Position(), network.value, genesis.value, in)
			if err != nil {
				return err
			}
			if err := writeOut(*out, func(w io.Writer) error { _, err := w.Write(raw); return err }); err != nil {
				return err
			}
			o := struct {
				Identity string `json:"identity"`
				Position uint64 `json:"position"`
				File     string `json:"file"`
				Bytes    int    `json:"bytes"`
				Block    string `json:"block"` // HEIGHT:HASH, of the anchor that covers it
			}{name, contact.Position(), *out, len(raw), audit.Checkpoint{Height: anchor.Height, Hash: anchor.Block}.String()}
			return u.print(o, func(w io.Writer) {
				fmt.Fprintf(w, "%s  %s, position %d, anchored in block %s\n", o.File, o.Identity, o.Position, o.Block)
			})
		})
	}
	return cmd
}

// openBundle opens a proof bundle, in a file or of a server's.
func openBundle(ctx context.Context, path string, server serverFlags, genesis chainhash.Hash) (io.ReadCloser, error) {
	if path != "" {
		return os.Open(path)
	}
	c, err := server.dial()
	if err != nil {
		return nil, err
	}
	in, err := sources.NewServer(c.Client, c.address, c.explain).Bundle(ctx, genesis, 0)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return closers{in, c}, nil
}

// closers is a reader with a connection to be closed after it.
type closers struct {
	io.ReadCloser
	after io.Closer
}

func (c closers) Close() error { return errors.Join(c.ReadCloser.Close(), c.after.Close()) }

// proveEntry makes the proof of an entry of the copy.
func proveEntry(ctx context.Context, c *keyclient.Client, position uint64, net *chaincfg.Params, genesis chainhash.Hash, in io.Reader) ([]byte, *audit.Anchored, error) {
	bundle, anchor, err := audit.CoveringBundle(ctx, net, genesis, in, position)
	if err != nil {
		return nil, nil, err
	}
	entry, p, consistency, err := c.Prove(position, anchor.Position+1)
	if err != nil {
		return nil, nil, err
	}
	e := audit.EntryProof{Entry: entry, Consistency: consistency, Bundle: bundle}
	p.Extra = e.Marshal()
	raw := p.Marshal()
	if len(raw) > format.MaxProof {
		return nil, nil, fmt.Errorf("the proof has %d bytes, of which nobody reads more than %d: the chain of anchors is too long", len(raw), format.MaxProof)
	}
	return raw, anchor, nil
}

func (a *app) verifyProofCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify-proof FILE --policy FILE --genesis TXID --checkpoint HEIGHT:HASH",
		Short: "Check a proof that an entry is in a keyserver's hashchain",
		Long: `verify-proof checks what keytree user proof has saved, without the keyserver: that the
entry is in a checkpoint that the policy's log has signed and its quorum has cosigned,
and that this continues what the chain of anchors with the pinned genesis anchor had
committed to, in blocks with work.

--checkpoint pins a block that is known to be on the best chain: the one of the last
anchor in the file, which keytree user proof prints; its transaction spends what is in
the blocks before. To pin an older one, give --headers FILE that begins with it (keytree
audit headers); or --node, one's own node, instead of both.

With --name it also tells whether the entry is that name's: an entry does not show whose
it is to anybody who does not know the name.

Exit codes: 0 it is proved; 1 it is not; 2 wrong usage.`,
		Example: `  keytree verify-proof alice.tlog-proof --policy witnesses.policy --genesis 3f2c... --checkpoint 801234:0000... --name alice@example.org
  keytree verify-proof alice.tlog-proof --policy witnesses.policy --genesis 3f2c... --headers headers.bin --checkpoint 800000:0000...`,
		Args: takes("FILE"),
	}
	flags := cmd.Flags()
	placeFlags(flags)
	network, genesis, blocks := networkFlag(flags), genesisFlag(flags), newHeaderFlags(flags)
	policy := flags.String("policy", "", "`FILE` that names the log, its witnesses, and how many of them a checkpoint needs (C2SP tlog-policy)")
	name := newParsed("NAME@DOMAIN", "", identityArgument)
	flags.Var(name, "name", "whose entry it must be")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		switch {
		case *policy == "":
			return usagef("no policy given: expected --policy FILE")
		case genesis.text == "":
			return usagef("no chain of anchors given: expected --genesis TXID")
		case blocks.node.text == "" && blocks.checkpoint.text == "":
			return usagef("expected a block that is known from --checkpoint HEIGHT:HASH, or --node URL")
		case *blocks.file != "" || blocks.node.text != "":
			if err := blocks.check(); err != nil {
				return err
			}
		}
		p, err := readPolicy(*policy)
		if err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
		raw, err := readProof(args[0])
		if err != nil {
			return err
		}
		headers, done, err := blocks.open(cmd.Context(), a, network.value)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		proven, err := audit.VerifyEntry(cmd.Context(), raw, p, network.value, genesis.value, headers, blocks.checkpoint.value)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if _, is := proven.Entry.Open(name.value); name.value != "" && !is {
			return fmt.Errorf("%s: the entry that it proves is not one of %s", args[0], name.value)
		}
		return a.printProven(proven, name.value)
	}
	return cmd
}

// readProof reads a proof of an entry, which somebody else may have made.
func readProof(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, format.MaxProof+1))
}

func (a *app) printProven(p *audit.Proven, name string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	whose := "of whoever knows its name"
	if name != "" {
		whose = "of " + name
	}
	fmt.Fprintf(w, "proved\tthe entry at position %d, %s, hash %s\n", p.Position, whose, p.Entry.Hash())
	fmt.Fprintf(w, "log\t%s, checkpoint of %s entries\n", p.Checkpoint.Origin, number(p.Checkpoint.Size))
	for _, by := range p.Cosigners {
		fmt.Fprintf(w, "cosigned\tby %s\n", by)
	}
	fmt.Fprintf(w, "anchored\tanchor %d, tx %v, block %d, commits to position %d\n", p.Anchor.Number, p.Anchor.TxID, p.Anchor.Height, p.Anchor.Position)
	fmt.Fprintf(w, "work\t%d blocks with anchors carry the work of 2^%.1f hashes\n", p.Blocks, p.Work)
	return w.Flush()
}
