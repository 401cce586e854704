package connect_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func txid(name string) string { return rpctest.HashOf(name).String() }

// newWorld is a server with something of everything to be asked about: family's keys, a request that is open and one
// that is pending, a link and one that was cut, and a cut that is pending.
func newWorld(t *testing.T) *rpctest.Rig {
	t.Helper()
	c, blocks := rpctest.Family()
	blocks = append(blocks,
		c.Block(rpctest.MLR("open", "service", "lone", "memo.cash"), rpctest.MLR("to grandchild", "service", "grandchild", ""),
			rpctest.MLR("has parent", "grandchild", "alone", ""),
			rpctest.MLR("imitates", "imitator", "alone", `</dd></dl><a class="button go" href="https://evil.com">Go back to memo.cash</a>`+"\u202e")),
		c.Block(rpctest.MLR("brings", "chief", "alone", ""), rpctest.MLR("loop", "chief", "worker", ""), rpctest.MLR("below", "worker", "chief", ""), rpctest.MLA("below in", "chief", "below")))
	r := rpctest.New(t, blocks...)
	r.Suppose(t, "", nil, rpctest.MLR("pending", "late", "alone", ""), rpctest.MCR("cut", "parent", "mla3"),
		rpctest.MLR("quick", "quick child", "alone", ""), rpctest.MLA("quick in", "alone", "quick"))
	return r
}

var tags = regexp.MustCompile(`<[^>]*>`)

func get(t *testing.T, r *rpctest.Rig, path string) (response *http.Response, text string) {
	t.Helper()
	response, body := r.Send(t, "GET", path, "")
	_, main, _ := strings.Cut(body, "<main")
	return response, strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(main, " "))), " ")
}

// asking is the path of a page, from a service.
func asking(path, parameter, txid string) string {
	return path + "?" + url.Values{parameter: {txid}, "redirect_uri": {"https://memo.cash/linked"}, "state": {"s"}}.Encode()
}

