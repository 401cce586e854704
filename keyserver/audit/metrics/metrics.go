// Package metrics tells Prometheus what an auditor finds, audit by audit.
//
// What never belongs here: listening, and what the numbers mean for a verdict.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keytree-bch/keytree/keyserver/audit"
)

// Metrics are what Prometheus is told of the audits of one keyserver. Its methods may be
// called concurrently.
type Metrics struct {
	registry   *prometheus.Registry
	audits     *prometheus.CounterVec
	verdict    *prometheus.GaugeVec
	entries    prometheus.Gauge
	covered    prometheus.Gauge
	uncovered  prometheus.Gauge
	soundUpTo  prometheus.Gauge
	anchors    prometheus.Gauge
	anchorTime prometheus.Gauge
	auditTime  prometheus.Gauge
	soundTime  prometheus.Gauge
	duration   prometheus.Gauge
}

// New returns the metrics of a keyserver, which the txid of its genesis anchor names.
func New(genesis string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "keytree", Subsystem: "audit", Name: name, Help: help})
		prometheus.WrapRegistererWith(prometheus.Labels{"genesis": genesis}, m.registry).MustRegister(g)
		return g
	}
	labelled := prometheus.WrapRegistererWith(prometheus.Labels{"genesis": genesis}, m.registry)
	m.audits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "keytree", Subsystem: "audit", Name: "audits_total", Help: "Audits by verdict; failed ones had no verdict.",
	}, []string{"verdict"})
	m.verdict = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "keytree", Subsystem: "audit", Name: "verdict", Help: "1 for the verdict of the last audit, 0 for the others.",
	}, []string{"verdict"})
	labelled.MustRegister(m.audits, m.verdict)
	m.entries = gauge("entries", "Entries of the hashchain that were verified.")
	m.covered = gauge("entries_covered", "Entries that the last anchor commits to.")
	m.uncovered = gauge("entries_not_covered", "Entries after the last anchor, which could still be replaced.")
	m.soundUpTo = gauge("sound_up_to_position", "Position up to which the last audit was sound; -1 if it was not.")
	m.anchors = gauge("anchors", "Anchors that were verified.")
	m.anchorTime = gauge("last_anchor_time_seconds", "Time in the block of the last anchor, Unix seconds.")
	m.auditTime = gauge("last_time_seconds", "Time of the last audit, Unix seconds.")
	m.soundTime = gauge("last_sound_time_seconds", "Time of the last audit that was sound, Unix seconds.")
	m.duration = gauge("duration_seconds", "How long the last audit took.")
	return m
}

// Failed counts an audit that had no verdict.
func (m *Metrics) Failed() { m.audits.WithLabelValues("failed").Inc() }

// Audited tells of a report, and how long it took.
func (m *Metrics) Audited(r *audit.Report, took time.Duration) {
	label := map[audit.Verdict]string{audit.Sound: "sound", audit.NotSound: "not_sound", audit.CouldNotCheck: "could_not_check", audit.Misbehaviour: "misbehaviour"}
	for v, name := range label {
		value := 0.0
		if v == r.Verdict {
			value = 1
		}
		m.verdict.WithLabelValues(name).Set(value)
	}
	m.audits.WithLabelValues(label[r.Verdict]).Inc()
	m.entries.Set(float64(r.Entries))
	m.covered.Set(float64(r.Covered))
	m.uncovered.Set(float64(r.NotCoveredEntries))
	m.soundUpTo.Set(-1)
	if r.SoundUpTo != nil {
		m.soundUpTo.Set(float64(*r.SoundUpTo))
	}
	m.anchors.Set(float64(r.Anchors))
	if r.Last != nil {
		m.anchorTime.Set(float64(r.Last.Time.Unix()))
	}
	m.auditTime.Set(float64(r.Time.Unix()))
	if r.Verdict == audit.Sound {
		m.soundTime.Set(float64(r.Time.Unix()))
	}
	m.duration.Set(took.Seconds())
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
