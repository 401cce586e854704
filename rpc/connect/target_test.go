package connect

import (
	"net/url"
	"strings"
	"testing"
)

// TestTargets has an address of each kind to which a service may want a person to come back.
func TestTargets(t *testing.T) {
	for text, want := range map[string]string{ // the button's words, and where it leads with an answer
		"https://memo.cash/linked":           "memo.cash https://memo.cash/linked?error=access_denied&state=s%26t",
		"https://memo.cash":                  "memo.cash https://memo.cash?error=access_denied&state=s%26t",
		"https://memo.cash:8443/a?b=c":       "memo.cash:8443 https://memo.cash:8443/a?b=c&error=access_denied&state=s%26t",
		"https://memo.cash/a?b=c&":           "memo.cash https://memo.cash/a?b=c&error=access_denied&state=s%26t",
		"HTTPS://MEMO.cash/A":                "memo.cash https://memo.cash/A?error=access_denied&state=s%26t",
		"https://mémo.cash/":                 "xn--mmo-bma.cash https://xn--mmo-bma.cash/?error=access_denied&state=s%26t",
		"https://memo。cash/":                 "memo.cash https://memo.cash/?error=access_denied&state=s%26t",
		"https://xn--mmo-bma.cash/":          "xn--mmo-bma.cash https://xn--mmo-bma.cash/?error=access_denied&state=s%26t",
		"https://192.0.2.7/":                 "192.0.2.7 https://192.0.2.7/?error=access_denied&state=s%26t",
		"http://127.0.0.1:8080/back":         "127.0.0.1:8080 http://127.0.0.1:8080/back?error=access_denied&state=s%26t",
		"http://127.9.9.9/back":              "127.9.9.9 http://127.9.9.9/back?error=access_denied&state=s%26t",
		"http://localhost/back":              "localhost http://localhost/back?error=access_denied&state=s%26t",
		"http://[::1]:99/back":               "[::1]:99 http://[::1]:99/back?error=access_denied&state=s%26t",
		`https://memo.cash/"><script>x`:      "memo.cash https://memo.cash/%22%3E%3Cscript%3Ex?error=access_denied&state=s%26t",
		"https://memo.cash/%2e%2e/@evil.com": "memo.cash https://memo.cash/%2e%2e/@evil.com?error=access_denied&state=s%26t",
	} {
		to, err := parseTarget(url.Values{"redirect_uri": {text}, "state": {"s&t"}})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := to.host() + " " + to.with("error", "access_denied", "id_tx_hash", ""); got != want {
			t.Errorf("%s leads to %s, want %s", text, got, want)
		}
	}
	if to, err := parseTarget(url.Values{}); err != nil || to.there() {
		t.Errorf("without an address: %+v, %v", to, err)
	}
	for text, part := range map[string]string{
		"http://memo.cash/":                              "https, or http on this machine",
		"http://127.0.0.1.memo.cash/":                    "https, or http on this machine",
		"http://localhost.memo.cash/":                    "https, or http on this machine",
		"http://[::ffff:127.0.0.1]/":                     "IP address in its usual form",
		"javascript:alert(1)":                            "an address such as",
		"javascript://memo.cash/%0aalert(1)":             "https, or http on this machine",
		"data:text/html,x":                               "an address such as",
		"file:///etc/passwd":                             "an address such as",
		"intent://memo.cash/":                            "https, or http on this machine",
		"//memo.cash/":                                   "https, or http on this machine",
		"/linked":                                        "an address such as",
		"memo.cash":                                      "an address such as",
		"https:memo.cash":                                "an address such as",
		"https:///memo.cash":                             "an address such as",
		"https://":                                       "an address such as",
		"https://memo.cash@evil.com/":                    "without a user's name",
		"https://memo.cash:x@evil.com/":                  "without a user's name",
		"https://@evil.com/":                             "without a user's name",
		"https://memo.cash/#":                            "without a fragment",
		"https://evil.com#@memo.cash/":                   "without a fragment",
		`https://evil.com\@memo.cash/`:                   "without blanks",
		`https://memo.cash\.evil.com/`:                   "without blanks",
		"https://memo.cash/\x00":                         "without blanks",
		"https://memo.cash/\nx":                          "without blanks",
		" https://memo.cash/":                            "without blanks",
		"https://me mo.cash/":                            "without blanks",
		"https://0x7f.1/":                                "IP address in its usual form",
		"https://2130706433/":                            "IP address in its usual form",
		"http://0177.0.0.1/":                             "IP address in its usual form",
		"https://memo.0x7f/":                             "IP address in its usual form",
		"https://[::1%25eth0]/":                          "IP address in its usual form",
		"https://[0:0:0:0:0:0:0:1]/":                     "IP address in its usual form",
		"https://memo.cash./":                            "the name of a host",
		"https://memo..cash/":                            "the name of a host",
		"https://me_mo.cash/":                            "the name of a host",
		"https://xn--zz.cash/":                           "the name of a host",
		"https://memo%2ecash/":                           "an address such as",
		"https://memo.cash:port/":                        "an address such as",
		"https://memo.cash/?error=none":                  "without error in its query",
		"https://memo.cash/?x=1&accept_tx_hash=":         "without accept_tx_hash in its query",
		"https://memo.cash/?a;b":                         "a query of names",
		"https://memo.cash/" + strings.Repeat("a", 2000): "up to 2000 bytes",
	} {
		if to, err := parseTarget(url.Values{"redirect_uri": {text}}); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %+v, %v, want an error with %q", text, to, err, part)
		}
	}
	for state, query := range map[string]url.Values{
		"too long":      {"redirect_uri": {"https://memo.cash/"}, "state": {strings.Repeat("s", 1001)}},
		"without where": {"state": {"s"}},
	} {
		if _, err := parseTarget(query); err == nil || !strings.HasPrefix(err.Error(), "state: ") {
			t.Errorf("a state %s: %v", state, err)
		}
	}
}
