package identity_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestChangedAddresses asks since every block what has changed, over both transports, and compares with what BatchResolve
// says of both blocks.
func TestChangedAddresses(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	var addresses []string
	for _, name := range []string{"child", "parent", "grandchild", "stranger", "lone", "child"} {
		addresses = append(addresses, rpctest.Address(name))
	}
	resolved := func(height uint32, omitPath bool) []*keytreev1.Resolution {
		answer, err := r.Client.BatchResolve(t.Context(), &keytreev1.BatchResolveRequest{Addresses: addresses[:5], AtHeight: &height, OmitPath: omitPath})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Resolutions
	}
	var counts []int
	for height, block := range blocks {
		for _, omitPath := range []bool{false, true} {
			request := &keytreev1.ResolveChangedRequest{Addresses: addresses, SinceHeight: uint32(height), SinceHash: block.Hash.String(), OmitPath: omitPath}
			got, err := r.Client.ResolveChanged(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			want := &keytreev1.ResolveChangedResponse{AsOfHeight: 6, AsOfHash: blocks[6].Hash.String()}
			was, is, whole := resolved(uint32(height), false), resolved(6, false), resolved(6, omitPath)
			for i := range was {
				was[i].AsOfHeight, was[i].AsOfHash = is[i].AsOfHeight, is[i].AsOfHash
				if !proto.Equal(was[i], is[i]) {
					want.Resolutions = append(want.Resolutions, whole[i])
				}
			}
			if !proto.Equal(got, want) {
				t.Errorf("since %d: %v, want %v", height, got, want)
			}
			body, _ := rest.JSON.Marshal(request)
			response, answer := r.REST(t, "POST", "/v1/addresses:changed", string(body))
			text, _ := rest.JSON.Marshal(want)
			var same map[string]any
			if json.Unmarshal(text, &same); response.StatusCode != 200 || !reflect.DeepEqual(answer, same) {
				t.Errorf("since %d over REST: %s %v, want %v", height, response.Status, answer, same)
			}
			if omitPath {
				counts = append(counts, len(got.Resolutions))
			}
		}
	}
	if want := []int{3, 3, 2, 1, 1, 2, 0}; !reflect.DeepEqual(counts, want) {
		t.Errorf("%v differ since the blocks, want %v", counts, want)
	}
}

// TestChangedAddressesRefused asks since blocks that are not on the chain, and badly.
func TestChangedAddressesRefused(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	gone := c.Block()
	r.Connect(t, gone)
	r.Disconnect(t, 1)
	child := rpctest.Address("child")
	for name, test := range map[string]struct {
		addresses, since string
		want             int
		field            string
	}{
		"nothing":           {``, `"since_height": 6, "since_hash": "` + blocks[6].Hash.String() + `"`, 400, "addresses"},
		"no address":        {`"x"`, `"since_height": 6, "since_hash": "` + blocks[6].Hash.String() + `"`, 400, "addresses[0]"},
		"no hash":           {`"` + child + `"`, `"since_height": 6`, 400, "since_hash"},
		"another's hash":    {`"` + child + `"`, `"since_height": 5, "since_hash": "` + blocks[6].Hash.String() + `"`, 409, "since_hash"},
		"a block ahead":     {`"` + child + `"`, `"since_height": 7, "since_hash": "` + gone.Hash.String() + `"`, 400, "since_height"},
		"a block with more": {`"` + child + `"`, `"since_height": 6, "since_hash": "` + blocks[6].Hash.String() + `", "at_height": 6`, 400, "body"},
	} {
		response, answer := r.REST(t, "POST", "/v1/addresses:changed", fmt.Sprintf(`{"addresses": [%s], %s}`, test.addresses, test.since))
		if response.StatusCode != test.want || field(answer) != test.field {
			t.Errorf("%s: %s %v, want %d about %s", name, response.Status, answer, test.want, test.field)
		}
	}
	c.Salt, c.Next, c.Prev = "fork", 7, blocks[6].Hash
	r.Connect(t, c.Block())
	response, answer := r.REST(t, "POST", "/v1/addresses:changed", `{"addresses": ["`+child+`"], "since_height": 7, "since_hash": "`+gone.Hash.String()+`"}`)
	if response.StatusCode != 409 || answer["code"] != 10.0 {
		t.Errorf("since a block that was reorganised away: %s %v", response.Status, answer)
	}
}
