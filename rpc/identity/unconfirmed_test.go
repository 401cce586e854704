package identity_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph/links"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// unconfirmedCalls are what can be asked with unconfirmed of rpctest.Family, over both transports.
func unconfirmedCalls() map[string]struct {
	method, path, body string
	grpc               func(*testing.T, *rpctest.Rig, bool) (proto.Message, error)
} {
	type call = struct {
		method, path, body string
		grpc               func(*testing.T, *rpctest.Rig, bool) (proto.Message, error)
	}
	child, grandchild := rpctest.Address("child"), rpctest.Address("grandchild")
	id, tx := rpctest.HashOf("mlr1").String(), rpctest.HashOf("mla3").String()
	return map[string]call{
		"resolve": {"GET", "/v1/addresses/" + grandchild + "?", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{Address: grandchild, Unconfirmed: u})
		}},
		"batch": {"POST", "/v1/addresses:batchResolve", `{"addresses": ["` + grandchild + `", "` + rpctest.Address("lone") + `"]`, func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.BatchResolve(t.Context(), &keytreev1.BatchResolveRequest{Addresses: []string{grandchild, rpctest.Address("lone")}, Unconfirmed: u})
		}},
		"identity": {"GET", "/v1/identities/" + id + "?", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: id, Unconfirmed: u})
		}},
		"keys": {"GET", "/v1/identities/" + id + "/keys?", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.ListIdentityKeys(t.Context(), &keytreev1.ListIdentityKeysRequest{IdTxHash: id, Unconfirmed: u})
		}},
		"action": {"GET", "/v1/actions/" + tx + "?", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: tx, Unconfirmed: u})
		}},
		"actions": {"GET", "/v1/addresses/" + child + "/actions?", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.ListAddressActions(t.Context(), &keytreev1.ListAddressActionsRequest{Address: child, Unconfirmed: u})
		}},
		"requests": {"GET", "/v1/addresses/" + child + "/requests?state=accepted&", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.ListAddressRequests(t.Context(), &keytreev1.ListAddressRequestsRequest{Address: child, State: "accepted", Unconfirmed: u})
		}},
		"links": {"GET", "/v1/addresses/" + rpctest.Address("parent") + "/links?", "", func(t *testing.T, r *rpctest.Rig, u bool) (proto.Message, error) {
			return r.Client.ListAddressLinks(t.Context(), &keytreev1.ListAddressLinksRequest{Address: rpctest.Address("parent"), Unconfirmed: u})
		}},
	}
}

// askBoth asks over both transports, which must say the same, and returns it as REST does.
func askBoth(t *testing.T, r *rpctest.Rig, name string, unconfirmed bool) map[string]any {
	t.Helper()
	call := unconfirmedCalls()[name]
	path, body := call.path, call.body
	if call.method == "GET" {
		path += fmt.Sprintf("unconfirmed=%t", unconfirmed)
	} else {
		body += fmt.Sprintf(`, "unconfirmed": %t}`, unconfirmed)
	}
	response, text := r.Send(t, call.method, path, body, "Content-Type: application/json")
	message, err := call.grpc(t, r, unconfirmed)
	if response.StatusCode != 200 || err != nil {
		t.Fatalf("%s: %s, %s, %v", name, response.Status, text, err)
	}
	if unconfirmed && response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: Cache-Control is %q", name, response.Header.Get("Cache-Control"))
	}
	want, err := rest.JSON.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var answer, same map[string]any
	if json.Unmarshal([]byte(text), &answer) != nil || json.Unmarshal(want, &same) != nil || !reflect.DeepEqual(answer, same) {
		t.Fatalf("%s: REST says %s, gRPC %s", name, text, want)
	}
	return answer
}

