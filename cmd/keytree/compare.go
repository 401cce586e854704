package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/rpc/client/compare"
)

func (a *app) compareCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compare SERVER SERVER...",
		Short: "Tell whether servers agree on the chain and on every identity",
		Long: `compare asks servers, each by the address of its gRPC interface as --server
takes it elsewhere, for the state hash at the lowest of their tips. Those that
have the same one agree on all of history. Else it finds the first height at
which they differ, with some twenty questions to each, and tells who is in the
minority if there are three or more. It fails (exit code 1) if they differ, and
if one of them could not be asked; the others are compared all the same.

A difference at the last block or two may be a reorganisation that has not
reached all of them: compare again.`,
		Example: `  keytree compare 127.0.0.1:8434 keys.example.org:8434
  keytree compare a.example.org:8434 b.example.org:8434 c.example.org:8434 --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return takes("SERVER", "another SERVER")(cmd, args)
			}
			for _, arg := range args {
				if _, err := parseServer(arg); err != nil {
					return fmt.Errorf("SERVER: %w", err)
				}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	placeFlags(flags)
	ca := newCAFlag(flags, "server-ca")
	asJSON := flags.Bool("json", false, "print one JSON object")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.compare(cmd.Context(), args, ca, *asJSON)
	}
	return cmd
}

func (a *app) compare(ctx context.Context, addresses []string, ca *caFlag, asJSON bool) error {
	servers := make([]compare.Server, len(addresses))
	for i, address := range addresses {
		c, err := dial(address, ca)
		if err != nil {
			return err
		}
		defer c.Close()
		servers[i] = c
	}
	result, err := compare.Servers(ctx, servers)
	if err != nil {
		return errors.Join(append([]error{err}, away(result)...)...)
	}
	if asJSON {
		err = a.printComparison(addresses, result)
	} else {
		err = a.showComparison(addresses, result)
	}
	switch {
	case err != nil:
		return err
	case !result.Same:
		return errors.New(difference(addresses, result))
	case result.RootsDiffer:
		return fmt.Errorf("the servers agree on all of history up to block %d, and tell different state roots after it: one of them is wrong; keytree fsck tells for each", result.Height)
	}
	return errors.Join(away(result)...)
}

// away returns why servers could not be asked.
func away(r *compare.Result) (errs []error) {
	for _, s := range r.Standings {
		if s.Err != nil {
			errs = append(errs, s.Err)
		}
	}
	return errs
}

// difference says how servers differ, and who is probably wrong.
func difference(addresses []string, r *compare.Result) string {
	blocks := make(map[string]bool)
	var minority []string
	for i, s := range r.Standings {
		if s.Err == nil {
			blocks[s.Hash] = true
		}
		if s.Minority {
			minority = append(minority, addresses[i])
		}
	}
	text := fmt.Sprintf("the servers differ from block %d on", r.Height)
	if len(blocks) > 1 {
		text += fmt.Sprintf(", where they follow different chains (the lowest of their tips is %d): compare again, and look at their nodes", r.Lowest)
	} else {
		text += ", of which they make different states: one of them is wrong"
	}
	if len(minority) == 0 {
		return text + "; which, a third one may tell"
	}
	return text + "; in the minority: " + strings.Join(minority, ", ")
}

func (a *app) showComparison(addresses []string, r *compare.Result) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	if r.Same {
		fmt.Fprintf(w, "same up to block\t%d\n", r.Height)
	} else {
		fmt.Fprintf(w, "different from block\t%d\n", r.Height)
	}
	for i, s := range r.Standings {
		if s.Err != nil {
			fmt.Fprintf(w, "%s\tnot asked: %s\n", addresses[i], oneLine(s.Err))
			continue
		}
		root := ""
		if s.StateRoot != "" { // an older server does not tell, nor one with --state-root off
			root = ", state root " + harmless(s.StateRoot)
		}
		fmt.Fprintf(w, "%s\ttip %d, block %s, state hash %s%s\n", addresses[i], s.Tip, harmless(s.Hash), harmless(s.StateHash), root)
	}
	return w.Flush()
}

// comparedJSON is what --json prints of one server.
type comparedJSON struct {
	Server    string `json:"server"`
	TipHeight uint32 `json:"tip_height"`
	Hash      string `json:"hash"`
	StateHash string `json:"state_hash"`
	StateRoot string `json:"state_root"`
	Minority  bool   `json:"minority"`
	Error     string `json:"error"`
}

func (a *app) printComparison(addresses []string, r *compare.Result) error {
	servers := make([]comparedJSON, len(addresses))
	for i, s := range r.Standings {
		servers[i] = comparedJSON{Server: addresses[i], TipHeight: s.Tip, Hash: s.Hash, StateHash: s.StateHash, StateRoot: s.StateRoot, Minority: s.Minority}
		if s.Err != nil {
			servers[i].Error = oneLine(s.Err)
		}
	}
	return json.NewEncoder(a.stdout).Encode(struct {
		Same    bool           `json:"same"`
		Height  uint32         `json:"height"` // at which they were compared, or differ first
		Servers []comparedJSON `json:"servers"`
	}{r.Same, r.Height, servers})
}
