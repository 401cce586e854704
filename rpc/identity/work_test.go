package identity_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestTooMuchHasChanged asks about a long path as of a block after which all its links were cut:
// what that takes too much work for is refused, and says what to do.
func TestTooMuchHasChanged(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const keys = 5200
	name := func(n int) string { return fmt.Sprint("key ", n) }
	var form, cut []links.Action
	for n := 1; n < keys; n++ {
		form = append(form, rpctest.MLR("mlr "+name(n), name(n), name(n-1), ""), rpctest.MLA("mla "+name(n), name(n-1), "mlr "+name(n)))
		cut = append(cut, rpctest.MCR("mcr "+name(n), name(n-1), "mla "+name(n)))
	}
	c := &rpctest.Chain{}
	first := c.Block(form...)
	r := rpctest.New(t, first, c.Block(cut...))
	deepest := rpctest.Address(name(keys - 1))
	for _, test := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/v1/addresses/" + deepest + "?at_height=0", "", 400},
		{"POST", "/v1/addresses:batchResolve", `{"addresses": ["` + deepest + `"], "at_height": 0}`, 400},
		{"POST", "/v1/addresses:changed", `{"addresses": ["` + deepest + `"], "since_height": 0, "since_hash": "` + first.Hash.String() + `"}`, 400},
		{"GET", "/v1/addresses/" + rpctest.Address(name(4900)) + "?at_height=0", "", 200},
		{"GET", "/v1/addresses/" + deepest, "", 200},
		{"GET", "/v1/addresses/" + deepest + "/actions?at_height=0", "", 200},
		{"GET", "/v1/identities/" + rpctest.HashOf("mlr key 1").String() + "?at_height=0", "", 200},
		{"GET", "/v1/identities/" + rpctest.HashOf("mlr key 1").String() + "/keys?at_height=0&page_size=1000", "", 200},
	} {
		response, answer := r.REST(t, test.method, test.path, test.body)
		if response.StatusCode != test.want {
			t.Errorf("%s %s: %s %v, want %d", test.method, test.path, response.Status, answer, test.want)
		}
		if message, _ := answer["message"].(string); test.want == 400 && (!strings.HasSuffix(field(answer), "_height") || !strings.Contains(message, "ask as of a later block") || answer["code"] != 9.0) {
			t.Errorf("%s %s: %v", test.method, test.path, answer)
		}
	}
}

// TestBatchesAreTheWorkThatTheyTake resolves some keys as of before many links above them were cut. A batch of so few is another
// call or two, but this one counts as what it takes.
func TestBatchesAreTheWorkThatTheyTake(t *testing.T) {
	const keys, asked, oneHas = 60, 8, 4
	name := func(n int) string { return fmt.Sprint("key ", n) }
	var form, cut []links.Action
	for n := 1; n < keys; n++ {
		form = append(form, rpctest.MLR("mlr "+name(n), name(n), name(n-1), ""), rpctest.MLA("mla "+name(n), name(n-1), "mlr "+name(n)))
		cut = append(cut, rpctest.MCR("mcr "+name(n), name(n-1), "mla "+name(n)))
	}
	var addresses []string
	for n := range asked {
		addresses = append(addresses, rpctest.Address(name(keys-1-n)))
	}
	list, err := json.Marshal(addresses)
	if err != nil {
		t.Fatal(err)
	}
	limits := admission.DefaultLimits()
	limits.Work.One = oneHas // ten seconds' worth at once
	c := &rpctest.Chain{}
	first := c.Block(form...)
	r := rpctest.NewOf(t, rpc.Config{Admission: admission.New(admission.Config{Limits: limits, Proxies: admission.Loopback()})}, first, c.Block(cut...))
	for n, test := range []struct{ path, body string }{
		{"/v1/addresses:batchResolve", `{"at_height": 0, "addresses": ` + string(list) + `}`},
		{"/v1/addresses:changed", `{"since_height": 0, "since_hash": "` + first.Hash.String() + `", "addresses": ` + string(list) + `}`},
	} {
		client := fmt.Sprint("X-Forwarded-For: 192.0.2.", n+1)
		response, body := r.Send(t, "POST", test.path, test.body, client, "Content-Type: application/json")
		if response.StatusCode != 200 || strings.Count(body, `"address":`) != asked {
			t.Errorf("%s: %s %.300s", test.path, response.Status, body)
		}
		refused := false
		for range 10*oneHas - 5 { // so many are left if the batch was no more than two or three calls
			response, _ := r.Send(t, "GET", "/v1/status", "", client)
			refused = refused || response.StatusCode == 429
		}
		if !refused {
			t.Errorf("%s: whoever has asked it is refused nothing else", test.path)
		}
	}
}

// TestPagesOfWhatIsPassedOver lists the actions of a key as of a block before thousands turned out to be about
// it: a page ends when enough were passed over.
func TestPagesOfWhatIsPassedOver(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const accepts = 5000
	c := &rpctest.Chain{}
	var waiting []links.Action
	for n := range accepts {
		waiting = append(waiting, rpctest.MLA(fmt.Sprint("mla ", n), fmt.Sprint("author ", n), "mlr"))
	}
	waiting = append(waiting, rpctest.MLR("last", "child", "somebody", ""))
	r := rpctest.New(t, c.Block(waiting...), c.Block(rpctest.MLR("mlr", "child", "parent", "")))
	for _, test := range []struct {
		height uint32
		first  int // actions on the first page
		all    int
	}{{0, 0, 1}, {1, 1000, accepts + 2}} {
		all, token := 0, ""
		for page := 1; page == 1 || token != ""; page++ {
			answer, err := r.Client.ListAddressActions(t.Context(), &keytreev1.ListAddressActionsRequest{
				Address: rpctest.Address("child"), AtHeight: proto.Uint32(test.height), PageSize: 1000, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			if page == 1 && (len(answer.Actions) != test.first || answer.NextPageToken == "") {
				t.Errorf("as of %d: %d actions on the first page, the next one %q; want %d and more", test.height, len(answer.Actions), answer.NextPageToken, test.first)
			}
			all, token = all+len(answer.Actions), answer.NextPageToken
		}
		if all != test.all {
			t.Errorf("as of %d: %d actions, want %d", test.height, all, test.all)
		}
	}
}
