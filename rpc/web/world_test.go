package web_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// tokens takes each token once, and none as well.
type tokens struct{}

// Check implements keyserver.Tokens.
func (tokens) Check(text string) (id token.ID, spend bool, err error) {
	return sha256.Sum256([]byte(text)), text != "", nil
}

// PublicKey implements keyserver.Tokens.
func (tokens) PublicKey() string { return "anything" }

// world is a server with an index and a keyserver that have something of everything, and
// two beside it that refuse: one is too busy, what the other would ask has failed.
type world struct {
	*rpctest.Rig
	busy, failed *rpctest.Rig

	keyserver *keyserver.Service
	chain     string // txid of a genesis anchor
	pending   string // of an anchor that is pending
	breaker   string // of the transaction that broke another chain, and is no anchor
	first     string // hash of block 1

	stale map[string]string // by call, a page token whose block was reorganised away
}

// linkAuthority may vouch for links to other keyservers.
const linkAuthority = 77

func newWorld(t *testing.T) *world {
	c, blocks := rpctest.Family()
	genesis := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 1))
	broken := rpctest.AnchorOf(t, "grandchild", rpctest.Record(rpctest.Domain, 2))
	breaker := rpctest.AnchorOf(t, "grandchild", nil, broken)
	blocks = append(blocks,
		c.Block(rpctest.MLR("second request", "second child", "child", ""), rpctest.MLA("second accept", "child", "second request")),
		c.Anchored(t, nil, genesis, broken),
		c.Anchored(t, nil, rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 3), genesis), breaker),
		c.Block())

	dir := rpctest.Dir(t)
	service, err := keyserver.Open(t.Context(), keyserver.Options{
		Domain: rpctest.Domain, Dir: filepath.Join(dir, "keyserver"), KeyFile: filepath.Join(dir, "key"), Tokens: tokens{},
		LinkAuthority: rpctest.Public(rpctest.NewKey(linkAuthority)), PaidFetch: true, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Close() })
	w := &world{keyserver: service, chain: rpctest.ID(genesis), breaker: rpctest.ID(breaker), first: blocks[1].Hash.String(), stale: make(map[string]string)}
	states := new(rpctest.StateLog)
	w.Rig = rpctest.NewOf(t, rpc.Config{Keyserver: service, StateLog: states, Origins: []string{"*"}, Version: "test", DialLinks: purse{someLink(t).Raw()}.dial, SignInKey: signInKey()}, blocks...)

	limits := admission.DefaultLimits()
	limits.Work = admission.Budget{All: 1000, One: 1}
	w.busy = new(rpctest.Rig)
	w.busy.Serve(t, rpc.Config{
		Graph: w.Graph, Indexer: w.Follower, Net: rpctest.Net, Keyserver: service, Admission: admission.New(admission.Config{Limits: limits}),
	})
	failed := new(rpc.Part)
	failed.Fail()
	w.failed = new(rpctest.Rig)
	w.failed.Serve(t, rpc.Config{IndexPart: failed, KeyserverPart: failed})

	for call, path := range map[string]string{
		"ListIdentityKeys":    "/v1/identities/" + tx("mlr1") + "/keys?page_size=1",
		"ListIdentityChanges": "/v1/identities/" + tx("mlr1") + "/changes?page_size=1",
		"ListAddressActions":  "/v1/addresses/" + rpctest.Address("child") + "/actions?page_size=1",
		"ListAddressRequests": "/v1/addresses/" + rpctest.Address("parent") + "/requests?page_size=1&state=all",
		"ListAddressLinks":    "/v1/addresses/" + rpctest.Address("child") + "/links?page_size=1",
		"ListEvents":          "/v1/events?page_size=1",
		"ListAnchors":         "/v1/anchors?page_size=1&chain_tx_hash=" + w.chain,
		"ListAnchorChains":    "/v1/anchors/chains?page_size=1&domain=" + rpctest.Domain,
	} {
		_, answer := w.REST(t, "GET", path, "")
		token, _ := answer["next_page_token"].(string)
		if token == "" {
			t.Fatalf("%s has no second page: %v", path, answer)
		}
		w.stale[call] = path + "&page_token=" + token
	}
	w.Disconnect(t, 1)
	c.Salt, c.Next, c.Prev = "another ", c.Next-1, blocks[len(blocks)-2].Hash
	w.Connect(t, c.Block())
	pending := rpctest.AnchorOf(t, "lone", rpctest.Record(rpctest.Domain, 4))
	w.pending = rpctest.ID(pending)
	states.Follow(t, w.Graph)
	states.Publish(t, 0)
	w.Suppose(t, "cut", []rpctest.AnchorTx{pending}, rpctest.MCR("cut", "parent", "mla3"), rpctest.MLR("pending", "lone", "child", ""))
	return w
}

