package push_test

import (
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// lookAtProcess tells what this process takes of memory and of processors.
func lookAtProcess() crowdedLook {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"},
	}
	metrics.Read(samples)
	seconds := samples[2].Value.Float64() - samples[3].Value.Float64()
	return crowdedLook{
		Resident: fromStatus("VmRSS:"), Peak: fromStatus("VmHWM:"),
		Heap: int64(samples[0].Value.Uint64()), Stacks: int64(samples[1].Value.Uint64()),
		CPU: time.Duration(seconds * float64(time.Second)),
	}
}

// fromStatus reads what the system tells of this process's memory, in bytes; 0 where it does not.
func fromStatus(name string) int64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), name)
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kB, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kB << 10
}
