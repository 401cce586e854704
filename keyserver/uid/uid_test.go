package uid_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Canonical JSON relies on the order in which fields are declared.
func TestFieldsAreInOrder(t *testing.T) {
	for _, message := range []any{
		uid.KeyEntry{}, uid.Preferences{}, uid.ChainLink{}, uid.Content{}, uid.Message{}, uid.Entry{}, uid.Reply{},
		keyinit.Contents{}, keyinit.KeyInit{}, keyinit.Anchor{},
	} {
		var names []string
		for f := range reflect.TypeOf(message).Fields() {
			names = append(names, f.Tag.Get("json"))
		}
		if !slices.IsSorted(names) || slices.Contains(names, "") {
			t.Errorf("%T: %q", message, names)
		}
	}
}

// alice11 returns a message of profile 1.1, signed, and the keys 0x22 and 0x44 that
// did it.
func alice11(t testing.TB) *uid.Message {
	m := parse(t, readVectors(t).Messages[1].Wire)
	c := &m.Content
	c.Version = uid.Version11
	c.Preferences.ForwardSec = uid.Optional
	c.MixAddress, c.NymAddress = "mix@example.org", "YWxpY2U="
	escrow := uid.NewKeyEntry(uid.Ed25519, public(seed(0x44)))
	c.SigEscrow = &escrow
	c.PubKeys = nil
	for b := byte(1); b <= 3; b++ {
		c.PubKeys = append(c.PubKeys, uid.NewKeyEntry(uid.ECDHE25519, slices.Repeat([]byte{b}, 32)))
	}
	sortKeys(c.PubKeys)
	c.RepoURIs = []string{"example.org", "https://keys.example.net"}
	sign11(m)
	return m
}

