package uid_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// vectors are those of ../testdata.
type vectors struct {
	Corner   map[string]string `json:"canonical_corner_cases"`
	Messages []struct {
		Self       string `json:"SELFSIGNATURE"`
		User       string `json:"USERSIGNATURE"`
		SigKeyHash string `json:"SIGKEYHASH"`
		Content    string `json:"UIDContent_canonical_json"`
		Message    string `json:"UIDMessage_canonical_json"`
		Wire       string `json:"wire_json_struct_order"`
		Seed       string `json:"sigkey_ed25519_seed_hex"`
	} `json:"uid_messages"`
	Hashchain []struct {
		Position  uint64
		Entry     string `json:"entry_base64"`
		UIDHash   string `json:"UIDHash_hex"`
		UIDIndex  string `json:"UIDIndex_hex"`
		IV        string `json:"ctr_iv_hex"`
		Encrypted string `json:"UIDMessageEncrypted_base64"`
		Canonical string `json:"Entry_canonical_json"`
		Reply     string `json:"UIDMessageReply_canonical_json"`
		Signature string `json:"SERVERSIGNATURE"`
	} `json:"hashchain"`
	Server struct {
		Public string `json:"SIGPUBKEY"`
		Seed   string `json:"seed_hex"`
	} `json:"server_key"`
	Map []struct {
		In, Out, Err string
		IsMapped     bool
	} `json:"identity_map"`
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
	if len(v.Messages) != 3 || len(v.Hashchain) != 3 || len(v.Map) == 0 || len(v.Corner) == 0 {
		t.Fatal("vectors are missing")
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seed returns the key whose seed is one byte repeated.
func seed(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func parse(t testing.TB, data string) *uid.Message {
	t.Helper()
	m, err := uid.Parse([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMessageVectors(t *testing.T) {
	v := readVectors(t)
	var previous *uid.Message
	for i, c := range v.Messages {
		m := parse(t, c.Wire)
		if got := string(m.Canonical()); got != c.Message {
			t.Errorf("message %d: %s", i, got)
		}
		if got := string(m.Content.Canonical()); got != c.Content {
			t.Errorf("content %d: %s", i, got)
		}
		if err := m.Check(); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
		if i < 2 {
			if err := m.VerifyCreation(); err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		} else if err := m.VerifyUpdate(previous); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
		key := ed25519.NewKeyFromSeed(unhex(t, c.Seed))
		sum := uid.SigKeyHash(public(key))
		if got := canonical.Encode(sum[:]); got != c.SigKeyHash {
			t.Errorf("SIGKEYHASH %d: %s", i, got)
		}
		if got := uid.NewKeyEntry(uid.Ed25519, public(key)); got != m.Content.SigKey {
			t.Errorf("SIGKEY %d: %+v", i, got)
		}
		again := *m
		again.SelfSignature, again.UserSignature = "", ""
		again.Sign(key)
		if c.User != "" {
			again.SignUser(seed(0x22))
		}
		if again.SelfSignature != c.Self || again.UserSignature != c.User {
			t.Errorf("signatures %d: %s %s", i, again.SelfSignature, again.UserSignature)
		}
		previous = m
	}
}

func TestReplyVectors(t *testing.T) {
	v := readVectors(t)
	server := ed25519.NewKeyFromSeed(unhex(t, v.Server.Seed))
	if got := canonical.Encode(public(server)); got != v.Server.Public {
		t.Errorf("server key %s", got)
	}
	for i, c := range v.Hashchain {
		m := parse(t, v.Messages[i].Wire)
		sealed, err := m.Seal(bytes.NewReader(unhex(t, c.IV)))
		if err != nil {
			t.Fatal(err)
		}
		if sealed.Hash.String() != c.UIDHash || uid.Index(sealed.Hash).String() != c.UIDIndex || sealed.Encrypted != c.Encrypted {
			t.Errorf("sealed %d: %+v", i, sealed)
		}
		if m.Hash() != sealed.Hash {
			t.Errorf("hash %d: %s", i, m.Hash())
		}
		entry, err := hashchain.Parse(c.Entry)
		if err != nil {
			t.Fatal(err)
		}
		reply := uid.NewReply(sealed.Encrypted, &entry, c.Position, server)
		if string(reply.Canonical()) != c.Reply || reply.ServerSignature != c.Signature || string(canonical.Marshal(reply.Entry)) != c.Canonical {
			t.Errorf("reply %d: %s", i, reply.Canonical())
		}
		parsed, err := uid.ParseReply([]byte(c.Reply))
		if err != nil {
			t.Fatal(err)
		}
		if err := parsed.Verify(public(server)); err != nil {
			t.Error(err)
		}
		opened, err := parsed.Open(sealed.Hash)
		if err != nil || string(opened.Canonical()) != v.Messages[i].Message {
			t.Errorf("opened %d: %v", i, err)
		}
	}
}

func TestCanonicalCornerCases(t *testing.T) {
	v := readVectors(t)
	alice := parse(t, v.Messages[1].Wire)
	link, escrow, escaped := alice.Content, alice.Content, alice.Content
	link.ChainLink = &uid.ChainLink{}
	escrow.SigEscrow = &uid.KeyEntry{}
	escaped.MixAddress = "<a&b>\u2028\"\\/\u007fé\t"
	for name, content := range map[string]uid.Content{
		"CHAINLINK = {} canonical": link,
		"SIGESCROW = zero struct":  escrow,
		"string escaping in MIXADDRESS (Go json.Marshal, HTML escaping on)": escaped,
	} {
		want, ok := v.Corner[name]
		if !ok {
			t.Fatalf("no vector %q", name)
		}
		var read uid.Content
		if err := canonical.Unmarshal([]byte(want), &read); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := string(read.Canonical()); got != want {
			t.Errorf("%s: read and written: %s", name, got)
		}
		content.LastEntry = read.LastEntry
		if got := string(content.Canonical()); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	if got, want := string(new(uid.Message).Canonical()), v.Corner["zero Message (nil PUBKEYS -> [], nil []string -> null, nil pointers -> null)"]; got != want {
		t.Errorf("zero message: %s", got)
	}
	if got := parse(t, v.Corner["wire form of zero Message"]); string(got.Canonical()) != string(new(uid.Message).Canonical()) {
		t.Errorf("zero message from the wire: %s", got.Canonical())
	}

	zero := *alice
	zero.Content.SigEscrow = &uid.KeyEntry{}
	if err := zero.Check(); err != nil || v.Corner["Check() with SIGESCROW zero struct"] != "<nil>" {
		t.Errorf("SIGESCROW zero struct: %v", err)
	}
	zero = *alice
	zero.Content.ChainLink = &uid.ChainLink{}
	if err := zero.Check(); err == nil || v.Corner["Check() with CHAINLINK zero struct"] == "<nil>" {
		t.Error("CHAINLINK zero struct is accepted")
	}
}

func TestMapVectors(t *testing.T) {
	for _, c := range readVectors(t).Map {
		got, err := uid.Map(c.In)
		if got != c.Out || (err == nil) != (c.Err == "") {
			t.Errorf("Map(%q) = %q, %v; want %q, %s", c.In, got, err, c.Out, c.Err)
		}
		if err := uid.CheckMapped(c.In); (err == nil) != c.IsMapped {
			t.Errorf("CheckMapped(%q) = %v", c.In, err)
		}
		if got == "" {
			continue
		}
		if again, err := uid.Map(got); again != got || err != nil {
			t.Errorf("Map(Map(%q)) = %q, %v", c.In, again, err)
		}
	}
}
