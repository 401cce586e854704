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
)

// slowRig is a server with methods of the test, which waits for nobody.
func slowRig(t *testing.T, methods map[string]method) (address string, j *jsonRPC) {
	t.Helper()
	s := NewKeyserverServer(KeyserverConfig{Log: zerolog.Nop()})
	s.http.ReadHeaderTimeout, s.http.ReadTimeout, s.http.WriteTimeout = 50*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	j = newJSONRPC(methods, func(*http.Request) bool { return true }, zerolog.Nop())
	j.pace = 300 * time.Millisecond
	s.http.Handler = s.guarded(j)
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
	return listener.Addr().String(), j
}

const header = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

// TestSlowSenders checks that who begins a request and does not go on is cut off.
func TestSlowSenders(t *testing.T) {
	address, _ := slowRig(t, testMethods())
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
	address, _ := slowRig(t, map[string]method{"large": func(context.Context, *params) (any, error) {
		return stream(func(w io.Writer) (err error) {
			defer func() { broken <- err }()
			piece := strings.Repeat(" ", sendBuffer)
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

	steady := bufio.NewReader(ask())
	response, err := http.ReadResponse(steady, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	began, taken := time.Now(), 0
	for time.Since(began) < time.Second { // longer than any limit
		n, err := io.CopyN(io.Discard, response.Body, 32<<10)
		if taken += int(n); err != nil {
			t.Fatalf("cut off after %d bytes: %v", taken, err)
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(err)
	}
	if err := <-broken; err != nil {
		t.Error(err)
	}
}

// TestLargeBodies fills the places for large bodies: small ones get through.
func TestLargeBodies(t *testing.T) {
	address, j := slowRig(t, testMethods())
	for range maxLarge {
		j.large <- struct{}{}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	post := func(padding int) int {
		response, err := client.Post("http://"+address, "application/json", strings.NewReader(`{"jsonrpc":"2.0","method":"stream","id":1}`+strings.Repeat(" ", padding)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	if got := post(smallBody); got != http.StatusServiceUnavailable {
		t.Errorf("a large body: status %d", got)
	}
	if got := post(1000); got != http.StatusOK {
		t.Errorf("a small body: status %d", got)
	}
	for range maxLarge {
		<-j.large
	}
	if got := post(smallBody); got != http.StatusOK {
		t.Errorf("a large body when there is room: status %d", got)
	}
	if len(j.large) != 0 {
		t.Errorf("%d places were not given back", len(j.large))
	}
}