// tx is the txid of an action of rpctest.Family.
func tx(name string) string { return rpctest.HashOf(name).String() }

// ask is a request for a call, and what is expected of its answer.
type ask struct {
	status  int
	path    string
	body    any // of a POST; a string is sent as it is, everything else as JSON
	headers []string
}

// asks are requests for each call: all that succeed, and those errors that calls have of
// their own. They are made in their order, since a keyserver remembers.
func (w *world) asks(t *testing.T) map[string][]ask {
	unknown, child := strings.Repeat("ab", 32), rpctest.Address("child")
	get := func(path string) []ask {
		return []ask{{status: 200, path: path}, {status: 400, path: withQuery(path, "nonsense=1")}}
	}
	asks := map[string][]ask{
		"GetStatus":      get("/v1/status"),
		"ResolveAddress": append(get("/v1/addresses/"+child), ask{status: 200, path: "/v1/addresses/" + rpctest.Address("nobody")}, ask{status: 400, path: "/v1/addresses/x"}),
		"PrepareLink": {
			{status: 200, path: "/v1/links:prepare", body: rpctest.Object{"kind": "MLR", "author_address": child, "parent_address": rpctest.Address("nobody")}},
			{status: 200, path: "/v1/links:prepare", body: rpctest.Object{"kind": "MLR", "author_address": child, "parent_address": rpctest.Address("nobody"), "format": "hex"}},
			{status: 400, path: "/v1/links:prepare", body: rpctest.Object{"kind": "MLB", "author_address": child}},
			{status: 404, path: "/v1/links:prepare", body: rpctest.Object{"kind": "MCR", "author_address": child, "ref_tx_hash": tx("mlr1")[:62] + "00"}},
		},
		"SubmitLink": {
			{status: 200, path: "/v1/links:submit", body: rpctest.Object{"signed_transaction": linkInHex(t)}},
			{status: 400, path: "/v1/links:submit", body: rpctest.Object{"signed_transaction": "00"}},
		},
		"ChallengeSignIn": {
			{status: 200, path: "/v1/signin:challenge", body: rpctest.Object{"domain": "memo.cash", "uri": "https://memo.cash/", "address": child}},
			{status: 400, path: "/v1/signin:challenge", body: rpctest.Object{"domain": "memo.cash", "uri": "https://evil.cash/", "address": child}},
		},
		"VerifySignIn": {
			{status: 200, path: "/v1/signin:verify", body: signedIn(t)},
			{status: 400, path: "/v1/signin:verify", body: rpctest.Object{"message": "", "signature": "", "domain": "memo.cash"}},
		},
		"BatchResolve": {
			{status: 200, path: "/v1/addresses:batchResolve", body: rpctest.Object{"addresses": []string{child, rpctest.Address("nobody")}, "at_height": 3}},
			{status: 400, path: "/v1/addresses:batchResolve", body: rpctest.Object{"addresses": []string{child, "x"}}},
		},
		"ResolveChanged": {
			{status: 200, path: "/v1/addresses:changed", body: rpctest.Object{"addresses": []string{child, rpctest.Address("nobody")}, "since_height": 1, "since_hash": w.first}},
			{status: 400, path: "/v1/addresses:changed", body: rpctest.Object{"addresses": []string{child}}},
			{status: 409, path: "/v1/addresses:changed", body: rpctest.Object{"addresses": []string{child}, "since_height": 2, "since_hash": w.first}},
		},
		"ProveAddress": append(get("/v1/addresses/"+child+"/proof"), ask{status: 400, path: "/v1/addresses/" + child + "/proof?at_height=99999"}),
		"ProveAddresses": {
			{status: 200, path: "/v1/addresses:prove", body: rpctest.Object{"addresses": []string{child, rpctest.Address("nobody")}, "at_height": 0}},
			{status: 400, path: "/v1/addresses:prove", body: rpctest.Object{"addresses": []string{child, "x"}}},
		},
		"ProveIdentity": append(get("/v1/identities/"+tx("mlr1")+"/proof"), ask{status: 200, path: "/v1/identities/" + unknown + "/proof"}),
		"GetIdentity": append(get("/v1/identities/"+tx("mlr1")), ask{status: 200, path: "/v1/identities/" + tx("mcr1")},
			ask{status: 404, path: "/v1/identities/" + unknown}, ask{status: 400, path: "/v1/identities/" + tx("mlr1") + "?at_height=99999"}),
		"ListIdentityKeys": append(get("/v1/identities/"+tx("mlr1")+"/keys"), ask{status: 404, path: "/v1/identities/" + unknown + "/keys"}),
		"ListIdentityChanges": append(get("/v1/identities/"+tx("mlr1")+"/changes"), ask{status: 200, path: "/v1/identities/" + tx("mlr1") + "/changes?parts=5"},
			ask{status: 404, path: "/v1/identities/" + unknown + "/changes"}),
		"GetAction":           append(get("/v1/actions/"+tx("mlr1")), ask{status: 200, path: "/v1/actions/" + tx("early")}, ask{status: 404, path: "/v1/actions/" + unknown}),
		"ListAddressActions":  get("/v1/addresses/" + child + "/actions"),
		"ListAddressRequests": append(get("/v1/addresses/"+rpctest.Address("parent")+"/requests?state=all"), ask{status: 400, path: "/v1/addresses/" + child + "/requests?state=used"}),
		"ListAddressLinks":    get("/v1/addresses/" + child + "/links"),
		"ListMempool":         append(get("/v1/mempool"), ask{status: 200, path: "/v1/mempool?page_size=1"}),
		"ListEvents":          append(get("/v1/events"), ask{status: 200, path: "/v1/events?page_size=3&from_height=2"}),
		"ListAnchorChains":    get("/v1/anchors/chains?domain=" + rpctest.Domain),
		"GetAnchorChain":      append(get("/v1/anchors/chains/"+w.chain), ask{status: 404, path: "/v1/anchors/chains/" + unknown}),
		"ListAnchors": append(get("/v1/anchors?domain="+rpctest.Domain), ask{status: 200, path: "/v1/anchors?chain_tx_hash=" + w.chain},
			ask{status: 404, path: "/v1/anchors?chain_tx_hash=" + unknown}),
		"GetAnchor":      append(get("/v1/anchors/txs/"+w.chain), ask{status: 200, path: "/v1/anchors/txs/" + w.breaker}, ask{status: 404, path: "/v1/anchors/txs/" + unknown}),
		"GetProofBundle": append(get("/v1/anchors/chains/"+w.chain+"/bundle"), ask{status: 404, path: "/v1/anchors/chains/" + unknown + "/bundle"}),

		// With an id that is nowhere, a stream ends at once.
		"Stream":   {{status: 200, path: "/v1/stream?last_id=1-" + unknown + "-0"}, {status: 400, path: "/v1/stream?addresses=x"}, {status: 204, path: "/v1/stream", headers: []string{"Last-Event-ID: ended"}}},
		"StreamOf": {{status: 200, path: "/v1/stream?last_id=1-" + unknown + "-0", body: rpctest.Object{"addresses": []string{child}}}, {status: 400, path: "/v1/stream", body: rpctest.Object{"ids": []string{"x"}}}, {status: 204, path: "/v1/stream", body: rpctest.Object{}, headers: []string{"Last-Event-ID: ended"}}},
		"GetExport": append(get("/v1/export?count=3"), ask{status: 200, path: "/v1/export?after_height=1&after_hash=" + w.first},
			ask{status: 409, path: "/v1/export?after_height=2&after_hash=" + w.first}),

		"GetHealth":        {{status: 200, path: "/healthz"}},
		"GetReadiness":     {{status: 200, path: "/readyz"}},
		"GetPartReadiness": {{status: 200, path: "/readyz/index"}, {status: 200, path: "/readyz/keyserver"}, {status: 404, path: "/readyz/nothing"}},
		"GetOpenAPI":       {{status: 200, path: "/openapi.json"}},
		"GetDocs":          {{status: 200, path: "/docs"}},
		"GetKeytreeJS":     {{status: 200, path: "/keytree.js"}},
		"GetDocsFile":      {{status: 200, path: "/docs/docs.css"}, {status: 200, path: "/docs/docs.js"}, {status: 404, path: "/docs/nothing"}},
	}
	for call, paths := range map[string][]string{
		"ResolveAddress":      {"/v1/addresses/" + child, "/v1/addresses/" + rpctest.Address("nobody")},
		"GetIdentity":         {"/v1/identities/" + tx("mlr1"), "/v1/identities/" + tx("cut")},
		"ListIdentityKeys":    {"/v1/identities/" + tx("mlr1") + "/keys"},
		"GetAction":           {"/v1/actions/" + tx("mla3"), "/v1/actions/" + tx("pending")},
		"ListAddressActions":  {"/v1/addresses/" + child + "/actions"},
		"ListAddressRequests": {"/v1/addresses/" + child + "/requests"},
		"ListAddressLinks":    {"/v1/addresses/" + rpctest.Address("parent") + "/links"},
		"ListAnchorChains":    {"/v1/anchors/chains?domain=" + rpctest.Domain},
		"GetAnchorChain":      {"/v1/anchors/chains/" + w.chain, "/v1/anchors/chains/" + w.pending},
		"ListAnchors":         {"/v1/anchors?domain=" + rpctest.Domain},
		"GetAnchor":           {"/v1/anchors/txs/" + w.chain, "/v1/anchors/txs/" + w.pending},
	} {
		for _, path := range paths {
			asks[call] = append(asks[call], ask{status: 200, path: withQuery(path, "unconfirmed=true")})
		}
	}
	asks["BatchResolve"] = append(asks["BatchResolve"],
		ask{status: 200, path: "/v1/addresses:batchResolve", body: rpctest.Object{"addresses": []string{child, rpctest.Address("nobody")}, "unconfirmed": true}})
	for call, path := range w.stale {
		asks[call] = append(asks[call], ask{status: 409, path: path})
	}
	for call, list := range w.keyserverAsks(t) {
		asks[call] = list
	}
	return asks
}

