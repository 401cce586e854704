package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// PlayFlows plays the flows of MIP-0003 with everything in dir, and clears everything away,
// in whichever way it ends. binary is that of a bchd; "" has one built. keep leaves
// everything running at the end, until ctx ends.
func PlayFlows(ctx context.Context, h Host, binary, dir string, keep bool) (err error) {
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
	s, err := NewFlowsPlay(ctx, chain, config, at.GRPC, h.Out)
	if err != nil {
		return orCause(ctx, err)
	}
	defer s.Close()
	if err := s.Play(ctx); err != nil {
		return orCause(ctx, err)
	}
	if !keep {
		return nil
	}
	if err := s.printKept(h.Out, filepath.Join(dir, "keys"), at.HTTP); err != nil {
		return err
	}
	return s.mineOn(ctx, h.Interrupted)
}

// printKept says where everything is, with the keys as files in dir.
func (s *FlowsPlay) printKept(out io.Writer, dir, http string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range s.names {
		if err := os.WriteFile(filepath.Join(dir, name+".wif"), []byte(s.keys[name].WIF()+"\n"), 0o600); err != nil {
			return err
		}
	}
	first, last := s.keys[s.names[0]].Address(), s.keys[slices.Max(s.names)].Address()
	fmt.Fprintf(out, `Everything is left running until Ctrl-C. Each transaction gets a block within a second.

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

`, s.at, http, s.chain.URL(), dir, first, last, slices.Max(s.names))
	return nil
}

// mineOn confirms what comes into the mempool, until ctx ends, which is no error
// if it was the user who ended it.
func (s *FlowsPlay) mineOn(ctx context.Context, interrupted error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, interrupted) && !errors.Is(cause, context.Canceled) {
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
