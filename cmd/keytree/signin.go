package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/gcash/bchd/chaincfg"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) signInCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "signin --domain DOMAIN --uri URI",
		Short: "Sign in as an app has people do it, to try it",
		Long: `signin plays all three who take part when a key signs in at an app: the app, which
has a server make a text, the wallet, which signs it, and the app again, which has the
server verify the signature and tell whose identity is behind it. protocol/SIGNIN.md says
what an app does besides.

The key comes from a file (--key-file), as WIF, never from an argument. With --address
a wallet signs: the text is shown, and the signature is read from standard input, as
wallets return it (base64). What is signed is checked first: a text for another domain,
URI or address is not signed.`,
		Example: `  keytree signin --domain memo.cash --uri https://memo.cash/login --key-file key.wif
  keytree signin --domain memo.cash --uri https://memo.cash/login --address bitcoincash:qz... --root-only`,
		Args: takes(),
	}
	s := a.newSigner(cmd.Flags())
	asks(cmd, func(ctx context.Context, c *server, _ []string, asJSON bool) error {
		who, err := s.signIn(ctx, keytreev1.NewSignInServiceClient(c.Conn()))
		if err != nil {
			return err
		}
		if asJSON {
			return a.printJSON(who)
		}
		a.printResolution(&keytreev1.Resolution{
			Address: who.Address, IdTxHash: who.IdTxHash, MainAddress: who.MainAddress, Path: who.Path, PathTruncated: who.PathTruncated, Depth: who.Depth,
			AsOfHeight: who.AsOfHeight, AsOfHash: who.AsOfHash,
		})
		printSignInPending(a.stdout, who.Pending)
		return nil
	})
	return cmd
}

// printSignInPending says what would become of the key.
func printSignInPending(w io.Writer, pending *keytreev1.SignInPending) {
	switch {
	case !pending.GetAvailable():
		fmt.Fprintf(w, "unconfirmed: not known: %s\n", pending.GetReason())
	case pending.Cut && pending.Link:
		fmt.Fprintln(w, "unconfirmed: it would be cut off, and linked to another parent")
	case pending.Cut:
		fmt.Fprintln(w, "unconfirmed: it would be cut off")
	case pending.Link:
		fmt.Fprintln(w, "unconfirmed: its root would have a parent")
	default:
		fmt.Fprintln(w, "unconfirmed: nothing would differ")
	}
}

// signer is who signs in, most of it flags.
type signer struct {
	app         *app
	flags       *pflag.FlagSet
	network     *parsed[*chaincfg.Params]
	domain, uri *string
	address     *string
	keyFile     *string
	maxDepth    *parsed[uint32]
	rootOnly    *bool
	allowLong   *bool
}

func (a *app) newSigner(flags *pflag.FlagSet) *signer {
	return &signer{
		app: a, flags: flags, network: networkFlag(flags),
		domain:    flags.String("domain", "", "`DOMAIN` of the app, with its port if that is not the scheme's own"),
		uri:       flags.String("uri", "", "`URI` on that domain where people sign in"),
		address:   flags.String("address", "", "`ADDRESS` of a key that a wallet has, which signs"),
		keyFile:   flags.String("key-file", "", "`FILE` with the key as WIF, readable by its owner alone"),
		maxDepth:  numberFlag(flags, "max-depth", 0, 0, 1<<32-1, "refuse a key more links below the root of its identity (default: any key may sign in)"),
		rootOnly:  flags.Bool("root-only", false, "refuse a key that is not the root of its identity"),
		allowLong: flags.Bool("allow-long", false, "take a text of more than 252 bytes, which some wallets sign wrongly"),
	}
}

// signIn has a server make a text, signs it, and has the server verify it.
func (s *signer) signIn(ctx context.Context, server keytreev1.SignInServiceClient) (*keytreev1.VerifySignInResponse, error) {
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	challenge, err := server.ChallengeSignIn(ctx, &keytreev1.ChallengeSignInRequest{
		Domain: *s.domain, Uri: *s.uri, Address: protocol.FormatAddress(key.Key, s.network.value), AllowLong: *s.allowLong,
	})
	if err != nil {
		return nil, err
	}
	text := challenge.GetMessage()
	if m, err := signin.Parse(text, s.network.value); err != nil || m.Domain != *s.domain || m.URI != *s.uri || m.Key != key.Key {
		return nil, fmt.Errorf("expected a text to sign in at %s, got %.200q (%v): it is not signed", *s.domain, text, err)
	}
	fmt.Fprintf(s.app.stderr, "%s\n\n", text)
	signature, err := s.sign(text, key)
	if err != nil {
		return nil, err
	}
	request := &keytreev1.VerifySignInRequest{Message: text, Signature: signature, Domain: *s.domain, RootOnly: *s.rootOnly, AllowLong: *s.allowLong}
	if s.flags.Changed("max-depth") {
		request.MaxDepth = &s.maxDepth.value
	}
	return server.VerifySignIn(ctx, request)
}

// key reads the key that signs in, or its address: then there is no private key.
func (s *signer) key() (protocol.WIF, error) {
	switch {
	case *s.domain == "" || *s.uri == "":
		return protocol.WIF{}, usagef("no app given: expected --domain DOMAIN and --uri URI")
	case (*s.address == "") == (*s.keyFile == ""):
		return protocol.WIF{}, usagef("expected one of --key-file FILE, and --address ADDRESS for a wallet to sign")
	case *s.keyFile != "":
		return parseKeyFile(*s.keyFile, s.network.value)
	}
	key, err := protocol.ParseAddress(*s.address, s.network.value)
	if err != nil {
		return protocol.WIF{}, usagef("--address: %w", err)
	}
	return protocol.WIF{Key: key}, nil
}

// maxSignature is more, in bytes, than a line with a signature takes.
const maxSignature = 1024

// sign signs a text with the key, or has a wallet do it.
func (s *signer) sign(text string, key protocol.WIF) (string, error) {
	if key.Private != nil {
		return signin.Sign(text, key)
	}
	fmt.Fprintln(s.app.stderr, "keytree: sign this text with your wallet, and enter the signature:")
	line, err := bufio.NewReader(io.LimitReader(s.app.stdin, maxSignature)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	return strings.TrimSpace(line), nil
}
