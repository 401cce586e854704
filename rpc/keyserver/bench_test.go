package keyserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// The cost of a call over the keyserver's wire beside that of asking at all
// (BenchmarkWireEmpty) and of the call without the wire.

func BenchmarkWireEmpty(b *testing.B) { benchmarkWire(b, "nothing", "-32601") }

func BenchmarkWireFetchLastHashChain(b *testing.B) {
	benchmarkWire(b, "KeyHashchain.FetchLastHashChain", "HCPos")
}

func benchmarkWire(b *testing.B, method, want string) {
	r := rpctest.NewKeyserver(b, rpctest.KeyserverOptions{})
	body := fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":{},"id":1}`, method)
	b.ReportAllocs()
	for b.Loop() {
		if _, answer := r.Post(b, body); !strings.Contains(string(answer), want) {
			b.Fatalf("%s", answer)
		}
	}
}

// creator makes messages of identities that nobody has.
type creator struct {
	rig  *rpctest.KeyserverRig
	last string
	n    atomic.Uint64
}

func (c *creator) message() *uid.Message {
	name := []byte(fmt.Sprintf("%010o", c.n.Add(1)))
	for i := range name { // no digits, of which some are mapped
		name[i] += 'a' - '0'
	}
	return rpctest.NewMessage(string(name)+"@"+rpctest.Domain, c.last, rpctest.NewKey(1), time.Now())
}

const clients = 64

// BenchmarkCreateUID registers from 64 clients at once.
func BenchmarkCreateUID(b *testing.B) {
	for name, create := range map[string]func(*rpctest.KeyserverRig, *uid.Message) error{
		"service": func(r *rpctest.KeyserverRig, m *uid.Message) error {
			_, err := r.Service.CreateUID(context.Background(), m, "")
			return err
		},
		"wire": func(r *rpctest.KeyserverRig, m *uid.Message) error {
			if problem := r.Try(b, "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": m, "Token": ""}, nil); problem != nil {
				return fmt.Errorf("%+v", problem)
			}
			return nil
		},
	} {
		b.Run(name, func(b *testing.B) {
			r := rpctest.NewKeyserver(b, rpctest.KeyserverOptions{Dir: b.TempDir()}) // on a disk, unlike the tests
			r.HTTP.Transport.(*http.Transport).MaxIdleConnsPerHost = clients
			c := &creator{rig: r}
			c.last, _ = r.LastEntry(b)
			messages := make(chan *uid.Message, b.N)
			for range b.N {
				messages <- c.message()
			}
			close(messages)
			b.ResetTimer()
			var wait sync.WaitGroup
			for range clients {
				wait.Go(func() {
					for m := range messages {
						if err := create(r, m); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wait.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkFetchHashChain fetches a chain of 5,000 entries at once, beside as many
// bytes that a web server has at hand.
func BenchmarkFetchHashChain(b *testing.B) {
	const entries = 5000
	r := rpctest.NewKeyserver(b, rpctest.KeyserverOptions{})
	c := &creator{rig: r}
	c.last, _ = r.LastEntry(b)
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() {
			for range entries / clients {
				if _, err := r.Service.CreateUID(context.Background(), c.message(), ""); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","method":"KeyHashchain.FetchHashChain","params":{"StartPosition":0,"EndPosition":%d},"id":1}`, entries)
	_, answer := r.Post(b, body)
	fetch := func(b *testing.B, url string) {
		b.SetBytes(int64(len(answer)))
		b.ReportAllocs()
		for b.Loop() {
			response, err := r.HTTP.Post(url, "application/json", strings.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if err != nil || n != int64(len(answer)) {
				b.Fatalf("%d bytes, %v", n, err)
			}
		}
	}
	b.Run("wire", func(b *testing.B) { fetch(b, r.URL) })
	b.Run("bytes", func(b *testing.B) {
		listener := rpctest.Listen(b)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(answer) })}
		go server.Serve(listener)
		defer server.Close()
		fetch(b, "http://"+listener.Addr().String())
	})
}
