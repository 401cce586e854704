package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/statelog"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/rpc/admission"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
)

// WatchIndex adds the metrics of an index: of its graph, whose folder is dir, and of its indexer,
// whose Observer m is to be. At most once.
func (m *Metrics) WatchIndex(g *graph.Graph, dir string, status func() indexer.Status) {
	m.gauge("keytree_tip_height", nil, func() float64 { return float64(tipOf(g).Height) })
	m.gauge("keytree_node_height", nil, func() float64 { return float64(status().NodeHeight) })
	m.gauge("keytree_synced", nil, func() float64 { return oneIf(status().Synced) })
	m.registry.MustRegister(&tipAge{g, prometheus.NewDesc("keytree_tip_age_seconds", m.spec("keytree_tip_age_seconds", "gauge").Help, nil, nil)})
	m.gauge("keytree_keys", nil, func() float64 { return float64(g.Keys()) })
	m.gauge("keytree_identities", nil, func() float64 { return float64(tipOf(g).Counts.Identities) })
	m.gauge("keytree_waiting", nil, func() float64 { return float64(tipOf(g).Counts.Waiting) })
	for _, o := range links.Outcomes() {
		m.counter("keytree_actions_total", prometheus.Labels{"kind": o.Kind.String(), "outcome": outcomeName(o.Type)},
			func() float64 { return float64(g.Tally()[o]) })
	}
	m.watchDisk("index", dir)

	histogram := func(name string, buckets []float64) prometheus.Histogram {
		s := m.spec(name, "histogram")
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: s.Help, Buckets: buckets})
		m.registry.MustRegister(h)
		return h
	}
	counter := func(name string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: m.spec(name, "counter").Help})
		m.registry.MustRegister(c)
		return c
	}
	m.apply = histogram("keytree_block_apply_seconds", prometheus.ExponentialBuckets(0.0005, 4, 9)) // to 33 s
	m.depth = histogram("keytree_reorg_depth", []float64{1, 2, 3, 6, 10, 100})
	m.blocks, m.reorgs = counter("keytree_blocks_total"), counter("keytree_reorgs_total")
	m.nodeErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keytree_node_errors_total", Help: m.spec("keytree_node_errors_total", "counter").Help,
	}, []string{"op"})
	m.registry.MustRegister(m.nodeErrors)
	for _, question := range indexer.Questions() {
		m.nodeErrors.WithLabelValues(question) // so that the first error is a rise from 0
	}
}

// WatchMempool adds the metrics of how the node's mempool is followed. At most once.
func (m *Metrics) WatchMempool(status func() mempool.Status) {
	m.gauge("keytree_mempool_followed", nil, func() float64 { return oneIf(status().Followed) })
	m.gauge("keytree_mempool_transactions", nil, func() float64 { return float64(status().Transactions) })
	m.gauge("keytree_mempool_shown", nil, func() float64 { return float64(status().Shown) })
	m.gauge("keytree_mempool_omitted", nil, func() float64 { return float64(status().Omitted) })
}

// Connected implements indexer.Observer, as do the next two. They are for WatchIndex to be
// called before.
func (m *Metrics) Connected(blocks int, took time.Duration) {
	m.blocks.Add(float64(blocks))
	for range blocks {
		m.apply.Observe(took.Seconds() / float64(blocks))
	}
}

// Reorganised implements indexer.Observer.
func (m *Metrics) Reorganised(depth int) {
	m.reorgs.Inc()
	m.depth.Observe(float64(depth))
}

// NodeFailed implements indexer.Observer.
func (m *Metrics) NodeFailed(question string) { m.nodeErrors.WithLabelValues(question).Inc() }

// WatchKeyserver adds the metrics of a keyserver whose database is in dir. At most once.
func (m *Metrics) WatchKeyserver(s *keyserver.Service, dir string) {
	m.gauge("keytree_keyserver_entries", nil, func() float64 { return float64(s.Chain().Size) })
	m.gauge("keytree_keyinits", nil, func() float64 { return float64(s.KeyInits()) })
	m.watchDisk("keyserver", dir)
}

// WatchLog adds the metrics of a keyserver's transparency log, and of its witnesses by their names in the
// policy. At most once.
func (m *Metrics) WatchLog(l *tlog.Log) {
	m.gauge("keytree_log_signed_entries", nil, func() float64 { return float64(l.Status().Signed) })
	m.gauge("keytree_log_stopped", nil, func() float64 { return oneIf(l.Err() != nil) })
	names := l.Witnesses()
	if len(names) == 0 {
		return
	}
	m.gauge("keytree_log_witnessed_entries", nil, func() float64 { return float64(l.Status().Witnessed) })
	m.registry.MustRegister(quorumAge{m.spec("keytree_log_quorum_age_seconds", "gauge").Help, l})
	for _, name := range names {
		m.counter("keytree_log_witness_failures_total", prometheus.Labels{"witness": name}, func() float64 { return float64(l.Status().Failures[name]) })
	}
}

