package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/gcash/bchd/chaincfg"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
)

// maxAnswer is more, in bytes, than a wallet's answer or what it was asked takes.
const maxAnswer = 1 << 20

func (a *app) linkSendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send FILE",
		Short: "Send a link transaction that a wallet has signed",
		Long: `send takes what a wallet has answered, from a file or, as -, from standard input: the
object with signedTransaction, or the transaction in hex.

It is sent if it carries exactly one action in at most 10,000 bytes, spends nothing but
plain coins of keys that have signed all of it, and if the keytree server does not
say that the action would be refused (--force does without). With --prepared it has to be
the transaction that was prepared. One that the network has already is success.`,
		Example: `  keytree link request --parent bitcoincash:qz... --unsigned --format walletconnect --from bitcoincash:qr... >asked.json
  keytree link send answer.json --prepared asked.json --node 'http://127.0.0.1:8332?cookie=.cookie'`,
		Args: takes("FILE"),
	}
	flags := cmd.Flags()
	placeFlags(flags)
	s := &linkSender{
		app:      a,
		network:  networkFlag(flags),
		node:     newNodeFlag(flags, "node to send to: "+nodeURLForms),
		coins:    newCoinsFlag(flags),
		server:   newServerFlags(flags),
		prepared: flags.String("prepared", "", "`FILE` with what the wallet was asked, from --format walletconnect or wizardconnect"),
		force:    flags.Bool("force", false, "do not ask the server first whether the action would be refused"),
		json:     flags.Bool("json", false, "print the outcome as one JSON object"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return s.send(cmd.Context(), args[0]) }
	return cmd
}

// linkSender holds the flags of link send.
type linkSender struct {
	app      *app
	network  *parsed[*chaincfg.Params]
	node     nodeFlag
	coins    *parsed[*electrum.Config]
	server   serverFlags
	prepared *string
	force    *bool
	json     *bool
}

func (s *linkSender) send(ctx context.Context, file string) error {
	asked := coinsConfig{node: s.node.value, electrum: s.coins.value, network: s.network.value}
	if !asked.any() {
		return usagef("no node to send to: expected --node URL (%s), or --coins URL", nodeURLForms)
	}
	answer, err := s.app.read(file)
	if err != nil {
		return err
	}
	tx, err := signing.ParseSigned(answer)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if *s.prepared != "" {
		if err := s.compare(tx); err != nil {
			return err
		}
	}
	through, err := s.app.openWallet(ctx, asked)
	if err != nil {
		return err
	}
	defer through.Close()
	checker := linkChecker{app: s.app, server: s.server, network: s.network.value, force: *s.force}
	sent, err := coins.Send(ctx, through, tx, func(signed coins.Signed) error {
		_, err := checker.check(ctx, linkcheck.ActionOf(signed.Action, signed.Author), through)
		return err
	})
	if err != nil {
		return err
	}
	if *s.json {
		return json.NewEncoder(s.app.stdout).Encode(struct {
			TxHash string `json:"tx_hash"`
			Kind   string `json:"kind"`
			Known  bool   `json:"known"` // the network had it already
		}{sent.TxID.String(), sent.Action.Kind.String(), sent.Known})
	}
	fmt.Fprintln(s.app.stdout, sent.TxID)
	return nil
}

// compare refuses another transaction than the one that was prepared.
func (s *linkSender) compare(tx protocol.Tx) error {
	request, err := s.app.read(*s.prepared)
	if err != nil {
		return err
	}
	prepared, err := signing.ReadPrepared(request)
	if err != nil {
		return fmt.Errorf("%s: %w", *s.prepared, err)
	}
	return signing.Matches(tx, prepared)
}

// read reads a file, or standard input for -, of up to maxAnswer bytes.
func (a *app) read(name string) ([]byte, error) {
	r := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	content, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(content) > maxAnswer {
		err = fmt.Errorf("%s: expected up to %d bytes, got more", name, maxAnswer)
	}
	return content, err
}
