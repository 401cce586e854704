package signin

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

// sample is the text that protocol/SIGNIN.md shows.
const sample = `memo.cash wants you to sign in with your Bitcoin Cash account:
bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a

URI: https://memo.cash/login
Version: 1
Chain ID: bch:bitcoincash
Nonce: 0123456789abcdef
Issued At: 2026-11-26T20:00:00Z`

// TestDocument finds that the document shows what the tests read.
func TestDocument(t *testing.T) {
	document, err := os.ReadFile("../SIGNIN.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{"```\n" + sample + "\n```\n", "`" + sampleNonce + "`"} {
		if !strings.Contains(string(document), shown) {
			t.Errorf("protocol/SIGNIN.md does not show %q", shown)
		}
	}
}

// sampleMessage is what sample says.
func sampleMessage(t testing.TB) Message {
	t.Helper()
	key, err := protocol.ParseAddress("bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a", &chaincfg.MainNetParams)
	if err != nil {
		t.Fatal(err)
	}
	return Message{
		Domain:   "memo.cash",
		URI:      "https://memo.cash/login",
		Key:      key,
		Network:  &chaincfg.MainNetParams,
		Nonce:    Nonce{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef},
		IssuedAt: time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC),
	}
}

func TestText(t *testing.T) {
	m := sampleMessage(t)
	if got := m.Text(); got != sample {
		t.Errorf("got %q, want %q", got, sample)
	}
	m.IssuedAt = m.IssuedAt.In(time.FixedZone("", 3600)).Add(time.Millisecond)
	if got := m.Text(); got != sample {
		t.Errorf("of a time in another zone: got %q, want %q", got, sample)
	}
}

