package rpc_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/store/badger"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	linksrpc "github.com/keytree-bch/keytree/rpc/links"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// costWorlds are the servers that an adversary asks: somebody has paid for what is on their chains, or in their keyserver.
type costWorlds struct {
	// crowd has a key that many were linked to and all were cut from, a long path that was cut at every link, messages as long as
	// transactions can have, and a domain with many chains of anchors.
	crowd *costWorld
	// supposed has all of that pending: of a path, of a star, of requests, of anchors.
	supposed *costWorld
	// moved has a key that has been below one identity after the other, each of which has changed often.
	moved *costWorld
	// proven has a state log, and a long path.
	proven *costWorld
	// kept and wire have a keyserver.
	kept, wire *costWorld

	t     *testing.T // that they are for
	many  int        // of whatever there can be any number of
	path  int        // keys of a path: to resolve one 4,900 deep as of before all its links were cut takes as much as one call may
	batch int        // addresses
	shown int        // keys of a path that is proven: 12,000 are more than a proof shows records
	stays int        // versions of an identity that the key that moves was below
	times int        // that a question is asked; the one that took least counts

	names        map[string]string // that questions need, and that are known when the servers are made
	person       rpctest.Person    // who signs in
	challenges   int               // that he was given
	transactions int               // on the chain of crowd
	wallet       *wallet
	service      *keyserver.Service // that is kept
	entry        string             // its first
	user         *uid.Message       // the last one of an identity that stays with its key
	users        int                // that have registered
	inits        int                // KeyInits that a key may have
	held         int                // that the key has, at least
}

// costWorld is a server, once it is made.
type costWorld struct{ http.Handler }

func (w *costWorld) get(path string) question {
	return question{world: w, method: http.MethodGet, path: path}
}

func (w *costWorld) post(path string, body any) question {
	return w.postNew(path, func() any { return body })
}

// postNew posts a body that is made anew each time.
func (w *costWorld) postNew(path string, body func() any) question {
	return question{world: w, method: http.MethodPost, path: path, body: body}
}

// call calls a method of JSON-RPC.
func (w *costWorld) call(method string, params func() any) question {
	return w.postNew("/", func() any {
		return rpctest.Object{"jsonrpc": "2.0", "method": method, "params": params(), "id": 1}
	})
}

