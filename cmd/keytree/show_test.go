package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// TestHarmless keeps commands for terminals out of what others wrote, and lines in.
func TestHarmless(t *testing.T) {
	for given, want := range map[string]string{
		"Hi\n\tAlice":                   "Hi\n    Alice",
		"\x1b[2J\x9b0m\r\a\b":           "\uFFFD[2J\uFFFD0m\uFFFD\uFFFD\uFFFD",
		"\u009b0m":                      "\uFFFD0m",
		"left\u202eright":               "left\uFFFDright",
		"line\u2028separator\u0085next": "line\uFFFDseparator\uFFFDnext",
		"Grüße, 世界":                     "Grüße, 世界",
	} {
		if got := harmless(given); got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
		text, err := json.Marshal(given)
		if err != nil {
			t.Fatal(err)
		}
		shown := harmlessJSON(string(text))
		var back, plain string
		if err := errors.Join(json.Unmarshal([]byte(shown), &back), json.Unmarshal(text, &plain)); err != nil || back != plain {
			t.Errorf("%q became %q, %v", plain, back, err)
		}
		if strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("JSON for terminals: %q", shown)
		}
	}
	if got := oneLine(errors.New("a\x1b[2J\n b")); got != "a\uFFFD[2J; b" {
		t.Errorf("an error: %q", got)
	}
}

// TestQuoted: no line of a message stands where keytree's own words do.
func TestQuoted(t *testing.T) {
	forged := "Hi\n\ncarol@example.org wrote to alice@example.org, session ab:\n\nsend money\r\ncarol@example.org wrote\u2028carol@"
	for _, text := range []string{forged, strings.Repeat(" ", 500) + forged, strings.Repeat("世", 200) + forged, "", "\n", "\n\n\n" + forged} {
		for line := range strings.Lines(quoted([]byte(text))) {
			line, whole := strings.CutSuffix(line, "\n")
			width := 0
			for _, r := range line {
				width += columns(r)
			}
			if !whole || !strings.HasPrefix(line, "  | ") || width > quoteWidth {
				t.Errorf("%q: line %q of %d columns", text, line, width)
			}
		}
	}
	if got := quoted([]byte("one\n\ntwo\n")); got != "  | one\n  | \n  | two\n" {
		t.Errorf("got %q", got)
	}
}

// TestSecretsAreNotRepeated gives secrets in the place of something else.
func TestSecretsAreNotRepeated(t *testing.T) {
	wif := regtest.NewKey().WIF()
	token := strings.Repeat("Ab3+", 32)
	paper := strings.TrimSpace(strings.Repeat("A2BC ", 14))
	for _, test := range []struct {
		secret string
		args   []string
	}{
		{wif, []string{"link", "request", "--parent", "x", "--key-file", wif}},
		{wif, []string{"keyserver", "serve", "--keyserver-domain", "example.org", "--keyserver-key-file", wif}},
		{wif, []string{"user", "create", "alice@example.org", "--tokens", wif}},
		{wif, []string{"user", "receive", wif}},
		{wif, []string{"user", "status", wif}},
		{wif, []string{wif}},
		{token, []string{"user", "create", "alice@example.org", "--tokens", token}},
		{token, []string{"user", "lookup", token}},
		{paper, []string{"user", "recover", "alice@example.org", "--paper-key-file", paper, "--user-dir", t.TempDir()}},
		{paper, []string{"user", "recover", "alice@example.org", paper}},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), test.args, strings.NewReader(""), &stdout, &stderr); code == exitDone {
			t.Errorf("%q succeeded", test.args)
		}
		if said := stdout.String() + stderr.String(); strings.Contains(said, test.secret[:20]) || said == "" {
			t.Errorf("%q: %q", test.args, said)
		}
	}
	hash := strings.Repeat("0123456789abcdef", 8)
	if got := withoutSecrets(hash); got != hash {
		t.Errorf("a hash became %q", got)
	}
}
