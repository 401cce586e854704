package explorer_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// hostile is what a stranger may write into a message.
const hostile = `</q><script>alert(1)</script> "onload="x ` + "\u202emoc.omem\u202c \x00\x07"

// a world is a server with something of everything to look at.
type world struct {
	*rpctest.Rig
	chain   *rpctest.Chain
	genesis string // of a chain of anchors
	breaker string // what broke another one
}

func newWorld(t *testing.T) *world { return newWorldOf(t, rpc.Config{}) }

func newWorldOf(t *testing.T, config rpc.Config) *world {
	c, blocks := rpctest.Family()
	genesis := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 1))
	broken := rpctest.AnchorOf(t, "grandchild", rpctest.Record(rpctest.Domain, 2))
	breaker := rpctest.AnchorOf(t, "grandchild", nil, broken)
	blocks = append(blocks,
		c.Block(rpctest.MLR("hostile", "stranger", "parent", hostile+strings.Repeat("z", 100_000))),
		c.Anchored(t, nil, genesis, broken),
		c.Anchored(t, nil, rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 3), genesis), breaker))
	w := &world{rpctest.NewOf(t, config, blocks...), c, rpctest.ID(genesis), rpctest.ID(breaker)}
	w.Suppose(t, "cut", nil, rpctest.MCR("cut", "parent", "mla3"), rpctest.MLR("pending", "lone", "parent", hostile))
	return w
}

func txid(name string) string { return rpctest.HashOf(name).String() }

// get fetches a page, and returns what of it can be read. No redirect is followed.
func (w *world) get(t *testing.T, path string) (response *http.Response, text string) {
	t.Helper()
	response, body := w.Send(t, "GET", path, "")
	return response, readable(body)
}

var tags = regexp.MustCompile(`<[^>]*>`)

func readable(page string) string {
	_, main, _ := strings.Cut(page, "<main")
	return strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(main, ""))), " ")
}

// short is how pages name an address or a hash.
func short(s string) string {
	if _, key, ok := strings.Cut(s, ":"); ok {
		return key[:6] + "…" + key[len(key)-5:]
	}
	return s[:6] + "…" + s[len(s)-4:]
}

