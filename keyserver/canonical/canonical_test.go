package canonical_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
)

type inner struct {
	A string `json:"A"`
}

type message struct {
	Flag   bool     `json:"FLAG"`
	List   []string `json:"LIST"`
	Number uint64   `json:"NUMBER"`
	Ptr    *inner   `json:"PTR"`
	Sub    inner    `json:"SUB"`
}

const good = `{"FLAG":true,"LIST":["a"],"NUMBER":18446744073709551615,"PTR":null,"SUB":{"A":"b"}}`

func TestUnmarshal(t *testing.T) {
	for name, data := range map[string]string{
		"canonical":   good,
		"other order": `{"SUB":{"A":"b"},"PTR":null,"NUMBER":18446744073709551615,"LIST":["a"],"FLAG":true}`,
		"spaces":      strings.ReplaceAll(good, ",", " ,\n"),
		"escapes":     strings.ReplaceAll(good, `"b"`, "\"\\u0062\""),
	} {
		t.Run(name, func(t *testing.T) {
			var m message
			if err := canonical.Unmarshal([]byte(data), &m); err != nil {
				t.Fatal(err)
			}
			if got := string(canonical.Marshal(m)); got != good {
				t.Errorf("got %s, want %s", got, good)
			}
		})
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	with := func(old, new string) string {
		s := strings.Replace(good, old, new, 1)
		if s == good {
			t.Fatalf("%q is not in the message", old)
		}
		return s
	}
	for name, test := range map[string]struct{ data, says string }{
		"empty":                {"", "EOF"},
		"null":                 {"null", "expected an object, got null"},
		"list":                 {"[]", "expected an object, got a list"},
		"cut":                  {good[:len(good)-1], ""},
		"two values":           {good + "{}", ""},
		"text behind":          {good + "x", ""},
		"comma behind":         {with(`"b"}}`, `"b"},}`), ""},
		"missing field":        {with(`"FLAG":true,`, ""), "FLAG: missing"},
		"missing inner field":  {with(`"A":"b"`, ""), "SUB.A: missing"},
		"unknown field":        {with(`"FLAG"`, `"X":1,"FLAG"`), "X: unknown field"},
		"unknown inner field":  {with(`"A"`, `"B":"","A"`), "SUB.B: unknown field"},
		"field twice":          {with(`"FLAG":true`, `"FLAG":true,"FLAG":true`), "FLAG: appears twice"},
		"twice by escape":      {with(`"FLAG":true`, `"FLAG":true,"FL\u0041G":true`), "FLAG: appears twice"},
		"other case":           {with(`"FLAG"`, `"Flag"`), "Flag: unknown field"},
		"number for string":    {with(`"b"`, `1`), "SUB.A: expected a string, got 1"},
		"null for string":      {with(`"b"`, `null`), "SUB.A: expected a string, got null"},
		"null in list":         {with(`["a"]`, `[null]`), "LIST[0]: expected a string"},
		"null for object":      {with(`{"A":"b"}`, `null`), "SUB: expected an object, got null"},
		"null for bool":        {with(`true`, `null`), "FLAG: expected true or false"},
		"string for list":      {with(`["a"]`, `"a"`), "LIST: expected a list"},
		"object for list":      {with(`["a"]`, `{}`), "LIST: expected a list, got an object"},
		"string for number":    {with(`18446744073709551615`, `"1"`), "NUMBER: expected an unsigned integer"},
		"number too large":     {with(`18446744073709551615`, `18446744073709551616`), "NUMBER: expected an unsigned integer of 64 bits, got 18446744073709551616"},
		"negative":             {with(`18446744073709551615`, `-1`), "NUMBER: expected an unsigned integer of 64 bits, got -1"},
		"negative zero":        {with(`18446744073709551615`, `-0`), "NUMBER"},
		"fraction":             {with(`18446744073709551615`, `1.0`), "NUMBER"},
		"exponent":             {with(`18446744073709551615`, `1e3`), "NUMBER"},
		"leading zero":         {with(`18446744073709551615`, `01`), ""},
		"not UTF-8":            {with(`"b"`, "\"\xff\""), "not UTF-8"},
		"control character":    {with(`"b"`, "\"\n\""), ""},
		"byte order mark":      {"\ufeff" + good, ""},
		"nested deep":          {strings.Repeat(`{"SUB":`, 100_000), "unknown field"},
		"nested lists":         {with(`["a"]`, strings.Repeat("[", 100_000)), "LIST[0]"},
		"comment":              {with(`"FLAG"`, `/**/"FLAG"`), ""},
		"long text in message": {with(`"FLAG":true`, `"`+strings.Repeat("x", 1000)+`":true`), "…: unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			m := message{Number: 7}
			err := canonical.Unmarshal([]byte(test.data), &m)
			if !errors.Is(err, canonical.ErrMalformed) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want ErrMalformed with %q", err, test.says)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestDecode(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		size int
		ok   bool
	}{
		"exact":           {"AAEC", 3, true},
		"padded":          {"AAE=", 2, true},
		"any size":        {"AAE=", -1, true},
		"nothing":         {"", 0, true},
		"wrong size":      {"AAEC", 2, false},
		"other size":      {"AAE=", 3, false},
		"no padding":      {"AAE", -1, false},
		"padding bits":    {"AAF=", 2, false},
		"line break":      {"AA\nE=", -1, false},
		"break as filler": {"AA\r\n", 3, false},
		"URL alphabet":    {"__8=", 2, false},
		"space":           {" AAE=", -1, false},
		"behind":          {"AAE=AAEC", -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := canonical.Decode(test.text, test.size)
			if (err == nil) != test.ok || err != nil && !errors.Is(err, canonical.ErrMalformed) {
				t.Fatalf("got %v", err)
			}
			if err == nil && canonical.Encode(b) != test.text {
				t.Errorf("got %x, which is not %s", b, test.text)
			}
		})
	}
}

// What is accepted has one canonical form, which is accepted and is its own.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, "null", `{"A":"\u2028<&"}`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m, again message
		if err := canonical.Unmarshal(data, &m); err != nil {
			return
		}
		once := canonical.Marshal(m)
		if err := canonical.Unmarshal(once, &again); err != nil {
			t.Fatalf("%v: %s", err, once)
		}
		if twice := canonical.Marshal(again); string(twice) != string(once) {
			t.Errorf("%s became %s", once, twice)
		}
	})
}
