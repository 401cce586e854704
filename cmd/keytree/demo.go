package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
)

func (a *app) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play the flows of MIP-0003 on a private network",
		Long: `demo starts a private bchd on a regtest network of its own and a keytree server
on it, plays the flows of MIP-0003 with real transactions, draws the trees that
come of them, and shows what the server says about each key. Every answer is
compared with what the MIP says; the first that differs ends the demo with exit
code 1.

bchd is built from the versions in go.mod, once per machine, about a minute. That
needs the Go toolchain and the project's folder; otherwise give a bchd with
--bchd. Everything is in a temporary folder, which is removed at the end.

keytree demo keyserver plays the use-case of the keyserver instead, which needs no
node; demo anchor shows how a keyserver that tells two stories is found out, demo
witness what witnesses of its log see of that; demo proof has an indexer lie about an
address, which a wallet notices offline; demo web has it all in a browser, and in demo
signup you sign up at a service.`,
		Example: `  go run ./cmd/keytree demo
  keytree demo --keep
  keytree demo --bchd /usr/local/bin/bchd`,
		Args: takes(),
	}
	flags := cmd.Flags()
	keep := flags.Bool("keep", false, "leave everything running at the end, and say where, until Ctrl-C")
	binary := flags.String("bchd", "", "`PATH` of a bchd to use instead of building one")
	setting(flags, "bchd")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return inTempDir(func(dir string) error {
			return demo.PlayFlows(cmd.Context(), a.demoHost(), *binary, dir, *keep)
		})
	}
	cmd.AddCommand(a.demoKeyserverCommand(), a.demoAnchorCommand(), a.demoWitnessCommand(), a.demoProofCommand(), a.demoWebCommand(), a.demoSignupCommand())
	return cmd
}

func (a *app) demoKeyserverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keyserver",
		Short: "Play the use-case of a keyserver: Alice registers, Bob starts a session",
		Long: `demo keyserver starts a keyserver and a mail server, which stands for a mix, on the
local machine, and has two users do what the use-case tells: each copies the
hashchain, Alice registers a name with keys of her own, Bob finds her in his copy and
writes to her, and she answers when the keyserver is gone. It says what each side
checks. Then it shows what is refused. The first thing that is not as it must be
ends the demo with exit code 1.

Everything is in a temporary folder, which is removed at the end.`,
		Example: `  go run ./cmd/keytree demo keyserver`,
		Args:    takes(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return inTempDir(func(dir string) error { return demo.PlayKeyserver(cmd.Context(), a.demoHost(), dir) })
	}
	return cmd
}

// chainDemoCommand makes the command of a play on a private bchd: what it is called, and says of itself.
func (a *app) chainDemoCommand(play func(ctx context.Context, h demo.Host, binary, dir string) error, use, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: takes(),
		Example: fmt.Sprintf(`  go run ./cmd/keytree demo %[1]s
  keytree demo %[1]s --bchd /usr/local/bin/bchd`, use),
	}
	binary := cmd.Flags().String("bchd", "", "`PATH` of a bchd to use instead of building one")
	setting(cmd.Flags(), "bchd")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return inTempDir(func(dir string) error { return play(cmd.Context(), a.demoHost(), *binary, dir) })
	}
	return cmd
}

func (a *app) demoAnchorCommand() *cobra.Command {
	return a.chainDemoCommand(demo.PlayAnchor, "anchor", "Show how a keyserver that tells two stories is found out", `demo anchor starts a private bchd and a keytree server whose keyserver anchors its
hashchain there. An auditor, who trusts none of them but asks the node, finds it
sound. Then the operator forks the keyserver: a twin, made from a backup, shows another
history to a second client. That client's auditor, with nothing but the same pinned
genesis anchor, finds out and writes a file of evidence, which is verified with
nothing else. The first thing that is not as it must be ends the demo with exit
code 1.

bchd is built as keytree demo does. Everything is in a temporary folder, which is
removed at the end.`)
}