// keyserverAsks are those of asks for the keyserver's calls.
func (w *world) keyserverAsks(t *testing.T) map[string][]ask {
	now, old, key := time.Now(), rpctest.NewKey(1), rpctest.NewKey(2)
	entry, _, err := w.keyserver.LastEntry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	message := rpctest.NewMessage("alice@example.org", entry.String(), old, now)
	next := rpctest.NextMessage(message, old, key)
	link := rpctest.NewMessage("link@example.org", entry.String(), rpctest.NewKey(3), now)
	vouch(link, rpctest.NewKey(3))
	stranger := rpctest.NextMessage(rpctest.NewMessage("stranger@example.org", entry.String(), old, now), old, key)
	uids := func(m *uid.Message, token string) rpctest.Object {
		return rpctest.Object{"uid_message": string(m.Canonical()), "token": token}
	}
	inits := func(owner ed25519.PrivateKey, token string, n byte) rpctest.Object {
		return rpctest.Object{"sig_pub_key": []byte(rpctest.Public(owner)), "tokens": []string{token},
			"key_inits": []string{string(rpctest.NewKeyInit(t, owner, n, false, now).Canonical())}}
	}
	init := inits(key, "", 1)
	hash := uid.SigKeyHash(rpctest.Public(key))
	fetch := func(hash []byte, token string) rpctest.Object {
		return rpctest.Object{"sig_key_hash": hash, "token": token}
	}
	flush := func(owner ed25519.PrivateKey) rpctest.Object {
		signature, err := canonical.Decode(keyinit.SignFlush(uint64(now.Unix()), owner), ed25519.SignatureSize)
		if err != nil {
			t.Fatal(err)
		}
		return rpctest.Object{"sig_pub_key": []byte(rpctest.Public(owner)), "nonce": fmt.Sprint(now.Unix()), "signature": signature}
	}
	index := entry.UIDIndex()
	const keyserver = "/v1/keyserver"
	get := func(path string) []ask {
		return []ask{{status: 200, path: keyserver + path}, {status: 400, path: withQuery(keyserver+path, "nonsense=1")}}
	}
	post := func(call string, status int, body any) ask {
		return ask{status: status, path: keyserver + ":" + call, body: body}
	}
	return map[string][]ask{
		"GetCapabilities":     get(""),
		"GetSignedHead":       get("/head"),
		"ListEntries":         append(get("/entries"), ask{status: 400, path: keyserver + "/entries?page_size=10001"}),
		"GetInclusionProof":   append(get("/proofs/inclusion?position=0"), ask{status: 400, path: keyserver + "/proofs/inclusion?position=99"}),
		"GetConsistencyProof": get("/proofs/consistency?first_size=1"),
		"LookupUID":           append(get("/identities/alice@example.org"), ask{status: 200, path: keyserver + "/identities/nobody@example.org"}),
		"FetchUID": append(get("/messages/"+base64.URLEncoding.EncodeToString(index[:])),
			ask{status: 404, path: keyserver + "/messages/" + base64.URLEncoding.EncodeToString(make([]byte, 32))}),
		"GetLink":      append(get("/links/example.net"), ask{status: 404, path: keyserver + "/links/example.com"}),
		"CreateUID":    {post("createUID", 200, uids(message, "spent")), post("createUID", 200, uids(link, "")), post("createUID", 409, uids(message, "")), post("createUID", 400, uids(stranger, ""))},
		"UpdateUID":    {post("updateUID", 409, uids(next, "spent")), post("updateUID", 200, uids(next, "")), post("updateUID", 404, uids(stranger, "")), post("updateUID", 400, rpctest.Object{})},
		"AddKeyInit":   {post("addKeyInit", 200, init), post("addKeyInit", 409, init), post("addKeyInit", 404, inits(rpctest.NewKey(9), "", 1)), post("addKeyInit", 400, rpctest.Object{})},
		"FetchKeyInit": {post("fetchKeyInit", 409, fetch(hash[:], "spent")), post("fetchKeyInit", 200, fetch(hash[:], "")), post("fetchKeyInit", 404, fetch(hash[:], "")), post("fetchKeyInit", 400, rpctest.Object{})},
		"FlushKeyInit": {post("flushKeyInit", 200, flush(key)), post("flushKeyInit", 400, rpctest.Object{})},
	}
}

