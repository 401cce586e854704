package explorer_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// notary stands before a server, and proves what that says as of a block; or lies, or has nothing to say, as a
// test wants it.
type notary struct {
	URL      string
	log      *tlog.Key
	one, two *tlog.Key // its witnesses

	mu       sync.Mutex
	rig      *rpctest.Rig
	covered  uint32            // mu; the newest block that it proves
	cosigned time.Time         // mu; when its witnesses have
	lied     *chainhash.Hash   // mu; the id that it says all roots have
	broken   bool              // mu; its proofs have an entry that is not in the log
	policies map[string]string // by the names of who is believed
}

func newNotary(t *testing.T) *notary {
	t.Helper()
	key := func(name string) *tlog.Key {
		k, err := tlog.GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	n := &notary{log: key("log.example/state/regtest/1/1"), one: key("one.example"), two: key("two.example"), cosigned: time.Now()}
	n.policies = map[string]string{
		"both":     fmt.Sprintf("log %v\nwitness Alice %v\nwitness Bob %v\ngroup both all Alice Bob\nquorum both\n", n.log.Log(), n.one.Witness(), n.two.Witness()),
		"stranger": fmt.Sprintf("log %v\nquorum none\n", key("other.example/state/regtest/1/1").Log()),
		"log":      fmt.Sprintf("log %v\nquorum none\n", n.log.Log()),
	}
	return n
}

// serve puts it before a server.
func (n *notary) serve(t *testing.T, rig *rpctest.Rig) {
	t.Helper()
	n.rig = rig
	to, err := url.Parse(rig.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval = -1
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc("GET /v1/{kind}/{name}/proof", func(w http.ResponseWriter, r *http.Request) {
		file, err := n.prove(r.PathValue("kind"), r.PathValue("name"), r.URL.Query().Get("at_height"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]any{"code": 9, "message": err.Error()})
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"proof": file})
	})
	front := httptest.NewServer(mux)
	t.Cleanup(front.Close)
	n.URL = front.URL
}

// ask asks the server, and takes its word.
func (n *notary) ask(path string, height uint32, answer any) (found bool, err error) {
	response, err := http.Get(n.rig.URL + path + "?at_height=" + strconv.Itoa(int(height)))
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return false, nil
	}
	return true, json.NewDecoder(response.Body).Decode(answer)
}

// said is what the server says of a key or an identity.
type said struct {
	Parent string   `json:"parent_address"`
	Accept string   `json:"accept_tx_hash"`
	ID     string   `json:"id_tx_hash"`
	Main   string   `json:"main_address"`
	Merged string   `json:"merged_into"`
	Path   []string `json:"path"`
	Block  string   `json:"as_of_hash"`
}

func (n *notary) prove(kind, name, at string) (file string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	height := n.covered
	if at != "" {
		asked, _ := strconv.ParseUint(at, 10, 32)
		if height = uint32(asked); height > n.covered {
			return "", fmt.Errorf("block %d is not covered by a cosigned checkpoint yet: the newest that is is %d", height, n.covered)
		}
	}
	var first said
	found, err := n.ask("/v1/"+kind+"/"+name, height, &first)
	if err != nil {
		return "", err
	}
	var subject proof.StateSubject
	var records [][]byte
	switch {
	case kind == "identities":
		subject.IsID = true
		subject.ID, err = hashOf(name)
		if found && first.Merged != "" {
			into, _ := hashOf(first.Merged)
			records = append(records, (&protocol.IDRecord{ID: subject.ID, Merged: true, Into: into}).AppendTo(nil), (&protocol.IDRecord{ID: into, Root: keyOf(first.Main)}).AppendTo(nil))
		} else if found {
			records = append(records, (&protocol.IDRecord{ID: subject.ID, Root: keyOf(first.Main)}).AppendTo(nil))
		}
	default:
		subject.Key = keyOf(name)
		for i := 0; first.ID != "" && i < len(first.Path) && err == nil; i++ {
			var one said
			_, err = n.ask("/v1/addresses/"+first.Path[i], height, &one)
			record := protocol.KeyRecord{Key: keyOf(first.Path[i]), Parent: keyOf(one.Parent)}
			record.Accept, _ = hashOf(one.Accept)
			if one.Parent == "" {
				if record.ID, _ = hashOf(one.ID); n.lied != nil {
					record.ID = *n.lied
				}
			}
			records = append(records, record.AppendTo(nil))
		}
	}
	if err != nil {
		return "", err
	}
	if first.Block == "" { // of what there is not
		if _, err := n.ask("/v1/addresses/"+rpctest.Address("nobody"), height, &first); err != nil {
			return "", err
		}
	}
	p := proof.StateProof{Entry: protocol.StateEntry{Height: height}, Subjects: []proof.StateSubject{subject}}
	p.Entry.Block, _ = hashOf(first.Block)
	p.Tree, p.Entry.StateRoot = treeOf(records)
	extra, err := p.Marshal()
	if err != nil {
		return "", err
	}
	entry := p.Entry.Bytes()
	if n.broken {
		entry[0]++
	}
	signed := n.log.Sign(tlog.Checkpoint{Origin: n.log.Name(), Size: 1, Root: sumdb.RecordHash(entry[:])})
	checkpoint := slices.Concat(signed, n.one.Cosign(signed, n.cosigned), n.two.Cosign(signed, n.cosigned))
	return string((&tlog.Proof{Extra: extra, Checkpoint: checkpoint}).Marshal()), nil
}