// calls is a batch of them.
func (w *costWorld) calls(method string, params any, count int) question {
	var list []any
	for range count {
		list = append(list, rpctest.Object{"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
	}
	return w.post("/", list)
}

func newCostWorlds(t *testing.T) *costWorlds {
	w := &costWorlds{t: t, many: 1000, path: 500, batch: 500, shown: 1000, stays: 30, times: 1, inits: 100, person: rpctest.NewPerson(t, rpctest.Net), names: make(map[string]string)}
	if exhaustive() {
		w.many, w.path, w.batch, w.shown = 20_000, 4900, 10_000, 12_000
		w.stays, w.times, w.inits = 450, 5, keyserver.DefaultMaxKeyInits
	}
	w.crowd, w.supposed, w.moved, w.proven, w.kept, w.wire = new(costWorld), new(costWorld), new(costWorld), new(costWorld), new(costWorld), new(costWorld)
	return w
}

// fill makes all servers.
func (w *costWorlds) fill(t *testing.T) {
	for _, world := range []struct {
		*costWorld
		fill func(*testing.T) http.Handler
	}{{w.crowd, w.newCrowd}, {w.supposed, w.newSupposed}, {w.moved, w.newMoved}, {w.proven, w.newProven}, {w.kept, w.newKept}, {w.wire, w.newWire}} {
		world.Handler = world.fill(t)
	}
}

// free lets everybody ask as much as he likes.
func free() *admission.Gate {
	limits := admission.DefaultLimits()
	limits.Work = admission.Budget{All: 1 << 30, One: 1 << 30}
	return admission.New(admission.Config{Limits: limits})
}

// named is the name of the nth of something.
func named(what string, n int) string { return fmt.Sprint(what, n) }

// star has some keys ask a parent, and it accept: the actions of one block. cut are those of another, that undo it.
func star(parent, child string, keys int) (form, cut []links.Action) {
	for n := range keys {
		of := named(child, n)
		form = append(form, rpctest.MLR("request "+of, of, parent, ""), rpctest.MLA("accept "+of, parent, "request "+of))
		cut = append(cut, rpctest.MCR("revoke "+of, parent, "accept "+of))
	}
	return form, cut
}

// path is a star of which each key is below the one before.
func path(key string, keys int) (form, cut []links.Action) {
	for n := 1; n < keys; n++ {
		of, above := named(key, n), named(key, n-1)
		form = append(form, rpctest.MLR("request "+of, of, above, ""), rpctest.MLA("accept "+of, above, "request "+of))
		cut = append(cut, rpctest.MCR("revoke "+of, above, "accept "+of))
	}
	return form, cut
}

// requestsBy are requests of strangers to a key, with messages of a character that takes six bytes in JSON, and two more in hex.
func requestsBy(what, parent string, requests, length int) (list []links.Action) {
	for n := range requests {
		of := named(what, n)
		list = append(list, rpctest.MLR("request "+of, of, parent, strings.Repeat("\x01", length)))
	}
	return list
}

const (
	longMessage  = 1000    // of a length of which 1 MB are many
	giantMessage = 990_000 // that fills a transaction
	spoken       = 600     // long messages: more than a page has
	shouted      = 2       // giant ones
)

func (w *costWorlds) newCrowd(t *testing.T) http.Handler {
	c := &rpctest.Chain{}
	starred, unstarred := star("middle", "child", w.many)
	pathed, unpathed := path("path", w.path)
	var chains []rpctest.AnchorTx
	for n := range w.many {
		chains = append(chains, rpctest.AnchorOf(t, named("keyserver", n), rpctest.Record("example.org", uint64(n))))
	}
	blocks := []graph.Block{
		c.Block(append(starred, pathed...)...), c.Block(append(unstarred, unpathed...)...),
		c.Block(requestsBy("speaker", "listener", spoken, longMessage)...), c.Block(requestsBy("shouter", "giant", shouted, giantMessage)...),
		c.Anchored(t, nil, chains...),
	}
	var breakers []rpctest.AnchorTx
	for n := range w.many {
		breakers = append(breakers, rpctest.AnchorOf(t, named("breaker", n), nil, chains[n]))
	}
	large := rpctest.AnchorOf(t, "large", rpctest.Record("large.example.org", 0))
	large.AddTxOut(wire.NewTxOut(0, append([]byte{0x6a}, make([]byte, giantMessage)...), wire.TokenData{}))
	w.names["breaker"], w.names["large"], w.names["last anchor"] = rpctest.ID(breakers[w.many-1]), rpctest.ID(large), rpctest.ID(chains[w.many-1])
	blocks = append(blocks, c.Anchored(t, nil, append(breakers, large)...))
	long, genesis := rpctest.Long(t, c, w.many)
	w.names["chain"] = rpctest.ID(genesis)
	last := c.Block(rpctest.MLR("last", named("path", 1), "nobody", "")) // of which whoever follows that path is told
	r := rpctest.NewOf(t, rpc.Config{Admission: free()}, append(append(blocks, long...), last)...)
	for _, b := range append(blocks, long...) {
		w.transactions += len(b.Actions) + len(b.Anchors.Txs)
	}
	w.names["crowd"], w.names["tip"] = r.URL, fmt.Sprint(c.Next-1)
	return r.Server.Handler()
}

// pendingLimit is how many actions are pending at most (mempool.DefaultMaxActions), in the short form fewer.
func (w *costWorlds) pendingLimit() int { return 5*w.many + w.path }

func (w *costWorlds) newSupposed(t *testing.T) http.Handler {
	c := &rpctest.Chain{}
	starred, unstarred := star("middle", "child", w.many)
	pathed, unpathed := path("path", w.path)
	last := rpctest.Key(named("path", w.path-1))
	personal := []links.Action{
		{TxID: rpctest.HashOf("request person"), Author: &w.person.WIF.Key, Action: protocol.Action{Kind: protocol.MLR, Parent: last}},
		rpctest.MLA("accept person", named("path", w.path-1), "request person"),
	}
	genesis := rpctest.AnchorOf(t, "keyserver", rpctest.Record("example.org", 0))
	w.wallet = newWallet(t, w.many/5) // 4,000 have 140 kB
	config := rpc.Config{Admission: free(), DialLinks: func(context.Context) (*linksrpc.Access, error) {
		return &linksrpc.Access{Wallet: w.wallet, Close: func() error { return nil }}, nil
	}}
	r := rpctest.NewOf(t, config, c.Block(append(append(starred, pathed...), personal...)...), c.Block(requestsBy("asker", "inbox", w.many, 0)...), c.Anchored(t, nil, genesis))
	pending := append(unstarred, unpathed...)
	pending = append(pending, requestsBy("pending", "inbox", w.many, 0)...)
	pending = append(pending, requestsBy("speaker", "listener", spoken, longMessage)...)
	pending = append(pending, requestsBy("shouter", "giant", shouted, giantMessage)...)
	for n := 0; len(pending) < w.pendingLimit(); n++ {
		pending = append(pending, rpctest.MLR(named("stranger's", n), named("stranger", n), named("nobody", n), ""))
	}
	var anchors []rpctest.AnchorTx
	next := genesis
	for n := range w.many {
		anchors = append(anchors, rpctest.AnchorOf(t, named("keyserver", n), rpctest.Record("example.org", uint64(n))))
		next = rpctest.AnchorOf(t, "keyserver", rpctest.Record("example.org", uint64(n+1)), next)
		anchors = append(anchors, next)
	}
	w.names["supposed chain"], w.names["pending anchor"] = rpctest.ID(genesis), rpctest.ID(next)
	r.Suppose(t, "", anchors, pending...)
	return r.Server.Handler()
}

const (
	moves  = 10 // of the key that moves: more than its page shows
	levels = 24 // keys above it, which is as long a way as its page looks at
)

func (w *costWorlds) newMoved(t *testing.T) http.Handler {
	c := &rpctest.Chain{}
	r := rpctest.NewOf(t, rpc.Config{Admission: free()})
	for m := range moves {
		pathed, _ := path(fmt.Sprint("above ", m, "."), levels)
		end := named(fmt.Sprint("above ", m, "."), levels-1)
		if m > 0 {
			before := named(fmt.Sprint("above ", m-1, "."), levels-1)
			pathed = append(pathed, rpctest.MCR(named("leaves", m), before, named("taken", m-1)))
		}
		blocks := []graph.Block{c.Block(pathed...), c.Block(rpctest.MLR(named("moves", m), "mover", end, ""), rpctest.MLA(named("taken", m), end, named("moves", m)))}
		for v := range w.stays {
			of := fmt.Sprint("beside ", m, ".", v)
			root := named(fmt.Sprint("above ", m, "."), 0)
			blocks = append(blocks, c.Block(
				rpctest.MLR("request "+of, of, root, ""), rpctest.MLA("accept "+of, root, "request "+of),
				rpctest.MLR("busy request "+of, "busy "+of, "busy", ""), rpctest.MLA("busy accept "+of, "busy", "busy request "+of),
			))
		}
		r.Connect(t, blocks...)
	}
	return r.Server.Handler()
}

func (w *costWorlds) newProven(t *testing.T) http.Handler {
	c := &rpctest.Chain{}
	pathed, _ := path("path", w.shown)
	starred, _ := star("middle", "child", 2*w.many)
	blocks := []graph.Block{c.Block(pathed...), c.Block(starred...)}
	later, _ := star("later", "later child", w.many)
	blocks = append(blocks, c.Block(later...))
	published := blocks[len(blocks)-1].Height
	for range 10 {
		blocks = append(blocks, c.Block())
	}
	log := new(rpctest.StateLog)
	r := rpctest.NewOf(t, rpc.Config{Admission: free(), StateLog: log}, blocks...)
	log.Follow(t, r.Graph)
	log.Publish(t, published)
	return r.Server.Handler()
}

// wallet stands for a node that has a key's coins, in transactions as large as there are.
type wallet struct {
	txs  map[chainhash.Hash][]byte
	outs []wire.OutPoint
	key  rpctest.Person
	// signed spends as many of them as there is room for.
	signed []byte
}

const (
	walletCoins = 100    // as many as may be named
	coinValue   = 10_000 // satoshi
	spentCoins  = 65     // in 10,000 bytes
)

func newWallet(t *testing.T, outputs int) *wallet {
	w := &wallet{txs: make(map[chainhash.Hash][]byte), key: rpctest.NewPerson(t, rpctest.Net)}
	for n := range walletCoins {
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{byte(n + 1)}}, nil))
		tx.AddTxOut(wire.NewTxOut(coinValue, protocol.P2PKHScript(w.key.WIF.Key), wire.TokenData{}))
		for range outputs { // which take longer to read than one that is long
			tx.AddTxOut(wire.NewTxOut(600, protocol.P2PKHScript(w.key.WIF.Key), wire.TokenData{}))
		}
		var raw bytes.Buffer
		if err := tx.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
		w.txs[tx.TxHash()] = raw.Bytes()
		w.outs = append(w.outs, wire.OutPoint{Hash: tx.TxHash()})
	}
	script, err := protocol.RequestScript(rpctest.Key("middle"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var spends []protocol.UTXO
	for _, out := range w.outs[:spentCoins] {
		spends = append(spends, protocol.UTXO{OutPoint: out, Value: coinValue, Script: protocol.P2PKHScript(w.key.WIF.Key)})
	}
	tx, err := protocol.NewRecordTx(script, spends, w.key.WIF.Key, 1)
	if err == nil {
		err = tx.Sign(w.key.WIF.Private)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.signed = tx.Raw()
	return w
}

// Coins implements coins.Source.
func (w *wallet) Coins(context.Context, protocol.KeyHash) ([]coins.Coin, error) { return nil, nil }

// Transaction implements coins.Source.
func (w *wallet) Transaction(_ context.Context, txid chainhash.Hash) ([]byte, error) {
	if raw, ok := w.txs[txid]; ok {
		return raw, nil
	}
	return nil, node.ErrNotFound
}

// Unspent implements coins.Source.
func (w *wallet) Unspent(_ context.Context, out wire.OutPoint) (bool, error) {
	_, ok := w.txs[out.Hash]
	return ok, nil
}

// Submit implements coins.Sender.
func (w *wallet) Submit(context.Context, []byte) error { return nil }

// looked is how many entries the identity has that is looked up.
const looked = 2*keyserver.MaxPositions + 100

// open opens the keyserver: one identity has very many entries, of which only the places are there, and many others have had
// one and the same key before they had another.
func (w *costWorlds) open(t *testing.T) *keyserver.Service {
	if w.service != nil {
		return w.service
	}
	dir := rpctest.Dir(t)
	rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Dir: dir}).Stop()
	s, err := badger.Place{Dir: filepath.Join(dir, "keyserver"), MemTable: 8 << 20, Log: zerolog.Nop()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for from := 0; from < looked; from += 1000 { // less than a commit takes
		var writes []store.Write
		for n := from; n < min(from+1000, looked); n++ {
			key := binary.BigEndian.AppendUint64([]byte("palice@example.org\x00"), uint64(n+1)) // keyserver/schema.go
			writes = append(writes, store.Write{Key: key})
		}
		if err := s.Commit(writes); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	users := 50
	if exhaustive() {
		users = 10_500
	}
	w.service = rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Dir: dir, MaxKeyInits: w.inits}).Service
	entry, _, err := w.service.LastEntry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	index := entry.UIDIndex()
	w.entry, w.names["uid index"] = entry.String(), base64.URLEncoding.EncodeToString(index[:])
	var registering sync.WaitGroup
	turns := make(chan struct{}, 100)
	for range users {
		m := w.newUser()
		if w.user == nil { // who keeps the key, and is found behind all who had it
			m = rpctest.NewMessage("zoe@example.org", w.entry, rpctest.NewKey(1), time.Now())
			w.user = m
		}
		turns <- struct{}{}
		registering.Go(func() {
			defer func() { <-turns }()
			_, err := w.service.CreateUID(t.Context(), m, "")
			if err == nil && m != w.user {
				_, err = w.service.UpdateUID(t.Context(), rpctest.NextMessage(m, rpctest.NewKey(1), rpctest.NewKey(2)), "")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	registering.Wait()
	return w.service
}

// letters writes a number without digits that an identity cannot have.
func letters(n int) string {
	return strings.Map(func(digit rune) rune { return 'k' + digit - '0' }, fmt.Sprint(n))
}

// keyInits are some of the first user's key.
func (w *costWorlds) keyInits(count int) (inits []*keyinit.KeyInit) {
	for n := range count {
		inits = append(inits, rpctest.NewKeyInit(w.t, rpctest.NewKey(1), byte(n), n%2 == 0, time.Now()))
	}
	return inits
}

// refill lets the first user's key have as many KeyInits as it may.
func (w *costWorlds) refill() {
	for w.held < w.inits {
		n := min(w.inits-w.held, keyserver.MaxKeyInitsPerCall)
		if _, err := w.service.AddKeyInit(w.t.Context(), rpctest.Public(rpctest.NewKey(1)), w.keyInits(n), make([]string, n)); err != nil {
			w.t.Fatal(err)
		}
		w.held += n
	}
}

// forget lets it have none.
func (w *costWorlds) forget() {
	nonce := uint64(time.Now().Unix())
	if err := w.service.FlushKeyInit(w.t.Context(), rpctest.Public(rpctest.NewKey(1)), nonce, keyinit.SignFlush(nonce, rpctest.NewKey(1))); err != nil {
		w.t.Fatal(err)
	}
	w.held = 0
}

// challenge is the text that the person who signs in is to sign.
func (w *costWorlds) challenge() string {
	body, err := json.Marshal(w.toChallenge())
	if err != nil {
		w.t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(w.t.Context(), http.MethodPost, "/v1/signin:challenge", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	w.supposed.ServeHTTP(answer, request)
	var challenge struct{ Message string }
	if err := json.Unmarshal(answer.Body.Bytes(), &challenge); err != nil || challenge.Message == "" {
		w.t.Fatalf("%v in %s", err, answer.Body)
	}
	return challenge.Message
}

func (w *costWorlds) newKept(t *testing.T) http.Handler {
	server, err := rpc.NewServer(rpc.Config{Keyserver: w.open(t), Admission: free(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return server.Handler()
}

func (w *costWorlds) newWire(t *testing.T) http.Handler {
	service, dir := w.open(t), t.TempDir()
	log, err := tlog.Open(tlog.Options{
		Source: service, Origin: "example.org/keytree", KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { log.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		log.Close()
	})
	signed := ""
	for ; signed == ""; time.Sleep(time.Millisecond) {
		if text, _, err := log.Checkpoint(); err == nil {
			signed = string(text)
		}
	}
	lines := strings.Split(signed, "\n")
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	whole := "000" // a tile of 256
	if size < 256 {
		whole = fmt.Sprint("000.p/", size)
	}
	w.names["tile"], w.names["bundle"] = "tile/0/"+whole, "tile/entries/"+whole
	return rpc.NewKeyserverServer(rpc.KeyserverConfig{Service: service, TLog: log, Admission: free(), Log: zerolog.Nop()}).Handler()
}
