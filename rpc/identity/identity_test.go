package identity_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/indexer"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// call is one question over both transports. The answers must be the same
// message.
type call struct {
	name         string
	method, path string
	body         string
	grpc         func(t *testing.T, r *rpctest.Rig) (proto.Message, error)
	want         string // JSON, as REST answers
}

func TestAnswers(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	r.Follower.Set(indexer.Status{Checked: true, Synced: true, NodeHeight: 6, NodeHeaders: 8, NodePeers: 3,
		NodeVersion: "/a node:1/", NodeAnswered: time.Now().Add(time.Hour)}) // less than a second ago, however long the test takes
	tip, _ := r.Graph.Tip()
	second, err := r.Graph.Events(2, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	tx := func(name string) string { return rpctest.HashOf(name).String() }
	block := func(height int) string { return blocks[height].Hash.String() }
	fill := strings.NewReplacer(
		"@parent", rpctest.Address("parent"), "@child", rpctest.Address("child"), "@grandchild", rpctest.Address("grandchild"), "@lone", rpctest.Address("lone"),
		"@block4", block(4), "@block6", block(6), "@block1", block(1), "@block2", block(2),
		"@state2", fmt.Sprintf("%x", second.StateHash), "@state", fmt.Sprintf("%x", tip.StateHash),
		"@root2", fmt.Sprintf("%x", second.StateRoot), "@root", fmt.Sprintf("%x", tip.StateRoot),
		"#mlr1", tx("mlr1"), "#mla1", tx("mla1"), "#mcr1", tx("mcr1"), "#mlr2", tx("mlr2"), "#mla2", tx("mla2"),
		"#mlr3", tx("mlr3"), "#mla3", tx("mla3"), "#bad", tx("bad"), "#early", tx("early"), "#nowhere", tx("nowhere"),
	)
	lone := fill.Replace(`{"address": "@lone", "id_tx_hash": "", "main_address": "@lone", "parent_address": "",
		"path": ["@lone"], "path_truncated": false, "depth": 0, "accept_tx_hash": "", "as_of_height": 6, "as_of_hash": "@block6"}`)

	for _, test := range []call{{
		name: "status", method: "GET", path: "/v1/status",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
		},
		want: `{"network": "regtest", "start_height": 0, "tip_height": 6, "tip_hash": "@block6", "node_height": 6, "node_headers": 8, "node_peers": 3, "synced": true, "unsynced": "",
			"node_version": "/a node:1/", "node_answered_ago": 0,
			"state_hash": "@state", "state_root": "@root", "counts": {"links": 2, "identities": 1, "refused": 1, "waiting": 1},
			"memory": {"links": "720", "waiting": "120", "fixed": "92274688", "most": "402653184", "keys_left": "1203579", "pending": "0", "followed": "0"},
			"mempool": {"available": false, "hints": "", "double_spend_proofs": false, "listed": 0, "conflicts": 0, "unestablished": 0, "unread": 0, "reason": "the node's mempool is not known as of the tip: the node is behind or elsewhere, was not asked yet since the tip came, or the server does not watch its mempool",
				"transactions": 0, "omitted": 0, "complete": false}}`,
	}, {
		name: "resolve a key that was never linked", method: "GET", path: "/v1/addresses/" + rpctest.Address("lone"),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{Address: rpctest.Address("lone")})
		},
		want: lone,
	}, {
		name: "resolve as of an earlier block, colon escaped", method: "GET",
		path: "/v1/addresses/" + strings.Replace(rpctest.Address("grandchild"), ":", "%3A", 1) + "?at_height=4",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{
				Address: strings.TrimPrefix(rpctest.Address("grandchild"), "bchreg:"), AtHeight: proto.Uint32(4)})
		},
		want: `{"address": "@grandchild", "id_tx_hash": "#mlr1", "main_address": "@parent", "parent_address": "@child",
			"path": ["@grandchild", "@child", "@parent"], "path_truncated": false, "depth": 2, "accept_tx_hash": "#mla2",
			"as_of_height": 4, "as_of_hash": "@block4"}`,
	}, {
		name: "resolve several without paths", method: "POST", path: "/v1/addresses:batchResolve",
		body: fill.Replace(`{"addresses": ["@child", "@child"], "at_height": 6, "omit_path": true}`),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.BatchResolve(t.Context(), &keytreev1.BatchResolveRequest{
				Addresses: []string{rpctest.Address("child"), rpctest.Address("child")}, AtHeight: proto.Uint32(6), OmitPath: true})
		},
		want: func() string {
			one := `{"address": "@child", "id_tx_hash": "#mlr1", "main_address": "@parent", "parent_address": "@parent",
				"path": [], "path_truncated": false, "depth": 1, "accept_tx_hash": "#mla3", "as_of_height": 6, "as_of_hash": "@block6"}`
			return `{"resolutions": [` + one + `,` + one + `], "as_of_height": 6, "as_of_hash": "@block6"}`
		}(),
	}, {
		name: "an identity", method: "GET", path: "/v1/identities/" + tx("mlr1"),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: tx("mlr1")})
		},
		want: `{"id_tx_hash": "#mlr1", "state": "CURRENT", "merged_into": "", "main_address": "@parent", "key_count": 3,
			"named_by": {"tx_hash": "#mlr1", "height": 1}, "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "a merged identity, in upper case", method: "GET", path: "/v1/identities/" + strings.ToUpper(tx("mcr1")),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: tx("mcr1"), AtHeight: proto.Uint32(6)})
		},
		want: `{"id_tx_hash": "#mcr1", "state": "MERGED", "merged_into": "#mlr1", "main_address": "@parent", "key_count": 3,
			"named_by": {"tx_hash": "#mcr1", "height": 5}, "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "the keys of an identity", method: "GET", path: "/v1/identities/" + tx("mlr1") + "/keys?at_height=4&page_size=1000",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ListIdentityKeys(t.Context(), &keytreev1.ListIdentityKeysRequest{IdTxHash: tx("mlr1"), AtHeight: proto.Uint32(4)})
		},
		want: `{"keys": [
				{"address": "@parent", "parent_address": "", "depth": 0, "accept_tx_hash": "", "linked_height": 0},
				{"address": "@child", "parent_address": "@parent", "depth": 1, "accept_tx_hash": "#mla1", "linked_height": 2},
				{"address": "@grandchild", "parent_address": "@child", "depth": 2, "accept_tx_hash": "#mla2", "linked_height": 3}],
			"next_page_token": "", "as_of_height": 4, "as_of_hash": "@block4"}`,
	}, {
		name: "a request that was used", method: "GET", path: "/v1/actions/" + tx("mlr1"),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: tx("mlr1")})
		},
		want: `{"tx_hash": "#mlr1", "kind": "MLR", "author_address": "@child", "child_address": "@child", "parent_address": "@parent",
			"reference": "", "ref_tx_hash": "", "message": "hi �!", "message_hex": "686920ff21", "state": "USED", "reason": "",
			"height": 1, "tx_index": 1, "decided_height": 2, "by_tx_hash": "#mla1", "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "an accept in force as of an earlier block", method: "GET", path: "/v1/actions/" + tx("mla1") + "?at_height=4",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: tx("mla1"), AtHeight: proto.Uint32(4)})
		},
		want: `{"tx_hash": "#mla1", "kind": "MLA", "author_address": "@parent", "child_address": "@child", "parent_address": "@parent",
			"reference": "#mlr1", "ref_tx_hash": "#mlr1", "message": "", "message_hex": "", "state": "IN_FORCE", "reason": "",
			"height": 2, "tx_index": 1, "decided_height": 2, "by_tx_hash": "", "as_of_height": 4, "as_of_hash": "@block4"}`,
	}, {
		name: "a waiting accept", method: "GET", path: "/v1/actions/" + tx("early"),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: tx("early")})
		},
		want: `{"tx_hash": "#early", "kind": "MLA", "author_address": "@parent", "child_address": "", "parent_address": "",
			"reference": "#nowhere", "ref_tx_hash": "", "message": "", "message_hex": "", "state": "WAITING", "reason": "",
			"height": 4, "tx_index": 2, "decided_height": 4, "by_tx_hash": "", "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "a refused request", method: "GET", path: "/v1/actions/" + tx("bad"),
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: tx("bad")})
		},
		want: `{"tx_hash": "#bad", "kind": "MLR", "author_address": "", "child_address": "", "parent_address": "@parent",
			"reference": "", "ref_tx_hash": "", "message": "", "message_hex": "", "state": "REFUSED", "reason": "NO_AUTHOR",
			"height": 4, "tx_index": 1, "decided_height": 4, "by_tx_hash": "", "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "the actions about a key", method: "GET", path: "/v1/addresses/" + rpctest.Address("grandchild") + "/actions",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ListAddressActions(t.Context(), &keytreev1.ListAddressActionsRequest{Address: rpctest.Address("grandchild")})
		},
		want: `{"actions": [
				{"tx_hash": "#mlr2", "kind": "MLR", "author_address": "@grandchild", "child_address": "@grandchild", "parent_address": "@child",
				"reference": "", "ref_tx_hash": "", "message": "", "message_hex": "", "state": "USED", "reason": "",
				"height": 3, "tx_index": 1, "decided_height": 3, "by_tx_hash": "#mla2", "as_of_height": 6, "as_of_hash": "@block6"},
				{"tx_hash": "#mla2", "kind": "MLA", "author_address": "@child", "child_address": "@grandchild", "parent_address": "@child",
				"reference": "#mlr2", "ref_tx_hash": "#mlr2", "message": "", "message_hex": "", "state": "IN_FORCE", "reason": "",
				"height": 3, "tx_index": 2, "decided_height": 3, "by_tx_hash": "", "as_of_height": 6, "as_of_hash": "@block6"}],
			"next_page_token": "", "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "the requests asked of a key", method: "GET", path: "/v1/addresses/" + rpctest.Address("parent") + "/requests?state=all&page_size=3",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ListAddressRequests(t.Context(), &keytreev1.ListAddressRequestsRequest{Address: rpctest.Address("parent"), State: "all", PageSize: 3})
		},
		want: `{"requests": [
				{"tx_hash": "#mlr3", "child_address": "@child", "message": "", "message_hex": "", "state": "ACCEPTED", "reason": "",
				"height": 6, "tx_index": 1, "decided_height": 6, "accept_tx_hash": "#mla3", "revoke_tx_hash": ""},
				{"tx_hash": "#bad", "child_address": "", "message": "", "message_hex": "", "state": "REFUSED", "reason": "NO_AUTHOR",
				"height": 4, "tx_index": 1, "decided_height": 4, "accept_tx_hash": "", "revoke_tx_hash": ""},
				{"tx_hash": "#mlr1", "child_address": "@child", "message": "hi \ufffd!", "message_hex": "686920ff21", "state": "CUT", "reason": "",
				"height": 1, "tx_index": 1, "decided_height": 5, "accept_tx_hash": "#mla1", "revoke_tx_hash": "#mcr1"}],
			"next_page_token": "", "as_of_height": 6, "as_of_hash": "@block6"}`,
	}, {
		name: "the links below a key", method: "GET", path: "/v1/addresses/" + rpctest.Address("parent") + "/links?at_height=4",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ListAddressLinks(t.Context(), &keytreev1.ListAddressLinksRequest{Address: rpctest.Address("parent"), AtHeight: proto.Uint32(4)})
		},
		want: `{"links": [{"child_address": "@child", "accept_tx_hash": "#mla1", "linked_height": 2, "state": "IN_FORCE", "has_links": true}],
			"next_page_token": "", "as_of_height": 4, "as_of_hash": "@block4"}`,
	}, {
		name: "the events of a block", method: "GET", path: "/v1/events?from_height=2&to_height=2",
		grpc: func(t *testing.T, r *rpctest.Rig) (proto.Message, error) {
			return r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{FromHeight: proto.Uint32(2), ToHeight: proto.Uint32(2)})
		},
		want: `{"blocks": [{"type": "CONNECT", "height": 2, "hash": "@block2", "prev_hash": "@block1", "state_hash": "@state2", "state_root": "@root2", "time": 0, "more": false, "events": [
				{"type": "LINK_FORMED", "kind": "", "reason": "", "tx_hash": "#mla1", "ref_tx_hash": "#mlr1", "reference": "",
				"child_address": "@child", "parent_address": "@parent", "author_address": "", "id_tx_hash": "#mlr1", "merged_into": "", "main_address": "", "anchor": null},
				{"type": "IDENTITY_NAMED", "kind": "", "reason": "", "tx_hash": "", "ref_tx_hash": "", "reference": "",
				"child_address": "", "parent_address": "", "author_address": "", "id_tx_hash": "#mlr1", "merged_into": "", "main_address": "@parent", "anchor": null}]}],
			"next_page_token": "", "as_of_height": 2, "as_of_hash": "@block2"}`,
	}} {
		t.Run(test.name, func(t *testing.T) {
			var want map[string]any
			if err := json.Unmarshal([]byte(fill.Replace(test.want)), &want); err != nil {
				t.Fatal(err)
			}
			response, overREST := r.REST(t, test.method, test.path, test.body)
			if response.StatusCode != http.StatusOK || !reflect.DeepEqual(overREST, want) {
				t.Errorf("REST answers %d\n%v\nwant\n%v", response.StatusCode, overREST, want)
			}
			message, err := test.grpc(t, r)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			var overGRPC map[string]any
			if err := json.Unmarshal(raw, &overGRPC); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(overGRPC, want) {
				t.Errorf("gRPC answers\n%v\nwant\n%v", overGRPC, want)
			}
		})
	}
}

