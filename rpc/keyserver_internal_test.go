package rpc

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
)

// takeTime is how long clients have to take a piece of an answer from a slowRig.
const takeTime = 300 * time.Millisecond

// slowRig is a server with methods of the test, which waits for nobody.
func slowRig(t *testing.T, methods map[string]jsonrpc.Method) (address string, gate *admission.Gate) {
	t.Helper()
	limits := admission.DefaultLimits()
	limits.Arrive, limits.Take = 100*time.Millisecond, takeTime
	return rigWith(t, limits, methods)
}

// rigWith is a server with limits and methods of the test.
func rigWith(t *testing.T, limits admission.Limits, methods map[string]jsonrpc.Method) (address string, gate *admission.Gate) {
	t.Helper()
	gate = admission.New(admission.Config{Limits: limits})
	fault := func(err error) *jsonrpc.Error { return jsonrpc.Errorf(jsonrpc.CodeInternal, "%v", err) }
	s := NewKeyserverServer(KeyserverConfig{Admission: gate, Log: zerolog.Nop()})
	s.http.Handler = s.guarded(s.admitted(jsonrpc.NewHandler(methods, admission.Unlimited(), fault, zerolog.Nop())))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), gate
}

const header = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

// TestSlowSenders checks that who begins a request and does not go on is cut off.
func TestSlowSenders(t *testing.T) {
	address, _ := slowRig(t, nil)
	for name, sent := range map[string]string{
		"nothing":       "",
		"half a header": "POST / HTTP/1.1\r\nHost: x\r\nContent-Ty",
		"half a body":   header + "Content-Length: 100\r\n\r\n{",
		"half a chunk":  header + "Transfer-Encoding: chunked\r\n\r\n20\r\n{",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(conn) // until the server closes it
		if strings.Contains(string(answer), "200 OK") {
			t.Errorf("%s: %s", name, answer)
		}
		conn.Close()
	}
}

// TestSlowReader checks that who does not take an answer is cut off, and that who
// takes it slowly, but steadily, is not.
func TestSlowReader(t *testing.T) {
	broken := make(chan error, 2)
	address, _ := slowRig(t, map[string]jsonrpc.Method{"large": func(context.Context, *jsonrpc.Params) (any, error) {
		return jsonrpc.Stream(func(w io.Writer) (err error) {
			defer func() { broken <- err }()
			piece := strings.Repeat(" ", admission.Piece)
			for range 1000 { // more than any buffer between the two takes
				if _, err := io.WriteString(w, piece); err != nil {
					return err
				}
			}
			_, err = io.WriteString(w, "{}")
			return err
		}), nil
	}})
	ask := func() net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		const call = `{"jsonrpc":"2.0","method":"large","id":1}`
		if _, err := io.WriteString(conn, header+"Content-Length: 41\r\n\r\n"+call); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	ask()
	if err := <-broken; err == nil {
		t.Error("nobody took the answer, and it was sent")
	}

	// A steady reader gets it all, however long that takes. A machine that let it wait for long says nothing.
	for {
		taken, longest, err := takeSteadily(ask())
		sent := <-broken
		switch {
		case err == nil && sent == nil:
			return
		case longest > takeTime/3:
			t.Logf("once more: the reader had to wait for %v", longest)
		default:
			t.Fatalf("cut off after %d bytes: %v, %v", taken, err, sent)
		}
	}
}

// takeSteadily reads an answer for longer than any limit, and then the rest of it. longest is how long it did not read.
func takeSteadily(from net.Conn) (taken int64, longest time.Duration, err error) {
	response, err := http.ReadResponse(bufio.NewReader(from), nil)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	began := time.Now()
	for last := began; err == nil; last = time.Now() {
		if last.Sub(began) < time.Second {
			time.Sleep(time.Millisecond)
		}
		longest = max(longest, time.Since(last))
		var n int64
		n, err = io.CopyN(io.Discard, response.Body, 32<<10)
		taken += n
	}
	if err == io.EOF {
		err = nil
	}
	return taken, longest, err
}

// TestLargeBodies fills the budget for what arrives: small bodies get through.
func TestLargeBodies(t *testing.T) {
	const large = 128 << 10
	limits := admission.DefaultLimits()
	limits.BytesIn = admission.Budget{All: 3 * large / 2, One: 1 << 30}
	address, gate := rigWith(t, limits, map[string]jsonrpc.Method{"stream": func(context.Context, *jsonrpc.Params) (any, error) {
		return jsonrpc.Stream(func(w io.Writer) error { _, err := io.WriteString(w, "{}"); return err }), nil
	}})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	post := func(padding int) (status int, after string) {
		response, err := client.Post("http://"+address, "application/json", strings.NewReader(`{"jsonrpc":"2.0","method":"stream","id":1}`+strings.Repeat(" ", padding)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode, response.Header.Get("Retry-After")
	}
	stalled, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if _, err := io.WriteString(stalled, header+"Content-Length: 1000000\r\n\r\n"+strings.Repeat(" ", large)); err != nil {
		t.Fatal(err)
	}
	for gate.Usage().BytesIn < large/2 {
		time.Sleep(time.Millisecond)
	}
	if got, after := post(large); got != http.StatusServiceUnavailable || after == "" {
		t.Errorf("a large body: status %d, Retry-After %q", got, after)
	}
	if got, _ := post(1000); got != http.StatusOK {
		t.Errorf("a small body: status %d", got)
	}
	stalled.Close()
	for gate.Usage().BytesIn > 0 {
		time.Sleep(time.Millisecond)
	}
	if got, _ := post(large); got != http.StatusOK {
		t.Errorf("a large body when there is room: status %d", got)
	}
}
