package explorer_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// What a tab and a page may hold, however large the identity is.
const (
	mostTab   = 200 << 20 // bytes of the tab's process, with its share of what it has together with others
	mostPage  = 150_000   // bytes of a page
	mostNodes = 6_000     // of a page's document
)

// vast makes an identity of so many keys in so many blocks, each of which changes it. A third of the keys
// hang on the root, the others anywhere.
func vast(t *testing.T, keys, changes int) *world {
	t.Helper()
	w := &world{Rig: rpctest.New(t), chain: &rpctest.Chain{}}
	random := rand.New(rand.NewPCG(1, 2))
	var blocks []graph.Block
	for i, made := 0, 1; i < changes; i++ {
		var actions []links.Action
		for ; made < 1+(keys-1)*(i+1)/changes; made++ {
			parent := "k0"
			if made%3 > 0 {
				parent = fmt.Sprint("k", random.IntN(made))
			}
			name := fmt.Sprint("k", made)
			actions = append(actions, rpctest.MLR("mlr "+name, name, parent, ""), rpctest.MLA("mla "+name, parent, "mlr "+name))
		}
		if blocks = append(blocks, w.chain.Block(actions...)); len(blocks) == 500 || i == changes-1 {
			w.Connect(t, blocks...)
			blocks = blocks[:0]
		}
	}
	return w
}

// moves moves the slider to heights, one after the other, and says how many milliseconds it took each time
// until the page as of that block was painted.
const moves = `(async (heights) => {
  const times = [];
  for (const height of heights) {
    const range = document.querySelector("input[type=range]");
    const begun = performance.now();
    range.value = height;
    range.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((done) => {
      const look = () => document.getElementById("main").dataset.asOf === String(height) && (seen.disconnect(), done());
      const seen = new MutationObserver(look);
      seen.observe(document.body, { subtree: true, childList: true, attributes: true });
      look();
    });
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    times.push(performance.now() - begun);
  }
  return times;
})`

// painted says when the page was first painted, and when its text had come, in milliseconds from when it was asked for.
const painted = `(async () => {
  const [navigation] = performance.getEntriesByType("navigation");
  const paint = await new Promise((done) => {
    const look = (list) => list.getEntriesByName("first-contentful-paint").forEach(done);
    new PerformanceObserver(look).observe({ type: "paint", buffered: true });
  });
  return [paint.startTime, navigation.responseEnd, document.querySelectorAll("*").length];
})()`

// TestBrowserVast looks at a vast identity as somebody with a browser does, and prints what it takes. With
// KEYTREE_EXHAUSTIVE it has 1,000,000 keys and a history of 100,000 changes, and aims are: first paint 1 s,
// slider 100 ms, tab under 200 MB.
//
//	KEYTREE_EXHAUSTIVE=1 go test ./rpc/explorer -run TestBrowserVast -v -timeout 2h
func TestBrowserVast(t *testing.T) {
	keys, changes, times := 2_000, 300, 3
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		keys, changes, times = 1_000_000, 100_000, 30
	}
	if testing.Short() {
		t.Skip("a browser takes long, and has nothing to do with races")
	}
	begun := time.Now()
	w := vast(t, keys, changes)
	identity := "/identity/" + w.id(t, "k1")
	t.Logf("%d keys in %d blocks, made in %v", keys, changes, time.Since(begun).Round(time.Second))

	deep := rpctest.Address(fmt.Sprint("k", keys-1))
	for name, path := range map[string]string{
		"identity": identity, "identity as of half its time": identity + fmt.Sprint("?at=", changes/2), "branch below the root": identity + "?below=" + rpctest.Address("k0"),
		"root key": "/key/" + rpctest.Address("k0"), "newest key": "/key/" + deep, "block": fmt.Sprint("/block/", changes-1), "home": "/", "status": "/status",
	} {
		var took []float64
		var body string
		for range times {
			begun := time.Now()
			var response *http.Response
			response, body = w.Send(t, "GET", path, "")
			took = append(took, float64(time.Since(begun).Microseconds())/1000)
			if response.StatusCode != http.StatusOK || len(body) > mostPage {
				t.Fatalf("%s: %d, %d bytes: %.200s", name, response.StatusCode, len(body), readable(body))
			}
		}
		t.Logf("server: %s: %s, %d bytes", name, spread(took), len(body))
	}

	b := browser.Start(t, "browser", w.URL)
	var paints, texts []float64
	for range times {
		b.Open(identity, browser.Order{"fresh": true})
		got := b.Do("evaluate", browser.Order{"script": painted}).Value.([]any)
		paints, texts = append(paints, got[0].(float64)), append(texts, got[1].(float64))
		if nodes := got[2].(float64); nodes > mostNodes {
			t.Errorf("the page has %.0f elements", nodes)
		}
	}
	t.Logf("browser: first paint %s; the text had come after %s", spread(paints), spread(texts))
	each := 1     // page as it was opened
	worked := 0.0 // by the tab's main thread until then, in seconds
	tab := func(when string) {
		got := b.Do("tab", nil).Tab
		t.Logf("browser: %s: the tab holds %.0f MB of its own, %.0f MB with its share of what it has together with others, %.0f MB with all of that; scripts %.1f MB, %d nodes; its thread had %.1f ms of the processor each time", when,
			float64(got.Private)/1e6, float64(got.Share)/1e6, float64(got.Resident)/1e6, float64(got.Scripts)/1e6, got.Nodes, (got.Worked-worked)*1000/float64(each))
		worked, each = got.From, times
		if got.Share > mostTab {
			t.Errorf("%s, the tab holds %d bytes", when, got.Share)
		}
	}
	tab("opened")

	random := rand.New(rand.NewPCG(3, 4))
	var heights []string
	for range times {
		heights = append(heights, fmt.Sprint(random.IntN(changes-1)))
	}
	var slid []float64
	for _, value := range b.Do("evaluate", browser.Order{"script": moves + "([" + strings.Join(heights, ",") + "])"}).Value.([]any) {
		slid = append(slid, value.(float64))
	}
	t.Logf("browser: slider %s", spread(slid))
	tab("slid")

	for range times {
		before := b.Do("count", browser.Order{"selector": ".tree a.open"}).Count
		if before == 0 {
			break
		}
		b.Do("click", browser.Order{"selector": ".tree a.open"})
		b.Do("wait", browser.Order{"selector": "#tree:not(:has([aria-busy]))"})
	}
	t.Logf("browser: %d keys are drawn", b.Do("count", browser.Order{"selector": ".tree li"}).Count)
	tab("branches opened")
}

// spread says how figures are spread, in milliseconds.
func spread(list []float64) string {
	slices.Sort(list)
	return fmt.Sprintf("%.1f ms (%.1f to %.1f, of %d)", list[len(list)/2], list[0], list[len(list)-1], len(list))
}
