package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// maxWord is the longest line, in bytes, that is read as an address.
const maxWord = 4096

func (a *app) resolveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resolve ADDRESS... | -",
		Short: "Tell which identity is behind an address",
		Long: `resolve tells which identity is behind an address, at the tip or as of a block.
An address that was never linked is its own identity.

With several addresses, or - for a list on standard input (separated by white
space), all answers are as of the same block. --json then prints the answer of
addresses:batchResolve, one for each 10,000 addresses.

With --proof FILE the answer is a state proof of up to 1,000 addresses, which is saved
in the file: anybody can check it offline (keytree verify). It is as of --at, or of the
newest block that the server's state log covers, which is some hours behind the tip. What
it shows is printed as keytree verify prints it, with --json, too; with --policy it is
checked like that, else it is still the server's word. --transactions has the request and
the accept of the links in it, of which the server asks its node for the blocks.`,
		Example: `  keytree resolve bitcoincash:qz...
  keytree resolve bitcoincash:qz... --at 800000 --json
  keytree resolve bitcoincash:qz... --unconfirmed
  keytree resolve bitcoincash:qz... --proof alice.proof --policy witnesses.policy
  keytree resolve - < addresses.txt`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return takes("ADDRESS or -")(cmd, args)
			}
			return nil
		},
	}
	at := heightFlag(cmd.Flags(), "at", "as of this block (default the tip)")
	unconfirmed := newUnconfirmedFlag(cmd.Flags(), at)
	proven := newProofFlags(cmd.Flags())
	asks(cmd, func(ctx context.Context, c *server, args []string, asJSON bool) error {
		if err := errors.Join(unconfirmed.use(c), proven.check(c)); err != nil {
			return err
		}
		fromStdin := len(args) == 1 && args[0] == "-"
		words := func(yield func(string, error) bool) {
			for _, arg := range args {
				if !yield(arg, nil) {
					return
				}
			}
		}
		if fromStdin {
			words = readWords(a.stdin)
		}
		switch {
		case *proven.file != "":
			return a.resolveProven(ctx, c, words, at.value, proven, asJSON)
		case len(args) > 1 || fromStdin:
			return a.resolveMany(ctx, c, words, at.value, asJSON)
		}
		r, err := c.asOf(at.value).Resolve(ctx, args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return a.printJSON(r)
		}
		a.printResolution(r)
		if printUnconfirmed(a.stdout, r.Unconfirmed) {
			a.printResolution(r.Unconfirmed.Resolution)
		}
		return nil
	})
	return cmd
}

func (a *app) printResolution(r *keytreev1.Resolution) {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "address\t%s\n", r.Address)
	if r.IdTxHash == "" {
		fmt.Fprintf(w, "identity\tnever linked, its own identity\n")
	} else {
		fmt.Fprintf(w, "identity\t%s\n", r.IdTxHash)
		fmt.Fprintf(w, "main address\t%s\n", r.MainAddress)
	}
	above := "child of"
	for _, address := range r.Path[min(1, len(r.Path)):] {
		fmt.Fprintf(w, "%s\t%s\n", above, address)
		above = ""
	}
	if r.PathTruncated {
		fmt.Fprintf(w, "\t… %d more\n", r.Depth+1-uint32(len(r.Path)))
	}
	if r.AcceptTxHash != "" {
		fmt.Fprintf(w, "linked by\t%s\n", r.AcceptTxHash)
	}
	if r.AsOfHash != "" { // else it is in no block yet
		fmt.Fprintf(w, "as of\t%d  %s\n", r.AsOfHeight, r.AsOfHash)
	}
}

// readWords reads what white space separates. It holds one word at a time.
func readWords(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, maxWord)
		scanner.Split(bufio.ScanWords)
		for scanner.Scan() {
			if !yield(scanner.Text(), nil) {
				return
			}
		}
		err := scanner.Err()
		if errors.Is(err, bufio.ErrTooLong) {
			err = usagef("standard input: expected addresses, got a word of more than %d bytes", maxWord)
		} else if err != nil {
			err = fmt.Errorf("reading standard input: %w", err)
		}
		if err != nil {
			yield("", err)
		}
	}
}

// resolveMany resolves addresses in portions, all as of one block.
func (a *app) resolveMany(ctx context.Context, c *server, words iter.Seq2[string, error], at *uint32, asJSON bool) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	asked := 0
	hash := ""
	ask := func(addresses []string) error {
		answer, err := c.lists.BatchResolve(ctx, &keytreev1.BatchResolveRequest{Addresses: addresses, AtHeight: at, OmitPath: !asJSON, Unconfirmed: c.unconfirmed})
		if err != nil {
			return namePortion(err, asked)
		}
		if len(answer.Resolutions) != len(addresses) {
			return fmt.Errorf("server %s: expected %d resolutions, got %d", c.address, len(addresses), len(answer.Resolutions))
		}
		if hash != "" && answer.AsOfHash != hash {
			return fmt.Errorf("the chain moved on, or block %d was reorganised away, between two portions of addresses: ask again", answer.AsOfHeight)
		}
		if !asJSON && hash == "" {
			fmt.Fprintf(w, "ADDRESS\tMAIN ADDRESS\tDEPTH\tIDENTITY as of %d\n", answer.AsOfHeight)
		}
		at, hash = c.staying(&answer.AsOfHeight), answer.AsOfHash
		asked += len(addresses)
		if asJSON {
			return a.printJSON(answer)
		}
		for _, r := range answer.Resolutions {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", r.Address, r.MainAddress, r.Depth, cmp.Or(r.IdTxHash, "-"))
			if would := r.Unconfirmed.GetResolution(); would != nil {
				fmt.Fprintf(w, "  unconfirmed\t%s\t%d\t%s\n", would.MainAddress, would.Depth, cmp.Or(would.IdTxHash, "-"))
			}
		}
		if u := answer.Unconfirmed; u != nil && !u.Available {
			fmt.Fprintf(a.stderr, "keytree: what is unconfirmed is not known: %s\n", u.Reason)
		}
		return w.Flush()
	}
	var addresses []string
	for word, err := range words {
		if err != nil {
			return err
		}
		if addresses = append(addresses, word); len(addresses) == client.MaxBatch {
			if err := ask(addresses); err != nil {
				return err
			}
			addresses = addresses[:0]
		}
	}
	if len(addresses) == 0 {
		if asked == 0 {
			return usagef("standard input: expected addresses separated by white space, got nothing")
		}
		return nil
	}
	return ask(addresses)
}

// namePortion says to which portion the index in the server's addresses[i]
// belongs.
func namePortion(err error, asked int) error {
	if asked == 0 || !strings.Contains(err.Error(), "addresses[") {
		return err
	}
	return fmt.Errorf("after the first %d addresses: %w", asked, err)
}