// Keys that pass for an Ed25519 key with crypto/ed25519: the neutral point, and one
// whose y is the field's order and 3.
var (
	neutral      = append([]byte{1}, make([]byte, 31)...)
	notCanonical = append(append([]byte{0xf0}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f)
)

// TestUnfitKey has no private key, and a signature that crypto/ed25519 takes.
func TestUnfitKey(t *testing.T) {
	signature := canonical.Encode(append(bytes.Clone(neutral), make([]byte, 32)...))
	if err := uid.Verify("SIGNATURE", neutral, []byte("whatever"), signature); !errors.Is(err, uid.ErrSignature) {
		t.Errorf("got %v, expected %v", err, uid.ErrSignature)
	}
}

func sign11(m *uid.Message) {
	m.Sign(seed(0x22))
	m.SignEscrow(seed(0x44))
}

func sortKeys(keys uid.KeyList) {
	slices.SortFunc(keys, func(a, b uid.KeyEntry) int {
		x, _ := canonical.Decode(a.Hash, sha512.Size)
		y, _ := canonical.Decode(b.Hash, sha512.Size)
		return slices.Compare(x, y)
	})
}

func TestCheck(t *testing.T) {
	alice10 := func(t testing.TB) *uid.Message { return parse(t, readVectors(t).Messages[1].Wire) }
	link := func(c *uid.Content) *uid.ChainLink {
		c.ChainLink = &uid.ChainLink{URI: []string{"keys.example.net"}, Last: c.LastEntry}
		return c.ChainLink
	}
	for name, test := range map[string]struct {
		message func(testing.TB) *uid.Message
		change  func(m *uid.Message, c *uid.Content)
		says    string // of the error; "" for none
	}{
		"1.0":                {alice10, func(*uid.Message, *uid.Content) {}, ""},
		"1.1":                {alice11, func(*uid.Message, *uid.Content) {}, ""},
		"unknown version":    {alice10, func(_ *uid.Message, c *uid.Content) { c.Version = "1.2" }, "VERSION"},
		"look-alike":         {alice10, func(_ *uid.Message, c *uid.Content) { c.Identity = "a1ice@example.org" }, "IDENTITY"},
		"upper case":         {alice10, func(_ *uid.Message, c *uid.Content) { c.Identity = "Alice@example.org" }, "IDENTITY"},
		"no host":            {alice10, func(_ *uid.Message, c *uid.Content) { c.Identity = "alice@" }, "IDENTITY: domain"},
		"host with space":    {alice10, func(_ *uid.Message, c *uid.Content) { c.Identity = "alice@ example.org" }, "IDENTITY: domain"},
		"host with umlaut":   {alice10, func(_ *uid.Message, c *uid.Content) { c.Identity = "alice@münchen.de" }, "IDENTITY: domain"},
		"no last entry":      {alice10, func(_ *uid.Message, c *uid.Content) { c.LastEntry = "" }, "LASTENTRY"},
		"cut last entry":     {alice10, func(_ *uid.Message, c *uid.Content) { c.LastEntry = c.LastEntry[4:] }, "LASTENTRY"},
		"SIGKEY suite":       {alice10, func(_ *uid.Message, c *uid.Content) { c.SigKey.Ciphersuite = "X" }, "SIGKEY: invalid message: CIPHERSUITE"},
		"SIGKEY function":    {alice10, func(_ *uid.Message, c *uid.Content) { c.SigKey.Function = uid.ECDHE25519 }, "FUNCTION"},
		"SIGKEY hash":        {alice10, func(_ *uid.Message, c *uid.Content) { c.SigKey.Hash = c.PubKeys[0].Hash }, "HASH"},
		"SIGKEY small order": {alice10, func(_ *uid.Message, c *uid.Content) { c.SigKey = uid.NewKeyEntry(uid.Ed25519, neutral) }, "SIGKEY: invalid message: PUBKEY: unfit"},
		"SIGKEY not canonical": {alice10, func(_ *uid.Message, c *uid.Content) {
			c.SigKey = uid.NewKeyEntry(uid.Ed25519, notCanonical)
		}, "SIGKEY: invalid message: PUBKEY: unfit"},
		"PUBKEYS any bytes": {alice10, func(_ *uid.Message, c *uid.Content) {
			c.PubKeys = uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, neutral)}
		}, ""},
		"1.1 escrow small order": {alice11, func(_ *uid.Message, c *uid.Content) {
			e := uid.NewKeyEntry(uid.Ed25519, neutral)
			c.SigEscrow = &e
		}, "SIGESCROW: invalid message: PUBKEY: unfit"},
		"SIGKEY short":        {alice10, func(_ *uid.Message, c *uid.Content) { c.SigKey.PubKey = "AAEC" }, "PUBKEY"},
		"no PUBKEYS":          {alice10, func(_ *uid.Message, c *uid.Content) { c.PubKeys = nil }, "PUBKEYS"},
		"PUBKEYS function":    {alice10, func(_ *uid.Message, c *uid.Content) { c.PubKeys[0].Function = uid.Ed25519 }, "PUBKEYS[0]"},
		"PUBKEYS hash":        {alice10, func(_ *uid.Message, c *uid.Content) { c.PubKeys[0].Hash = c.SigKey.Hash }, "PUBKEYS[0]"},
		"suites":              {alice10, func(_ *uid.Message, c *uid.Content) { c.Preferences.Ciphersuites = nil }, "CIPHERSUITES"},
		"two suites":          {alice11, func(_ *uid.Message, c *uid.Content) { c.Preferences.Ciphersuites = []string{uid.Ciphersuite, "X"} }, "CIPHERSUITES"},
		"strict with address": {alice11, func(_ *uid.Message, c *uid.Content) { c.Preferences.ForwardSec = uid.Strict }, "MIXADDRESS"},
		"1.0 not strict":      {alice10, func(_ *uid.Message, c *uid.Content) { c.Preferences.ForwardSec = uid.Mandatory }, "1.0: PREFERENCES.FORWARDSEC"},
		"1.0 address":         {alice10, func(_ *uid.Message, c *uid.Content) { c.NymAddress = "AAEC" }, "NYMADDRESS"},
		"1.0 two keys":        {alice10, func(_ *uid.Message, c *uid.Content) { c.PubKeys = alice11(t).Content.PubKeys[:2] }, "1.0: PUBKEYS"},
		"1.0 other repo":      {alice10, func(_ *uid.Message, c *uid.Content) { c.RepoURIs = []string{"example.net"} }, "1.0: REPOURIS"},
		"1.0 two repos":       {alice10, func(_ *uid.Message, c *uid.Content) { c.RepoURIs = []string{"example.org", "example.org"} }, "1.0: REPOURIS"},
		"1.0 escrow":          {alice10, func(_ *uid.Message, c *uid.Content) { c.SigEscrow = &c.SigKey }, "1.0: SIGESCROW"},
		"1.0 empty escrow":    {alice10, func(_ *uid.Message, c *uid.Content) { c.SigEscrow = &uid.KeyEntry{} }, ""},
		"1.0 link":            {alice10, func(_ *uid.Message, c *uid.Content) { link(c) }, "1.0: CHAINLINK"},
		"1.0 escrow signed":   {alice10, func(m *uid.Message, c *uid.Content) { m.EscrowSignature = m.SelfSignature }, "1.0: ESCROWSIGNATURE"},
		"1.0 link authority":  {alice10, func(m *uid.Message, c *uid.Content) { m.LinkAuthority = m.SelfSignature }, "1.0: LINKAUTHORITY"},

		"1.1 mandatory": {alice11, func(_ *uid.Message, c *uid.Content) {
			c.Preferences.ForwardSec, c.MixAddress, c.NymAddress = uid.Mandatory, "", ""
		}, ""},
		"1.1 preference": {alice11, func(_ *uid.Message, c *uid.Content) {
			c.Preferences.ForwardSec, c.MixAddress, c.NymAddress = "none", "", ""
		}, "FORWARDSEC"},
		"1.1 no escrow":        {alice11, func(_ *uid.Message, c *uid.Content) { c.SigEscrow = nil }, "SIGESCROW"},
		"1.1 empty escrow":     {alice11, func(_ *uid.Message, c *uid.Content) { c.SigEscrow = &uid.KeyEntry{} }, "SIGESCROW"},
		"1.1 escrow is SIGKEY": {alice11, func(_ *uid.Message, c *uid.Content) { c.SigEscrow = &c.SigKey }, "SIGESCROW"},
		"1.1 escrow hash":      {alice11, func(_ *uid.Message, c *uid.Content) { e := *c.SigEscrow; e.Hash = c.SigKey.Hash; c.SigEscrow = &e }, "SIGESCROW"},
		"1.1 unsorted":         {alice11, func(_ *uid.Message, c *uid.Content) { slices.Reverse(c.PubKeys) }, "PUBKEYS[1]"},
		"1.1 key twice":        {alice11, func(_ *uid.Message, c *uid.Content) { c.PubKeys[1] = c.PubKeys[0] }, "PUBKEYS[1]"},
		"1.1 17 keys":          {alice11, func(_ *uid.Message, c *uid.Content) { c.PubKeys = slices.Repeat(c.PubKeys[:1], 17) }, "PUBKEYS"},
		"1.1 no repo":          {alice11, func(_ *uid.Message, c *uid.Content) { c.RepoURIs = nil }, "REPOURIS"},
		"1.1 empty repo":       {alice11, func(_ *uid.Message, c *uid.Content) { c.RepoURIs = []string{""} }, "REPOURIS"},
		"1.1 9 repos":          {alice11, func(_ *uid.Message, c *uid.Content) { c.RepoURIs = slices.Repeat([]string{"a"}, 9) }, "REPOURIS"},
		"1.1 line in address":  {alice11, func(_ *uid.Message, c *uid.Content) { c.MixAddress = "a@b\r\nRCPT" }, "MIXADDRESS"},
		"1.1 nym address":      {alice11, func(_ *uid.Message, c *uid.Content) { c.NymAddress = "alice" }, "NYMADDRESS"},

		"link":                   {alice11, func(_ *uid.Message, c *uid.Content) { link(c) }, ""},
		"link zero":              {alice11, func(_ *uid.Message, c *uid.Content) { c.ChainLink = &uid.ChainLink{} }, "CHAINLINK.URI"},
		"link 6 URIs":            {alice11, func(_ *uid.Message, c *uid.Content) { link(c).URI = []string{"a", "b", "c", "d", "e", "f"} }, "CHAINLINK.URI"},
		"link unsorted":          {alice11, func(_ *uid.Message, c *uid.Content) { link(c).URI = []string{"b", "a"} }, "CHAINLINK.URI"},
		"link no last":           {alice11, func(_ *uid.Message, c *uid.Content) { link(c).Last = "" }, "CHAINLINK.LAST"},
		"link identity":          {alice11, func(_ *uid.Message, c *uid.Content) { link(c).Identity = "A@b" }, "CHAINLINK.IDENTITY"},
		"link own identity":      {alice11, func(_ *uid.Message, c *uid.Content) { link(c).Identity = "alice@example.net" }, ""},
		"link domains":           {alice11, func(_ *uid.Message, c *uid.Content) { link(c).Domains = []string{"example.net"} }, "CHAINLINK.DOMAINS"},
		"link no authority":      {alice11, func(_ *uid.Message, c *uid.Content) { link(c).Authoritative = true }, "LINKAUTHORITY"},
		"authority but for what": {alice11, func(m *uid.Message, c *uid.Content) { link(c); m.LinkAuthority = m.SelfSignature }, "LINKAUTHORITY"},
		"authoritative": {alice11, func(m *uid.Message, c *uid.Content) {
			l := link(c)
			l.Authoritative, l.Domains, l.Identity = true, []string{"example.net"}, "keyserver@example.net"
			m.LinkAuthority = m.SelfSignature
		}, ""},
		"authoritative no host": {alice11, func(m *uid.Message, c *uid.Content) {
			l := link(c)
			l.Authoritative, l.Domains, l.Identity = true, []string{"Example.net"}, "keyserver@example.net"
			m.LinkAuthority = m.SelfSignature
		}, "CHAINLINK.DOMAINS[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			m := test.message(t)
			test.change(m, &m.Content)
			err := m.Check()
			if test.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, uid.ErrInvalid) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want ErrInvalid about %s", err, test.says)
			}
		})
	}
}

