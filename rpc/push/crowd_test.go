package push_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestCrowd has many clients follow a hundred addresses each, over connections of their own, and tells all of
// them of one change at the top. With KEYTREE_EXHAUSTIVE they are 10,000, and what it takes is printed; the
// server and its clients are one process.
func TestCrowd(t *testing.T) {
	clients := 200
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		clients = 10_000
	}
	const each = 100
	limits := admission.DefaultLimits()
	limits.Streams = admission.Budget{All: 2 * clients, One: clients} // the last quarter is for clients with few
	limits.Connections = admission.Budget{All: 4*clients + 1024, One: 4*clients + 1024}
	limits.BytesIn = admission.Budget{All: 256 << 20, One: 256 << 20}
	limits.Work = admission.Budget{All: 1_000_000, One: 1_000_000}

	// Each client follows a hundred keys below the top, of which the first is linked, and nobody else has them.
	c := &rpctest.Chain{}
	var linked []links.Action
	for i := range clients {
		linked = append(linked, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("k", i, ".0"), "middle", ""), rpctest.MLA(fmt.Sprint("a", i), "middle", fmt.Sprint("r", i)))
	}
	gate := admission.New(admission.Config{Limits: limits})
	r := rpctest.NewOf(t, rpc.Config{Admission: gate}, c.Block(linked...), c.Block(rpctest.MLR("r", "middle", "top", "")))

	before := rpctest.InUse()
	address := strings.TrimPrefix(r.URL, "http://")
	var asking, told sync.WaitGroup
	var failed atomic.Int32
	begin := make(chan struct{}, 64) // so many ask at once
	for i := range clients {
		begin <- struct{}{}
		asking.Add(1)
		told.Add(1)
		go func() {
			defer told.Done()
			asked := sync.OnceFunc(func() { <-begin; asking.Done() })
			defer asked()
			if err := crowdMember(address, i, each, asked); err != nil {
				failed.Add(1)
				t.Error(err)
			}
		}()
	}
	asking.Wait()
	if failed.Load() > 0 {
		t.FailNow()
	}
	if n := gate.Usage().Streams; n != clients {
		t.Errorf("%d streams are open, want %d", n, clients)
	}
	var stats runtime.MemStats
	inUse := rpctest.InUse() - before
	runtime.ReadMemStats(&stats)
	most, stop := new(peaked), make(chan struct{})
	go most.follow(stop)
	start := time.Now()
	r.Connect(t, c.Block(rpctest.MLA("a", "top", "r")))
	told.Wait()
	close(stop)
	t.Logf("%d clients with %d addresses each: %d MB in use more than without, %d kB a client, stacks %d MB, all of the process at its peak %d MB; all were told of a change at the top %v after it began",
		clients, each, inUse>>20, inUse>>10/int64(clients), stats.StackInuse>>20, most.most.Load()>>20, time.Since(start).Round(time.Millisecond))
}

// peaked looks for the most memory that the process has taken of the system.
type peaked struct{ most atomic.Uint64 }

func (p *peaked) follow(stop chan struct{}) {
	for {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		p.most.Store(max(p.most.Load(), stats.Sys-stats.HeapReleased))
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// crowdMember follows keys until it is told that one of them has changed. It calls asked when the stream has begun.
func crowdMember(address string, i, each int, asked func()) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	var list strings.Builder
	for n := range each {
		if n > 0 {
			list.WriteByte(',')
		}
		fmt.Fprintf(&list, "%q", rpctest.Address(fmt.Sprint("k", i, ".", n)))
	}
	body := `{"addresses":[` + list.String() + `]}`
	fmt.Fprintf(conn, "POST /v1/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	lines := bufio.NewReaderSize(conn, 512)
	want := rpctest.Address(fmt.Sprint("k", i, ".0"))
	for {
		line, err := lines.ReadString('\n')
		switch {
		case err != nil:
			return fmt.Errorf("client %d: %w", i, err)
		case strings.HasPrefix(line, "id: "):
			asked()
		case strings.HasPrefix(line, "event: fault"):
			line, _ = lines.ReadString('\n')
			return fmt.Errorf("client %d: %s", i, line)
		case strings.HasPrefix(line, "data: ") && strings.Contains(line, want):
			return nil
		}
	}
}
