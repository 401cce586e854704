package identity_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// field reads the field that an error is about from its JSON.
func field(answer map[string]any) string {
	details, _ := answer["details"].([]any)
	for _, detail := range details {
		for _, violation := range detail.(map[string]any)["field_violations"].([]any) {
			return violation.(map[string]any)["field"].(string)
		}
	}
	return ""
}

func TestBadRESTInput(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	before, _ := r.Graph.Tip()

	wrongSum := rpctest.Address("child")[:len(rpctest.Address("child"))-1] + "q"
	if wrongSum == rpctest.Address("child") {
		wrongSum = rpctest.Address("child")[:len(rpctest.Address("child"))-1] + "p"
	}
	mainnet := protocol.FormatAddress(rpctest.Key("child"), &chaincfg.MainNetParams)
	good, id, short := rpctest.Address("child"), rpctest.HashOf("mlr1").String(), rpctest.HashOf("mlr1").String()[2:]
	_, firstPage := r.REST(t, "GET", "/v1/identities/"+id+"/keys?page_size=1", "")
	token := firstPage["next_page_token"].(string)
	if token == "" {
		t.Fatal("three keys in pages of one: no second page")
	}
	const batch = "/v1/addresses:batchResolve"

	for _, test := range []struct {
		method, path, body string
		want               int
		field, says        string
	}{
		{"GET", "/v1/status?x=1", "", 400, "x", "takes no query parameters"},

		{"GET", "/v1/addresses/", "", 400, "address", "got nothing"},
		{"GET", "/v1/addresses/" + wrongSum, "", 400, "address", "checksum"},
		{"GET", "/v1/addresses/" + mainnet, "", 400, "address", "bchreg"},
		{"GET", "/v1/addresses/" + strings.Repeat("q", 5000), "", 400, "address", "got 5000"},
		{"GET", "/v1/addresses/%ff%fe", "", 400, "address", "address"},
		{"GET", "/v1/addresses/" + good + "?at_height=7", "", 400, "at_height", "from 0 (start height) to 6 (tip), got 7"},
		{"GET", "/v1/addresses/" + good + "?at_height=4294967295", "", 400, "at_height", "got 4294967295"},
		{"GET", "/v1/addresses/" + good + "?at_height=4294967296", "", 400, "at_height", "expected a whole number"},
		{"GET", "/v1/addresses/" + good + "?at_height=-1", "", 400, "at_height", `got "-1"`},
		{"GET", "/v1/addresses/" + good + "?at_height=", "", 400, "at_height", `got ""`},
		{"GET", "/v1/addresses/" + good + "?at_height=0x5", "", 400, "at_height", `got "0x5"`},
		{"GET", "/v1/addresses/" + good + "?at_height=1&at_height=2", "", 400, "at_height", "given 2 times"},
		{"GET", "/v1/addresses/" + good + "?at_heigth=1", "", 400, "at_heigth", "expected one of at_height"},
		{"GET", "/v1/addresses/" + good + "?atHeight=1", "", 400, "atHeight", "expected one of at_height"},
		{"GET", "/v1/addresses/" + good + "?address=x", "", 400, "address", "expected one of at_height"},
		{"GET", "/v1/addresses/" + good + "?at_height=%zz", "", 400, "query", "%zz"},
		{"GET", "/v1/addresses/" + good + "?" + strings.Repeat("y", 5000) + "=1", "", 400, strings.Repeat("y", 100) + "...", "unknown query parameter"},

		{"POST", batch, "", 400, "body", "got nothing"},
		{"POST", batch, " \n", 400, "body", "got nothing"},
		{"POST", batch, "{", 400, "body", "no JSON"},
		{"POST", batch, `{"addresses": []} x`, 400, "body", "no JSON"},
		{"POST", batch, `[]`, 400, "body", "unexpected token ["},
		{"POST", batch, `{"adresses": []}`, 400, "body", `unknown field "adresses"`},
		{"POST", batch, `{"addresses": 5}`, 400, "body", "unexpected token 5"},
		{"POST", batch, `{"addresses": ["` + good + `"], "at_height": -1}`, 400, "body", "-1"},
		{"POST", batch, "{}", 400, "addresses", "expected 1 to 10000 addresses, got 0"},
		{"POST", batch, `{"addresses": ["` + good + `", "nonsense"]}`, 400, "addresses[1]", "nonsense"},
		{"POST", batch, `{"addresses": ["` + good + `", ""]}`, 400, "addresses[1]", "got nothing"},
		{"POST", batch, `{"addresses": ["` + good + `"], "at_height": 7}`, 400, "at_height", "got 7"},
		{"POST", batch, `{"addresses": ["` + strings.Repeat(good+`","`, 10_000) + good + `"]}`, 400, "addresses", "got 10001"},
		{"POST", batch, `{"addresses": ["` + strings.Repeat("q", 2<<20) + `"]}`, 413, "body", "at most 2097152 bytes"},
		{"POST", batch + "?at_height=1", `{"addresses": ["` + good + `"]}`, 400, "at_height", "takes no query parameters"},

		{"GET", "/v1/identities/" + short, "", 400, "id_tx_hash", "expected 64 hex characters, got 62"},
		{"GET", "/v1/identities/" + id + "?at_height=7", "", 400, "at_height", "got 7"},
		{"GET", "/v1/identities/" + id + "?at_height=0", "", 404, "id_tx_hash", "as of height 0"},
		{"GET", "/v1/identities/" + rpctest.HashOf("nothing").String(), "", 404, "id_tx_hash", rpctest.HashOf("nothing").String()},

		{"GET", "/v1/identities/" + short + "/keys", "", 400, "id_tx_hash", "got 62"},
		{"GET", "/v1/identities/" + rpctest.HashOf("nothing").String() + "/keys", "", 404, "id_tx_hash", "no identity"},
		{"GET", "/v1/identities/" + id + "/keys?at_height=7", "", 400, "at_height", "got 7"},
		{"GET", "/v1/identities/" + id + "/keys?page_size=1001", "", 400, "page_size", "expected at most 1000, got 1001"},
		{"GET", "/v1/identities/" + id + "/keys?page_token=x", "", 400, "page_token", "not a page token"},
		{"GET", "/v1/identities/" + id + "/keys?page_token=" + token[1:], "", 400, "page_token", "not a page token"},
		{"GET", "/v1/identities/" + id + "/keys?at_height=6&page_token=" + token, "", 400, "page_token", "another query"},
		{"GET", "/v1/identities/" + rpctest.HashOf("mcr1").String() + "/keys?page_token=" + token, "", 400, "page_token", "another query"},
		{"GET", "/v1/identities/" + id + "/keys?sort=up", "", 400, "sort", "expected one of at_height, page_size, page_token"},

		{"GET", "/v1/actions/" + short, "", 400, "tx_hash", "got 62"},
		{"GET", "/v1/actions/" + "g" + short + "0", "", 400, "tx_hash", "got 'g' as character 1"},
		{"GET", "/v1/actions/" + id + "?at_height=7", "", 400, "at_height", "got 7"},
		{"GET", "/v1/actions/" + id + "?at_height=0", "", 404, "tx_hash", "as of height 0"},

		{"GET", "/v1/addresses/" + wrongSum + "/actions", "", 400, "address", "checksum"},
		{"GET", "/v1/addresses/" + good + "/actions?at_height=7", "", 400, "at_height", "got 7"},
		{"GET", "/v1/addresses/" + good + "/actions?page_size=-5", "", 400, "page_size", `got "-5"`},
		{"GET", "/v1/addresses/" + good + "/actions?page_token=" + token, "", 400, "page_token", "another query"},

		{"GET", "/v1/events?from_height=7", "", 400, "from_height", "got 7"},
		{"GET", "/v1/events?to_height=7", "", 400, "to_height", "got 7"},
		{"GET", "/v1/events?from_height=3&to_height=2", "", 400, "to_height", "expected at least from_height, 3, got 2"},
		{"GET", "/v1/events?page_size=10001", "", 400, "page_size", "expected at most 10000"},
		{"GET", "/v1/events?page_token=" + token, "", 400, "page_token", "another query"},
	} {
		name := test.method + " " + test.path + " " + test.body
		t.Run(name[:min(len(name), 100)], func(t *testing.T) {
			response, answer := r.REST(t, test.method, test.path, test.body)
			message := answer["message"].(string)
			if response.StatusCode != test.want || field(answer) != test.field || !strings.Contains(message, test.says) {
				t.Errorf("got %d, field %q, %q\nwant %d, field %q, a message with %q", response.StatusCode, field(answer), message, test.want, test.field, test.says)
			}
			if !strings.HasPrefix(message, test.field+": ") || len(message) > 600 || strings.Contains(message, "goroutine") {
				t.Errorf("not a message that helps: %q", message)
			}
		})
	}
	if after, _ := r.Graph.Tip(); after != before {
		t.Errorf("bad input changed the graph: %v, before %v", after, before)
	}
}

