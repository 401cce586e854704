package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/metrics"
)

// keepAuditing audits until ctx ends, whatever it finds. The report is printed when
// it says something else than before, the exit code is the last verdict's.
func (r *auditRun) keepAuditing(ctx context.Context, auditor *audit.Auditor) (err error) {
	counted := metrics.New(r.sources.genesis.value.String())
	if r.metrics.text != "" {
		address, closed, failed := serveMetrics(ctx, r.metrics.value, counted.Handler())
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
				counted.Failed()
				fmt.Fprintf(r.app.stderr, "keytree: %s; trying again in %v\n", oneLine(failed), r.every.value)
				return nil
			}
			counted.Audited(report, took)
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

// serveMetrics serves metrics until closed is called.
func serveMetrics(ctx context.Context, on string, metrics http.Handler) (address net.Addr, closed func() error, err error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", on)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
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