// TestSpellingsOfAnAddress sends each form that goes in and expects the one that
// comes out.
func TestSpellingsOfAnAddress(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	for _, spelling := range []string{
		rpctest.Address("child"),
		strings.ToUpper(rpctest.Address("child")),
		strings.TrimPrefix(rpctest.Address("child"), "bchreg:"),
	} {
		response, answer := r.REST(t, "GET", "/v1/addresses/"+spelling, "")
		if response.StatusCode != 200 || answer["address"] != rpctest.Address("child") {
			t.Errorf("%s: %d %v", spelling, response.StatusCode, answer)
		}
	}
}

func TestBatchOfTheMostAddresses(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	addresses := make([]string, 10_000)
	for i := range addresses {
		addresses[i] = rpctest.Address(fmt.Sprint("key ", i))
	}
	addresses[9_999] = rpctest.Address("child")
	body, err := json.Marshal(map[string]any{"addresses": addresses})
	if err != nil {
		t.Fatal(err)
	}
	response, answer := r.REST(t, "POST", "/v1/addresses:batchResolve", string(body))
	if response.StatusCode != 200 {
		t.Fatal(response.StatusCode, answer)
	}
	resolutions := answer["resolutions"].([]any)
	if len(resolutions) != len(addresses) {
		t.Fatalf("%d answers to %d addresses", len(resolutions), len(addresses))
	}
	for i, resolution := range resolutions {
		if got := resolution.(map[string]any)["address"]; got != addresses[i] {
			t.Fatalf("answer %d is about %v, want %s", i, got, addresses[i])
		}
	}
	if got := resolutions[9_999].(map[string]any)["id_tx_hash"]; got != rpctest.HashOf("mlr1").String() {
		t.Errorf("the last address has identity %v", got)
	}
}