func TestBadGRPCInput(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	before, _ := r.Graph.Tip()
	good, id, short := rpctest.Address("child"), rpctest.HashOf("mlr1").String(), rpctest.HashOf("mlr1").String()[2:]
	seven := proto.Uint32(7)
	first, err := r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	token := first.NextPageToken

	type errorOf func() error
	watch := func(request *keytreev1.WatchRequest) errorOf {
		return func() error {
			stream, err := r.Client.Watch(t.Context(), request)
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		}
	}
	for _, test := range []struct {
		name  string
		call  errorOf
		want  codes.Code
		field string
		says  string
	}{
		{"ResolveAddress: no address", func() error {
			_, err := r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{})
			return err
		}, codes.InvalidArgument, "address", "got nothing"},
		{"ResolveAddress: beyond the tip", func() error {
			_, err := r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{Address: good, AtHeight: seven})
			return err
		}, codes.OutOfRange, "at_height", "from 0 (start height) to 6 (tip), got 7"},
		{"BatchResolve: nothing", func() error {
			_, err := r.Client.BatchResolve(t.Context(), &keytreev1.BatchResolveRequest{})
			return err
		}, codes.InvalidArgument, "addresses", "got 0"},
		{"BatchResolve: one bad", func() error {
			_, err := r.Client.BatchResolve(t.Context(), &keytreev1.BatchResolveRequest{Addresses: []string{good, good + "q"}})
			return err
		}, codes.InvalidArgument, "addresses[1]", "checksum"},
		{"BatchResolve: over the message limit", func() error {
			_, err := r.Client.BatchResolve(t.Context(), &keytreev1.BatchResolveRequest{Addresses: []string{strings.Repeat("q", 2<<20)}})
			return err
		}, codes.ResourceExhausted, "", "2097152"},
		{"GetIdentity: 31 bytes", func() error {
			_, err := r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: short})
			return err
		}, codes.InvalidArgument, "id_tx_hash", "expected 64 hex characters, got 62"},
		{"GetIdentity: not an identity", func() error {
			_, err := r.Client.GetIdentity(t.Context(), &keytreev1.GetIdentityRequest{IdTxHash: rpctest.HashOf("mla1").String()})
			return err
		}, codes.NotFound, "id_tx_hash", "no identity"},
		{"ListIdentityKeys: token of another query", func() error {
			_, err := r.Client.ListIdentityKeys(t.Context(), &keytreev1.ListIdentityKeysRequest{IdTxHash: id, PageToken: token})
			return err
		}, codes.InvalidArgument, "page_token", "another query"},
		{"GetAction: not an action", func() error {
			_, err := r.Client.GetAction(t.Context(), &keytreev1.GetActionRequest{TxHash: rpctest.HashOf("nothing").String()})
			return err
		}, codes.NotFound, "tx_hash", "no action"},
		{"ListAddressActions: page too large", func() error {
			_, err := r.Client.ListAddressActions(t.Context(), &keytreev1.ListAddressActionsRequest{Address: good, PageSize: 1001})
			return err
		}, codes.InvalidArgument, "page_size", "at most 1000"},
		{"ListAddressRequests: no such state", func() error {
			_, err := r.Client.ListAddressRequests(t.Context(), &keytreev1.ListAddressRequestsRequest{Address: good, State: "USED"})
			return err
		}, codes.InvalidArgument, "state", "expected open, accepted, cut, refused or all"},
		{"ListAddressLinks: token of another query", func() error {
			_, err := r.Client.ListAddressLinks(t.Context(), &keytreev1.ListAddressLinksRequest{Address: good, PageToken: token})
			return err
		}, codes.InvalidArgument, "page_token", "another query"},
		{"ListEvents: beyond the tip", func() error {
			_, err := r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{FromHeight: seven})
			return err
		}, codes.OutOfRange, "from_height", "got 7"},
		{"ListEvents: another range", func() error {
			_, err := r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{ToHeight: proto.Uint32(6), PageToken: token})
			return err
		}, codes.InvalidArgument, "page_token", "another query"},
		{"Watch: two beyond the tip", watch(&keytreev1.WatchRequest{FromHeight: proto.Uint32(8)}),
			codes.OutOfRange, "from_height", "to 7 (one beyond the tip), got 8"},
		{"Watch: 31 bytes", watch(&keytreev1.WatchRequest{FromHeight: seven, KnownHash: short}),
			codes.InvalidArgument, "known_hash", "got 62"},
		{"Watch: a hash without a height", watch(&keytreev1.WatchRequest{KnownHash: id}),
			codes.InvalidArgument, "from_height", "got nothing"},
		{"Watch: a hash before the first block", watch(&keytreev1.WatchRequest{FromHeight: proto.Uint32(0), KnownHash: id}),
			codes.OutOfRange, "from_height", "more than 0"},
		{"Watch: an unknown block", watch(&keytreev1.WatchRequest{FromHeight: seven, KnownHash: id}),
			codes.FailedPrecondition, "known_hash", "start again from a lower height"},
	} {
		t.Run(test.name, func(t *testing.T) {
			st := status.Convert(test.call())
			var field string
			for _, detail := range st.Details() {
				field = detail.(*errdetails.BadRequest).FieldViolations[0].Field
			}
			if st.Code() != test.want || field != test.field || !strings.Contains(st.Message(), test.says) {
				t.Errorf("got %v, field %q, %q\nwant %v, field %q, a message with %q", st.Code(), field, st.Message(), test.want, test.field, test.says)
			}
		})
	}
	if after, _ := r.Graph.Tip(); after != before {
		t.Errorf("bad input changed the graph: %v, before %v", after, before)
	}

	t.Run("a listing whose block is gone", func(t *testing.T) {
		keys := &keytreev1.ListIdentityKeysRequest{IdTxHash: id, PageSize: 1}
		page, err := r.Client.ListIdentityKeys(t.Context(), keys)
		if err != nil {
			t.Fatal(err)
		}
		keys.PageToken = page.NextPageToken
		events := &keytreev1.ListEventsRequest{PageToken: token}
		check := func(when string) {
			t.Helper()
			for call, err := range map[string]error{
				"ListIdentityKeys": second(r.Client.ListIdentityKeys(t.Context(), keys)),
				"ListEvents":       second(r.Client.ListEvents(t.Context(), events)),
			} {
				if st := status.Convert(err); st.Code() != codes.Aborted || !strings.Contains(st.Message(), fmt.Sprint("block 6, ", blocks[6].Hash)) {
					t.Errorf("%s, %s: %v, want Aborted naming the block", call, when, err)
				}
			}
		}
		r.Disconnect(t, 1)
		check("with a lower tip")
		other := rpctest.Chain{Next: 6, Prev: blocks[5].Hash, Salt: "other"}
		r.Connect(t, other.Block())
		check("with another block")
	})
}

func second[T any](_ T, err error) error { return err }
