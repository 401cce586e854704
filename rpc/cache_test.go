package rpc_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/rpc"
)

func TestCacheHeaders(t *testing.T) {
	c, blocks := family()
	for range 100 {
		blocks = append(blocks, c.block())
	}
	r := newRigOf(t, rpc.Config{Version: "v1"}, blocks...)
	tip, _ := r.graph.Tip() // at height 106
	child, etag := "/v1/addresses/"+address("child"), fmt.Sprintf(`W/"v1-%s"`, tip.Hash)
	const settled = "public, max-age=86400, immutable"
	for _, test := range []struct {
		path, sent  string
		want        int
		cache, etag string
	}{
		{child, "", 200, "no-cache", etag},
		{child, etag, 304, "no-cache", etag},
		{child, `"other", ` + strings.TrimPrefix(etag, "W/"), 304, "no-cache", etag},
		{child, `W/"v0-` + tip.Hash.String() + `"`, 200, "no-cache", etag},
		{child, `W/"v1-` + blocks[5].Hash.String() + `"`, 200, "no-cache", etag},
		{child + "?at_height=6", "", 200, settled, ""},
		{child + "?at_height=7", "", 200, "no-cache", etag},
		{child + "?at_height=7", etag, 304, "no-cache", etag},
		{child + "?at_height=107", "", 400, "no-store", ""},
		{child + "?at_height=x", "", 400, "no-store", ""},
		{"/v1/identities/" + hashOf("mlr1").String() + "?at_height=5", "", 200, settled, ""},
		{"/v1/identities/" + hashOf("mlr3").String() + "?at_height=0", "", 404, "no-store", ""},
		{"/v1/events", etag, 200, "no-cache", ""},
		{"/v1/status", etag, 200, "no-store", ""},
		{"/readyz", etag, 200, "no-store", ""},
		{"/v1/nothing", "", 404, "no-store", ""},
	} {
		response, _ := r.send(t, "GET", test.path, "", "If-None-Match: "+test.sent)
		if h := response.Header; response.StatusCode != test.want || h.Get("Cache-Control") != test.cache || h.Get("Etag") != test.etag {
			t.Errorf("%s with %s: %s, Cache-Control %q, ETag %s; want %d, %q, %s", test.path, test.sent,
				response.Status, h.Get("Cache-Control"), h.Get("Etag"), test.want, test.cache, test.etag)
		}
	}
	r.connect(t, c.block())
	if response, _ := r.send(t, "GET", child, "", "If-None-Match: "+etag); response.StatusCode != 200 || response.Header.Get("Etag") == etag {
		t.Errorf("after the next block: %s, ETag %s", response.Status, response.Header.Get("Etag"))
	}
	r.follower.set(indexer.Status{})
	if response, _ := r.send(t, "GET", child, "", "If-None-Match: "+etag); response.StatusCode != 503 || response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("before the check: %s, Cache-Control %q", response.Status, response.Header.Get("Cache-Control"))
	}
}

func TestCompression(t *testing.T) {
	c := &chain{}
	blocks, genesis := long(t, c, 30)
	r := newRig(t, append(blocks, requestsOf(c, 2000))...)
	bundle := "/v1/anchors/chains/" + id(genesis) + "/bundle"
	for path, compressed := range map[string]bool{"/v1/events?page_size=2000": true, "/v1/addresses/" + address("c1"): false, bundle: false} {
		plain, want := r.send(t, "GET", path, "")
		response, body := r.send(t, "GET", path, "", "Accept-Encoding: gzip, deflate, br, zstd")
		if plain.Header.Get("Content-Encoding") != "" || (response.Header.Get("Content-Encoding") == "gzip") != compressed {
			t.Errorf("%s: Content-Encoding %q unasked, %q asked", path, plain.Header.Get("Content-Encoding"), response.Header.Get("Content-Encoding"))
		}
		if compressed {
			if !strings.Contains(strings.Join(response.Header.Values("Vary"), ","), "Accept-Encoding") || len(body) > len(want)/2 {
				t.Errorf("%s: %d bytes of %d, Vary %q", path, len(body), len(want), response.Header.Values("Vary"))
			}
			unpacked, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(unpacked)
			if err != nil {
				t.Fatal(err)
			}
			body = string(text)
		}
		if body != want {
			t.Errorf("%s: %d bytes, without compression %d", path, len(body), len(want))
		}
	}
}
