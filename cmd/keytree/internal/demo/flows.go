package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// PlayFlows plays the flows of MIP-0003 with everything in dir, and clears everything away,
// in whichever way it ends. binary is that of a bchd; "" has one built. keep leaves
// everything running at the end, until ctx ends.
func PlayFlows(ctx context.Context, h Host, binary, dir string, keep bool) error {
	return playFlows(ctx, h, binary, dir, h.Out, func(ctx context.Context, s *FlowsPlay, at Addresses) error {
		if !keep {
			return nil
		}
		if err := s.printKept(h.Out, filepath.Join(dir, "keys"), at.HTTP); err != nil {
			return err
		}
		return mineOn(ctx, s.chain, h.Interrupted)
	})
}

// PlayWeb plays the same without a word, says where it can be looked at in a browser, and
// leaves everything running until ctx ends.
func PlayWeb(ctx context.Context, h Host, binary, dir string) error {
	fmt.Fprintln(h.Progress, "playing the flows of MIP-0003 on a private network")
	return playFlows(ctx, h, binary, dir, io.Discard, func(ctx context.Context, s *FlowsPlay, at Addresses) error {
		if err := s.writeKeys(filepath.Join(dir, "keys")); err != nil {
			return err
		}
		last := slices.Max(s.names)
		fmt.Fprintf(h.Out, `Open this in a browser, until Ctrl-C. Each transaction gets a block within a second.

  http://%[1]s/

A page changes by itself when this, in another terminal, has been asked and accepted:

  keytree link request --parent %[2]s --key-file %[3]s/%[4]s.wif \
    --network regtest --server %[5]s --node '%[6]s'

`, at.HTTP, s.keys[s.names[0]].Address(), filepath.Join(dir, "keys"), last, s.at, s.chain.URL())
		return mineOn(ctx, s.chain, h.Interrupted)
	})
}

// playFlows plays the flows, tells out about them, and then does what is left to do.
func playFlows(ctx context.Context, h Host, binary, dir string, out io.Writer, then func(context.Context, *FlowsPlay, Addresses) error) (err error) {
	chain, config, err := startChain(ctx, h, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Stop()) }()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	at, ended, err := h.Servers.StartIndex(ctx, fail, config, filepath.Join(dir, "data"), nil)
	defer func() { fail(nil); <-ended }()
	if err != nil {
		return err
	}
	s, err := NewFlowsPlay(ctx, chain, config, at.GRPC, out)
	if err != nil {
		return orCause(ctx, err)
	}
	defer s.Close()
	if err := s.Play(ctx); err != nil {
		return orCause(ctx, err)
	}
	return then(ctx, s, at)
}

// writeKeys writes the keys of all who play to files in dir.
func (s *FlowsPlay) writeKeys(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range s.names {
		if err := os.WriteFile(filepath.Join(dir, name+".wif"), []byte(s.keys[name].WIF()+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// printKept says where everything is, with the keys as files in dir.
func (s *FlowsPlay) printKept(out io.Writer, dir, http string) error {
	if err := s.writeKeys(dir); err != nil {
		return err
	}
	first, last := s.keys[s.names[0]].Address(), s.keys[slices.Max(s.names)].Address()
	fmt.Fprintf(out, `Everything is left running until Ctrl-C. Each transaction gets a block within a second.

gRPC   %[1]s
REST   http://%[2]s, which is a page in a browser
bchd   %[3]s
keys   %[4]s

  curl http://%[2]s/v1/status
  curl http://%[2]s/v1/addresses/%[5]s
  keytree tree %[5]s --server %[1]s
  keytree watch --server %[1]s
  keytree link request --parent %[5]s --key-file %[4]s/%[7]s.wif \
    --network regtest --server %[1]s --node '%[3]s'   # asks for %[6]s

`, s.at, http, s.chain.URL(), dir, first, last, slices.Max(s.names))
	return nil
}