func (a *app) demoWitnessCommand() *cobra.Command {
	return a.chainDemoCommand(demo.PlayWitness, "witness", "Show what witnesses see of a keyserver that forks its log", `demo witness starts a private bchd, a keytree server whose keyserver anchors its hashchain
there, and two witnesses that cosign the keyserver's transparency log. An auditor
finds all of it sound. Then the operator forks the keyserver: a twin, made from a
backup, signs another history with the same keys. One witness refuses it. The other,
a friend of the operator's, has forgotten what it had cosigned. The auditor, who has
not, finds out, and writes a file of evidence, two checkpoints by one key, which is
verified with nothing else. The first thing that is not as it must be ends the demo
with exit code 1.

bchd is built as keytree demo does. Everything is in a temporary folder, which is
removed at the end.`)
}

func (a *app) demoProofCommand() *cobra.Command {
	return a.chainDemoCommand(demo.PlayProof, "proof", "Show how a wallet finds out, offline, that an indexer lies", `demo proof starts a private bchd and three indexers of it, each with a state log and
each a witness of the others'. Alice takes a link back. The operator of the third indexer
leaves that out: he takes the revocation out of a block file, and imports it. A wallet
that knows nothing but a policy, a text file with the keys of the three, asks all of
them, and decides offline: two answers are proven, the third is not, since nobody
cosigns what he has not computed; and beside an honest one it is evidence. The
commands that it prints are those that a user would type, and are run as printed.
The first thing that is not as it must be ends the demo with exit code 1.

Blocks get into a state log after two hours. Here the clocks of the state logs are
moved instead; nothing else is other than in earnest.

bchd is built as keytree demo does. Everything is in a temporary folder, which is
removed at the end.`)
}

func (a *app) demoWebCommand() *cobra.Command {
	return a.chainDemoCommand(demo.PlayWeb, "web", "Look at the flows of MIP-0003 in a browser", `demo web starts a private bchd and a keytree server as keytree demo does, plays
the flows of MIP-0003 there with real transactions, and prints the address of the
explorer, on which all of them can be looked at. Everything is left running until
Ctrl-C: blocks come for whatever is sent, and pages show it when it comes.

bchd is built as keytree demo does. Everything is in a temporary folder, which is
removed at the end.`)
}

func (a *app) demoSignupCommand() *cobra.Command {
	return a.chainDemoCommand(demo.PlaySignup, "signup", "Sign up at a service, in a browser, with a wallet of the demo's", `demo signup starts a private bchd, a keytree server on it, an example service, and a
wallet whose key lives in the demo's own process, and prints the addresses of service and
wallet, to be opened in one browser. You sign in at the service with the wallet's
address; the service makes a key for you, which asks to be one of your identity, and sends
you to the server's page where that is accepted, and from there back. It can be taken back in the
same way. Everything is left running until Ctrl-C.

bchd is built as keytree demo does. Everything is in a temporary folder, which is
removed at the end.`)
}

