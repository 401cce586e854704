// Package metrics is what an operator's Prometheus is told of a server. metrics.yaml has every
// metric, and what a dashboard makes of it.
//
// Nothing that a client sends becomes a label. What can be asked for when it is looked at is
// asked for then; the rest is counted as it happens, which takes less than a microsecond of a call.
// What never belongs here: a listener, and whatever the answer to a client depends on.
package metrics

import (
	_ "embed" // metrics.yaml
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.yaml.in/yaml/v2"
)

//go:generate go run -C ../../scripts/tools ./metricsgen -spec ../../rpc/metrics/metrics.yaml -table ../../rpc/metrics/METRICS.md -dashboard ../../scripts/grafana/keytree.json

//go:embed metrics.yaml
var specification []byte

// spec is what metrics.yaml says of a metric.
type spec struct {
	Name   string
	Type   string // gauge, counter or histogram
	Help   string
	Labels map[string]string // what they are
	Part   string            // of a server that has it; "" for any
}

// readSpecs returns the metrics of metrics.yaml by their names.
func readSpecs(text []byte) (map[string]spec, error) {
	var file struct{ Metrics []spec }
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("metrics.yaml: %w", err)
	}
	specs := make(map[string]spec)
	for _, s := range file.Metrics {
		specs[s.Name] = s
	}
	return specs, nil
}

// Metrics are those of one server. They may be used concurrently. It implements
// indexer.Observer.
type Metrics struct {
	specs    map[string]spec
	registry *prometheus.Registry

	calls *prometheus.HistogramVec

	apply      prometheus.Histogram
	blocks     prometheus.Counter
	reorgs     prometheus.Counter
	depth      prometheus.Histogram
	nodeErrors *prometheus.CounterVec
}

// New returns the metrics of a server of a version, of which nothing is known yet.
func New(version string) (*Metrics, error) {
	specs, err := readSpecs(specification)
	if err != nil {
		return nil, err
	}
	m := &Metrics{specs: specs, registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.gauge("keytree_build_info", prometheus.Labels{"version": version, "goversion": runtime.Version()}, func() float64 { return 1 })
	s := m.spec("keytree_rpc_seconds", "histogram")
	m.calls = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: s.Name, Help: s.Help, Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9), // to 6.5 s
	}, []string{"method", "code"})
	m.registry.MustRegister(m.calls)
	return m, nil
}

// spec returns what metrics.yaml says of a metric. Who changes either has to change both.
func (m *Metrics) spec(name, kind string) spec {
	s, ok := m.specs[name]
	if !ok || s.Type != kind {
		panic(fmt.Sprintf("metrics.yaml: expected the %s %s", kind, name))
	}
	return s
}

func (m *Metrics) gauge(name string, labels prometheus.Labels, value func() float64) {
	s := m.spec(name, "gauge")
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: s.Help, ConstLabels: labels}, value))
}

func (m *Metrics) counter(name string, labels prometheus.Labels, value func() float64) {
	s := m.spec(name, "counter")
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: s.Help, ConstLabels: labels}, value))
}

// Answered counts a call: its method, how it ended, and how long it took. Both words are
// out of sets that no client adds to.
func (m *Metrics) Answered(method, code string, took time.Duration) {
	m.calls.WithLabelValues(method, code).Observe(took.Seconds())
}

// Handler answers at /metrics, and has Go's profiles at /debug/pprof/. The command line, which
// may have a password, is not among them.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /debug/pprof/cmdline", http.NotFoundHandler())
	return mux
}
