package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/keytree-bch/keytree/keyserver/uid"
)

// harmless returns a text that others wrote, or that holds some, without what a terminal would
// take for commands. Lines stay.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(strings.ReplaceAll(text, "\t", "    "), string(unicode.ReplacementChar)))
}

// harmlessJSON is harmless for JSON, where nothing gets lost.
func harmlessJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// quoteWidth is how many columns of a terminal a quoted line takes at most, with its mark.
// What is longer goes on in the next line: a terminal that breaks lines itself would begin one
// without a mark.
const quoteWidth = 78

// quoted sets off what somebody else wrote, line by line: nothing of it can be taken for
// keytree's own words.
func quoted(text []byte) string {
	const mark = "  | "
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimRight(harmless(string(text)), "\n"), "\n") {
		b.WriteString(mark)
		column := len(mark)
		for _, r := range line {
			w := columns(r)
			if column+w > quoteWidth {
				b.WriteString("\n" + mark)
				column = len(mark)
			}
			b.WriteRune(r)
			column += w
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// columns is how many columns of a terminal a rune can take.
func columns(r rune) int {
	if r < 0x1100 {
		return 1
	}
	return 2
}

// secrets finds what looks like a secret that somebody gave in the place of something else: a
// WIF, a paper key, a token.
var secrets = regexp.MustCompile(`\b[5KLc9][1-9A-HJ-NP-Za-km-z]{50,51}\b` +
	`|\b(?:[A-Za-z2-7]{4}[ -]){6,13}[A-Za-z2-7]{4}\b|\b[A-Z2-7]{56}\b` +
	`|[A-Za-z0-9+/]{96,128}`)

// wif matches a text that looks like a WIF and is nothing else.
var wif = regexp.MustCompile(`^[5KLc9][1-9A-HJ-NP-Za-km-z]{50,51}$`)

// withoutSecrets returns a text without what looks like one: errors repeat what they were given.
func withoutSecrets(text string) string {
	return secrets.ReplaceAllStringFunc(text, func(found string) string {
		if strings.Trim(found, "0123456789abcdef") == "" { // a hash
			return found
		}
		return "[not shown: it looks like a secret]"
	})
}

// date writes a time in Unix seconds, and how far from now that is.
func date(seconds uint64) string {
	text := uid.Date(seconds)
	if strings.HasSuffix(text, "Z") {
		text += " (" + humanize.Time(time.Unix(int64(seconds), 0)) + ")"
	}
	return text
}

// shortened returns what the user gave, cut to what an error repeats of it.
func shortened(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	for cut := most; ; cut-- {
		if utf8.RuneStart(s[cut]) {
			return s[:cut] + "..."
		}
	}
}
