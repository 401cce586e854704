package web_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/rpc/rpctest"
	"github.com/keytree-bch/keytree/rpc/web/internal/restclient"
)

// TestGeneratedClient asks a running server through a client that was generated from the
// document: its types have to hold what comes.
func TestGeneratedClient(t *testing.T) {
	w := newWorld(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := restclient.NewClientWithResponses(w.URL, restclient.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, child, parent := t.Context(), rpctest.Address("child"), rpctest.Address("parent")

	at, tip := uint32(3), uint32(11)
	resolved := answered(client.ResolveAddressWithResponse(ctx, child, &restclient.ResolveAddressParams{AtHeight: &at}))(t)
	if resolved.JSON200 == nil || resolved.JSON200.MainAddress != parent || resolved.JSON200.AsOfHeight != at {
		t.Errorf("resolving: %s", resolved.Body)
	}
	batch := answered(client.BatchResolveWithResponse(ctx, restclient.BatchResolveRequest{Addresses: &[]string{child, parent}}))(t)
	if batch.JSON200 == nil || len(batch.JSON200.Resolutions) != 2 || len(batch.JSON200.Resolutions[0].Path) != 2 {
		t.Errorf("a batch: %s", batch.Body)
	}
	events := answered(client.ListEventsWithResponse(ctx, &restclient.ListEventsParams{ToHeight: &tip}))(t)
	if events.JSON400 == nil || events.JSON400.Code != 11 || len(*events.JSON400.Details) != 1 {
		t.Errorf("events beyond the tip: %s", events.Body)
	}
	if events = answered(client.ListEventsWithResponse(ctx, nil))(t); events.JSON200 == nil {
		t.Fatalf("events: %s", events.Body)
	}
	links, anchored := 0, 0
	for _, block := range events.JSON200.Blocks {
		for _, event := range block.Events {
			switch {
			case event.Type == "LINK_FORMED" && event.Anchor == nil:
				links++
			case event.Type == "ANCHOR_ADDED" && event.Anchor != nil && len(event.Anchor.Head) == 32 && event.Anchor.Position != "":
				anchored++
			}
		}
	}
	if links != 4 || anchored != 3 {
		t.Errorf("%d links were formed and %d anchors added, want 4 and 3", links, anchored)
	}
	proof := answered(client.GetAnchorWithResponse(ctx, w.breaker, nil))(t)
	if proof.JSON200 == nil || proof.JSON200.Anchor != nil || len(proof.JSON200.BlockHeader) != 80 {
		t.Errorf("what broke a chain: %s", proof.Body)
	}
	bundle := answered(client.GetProofBundleWithResponse(ctx, w.chain, nil))(t)
	if bundle.StatusCode() != http.StatusOK || len(bundle.Body) == 0 {
		t.Errorf("a bundle: %s", bundle.Status())
	}

	entry, _, err := w.keyserver.LastEntry(ctx)
	if err != nil {
		t.Fatal(err)
	}
	message := string(rpctest.NewMessage("alice@example.org", entry.String(), rpctest.NewKey(1), time.Now()).Canonical())
	created := answered(client.CreateUIDWithResponse(ctx, restclient.CreateUIDRequest{UIDMessage: &message}))(t)
	if created.JSON200 == nil || created.JSON200.HashchainPos != "1" {
		t.Fatalf("creating an identity: %s", created.Body)
	}
	index := base64.URLEncoding.EncodeToString(created.JSON200.UIDMessageEncrypted[:32])
	fetched := answered(client.FetchUIDWithResponse(ctx, index))(t)
	if fetched.JSON200 == nil || !bytes.Equal(fetched.JSON200.HashchainEntry, created.JSON200.HashchainEntry) {
		t.Errorf("fetching its message: %s", fetched.Body)
	}
	if again := answered(client.CreateUIDWithResponse(ctx, restclient.CreateUIDRequest{UIDMessage: &message}))(t); again.JSON409 == nil {
		t.Errorf("creating it again: %s", again.Body)
	}
}

// answered returns what ends the test if a call had no answer that could be read, and the
// answer else.
func answered[T any](answer T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}
