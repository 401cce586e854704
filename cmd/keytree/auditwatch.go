package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keytree-bch/keytree/keyserver/audit"
)

// keepAuditing audits until ctx ends, whatever it finds. The report is printed when
// it says something else than before, the exit code is the last verdict's.
func (r *auditRun) keepAuditing(ctx context.Context, auditor *audit.Auditor) (err error) {
	metrics := newAuditMetrics(r.sources.genesis.value.String())
	if r.metrics.text != "" {
		address, closed, failed := metrics.serve(ctx, r.metrics.value)
		if failed != nil {
			return fmt.Errorf("--metrics-listen: %w", failed)
		}
		defer func() { err = errors.Join(err, closed()) }()
		fmt.Fprintf(r.app.stderr, "keytree: metrics on http://%v/metrics\n", address)
	}
	var told *audit.Report
	last, err := audit.Watch(ctx, r.every.value, func(ctx context.Context) (*audit.Report, error) { return r.once(ctx, auditor) },
		func(report *audit.Report, failed error, took time.Duration) error {
			if failed != nil { // not the keyserver's fault: the disk, or a node that is away
				metrics.failed()
				fmt.Fprintf(r.app.stderr, "keytree: %s; trying again in %v\n", oneLine(failed), r.every.value)
				return nil
			}
			metrics.audited(report, took)
			err := r.tell(report, told)
			told = report
			return err
		})
	switch {
	case err != nil:
		return err
	case last == nil:
		return context.Cause(ctx)
	}
	return verdictError(last)
}

// tell prints a report, or in one line that nothing is new.
func (r *auditRun) tell(report, last *audit.Report) error {
	if *r.asJSON || last == nil || report.Verdict != last.Verdict || len(report.Findings) != len(last.Findings) {
		return r.print(report)
	}
	_, err := fmt.Fprintf(r.app.stdout, "%s  %s, %s entries, %d anchors, the last %v old\n", report.Time.Format(time.DateTime+" MST"),
		report.Summary(), number(report.Entries), report.Anchors, report.Age().Round(time.Second))
	return err
}

// auditMetrics is what Prometheus is told.
type auditMetrics struct {
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

func newAuditMetrics(genesis string) *auditMetrics {
	m := &auditMetrics{registry: prometheus.NewRegistry()}
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

func (m *auditMetrics) failed() { m.audits.WithLabelValues("failed").Inc() }

func (m *auditMetrics) audited(r *audit.Report, took time.Duration) {
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

// serve serves the metrics until closed is called.
func (m *auditMetrics) serve(ctx context.Context, on string) (address net.Addr, closed func() error, err error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", on)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	return listener.Addr(), func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}