// TestUnconfirmed lets a revoke and a link be pending, and asks everything beside which
// that stands. The confirmed answers are those without.
func TestUnconfirmed(t *testing.T) {
	c, blocks := rpctest.Family()
	blocks = append(blocks, c.Block())
	r := rpctest.New(t, blocks...)
	for name := range unconfirmedCalls() {
		answer := askBoth(t, r, name, true)
		about, _ := answer["unconfirmed"].(map[string]any)
		if about["available"] != false || about["reason"] == "" || about["differs"] != false {
			t.Errorf("%s: without a mempool %v", name, about)
		}
	}
	r.Suppose(t, "cut", nil, rpctest.MCR("cut", "parent", "mla3"), rpctest.MLR("new request", "lone", "child", ""), rpctest.MLA("new", "child", "new request"))

	fill := strings.NewReplacer("@parent", rpctest.Address("parent"), "@child", rpctest.Address("child"), "@grandchild", rpctest.Address("grandchild"),
		"@lone", rpctest.Address("lone"), "#mlr1", rpctest.HashOf("mlr1").String(), "#cut", rpctest.HashOf("cut").String(), "#mla2", rpctest.HashOf("mla2").String(),
		"#mla3", rpctest.HashOf("mla3").String(), "#newrequest", rpctest.HashOf("new request").String(), "#new", rpctest.HashOf("new").String())
	cut := `{"tx_hash": "#cut", "double_spend": true, "seen_ago": 0}`
	for name, want := range map[string]string{
		"resolve": `{"by": [` + cut + `], "resolution": {"address": "@grandchild", "id_tx_hash": "#cut", "main_address": "@child", "parent_address": "@child",
			"path": ["@grandchild", "@child"], "depth": 1, "accept_tx_hash": "#mla2", "as_of_height": 8}}`,
		"batch":    `{}`,
		"identity": `{"by": [` + cut + `], "identity": {"id_tx_hash": "#mlr1", "state": "CURRENT", "main_address": "@parent", "key_count": 1, "as_of_height": 8}}`,
		"keys":     `{"by": [` + cut + `], "identity": {"key_count": 1}}`,
		"action":   `{"by": [` + cut + `], "actions": [{"tx_hash": "#mla3", "state": "CUT", "by_tx_hash": "#cut", "decided_height": 8}]}`,
		"actions":  `{}`,
		"requests": `{"requests": [{"tx_hash": "#newrequest", "child_address": "@lone", "state": "ACCEPTED", "accept_tx_hash": "#new", "height": 8, "decided_height": 8,
			"pending": {"tx_hash": "#newrequest", "double_spend": false}}]}`,
		"links": `{"by": [` + cut + `], "links": [{"child_address": "@child", "accept_tx_hash": "#mla3", "linked_height": 6, "state": "CUT"}]}`,
	} {
		confirmed, answer := askBoth(t, r, name, false), askBoth(t, r, name, true)
		about, _ := answer["unconfirmed"].(map[string]any)
		delete(answer, "unconfirmed")
		if name == "batch" {
			first := answer["resolutions"].([]any)[0].(map[string]any)
			wantWithin(t, name, first["unconfirmed"], fill.Replace(`{"differs": true, "resolution": {"main_address": "@child"}}`))
			delete(first, "unconfirmed")
			second := answer["resolutions"].([]any)[1].(map[string]any)
			wantWithin(t, name, second["unconfirmed"], fill.Replace(`{"differs": true, "resolution": {"main_address": "@child", "id_tx_hash": "#cut"}}`))
			delete(second, "unconfirmed")
		}
		if !reflect.DeepEqual(answer, confirmed) {
			t.Errorf("%s: the confirmed answer is %v, beside an unconfirmed one %v", name, confirmed, answer)
		}
		wantWithin(t, name, about, `{"available": true, "height": 8, "differs": true, "more": false, "reason": ""}`)
		wantWithin(t, name, about, fill.Replace(want))
	}
	keys, _ := askBoth(t, r, "keys", true)["unconfirmed"].(map[string]any)["keys"].([]any)
	if len(keys) != 1 {
		t.Fatalf("%d keys move, expected one: %v", len(keys), keys)
	}
	wantWithin(t, "keys", keys[0], fill.Replace(`{"address": "@child", "parent_address": "", "id_tx_hash": "#cut"}`))
	states := map[string]string{}
	for _, a := range askBoth(t, r, "actions", true)["unconfirmed"].(map[string]any)["actions"].([]any) {
		action := a.(map[string]any)
		states[action["tx_hash"].(string)] = action["state"].(string)
	}
	if want := map[string]string{rpctest.HashOf("mla3").String(): "CUT", rpctest.HashOf("cut").String(): "DONE",
		rpctest.HashOf("new request").String(): "USED", rpctest.HashOf("new").String(): "IN_FORCE"}; !reflect.DeepEqual(states, want) {
		t.Errorf("the actions that differ are %v, want %v", states, want)
	}

	// A new tip drops what was pending.
	r.Connect(t, c.Block())
	about := askBoth(t, r, "resolve", true)["unconfirmed"].(map[string]any)
	if about["available"] != false {
		t.Errorf("after another block: %v", about)
	}
}

// wantWithin compares the members of a JSON object that want has.
func wantWithin(t *testing.T, name string, got any, want string) {
	t.Helper()
	var wanted any
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if !within(got, wanted) {
		t.Errorf("%s: got %v\nwant %s", name, got, want)
	}
}

