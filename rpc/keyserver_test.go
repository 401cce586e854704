package rpc_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestConnections opens more connections than one client may have. An idle one makes room.
func TestConnections(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.Connections = admission.Budget{All: 100, One: 3}
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Gate: admission.New(admission.Config{Limits: limits})})
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for range 20 {
		conn, err := net.Dial("tcp", r.Address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	if _, err := open[0].Read(make([]byte, 1)); err == nil {
		t.Error("the first of 20 idle connections is open")
	}
	last := open[len(open)-1]
	if _, err := io.WriteString(last, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if line, err := bufio.NewReader(last).ReadString('\n'); err != nil || !strings.Contains(line, "405") {
		t.Errorf("the last connection: %q, %v", line, err)
	}
}

// TestKeyserverShutdown stops a server with connections of all sorts open.
func TestKeyserverShutdown(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("with connections open", func(t *testing.T) {
		r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
		r.LastEntry(t) // leaves an idle connection
		half, err := net.Dial("tcp", r.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer half.Close()
		if _, err := io.WriteString(half, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		r.Stop()
		if _, err := net.Dial("tcp", r.Address); err == nil {
			t.Error("it still listens")
		}
	})
}