// TestPages looks for what each page has to say.
func TestPages(t *testing.T) {
	w := newWorld(t)
	parent, child, grandchild, stranger, lone := rpctest.Address("parent"), rpctest.Address("child"), rpctest.Address("grandchild"), rpctest.Address("stranger"), rpctest.Address("lone")
	for path, want := range map[string][]string{
		"/":       {"Who is behind an address?", short(stranger) + " asks " + short(parent)},
		"/blocks": {"Blocks", short(parent) + " cuts " + short(child) + " and all below it out of identity " + short(txid("mlr1"))},
		"/block/6": {"Block 6", "Time by its miner's clock", "1 January 1970, 00:00:00 UTC", short(parent) + " takes " + short(child) + " into identity " + short(txid("mlr1")),
			"Identity " + short(txid("mcr1")) + " merges into " + short(txid("mlr1"))},
		"/block/4": {"Request " + short(txid("bad")) + " is refused: it cannot be proven who signed it",
			"Accept " + short(txid("early")) + " of " + short(parent) + " waits for what it refers to, " + short(txid("nowhere"))},
		"/key/" + parent: {"This is the main key of identity " + short(txid("mlr1")), "Pending: " + short(lone) + " asks by " + short(txid("pending")),
			short(stranger) + " asks by " + short(txid("hostile")) + " since block 7", "It waits: what it refers to"},
		"/key/" + child: {"speaks for identity " + short(txid("mlr1")) + ", directly below its main key " + short(parent),
			"If the next block has what is pending: This is the main key of identity " + short(txid("cut")), "spent twice: it may never be mined"},
		"/key/" + child + "?at=5": {"This is the main key of identity " + short(txid("mcr1")), short(grandchild) + " since block 3"},
		"/key/" + grandchild: {"2 links below its main key " + short(parent),
			"From block 6 to now: of identity " + short(txid("mlr1")) + ", under its main key " + short(parent) + ", since " + short(parent) + " took " + short(child) + ", which it is below, in, by accept " + short(txid("mla3")),
			"As of block 5 alone: of identity " + short(txid("mcr1")) + ", under its main key " + short(child) + ", since block 5 made that identity",
			"From block 3 to block 4: of identity " + short(txid("mlr1")) + ", under its main key " + short(parent) + ", since " + short(child) + " took it in, by accept " + short(txid("mla2")),
			"Before, it was in no link"},
		"/key/" + rpctest.Address("nobody"):             {"never in a link: it is its own identity"},
		"/identity/" + txid("mlr1"):                     {"3 keys. The main key is " + short(parent), short(child) + " and all below it would leave", "As of block", short(grandchild) + " since block 3"},
		"/identity/" + txid("mlr1") + "?at=5":           {"1 key. The main key is " + short(parent), short(parent) + " cuts " + short(child), "Change before", "Change after"},
		"/identity/" + txid("mcr1"):                     {"It merged into identity " + short(txid("mlr1")), short(grandchild), "Because of " + short(txid("cut"))},
		"/identity/" + txid("cut"):                      {"There is no such identity yet", short(txid("cut"))},
		"/identity/" + txid("mlr1") + "?below=" + child: {short(grandchild) + " since block 3", short(parent)},
		"/identity/" + txid("mlr1") + "?below=" + lone:  {"not of this identity"},
		"/action/" + txid("mlr1"):                       {short(child) + " asks " + short(parent), short(parent) + " accepted it, by " + short(txid("mla1")) + " in block 2"},
		"/action/" + txid("mla1"):                       {"was cut by " + short(txid("mcr1")) + " in block 5"},
		"/action/" + txid("mla3"):                       {"in force since block 6", "If the next block has what is pending: The link would be cut, by "},
		"/action/" + txid("mcr1"):                       {"It cut " + short(child) + " from " + short(parent) + " in block 5"},
		"/action/" + txid("bad"):                        {"refused for good: it cannot be proven who signed it", "Nobody that can be proven asks"},
		"/action/" + txid("early"):                      {"It waits: what it refers to"},
		"/action/" + txid("pending"):                    {"It is in no block yet", "It is open: " + short(parent) + " may accept it"},
		"/mempool":                                      {"2 transactions that matter here are in no block yet", "An input was spent twice", "4 transactions are left out"},
		"/keyservers":                                   {"Domain of the keyserver"},
		"/keyserver/" + rpctest.Domain:                  {"Anybody can begin a chain", "It is open", "It was broken for good by " + short(w.breaker)},
		"/keyserver/nothing.example":                    {"There is no chain of anchors for this domain"},
		"/chain/" + w.genesis:                           {"2 anchors", "commits to position 3", short(child) + " of identity " + short(txid("mlr1"))},
		"/anchor/" + w.genesis:                          {"commits to position 1", "number 0 of chain " + short(w.genesis)},
		"/anchor/" + w.breaker:                          {"What broke a chain of anchors", "is broken by " + short(w.breaker) + ": its baton was spent by a transaction that is no anchor", "By its miner's clock that was 1 January 1970"},
		"/status":                                       {"regtest", "blocks 0 to 9"},
	} {
		response, text := w.get(t, path)
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %d: %s", path, response.StatusCode, text)
			continue
		}
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%s does not say %q:\n%s", path, part, text)
			}
		}
	}
}

// TestTheirs looks for what a stranger wrote on every page that shows it: it must be there, bounded, and
// neither markup nor direction.
func TestTheirs(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/key/" + rpctest.Address("parent"), "/key/" + rpctest.Address("stranger"), "/action/" + txid("hostile"), "/action/" + txid("pending"), "/mempool"} {
		_, body := w.Send(t, "GET", path, "")
		if strings.Contains(body, "<script>") || strings.ContainsAny(body, "\u202e\x00\x07") || strings.Contains(body, `"onload`) {
			t.Errorf("%s has a stranger's text as it is", path)
		}
		for _, want := range []string{"It says of itself, and nobody checked it: ", "⟨202E⟩moc.omem⟨202C⟩", "<script>alert(1)</script>"} {
			if text := readable(body); !strings.Contains(text, want) {
				t.Errorf("%s does not show %q: %s", path, want, text)
			}
		}
		if len(body) > 60_000 {
			t.Errorf("%s has %d bytes", path, len(body))
		}
	}
}