func TestVerifyCreation(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*uid.Message)
		want   error
	}{
		"signed by both":            {func(*uid.Message) {}, nil},
		"MSGCOUNT":                  {func(m *uid.Message) { m.Content.MsgCount = 1; sign11(m) }, uid.ErrInvalid},
		"no SELFSIGNATURE":          {func(m *uid.Message) { m.SelfSignature = "" }, uid.ErrSignature},
		"SELFSIGNATURE by another":  {func(m *uid.Message) { m.Sign(seed(0x55)) }, uid.ErrSignature},
		"no ESCROWSIGNATURE":        {func(m *uid.Message) { m.EscrowSignature = "" }, uid.ErrSignature},
		"ESCROWSIGNATURE by SIGKEY": {func(m *uid.Message) { m.SignEscrow(seed(0x22)) }, uid.ErrSignature},
		"USERSIGNATURE":             {func(m *uid.Message) { m.SignUser(seed(0x22)) }, uid.ErrSignature},
		"changed afterwards":        {func(m *uid.Message) { m.Content.NotAfter++ }, uid.ErrSignature},
		"signature with a break":    {func(m *uid.Message) { m.SelfSignature = m.SelfSignature[:87] + "\n" }, uid.ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			m := alice11(t)
			test.change(m)
			if err := m.VerifyCreation(); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestVerifyUpdate(t *testing.T) {
	keyEntry := func(b byte) uid.KeyEntry { return uid.NewKeyEntry(uid.Ed25519, public(seed(b))) }
	newKey := func(m *uid.Message) { m.Content.SigKey = keyEntry(0x66); m.Sign(seed(0x66)) }
	newEscrow := func(m *uid.Message) { e := keyEntry(0x77); m.Content.SigEscrow = &e; m.Sign(seed(0x22)) }
	for name, test := range map[string]struct {
		change func(m *uid.Message) // what is not signed again in here keeps no signature
		want   error
	}{
		"nothing new":              {func(m *uid.Message) { m.Sign(seed(0x22)); m.SignUser(seed(0x22)) }, nil},
		"new SIGKEY by user":       {func(m *uid.Message) { newKey(m); m.SignUser(seed(0x22)) }, nil},
		"new SIGKEY by escrow":     {func(m *uid.Message) { newKey(m); m.SignEscrow(seed(0x44)) }, nil},
		"new escrow by escrow":     {func(m *uid.Message) { newEscrow(m); m.SignEscrow(seed(0x44)) }, nil},
		"new escrow by user":       {func(m *uid.Message) { newEscrow(m); m.SignUser(seed(0x22)) }, uid.ErrSignature},
		"new escrow by itself":     {func(m *uid.Message) { newEscrow(m); m.SignEscrow(seed(0x77)) }, uid.ErrSignature},
		"escrow dropped by user":   {func(m *uid.Message) { m.Content.SigEscrow = nil; m.Sign(seed(0x22)); m.SignUser(seed(0x22)) }, uid.ErrSignature},
		"new SIGKEY by itself":     {func(m *uid.Message) { newKey(m); m.SignUser(seed(0x66)) }, uid.ErrSignature},
		"unsigned":                 {func(m *uid.Message) { m.Sign(seed(0x22)) }, uid.ErrSignature},
		"both":                     {func(m *uid.Message) { newKey(m); m.SignUser(seed(0x22)); m.SignEscrow(seed(0x44)) }, uid.ErrSignature},
		"no SELFSIGNATURE":         {func(m *uid.Message) { m.SignUser(seed(0x22)) }, uid.ErrSignature},
		"SELFSIGNATURE by old key": {func(m *uid.Message) { newKey(m); m.Sign(seed(0x22)); m.SignUser(seed(0x22)) }, uid.ErrSignature},
		"MSGCOUNT not increased":   {func(m *uid.Message) { m.Content.MsgCount = 0; m.Sign(seed(0x22)); m.SignUser(seed(0x22)) }, uid.ErrInvalid},
		"MSGCOUNT skips":           {func(m *uid.Message) { m.Content.MsgCount = 2; m.Sign(seed(0x22)); m.SignUser(seed(0x22)) }, uid.ErrInvalid},
		"other identity": {func(m *uid.Message) {
			m.Content.Identity = "bob@example.org"
			m.Sign(seed(0x22))
			m.SignUser(seed(0x22))
		}, uid.ErrInvalid},
		"other profile": {func(m *uid.Message) { m.Content.Version = "1.0"; m.Sign(seed(0x22)); m.SignUser(seed(0x22)) }, uid.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			previous, m := alice11(t), alice11(t)
			m.Content.MsgCount = 1
			m.SelfSignature, m.EscrowSignature = "", ""
			test.change(m)
			if err := m.VerifyUpdate(previous); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}

	t.Run("no more numbers", func(t *testing.T) {
		previous, m := alice11(t), alice11(t)
		previous.Content.MsgCount, m.EscrowSignature = 1<<64-1, ""
		m.SignUser(seed(0x22))
		if err := m.VerifyUpdate(previous); !errors.Is(err, uid.ErrInvalid) {
			t.Error(err)
		}
	})
	t.Run("escrow without one", func(t *testing.T) {
		v := readVectors(t)
		m := parse(t, v.Messages[2].Wire)
		m.UserSignature = ""
		m.SignEscrow(seed(0x44))
		if err := m.VerifyUpdate(parse(t, v.Messages[1].Wire)); !errors.Is(err, uid.ErrSignature) {
			t.Error(err)
		}
	})
}

func TestVerifyLink(t *testing.T) {
	operator := seed(0x99)
	m := alice11(t)
	if err := m.VerifyLink(nil); err != nil {
		t.Error(err)
	}
	m.SignLink(operator)
	if err := m.VerifyLink(public(operator)); err != nil {
		t.Error(err)
	}
	for name, key := range map[string]ed25519.PublicKey{"none": nil, "another": public(seed(0x22))} {
		if err := m.VerifyLink(key); !errors.Is(err, uid.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.SelfSignature = ""
	if err := m.VerifyLink(public(operator)); !errors.Is(err, uid.ErrSignature) {
		t.Error("it is not over the whole message")
	}
}

func TestCheckTime(t *testing.T) {
	const now, day = 1700000000, 24 * 60 * 60
	for name, test := range map[string]struct {
		before, after uint64
		ok            bool
	}{
		"a year":           {0, now + 366*day, true},
		"a year and a day": {0, now + 367*day, true},
		"too long":         {0, now + 367*day + 1, false},
		"much too long":    {0, 1<<64 - 1, false},
		"now":              {0, now, false},
		"past":             {0, now - 1, false},
		"one second":       {0, now + 1, true},
		"begins later":     {now + day, now + 2*day, true},
		"no time":          {now + day, now + day, false},
		"backwards":        {now + 2*day, now + day, false},
	} {
		c := uid.Content{NotBefore: test.before, NotAfter: test.after}
		if err := c.CheckTime(now); (err == nil) != test.ok || err != nil && !errors.Is(err, uid.ErrExpired) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, test := range []struct {
		age                       uint64
		trusted, updatable, taken bool
	}{
		{0, true, true, true},
		{1, false, true, true},
		{uid.Rollover, false, true, true},
		{uid.Rollover + 1, false, false, true},
		{2 * uid.Rollover, false, false, true},
		{2*uid.Rollover + 1, false, false, false},
	} {
		at := uint64(now) + test.age
		if uid.Trusted(now, at) != test.trusted || uid.Updatable(now, at) != test.updatable || uid.Taken(now, at) != test.taken {
			t.Errorf("%d seconds after NOTAFTER: %v %v %v", test.age, uid.Trusted(now, at), uid.Updatable(now, at), uid.Taken(now, at))
		}
	}
	if !uid.Trusted(1<<64-1, now) || !uid.Updatable(1<<64-1, now) || !uid.Taken(1<<64-1, now) {
		t.Error("a NOTAFTER far ahead")
	}
}

func TestReplyRefuses(t *testing.T) {
	v := readVectors(t)
	hash := parse(t, v.Messages[1].Wire).Hash()
	fresh := func() *uid.Reply {
		r, err := uid.ParseReply([]byte(v.Hashchain[1].Reply))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if err := fresh().Verify(public(seed(0x22))); !errors.Is(err, uid.ErrSignature) {
		t.Errorf("signed by another: %v", err)
	}
	for name, change := range map[string]func(*uid.Entry){
		"position": func(e *uid.Entry) { e.HashchainPos++ },
		"entry":    func(e *uid.Entry) { e.HashchainEntry = v.Hashchain[0].Entry },
		"message":  func(e *uid.Entry) { e.UIDMessageEncrypted = v.Hashchain[0].Encrypted },
	} {
		r := fresh()
		change(&r.Entry)
		if err := r.Verify(public(seed(0x11))); !errors.Is(err, uid.ErrSignature) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	b, _ := canonical.Decode(v.Hashchain[1].Encrypted, -1)
	for i := 0; i < len(b); i += 7 {
		changed := slices.Clone(b)
		changed[i] ^= 1
		r := fresh()
		r.Entry.UIDMessageEncrypted = canonical.Encode(changed)
		if _, err := r.Open(hash); !errors.Is(err, uid.ErrInvalid) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for _, n := range []int{0, 32, 47, 48, len(b) - 1} {
		r := fresh()
		r.Entry.UIDMessageEncrypted = canonical.Encode(b[:n])
		if _, err := r.Open(hash); !errors.Is(err, uid.ErrInvalid) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := fresh().Open(parse(t, v.Messages[0].Wire).Hash()); !errors.Is(err, uid.ErrInvalid) {
		t.Errorf("another's hash: %v", err)
	}
	if _, err := uid.ParseReply([]byte(strings.Replace(v.Hashchain[1].Reply, `"HASHCHAINPOS":1`, `"HASHCHAINPOS":1.5`, 1))); !errors.Is(err, canonical.ErrMalformed) {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	wire := readVectors(t).Messages[1].Wire
	for name, data := range map[string]string{
		"too long":           wire + strings.Repeat(" ", uid.MaxMessage),
		"two":                wire + wire,
		"unknown field":      strings.Replace(wire, `"VERSION"`, `"X":0,"VERSION"`, 1),
		"MSGCOUNT fraction":  strings.Replace(wire, `"MSGCOUNT":0`, `"MSGCOUNT":0.0`, 1),
		"MSGCOUNT text":      strings.Replace(wire, `"MSGCOUNT":0`, `"MSGCOUNT":"0"`, 1),
		"no CHAINLINK":       strings.Replace(wire, `,"CHAINLINK":null`, ``, 1),
		"old CHAINLINK name": strings.Replace(wire, `"CHAINLINK":null`, `"CHAINLINK":{"AUTHORATIVE":false,"DOMAINS":null,"IDENTITY":"","LAST":"","URI":null}`, 1),
		"SIGKEY null":        strings.Replace(wire, `"SIGKEY":{`, `"SIGKEY":null,"X":{`, 1),
	} {
		if data == wire {
			t.Errorf("%s: nothing changed", name)
		}
		if _, err := uid.Parse([]byte(data)); !errors.Is(err, canonical.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckDomain(t *testing.T) {
	for domain, ok := range map[string]bool{
		"example.org": true, "localhost": true, "a-b.c2": true, "1.2": true, "xn--mnchen-3ya.de": true,
		"": false, ".": false, "a..b": false, "a.": false, "-a.b": false, "a-.b": false, "A.b": false, "a_b": false, "ä.de": false, "a b": false,
		strings.Repeat("a", 63) + ".org": true, strings.Repeat("a", 64) + ".org": false, strings.Repeat("a.", 127) + "a": false,
	} {
		if err := uid.CheckDomain(domain); (err == nil) != ok {
			t.Errorf("%q: %v", domain, err)
		}
	}
}

// What Parse accepts has one canonical form; Check and the signatures never panic.
func FuzzParse(f *testing.F) {
	v := readVectors(f)
	for _, m := range v.Messages {
		f.Add([]byte(m.Wire))
	}
	f.Add([]byte(v.Corner["wire form of zero Message"]))
	f.Add(alice11(f).Canonical())
	previous := alice11(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := uid.Parse(data)
		if err != nil {
			return
		}
		once := m.Canonical()
		again, err := uid.Parse(once)
		if err != nil || string(again.Canonical()) != string(once) {
			t.Fatalf("%v: %s", err, once)
		}
		if m.Check() == nil {
			m.VerifyCreation()
			m.VerifyUpdate(previous)
			m.VerifyLink(public(seed(1)))
		}
	})
}

// A mapped name is its own mapping, and is not longer than allowed.
func FuzzMap(f *testing.F) {
	for _, c := range readVectors(f).Map {
		f.Add(c.In)
	}
	f.Fuzz(func(t *testing.T, name string) {
		mapped, err := uid.Map(name)
		if err != nil {
			return
		}
		if err := uid.CheckMapped(mapped); err != nil || len(mapped) > 254 || strings.ContainsAny(mapped[:strings.Index(mapped, "@")], "01j") {
			t.Errorf("%q became %q: %v", name, mapped, err)
		}
	})
}