// TestPages looks for what each page has to say, and for where it leads.
func TestPages(t *testing.T) {
	r := newWorld(t)
	accept, revoke := func(name string) string { return asking("/connect", "request", txid(name)) }, func(name string) string {
		return asking("/connect/revoke", "accept", txid(name))
	}
	const denied = "https://memo.cash/linked?error=access_denied&state=s"
	for path, want := range map[string]struct {
		says  []string
		state string
		href  string
	}{
		accept("open"): {[]string{"A key asks to speak in your name", rpctest.Address("service"), `It calls itself "memo.cash" (unverified). Anybody can write that`, "Since block 7",
			rpctest.Address("lone"), "If this is not a key of yours, leave", "which is in no link yet", "until you revoke it", "never asks for a private key",
			"Revoke it whenever you want", "To memo.cash . Nobody has checked", "Do not sign, and go back to memo.cash", "keytree link accept " + txid("open") + " --key-file FILE --node URL --network regtest"}, "ask", denied},
		accept("pending"):  {[]string{"When In no block yet"}, "ask", denied},
		accept("brings"):   {[]string{"The key below it comes along"}, "ask", denied},
		accept("imitates"): {[]string{`It calls itself "</dd></dl><a class=?button go? href=?htt" (unverified)`}, "ask", denied},
		accept("mlr3"):     {[]string{"It was accepted, and revoked since"}, "over", denied}, // by what is pending
		accept("mlr2"): {[]string{"The key speaks in your name", "Since block 3", "Revoke it"}, "done",
			"https://memo.cash/linked?request_tx_hash=" + txid("mlr2") + "&accept_tx_hash=" + txid("mla2") + "&id_tx_hash="},
		accept("quick"): {[]string{"Your accept is sent, and in no block yet"}, "done",
			"https://memo.cash/linked?request_tx_hash=" + txid("quick") + "&accept_tx_hash=" + txid("quick in") + "&id_tx_hash=" + txid("quick") + "&state=s"},
		accept("mlr1"):       {[]string{"It was accepted, and revoked since"}, "over", denied},
		accept("has parent"): {[]string{"the key that asked has a parent already"}, "over", denied},
		accept("loop"):       {[]string{"would lead back to itself"}, "over", denied},
		accept("bad"):        {[]string{"It cannot be accepted: it cannot be proven who signed it"}, "over", denied},
		accept("nothing"):    {[]string{"This is not known yet", "this page asks again by itself"}, "unknown", denied},
		accept("mla1"):       {[]string{"This link is wrong", "expected the txid of a link request"}, "failed", denied},
		revoke("mla2"): {[]string{"Take a key out of your identity", rpctest.Address("grandchild"), "Who took it in " + rpctest.Address("child"), "What was signed before stays",
			"The key asks again, and you accept again", "keytree link revoke " + txid("mla2")}, "ask", denied},
		revoke("mla1"): {[]string{"speaks in your name no more", "Since block 5"}, "done",
			"https://memo.cash/linked?request_tx_hash=" + txid("mlr1") + "&accept_tx_hash=" + txid("mla1") + "&revoke_tx_hash=" + txid("mcr1") + "&state=s"},
		revoke("mla3"):                     {[]string{"Your revoke is sent, and in no block yet"}, "done", "https://memo.cash/linked?request_tx_hash="},
		revoke("early"):                    {[]string{"It put no link in force yet"}, "over", denied},
		revoke("open"):                     {[]string{"expected the txid of an accept"}, "failed", denied},
		"/connect?request=" + txid("open"): {[]string{"Nowhere: no address to go back to was given"}, "ask", ""},
		"/connect":                         {[]string{"expected the txid of a link request"}, "failed", ""},
		"/connect?request=x":               {[]string{"expected the txid of a link request"}, "failed", ""},
		accept("open") + "&state=t":        {[]string{"state: expected it once, got it 2 times"}, "failed", ""},
		accept("open") + "&request=" + txid("pending"):                        {[]string{"request: expected it once"}, "failed", ""},
		accept("open") + "&lang=en":                                           {[]string{"expected the parameters request, redirect_uri and state"}, "failed", ""},
		accept("open") + "&%zz":                                               {[]string{"expected parameters of names and values"}, "failed", ""},
		"/connect?request=" + txid("open") + "&redirect_uri=http://evil.com/": {[]string{"This link is wrong", "redirect_uri: expected https"}, "failed", ""},
	} {
		response, body := r.Send(t, "GET", path, "")
		_, text := get(t, r, path)
		for _, part := range want.says {
			if !strings.Contains(text, part) {
				t.Errorf("%s does not say %q:\n%s", path, part, text)
			}
		}
		if !strings.Contains(body, `data-state="`+want.state+`"`) {
			t.Errorf("%s is not %q", path, want.state)
		}
		if failing := want.state == "failed" || want.state == "unknown"; failing != (response.StatusCode >= 400) {
			t.Errorf("%s: status %d", path, response.StatusCode)
		}
		switch href := html.EscapeString(want.href); {
		case href == "" && strings.Contains(body, `class="button`):
			t.Errorf("%s leads somewhere", path)
		case !strings.Contains(body, `href="`+href):
			t.Errorf("%s does not lead to %s", path, want.href)
		}
		if strings.Contains(body, "\u202e") || strings.Contains(body, `href="https://evil`) {
			t.Errorf("%s has a stranger's text as it is", path)
		}
		if response.Header.Get("Location") != "" {
			t.Errorf("%s leads away by itself", path)
		}
	}
}

// TestHeaders looks at what browsers are told.
func TestHeaders(t *testing.T) {
	r := rpctest.New(t, new(rpctest.Chain).Block([]links.Action{}...))
	for _, path := range []string{"/connect", "/connect/revoke", "/connect/files/connect.js", "/connect/files/connect.css"} {
		response, _ := r.Send(t, "GET", path, "")
		policy := response.Header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'", "script-src 'self'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(policy+";", part+";") {
				t.Errorf("%s: the policy %q has no %s", path, policy, part)
			}
		}
		if response.Header.Get("X-Frame-Options") != "DENY" || response.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, response.Header)
		}
	}
	if response, _ := r.Send(t, "GET", "/connect/files/page.html", ""); response.StatusCode != http.StatusNotFound {
		t.Errorf("a file that is none: %d", response.StatusCode)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		if response, _ := r.Send(t, method, "/connect", "request=x"); response.StatusCode < 400 {
			t.Errorf("%s: %d", method, response.StatusCode)
		}
	}
}