func hashOf(s string) (h chainhash.Hash, err error) {
	if s == "" {
		return h, errors.New("no hash")
	}
	err = chainhash.Decode(&h, s)
	return h, err
}

func keyOf(address string) (key protocol.KeyHash) {
	if address != "" {
		key, _ = protocol.ParseAddress(address, rpctest.Net)
	}
	return key
}

// treeOf is the map of some records, all of it, and its root.
func treeOf(records [][]byte) (tree []byte, root [32]byte) {
	var t proof.StateTree
	if len(records) == 0 {
		t.Empty()
		return t.Bytes(), protocol.EmptyMapHash()
	}
	mapKey := func(record []byte) protocol.MapKey {
		if record[0] == protocol.RecordOfID {
			return protocol.MapKeyOfID(chainhash.Hash(record[1:33]))
		}
		return protocol.MapKeyOf(protocol.KeyHash(record[1:21]))
	}
	var show func(records [][]byte, bit int) [32]byte
	show = func(records [][]byte, bit int) [32]byte {
		if len(records) == 1 {
			t.Record(records[0])
			return protocol.MapLeafHash(mapKey(records[0]), records[0])
		}
		of := func(record []byte) byte { key := mapKey(record); return key.Bit(bit) }
		for of(records[0]) == of(records[len(records)-1]) {
			bit++
		}
		middle := slices.IndexFunc(records, func(record []byte) bool { return of(record) == 1 })
		t.Both(bit)
		return protocol.MapNodeHash(bit, show(records[:middle], bit+1), show(records[middle:], bit+1))
	}
	slices.SortFunc(records, func(a, b []byte) int {
		x, y := mapKey(a), mapKey(b)
		return cmp.Compare(string(x[:]), string(y[:]))
	})
	root = show(records, 0)
	return t.Bytes(), root
}