// keyserverOrder is that of the calls which change a keyserver, and of those that show it.
func keyserverOrder() []string {
	return []string{"CreateUID", "UpdateUID", "AddKeyInit", "FetchKeyInit", "FlushKeyInit"}
}

// vouch makes a message the first authoritative link to another keyserver.
func vouch(m *uid.Message, key ed25519.PrivateKey) {
	escrow := uid.NewKeyEntry(uid.Ed25519, rpctest.Public(rpctest.NewKey(4)))
	m.Content.Version, m.Content.SigEscrow = uid.Version11, &escrow
	m.Content.ChainLink = &uid.ChainLink{URI: []string{"example.net"}, Last: m.Content.LastEntry,
		Authoritative: true, Domains: []string{"example.net"}, Identity: "keyserver@example.net"}
	m.Sign(key)
	m.SignEscrow(rpctest.NewKey(4))
	m.SignLink(rpctest.NewKey(linkAuthority))
}

// withQuery adds to the query of a path.
func withQuery(path, query string) string {
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}

// request makes the request to a server.
func (a ask) request(t *testing.T, server, method string) *http.Request {
	t.Helper()
	text, ok := a.body.(string)
	if !ok && a.body != nil {
		body, err := json.Marshal(a.body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(body)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, server+a.path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, header := range a.headers {
		name, value, _ := strings.Cut(header, ": ")
		if request.Header.Set(name, value); name == "Host" {
			request.Host = value
		}
	}
	return request
}
