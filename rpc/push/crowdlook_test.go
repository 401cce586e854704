package push_test

import (
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// lookAtProcess tells what this process takes of memory and of processors.
func lookAtProcess() crowdedLook {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return crowdedLook{
		Resident: rpctest.Held("VmRSS"), Peak: rpctest.Held("VmHWM"),
		Heap: int64(samples[0].Value.Uint64()), Stacks: int64(samples[1].Value.Uint64()),
		CPU: processorTime(),
	}
}

// processorTime reads what the system says that this process has taken; 0 where it does not.
func processorTime() (all time.Duration) {
	stat, _ := os.ReadFile("/proc/self/stat")
	_, after, _ := strings.Cut(string(stat), ") ") // behind the name
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	for _, ticks := range fields[11:13] { // utime and stime, of 10 ms
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			return 0
		}
		all += time.Duration(n) * 10 * time.Millisecond
	}
	return all
}
