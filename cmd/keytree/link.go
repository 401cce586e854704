package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
)

// nodeTimeout is how long a link command waits for the node to answer at all.
const nodeTimeout = 20 * time.Second

func (a *app) linkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link",
		Short: "Publish link transactions",
		Long: `link publishes the three transactions of MIP-0003: a child asks a parent
(request), the parent accepts the request (accept), and may take that back
(revoke).

The acting key comes from a file (--key-file) or standard input (--key-stdin), as
WIF, never from an argument. It pays the fee: coins come from the node (a bchd with
--addrindex; a BCHN, which scans its outputs for that), from an Electrum server
(--coins), or from --utxo. Coins that carry CashTokens, and the batons of anchors, are
left alone.

A wallet that holds the key can sign instead: --unsigned --format walletconnect prints
what it is asked, and keytree link send sends what it answers.

Before anything is signed, the keytree server (--server) is asked whether the
action would be refused. If it would, the command stops with the reason; --force
publishes it all the same.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("expected one of: link request, link accept, link revoke, link send")
		},
	}
	cmd.AddCommand(a.linkRequestCommand(), a.linkAcceptCommand(), a.linkRevokeCommand(), a.linkSendCommand())
	return cmd
}

func (a *app) linkRequestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "request --parent ADDRESS",
		Short: "Ask a parent to accept the key as its child (MLR)",
		Example: `  keytree link request --parent bitcoincash:qz... --key-file child.wif --node 'bchd://127.0.0.1:8335?cert=rpc.cert'
  keytree link request --parent bitcoincash:qz... --key-file child.wif --utxo TXID:0:10000 --dry-run
  keytree link request --parent bitcoincash:qz... --unsigned --from bitcoincash:qr... --utxo TXID:0:10000
  keytree link request --parent bitcoincash:qz... --unsigned --format walletconnect --from bitcoincash:qr... --coins electrums://bch.example.org:50002`,
		Args: takes(),
	}
	parent := cmd.Flags().String("parent", "", "`ADDRESS` of the key that is asked to become the parent")
	p := a.publisherFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *parent == "" {
			return usagef("no parent given: expected --parent ADDRESS")
		}
		parentKey, err := protocol.ParseAddress(*parent, p.network.value)
		if err != nil {
			return usagef("--parent: %w", err)
		}
		script, err := protocol.RequestScript(parentKey, []byte(*p.message))
		if err != nil {
			return usagef("--message: %w", err)
		}
		return p.publish(cmd.Context(), action{kind: protocol.MLR, script: script, parent: parentKey})
	}
	return cmd
}

func (a *app) linkAcceptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "accept REQUEST_TXID",
		Short:   "Accept a request, as the parent that it asks (MLA)",
		Example: `  keytree link accept 3f2c... --key-file parent.wif --node 'bchd://127.0.0.1:8335?cert=rpc.cert'`,
		Args:    takes("REQUEST_TXID"),
	}
	p := a.publisherFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request, err := parseTxID(args[0])
		if err != nil {
			return usagef("request txid: %w", err)
		}
		script, err := protocol.AcceptScript(request, []byte(*p.message))
		if err != nil {
			return usagef("--message: %w", err)
		}
		return p.publish(cmd.Context(), action{kind: protocol.MLA, script: script, ref: request})
	}
	return cmd
}

func (a *app) linkRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke ACCEPT_TXID",
		Short:   "Take an accept back, as the parent that made it (MCR)",
		Example: `  keytree link revoke 81d0... --key-file parent.wif --node 'bchd://127.0.0.1:8335?cert=rpc.cert'`,
		Args:    takes("ACCEPT_TXID"),
	}
	p := a.publisherFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		accept, err := parseTxID(args[0])
		if err != nil {
			return usagef("accept txid: %w", err)
		}
		script, err := protocol.RevokeScript(accept, []byte(*p.message))
		if err != nil {
			return usagef("--message: %w", err)
		}
		return p.publish(cmd.Context(), action{kind: protocol.MCR, script: script, ref: accept})
	}
	return cmd
}

// action is what a link command is to publish.
type action struct {
	kind   protocol.Kind
	script []byte
	parent protocol.KeyHash // MLR
	ref    chainhash.Hash   // MLA, MCR
}