// WatchStateLog adds the metrics of a state log that is signed. At most once.
func (m *Metrics) WatchStateLog(p *statelog.Publisher) {
	m.gauge("keytree_state_log_signed_entries", nil, func() float64 { return float64(p.Status().Signed) })
	m.gauge("keytree_state_log_epoch", nil, func() float64 { return float64(p.Status().Epoch) })
	m.gauge("keytree_state_log_stopped", nil, func() float64 { return oneIf(p.Status().Stopped) })
}

// WatchCosigner adds the metrics of a witness of state logs. At most once.
func (m *Metrics) WatchCosigner(c *statelog.Cosigner) {
	m.gauge("keytree_state_log_differing", nil, func() float64 { return float64(c.Differing()) })
}

// quorumAge is how old the last quorum is, once there was one.
type quorumAge struct {
	help string
	log  *tlog.Log
}

// Describe implements prometheus.Collector.
func (a quorumAge) Describe(to chan<- *prometheus.Desc) { to <- a.desc() }

func (a quorumAge) desc() *prometheus.Desc {
	return prometheus.NewDesc("keytree_log_quorum_age_seconds", a.help, nil, nil)
}

// Collect implements prometheus.Collector.
func (a quorumAge) Collect(to chan<- prometheus.Metric) {
	if at := a.log.Status().WitnessedAt; !at.IsZero() {
		to <- prometheus.MustNewConstMetric(a.desc(), prometheus.GaugeValue, max(time.Since(at), 0).Seconds())
	}
}

// WatchAnchors adds the metrics of a publisher of anchors. At most once.
func (m *Metrics) WatchAnchors(status func() anchor.Status) {
	m.gauge("keytree_anchor_left", nil, func() float64 { return float64(status().Left) })
	m.gauge("keytree_anchor_unanchored_entries", nil, func() float64 { return float64(status().NotAnchored) })
}

// WatchClients adds the metrics of who is let in, and of what a keyserver allows each client; nil if
// there is none. At most once.
func (m *Metrics) WatchClients(gate *admission.Gate, allowances *keyserverrpc.Allowances) {
	for budget := range gate.Refused() {
		m.rejected(budget, func() uint64 { return gate.Refused()[budget] })
	}
	if allowances != nil {
		m.rejected("calls of the keyserver", func() uint64 { calls, _ := allowances.Refused(); return calls })
		m.rejected("KeyInits", func() uint64 { _, keyInits := allowances.Refused(); return keyInits })
	}
	m.gauge("keytree_stream_clients", nil, func() float64 { return float64(gate.Usage().Streams) })
	m.counter("keytree_stream_dropped_total", nil, func() float64 { return float64(gate.DroppedStreams()) })
}

func (m *Metrics) rejected(why string, count func() uint64) {
	m.counter("keytree_rpc_rejected_total", prometheus.Labels{"why": why}, func() float64 { return float64(count()) })
}

// watchDisk adds what a database takes of its disk, and what that has left.
func (m *Metrics) watchDisk(db, dir string) {
	labels := prometheus.Labels{"db": db}
	m.gauge("keytree_db_bytes", labels, func() float64 { return float64(sizeOf(dir)) })
	m.gauge("keytree_disk_free_bytes", labels, func() float64 {
		free, _, _ := badgerdb.FreeSpace(dir) // 0 where the system does not tell
		return float64(free)
	})
}

func tipOf(g *graph.Graph) graph.Tip {
	tip, _ := g.Tip()
	return tip
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// outcomeName is a word for an outcome.
func outcomeName(t links.EffectType) string {
	switch t {
	case links.RequestOpened:
		return "opened"
	case links.LinkFormed:
		return "formed"
	case links.LinkCut:
		return "cut"
	case links.ActionWaiting:
		return "waiting"
	}
	return "refused"
}

// tipAge tells the age of a graph's tip, if there is one.
type tipAge struct {
	graph *graph.Graph
	desc  *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (a *tipAge) Describe(to chan<- *prometheus.Desc) { to <- a.desc }

// Collect implements prometheus.Collector.
func (a *tipAge) Collect(to chan<- prometheus.Metric) {
	tip, ok := a.graph.Tip()
	if !ok {
		return
	}
	if header, err := a.graph.BlockHeader(tip.Height); err == nil { // else it was taken back meanwhile
		to <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, time.Since(time.Unix(int64(header.Time), 0)).Seconds())
	}
}