// set changes what it does.
func (n *notary) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// TestBrowserProof looks at what pages say of proofs: what is proven, and never more than that.
func TestBrowserProof(t *testing.T) {
	n := newNotary(t)
	w := newWorldOf(t, rpc.Config{StatePolicy: func() string { return n.policies["both"] }})
	n.covered = 9
	n.serve(t, w.Rig)
	b := browser.Start(t, "browser", n.URL)
	child, parent := "/key/"+rpctest.Address("child"), rpctest.Address("parent")
	looked, shown := make(map[string]bool), 0
	proven, unproven, refuted := ".proof.proven", ".proof.unproven", ".proof.refuted"
	see := func(path, selector string, texts ...string) {
		t.Helper()
		if path != "" {
			b.Open(path, browser.Order{"width": 360, "dark": true})
		}
		for _, text := range texts {
			b.Do("wait", browser.Order{"selector": selector, "text": text})
		}
		b.Sound(path+selector, !looked[selector])
		looked[selector] = true
		if pictures := os.Getenv("KEYTREE_PICTURES"); pictures != "" {
			shown++
			b.Do("picture", browser.Order{"file": filepath.Join(pictures, fmt.Sprint("proof-", shown, ".png"))})
		}
	}
	see(child, proven, "Proven as of block 9", "log log.example/state/regtest/1/1, cosigned by Alice and Bob", "the key is directly below "+short(parent)+", the main key of identity "+short(txid("mlr1")),
		"No such proof shows who the key was before", "By this server's own word of whom to believe")
	see("/key/"+rpctest.Address("grandchild"), proven, "directly below "+short(rpctest.Address("child"))+" and 2 links below "+short(parent))
	see("/key/"+parent, proven, "the key has no key above it, and is the main key of identity "+short(txid("mlr1")))
	see("/key/"+rpctest.Address("nobody"), proven, "the key was in no link")
	see("/identity/"+txid("mlr1"), proven, "the main key of the identity is "+short(parent), "No such proof shows how many keys")
	see("/identity/"+txid("mcr1"), proven, "the identity has merged into "+short(txid("mlr1")))
	see(child+"?at=5", proven, "Proven as of block 5", "is the main key of identity "+short(txid("mcr1")))

	// A checkpoint does not cover the last blocks.
	n.set(func() { n.covered = 7 })
	see(child, proven, "Proven as of block 7, 2 blocks ago", "What those have brought is not proven")
	see(child+"?at=8", unproven, "Not proven", "Block 8 is not covered by a cosigned checkpoint yet")
	n.set(func() { n.covered = 5 })
	see(child, unproven, "Not proven: this page shows what has changed since", "As of block 5", "is the main key of identity "+short(txid("mcr1")))
	n.set(func() { n.covered = 1 })
	see("/identity/"+txid("mlr1"), unproven, "Not proven: this page shows what has changed since", "there is no such identity")

	// An old cosignature, a broken file, and a log that has proven something else than the server says.
	n.set(func() { n.covered, n.cosigned = 9, time.Now().Add(-50*time.Hour) })
	see(child, unproven, "An old proof as of block 9", "2 days ago", "That is old")
	n.set(func() { n.cosigned, n.broken = time.Now(), true })
	see(child, unproven, "Not proven", "Check 3 of a state proof")
	lie := rpctest.HashOf("a lie")
	n.set(func() { n.broken, n.lied = false, &lie })
	see(child, refuted, "Refuted: this server contradicts what it has proven", "another id_tx_hash as of block 9")
	n.set(func() { n.lied = nil })

	// The reader's own policy is kept, and what it does not bear is not proven.
	see(child, proven, "Proven as of block 9")
	believe := func(policy, button string) {
		t.Helper()
		b.Do("click", browser.Order{"selector": ".proof details:not([open]) summary"})
		if policy != "" {
			b.Do("fill", browser.Order{"selector": "#policy", "text": policy})
		}
		b.Do("click", browser.Order{"selector": ".proof button:has-text('" + button + "')"})
	}
	believe(n.policies["stranger"], "Believe these")
	see("", unproven, "Not proven to those whom your policy names", "no log that the policy names has signed", "By your policy")
	see("/identity/"+txid("mlr1"), unproven, "Not proven to those whom your policy names")
	believe("nonsense", "Believe these")
	see("", unproven, "there is no policy by which it could be", "Line 1 of the policy")
	b.Do("fill", browser.Order{"selector": "#policy", "text": n.policies["log"]})
	b.Do("click", browser.Order{"selector": ".proof button:has-text('Believe these')"})
	see("", unproven, "Signed by its log alone as of block 9", "cosigned by nobody")
	b.Do("click", browser.Order{"selector": ".proof button:has-text(\"Believe this server's\")"})
	see("", proven, "Proven as of block 9", "By this server's own word")

	// A block comes, and the page follows. What the reader is writing stays.
	see(child, proven, "Proven as of block 9")
	b.Do("wait", browser.Order{"selector": "html[data-following]"})
	b.Do("click", browser.Order{"selector": ".proof summary"})
	b.Do("fill", browser.Order{"selector": "#policy", "text": "half of a pol"})
	w.Connect(t, w.chain.Block(rpctest.MCR("cut", "parent", "mla3")))
	see("", unproven, "Not proven: this page shows what has changed since")
	if same := b.Do("evaluate", browser.Order{"script": `document.activeElement?.id === "policy" && document.activeElement.value === "half of a pol"`}); same.Value != true {
		t.Error("what the reader was writing is gone")
	}
	n.set(func() { n.covered = 10 })
	see(child, proven, "Proven as of block 10", "is the main key of identity "+short(txid("cut")))

	// Without scripts a page says that nothing of it is proven.
	b.Open(child, browser.Order{"scripts": false})
	if text := b.Do("text", browser.Order{"selector": ".proof"}).Text; !strings.HasPrefix(text, "Not proven: this page is this server's word It has a proof of some of that") {
		t.Errorf("without scripts a page says %q", text)
	}
}

// TestStatePolicy fetches by what policy a server's proofs can be checked, where it has proofs.
func TestStatePolicy(t *testing.T) {
	policy := newNotary(t).policies["both"]
	for _, want := range []string{policy, ""} {
		w := newWorldOf(t, rpc.Config{StatePolicy: func() string { return want }})
		response, body := w.Send(t, "GET", "/explorer/state-policy", "")
		if want != "" && (body != want || response.Header.Get("Content-Type") != "text/plain; charset=utf-8") || want == "" && response.StatusCode != http.StatusNotFound {
			t.Errorf("%d %q, want %q", response.StatusCode, body, want)
		}
		for _, path := range []string{"/key/" + rpctest.Address("child"), "/identity/" + txid("mlr1")} {
			if _, page := w.Send(t, "GET", path, ""); strings.Contains(page, "data-proof") != (want != "") {
				t.Errorf("%s with policy %q speaks of proofs: %t", path, want, want == "")
			}
		}
	}
}
