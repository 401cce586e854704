package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/rpc/admission"
)

// limitFlags tell what a server takes on from whom.
type limitFlags struct {
	proxies, unlimited                   *parsed[[]netip.Prefix]
	connections, requests, streams, long *parsed[admission.Budget]
	in, out                              *parsed[admission.Budget] // MiB
	work                                 *parsed[admission.Budget]
	arrive, take, patience               *parsed[time.Duration]
}

func newLimitFlags(flags *pflag.FlagSet) limitFlags {
	const mostNumber, mostMiB = 1_000_000, 1 << 20
	byDefault := admission.DefaultLimits()
	f := limitFlags{
		proxies:     newParsed("CIDR,…", "none", commaSeparated(parsePrefix)),
		unlimited:   newParsed("CIDR,…", "127.0.0.0/8,::1/128", commaSeparated(parsePrefix)),
		connections: budgetFlag(byDefault.Connections, 1, 1, mostNumber),
		requests:    budgetFlag(byDefault.Requests, 1, 1, mostNumber),
		streams:     budgetFlag(byDefault.Streams, 1, 1, mostNumber),
		long:        budgetFlag(byDefault.Long, 1, 1, mostNumber),
		in:          budgetFlag(byDefault.BytesIn, mebi, 2*admission.MaxRequest/mebi, mostMiB),
		out:         budgetFlag(byDefault.BytesOut, mebi, 2*admission.MaxRequest/mebi, mostMiB),
		work:        budgetFlag(byDefault.Work, 1, 10, mostNumber),
		arrive:      newParsed("DURATION", byDefault.Arrive.String(), parseTime(time.Second, 10*time.Minute)),
		take:        newParsed("DURATION", byDefault.Take.String(), parseTime(time.Second, 10*time.Minute)),
		patience:    newParsed("DURATION", byDefault.Patience.String(), parseTime(time.Second, 10*time.Minute)),
	}
	for _, flag := range []struct {
		name  string
		value pflag.Value
		usage string
	}{
		{"trusted-proxy", f.proxies, "proxies whose word on who asks through them, in X-Forwarded-For or Forwarded, is taken"},
		{"unlimited", f.unlimited, "clients that no limit refuses anything, as your own backend; times hold for them, too. A proxy on this machine that is no --trusted-proxy is none of them"},
		{"limit-connections", f.connections, "connections of all clients and of one; an idle one is closed for a new one"},
		{"limit-requests", f.requests, "requests at once"},
		{"limit-streams", f.streams, "calls at once that go on until the client ends them, as Watch"},
		{"limit-long-answers", f.long, "proof bundles, large batches and long pieces of a hashchain at once"},
		{"limit-bytes-in", f.in, "MiB of requests that are held at once"},
		{"limit-bytes-out", f.out, "MiB of answers that are held at once because they were not taken yet"},
		{"limit-work", f.work, "calls per second; ONE client may make ten seconds' worth at once. 20 addresses of a batch, 50 events of a page of more than 1,000, 10 anchors of a bundle, a KeyInit that is added beside another and 16 kB of JSON are one call more"},
		{"timeout-arrive", f.arrive, "how long a request may take to arrive whole"},
		{"timeout-take", f.take, "how long a client may take to accept each piece of an answer"},
		{"timeout-slow", f.patience, "how long a request, a stream or a long answer has its place while others wait for one"},
	} {
		flags.Var(flag.value, flag.name, flag.usage)
		setting(flags, flag.name)
	}
	return f
}

// budgetFlags are those that give a budget its size.
var budgetFlags = []string{"limit-connections", "limit-requests", "limit-streams", "limit-long-answers", "limit-bytes-in", "limit-bytes-out", "limit-work"}