// inTempDir plays in a temporary folder, and removes it.
func inTempDir(play func(dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "keytree-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return play(dir)
}

// demoHost is what the plays get of the command line.
func (a *app) demoHost() demo.Host {
	return demo.Host{
		Out: a.stdout, Progress: a.stderr, Log: newLog(a.stderr, "auto", "error"), Servers: demoServers{a},
		PrintReport: printReport, QRCode: qrCode, Interrupted: errInterrupted,
		Run: func(ctx context.Context, args ...string) int {
			return run(ctx, args, strings.NewReader(""), a.stdout, a.stdout)
		},
	}
}

// demoServers starts servers with the configuration that the flags of keytree serve would
// give them.
type demoServers struct{ app *app }

// StartIndex implements demo.Servers.
func (s demoServers) StartIndex(ctx context.Context, fail context.CancelCauseFunc, node bchd.Config, dataDir string, k *demo.Keyserver) (demo.Addresses, <-chan struct{}, error) {
	c := serverConfig{network: regtest.Params, node: nodeConfig{bchd: &node}, dataDir: dataDir, log: newLog(s.app.stderr, "auto", "warn")}
	c.listen.grpc, c.listen.http = "127.0.0.1:0", "127.0.0.1:0"
	if k != nil {
		c.keyserver = demoKeyserverConfig(k)
	}
	return serveDemo(ctx, fail, c)
}

// StartStateIndex implements demo.Servers.
func (s demoServers) StartStateIndex(ctx context.Context, fail context.CancelCauseFunc, node bchd.Config, of *demo.StateIndex) (demo.Addresses, <-chan struct{}, error) {
	c := serverConfig{network: regtest.Params, node: nodeConfig{bchd: &node}, dataDir: of.Dir, log: zerolog.Nop()} // a lie is an error in its log
	c.listen.grpc, c.listen.http = "127.0.0.1:0", of.Address
	c.stateLog = &stateLogConfig{
		dir: filepath.Join(of.Dir, "state-log"), keyFile: of.LogKey, host: of.Host, policy: of.Policy,
		cosignKey: of.WitnessKey, cosignLogs: of.Policy, evidence: filepath.Join(of.Dir, "state-evidence"),
		now: of.Now, every: 100 * time.Millisecond, witnessInterval: time.Second,
	}
	return serveDemo(ctx, fail, c)
}

// serveDemo runs a server until ctx ends, and returns when it answers.
func serveDemo(ctx context.Context, fail context.CancelCauseFunc, c serverConfig) (demo.Addresses, <-chan struct{}, error) {
	serving, done := make(chan addresses, 1), make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(ctx, c, func(at addresses) { serving <- at }); err != nil {
			fail(fmt.Errorf("the server failed: %w", err))
		}
	}()
	select {
	case at := <-serving:
		found := demo.Addresses{GRPC: at.grpc.String(), HTTP: at.http.String()}
		if at.keyserver != nil {
			found.Keyserver = at.keyserver.String()
		}
		return found, done, nil
	case <-ctx.Done():
		return demo.Addresses{}, done, context.Cause(ctx)
	}
}

// StartKeyserver implements demo.Servers.
func (s demoServers) StartKeyserver(ctx context.Context, k *demo.Keyserver) (*demo.RunningKeyserver, error) {
	server, err := demoKeyserverConfig(k).start(ctx, serverConfig{log: newLog(s.app.stderr, "auto", "error")}, nil)
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(server.run(running, nil), server.close()) }()
	return &demo.RunningKeyserver{
		URL:  "http://" + server.listener.Addr().String() + "/",
		Stop: func() error { stop(); return <-ended },
	}, nil
}

// StartWitness implements demo.Servers.
func (s demoServers) StartWitness(ctx context.Context, w *demo.Witness) (*demo.RunningWitness, error) {
	opened, err := witness.Open(witness.Options{KeyFile: w.KeyFile, StateFile: w.StateFile, Name: w.Name, Policy: w.Logs})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cmp.Or(w.Address, "127.0.0.1:0"))
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	server := rpc.NewWitnessServer(rpc.WitnessConfig{Witness: opened, Log: newLog(s.app.stderr, "auto", "error")})
	go func() { ended <- errors.Join(server.Serve(running, listener), opened.Close()) }()
	return &demo.RunningWitness{
		URL: "http://" + listener.Addr().String(), Key: opened.Key(),
		Stop: func() error { stop(); return <-ended },
	}, nil
}

func demoKeyserverConfig(k *demo.Keyserver) *keyserverConfig {
	c := &keyserverConfig{
		domain: k.Domain, dir: k.Dir, keyFile: k.KeyFile, issuerFile: k.IssuerFile, operator: k.Operator,
		listen: "127.0.0.1:0", allowances: keyserverrpc.NewAllowances(rpc.DefaultCallRate),
		log: tlog.Options{Origin: tlog.Origin(k.Domain), KeyFile: k.Dir + "-log.key", StateFile: k.Dir + "-log.json"}, // a twin has its own
	}
	if l := k.Log; l != nil {
		c.log.KeyFile, c.log.StateFile, c.log.Policy, c.log.WitnessInterval = l.KeyFile, l.StateFile, l.Policy, tlog.DefaultInterval
	}
	if a := k.Anchors; a != nil {
		c.anchor = anchoringConfig{
			keyFile: a.KeyFile, stateFile: a.StateFile, feeRate: protocol.DefaultFeeRate,
			schedule: schedule.Schedule{Interval: minAnchorInterval, MaxEntries: a.MaxEntries, Heartbeat: schedule.DefaultHeartbeat},
		}
	}
	return c
}