func within(got, want any) bool {
	object, ok := want.(map[string]any)
	if list, isList := want.([]any); isList {
		of, _ := got.([]any)
		for i := range list {
			if len(of) != len(list) || !within(of[i], list[i]) {
				return false
			}
		}
		return len(of) == len(list)
	}
	if !ok {
		return reflect.DeepEqual(got, want)
	}
	of, _ := got.(map[string]any)
	for key := range object {
		if !within(of[key], object[key]) {
			return false
		}
	}
	return of != nil
}

// TestUnconfirmedOnly asks about what is nowhere but in the mempool.
func TestUnconfirmedOnly(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	r.Suppose(t, "", nil, rpctest.MLR("request", "X", "Y", "hello"), rpctest.MLA("accept", "Y", "request"))
	tip, _ := r.Graph.Tip()
	request := rpctest.HashOf("request").String()

	action, err := r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: request, Unconfirmed: true})
	if err != nil || action.State != "UNCONFIRMED" || action.Kind != "" || action.AsOfHash != tip.Hash.String() ||
		len(action.Unconfirmed.Actions) != 1 || action.Unconfirmed.Actions[0].State != "USED" || action.Unconfirmed.Actions[0].Message != "hello" || len(action.Unconfirmed.By) != 2 {
		t.Errorf("%v, %v", action, err)
	}
	identity, err := r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: request, Unconfirmed: true})
	if err != nil || identity.State != "UNCONFIRMED" || identity.MainAddress != "" || identity.Unconfirmed.GetIdentity().GetMainAddress() != rpctest.Address("Y") {
		t.Errorf("%v, %v", identity, err)
	}
	keys, err := r.Client.ListIdentityKeys(t.Context(), &keytreev1.ListIdentityKeysRequest{IdTxHash: request, Unconfirmed: true})
	if err != nil || len(keys.Keys) != 0 || keys.Unconfirmed.GetIdentity().GetKeyCount() != 2 || len(keys.Unconfirmed.Keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	unknown := strings.Repeat("ab", 32)
	for name, err := range map[string]error{
		"action":         second(r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: request})),
		"unknown action": second(r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: unknown, Unconfirmed: true})),
		"identity":       second(r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: request})),
		"unknown":        second(r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: unknown, Unconfirmed: true})),
		"unknown keys":   second(r.Client.ListIdentityKeys(t.Context(), &keytreev1.ListIdentityKeysRequest{IdTxHash: unknown, Unconfirmed: true})),
	} {
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnconfirmedAsOfThePast asks for what comes after a block that is not the tip.
func TestUnconfirmedAsOfThePast(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	r.Suppose(t, "", nil, rpctest.MLR("request", "X", "Y", ""))
	for _, test := range []struct {
		height uint32
		want   codes.Code
	}{{5, codes.InvalidArgument}, {6, codes.OK}, {7, codes.OutOfRange}} {
		_, err := r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{Address: rpctest.Address("X"), AtHeight: &test.height, Unconfirmed: true})
		if status.Code(err) != test.want {
			t.Errorf("as of %d: %v, want %v", test.height, err, test.want)
		}
	}
	response, text := r.Send(t, "GET", "/v1/addresses/"+rpctest.Address("X")+"?at_height=5&unconfirmed=true", "")
	if response.StatusCode != 400 || !strings.Contains(text, "what is unconfirmed comes after the tip, block 6: expected no at_height with it, got 5") {
		t.Errorf("%s %s", response.Status, text)
	}

	// A listing that a block has overtaken goes on as of its own.
	request := &keytreev1.ListAddressActionsRequest{Address: rpctest.Address("child"), AtHeight: proto.Uint32(6), PageSize: 1, Unconfirmed: true}
	page, err := r.Client.ListAddressActions(t.Context(), request)
	if err != nil || !page.Unconfirmed.Available || page.NextPageToken == "" {
		t.Fatalf("%v, %v", page, err)
	}
	r.Connect(t, c.Block())
	request.PageToken = page.NextPageToken
	if page, err = r.Client.ListAddressActions(t.Context(), request); err != nil || len(page.Actions) != 1 || page.Unconfirmed.Available || !strings.Contains(page.Unconfirmed.Reason, "as of block 6") {
		t.Errorf("%v, %v", page, err)
	}
}

