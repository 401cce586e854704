package metrics_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/metrics"
)

// TestMetrics tells of three audits, of which the last is not sound.
func TestMetrics(t *testing.T) {
	m := metrics.New("abcd")
	position := uint64(7)
	m.Failed()
	m.Audited(&audit.Report{
		Verdict: audit.Sound, Entries: 9, Covered: 8, NotCoveredEntries: 1, SoundUpTo: &position, Anchors: 3, Time: time.Unix(1000, 0),
		Last: &audit.Anchored{Time: time.Unix(900, 0)},
	}, 2*time.Second)
	expect := func(lines ...string) {
		t.Helper()
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		for _, line := range lines {
			if !strings.Contains(w.Body.String(), "\nkeytree_audit_"+line+"\n") {
				t.Errorf("%q is not in\n%s", line, w.Body)
			}
		}
	}
	expect(`entries{genesis="abcd"} 9`, `entries_covered{genesis="abcd"} 8`, `entries_not_covered{genesis="abcd"} 1`, `sound_up_to_position{genesis="abcd"} 7`,
		`anchors{genesis="abcd"} 3`, `last_anchor_time_seconds{genesis="abcd"} 900`, `last_time_seconds{genesis="abcd"} 1000`,
		`last_sound_time_seconds{genesis="abcd"} 1000`, `duration_seconds{genesis="abcd"} 2`,
		`audits_total{genesis="abcd",verdict="sound"} 1`, `audits_total{genesis="abcd",verdict="failed"} 1`,
		`verdict{genesis="abcd",verdict="sound"} 1`, `verdict{genesis="abcd",verdict="misbehaviour"} 0`)
	m.Audited(&audit.Report{Verdict: audit.NotSound, Time: time.Unix(2000, 0)}, time.Second)
	expect(`sound_up_to_position{genesis="abcd"} -1`, `last_sound_time_seconds{genesis="abcd"} 1000`, `last_time_seconds{genesis="abcd"} 2000`,
		`verdict{genesis="abcd",verdict="sound"} 0`, `verdict{genesis="abcd",verdict="not_sound"} 1`)
}
