package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// demoBlocks is the length of the private chain before the first action: enough
// for the coinbases that pay for all.
const demoBlocks = 110

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
node; demo anchor shows how a keyserver that tells two stories is found out.`,
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
		return a.demo(cmd.Context(), *binary, *keep)
	}
	cmd.AddCommand(a.demoKeyserverCommand(), a.demoAnchorCommand())
	return cmd
}

// demo sets up everything, plays the story, and clears everything away, in
// whichever way it ends.
func (a *app) demo(ctx context.Context, binary string, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "keytree-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	chain, config, err := a.demoChain(ctx, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Stop()) }()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	at, ended, err := a.demoServer(ctx, fail, serverConfig{
		network: regtest.Params, node: nodeConfig{bchd: &config}, dataDir: filepath.Join(dir, "data"),
	})
	defer func() { fail(nil); <-ended }()
	if err != nil {
		return err
	}
	s, err := newStory(ctx, chain, config, at.grpc.String(), a.stdout)
	if err != nil {
		return orCause(ctx, err)
	}
	defer s.Close()
	if err := s.play(ctx); err != nil {
		return orCause(ctx, err)
	}
	if !keep {
		return nil
	}
	if err := a.printKept(s, filepath.Join(dir, "keys"), at.http.String()); err != nil {
		return err
	}
	return s.mineOn(ctx)
}

// demoChain starts a private bchd in dir. The caller stops it.
func (a *app) demoChain(ctx context.Context, binary, dir string) (*regtest.Node, bchd.Config, error) {
	chain, err := regtest.Start(ctx, regtest.Options{
		Binary: binary, Dir: dir, Blocks: demoBlocks, Progress: func(line string) { fmt.Fprintln(a.stderr, line) },
	})
	if err != nil {
		return nil, bchd.Config{}, err
	}
	config, err := bchd.ParseURL(chain.URL())
	if err != nil {
		return nil, bchd.Config{}, errors.Join(err, chain.Stop())
	}
	return chain, config, nil
}

// demoServer runs a server on the local machine until ctx ends, and returns when it
// answers. ended is closed when the server has ended; if it fails, fail is told.
func (a *app) demoServer(ctx context.Context, fail context.CancelCauseFunc, c serverConfig) (at addresses, ended <-chan struct{}, err error) {
	c.listen.grpc, c.listen.http, c.log = "127.0.0.1:0", "127.0.0.1:0", newLog(a.stderr, "auto", "warn")
	serving, done := make(chan addresses, 1), make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(ctx, c, func(at addresses) { serving <- at }); err != nil {
			fail(fmt.Errorf("the server failed: %w", err))
		}
	}()
	select {
	case at = <-serving:
		return at, done, nil
	case <-ctx.Done():
		return at, done, context.Cause(ctx)
	}
}

// orCause returns why ctx ended, if it did, since err then only follows from it.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// printKept says where everything is, with the keys as files in dir.
func (a *app) printKept(s *story, dir, http string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range s.names {
		if err := os.WriteFile(filepath.Join(dir, name+".wif"), []byte(s.keys[name].WIF()+"\n"), 0o600); err != nil {
			return err
		}
	}
	first, last := s.keys[s.names[0]].Address(), s.keys[slices.Max(s.names)].Address()
	fmt.Fprintf(a.stdout, `Everything is left running until Ctrl-C. Each transaction gets a block within a second.

gRPC   %[1]s
REST   http://%[2]s
bchd   %[3]s
keys   %[4]s

  curl http://%[2]s/v1/status
  curl http://%[2]s/v1/addresses/%[5]s
  keytree tree %[5]s --server %[1]s
  keytree watch --server %[1]s
  keytree link request --parent %[5]s --key-file %[4]s/%[7]s.wif \
    --network regtest --server %[1]s --node '%[3]s'   # asks for %[6]s

`, s.server.address, http, s.chain.URL(), dir, first, last, slices.Max(s.names))
	return nil
}

// mineOn confirms what comes into the mempool, until ctx ends, which is no error
// if it was a signal that ended it.
func (s *story) mineOn(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) && !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		case <-tick.C:
		}
		txs, err := s.chain.Mempool(ctx)
		if err == nil && len(txs) > 0 {
			_, err = s.chain.Mine(ctx, 1)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}
