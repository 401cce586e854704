package identity_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func TestCacheHeaders(t *testing.T) {
	c, blocks := rpctest.Family()
	for range 100 {
		blocks = append(blocks, c.Block())
	}
	r := rpctest.NewOf(t, rpc.Config{Version: "v1"}, blocks...)
	tip, _ := r.Graph.Tip() // at height 106
	child, etag := "/v1/addresses/"+rpctest.Address("child"), fmt.Sprintf(`W/"v1-%s"`, tip.Hash)
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
		{"/v1/identities/" + rpctest.HashOf("mlr1").String() + "?at_height=5", "", 200, settled, ""},
		{"/v1/identities/" + rpctest.HashOf("mlr3").String() + "?at_height=0", "", 404, "no-store", ""},
		{"/v1/events", etag, 200, "no-cache", ""},
		{"/v1/status", etag, 200, "no-store", ""},
		{"/v1/mempool", etag, 200, "no-store", ""},
		{child + "?unconfirmed=true", etag, 200, "no-store", ""},
		{child + "?unconfirmed=true&at_height=106", etag, 200, "no-store", ""},
		{child + "?unconfirmed=false&at_height=6", "", 200, settled, ""},
		{child + "?unconfirmed=x", etag, 400, "no-store", ""},
		{"/v1/export", etag, 200, "no-cache", ""},
		{"/readyz", etag, 200, "no-store", ""},
		{"/v1/nothing", "", 404, "no-store", ""},
	} {
		response, _ := r.Send(t, "GET", test.path, "", "If-None-Match: "+test.sent)
		if h := response.Header; response.StatusCode != test.want || h.Get("Cache-Control") != test.cache || h.Get("Etag") != test.etag {
			t.Errorf("%s with %s: %s, Cache-Control %q, ETag %s; want %d, %q, %s", test.path, test.sent,
				response.Status, h.Get("Cache-Control"), h.Get("Etag"), test.want, test.cache, test.etag)
		}
	}
	keys := "/v1/identities/" + rpctest.HashOf("mlr1").String() + "/keys?page_size=1&at_height="
	for height, want := range map[string]string{"6": settled, "7": "no-cache"} {
		_, page := r.REST(t, "GET", keys+height, "")
		path := keys + height + "&page_token=" + page["next_page_token"].(string)
		if response, _ := r.Send(t, "GET", path, ""); response.StatusCode != 200 || response.Header.Get("Cache-Control") != want {
			t.Errorf("%s: %s, Cache-Control %q, want %q", path, response.Status, response.Header.Get("Cache-Control"), want)
		}
	}
	r.Connect(t, c.Block())
	if response, _ := r.Send(t, "GET", child, "", "If-None-Match: "+etag); response.StatusCode != 200 || response.Header.Get("Etag") == etag {
		t.Errorf("after the next block: %s, ETag %s", response.Status, response.Header.Get("Etag"))
	}
	r.Follower.Set(indexer.Status{})
	if response, _ := r.Send(t, "GET", child, "", "If-None-Match: "+etag); response.StatusCode != 503 || response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("before the check: %s, Cache-Control %q", response.Status, response.Header.Get("Cache-Control"))
	}
}