// TestListMempool reads what is pending page by page, and what is known of it.
func TestListMempool(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	empty, err := r.Client.ListMempool(t.Context(), &keytreev1.ListMempoolRequest{})
	if err != nil || empty.Mempool.Available || empty.Mempool.Reason == "" || len(empty.Actions) > 0 || empty.AsOfHeight != 6 {
		t.Errorf("%v, %v", empty, err)
	}
	genesis := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 1))
	next := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 2), genesis)
	actions := []links.Action{rpctest.MLR("request", "X", "Y", ""), rpctest.MLA("accept", "Y", "request"), rpctest.MLA("waits", "Y", "nothing"),
		rpctest.MLR("self", "X", "X", ""), {TxID: rpctest.HashOf("nobody"), Action: rpctest.MLR("", "X", "Y", "").Action}}
	r.Suppose(t, "self", []rpctest.AnchorTx{genesis, next}, actions...)
	want := map[string]string{"request": "USED ", "accept": "IN_FORCE ", "waits": "WAITING ", "self": "REFUSED SELF_LINK double", "nobody": "REFUSED NO_AUTHOR"}
	for _, size := range []uint32{1, 2, 3, 5, 6, 100} {
		got, events, last, pages := map[string]string{}, 0, "", 0
		for token := ""; ; pages++ {
			page, err := r.Client.ListMempool(t.Context(), &keytreev1.ListMempoolRequest{PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			if m := page.Mempool; !m.Available || m.Transactions != 7 || m.Omitted != rpctest.Omitted || m.Complete || m.GetComparedAgo() != 0 || page.Height != 7 || len(page.Actions)+len(page.Anchors) > int(size) {
				t.Errorf("page %v", page)
			}
			for _, a := range page.Actions {
				if a.Action.TxHash <= last || a.Transaction.TxHash != a.Action.TxHash || a.Action.Height != 7 {
					t.Errorf("%s comes after %s: %v", a.Action.TxHash, last, a)
				}
				last = a.Action.TxHash
				for name := range want {
					if rpctest.HashOf(name).String() == last {
						got[name] = a.Action.State + " " + a.Action.Reason
						if a.Transaction.DoubleSpend {
							got[name] += " double"
						}
					}
				}
				if (a.Action.AuthorAddress == "") != (last == rpctest.HashOf("nobody").String()) {
					t.Errorf("author of %v", a)
				}
			}
			for _, e := range page.Anchors {
				if e.Event.Type != "ANCHOR_ADDED" || e.Transaction.TxHash != e.Event.TxHash {
					t.Errorf("%v", e)
				}
				events++
			}
			if token = page.NextPageToken; token == "" {
				break
			}
		}
		if !reflect.DeepEqual(got, want) || events != 2 {
			t.Errorf("pages of %d: %v and %d events", size, got, events)
		}
	}
	state, err := r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
	if err != nil || !state.Mempool.Available || state.Mempool.Transactions != 7 || state.Mempool.Omitted != rpctest.Omitted || state.Memory.Pending == 0 {
		t.Errorf("%v, %v", state, err)
	}
	if _, err := r.Client.ListMempool(t.Context(), &keytreev1.ListMempoolRequest{PageToken: "x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a token of no page: %v", err)
	}
	// REST says the same.
	response, text := r.Send(t, "GET", "/v1/mempool?page_size=3", "")
	page := new(keytreev1.ListMempoolResponse)
	if err := protojson.Unmarshal([]byte(text), page); err != nil || response.StatusCode != 200 || len(page.Actions) != 3 || page.NextPageToken == "" {
		t.Errorf("%s %s, %v", response.Status, text, err)
	}
}

// TestUnconfirmedAnchors lets anchors be pending that go on with a chain, break and begin one.
func TestUnconfirmedAnchors(t *testing.T) {
	c, blocks := rpctest.Family()
	open, breaks := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 1)), rpctest.AnchorOf(t, "grandchild", rpctest.Record(rpctest.Domain, 2))
	blocks = append(blocks, c.Anchored(t, nil, open, breaks))
	r := rpctest.New(t, blocks...)
	tip, _ := r.Graph.Tip()
	next, breaker := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 3), open), rpctest.AnchorOf(t, "grandchild", nil, breaks)
	begins := rpctest.AnchorOf(t, "parent", rpctest.Record(rpctest.Domain, 9))
	anchorsOf := keytreev1.NewAnchorServiceClient(r.Conn)
	ask := func(id string) (*keytreev1.AnchorChain, error) {
		return anchorsOf.GetAnchorChain(t.Context(), &keytreev1.GetAnchorChainRequest{ChainTxHash: id, Unconfirmed: true})
	}
	if chain, err := ask(rpctest.ID(open)); err != nil || chain.Unconfirmed.Available || chain.Unconfirmed.Reason == "" {
		t.Errorf("%v, %v", chain, err)
	}
	r.Suppose(t, "", []rpctest.AnchorTx{next, breaker, begins})
	chain, err := ask(rpctest.ID(open))
	if u := chain.GetUnconfirmed(); err != nil || chain.AnchorCount != 1 || !u.Differs || len(u.Chains) != 1 || u.Chains[0].AnchorCount != 2 ||
		u.Chains[0].Last.TxHash != rpctest.ID(next) || u.Chains[0].AsOfHeight != tip.Height+1 || len(u.By) != 1 || u.By[0].TxHash != rpctest.ID(next) {
		t.Errorf("%v, %v", chain, err)
	}
	chain, err = ask(rpctest.ID(breaks))
	if u := chain.GetUnconfirmed(); err != nil || chain.State != "OPEN" || len(u.GetChains()) != 1 || u.Chains[0].State != "BROKEN" || len(u.By) != 1 || u.By[0].TxHash != rpctest.ID(breaker) {
		t.Errorf("%v, %v", chain, err)
	}
	chain, err = ask(rpctest.ID(begins))
	if u := chain.GetUnconfirmed(); err != nil || chain.State != "UNCONFIRMED" || len(u.GetChains()) != 1 || u.Chains[0].State != "OPEN" {
		t.Errorf("%v, %v", chain, err)
	}
	if _, err = ask(strings.Repeat("ab", 32)); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown chain: %v", err)
	}

	for _, size := range []uint32{1, 2, 100} {
		got := map[string]uint32{}
		for token := ""; ; {
			page, err := anchorsOf.ListAnchorChains(t.Context(), &keytreev1.ListAnchorChainsRequest{Domain: rpctest.Domain, PageSize: size, PageToken: token, Unconfirmed: true})
			if err != nil || page.Unconfirmed.More {
				t.Fatalf("%v, %v", page, err)
			}
			for _, chain := range page.Unconfirmed.Chains {
				got[chain.ChainTxHash] = chain.AnchorCount
			}
			if token = page.NextPageToken; token == "" {
				break
			}
		}
		if want := map[string]uint32{rpctest.ID(open): 2, rpctest.ID(breaks): 1, rpctest.ID(begins): 1}; !reflect.DeepEqual(got, want) {
			t.Errorf("pages of %d: %v, want %v", size, got, want)
		}
	}
	for _, test := range []struct {
		request *keytreev1.ListAnchorsRequest
		want    []string
	}{
		{&keytreev1.ListAnchorsRequest{Domain: rpctest.Domain, Unconfirmed: true}, []string{rpctest.ID(next), rpctest.ID(begins)}},
		{&keytreev1.ListAnchorsRequest{ChainTxHash: rpctest.ID(open), Unconfirmed: true}, []string{rpctest.ID(next)}},
		{&keytreev1.ListAnchorsRequest{ChainTxHash: rpctest.ID(breaks), Unconfirmed: true}, nil},
	} {
		page, err := anchorsOf.ListAnchors(t.Context(), test.request)
		if err != nil || page.Unconfirmed.Differs != (len(test.want) > 0) || len(page.Unconfirmed.Anchors) != len(test.want) || len(page.Unconfirmed.By) != len(test.want) {
			t.Errorf("%v, %v", page, err)
			continue
		}
		for _, anchor := range page.Unconfirmed.Anchors {
			if !strings.Contains(strings.Join(test.want, " "), anchor.TxHash) {
				t.Errorf("%v is not of %v", anchor, test.want)
			}
		}
	}
	anchor, err := anchorsOf.GetAnchor(t.Context(), &keytreev1.GetAnchorRequest{TxHash: rpctest.ID(begins), Unconfirmed: true})
	if err != nil || anchor.Anchor != nil || len(anchor.RawTx) > 0 || len(anchor.Unconfirmed.Anchors) != 1 || anchor.Unconfirmed.Anchors[0].Position != 9 {
		t.Errorf("%v, %v", anchor, err)
	}
	if anchor, err = anchorsOf.GetAnchor(t.Context(), &keytreev1.GetAnchorRequest{TxHash: rpctest.ID(open), Unconfirmed: true}); err != nil || anchor.Anchor == nil || !anchor.Unconfirmed.Available || anchor.Unconfirmed.Differs {
		t.Errorf("%v, %v", anchor, err)
	}
	if _, err = anchorsOf.GetAnchor(t.Context(), &keytreev1.GetAnchorRequest{TxHash: rpctest.ID(begins)}); status.Code(err) != codes.NotFound {
		t.Errorf("a pending anchor, as if it were confirmed: %v", err)
	}
}
