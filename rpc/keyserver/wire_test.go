package keyserver_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

type uidReply struct{ UIDMessageReply uid.Reply }

// TestVectors sends what a deployed client's own packages have computed.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("../../keyserver/testdata/keyserver.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Flush struct {
			Nonce     uint64
			SigPubKey string
			Signature string
		} `json:"flush"`
		KeyInit struct {
			Canonical  string `json:"KeyInit_canonical_json_is_FetchKeyInit_reply_string"`
			SigKeyHash string `json:"SIGKEYHASH"`
			SigPubKey  string
			Wire       string `json:"wire_json_struct_order"`
		} `json:"keyinit"`
		Messages []struct {
			Seed string `json:"sigkey_ed25519_seed_hex"`
			Wire string `json:"wire_json_struct_order"`
		} `json:"uid_messages"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	// Everything in the vectors is valid until then; a KeyInit for 90 days at most.
	now := time.Unix(4102444800, 0).AddDate(0, 0, -80)
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Now: func() time.Time { return now }})

	// The message is about another chain, and that is all that is wrong with it.
	create := func(message string) *rpctest.WireError {
		return r.Try(t, "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": json.RawMessage(message), "Token": ""}, nil)
	}
	alice := vectors.Messages[1].Wire
	if problem := create(alice); problem == nil || problem.Code != keyserverrpc.CodeLastEntry {
		t.Errorf("alice: %+v, want code %d", problem, keyserverrpc.CodeLastEntry)
	}
	other := strings.Replace(alice, `"NOTBEFORE":0`, `"NOTBEFORE":1`, 1)
	if problem := create(other); problem == nil || problem.Code != keyserverrpc.CodeSignature {
		t.Errorf("alice, changed: %+v, want code %d", problem, keyserverrpc.CodeSignature)
	}

	seed, err := hex.DecodeString(vectors.Messages[1].Seed)
	if err != nil {
		t.Fatal(err)
	}
	r.Register(t, "alice@example.org", ed25519.NewKeyFromSeed(seed), now)
	r.Call(t, "KeyInitRepository.AddKeyInit", rpctest.Object{
		"SigPubKey": vectors.KeyInit.SigPubKey, "KeyInits": []json.RawMessage{json.RawMessage(vectors.KeyInit.Wire)}, "Tokens": []string{""},
	}, nil)
	var fetched struct{ KeyInit string }
	r.Call(t, "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": vectors.KeyInit.SigKeyHash}, &fetched)
	if fetched.KeyInit != vectors.KeyInit.Canonical {
		t.Errorf("fetched %s", fetched.KeyInit)
	}

	r = rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Now: func() time.Time { return time.Unix(int64(vectors.Flush.Nonce), 0) }})
	r.Call(t, "KeyInitRepository.FlushKeyInit", vectors.Flush, &struct{}{})
}

// TestRefusedCalls checks that what is wrong is refused by its code and named, and
// that nothing is changed.
func TestRefusedCalls(t *testing.T) {
	now := time.Now()
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	alice := r.Register(t, "alice@example.org", rpctest.NewKey(1), now)
	last, position := r.LastEntry(t)
	_, before := r.Chain(t)
	create := func(change func(*uid.Message)) rpctest.Object {
		m := rpctest.NewMessage("bob@example.org", last, rpctest.NewKey(2), now)
		change(m)
		m.Sign(rpctest.NewKey(2))
		return rpctest.Object{"UIDMessage": m, "Token": ""}
	}
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	good := string(canonical.Marshal(rpctest.NewMessage("bob@example.org", last, rpctest.NewKey(2), now)))
	update := rpctest.NextMessage(alice, rpctest.NewKey(9), rpctest.NewKey(2)) // signed by a stranger
	hash := uid.SigKeyHash(rpctest.Public(rpctest.NewKey(1)))
	sigKey := canonical.Encode(rpctest.Public(rpctest.NewKey(1)))
	nonce := uint64(now.Unix())

	for _, test := range []struct {
		name, method string
		params       any
		code         int
		says         string
	}{
		{"unknown method", "KeyRepository.Nothing", rpctest.Object{}, jsonrpc.CodeUnknownMethod, `no such method: "KeyRepository.Nothing"`},
		{"another case", "keyrepository.capabilities", rpctest.Object{}, jsonrpc.CodeUnknownMethod, "no such method"},
		{"params a list", "KeyRepository.Capabilities", []int{}, jsonrpc.CodeInvalidParams, "params: malformed message: expected an object"},
		{"params a string", "KeyRepository.Capabilities", "x", jsonrpc.CodeInvalidParams, "expected an object"},
		{"params that it does not take", "KeyRepository.Capabilities", rpctest.Object{"x": 1}, jsonrpc.CodeInvalidParams, "does not take x"},
		{"params twice", "KeyHashchain.LookupUID", raw(`{"Identity":"a","Identity":"b"}`), jsonrpc.CodeInvalidParams, "Identity: appears twice"},
		{"too many params", "KeyHashchain.LookupUID", raw(`{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":1,"11":1,"12":1,"13":1,"14":1,"15":1,"16":1,"17":1}`),
			jsonrpc.CodeInvalidParams, "at most 16 members"},

		{"no start", "KeyHashchain.FetchHashChain", rpctest.Object{"EndPosition": 1}, jsonrpc.CodeInvalidParams, "StartPosition: expected a whole number from 0 to 18446744073709551615, got nothing"},
		{"negative", "KeyHashchain.FetchHashChain", rpctest.Object{"StartPosition": -1}, jsonrpc.CodeInvalidParams, "got -1"},
		{"fraction", "KeyHashchain.FetchHashChain", raw(`{"StartPosition":0.0}`), jsonrpc.CodeInvalidParams, "got 0.0"},
		{"exponent", "KeyHashchain.FetchHashChain", raw(`{"StartPosition":1e0}`), jsonrpc.CodeInvalidParams, "got 1e0"},
		{"beyond 64 bits", "KeyHashchain.FetchHashChain", raw(`{"StartPosition":18446744073709551616}`), jsonrpc.CodeInvalidParams, "got 18446744073709551616"},
		{"a number as string", "KeyRepository.FetchHashChain", rpctest.Object{"StartPosition": "0"}, jsonrpc.CodeInvalidParams, `got "0"`},
		{"backwards", "KeyHashchain.FetchHashChain", rpctest.Object{"StartPosition": 1, "EndPosition": 0}, keyserverrpc.CodeRange, "range"},

		{"no identity", "KeyHashchain.LookupUID", rpctest.Object{}, jsonrpc.CodeInvalidParams, "Identity: expected a string, got nothing"},
		{"identity null", "KeyHashchain.LookupUID", rpctest.Object{"Identity": nil}, jsonrpc.CodeInvalidParams, "got null"},
		{"not mapped", "KeyHashchain.LookupUID", rpctest.Object{"Identity": "Alice@example.org"}, jsonrpc.CodeInvalidParams, `expected "alice@example.org"`},
		{"endless identity", "KeyHashchain.LookupUID", rpctest.Object{"Identity": strings.Repeat("X", 100_000) + "@example.org"}, jsonrpc.CodeInvalidParams, "localpart of 100000 bytes"},
		{"no index", "KeyRepository.FetchUID", rpctest.Object{}, jsonrpc.CodeInvalidParams, "UIDIndex"},
		{"short index", "KeyRepository.FetchUID", rpctest.Object{"UIDIndex": "AAAA"}, jsonrpc.CodeInvalidParams, "UIDIndex: malformed message: expected base64 of 32 bytes"},
		{"unknown index", "KeyRepository.FetchUID", rpctest.Object{"UIDIndex": canonical.Encode(make([]byte, 32))}, keyserverrpc.CodeUnknown, "not found"},
		{"no link", "KeyRepository.GetLink", rpctest.Object{"Domain": "example.com"}, keyserverrpc.CodeUnknown, "example.com"},
		{"no host", "KeyRepository.GetLink", rpctest.Object{"Domain": "not a host"}, jsonrpc.CodeInvalidParams, "not a host"},

		{"no message", "KeyRepository.CreateUID", rpctest.Object{"Token": ""}, jsonrpc.CodeInvalidParams, "UIDMessage: expected an object, got nothing"},
		{"message as string", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": good, "Token": ""}, jsonrpc.CodeInvalidParams, "UIDMessage: expected an object"},
		{"no token", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": raw(good)}, jsonrpc.CodeInvalidParams, "Token: expected a string, got nothing"},
		{"member missing", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": raw(strings.Replace(good, `"CHAINLINK":null,`, "", 1)), "Token": ""}, jsonrpc.CodeInvalidParams, "UIDContent.CHAINLINK: missing"},
		{"member twice", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": raw(strings.Replace(good, `"MSGCOUNT":0`, `"MSGCOUNT":0,"MSGCOUNT":0`, 1)), "Token": ""}, jsonrpc.CodeInvalidParams, "MSGCOUNT: appears twice"},
		{"member of another case", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": raw(strings.Replace(good, `"MSGCOUNT"`, `"MsgCount"`, 1)), "Token": ""}, jsonrpc.CodeInvalidParams, "MsgCount: unknown"},
		{"float", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": raw(strings.Replace(good, `"MSGCOUNT":0`, `"MSGCOUNT":0.0`, 1)), "Token": ""}, jsonrpc.CodeInvalidParams, "MSGCOUNT: expected an unsigned integer"},
		{"deep", "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": raw(`{"UIDContent":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`), "Token": ""}, jsonrpc.CodeInvalidParams, "UIDContent: expected an object"},
		{"large message", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.MixAddress = strings.Repeat("x", uid.MaxMessage) }), jsonrpc.CodeInvalidParams, "at most 65536"},
		{"taken", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.Identity = "alice@example.org" }), keyserverrpc.CodeTaken, "alice@example.org"},
		{"reserved", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.Identity = "root@example.org" }), keyserverrpc.CodeReserved, "root"},
		{"foreign domain", "KeyRepository.CreateUID", create(func(m *uid.Message) {
			m.Content.Identity, m.Content.RepoURIs = "bob@example.com", []string{"example.com"}
		}), keyserverrpc.CodeDomain, "example.com"},
		{"not mapped", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.Identity = "b0b@example.org" }), jsonrpc.CodeInvalidParams, `expected "bob@example.org"`},
		{"expired", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.NotAfter = uint64(now.Unix()) - 1 }), keyserverrpc.CodeExpired, "NOTAFTER"},
		{"no entry", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.LastEntry = "" }), jsonrpc.CodeInvalidParams, "LASTENTRY"},
		{"another chain's entry", "KeyRepository.CreateUID", create(func(m *uid.Message) { m.Content.LastEntry = foreignEntry() }), keyserverrpc.CodeLastEntry, "LASTENTRY"},
		{"signed by another", "KeyRepository.CreateUID", func() rpctest.Object {
			m := rpctest.NewMessage("bob@example.org", last, rpctest.NewKey(2), now)
			m.Sign(rpctest.NewKey(3))
			return rpctest.Object{"UIDMessage": m, "Token": ""}
		}(), keyserverrpc.CodeSignature, "SELFSIGNATURE"},
		{"update by another", "KeyRepository.UpdateUID", rpctest.Object{"UIDMessage": update, "Token": ""}, keyserverrpc.CodeSignature, "USERSIGNATURE"},
		{"update of nobody", "KeyRepository.UpdateUID", create(func(m *uid.Message) { m.Content.MsgCount, m.UserSignature = 1, m.SelfSignature }), keyserverrpc.CodeUnknown, "bob@example.org"},

		{"no KeyInits", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "Tokens": []string{}}, jsonrpc.CodeInvalidParams, "KeyInits: expected a list, got nothing"},
		{"none", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "KeyInits": []int{}, "Tokens": []string{}}, jsonrpc.CodeInvalidParams, "expected 1 to 100"},
		{"101", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "KeyInits": make([]int, 101), "Tokens": make([]string, 101)}, jsonrpc.CodeInvalidParams, "KeyInits: expected at most 100"},
		{"not a KeyInit", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "KeyInits": []int{1}, "Tokens": []string{""}}, jsonrpc.CodeInvalidParams, "KeyInits[0]"},
		{"token not a string", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "KeyInits": []int{1}, "Tokens": []int{1}}, jsonrpc.CodeInvalidParams, "Tokens[0]: expected a string, got 1"},
		{"tokens missing", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "KeyInits": []any{rpctest.NewKeyInit(t, rpctest.NewKey(1), 1, false, now)}, "Tokens": []string{}}, jsonrpc.CodeInvalidParams, "as many tokens"},
		{"KeyInit of nobody", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": canonical.Encode(rpctest.Public(rpctest.NewKey(7))), "KeyInits": []any{rpctest.NewKeyInit(t, rpctest.NewKey(7), 1, false, now)}, "Tokens": []string{""}}, keyserverrpc.CodeUnknown, "no identity has this SIGKEY"},
		{"short key", "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": "AAAA", "KeyInits": []int{}, "Tokens": []string{}}, jsonrpc.CodeInvalidParams, "SigPubKey: malformed message: expected base64 of 32 bytes"},
		{"none stored", "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": canonical.Encode(hash[:])}, keyserverrpc.CodeUnknown, "KeyInit of this SIGKEYHASH"},
		{"short hash", "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": "AAAA"}, jsonrpc.CodeInvalidParams, "SigKeyHash"},
		{"flush by another", "KeyInitRepository.FlushKeyInit", rpctest.Object{"SigPubKey": sigKey, "Nonce": nonce, "Signature": keyinit.SignFlush(nonce, rpctest.NewKey(2))}, keyserverrpc.CodeSignature, ""},
		{"count by another", "KeyInitRepository.CountKeyInit", rpctest.Object{"SigPubKey": sigKey, "Nonce": nonce, "Signature": keyinit.SignCount(nonce, rpctest.NewKey(2))}, keyserverrpc.CodeSignature, ""},
		{"a flush is no count", "KeyInitRepository.CountKeyInit", rpctest.Object{"SigPubKey": sigKey, "Nonce": nonce, "Signature": keyinit.SignFlush(nonce, rpctest.NewKey(1))}, keyserverrpc.CodeSignature, ""},
		{"old count", "KeyInitRepository.CountKeyInit", rpctest.Object{"SigPubKey": sigKey, "Nonce": nonce - 1000, "Signature": keyinit.SignCount(nonce-1000, rpctest.NewKey(1))}, keyserverrpc.CodeExpired, "Nonce"},
		{"old flush", "KeyInitRepository.FlushKeyInit", rpctest.Object{"SigPubKey": sigKey, "Nonce": nonce - 1000, "Signature": keyinit.SignFlush(nonce-1000, rpctest.NewKey(1))}, keyserverrpc.CodeExpired, "Nonce"},
	} {
		t.Run(test.name, func(t *testing.T) {
			problem := r.Try(t, test.method, test.params, nil)
			if problem == nil || problem.Code != test.code || !strings.Contains(problem.Message, test.says) || len(problem.Message) > 600 {
				t.Errorf("got %+v, want code %d and %q", problem, test.code, test.says)
			}
		})
	}
	if now, after := r.Chain(t); after.Head != before.Head || uint64(len(now)) != position+1 {
		t.Errorf("the chain changed")
	}
}

