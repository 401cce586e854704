package keyinit_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// vectors are those of ../testdata.
type vectors struct {
	KeyInit struct {
		Contents   string `json:"Contents_canonical_json"`
		Canonical  string `json:"KeyInit_canonical_json_is_FetchKeyInit_reply_string"`
		Wire       string `json:"wire_json_struct_order"`
		Signature  string `json:"SIGNATURE"`
		SigKeyHash string `json:"SIGKEYHASH"`
		Server     string `json:"server_signature"`
		Anchor     string `json:"sessionanchor_plain_json"`
	} `json:"keyinit"`
	Flush struct {
		Nonce     uint64
		Signature string
		SigPubKey string
	} `json:"flush"`
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("../testdata/keyserver.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func seed(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// vectorTime is a time at which the vector is valid and not too far ahead.
const vectorTime = 4102444800 - 1000

func TestVectors(t *testing.T) {
	v := readVectors(t).KeyInit
	k, err := keyinit.Parse([]byte(v.Wire))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(k.Canonical()); got != v.Canonical {
		t.Errorf("got %s", got)
	}
	if got := string(canonical.Marshal(k.Contents)); got != v.Contents {
		t.Errorf("got %s", got)
	}
	anchor, err := k.Verify(public(seed(0x22)), []string{"example.org"}, vectorTime)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(canonical.Marshal(anchor)); got != v.Anchor {
		t.Errorf("anchor %s", got)
	}
	again := *k
	again.Signature, again.Contents.SessionAnchor, again.Contents.SessionAnchorHash = "", "", ""
	iv := bytes.Repeat([]byte{0xc5}, 16)
	if err := again.Contents.Seal(anchor, public(seed(0x22)), bytes.NewReader(iv)); err != nil {
		t.Fatal(err)
	}
	again.Sign(seed(0x22))
	if got := string(again.Canonical()); got != v.Canonical {
		t.Errorf("made again: %s", got)
	}
	if got := k.SignServer(seed(0x11)); got != v.Server {
		t.Errorf("receipt %s", got)
	}
	if err := k.VerifyServer(v.Server, public(seed(0x11))); err != nil {
		t.Error(err)
	}
	if err := k.VerifyServer(v.Signature, public(seed(0x11))); !errors.Is(err, uid.ErrSignature) {
		t.Error(err)
	}
}

func TestFlush(t *testing.T) {
	v := readVectors(t).Flush
	key := public(seed(0x22))
	if got := canonical.Encode(key); got != v.SigPubKey {
		t.Errorf("key %s", got)
	}
	if got := keyinit.SignFlush(v.Nonce, seed(0x22)); got != v.Signature {
		t.Errorf("signature %s", got)
	}
	for name, test := range map[string]struct {
		nonce, now uint64
		signature  string
		want       error
	}{
		"now":        {v.Nonce, v.Nonce, v.Signature, nil},
		"slow clock": {v.Nonce, v.Nonce + keyinit.MaxFlushAge, v.Signature, nil},
		"fast clock": {v.Nonce, v.Nonce - keyinit.MaxFlushAge, v.Signature, nil},
		"old":        {v.Nonce, v.Nonce + keyinit.MaxFlushAge + 1, v.Signature, uid.ErrExpired},
		"ahead":      {v.Nonce, v.Nonce - keyinit.MaxFlushAge - 1, v.Signature, uid.ErrExpired},
		"far ahead":  {1<<64 - 1, v.Nonce, v.Signature, uid.ErrExpired},
		"other time": {v.Nonce + 1, v.Nonce, v.Signature, uid.ErrSignature},
		"by another": {v.Nonce, v.Nonce, keyinit.SignFlush(v.Nonce, seed(0x33)), uid.ErrSignature},
		"unsigned":   {v.Nonce, v.Nonce, "", uid.ErrSignature},
	} {
		if err := keyinit.VerifyFlush(key, test.nonce, test.signature, test.now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const now, day = 1700000000, 24 * 60 * 60

// valid returns a KeyInit of the key 0x22.
func valid(t testing.TB, change func(*keyinit.Contents, *keyinit.Anchor)) *keyinit.KeyInit {
	t.Helper()
	sum := uid.SigKeyHash(public(seed(0x22)))
	k := &keyinit.KeyInit{Contents: keyinit.Contents{
		NotAfter: now + 90*day, RepoURI: "example.org", SigKeyHash: canonical.Encode(sum[:]), Version: uid.Version10,
	}}
	anchor := keyinit.Anchor{PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, bytes.Repeat([]byte{5}, 32))}}
	change(&k.Contents, &anchor)
	if k.Contents.SessionAnchor == "" {
		if err := k.Contents.Seal(&anchor, public(seed(0x22)), rand.NewChaCha8([32]byte{})); err != nil {
			t.Fatal(err)
		}
	}
	k.Sign(seed(0x22))
	return k
}

func TestVerify(t *testing.T) {
	type contents = keyinit.Contents
	type anchor = keyinit.Anchor
	for name, test := range map[string]struct {
		change func(*contents, *anchor)
		want   error
	}{
		"1.0":               {func(*contents, *anchor) {}, nil},
		"1.1":               {func(c *contents, _ *anchor) { c.Version, c.MsgCount = uid.Version11, 7 }, nil},
		"begins later":      {func(c *contents, _ *anchor) { c.NotBefore = now + day }, nil},
		"1.0 with MSGCOUNT": {func(c *contents, _ *anchor) { c.MsgCount = 1 }, uid.ErrInvalid},
		"version":           {func(c *contents, _ *anchor) { c.Version = "2" }, uid.ErrInvalid},
		"repository":        {func(c *contents, _ *anchor) { c.RepoURI = "example.net" }, uid.ErrInvalid},
		"SIGKEYHASH":        {func(c *contents, _ *anchor) { c.SigKeyHash = "AA" + c.SigKeyHash[2:] }, uid.ErrInvalid},
		"expired":           {func(c *contents, _ *anchor) { c.NotAfter = now }, uid.ErrExpired},
		"backwards":         {func(c *contents, _ *anchor) { c.NotBefore = c.NotAfter }, uid.ErrExpired},
		"a day too long":    {func(c *contents, _ *anchor) { c.NotAfter += day }, nil},
		"too long":          {func(c *contents, _ *anchor) { c.NotAfter += day + 1 }, uid.ErrExpired},
		"no keys":           {func(_ *contents, a *anchor) { a.PFKeys = nil }, uid.ErrInvalid},
		"17 keys":           {func(_ *contents, a *anchor) { a.PFKeys = slices.Repeat(a.PFKeys, 17) }, uid.ErrInvalid},
		"wrong key":         {func(_ *contents, a *anchor) { a.PFKeys[0].Function = uid.Ed25519 }, uid.ErrInvalid},
		"anchor not base64": {func(c *contents, _ *anchor) { c.SessionAnchor = "x" }, uid.ErrInvalid},
		"anchor short":      {func(c *contents, _ *anchor) { c.SessionAnchor = "AAEC" }, uid.ErrInvalid},
		"anchor hash": {func(c *contents, _ *anchor) {
			c.SessionAnchor = strings.Repeat("A", 64)
			c.SessionAnchorHash = c.SigKeyHash
		}, uid.ErrInvalid},
		"too large": {func(_ *contents, a *anchor) { a.MixAddress = strings.Repeat("x", keyinit.MaxKeyInit) }, uid.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			k := valid(t, test.change)
			if _, err := k.Verify(public(seed(0x22)), []string{"keys.example.org", "example.org"}, now); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	k := valid(t, func(*contents, *anchor) {})
	if _, err := k.Verify(public(seed(0x33)), []string{"example.org"}, now); !errors.Is(err, uid.ErrInvalid) {
		t.Errorf("key of another: %v", err)
	}
	k.Contents.Fallback = true
	if _, err := k.Verify(public(seed(0x22)), []string{"example.org"}, now); !errors.Is(err, uid.ErrSignature) {
		t.Errorf("changed: %v", err)
	}
	if _, err := keyinit.Parse(append(k.Canonical(), make([]byte, keyinit.MaxKeyInit)...)); !errors.Is(err, canonical.ErrMalformed) {
		t.Error(err)
	}
}

func TestCheckAddress(t *testing.T) {
	nym := func(n int) string { return canonical.Encode(make([]byte, n)) }
	for name, test := range map[string]struct {
		mix, nym string
		good     bool
	}{
		"both":             {"mix@example.net", "YWxpY2U=", true},
		"without a nym":    {"mix@example.net", "", true},
		"longest":          {strings.Repeat("m", 242) + "@example.net", nym(keyinit.MaxNym), true},
		"no mix":           {"", "", false},
		"no mail address":  {"nomix", "", false},
		"no local part":    {"@example.net", "", false},
		"no domain":        {"mix@", "", false},
		"two":              {"mix@example.net,mix@example.org", "", false},
		"a name with it":   {"Mix <mix@example.net>", "", false},
		"line break":       {"mix@example.net\nBcc: all@example.net", "", false},
		"line break alone": {"mix@example.net\r\n", "", false},
		"escape":           {"mix@\x1b[2Jexample.net", "", false},
		"not ASCII":        {"mïx@example.net", "", false},
		"too long":         {strings.Repeat("m", 243) + "@example.net", "", false},
		"nym no base64":    {"mix@example.net", "!!", false},
		"nym with a break": {"mix@example.net", "YWxp\nY2U=", false},
		"nym too long":     {"mix@example.net", nym(keyinit.MaxNym + 1), false},
	} {
		err := (&keyinit.Anchor{MixAddress: test.mix, NymAddress: test.nym}).CheckAddress()
		if test.good != (err == nil) || !test.good && !errors.Is(err, uid.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChoose(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	once := func(before, after uint64) keyinit.Stored { return keyinit.Stored{NotBefore: before, NotAfter: after} }
	fallback := func(before, after uint64) keyinit.Stored {
		return keyinit.Stored{Fallback: true, NotBefore: before, NotAfter: after}
	}
	for name, test := range map[string]struct {
		stored []keyinit.Stored
		index  int
		remove bool
	}{
		"none":                 {nil, -1, false},
		"expired":              {[]keyinit.Stored{once(0, now), fallback(0, now)}, -1, false},
		"not yet":              {[]keyinit.Stored{once(now+1, now+9), fallback(now+1, now+9)}, -1, false},
		"from now on":          {[]keyinit.Stored{once(now, now+9)}, 0, true},
		"least lifetime first": {[]keyinit.Stored{once(0, now+9), once(0, now+3), once(0, now+5)}, 1, true},
		"fallback last":        {[]keyinit.Stored{fallback(0, now+1), once(0, now+50)}, 1, true},
		"the last fallback":    {[]keyinit.Stored{fallback(0, now+5)}, 0, false},
		"the last valid one":   {[]keyinit.Stored{once(0, now), fallback(0, now+5), fallback(now+1, now+9), fallback(0, now)}, 1, false},
		"one second":           {[]keyinit.Stored{fallback(0, now+1)}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				if index, remove := keyinit.Choose(test.stored, now, random); index != test.index || remove != test.remove {
					t.Fatalf("got %d %v, want %d %v", index, remove, test.index, test.remove)
				}
			}
		})
	}

	// With 1, 50 and 100 seconds left, the coin nearly always says yes to the first,
	// half of the time to the second, never to the third.
	stored := []keyinit.Stored{fallback(0, now+100), fallback(0, now+1), fallback(0, now+50)}
	var chosen, removed [3]int
	const tries = 6000
	for range tries {
		i, remove := keyinit.Choose(stored, now, random)
		chosen[i]++
		if remove {
			removed[i]++
		}
	}
	if !(chosen[1] > chosen[2] && chosen[2] > chosen[0] && chosen[0] > 0) {
		t.Errorf("the shorter-lived should come more often: %v", chosen)
	}
	if removed[0] != 0 || removed[1] < chosen[1]*9/10 || removed[2] < chosen[2]*4/10 || removed[2] > chosen[2]*6/10 {
		t.Errorf("removed %v of %v", removed, chosen)
	}
	// All alike: each comes, none is ever removed.
	alike := []keyinit.Stored{fallback(0, now+100), fallback(0, now+100), fallback(0, now+100)}
	chosen = [3]int{}
	for range tries {
		i, remove := keyinit.Choose(alike, now, random)
		if chosen[i]++; remove {
			t.Fatal("removed, although r is always below n")
		}
	}
	if slices.Min(chosen[:]) < tries/4 {
		t.Errorf("not at random: %v", chosen)
	}
}

// What Parse accepts has one canonical form; Verify never panics.
func FuzzParse(f *testing.F) {
	f.Add([]byte(readVectors(f).KeyInit.Wire))
	f.Add(valid(f, func(c *keyinit.Contents, a *keyinit.Anchor) { c.Version = uid.Version11 }).Canonical())
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := keyinit.Parse(data)
		if err != nil {
			return
		}
		once := k.Canonical()
		again, err := keyinit.Parse(once)
		if len(once) <= keyinit.MaxKeyInit && (err != nil || string(again.Canonical()) != string(once)) {
			t.Fatalf("%v: %s", err, once)
		}
		k.Verify(public(seed(0x22)), []string{k.Contents.RepoURI}, vectorTime)
		k.Sign(seed(0x22))
		k.Verify(public(seed(0x22)), []string{k.Contents.RepoURI}, vectorTime)
	})
}
