package operator_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/operator"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestHeldOperator has the operator of a keyserver that is held make a backup, but no
// new key.
func TestHeldOperator(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Held: true})
	socket := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- rpc.NewOperatorServer(operator.NewHandler(operator.Config{Service: r.Service, Log: zerolog.Nop()}), zerolog.Nop()).Serve(ctx, listener)
	}()
	operator := operator.NewClient(socket)
	if _, err := operator.RotateKey(t.Context()); err == nil || !strings.Contains(err.Error(), "held back") {
		t.Errorf("rotating the key: %v", err)
	}
	if err := operator.Backup(t.Context(), io.Discard); err != nil {
		t.Errorf("backup: %v", err)
	}
	if domain, err := operator.Domain(t.Context()); err != nil || domain != rpctest.Domain {
		t.Errorf("domain %q, %v", domain, err)
	}
	if size := r.Service.Chain().Size; size != 1 {
		t.Errorf("the hashchain has %d entries, want 1", size)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