// foreignEntry is an entry of no chain.
func foreignEntry() string {
	var e hashchain.Entry
	e[32] = 1 // its type
	return e.String()
}

// TestRanges checks what FetchHashChain answers at the ends of the chain.
func TestRanges(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	for i, name := range []string{"alice", "bob", "carol"} {
		r.Register(t, name+"@example.org", rpctest.NewKey(byte(i+1)), time.Now())
	}
	entries, _ := r.Chain(t)
	for _, test := range []struct {
		params     rpctest.Object
		from, last int
	}{
		{rpctest.Object{"StartPosition": 0}, 0, 0},
		{rpctest.Object{"StartPosition": 2}, 2, 2},
		{rpctest.Object{"StartPosition": 2, "EndPosition": nil}, 2, 2},
		{rpctest.Object{"StartPosition": 1, "EndPosition": 2}, 1, 2},
		{rpctest.Object{"StartPosition": 1, "EndPosition": 1000}, 1, 3},
		{rpctest.Object{"StartPosition": 0, "EndPosition": uint64(1<<64 - 1)}, 0, 3},
		{rpctest.Object{"StartPosition": 4}, 3, 3},
		{rpctest.Object{"StartPosition": uint64(1<<64 - 1), "EndPosition": uint64(1<<64 - 1)}, 3, 3},
	} {
		for _, method := range []string{"KeyHashchain.FetchHashChain", "KeyRepository.FetchHashChain"} {
			var got struct {
				HCEntries  []string
				HCFirstPos uint64
			}
			r.Call(t, method, test.params, &got)
			var want []string
			for _, e := range entries[test.from : test.last+1] {
				want = append(want, e.String())
			}
			if got.HCFirstPos != uint64(test.from) || !slices.Equal(got.HCEntries, want) {
				t.Errorf("%s %v: %d from %d, want %d from %d", method, test.params, len(got.HCEntries), got.HCFirstPos, len(want), test.from)
			}
		}
	}
}

