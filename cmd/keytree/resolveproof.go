package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc/client"
)

// proofFlags ask for a state proof in place of an answer.
type proofFlags struct {
	file, policy *string
	transactions *bool
}

func newProofFlags(flags *pflag.FlagSet) proofFlags {
	return proofFlags{
		file:         flags.String("proof", "", "save a state proof of the answer in `FILE`, for keytree verify"),
		policy:       statePolicyFlag(flags),
		transactions: flags.Bool("transactions", false, "with --proof: have the link transactions that are shown in it, too"),
	}
}

func (f proofFlags) check(c *server) error {
	switch {
	case *f.file == "" && (*f.policy != "" || *f.transactions):
		return usagef("--policy and --transactions go with --proof FILE, which asks for a proof")
	case *f.file != "" && c.unconfirmed:
		return usagef("--proof: what is unconfirmed cannot be proven, leave --unconfirmed out")
	}
	return nil
}

// resolveProven asks for a state proof of addresses, saves it, checks it as far as it can, and prints what it shows.
func (a *app) resolveProven(ctx context.Context, c *server, words iter.Seq2[string, error], at *uint32, f proofFlags, asJSON bool) error {
	var policy *format.Policy
	if *f.policy != "" {
		var err error
		if policy, err = readPolicy(*f.policy); err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
	}
	var addresses []string
	for word, err := range words {
		if err != nil {
			return err
		}
		if addresses = append(addresses, word); len(addresses) > client.MaxProven {
			return usagef("--proof: expected at most %d addresses for one file, got more", client.MaxProven)
		}
	}
	answer, err := askProof(ctx, c, addresses, at, *f.transactions)
	if err != nil {
		return err
	}
	// Others may read it. It is saved also if it does not hold: it may be evidence.
	if err := durable.Replace(*f.file, 0o644, func(out io.Writer) error { _, err := io.WriteString(out, answer.Proof); return err }); err != nil {
		return fmt.Errorf("--proof: %w", err)
	}
	shown, err := checkAnswer(ctx, answer, addresses, at, policy)
	if err != nil {
		return fmt.Errorf("server %s: %s: %w", c.address, *f.file, err)
	}
	if n := answer.LinksWithoutTransactions; n > 0 {
		fmt.Fprintf(a.stderr, "keytree: %d links are shown without their transactions, which have no room: ask for fewer addresses\n", n)
	}
	shown.File = *f.file
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(shown)
	}
	return a.printShownProof(shown)
}

func askProof(ctx context.Context, c *server, addresses []string, at *uint32, transactions bool) (*client.StateProof, error) {
	switch view := c.asOf(at); len(addresses) {
	case 0:
		return nil, usagef("standard input: expected addresses separated by white space, got nothing")
	case 1:
		return view.Prove(ctx, addresses[0], transactions)
	default:
		return view.ProveAll(ctx, addresses, transactions)
	}
}

// checkAnswer checks a proof that was asked for: by a policy, if there is one, and else in all but signatures.
func checkAnswer(ctx context.Context, answer *client.StateProof, addresses []string, at *uint32, policy *format.Policy) (*shownProof, error) {
	var p *proof.ProvenState
	var err error
	if file := []byte(answer.Proof); policy != nil {
		p, err = proof.VerifyState(file, policy)
	} else {
		p, err = proof.ShowState(file)
	}
	if err != nil {
		return nil, err
	}
	if at != nil && p.Entry.Height != *at {
		return nil, fmt.Errorf("expected a proof as of block %d, got one as of %d", *at, p.Entry.Height)
	}
	net, err := protocol.Network(p.Network)
	if err != nil {
		return nil, err
	}
	var d audit.StateDemands
	for _, address := range addresses {
		key, err := protocol.ParseAddress(address, net)
		if err != nil {
			return nil, err
		}
		d.Subjects = append(d.Subjects, proof.StateSubject{Key: key})
	}
	j, err := audit.JudgeState(ctx, p, d, time.Now())
	if err != nil {
		return nil, err
	}
	s := newShownProof(p, j, d.Subjects, net)
	if policy == nil {
		s.Proven, s.unchecked = false, true
	}
	return s, nil
}
