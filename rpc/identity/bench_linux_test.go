package identity_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// BenchmarkREST asks in turns for next to nothing, which the server finds as early, and for a
// resolution. It tells the processor time of both, of client and server together, and how
// much of that of a resolution is that of any call: 1 if an answer costs nothing.
func BenchmarkREST(b *testing.B) {
	_, blocks := rpctest.Family()
	url := rpctest.New(b, blocks...).URL
	client := plainClient(b)
	const turn = 100 // calls at a time
	var empty, resolve time.Duration
	spend := func(spent *time.Duration, path string) {
		before := processorTime(b)
		for range turn {
			drain(b)(client.Get(url + path))
		}
		*spent += processorTime(b) - before
	}
	for b.Loop() {
		spend(&empty, "/healthz")
		spend(&resolve, "/v1/addresses/"+rpctest.Address("grandchild"))
	}
	calls := float64(b.N * turn)
	b.ReportMetric(float64(empty.Nanoseconds())/calls, "cpu-ns/empty")
	b.ReportMetric(float64(resolve.Nanoseconds())/calls, "cpu-ns/resolve")
	b.ReportMetric(float64(empty)/float64(resolve), "empty/resolve")
}

// processorTime is what the process has taken so far.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