// publisher holds what the link commands have in common, most of it flags.
type publisher struct {
	app      *app
	flags    *pflag.FlagSet
	network  *parsed[*chaincfg.Params]
	node     nodeFlag
	coins    *parsed[*electrum.Config]
	server   serverFlags
	keyFile  *string
	keyStdin *bool
	from     *string
	utxos    *list[protocol.UTXO]
	feeRate  *parsed[uint32]
	message  *string
	dryRun   *bool
	unsigned *bool
	format   *parsed[string]
	keyPath  *parsed[signing.KeyPath]
	force    *bool
	json     *bool
}

func (a *app) publisherFlags(cmd *cobra.Command) *publisher {
	flags := cmd.Flags()
	placeFlags(flags)
	p := &publisher{
		app: a, flags: flags,
		network:  networkFlag(flags),
		node:     newNodeFlag(flags, "node to take coins from and send to: "+nodeURLForms),
		coins:    newCoinsFlag(flags),
		server:   newServerFlags(flags),
		keyFile:  flags.String("key-file", "", "`FILE` with the acting key as WIF, readable by its owner alone"),
		keyStdin: flags.Bool("key-stdin", false, "read the acting key as WIF from standard input"),
		from:     flags.String("from", "", "`ADDRESS` of the acting key, with --unsigned"),
		utxos:    &list[protocol.UTXO]{kind: "TXID:VOUT:SATOSHIS", parse: parseCoin},
		feeRate:  numberFlag(flags, "fee-rate", protocol.DefaultFeeRate, 1, protocol.MaxFeeRate, "fee in satoshi per byte"),
		message:  flags.String("message", "", "`TEXT` to go with the action, for everybody to read"),
		dryRun:   flags.Bool("dry-run", false, "print the signed transaction instead of sending it"),
		unsigned: flags.Bool("unsigned", false, "print what an external signer needs, as JSON; takes --from and no key"),
		format:   newParsed("FORMAT", "json", oneOf("json", "walletconnect", "wizardconnect", "hex")),
		keyPath:  newParsed("NAME/INDEX", "", signing.ParseKeyPath),
		force:    flags.Bool("force", false, "do not ask the server first whether the action would be refused"),
		json:     flags.Bool("json", false, "print the outcome as one JSON object"),
	}
	flags.Var(p.format, "format", "what --unsigned prints: json with digests, what the wallet is asked over walletconnect or wizardconnect, or the transaction as hex")
	flags.Var(p.keyPath, "key-path", "which key of the wallet is the acting one, receive/5 for example, with --format wizardconnect")
	flags.Var(p.utxos, "utxo", "coin of the acting key to spend (can be repeated; default: the node is asked)")
	setting(flags, "fee-rate")
	return p
}

// parseCoin reads an output as --utxo names it. Its script is left out.
func parseCoin(s string) (coin protocol.UTXO, err error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return coin, fmt.Errorf("expected TXID:VOUT:SATOSHIS, got %q", shortened(s))
	}
	if coin.OutPoint.Hash, err = parseTxID(parts[0]); err != nil {
		return coin, fmt.Errorf("TXID: %w", err)
	}
	if coin.OutPoint.Index, err = parseNumber(parts[1], "an output number", 0, 1<<32-1); err != nil {
		return coin, err
	}
	coin.Value, err = strconv.ParseInt(parts[2], 10, 64)
	if err != nil || coin.Value < 0 || coin.Value > protocol.MaxSatoshi {
		return coin, fmt.Errorf("expected a number of satoshis from 0 to %d, got %q", int64(protocol.MaxSatoshi), shortened(parts[2]))
	}
	return coin, nil
}

