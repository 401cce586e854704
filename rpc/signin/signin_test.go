package signin_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
	signinrpc "github.com/keytree-bch/keytree/rpc/signin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSignIn signs in by the root of an identity and by keys below it, over both wires.
func TestSignIn(t *testing.T) {
	r := newRig(t)
	root, child, lone := rpctest.NewPerson(t, rpctest.Net), rpctest.NewPerson(t, rpctest.Net), rpctest.NewPerson(t, rpctest.Net)
	r.next(t, child.Asks("mlr", root), root.Accepts("mla", "mlr"))
	r.Suppose(t, "", nil)
	identity := rpctest.HashOf("mlr").String()
	for _, test := range []struct {
		name string
		rpctest.Person
		id, main string
		depth    float64
	}{
		{"a key in no link", lone, "", lone.Address, 0},
		{"the root", root, identity, root.Address, 0},
		{"the child", child, identity, root.Address, 1},
	} {
		text := challenged(t, r, test.Person)
		body := answered(t, test.Person, text)
		who := wantSignedIn(t, r, test.name, body, test.Address)
		pending, _ := who["pending"].(map[string]any)
		if who["id_tx_hash"] != test.id || who["main_address"] != test.main || who["depth"] != test.depth || who["as_of_height"] != 1.0 ||
			len(who["path"].([]any)) != int(test.depth)+1 || pending["available"] != true || pending["cut"] != false || pending["link"] != false {
			t.Errorf("%s: %v", test.name, who)
		}
		wantReason(t, r, test.name+" again", body, "USED", "already")
	}

	client := keytreev1.NewSignInServiceClient(r.Conn)
	challenge, err := client.ChallengeSignIn(t.Context(), &keytreev1.ChallengeSignInRequest{Domain: domain, Uri: uri + "?s=1", Address: child.Address})
	if err != nil {
		t.Fatal(err)
	}
	m, err := signin.Parse(challenge.Message, rpctest.Net)
	if err != nil || m.Nonce.String() != challenge.Nonce || m.Expires().Format(time.RFC3339) != challenge.ExpiresAt || m.URI != uri+"?s=1" {
		t.Errorf("the challenge is %v, %v", challenge, err)
	}
	request := &keytreev1.VerifySignInRequest{Message: challenge.Message, Signature: child.Sign(t, challenge.Message), Domain: domain}
	if who, err := client.VerifySignIn(t.Context(), request); err != nil || who.MainAddress != root.Address {
		t.Errorf("over gRPC: %v, %v", who, err)
	}
	_, err = client.VerifySignIn(t.Context(), request)
	details := status.Convert(err).Details()
	if i := slices.IndexFunc(details, func(d any) bool { _, ok := d.(*errdetails.ErrorInfo); return ok }); status.Code(err) != codes.FailedPrecondition || i < 0 {
		t.Errorf("over gRPC again: %v with %v", err, details)
	}
}