// TestFailures looks for a page that says what is wrong.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	unknown := strings.Repeat("ab", 32)
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/identity/" + unknown: {404, "no identity " + unknown},
		"/identity/x":          {400, "expected 64 hex characters"},
		"/action/" + unknown:   {404, "no action " + unknown},
		"/anchor/" + unknown:   {404, "no anchor"},
		"/chain/" + unknown:    {404, unknown},
		"/key/nonsense":        {400, "address"},
		"/block/10":            {404, "Block 10 is not there"},
		"/block/x":             {400, "expected the height of a block"},
		"/key/" + rpctest.Address("child") + "?at=-1":        {400, "expected the height of a block"},
		"/key/" + rpctest.Address("child") + "?at=99":        {400, "got 99"},
		"/key/" + rpctest.Address("child") + "?page=x":       {400, "page_token"},
		"/identity/" + txid("mlr1") + "?below=x":             {400, "address"},
		"/search?q=" + unknown:                               {404, "nothing is known by"},
		"/search?q=nonsense":                                 {404, "Expected an address"},
		"/search?q=77":                                       {404, "Block 77 is not there: the last one is 9"},
		"/search?q=" + url.QueryEscape("<script>x"):          {404, "<script>x"},
		"/keyserver/" + strings.Repeat("x", 80) + ".example": {400, "expected a host name"},
	} {
		response, text := w.get(t, path)
		if response.StatusCode != want.code || !strings.Contains(text, want.text) {
			t.Errorf("%s: %d %s, want %d %q", path, response.StatusCode, text, want.code, want.text)
		}
	}
}

// TestSearch leads from everything that is known to its page.
func TestSearch(t *testing.T) {
	w := newWorld(t)
	child := rpctest.Address("child")
	_, bare, _ := strings.Cut(child, ":")
	for asked, want := range map[string]string{
		child: "/key/" + child, bare: "/key/" + child, "  " + child + " ": "/key/" + child,
		txid("mlr1"): "/identity/" + txid("mlr1"), strings.ToUpper(txid("mlr1")): "/identity/" + txid("mlr1"),
		txid("mla1"): "/action/" + txid("mla1"), txid("pending"): "/action/" + txid("pending"), w.genesis: "/chain/" + w.genesis, w.breaker: "/anchor/" + w.breaker,
		"6": "/block/6", rpctest.Domain: "/keyserver/" + rpctest.Domain, "": "/",
	} {
		response, _ := w.get(t, "/search?q="+url.QueryEscape(asked))
		got, _ := url.PathUnescape(response.Header.Get("Location"))
		if response.StatusCode != http.StatusSeeOther || got != want {
			t.Errorf("%q leads to %d %s, want %s", asked, response.StatusCode, got, want)
		}
	}
	response, _ := w.get(t, "/search?at=5&q="+bare)
	if to := response.Header.Get("Location"); !strings.HasSuffix(to, "?at=5") {
		t.Errorf("a search as of block 5 leads to %s", to)
	}
}