// limitFlagsIn returns the flags that newLimitFlags has added.
func limitFlagsIn(flags *pflag.FlagSet) limitFlags {
	value := func(name string) pflag.Value { return flags.Lookup(name).Value }
	clients := func(name string) *parsed[[]netip.Prefix] { return value(name).(*parsed[[]netip.Prefix]) }
	budget := func(name string) *parsed[admission.Budget] { return value(name).(*parsed[admission.Budget]) }
	duration := func(name string) *parsed[time.Duration] { return value(name).(*parsed[time.Duration]) }
	return limitFlags{
		proxies: clients("trusted-proxy"), unlimited: clients("unlimited"),
		connections: budget("limit-connections"), requests: budget("limit-requests"), streams: budget("limit-streams"),
		long: budget("limit-long-answers"), in: budget("limit-bytes-in"), out: budget("limit-bytes-out"), work: budget("limit-work"),
		arrive: duration("timeout-arrive"), take: duration("timeout-take"), patience: duration("timeout-slow"),
	}
}

// gate returns what lets clients in.
func (f limitFlags) gate() (*admission.Gate, error) {
	limits, err := f.limits()
	if err != nil {
		return nil, err
	}
	return admission.New(admission.Config{
		Proxies: f.proxies.value, Unlimited: f.unlimited.value, Limits: limits, Held: heldConnections(limits.Connections.All),
	}), nil
}

// heldConnections returns how many connections may be kept open for a while after they were refused, beside those that are taken:
// as many as are worth it, if the system allows as many files.
func heldConnections(taken int) int {
	most, told := mostOpenFiles()
	if !told {
		return admission.MostHeld
	}
	left := most - min(most, uint64(taken)+ownFiles)
	return int(min(left, admission.MostHeld))
}

// limits returns the budgets and times, if they go together and with what the system allows.
func (f limitFlags) limits() (admission.Limits, error) {
	if calls := f.requests.value.All + f.streams.value.All; f.connections.value.All <= calls {
		return admission.Limits{}, usagef("--limit-connections: expected more of all clients than --limit-requests and --limit-streams have together, %d, got %d: "+
			"else they could keep every connection from others", calls, f.connections.value.All)
	}
	need := uint64(f.connections.value.All) + ownFiles
	if most, told := mostOpenFiles(); told && most < need {
		return admission.Limits{}, usagef("--limit-connections: the system lets keytree open %d files and sockets, expected %d, of which %d are not for connections: "+
			"allow it more (ulimit -n, LimitNOFILE), or take fewer connections, with as many fewer of --limit-requests and --limit-streams", most, need, ownFiles)
	}
	return admission.Limits{
		Connections: f.connections.value, Requests: f.requests.value, Streams: f.streams.value, Long: f.long.value,
		BytesIn: f.in.value, BytesOut: f.out.value, Work: f.work.value,
		Arrive: f.arrive.value, Take: f.take.value, Patience: f.patience.value,
	}, nil
}

// ownFiles is how many files a server may have open besides connections: tables of its
// databases above all. Without them it could write nothing more.
const ownFiles = 1024

// mebi is how many bytes a MiB has.
const mebi = 1 << 20

// budgetFlag is a budget in units of so much, with the least and most that it may have of
// them.
func budgetFlag(byDefault admission.Budget, unit int, least, most uint32) *parsed[admission.Budget] {
	return newParsed("ALL/ONE", fmt.Sprintf("%d/%d", byDefault.All/unit, byDefault.One/unit), func(s string) (admission.Budget, error) {
		all, one, _ := strings.Cut(s, "/")
		n, err := parseNumber(all, "ALL/ONE, the first", least, most)
		if err != nil {
			return admission.Budget{}, err
		}
		m, err := parseNumber(one, "ALL/ONE, the second", least, n)
		return admission.Budget{All: int(n) * unit, One: int(m) * unit}, err
	})
}

// parsePrefix reads a network, or a single address.
func parsePrefix(s string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(s); err == nil && address.Zone() == "" {
		return netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("expected an address or a network such as 10.0.0.0/8, got %q", shortened(s))
	}
	return prefix.Masked(), nil
}

// parseTime returns what reads a duration within bounds.
func parseTime(least, most time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most {
			return 0, fmt.Errorf("expected a duration from %v to %v, such as 10s, got %q", least, most, shortened(s))
		}
		return d, nil
	}
}
