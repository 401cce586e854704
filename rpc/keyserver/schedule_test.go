package keyserver_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestPublishedSchedule reads how often a keyserver anchors on each of its wires.
func TestPublishedSchedule(t *testing.T) {
	for name, anchors := range map[string]*schedule.Schedule{
		"anchored":     {Interval: 10 * time.Minute, MaxEntries: 77, Heartbeat: 12 * time.Hour},
		"not anchored": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Anchors: anchors})
			got, err := client.NewReader(r.URL, r.HTTP.Transport).Schedule(t.Context())
			if err != nil || (got == nil) != (anchors == nil) || got != nil && *got != *anchors {
				t.Errorf("JSON-RPC: got %+v, %v, expected %+v", got, err, anchors)
			}
			want := new(schedule.Schedule)
			if anchors != nil {
				want = anchors
			}
			c, err := r.Client.GetCapabilities(t.Context(), &keytreev1.GetCapabilitiesRequest{})
			if err != nil || time.Duration(c.AnchorInterval)*time.Second != want.Interval ||
				time.Duration(c.AnchorHeartbeat)*time.Second != want.Heartbeat || uint64(c.AnchorMaxEntries) != want.MaxEntries {
				t.Errorf("gRPC: got %v, %v, expected %+v", c, err, want)
			}
			answer, err := r.HTTP.Get(r.REST + "/v1/keyserver")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil || anchors != nil && !bytes.Contains(body, []byte(`"anchor_heartbeat":43200`)) {
				t.Errorf("REST: got %s, %v", body, err)
			}
		})
	}
}
