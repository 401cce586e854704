package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// outFlag is the file that a command writes.
func outFlag(flags *pflag.FlagSet) *string {
	return flags.String("out", "", "`FILE` to write, which is replaced as a whole")
}

// writeOut writes a file that is whole or not there.
func writeOut(path string, write func(io.Writer) error) (err error) {
	// Others may read it, in a folder of theirs, too.
	err = durable.Replace(path, 0o644, write)
	if errors.As(err, new(*fs.PathError)) {
		return fmt.Errorf("--out: %w", err)
	}
	return err
}

func (a *app) auditBundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle --genesis TXID --out FILE",
		Short: "Save a chain of anchors' proof bundle from a server",
		Long: `audit bundle saves what it takes to check a chain of anchors without the server that
it comes from, to be audited elsewhere with --bundle FILE. The server is not
trusted: the audit checks the file. Only whether it is whole is checked here.`,
		Example: `  keytree audit bundle --genesis 3f2c... --out keys.bundle`,
		Args:    takes(),
	}
	flags := cmd.Flags()
	placeFlags(flags)
	server, genesis, path := newServerFlags(flags), genesisFlag(flags), outFlag(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		switch {
		case genesis.text == "":
			return usagef("no chain of anchors given: expected --genesis TXID")
		case *path == "":
			return usagef("no file given: expected --out FILE")
		}
		c, err := server.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		in, err := sources.NewServer(c.Client, c.address, c.explain).Bundle(cmd.Context(), genesis.value, 0)
		if err != nil {
			return err
		}
		defer in.Close()
		items := 0
		err = writeOut(*path, func(out io.Writer) (err error) {
			items, err = proof.CopyBundle(out, in)
			return err
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s  %d transactions\n", *path, items)
		return nil
	}
	return cmd
}

func (a *app) auditHeadersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "headers --node URL --from HEIGHT --out FILE",
		Short: "Save block headers from one's own node",
		Long: `audit headers saves the block headers from a height to the tip of one's own node, for
audits on a machine without network: audit --headers FILE --checkpoint HEIGHT:HASH.
It prints the first block as such a checkpoint. What must be pinned there, and
compared with what others know, is this block; begin before the genesis anchor.

A reader of the file sees that the headers link from the checkpoint on and carry
work: on mainnet, since November 2020, as much as the network asks for, but for what
fourteen days without blocks would lower it. So the file need not be trusted if
the checkpoint is some months old. Elsewhere it must come from one's own node.`,
		Example: `  keytree audit headers --node 'bchd://127.0.0.1:8335?cert=rpc.cert' --from 800000 --out headers.bin`,
		Args:    takes(),
	}
	flags := cmd.Flags()
	placeFlags(flags)
	network := networkFlag(flags)
	url := newNodeFlag(flags, "node to take them from ("+nodeURLForms+")")
	from, path := heightFlag(flags, "from", "height of the first header"), outFlag(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		switch {
		case url.text == "":
			return usagef("no node given: expected --node URL (%s)", nodeURLForms)
		case from.value == nil:
			return usagef("no height given: expected --from HEIGHT, below that of the genesis anchor")
		case *path == "":
			return usagef("no file given: expected --out FILE")
		}
		n, err := headerFlags{node: url}.dial(cmd.Context(), a, network.value)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, n.Close()) }()
		return a.saveHeaders(cmd.Context(), n, *from.value, *path)
	}
	return cmd
}

// saveHeaders writes the headers from a height on to the tip.
func (a *app) saveHeaders(ctx context.Context, n openNode, first uint32, path string) error {
	var line *progressLine
	if isTerminal(a.stderr) {
		line = &progressLine{w: a.stderr}
		defer line.clear()
	}
	var begin chainhash.Hash
	var count uint32
	err := writeOut(path, func(out io.Writer) (err error) {
		begin, count, err = sources.Node{NodeClient: n}.WriteHeaders(ctx, out, first, func(height, tip uint32) {
			if line != nil && height%100 == 0 {
				line.show("saving  header %d of %d", height, tip)
			}
		})
		return err
	})
	if err != nil {
		return err
	}
	if line != nil {
		line.clear()
	}
	fmt.Fprintf(a.stdout, "%s  %d headers, --checkpoint %d:%v\n", path, count, first, begin)
	return nil
}