// TestLinksLead follows every link of every page as far as new ones come up: none may lead nowhere, or forget as of
// which block the reader looks.
func TestLinksLead(t *testing.T) {
	w := newWorld(t)
	href := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	for _, at := range []string{"", "?at=5"} {
		queue, seen := []string{"/" + at, "/identity/" + txid("mlr1") + at, "/keyserver/" + rpctest.Domain + at}, make(map[string]bool)
		for len(queue) > 0 {
			path := queue[0]
			queue = queue[1:]
			if seen[path] {
				continue
			}
			seen[path] = true
			response, body := w.Send(t, "GET", path, "")
			if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusSeeOther && !(at != "" && response.StatusCode == http.StatusNotFound) {
				t.Errorf("%s: %d", path, response.StatusCode)
			}
			if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/docs") {
				continue
			}
			header := response.Header
			if header.Get("X-Frame-Options") != "DENY" || !strings.Contains(header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
				t.Errorf("%s may be framed", path)
			}
			for _, found := range href.FindAllStringSubmatch(body, -1) {
				to, err := url.Parse(html.UnescapeString(found[1]))
				base, _ := url.Parse(path)
				if err != nil || to.Host != "" || to.Scheme != "" {
					t.Errorf("%s leads to %s", path, found[1])
					continue
				}
				target := base.ResolveReference(to)
				target.Fragment = ""
				queue = append(queue, target.String())
			}
		}
		if len(seen) < 40 {
			t.Errorf("only %d pages from %q: %v", len(seen), at, seen)
		}
	}
}

// grown is a server with an identity of 301 keys: 120 directly below the root, and some below the first seven of these.
func grown(t *testing.T) *world {
	c := &rpctest.Chain{}
	var requests, accepts []links.Action
	for i := range 300 {
		name := fmt.Sprint("k", i)
		parent := "root"
		if i >= 120 {
			parent = fmt.Sprint("k", i%7)
		}
		requests = append(requests, rpctest.MLR("mlr "+name, name, parent, ""))
		accepts = append(accepts, rpctest.MLA("mla "+name, parent, "mlr "+name))
	}
	return &world{Rig: rpctest.New(t, c.Block(requests...), c.Block(accepts...)), chain: c}
}

// id is the identity behind a key.
func (w *world) id(t *testing.T, name string) string {
	_, answer := w.REST(t, "GET", "/v1/addresses/"+rpctest.Address(name), "")
	return answer["id_tx_hash"].(string)
}

// TestGrownTree draws an identity of many keys: of each key what is below it can be come by, page by page.
func TestGrownTree(t *testing.T) {
	w := grown(t)
	more := regexp.MustCompile(`href="(/identity/[^"]*below=[^"]*)"`)
	found := make(map[string]bool)
	queue, seen := []string{"/identity/" + w.id(t, "k0")}, make(map[string]bool)
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		_, body := w.Send(t, "GET", path, "")
		_, tree, _ := strings.Cut(body, `<section id="tree">`)
		for _, one := range regexp.MustCompile(`title="(bchreg:[a-z0-9]*)"`).FindAllStringSubmatch(tree, -1) {
			found[one[1]] = true
		}
		for _, one := range more.FindAllStringSubmatch(tree, -1) {
			to, _, _ := strings.Cut(html.UnescapeString(one[1]), "#")
			queue = append(queue, to)
		}
		if len(body) > 150_000 {
			t.Errorf("%s has %d bytes", path, len(body))
		}
	}
	for i := range 300 {
		if address := rpctest.Address(fmt.Sprint("k", i)); !found[address] {
			t.Errorf("no page draws k%d", i)
		}
	}
	if len(found) != 301 {
		t.Errorf("%d keys are drawn, want 301", len(found))
	}
}

// TestFiles fetches what the pages are styled and moved by.
func TestFiles(t *testing.T) {
	w := newWorld(t)
	for name, kind := range map[string]string{"explorer.css": "text/css; charset=utf-8", "explorer.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"} {
		response, body := w.Send(t, "GET", "/explorer/"+name, "")
		if response.StatusCode != 200 || response.Header.Get("Content-Type") != kind || body == "" {
			t.Errorf("%s: %d, %s", name, response.StatusCode, response.Header.Get("Content-Type"))
		}
		if again, _ := w.Send(t, "GET", "/explorer/"+name, "", "If-None-Match: "+response.Header.Get("Etag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", name, again.StatusCode)
		}
	}
	if response, _ := w.Send(t, "GET", "/explorer/home.html", ""); response.StatusCode != http.StatusNotFound {
		t.Errorf("a template is answered with %d", response.StatusCode)
	}
	if head, body := w.Send(t, "HEAD", "/identity/"+txid("mlr1"), ""); head.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", head.StatusCode, body)
	}
}