// TestWallets verifies what the code of wallets has signed: the vectors of protocol/signin.
func TestWallets(t *testing.T) {
	text, err := os.ReadFile("../../protocol/signin/testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ By, Address, Message, Signature string }
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	issued := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	s := newAlone(t, &chaincfg.MainNetParams, issued.Add(time.Minute/2))
	verified := make(map[string]int)
	for _, v := range vectors {
		if !strings.HasPrefix(v.Message, domain) { // is of the signature alone
			continue
		}
		wantSignedIn(t, s, v.Signature, object{"message": v.Message, "signature": v.Signature, "domain": domain}, v.Address)
		verified[v.By]++
	}
	if verified["mainnet-js"] < 12 || verified["libauth"] < 12 {
		t.Errorf("verified %v", verified)
	}
}

// TestReasons has one case for each thing that is refused, which takes nothing: what is good
// is taken after all of it.
func TestReasons(t *testing.T) {
	net, now := rpctest.Net, time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	s := newAlone(t, net, now)
	p, other := rpctest.NewPerson(t, net), rpctest.NewPerson(t, net)
	text := challenged(t, s, p)
	good := answered(t, p, text)
	// changed is another text, with a good signature over it.
	changed := func(old, new string) object {
		t.Helper()
		if !strings.Contains(text, old) {
			t.Fatalf("the text has no %q", old)
		}
		return answered(t, p, strings.Replace(text, old, new, 1))
	}
	raw, err := base64.StdEncoding.DecodeString(good["signature"].(string))
	if err != nil {
		t.Fatal(err)
	}
	signed := func(change func(raw []byte)) object {
		raw := slices.Clone(raw)
		change(raw)
		return good.with(object{"signature": base64.StdEncoding.EncodeToString(raw)})
	}
	order := bchec.S256().Params().N
	lines := strings.Split(text, "\n")
	ofScript, err := bchutil.NewAddressScriptHashFromHash(p.WIF.Key[:], net)
	if err != nil {
		t.Fatal(err)
	}
	script := net.CashAddressPrefix + ":" + ofScript.EncodeAddress()
	long := challenge(t, s, p, object{"uri": uri + "/" + strings.Repeat("x", signin.MaxText), "allow_long": true})
	for _, test := range []struct {
		name         string
		body         object
		reason, says string
	}{
		{"another domain", good.with(object{"domain": "evil.cash"}), "OTHER_DOMAIN", "evil.cash"},
		{"no domain", good.with(object{"domain": ""}), "OTHER_DOMAIN", `""`},
		{"another host in the URI", changed("https://memo.cash", "https://evil.cash"), "OTHER_DOMAIN", "line 4"},
		{"expired", answered(t, p, textFor(t, p, net, now.Add(-signin.Lifetime))), "EXPIRED", "expected an answer before"},
		{"made before the server began", answered(t, p, textFor(t, p, net, now.Add(-2*time.Minute))), "EXPIRED", "before this server began"},
		{"from the future", answered(t, p, textFor(t, p, net, now.Add(signin.MaxSkew+time.Second))), "FROM_THE_FUTURE", "up to"},
		{"a foreign nonce", changed(lines[6], "Nonce: 0123456789abcdef"), "FOREIGN_NONCE", "0123456789abcdef"},
		{"another path", changed("/login", "/logon"), "FOREIGN_NONCE", "made here"},
		{"no nonce", changed(lines[6]+"\n", ""), "NO_NONCE", "line 7"},
		{"half a nonce", changed(lines[6], lines[6][:15]), "NO_NONCE", "line 7"},
		{"a long text", answered(t, p, long), "TOO_LONG", "252 bytes"},
		{"a longer text", answered(t, p, text+strings.Repeat("x", signin.MaxLongText)).with(object{"allow_long": true}), "TOO_LONG", "1024 bytes"},
		{"another chain", changed("bch:bchreg", "bch:bitcoincash"), "OTHER_CHAIN", "bch:bchreg"},
		{"an address of another chain", changed(p.Address, protocol.FormatAddress(p.WIF.Key, &chaincfg.MainNetParams)), "OTHER_CHAIN", "bchreg:"},
		{"a script's address", changed(p.Address, script), "BAD_ADDRESS", "script"},
		{"an address in capitals", changed(p.Address, strings.ToUpper(p.Address)), "BAD_ADDRESS", "the same key"},
		{"no prefix", changed(p.Address, strings.TrimPrefix(p.Address, "bchreg:")), "BAD_ADDRESS", "expected bchreg:"},
		{"another version", changed("Version: 1", "Version: 2"), "MALFORMED", "line 5"},
		{"no text", good.with(object{"message": ""}), "MALFORMED", "line 1"},
		{"no signature", good.with(object{"signature": ""}), "BAD_SIGNATURE", "88 characters"},
		{"another key's signature", answered(t, other, text), "BAD_SIGNATURE", "another key"},
		{"a signature over another text", good.with(object{"signature": answered(t, p, text+" ")["signature"]}), "BAD_SIGNATURE", "another text"},
		{"s that is high", signed(func(raw []byte) { bigInt(raw[33:]).Sub(order, bigInt(raw[33:])).FillBytes(raw[33:]) }), "BAD_SIGNATURE", "expected s"},
		{"s that is nothing", signed(func(raw []byte) { clear(raw[33:]) }), "BAD_SIGNATURE", "expected s"},
		{"r that is nothing", signed(func(raw []byte) { clear(raw[1:33]) }), "BAD_SIGNATURE", "expected r"},
		{"r that is the order", signed(func(raw []byte) { order.FillBytes(raw[1:33]) }), "BAD_SIGNATURE", "expected r"},
		{"a byte too few", signed(func(raw []byte) {}).with(object{"signature": base64.StdEncoding.EncodeToString(raw[:64])}), "BAD_SIGNATURE", "base64 of 65 bytes"},
		{"a byte too many", signed(func(raw []byte) {}).with(object{"signature": base64.StdEncoding.EncodeToString(append(slices.Clone(raw), 0))}), "BAD_SIGNATURE", "base64 of 65 bytes"},
		{"base64 without padding", good.with(object{"signature": base64.RawStdEncoding.EncodeToString(raw)}), "BAD_SIGNATURE", "88 characters"},
	} {
		wantReason(t, s, test.name, test.body, test.reason, test.says)
	}
	for header := range 256 {
		if byte(header) != raw[0] {
			wantReason(t, s, fmt.Sprint("header byte ", header), signed(func(raw []byte) { raw[0] = byte(header) }), "BAD_SIGNATURE", "")
		}
	}
	wantSignedIn(t, s, "after all of these", good, p.Address)
	wantSignedIn(t, s, "a long text that is allowed", answered(t, p, long).with(object{"allow_long": true}), p.Address)

	for _, test := range []struct {
		name, reason string
		request      object
	}{
		{"no address", "BAD_ADDRESS", object{"address": ""}},
		{"a script's address", "BAD_ADDRESS", object{"address": script}},
		{"another host", "OTHER_DOMAIN", object{"uri": "https://evil.cash/login"}},
		{"no domain", "MALFORMED", object{"domain": ""}},
		{"lines in the domain", "MALFORMED", object{"domain": "memo.cash\nmemo.cash"}},
		{"http", "MALFORMED", object{"uri": "http://memo.cash/login"}},
		{"a long URI", "TOO_LONG", object{"uri": uri + "/" + strings.Repeat("x", signin.MaxText)}},
	} {
		code, answer := s.post(t, "challenge", object{"domain": domain, "uri": uri, "address": p.Address}.with(test.request))
		if code != http.StatusBadRequest || reasonOf(answer) != test.reason {
			t.Errorf("%s: %d %v, want %s", test.name, code, answer, test.reason)
		}
	}
}

// TestPlace finds the place of a key in its identity, now and if what is pending were
// confirmed, and refuses those who have not the place that is asked for.
func TestPlace(t *testing.T) {
	r := newRig(t)
	root, middle, leaf, above := rpctest.NewPerson(t, rpctest.Net), rpctest.NewPerson(t, rpctest.Net), rpctest.NewPerson(t, rpctest.Net), rpctest.NewPerson(t, rpctest.Net)
	times := 0
	signsIn := func(p rpctest.Person, request object) object {
		times++ // each text is another
		return answered(t, p, challenge(t, r, p, object{"uri": fmt.Sprint(uri, "?s=", times)})).with(request)
	}
	pending := func(name string, p rpctest.Person, cut, link bool) {
		t.Helper()
		who := wantSignedIn(t, r, name, signsIn(p, nil), p.Address)
		if got := who["pending"].(map[string]any); got["cut"] != cut || got["link"] != link || got["available"] != true {
			t.Errorf("%s: %v, want cut %v, link %v", name, got, cut, link)
		}
	}
	wantSignedIn(t, r, "a root while there are no links", signsIn(middle, object{"root_only": true}), middle.Address)
	r.next(t, middle.Asks("mlr1", root), root.Accepts("mla1", "mlr1"), leaf.Asks("mlr2", middle), middle.Accepts("mla2", "mlr2"))

	if who := wantSignedIn(t, r, "without a mempool", signsIn(leaf, nil), leaf.Address); who["pending"].(map[string]any)["available"] != false ||
		who["pending"].(map[string]any)["reason"] == "" {
		t.Errorf("without a mempool: %v", who)
	}
	wantReason(t, r, "a root that has become a child", signsIn(middle, object{"root_only": true}), "NOT_THE_ROOT", "it is 1 links below")
	wantReason(t, r, "a leaf", signsIn(leaf, object{"max_depth": 1}), "TOO_DEEP", "it is 2 links below")
	wantReason(t, r, "depth 0", signsIn(middle, object{"max_depth": 0}), "TOO_DEEP", "up to 0 links")
	wantSignedIn(t, r, "depth 2", signsIn(leaf, object{"max_depth": 2}), leaf.Address)
	wantSignedIn(t, r, "the root", signsIn(root, object{"root_only": true, "max_depth": 0}), root.Address)

	r.Suppose(t, "", nil, root.Revokes("mcr1", "mla1"))
	pending("a key that would be cut", middle, true, false)
	pending("one below it", leaf, true, false)
	pending("the root above", root, false, false)
	wantReason(t, r, "one that would become a root", signsIn(middle, object{"root_only": true}), "NOT_THE_ROOT", "it is 1 links below")

	r.Suppose(t, "", nil, root.Asks("mlr3", above), above.Accepts("mla3", "mlr3"))
	pending("one whose root would have a parent", leaf, false, true)
	pending("that root", root, false, true)
	pending("the parent", above, false, false)
	wantReason(t, r, "that root as a root", signsIn(root, object{"root_only": true}), "NOT_THE_ROOT", "would be if what is pending were confirmed, 1")
	wantReason(t, r, "a leaf that would be deeper", signsIn(leaf, object{"max_depth": 2}), "TOO_DEEP", "3")

	r.Suppose(t, "", nil, root.Revokes("mcr1", "mla1"), middle.Asks("mlr4", above), above.Accepts("mla4", "mlr4"))
	pending("one that would move", leaf, true, true)

	r.next(t, root.Revokes("mcr1", "mla1"))
	r.Suppose(t, "", nil)
	if who := wantSignedIn(t, r, "one that was cut", signsIn(leaf, nil), leaf.Address); who["main_address"] != middle.Address || who["id_tx_hash"] != rpctest.HashOf("mcr1").String() {
		t.Errorf("after the cut: %v", who)
	}
}

// TestDeepPlace signs in by a key so deep that its path is not shown whole. What would happen
// above what is shown counts as a cut.
func TestDeepPlace(t *testing.T) {
	r, leaf := newRig(t), rpctest.NewPerson(t, rpctest.Net)
	name := func(i int) string { return fmt.Sprint("key ", i) }
	top := rpctest.Person{WIF: protocol.WIF{Key: rpctest.Key(name(0))}}
	actions := []links.Action{leaf.Asks("leaf's", top), rpctest.MLA("of leaf", name(0), "leaf's")}
	const deep = 110
	for i := 1; i < deep; i++ {
		actions = append(actions, rpctest.MLR(fmt.Sprint("mlr ", i), name(i-1), name(i), ""), rpctest.MLA(fmt.Sprint("mla ", i), name(i), fmt.Sprint("mlr ", i)))
	}
	r.next(t, actions...)
	for i, test := range []struct {
		name    string
		pending []links.Action
		differs bool
	}{
		{"nothing", nil, false},
		{"a cut that is not shown", []links.Action{rpctest.MCR("cut", name(deep-1), fmt.Sprint("mla ", deep-1))}, true},
		{"a link above the root", []links.Action{rpctest.MLR("above", name(deep-1), "above", ""), rpctest.MLA("accepted", "above", "above")}, true},
	} {
		r.Suppose(t, "", nil, test.pending...)
		text := challenge(t, r, leaf, object{"uri": fmt.Sprint(uri, "?s=", i)})
		who := wantSignedIn(t, r, test.name, answered(t, leaf, text), leaf.Address)
		if got := who["pending"].(map[string]any); who["depth"] != float64(deep) || who["path_truncated"] != true || got["cut"] != test.differs || got["link"] != test.differs {
			t.Errorf("%s: depth %v, %v", test.name, who["depth"], got)
		}
	}
}

// TestBehind asks a server that does not know the last blocks.
func TestBehind(t *testing.T) {
	r := newRig(t)
	p := rpctest.NewPerson(t, rpctest.Net)
	good := answered(t, p, challenged(t, r, p))
	r.Follower.Set(indexer.Status{Checked: true, Reason: "catching up"})
	wantReason(t, r, "behind", good, "INDEX_BEHIND", "catching up")
	r.Follower.Set(indexer.Status{})
	wantReason(t, r, "not checked", good, "INDEX_BEHIND", "")
	r.Follower.Set(indexer.Status{Checked: true, Synced: true})
	wantSignedIn(t, r, "synced", good, p.Address)
}

// TestSharedKey has two servers that share a key verify each other's challenges, and a third
// one with another key none of them.
func TestSharedKey(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	one, other := newAlone(t, rpctest.Net, now), newAlone(t, rpctest.Net, now.Add(signin.MaxSkew))
	p := rpctest.NewPerson(t, rpctest.Net)
	wantSignedIn(t, other, "the other's", answered(t, p, challenged(t, one, p)), p.Address)
	wantSignedIn(t, one, "the one's", answered(t, p, challenged(t, other, p)), p.Address)

	third := newRig(t)
	r := new(rpctest.Rig)
	stranger := third.config()
	stranger.SignInKey = nil
	r.Serve(t, stranger)
	wantReason(t, rig{r}, "a stranger's", answered(t, p, challenged(t, third, p)), "FOREIGN_NONCE", "")
}

// TestNewRefusesKeys has a key that is too short.
func TestNewRefusesKeys(t *testing.T) {
	if _, err := signinrpc.New(signinrpc.Config{Net: rpctest.Net, Index: roots{}, Key: make([]byte, 8)}); err == nil || errors.Is(err, signin.ErrText) {
		t.Errorf("got %v", err)
	}
}

// TestManyChallenges asks for a million of them with KEYTREE_EXHAUSTIVE, else for fewer, and
// finds that none of them is kept.
func TestManyChallenges(t *testing.T) {
	many := 20_000
	switch {
	case os.Getenv("KEYTREE_EXHAUSTIVE") != "":
		many = 1_000_000
	case testing.Short():
		many = 2000
	}
	service, err := signinrpc.New(signinrpc.Config{Net: rpctest.Net, Index: roots{}})
	if err != nil {
		t.Fatal(err)
	}
	p := rpctest.NewPerson(t, rpctest.Net)
	before := rpctest.InUse()
	for i := range many {
		request := &keytreev1.ChallengeSignInRequest{Domain: domain, Uri: fmt.Sprint(uri, "?s=", i), Address: p.Address}
		if _, err := service.ChallengeSignIn(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if grown := rpctest.InUse() - before; grown > 128<<10 { // a nonce of each would be more
		t.Errorf("%d challenges hold %d bytes", many, grown)
	}
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