// publish checks, builds, signs and sends the transaction of an action, or as
// much of that as the flags ask for.
func (p *publisher) publish(ctx context.Context, act action) error {
	if err := p.checkFlags(); err != nil {
		return err
	}
	author, err := p.author()
	if err != nil {
		return err
	}
	var from *wallet // nil without a node
	if asked := p.asked(); asked.any() {
		if from, err = p.app.openWallet(ctx, asked); err != nil {
			return err
		}
		defer from.Close()
	}
	expected, err := p.check(ctx, act, author.Key, from)
	if err != nil {
		return err
	}
	utxos, batons, err := p.spendable(ctx, author.Key, from)
	if err != nil {
		return err
	}
	link, err := protocol.NewLinkTx(act.script, protocol.Funding{
		Author: author.Key, UTXOs: utxos, FeeRate: int64(p.feeRate.value), Uncompressed: author.Uncompressed,
		Schnorr: *p.unsigned && p.asksWallet(),
	})
	if errors.Is(err, protocol.ErrInsufficientFunds) && len(batons) > 0 {
		return fmt.Errorf("%s: %w: the baton of a chain of anchors (%v) is left alone, since to spend it without a record breaks that chain: pay the address some more",
			protocol.FormatAddress(author.Key, p.network.value), err, batons[0].OutPoint)
	}
	if errors.Is(err, protocol.ErrInsufficientFunds) {
		return fmt.Errorf("%s: %w", protocol.FormatAddress(author.Key, p.network.value), err)
	}
	if err != nil {
		return err
	}
	if *p.unsigned {
		return p.printUnsigned(act, link, expected)
	}
	if err := link.Sign(author.Private); err != nil {
		return err
	}
	if !*p.dryRun {
		if err := from.Submit(ctx, link.Raw()); err != nil {
			return err
		}
	}
	return p.printPublished(act, link)
}

// checkFlags finds combinations of flags that make no sense.
func (p *publisher) checkFlags() error {
	offline := *p.dryRun || *p.unsigned
	switch {
	case *p.dryRun && *p.unsigned:
		return usagef("expected one of --dry-run and --unsigned, got both")
	case *p.unsigned && (p.flags.Changed("key-file") || *p.keyStdin):
		return usagef("--unsigned takes no key: expected --from ADDRESS alone")
	case p.flags.Changed("format") && !*p.unsigned:
		return usagef("--format goes with --unsigned: a key given here signs by itself")
	case (p.format.value == "wizardconnect") != p.flags.Changed("key-path"):
		return usagef("--format wizardconnect goes with --key-path NAME/INDEX, which says which of the wallet's keys the acting one is")
	case *p.unsigned && *p.from == "":
		return usagef("--unsigned: expected --from ADDRESS, the address of the acting key")
	case !*p.unsigned && *p.from != "":
		return usagef("--from goes with --unsigned: with a key the address is known")
	case !*p.unsigned && (*p.keyFile == "") == !*p.keyStdin:
		return usagef("expected the acting key from one of --key-file FILE and --key-stdin")
	case !p.asked().any() && !offline:
		return usagef("no node to send to: expected --node URL (%s), --coins URL, or --dry-run or --unsigned", nodeURLForms)
	case !p.asked().any() && len(p.utxos.values) == 0:
		return usagef("no coins to pay with: expected --node URL (%s), --coins URL, or --utxo TXID:VOUT:SATOSHIS", nodeURLForms)
	}
	return nil
}

// asked says who is asked for coins, and sent transactions.
func (p *publisher) asked() coinsConfig {
	return coinsConfig{node: p.node.value, electrum: p.coins.value, network: p.network.value}
}

// asksWallet reports whether a wallet signs, by what is printed for it.
func (p *publisher) asksWallet() bool {
	return p.format.value == "walletconnect" || p.format.value == "wizardconnect"
}

// spendable returns the coins of --utxo, or those that the node tells, and which are
// batons of anchors and left alone. Without a node the former are taken to be plain outputs
// to author: a signature commits to script, value and tokens, so one for a coin that is
// something else is worth nothing. Whether one is a baton nobody tells then but the server.
func (p *publisher) spendable(ctx context.Context, author protocol.KeyHash, from *wallet) (utxos, batons []protocol.UTXO, err error) {
	switch {
	case len(p.utxos.values) == 0:
		return coins.Spendable(ctx, from, author)
	case from != nil:
		utxos, err = coins.Named(ctx, from, author, p.utxos.values)
		return utxos, nil, err
	}
	for _, coin := range p.utxos.values {
		if err := p.checkBaton(ctx, coin); err != nil {
			return nil, nil, err
		}
		coin.Script = protocol.P2PKHScript(author)
		utxos = append(utxos, coin)
	}
	return utxos, nil, nil
}

// openWallet connects to a node or server that has to be there now.
func (a *app) openWallet(ctx context.Context, c coinsConfig) (*wallet, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeTimeout, fmt.Errorf("no answer within %v", nodeTimeout))
	defer cancel()
	c.retryFor = nodeTimeout
	c.scans = func(address string) {
		fmt.Fprintf(a.stderr, "keytree: note: the node scans all unspent outputs for those of %s, which takes seconds on a large chain\n", address)
	}
	return c.open(ctx)
}