// TestTextLength finds that the length is what protocol/SIGNIN.md §2 says.
func TestTextLength(t *testing.T) {
	for domain, path := range map[string]string{"memo.cash": "/login", "app.example.org": "", "a": "/?b=c"} {
		m := sampleMessage(t)
		m.Domain, m.URI = domain, "https://"+domain+path
		if got, want := len(m.Text()), 216+2*len(domain)+len(path); got != want {
			t.Errorf("%s%s: got %d bytes, want %d", domain, path, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, change := range map[string]func(*Message){
		"as it is":            func(*Message) {},
		"no path":             func(m *Message) { m.URI = "https://memo.cash" },
		"root":                func(m *Message) { m.URI = "https://memo.cash/" },
		"every mark":          func(m *Message) { m.URI = "https://memo.cash/-._~!$&'()*+,;=:@/?%2f%C3?" },
		"port":                func(m *Message) { m.Domain, m.URI = "memo.cash:8443", "https://memo.cash:8443/login" },
		"loopback by name":    func(m *Message) { m.Domain, m.URI = "localhost:3000", "http://localhost:3000/login" },
		"loopback by address": func(m *Message) { m.Domain, m.URI = "127.0.0.1", "http://127.0.0.1/login" },
		"international":       func(m *Message) { m.Domain, m.URI = "xn--mem-jma.cash", "https://xn--mem-jma.cash/" },
		"longest label":       func(m *Message) { m.Domain, m.URI = long, "https://"+long },
		"the longest of all": func(m *Message) {
			m.URI += "/" + strings.Repeat("x", MaxLongText-len(m.Text())-1)
		},
		"testnet":  func(m *Message) { m.Network = &chaincfg.TestNet3Params },
		"chipnet":  func(m *Message) { m.Network = &chaincfg.ChipNetParams },
		"regtest":  func(m *Message) { m.Network = &chaincfg.RegressionNetParams },
		"leap day": func(m *Message) { m.IssuedAt = time.Date(2028, 2, 29, 23, 59, 59, 0, time.UTC) },
	} {
		want := sampleMessage(t)
		change(&want)
		if got, err := Parse(want.Text(), want.Network); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
}

// TestParseRefuses changes one thing of the sample at a time.
func TestParseRefuses(t *testing.T) {
	const address = "bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a"
	key := sampleMessage(t).Key
	testnet := protocol.FormatAddress(key, &chaincfg.TestNet3Params)
	for _, test := range []struct {
		name     string
		old, new string
		line     int
		wraps    error
	}{
		{"nothing", sample, "", 1, ErrText},
		{"carriage return", "account:", "account:\r", 1, ErrText},
		{"blank before", "memo.cash wants", " memo.cash wants", 1, ErrText},
		{"no domain", "memo.cash wants", " wants", 1, ErrText},
		{"other words", "wants you", "needs you", 1, ErrText},
		{"another coin", "Bitcoin Cash", "Bitcoin", 1, ErrText},
		{"scheme in the domain", "memo.cash wants", "https://memo.cash wants", 1, ErrText},
		{"upper case domain", "memo.cash", "Memo.cash", 1, ErrText},
		{"international domain", "memo.cash", "memó.cash", 1, ErrText},
		{"domain with a dot behind", "memo.cash", "memo.cash.", 1, ErrText},
		{"domain with two dots", "memo.cash", "memo..cash", 1, ErrText},
		{"label begins with a hyphen", "memo.cash", "-memo.cash", 1, ErrText},
		{"label ends with a hyphen", "memo.cash", "memo-.cash", 1, ErrText},
		{"label of 64", "memo.cash", strings.Repeat("a", 64) + ".cash", 1, ErrText},
		{"host of 254", "memo.cash", strings.Repeat("a.", 126) + "aa", 1, ErrText},
		{"user in the domain", "memo.cash", "me@memo.cash", 1, ErrText},
		{"no port behind the colon", "memo.cash", "memo.cash:", 1, ErrText},
		{"port 0", "memo.cash", "memo.cash:0", 1, ErrText},
		{"port with a zero before", "memo.cash", "memo.cash:08443", 1, ErrText},
		{"port too high", "memo.cash", "memo.cash:65536", 1, ErrText},
		{"port with a sign", "memo.cash", "memo.cash:+8443", 1, ErrText},

		{"no address", address, "", 2, protocol.ErrAddress},
		{"no prefix", address, strings.TrimPrefix(address, "bitcoincash:"), 2, protocol.ErrAddress},
		{"upper case address", address, strings.ToUpper(address), 2, protocol.ErrAddress},
		{"wrong checksum", "gdx6a\n", "gdx6q\n", 2, protocol.ErrAddress},
		{"token-aware address", address, "bitcoincash:zpm2qsznhks23z7629mms6s4cwef74vcwvrqekrq9w", 2, protocol.ErrAddress},
		{"legacy address", address, "1BpEi6DfDAUFd7GtittLSdBeYJvcoaVggu", 2, protocol.ErrAddress},
		{"script", address, "bitcoincash:ppm2qsznhks23z7629mms6s4cwef74vcwvn0h829pq", 2, protocol.ErrAddress},
		{"address of another chain", address, testnet, 2, ErrChain},

		{"a statement", "\n\nURI", "\nI accept the terms.\n\nURI", 3, ErrText},
		{"no blank line", "\n\nURI", "\nURI", 3, ErrText},
		{"two blank lines", "\n\nURI", "\n\n\nURI", 4, ErrText},

		{"no URI", "URI: https://memo.cash/login\n", "", 4, ErrText},
		{"empty URI", "https://memo.cash/login", "", 4, ErrText},
		{"no blank before the URI", "URI: ", "URI:", 4, ErrText},
		{"two blanks before the URI", "URI: ", "URI:  ", 4, ErrText},
		{"http", "https:", "http:", 4, ErrText},
		{"another scheme", "https:", "ftp:", 4, ErrText},
		{"upper case scheme", "https:", "HTTPS:", 4, ErrText},
		{"another host", "://memo.cash", "://evil.cash", 4, ErrDomain},
		{"a host below", "://memo.cash", "://www.memo.cash", 4, ErrDomain},
		{"a host that begins the same", "://memo.cash", "://memo.cash.evil.cash", 4, ErrDomain},
		{"a host behind a user", "://memo.cash", "://memo.cash@evil.cash", 4, ErrDomain},
		{"a host behind a password", "://memo.cash", "://memo.cash:x@evil.cash", 4, ErrDomain},
		{"a host behind a backslash", "://memo.cash/", `://memo.cash\@evil.cash/`, 4, ErrDomain},
		{"another port", "://memo.cash", "://memo.cash:8443", 4, ErrDomain},
		{"upper case host", "://memo.cash", "://memo.CASH", 4, ErrDomain},
		{"query without a path", "/login", "?login", 4, ErrDomain},
		{"port of https", "memo.cash", "memo.cash:443", 4, ErrText},
		{"fragment", "/login", "/login#top", 4, ErrText},
		{"blank in the URI", "/login", "/log in", 4, ErrText},
		{"not ASCII in the URI", "/login", "/lögin", 4, ErrText},
		{"half an escape", "/login", "/%4", 4, ErrText},
		{"no escape", "/login", "/%4g", 4, ErrText},

		{"another version", "Version: 1", "Version: 2", 5, ErrText},
		{"no version", "Version: 1\n", "", 5, ErrText},
		{"another chain", "bch:bitcoincash", "bch:bchtest", 6, ErrChain},
		{"CAIP-2's name", "bch:bitcoincash", "bip122:000000000000000000651ef99cb9fcbe", 6, ErrChain},
		{"no chain", "Chain ID: bch:bitcoincash\n", "", 6, ErrText},
		{"no nonce", "Nonce: 0123456789abcdef\n", "", 7, ErrNoNonce},
		{"empty nonce", "0123456789abcdef", "", 7, ErrText},
		{"short nonce", "0123456789abcdef", "0123456789abcd", 7, ErrText},
		{"long nonce", "0123456789abcdef", "0123456789abcdef01", 7, ErrText},
		{"upper case nonce", "0123456789abcdef", "0123456789ABCDEF", 7, ErrText},
		{"nonce of other digits", "0123456789abcdef", "0123456789abcdeg", 7, ErrText},
		{"no time", "\nIssued At: 2026-11-26T20:00:00Z", "", 8, ErrText},
		{"fractions of a second", ":00Z", ":00.5Z", 8, ErrText},
		{"zero fractions", ":00Z", ":00.0Z", 8, ErrText},
		{"another zone", ":00Z", ":00+00:00", 8, ErrText},
		{"lower case", ":00Z", ":00z", 8, ErrText},
		{"no such day", "11-26", "11-31", 8, ErrText},
		{"leap second", "20:00:00", "23:59:60", 8, ErrText},
		{"line feed behind", ":00Z", ":00Z\n", 9, ErrText},
		{"expiration", ":00Z", ":00Z\nExpiration Time: 2026-11-26T20:05:00Z", 9, ErrText},
		{"resources", ":00Z", ":00Z\nResources:\n- https://memo.cash", 9, ErrText},
		{"one byte too long", "/login", "/" + strings.Repeat("x", MaxLongText-len(sample)+6), 0, ErrTooLong},
	} {
		if !strings.Contains(sample, test.old) {
			t.Fatalf("%s: the sample has no %q", test.name, test.old)
		}
		_, err := Parse(strings.ReplaceAll(sample, test.old, test.new), &chaincfg.MainNetParams)
		if !errors.Is(err, test.wraps) || test.line != 0 && !errors.Is(err, ErrText) {
			t.Errorf("%s: got %v, want it to wrap %v", test.name, err, test.wraps)
			continue
		}
		if want := fmt.Sprintf(": line %d: ", test.line); test.line != 0 && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want%s", test.name, err, want)
		}
		if test.wraps == ErrText && (errors.Is(err, ErrDomain) || errors.Is(err, ErrChain)) {
			t.Errorf("%s: got %v, want no other reason than the form", test.name, err)
		}
	}
}

// FuzzParse finds that what Parse takes is the one text of a message that keeps the rules
// of protocol/SIGNIN.md §1.
func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add(strings.ReplaceAll(sample, "memo.cash", "localhost:80"))
	f.Add(strings.ReplaceAll(sample, "https://memo.cash", "http://127.0.0.1"))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Parse(text, &chaincfg.MainNetParams)
		if err != nil {
			if !errors.Is(err, ErrText) && !errors.Is(err, ErrTooLong) {
				t.Errorf("got %v, want it to wrap ErrText or ErrTooLong", err)
			}
			return
		}
		if got := m.Text(); got != text {
			t.Errorf("got %q for the message of %q", got, text)
		}
		if len(text) > MaxLongText || strings.Count(text, "\n") != 7 {
			t.Errorf("took %d bytes with %d line feeds", len(text), strings.Count(text, "\n"))
		}
		if strings.IndexFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) >= 0 {
			t.Errorf("took %q", text)
		}
		_, authority, _ := strings.Cut(m.URI, "://")
		if authority, _, _ = strings.Cut(authority, "/"); authority != m.Domain {
			t.Errorf("took %q of %q", m.URI, m.Domain)
		}
	})
}
