package keyserver_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// head fetches the signed head and verifies it.
func head(t *testing.T, r *rpctest.KeyserverRig, server ed25519.PublicKey) (size uint64, root hashchain.Hash) {
	t.Helper()
	h, err := r.Client.GetSignedHead(t.Context(), &keytreev1.GetSignedHeadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	signed := hashchain.SignedHead{
		Head: hashchain.Head{
			AnchorChain: h.AnchorChain, Domain: h.Domain, EntryHash: canonical.Encode(h.EntryHash), Size: h.Size, Time: h.Time, TreeRoot: canonical.Encode(h.TreeRoot),
		},
		ServerSignature: canonical.Encode(h.ServerSignature),
	}
	_, root, err = signed.Verify(server)
	if err != nil {
		t.Fatal(err)
	}
	return h.Size, root
}

// TestKeyserverService makes every call over gRPC, and an auditor's checks.
func TestKeyserverService(t *testing.T) {
	now := time.Now()
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	ctx := t.Context()
	capabilities, err := r.Client.GetCapabilities(ctx, &keytreev1.GetCapabilitiesRequest{})
	if err != nil || len(capabilities.SigPubKeys) != 1 || len(capabilities.Methods) != 13 || capabilities.Domains[0] != rpctest.Domain {
		t.Fatalf("%v, %v", capabilities, err)
	}
	server := ed25519.PublicKey(capabilities.SigPubKeys[0])
	firstSize, firstRoot := head(t, r, server)

	// Create and update.
	key := rpctest.NewKey(1)
	first := rpctest.NewMessage("alice@example.org", base64.StdEncoding.EncodeToString(capabilities.KeyHashchainEntry), key, now)
	created, err := r.Client.CreateUID(ctx, &keytreev1.CreateUIDRequest{UidMessage: string(first.Canonical())})
	if err != nil {
		t.Fatal(err)
	}
	reply := &uid.Reply{
		Entry: uid.Entry{
			HashchainEntry: canonical.Encode(created.HashchainEntry), HashchainPos: created.HashchainPos,
			UIDMessageEncrypted: canonical.Encode(created.UidMessageEncrypted),
		},
		ServerSignature: canonical.Encode(created.ServerSignature),
	}
	if err := reply.Verify(server); err != nil {
		t.Error(err)
	}
	if opened, err := reply.Open(first.Hash()); err != nil || opened.Content.Identity != "alice@example.org" {
		t.Errorf("opened %v, %v", opened, err)
	}
	update := rpctest.NextMessage(first, key, rpctest.NewKey(2))
	key = rpctest.NewKey(2)
	if _, err := r.Client.UpdateUID(ctx, &keytreev1.UpdateUIDRequest{UidMessage: string(update.Canonical())}); err != nil {
		t.Fatal(err)
	}
	for i, letter := range "abcdefghiklmnopqrstu" { // a tree of some height
		r.Register(t, "user"+string(letter)+"@example.org", rpctest.NewKey(byte(10+i)), now)
	}

	// The chain, as a stream and in pages.
	stream, err := r.Client.StreamEntries(ctx, &keytreev1.StreamEntriesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []hashchain.Entry
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || message.FirstPosition != uint64(len(streamed)) {
			t.Fatalf("%v, %v", message, err)
		}
		for _, e := range message.Entries {
			streamed = append(streamed, hashchain.Entry(e))
		}
	}
	entries, chain := r.Chain(t)
	if len(streamed) != len(entries) || len(entries) != 23 {
		t.Fatalf("%d entries streamed, %d on the wire", len(streamed), len(entries))
	}
	for from := uint64(0); from < chain.Size; from += 10 {
		page, err := r.Client.ListEntries(ctx, &keytreev1.ListEntriesRequest{FirstPosition: from, PageSize: 10})
		if err != nil || page.FirstPosition != from || page.TreeSize != chain.Size || len(page.Entries) != int(min(10, chain.Size-from)) {
			t.Fatalf("page from %d: %v, %v", from, page, err)
		}
		for i, e := range page.Entries {
			if position := from + uint64(i); hashchain.Entry(e) != entries[position] || streamed[position] != entries[position] {
				t.Errorf("another entry at position %d", position)
			}
		}
	}

	// Proofs: of each entry, and of each size being the beginning of the present one.
	size, root := head(t, r, server)
	if size != chain.Size || root != chain.Root() {
		t.Fatalf("the signed head is of %d entries", size)
	}
	for position := range size {
		p, err := r.Client.GetInclusionProof(ctx, &keytreev1.GetInclusionProofRequest{Position: position, TreeSize: size})
		if err != nil {
			t.Fatal(err)
		}
		e := hashchain.Entry(p.Entry)
		if err := hashchain.VerifyInclusion(&e, position, size, hashesOf(p.Hashes), root); err != nil {
			t.Errorf("position %d: %v", position, err)
		}
		if err := hashchain.VerifyInclusion(&entries[(position+1)%size], position, size, hashesOf(p.Hashes), root); err == nil {
			t.Errorf("position %d: the proof proves another entry", position)
		}
	}
	p, err := r.Client.GetConsistencyProof(ctx, &keytreev1.GetConsistencyProofRequest{FirstSize: firstSize})
	if err != nil || p.SecondSize != size {
		t.Fatalf("%v, %v", p, err)
	}
	if err := hashchain.VerifyConsistency(firstSize, size, hashesOf(p.Hashes), firstRoot, root); err != nil {
		t.Error(err)
	}

	// Look up and fetch.
	found, err := r.Client.LookupUID(ctx, &keytreev1.LookupUIDRequest{Identity: "alice@example.org"})
	if err != nil || len(found.Positions) != 2 || found.Positions[0] != created.HashchainPos || found.Earlier {
		t.Errorf("%v, %v", found, err)
	}
	found, err = r.Client.LookupUID(ctx, &keytreev1.LookupUIDRequest{Identity: "alice@example.org", LastPosition: &created.HashchainPos})
	if err != nil || len(found.Positions) != 1 || found.Positions[0] != created.HashchainPos || found.Earlier {
		t.Errorf("up to the first one: %v, %v", found, err)
	}
	index := entries[created.HashchainPos].UIDIndex()
	fetched, err := r.Client.FetchUID(ctx, &keytreev1.FetchUIDRequest{UidIndex: index[:]})
	if err != nil || !proto.Equal(fetched, created) {
		t.Errorf("fetched %v, %v; created %v", fetched, err, created)
	}

	// KeyInits.
	init := rpctest.NewKeyInit(t, key, 1, false, now)
	added, err := r.Client.AddKeyInit(ctx, &keytreev1.AddKeyInitRequest{SigPubKey: rpctest.Public(key), KeyInits: []string{string(init.Canonical())}, Tokens: []string{""}})
	if err != nil || len(added.Signatures) != 1 || init.VerifyServer(canonical.Encode(added.Signatures[0]), server) != nil {
		t.Fatalf("%v, %v", added, err)
	}
	hash := uid.SigKeyHash(rpctest.Public(key))
	got, err := r.Client.FetchKeyInit(ctx, &keytreev1.FetchKeyInitRequest{SigKeyHash: hash[:]})
	if err != nil || got.KeyInit != string(init.Canonical()) {
		t.Errorf("%v, %v", got, err)
	}
	nonce := uint64(now.Unix())
	signature, err := canonical.Decode(keyinit.SignFlush(nonce, key), ed25519.SignatureSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Client.FlushKeyInit(ctx, &keytreev1.FlushKeyInitRequest{SigPubKey: rpctest.Public(key), Nonce: nonce, Signature: signature}); err != nil {
		t.Error(err)
	}

	health, err := healthpb.NewHealthClient(r.Conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "keytree.v1.KeyserverService"})
	if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	if _, err := keytreev1.NewIdentityServiceClient(r.Conn).GetStatus(ctx, &keytreev1.GetStatusRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("IdentityService without a graph: %v", err)
	}

	for _, test := range []struct {
		name string
		err  error
		want codes.Code
		says string
	}{
		{"taken", errorOf(r.Client.CreateUID(ctx, &keytreev1.CreateUIDRequest{UidMessage: string(rpctest.NewMessage("alice@example.org", entries[0].String(), key, now).Canonical())})), codes.AlreadyExists, "alice@example.org"},
		{"no message", errorOf(r.Client.CreateUID(ctx, &keytreev1.CreateUIDRequest{})), codes.InvalidArgument, "uid_message: malformed"},
		{"a large message", errorOf(r.Client.UpdateUID(ctx, &keytreev1.UpdateUIDRequest{UidMessage: strings.Repeat(" ", uid.MaxMessage+1)})), codes.InvalidArgument, "at most 65536"},
		{"short index", errorOf(r.Client.FetchUID(ctx, &keytreev1.FetchUIDRequest{UidIndex: index[1:]})), codes.InvalidArgument, "uid_index: expected 32 bytes, got 31"},
		{"unknown index", errorOf(r.Client.FetchUID(ctx, &keytreev1.FetchUIDRequest{UidIndex: make([]byte, 32)})), codes.NotFound, "not found"},
		{"not mapped", errorOf(r.Client.LookupUID(ctx, &keytreev1.LookupUIDRequest{Identity: "A@example.org"})), codes.InvalidArgument, ""},
		{"no link", errorOf(r.Client.GetLink(ctx, &keytreev1.GetLinkRequest{Domain: "example.com"})), codes.NotFound, "example.com"},
		{"page", errorOf(r.Client.ListEntries(ctx, &keytreev1.ListEntriesRequest{PageSize: 10_001})), codes.InvalidArgument, "page_size"},
		{"position", errorOf(r.Client.GetInclusionProof(ctx, &keytreev1.GetInclusionProofRequest{Position: size})), codes.OutOfRange, "23 entries"},
		{"tree size", errorOf(r.Client.GetInclusionProof(ctx, &keytreev1.GetInclusionProofRequest{TreeSize: size + 1})), codes.OutOfRange, "23 entries"},
		{"sizes", errorOf(r.Client.GetConsistencyProof(ctx, &keytreev1.GetConsistencyProofRequest{FirstSize: 5, SecondSize: 4})), codes.OutOfRange, "23 entries"},
		{"no KeyInit", errorOf(r.Client.FetchKeyInit(ctx, &keytreev1.FetchKeyInitRequest{SigKeyHash: hash[:]})), codes.NotFound, ""},
		{"short hash", errorOf(r.Client.FetchKeyInit(ctx, &keytreev1.FetchKeyInitRequest{})), codes.InvalidArgument, "sig_key_hash: expected 64 bytes, got 0"},
		{"KeyInit", errorOf(r.Client.AddKeyInit(ctx, &keytreev1.AddKeyInitRequest{SigPubKey: rpctest.Public(key), KeyInits: []string{"{}"}, Tokens: []string{""}})), codes.InvalidArgument, "key_inits[0]: malformed"},
		{"many", errorOf(r.Client.AddKeyInit(ctx, &keytreev1.AddKeyInitRequest{SigPubKey: rpctest.Public(key), KeyInits: make([]string, 101)})), codes.InvalidArgument, "key_inits: expected at most 100"},
		{"used", errorOf(r.Client.AddKeyInit(ctx, &keytreev1.AddKeyInitRequest{SigPubKey: rpctest.Public(key), KeyInits: []string{string(init.Canonical())}, Tokens: []string{""}})), codes.AlreadyExists, "added before"},
		{"flush", errorOf(r.Client.FlushKeyInit(ctx, &keytreev1.FlushKeyInitRequest{SigPubKey: rpctest.Public(key), Nonce: nonce})), codes.InvalidArgument, ""},
	} {
		if st := status.Convert(test.err); st.Code() != test.want || !strings.Contains(st.Message(), test.says) {
			t.Errorf("%s: %v, want %v and %q", test.name, test.err, test.want, test.says)
		}
	}
	backwards, err := r.Client.StreamEntries(ctx, &keytreev1.StreamEntriesRequest{FirstPosition: 2, LastPosition: proto.Uint64(1)})
	if err == nil {
		_, err = backwards.Recv()
	}
	if status.Code(err) != codes.OutOfRange {
		t.Errorf("backwards: %v", err)
	}
	last, err := r.Client.ListEntries(ctx, &keytreev1.ListEntriesRequest{FirstPosition: math.MaxUint64, PageSize: 10})
	if err != nil || last.FirstPosition != size-1 || len(last.Entries) != 1 {
		t.Errorf("beyond the end: %v, %v", last, err)
	}
}

func hashesOf(all [][]byte) (hashes []hashchain.Hash) {
	for _, h := range all {
		hashes = append(hashes, hashchain.Hash(h))
	}
	return hashes
}

// TestKeyserverREST asks over REST, whose binary looks as on the keyserver's wire.
func TestKeyserverREST(t *testing.T) {
	now := time.Now()
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	entry, _ := r.LastEntry(t)
	message := string(rpctest.NewMessage("alice@example.org", entry, rpctest.NewKey(1), now).Canonical())
	body, err := json.Marshal(map[string]string{"uid_message": message})
	if err != nil {
		t.Fatal(err)
	}
	request := func(method, path, body string) (int, rpctest.Object) {
		t.Helper()
		request, err := http.NewRequest(method, r.REST+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := r.HTTP.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var answer rpctest.Object
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return response.StatusCode, answer
	}
	code, created := request("POST", "/v1/keyserver:createUID", string(body))
	if code != 200 || created["hashchain_pos"] != "1" {
		t.Fatalf("%d %v", code, created)
	}
	entries, _ := r.Chain(t)
	index := entries[1].UIDIndex()
	for _, test := range []struct {
		method, path, body string
		code               int
		field              string
		want               any // nil: not compared
	}{
		{"GET", "/v1/keyserver", "", 200, "key_hashchain_entry", entries[1].String()},
		{"GET", "/v1/keyserver/head", "", 200, "size", "2"},
		{"GET", "/v1/keyserver/entries?first_position=1&page_size=5", "", 200, "first_position", "1"},
		{"GET", "/v1/keyserver/proofs/inclusion?position=1", "", 200, "entry", entries[1].String()},
		{"GET", "/v1/keyserver/proofs/consistency?first_size=1", "", 200, "second_size", "2"},
		{"GET", "/v1/keyserver/identities/alice@example.org", "", 200, "positions", []any{"1"}},
		{"GET", "/v1/keyserver/messages/" + base64.URLEncoding.EncodeToString(index[:]), "", 200, "hashchain_entry", entries[1].String()},
		{"GET", "/healthz", "", 200, "status", "ok"},
		{"GET", "/readyz", "", 200, "ready", true},
		{"POST", "/v1/keyserver:createUID", string(body), 409, "message", nil},
		{"POST", "/v1/keyserver:createUID", "{}", 400, "message", nil},
		{"POST", "/v1/keyserver:createUID", `{"x":1}`, 400, "message", nil},
		{"POST", "/v1/keyserver:updateUID", string(body), 400, "message", nil},
		{"POST", "/v1/keyserver:fetchKeyInit", `{"sig_key_hash":"AAAA"}`, 400, "message", nil},
		{"POST", "/v1/keyserver:flushKeyInit", `{}`, 400, "message", nil},
		{"POST", "/v1/keyserver:addKeyInit", `{}`, 400, "message", nil},
		{"GET", "/v1/keyserver:createUID", "", 405, "message", nil},
		{"POST", "/v1/keyserver/head", "{}", 405, "message", nil},
		{"GET", "/v1/keyserver/head?x=1", "", 400, "message", "x: this call takes no query parameters"},
		{"GET", "/v1/keyserver/entries?first_position=-1", "", 400, "message", `first_position: expected a whole number from 0 to 18446744073709551615, got "-1"`},
		{"GET", "/v1/keyserver/proofs/inclusion?position=2", "", 400, "message", nil},
		{"GET", "/v1/keyserver/messages/AAAA", "", 400, "message", "uid_index: expected 32 bytes, got 3"},
		{"GET", "/v1/keyserver/messages/" + strings.Repeat("A", 43) + "=", "", 404, "message", nil},
		{"GET", "/v1/keyserver/links/example.com", "", 404, "message", nil},
		{"GET", "/v1/status", "", 404, "message", nil}, // no chain is indexed here
	} {
		code, answer := request(test.method, test.path, test.body)
		got, _ := json.Marshal(answer[test.field])
		want, _ := json.Marshal(test.want)
		if code != test.code || test.want != nil && string(got) != string(want) || answer[test.field] == nil {
			t.Errorf("%s %s: %d %v, want %d with %s %s", test.method, test.path, code, answer, test.code, test.field, want)
		}
	}
}

// errorOf is the error of a call.
func errorOf[T any](_ T, err error) error { return err }
