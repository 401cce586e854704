package electrum

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
)

// TestParseURL has one case for each form.
func TestParseURL(t *testing.T) {
	for url, want := range map[string]Config{
		"electrum://127.0.0.1:50001":             {Address: "127.0.0.1:50001"},
		"electrums://bch.example:50002":          {Address: "bch.example:50002", TLS: true},
		"electrums://bch.example:50002?cert=a.p": {Address: "bch.example:50002", TLS: true, CertFile: "a.p"},
		"electrum://bch.example:50001?cert=a.p":  {},
		"electrum://bch.example":                 {},
		"electrum://me:secret@bch.example:50001": {},
		"http://bch.example:50001":               {},
	} {
		got, err := ParseURL(url)
		if (err == nil) != (want.Address != "") || got.Address != want.Address || got.TLS != want.TLS || got.CertFile != want.CertFile {
			t.Errorf("%s: got %+v, %v", url, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), URLForm)) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestParseVersion looks at the bounds.
func TestParseVersion(t *testing.T) {
	for text, want := range map[string]struct {
		v  version
		ok bool
	}{
		"1.4.5": {v14, true}, "1.4.10": {v14, true}, "1.5": {v15, true}, "1.5.0": {v15, true}, "1.5.3": {v15, true},
		"1.4": {}, "1.4.4": {}, "1.6": {}, "2.0": {}, "": {}, "1.5x": {},
	} {
		if v, ok := parseVersion(text); v != want.v || ok != want.ok {
			t.Errorf("%q: got %v, %v", text, v, ok)
		}
	}
}

// TestAnswers has a server that says anything, which must never be taken for an answer, or
// take for ever.
func TestAnswers(t *testing.T) {
	const (
		versions = `{"id":1,"result":["x","1.5"]}` + "\n"
		features = `{"id":2,"result":{"genesis_hash":"` // and what follows
	)
	hello := versions + features + chaincfg.RegressionNetParams.GenesisHash.String() + `"}}` + "\n"
	for name, test := range map[string]struct {
		says string
		want error
	}{
		"it hangs up":          {"", node.ErrUnavailable},
		"a web server":         {"HTTP/1.1 400 Bad Request\r\n\r\n", node.ErrUnavailable},
		"another network":      {versions + features + `00"}}` + "\n", node.ErrUnsuitable},
		"no such version":      {`{"id":1,"error":{"code":1,"message":"unsupported"}}` + "\n", node.ErrUnsuitable},
		"no such method":       {hello + `{"id":3,"error":{"code":-32601,"message":"unknown"}}` + "\n", node.ErrUnsuitable},
		"it is busy":           {hello + `{"id":3,"error":{"code":-101,"message":"excessive"}}` + "\n", node.ErrUnavailable},
		"an error without id":  {hello + `{"id":null,"error":{"code":-32600,"message":"bad"}}` + "\n", node.ErrUnavailable},
		"another form":         {hello + `{"id":3,"result":{"height":"7"}}` + "\n", node.ErrInvalid},
		"answers to others":    {hello + strings.Repeat(`{"id":9,"result":7}`+"\n", 2*maxUnasked), node.ErrUnavailable},
		"a line without end":   {hello + strings.Repeat("x", maxAnswer+1<<20), node.ErrUnavailable},
		"a notification first": {hello + `{"method":"m","params":[]}` + "\n" + `{"id":3,"result":{"height":7}}` + "\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Client{cfg: Config{Address: serve(t, test.says, min(3, 1+strings.Count(test.says, "result"))), Network: &chaincfg.RegressionNetParams, RetryFor: time.Nanosecond, Log: zerolog.Nop()}, turn: make(chan struct{}, 1)}
			c.closing, c.close = context.WithCancel(context.Background())
			defer c.Close()
			height, err := c.Height(t.Context())
			if !errors.Is(err, test.want) || err == nil && height != 7 {
				t.Errorf("got %d, %v, want %v", height, err, test.want)
			}
		})
	}
}

// TestClose ends a question whose answer does not come.
func TestClose(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c := &Client{cfg: Config{Address: listener.Addr().String(), Network: &chaincfg.RegressionNetParams, RetryFor: time.Hour, Log: zerolog.Nop()}, turn: make(chan struct{}, 1)}
	c.closing, c.close = context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := c.Height(context.Background())
		ended <- err
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, node.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, node.ErrUnavailable)
	}
}

// serve says something to whoever comes, hears some questions, and hangs up.
func serve(t *testing.T, says string, hears int) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				asked := 0
				_, _ = conn.Write([]byte(says)) // or it has left
				// Closed with something unread, a connection would lose what it was sent.
				for questions := bufio.NewScanner(conn); questions.Scan(); {
					if asked++; asked == hears {
						break
					}
				}
			})
		}
	})
	return listener.Addr().String()
}