// TestEnvelopes checks what is around calls: requests, batches, notifications, HTTP.
func TestEnvelopes(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	const lookup = `"method":"KeyHashchain.LookupUID","params":{"Identity":"bob@example.org"}`
	const found = `"result":{"HCPositions":null}`
	const call = `{"jsonrpc":"2.0",` + lookup + `,"id":1}`
	for _, test := range []struct {
		name, body string
		status     int
		want       string // exactly, or with ... at the end the beginning
	}{
		{"number", call, 200, `{"jsonrpc":"2.0",` + found + `,"id":1}`},
		{"string", `{"id":"a\u0000b","jsonrpc":"2.0",` + lookup + `}`, 200, `{"jsonrpc":"2.0",` + found + `,"id":"a\u0000b"}`},
		{"large number", `{"id":12345678901234567890,"jsonrpc":"2.0",` + lookup + `}`, 200, `{"jsonrpc":"2.0",` + found + `,"id":12345678901234567890}`},
		{"null", `{"id":null,"jsonrpc":"2.0",` + lookup + `}`, 200, `{"jsonrpc":"2.0",` + found + `,"id":null}`},
		{"white space", " \r\n\t" + call + "\n", 200, `{"jsonrpc":"2.0",` + found + `,"id":1}`},
		{"another member", `{"x":[],"jsonrpc":"2.0",` + lookup + `,"id":1}`, 200, `{"jsonrpc":"2.0",` + found + `,"id":1}`},
		{"no params", `{"jsonrpc":"2.0","method":"KeyHashchain.FetchLastHashChain","id":1}`, 200, `{"jsonrpc":"2.0","result":{"HCEntry":...`},
		{"notification", `{"jsonrpc":"2.0",` + lookup + `}`, 204, ``},
		{"failing notification", `{"jsonrpc":"2.0","method":"x"}`, 204, ``},

		{"nothing", "", 200, `{"jsonrpc":"2.0","error":{"code":-32700,...`},
		{"no JSON", "{", 200, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"expected JSON: unexpected end of JSON input, at byte 1"},"id":null}`},
		{"two", call + call, 200, `{"jsonrpc":"2.0","error":{"code":-32700,...`},
		{"not UTF-8", "\"\xff\"", 200, `{"jsonrpc":"2.0","error":{"code":-32700,...`},
		{"too deep", strings.Repeat("[", 100_000), 200, `{"jsonrpc":"2.0","error":{"code":-32700,...`},
		{"too deep inside", `{"jsonrpc":"2.0","method":"x","id":1,"params":` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000) + "}", 200, `{"jsonrpc":"2.0","error":{"code":-32700,...`},
		{"a number", "1", 200, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"request: malformed message: expected an object, got 1"},"id":null}`},
		{"version", `{"jsonrpc":"1.0",` + lookup + `,"id":1}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"jsonrpc: expected \"2.0\", got \"1.0\""},"id":1}`},
		{"no version", `{` + lookup + `,"id":1}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"jsonrpc: expected \"2.0\", got nothing"},"id":1}`},
		{"no version nor id", `{` + lookup + `}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,...`},
		{"no method", `{"jsonrpc":"2.0","id":1}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"method: expected a string, got nothing"},"id":1}`},
		{"method twice", `{"jsonrpc":"2.0","method":"a","method":"b","id":1}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,...`},
		{"id an object", `{"jsonrpc":"2.0",` + lookup + `,"id":{}}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,...`},
		{"id a bool", `{"jsonrpc":"2.0",` + lookup + `,"id":true}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,...`},
		{"endless id", `{"jsonrpc":"2.0",` + lookup + `,"id":"` + strings.Repeat("x", 1000) + `"}`, 200, `{"jsonrpc":"2.0","error":{"code":-32600,...`},

		{"batch", "[" + call + `,{"jsonrpc":"2.0",` + lookup + `},1,{"jsonrpc":"2.0","method":"x","id":"2"}]`, 200,
			`[{"jsonrpc":"2.0",` + found + `,"id":1},{"jsonrpc":"2.0","error":{"code":-32600,"message":"request: malformed message: expected an object, got 1"},"id":null},` +
				`{"jsonrpc":"2.0","error":{"code":-32601,"message":"no such method: \"x\"; Capabilities lists those there are"},"id":"2"}]`},
		{"batch of notifications", `[{"jsonrpc":"2.0",` + lookup + `},{"jsonrpc":"2.0",` + lookup + `}]`, 204, ``},
		{"empty batch", "[]", 200, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"expected a batch of 1 to 100 calls, got none"},"id":null}`},
		{"batch in a batch", "[[" + call + "]]", 200, `[{"jsonrpc":"2.0","error":{"code":-32600,...`},
		{"open batch", "[" + call, 200, `{"jsonrpc":"2.0","error":{"code":-32700,...`},
		{"batch of 100", "[" + strings.Repeat(call+",", 99) + call + "]", 200, `[{"jsonrpc":"2.0",` + found + `,"id":1},...`},
		{"batch of 101", "[" + strings.Repeat(call+",", 100) + call + "]", 200, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"expected a batch of at most 100 calls, got more; none was made"},"id":null}`},
		{"large batch of nothing", "[" + strings.Repeat("0,", 900_000) + "0]", 200, `{"jsonrpc":"2.0","error":{"code":-32600,...`},
		{"large body", call + strings.Repeat(" ", admission.MaxRequest), 413, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"expected a body of at most 2097152 bytes, got more"},"id":null}`},
		{"largest body", call + strings.Repeat(" ", admission.MaxRequest-len(call)), 200, `{"jsonrpc":"2.0",` + found + `,"id":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, got := r.Post(t, test.body)
			beginning, more := strings.CutSuffix(test.want, "...")
			if status != test.status || !strings.HasPrefix(string(got), beginning) || !more && string(got) != beginning {
				t.Errorf("got %d %.300s, want %d %s", status, got, test.status, test.want)
			}
			if len(got) > 0 && !json.Valid(got) {
				t.Errorf("not JSON: %.300s", got)
			}
		})
	}

	for _, test := range []struct {
		method, path, media string
		want                int
	}{
		{"GET", "", "application/json", 405},
		{"PUT", "", "application/json", 405},
		{"POST", "rpc", "application/json", 404},
		{"POST", "", "text/plain", 415},
		{"POST", "", "", 415},
		{"POST", "", "application/json; charset=utf-8", 200},
	} {
		request, err := http.NewRequest(test.method, r.URL+test.path, strings.NewReader(call))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", test.media)
		response, err := r.HTTP.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var answer rpctest.Object
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != test.want || response.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%+v: %d %v %v", test, response.StatusCode, answer, err)
		}
		response.Body.Close()
	}
}

// TestTwins lets many register names that look alike, at once: one gets it.
func TestTwins(t *testing.T) {
	now := time.Now()
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	last, _ := r.LastEntry(t)
	var names []string
	for _, local := range []string{"jill.o", "ji1l.0", "ill.o", "Jill.O", "iill.o", "jIll.0"} {
		names = append(names, local+"@example.org")
	}
	var (
		wait      sync.WaitGroup
		mu        sync.Mutex
		succeeded = map[string]int{}
		refused   = map[int]int{}
	)
	for i := range 24 {
		mapped, err := uid.Map(names[i%len(names)])
		if err != nil {
			t.Fatal(err)
		}
		m := rpctest.NewMessage(mapped, last, rpctest.NewKey(byte(i+1)), now)
		wait.Go(func() {
			problem := r.Try(t, "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": m, "Token": ""}, nil)
			mu.Lock()
			defer mu.Unlock()
			if problem == nil {
				succeeded[mapped]++
			} else {
				refused[problem.Code]++
			}
		})
	}
	wait.Wait()
	if len(succeeded) != 2 || succeeded["iill.o@example.org"] != 1 || succeeded["ill.o@example.org"] != 1 || refused[keyserverrpc.CodeTaken] != 22 {
		t.Errorf("registered %v, refused by code %v", succeeded, refused)
	}
	if entries, _ := r.Chain(t); len(entries) != 3 {
		t.Errorf("%d entries", len(entries))
	}
}

// TestTokensOverTheWire pays with issued tokens: each once.
func TestTokensOverTheWire(t *testing.T) {
	now := time.Now()
	dir := rpctest.Dir(t)
	issuer, err := token.OpenIssuer(dir + "/issuer")
	if err != nil {
		t.Fatal(err)
	}
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Dir: dir, Tokens: token.Issued{Domain: rpctest.Domain, Issuer: issuer.Public()}})
	paid, err := issuer.Issue(rpctest.Domain)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := issuer.Issue("example.com")
	if err != nil {
		t.Fatal(err)
	}
	last, _ := r.LastEntry(t)
	for _, test := range []struct {
		name, token string
		code        int
	}{
		{"alice", "", keyserverrpc.CodeToken}, {"alice", "!", keyserverrpc.CodeToken}, {"alice", foreign, keyserverrpc.CodeToken},
		{"root", paid, keyserverrpc.CodeReserved}, // spends nothing
		{"alice", paid, 0}, {"bob", paid, keyserverrpc.CodeSpent},
	} {
		m := rpctest.NewMessage(test.name+"@example.org", last, rpctest.NewKey(1), now)
		problem := r.Try(t, "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": m, "Token": test.token}, nil)
		if got := problem; (got == nil) != (test.code == 0) || got != nil && got.Code != test.code {
			t.Errorf("%s with %.10q: %+v, want code %d", test.name, test.token, got, test.code)
		}
	}
}

// TestRestart stops a server and starts it on the same data.
func TestRestart(t *testing.T) {
	dir := rpctest.Dir(t)
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Dir: dir})
	r.Register(t, "alice@example.org", rpctest.NewKey(1), time.Now())
	before, chain := r.Chain(t)
	index := before[1].UIDIndex()
	var reply, again uidReply
	r.Call(t, "KeyRepository.FetchUID", rpctest.Object{"UIDIndex": canonical.Encode(index[:])}, &reply)
	r.Stop()

	r = rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Dir: dir})
	if _, after := r.Chain(t); after.Head != chain.Head {
		t.Error("another chain after the restart")
	}
	r.Call(t, "KeyRepository.FetchUID", rpctest.Object{"UIDIndex": canonical.Encode(index[:])}, &again)
	if reply != again {
		t.Error("another reply after the restart")
	}
	r.Register(t, "bob@example.org", rpctest.NewKey(2), time.Now())
}

// TestClosedService asks a server whose keyserver has gone.
func TestClosedService(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	if err := r.Service.Close(); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"KeyHashchain.FetchLastHashChain", "KeyRepository.Capabilities"} {
		if problem := r.Try(t, method, rpctest.Object{}, nil); problem == nil || problem.Code != keyserverrpc.CodeDown {
			t.Errorf("%s: %+v, want code %d", method, problem, keyserverrpc.CodeDown)
		}
	}
	// The answer has begun when this is noticed: it must not look whole.
	response, err := r.HTTP.Post(r.URL, "application/json", strings.NewReader(`{"jsonrpc":"2.0","method":"KeyHashchain.FetchHashChain","params":{"StartPosition":0},"id":1}`))
	if err == nil {
		response.Body.Close()
		t.Errorf("FetchHashChain of a closed keyserver answered %s", response.Status)
	}
}
