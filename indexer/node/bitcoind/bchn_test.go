package bitcoind_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// undo says how a bchn tells what transactions spend.
type undo uint8

const (
	noUndo    undo = iota
	inTx           // getrawtransaction 2, as BCHN answers
	inPrevout      // getrawtransaction 2, as others do
	inBlock        // getblock 3 alone
)

// bchn answers as Bitcoin Cash Node does (testdata/README.md), for what bchd
// does not do. Its blocks have no proof of work, which the adapter leaves to
// others.
type bchn struct {
	t         *testing.T
	server    *httptest.Server
	templates *template.Template

	mu       sync.Mutex // guards what follows
	blocks   []*wire.MsgBlock
	heights  map[chainhash.Hash]int // of blocks
	txs      map[chainhash.Hash]int // heights of transactions
	outputs  map[wire.OutPoint]*wire.TxOut
	mempool  []*wire.MsgTx
	doubted  *wire.MsgTx // of the mempool, of which there is a proof that it was spent twice
	chain    string
	password string
	undo     undo
	rest     bool
	txIndex  bool
	download bool
	ahead    int    // headers without their blocks
	pruned   uint32 // height of the first block that is there
	peers    int
	version  string // what it calls itself
	asked    map[string]int
	conns    int
	// instead, if not nil, may answer a question itself: a method with its
	// parameters, or a path.
	instead func(w http.ResponseWriter, question string) bool
}

func newBCHN(t *testing.T) *bchn {
	t.Helper()
	asJSON := func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err }
	n := &bchn{
		t: t, heights: make(map[chainhash.Hash]int), txs: make(map[chainhash.Hash]int), outputs: make(map[wire.OutPoint]*wire.TxOut),
		templates: template.Must(template.New("").Funcs(template.FuncMap{"json": asJSON}).ParseGlob("testdata/*.json")),
		chain:     "regtest", password: "hush", undo: inTx, asked: make(map[string]int),
	}
	n.take(nodetest.Genesis())
	n.serve("127.0.0.1:0")
	t.Cleanup(func() { n.server.Close() })
	return n
}

// serve has the node answer at an address.
func (n *bchn) serve(address string) {
	n.t.Helper()
	server := httptest.NewUnstartedServer(n)
	server.Listener.Close()
	server.Listener = must[net.Listener](n.t)(net.Listen("tcp", address))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.set(func() { n.conns++ })
		}
	}
	server.Start()
	n.server = server
}

// take has the node's best chain be that one.
func (n *bchn) take(chain *nodetest.Chain) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocks = nil
	clear(n.heights)
	clear(n.txs)
	for height := range chain.Height() + 1 {
		n.add(chain.Block(height))
	}
}

// add puts a block at the end of the chain.
func (n *bchn) add(block *wire.MsgBlock) {
	n.heights[block.BlockHash()] = len(n.blocks)
	for _, tx := range block.Transactions {
		n.txs[tx.TxHash()] = len(n.blocks)
		for i, out := range tx.TxOut {
			n.outputs[wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}] = out
		}
	}
	n.blocks = append(n.blocks, block)
}

// set changes the node under its lock.
func (n *bchn) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *bchn) count(question string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[question]
}

// tip returns the last block.
func (n *bchn) tip() *wire.MsgBlock {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocks[len(n.blocks)-1]
}

func (n *bchn) config() bitcoind.Config {
	return bitcoind.Config{
		Address: n.server.Listener.Addr().String(), User: "keytree", Password: "hush", Network: regtest.Params,
		RetryFor: time.Minute,
	}
}

// mine adds a block with txs, and returns its hash.
func (n *bchn) mine(txs ...*wire.MsgTx) chainhash.Hash {
	n.mu.Lock()
	defer n.mu.Unlock()
	height := len(n.blocks)
	coinbase := wire.NewMsgTx(1)
	coinbase.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&chainhash.Hash{}, wire.MaxPrevOutIndex), []byte{2, byte(height), byte(height >> 8)}))
	coinbase.AddTxOut(wire.NewTxOut(50, []byte{0x51}, wire.TokenData{}))
	block := wire.NewMsgBlock(&wire.BlockHeader{PrevBlock: n.blocks[height-1].BlockHash(), Timestamp: time.Unix(int64(height), 0)})
	for _, tx := range append([]*wire.MsgTx{coinbase}, txs...) {
		if err := block.AddTransaction(tx); err != nil {
			n.t.Fatal(err)
		}
	}
	n.add(block)
	return block.BlockHash()
}

// payment spends outputs.
func payment(to []*wire.TxOut, from ...wire.OutPoint) *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	for _, out := range from {
		tx.AddTxIn(wire.NewTxIn(&out, nil))
	}
	for _, out := range to {
		tx.AddTxOut(out)
	}
	return tx
}

// mineSpending mines outputs, with and without tokens, and a transaction that
// spends them all in another block. It returns that block, the transaction, and
// what is spent.
func (n *bchn) mineSpending() (chainhash.Hash, *wire.MsgTx, []*wire.TxOut) {
	p2pkh := append(append([]byte{0x76, 0xa9, 20}, make([]byte, 20)...), 0x88, 0xac)
	category := chainhash.Hash{1, 2, 3}
	outputs := []*wire.TxOut{
		wire.NewTxOut(1000, p2pkh, wire.TokenData{}),
		wire.NewTxOut(1000, p2pkh, wire.TokenData{CategoryID: category, Amount: 1 << 60, BitField: wire.HAS_AMOUNT}),
		wire.NewTxOut(1000, p2pkh, wire.TokenData{CategoryID: category, BitField: wire.HAS_NFT}),
		wire.NewTxOut(1000, p2pkh, wire.TokenData{CategoryID: category, Amount: 300, Commitment: []byte("ours"),
			BitField: wire.HAS_AMOUNT | wire.HAS_NFT | wire.HAS_COMMITMENT_LENGTH | wire.MINTING}),
		wire.NewTxOut(1000, []byte{0x51}, wire.TokenData{CategoryID: category, Commitment: []byte{9},
			BitField: wire.HAS_NFT | wire.HAS_COMMITMENT_LENGTH | wire.MUTABLE}),
	}
	funding := payment(outputs, wire.OutPoint{Hash: chainhash.Hash{7}})
	n.set(func() { n.outputs[funding.TxIn[0].PreviousOutPoint] = outputs[0] })
	n.mine(funding)
	var spends []wire.OutPoint
	for i := range outputs {
		spends = append(spends, wire.OutPoint{Hash: funding.TxHash(), Index: uint32(i)})
	}
	spender := payment(outputs[:1], spends...)
	return n.mine(spender), spender, outputs
}

// scriptOf returns an output's script as it is on chain.
func scriptOf(out *wire.TxOut) []byte {
	if out.TokenData.IsEmpty() {
		return out.PkScript
	}
	prefix := out.TokenData.TokenDataBuffer()
	return append(prefix.Bytes(), out.PkScript...)
}

func (n *bchn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Method == http.MethodGet {
		n.serveREST(w, r)
		return
	}
	if _, password, _ := r.BasicAuth(); password != n.password {
		n.asked["refused"]++
		w.Header().Set("WWW-Authenticate", `Basic realm="jsonrpc"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has left
	}
	if len(body) > 0 && body[0] == '[' {
		n.serveBatch(w, body)
		return
	}
	var question struct {
		Method string
		Params []any
	}
	if err := json.Unmarshal(body, &question); err != nil {
		n.t.Errorf("a question that is no JSON: %v", err)
		return
	}
	text := question.Method
	for _, p := range question.Params {
		text += " " + fmt.Sprint(p)
	}
	n.asked[question.Method]++
	if n.instead != nil && n.instead(w, text) {
		return
	}
	result, code, message := n.answer(question.Method, question.Params)
	if code != 0 {
		rpcFailure(w, code, message)
		return
	}
	fmt.Fprintf(w, `{"result":%s,"error":null,"id":1}`+"\n", result)
}

// serveBatch answers a batch of questions.
func (n *bchn) serveBatch(w http.ResponseWriter, body []byte) {
	var questions []struct {
		Method string
		Params []any
		ID     int
	}
	if err := json.Unmarshal(body, &questions); err != nil {
		n.t.Errorf("a batch that is no JSON: %v", err)
		return
	}
	if n.instead != nil && n.instead(w, "batch") {
		return
	}
	var answers []string
	for _, q := range questions {
		n.asked[q.Method]++
		result, code, message := n.answer(q.Method, q.Params)
		failed := "null"
		if code != 0 {
			result, failed = "null", fmt.Sprintf(`{"code":%d,"message":%q}`, code, message)
		}
		answers = append(answers, fmt.Sprintf(`{"result":%s,"error":%s,"id":%d}`, result, failed, q.ID))
	}
	fmt.Fprintf(w, "[%s]\n", strings.Join(answers, ","))
}

// rpcFailure answers as bitcoind does: the HTTP status too says that it is one.
func rpcFailure(w http.ResponseWriter, code int, message string) {
	status := http.StatusInternalServerError
	if code == -32601 {
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body, _ := json.Marshal(map[string]any{"result": nil, "error": map[string]any{"code": code, "message": message}, "id": 1})
	_, _ = w.Write(body)
}

func (n *bchn) serveREST(w http.ResponseWriter, r *http.Request) {
	n.asked["REST"]++
	if n.instead != nil && n.instead(w, r.URL.Path) {
		return
	}
	if r.Header.Get("Authorization") != "" {
		n.t.Error("the password was sent to REST")
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/rest/headers/"); ok && n.rest {
		n.serveHeaders(w, name)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/rest/block/")
	block := n.find(strings.TrimSuffix(name, ".bin"))
	if !n.rest || !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if block == nil || n.gone(block) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, "%s not found\r\n", strings.TrimSuffix(name, ".bin"))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = block.Serialize(w)
}

// serveHeaders answers COUNT/HASH.bin: headers from that block on.
func (n *bchn) serveHeaders(w http.ResponseWriter, name string) {
	count, hash, _ := strings.Cut(strings.TrimSuffix(name, ".bin"), "/")
	want, err := strconv.Atoi(count)
	if err != nil || want < 1 || want > 2000 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	from := slices.Index(n.blocks, n.find(hash))
	if from < 0 {
		return
	}
	for _, b := range n.blocks[from:min(len(n.blocks), from+want)] {
		_ = b.Header.Serialize(w)
	}
}

// find returns the block with that hash, nil if there is none.
func (n *bchn) find(hash string) *wire.MsgBlock {
	if height, ok := n.heights[parseHash(hash)]; ok {
		return n.blocks[height]
	}
	return nil
}

// findTx returns the transaction with that txid, and its block; nil if there is none.
func (n *bchn) findTx(txid string) (*wire.MsgTx, *wire.MsgBlock) {
	hash := parseHash(txid)
	height, ok := n.txs[hash]
	if !ok {
		return nil, nil
	}
	block := n.blocks[height]
	at := slices.IndexFunc(block.Transactions, func(tx *wire.MsgTx) bool { return tx.TxHash() == hash })
	return block.Transactions[at], block
}

// parseHash returns a hash, or zero for what is none.
func parseHash(s string) chainhash.Hash {
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil {
		return chainhash.Hash{}
	}
	return *hash
}

func (n *bchn) gone(b *wire.MsgBlock) bool { return n.heights[b.BlockHash()] < int(n.pruned) }

// answer returns a result in JSON, or an error's code and message.
func (n *bchn) answer(method string, params []any) (result string, code int, message string) {
	param := func(i int) string {
		if i < len(params) {
			return fmt.Sprint(params[i])
		}
		return ""
	}
	last := n.blocks[len(n.blocks)-1]
	switch method {
	case "getblockchaininfo":
		return n.render("getblockchaininfo.json", map[string]any{
			"Chain": n.chain, "Height": len(n.blocks) - 1, "Headers": len(n.blocks) - 1 + n.ahead, "Best": last.BlockHash().String(),
			"Download": n.download, "Pruned": n.pruned > 0, "PruneHeight": n.pruned,
		}), 0, ""
	case "getblockhash":
		height := int(params[0].(float64))
		if height >= len(n.blocks) {
			return "", -8, "Block height out of range"
		}
		return fmt.Sprintf("%q", n.blocks[height].BlockHash()), 0, ""
	case "getnetworkinfo":
		return fmt.Sprintf(`{"version":28000100,"subversion":%q,"connections":%d}`, n.version, n.peers), 0, ""
	case "getconnectioncount":
		return fmt.Sprint(n.peers), 0, ""
	case "gettxout":
		if !n.unspent(wire.OutPoint{Hash: parseHash(param(0)), Index: uint32(params[1].(float64))}, param(2) == "true") {
			return "null", 0, ""
		}
		return n.txOut(wire.OutPoint{Hash: parseHash(param(0)), Index: uint32(params[1].(float64))}), 0, ""
	case "getrawmempool":
		var txids []string
		for _, tx := range n.mempool {
			txids = append(txids, fmt.Sprintf("%q", tx.TxHash()))
		}
		return "[" + strings.Join(txids, ",") + "]", 0, ""
	case "getdsprooflist":
		if n.doubted == nil {
			return "[]", 0, ""
		}
		return fmt.Sprintf(`[{"dspid":"%064x","txid":%q}]`, 1, n.doubted.TxHash()), 0, ""
	case "getdsproof":
		var txids []string
		for _, tx := range n.mempool { // each depends on the one before
			txids = append(txids, fmt.Sprintf("%q", tx.TxHash()))
		}
		return fmt.Sprintf(`{"hex":"","txid":%q,"descendants":[%s]}`, n.doubted.TxHash(), strings.Join(txids, ",")), 0, ""
	case "getblockheader":
		block := n.find(param(0))
		if block == nil {
			return "", -5, "Block not found"
		}
		var raw bytes.Buffer
		_ = block.Header.Serialize(&raw)
		return fmt.Sprintf("%q", hex.EncodeToString(raw.Bytes())), 0, ""
	case "getblock":
		block := n.find(param(0))
		switch {
		case block == nil:
			return "", -5, "Block not found"
		case n.gone(block):
			return "", -1, "Block not available (pruned data)"
		case param(1) == "0":
			var raw bytes.Buffer
			_ = block.Serialize(&raw)
			return fmt.Sprintf("%q", hex.EncodeToString(raw.Bytes())), 0, ""
		}
		var txs []string
		for _, tx := range block.Transactions {
			if param(1) == "1" {
				txs = append(txs, fmt.Sprintf("%q", tx.TxHash()))
			} else {
				txs = append(txs, n.decoded(tx, false, param(1) == "3" && n.undo != noUndo, true))
			}
		}
		return n.render("getblock.json", map[string]any{
			"Hash": block.BlockHash().String(), "Height": n.heights[block.BlockHash()], "Header": block.Header, "Merkle": block.Header.MerkleRoot.String(),
			"Time": block.Header.Timestamp.Unix(), "Confirmations": n.confirmations(block), "Size": block.SerializeSize(), "Txs": txs, "Previous": block.Header.PrevBlock.String(),
		}), 0, ""
	case "getindexinfo":
		if n.txIndex {
			return fmt.Sprintf(`{"txindex":{"synced":true,"best_block_height":%d}}`, len(n.blocks)-1), 0, ""
		}
		return "{}", 0, ""
	case "getrawtransaction":
		tx, block := n.findTx(param(0))
		for _, waiting := range n.mempool {
			if waiting.TxHash() == parseHash(param(0)) {
				return fmt.Sprintf("%q", hexOf(waiting)), 0, ""
			}
		}
		switch in := param(2); {
		case in != "" && n.find(in) == nil:
			return "", -5, "Block hash not found"
		case in != "" && n.gone(n.find(in)):
			return "", -1, "Block not available"
		case in != "" && block != n.find(in):
			return "", -5, "No such transaction found in the provided block. Use gettransaction for wallet transactions."
		case in == "" && !n.txIndex:
			return "", -5, "No such mempool transaction. Use -txindex to enable blockchain transaction queries. Use gettransaction for wallet transactions."
		case tx == nil:
			return "", -5, "No such mempool or blockchain transaction. Use gettransaction for wallet transactions."
		}
		if param(1) == "0" {
			var raw bytes.Buffer
			_ = tx.Serialize(&raw)
			return fmt.Sprintf("%q", hex.EncodeToString(raw.Bytes())), 0, ""
		}
		return n.decoded(tx, true, param(1) == "2" && (n.undo == inTx || n.undo == inPrevout), n.undo == inPrevout), 0, ""
	}
	return "", -32601, "Method not found"
}

// txOut is what gettxout tells of an output.
func (n *bchn) txOut(out wire.OutPoint) string {
	found := n.outputs[out]
	for _, tx := range n.mempool {
		if tx.TxHash() == out.Hash {
			found = tx.TxOut[out.Index]
		}
	}
	o := decodedOutput(found)
	answer := map[string]any{"value": json.Number(o.Value), "scriptPubKey": map[string]string{"hex": o.Script}}
	if o.Token != nil {
		data := map[string]any{"category": o.Token.Category, "amount": o.Token.Amount}
		if o.Token.NFT != nil {
			data["nft"] = map[string]string{"capability": o.Token.NFT.Capability, "commitment": o.Token.NFT.Commitment}
		}
		answer["tokenData"] = data
	}
	text, err := json.Marshal(answer)
	if err != nil {
		n.t.Error(err)
	}
	return string(text)
}

// unspent tells whether an output is there, and spent by none of the transactions.
func (n *bchn) unspent(out wire.OutPoint, mempool bool) bool {
	var waiting []*wire.MsgTx
	if mempool {
		waiting = n.mempool
	}
	ok := n.outputs[out] != nil
	for _, tx := range waiting {
		ok = ok || tx.TxHash() == out.Hash && int(out.Index) < len(tx.TxOut)
	}
	for _, block := range n.blocks {
		waiting = append(waiting, block.Transactions...)
	}
	return ok && !slices.ContainsFunc(waiting, func(tx *wire.MsgTx) bool {
		return slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool { return in.PreviousOutPoint == out })
	})
}

func (n *bchn) render(name string, values map[string]any) string {
	var out strings.Builder
	if err := n.templates.ExecuteTemplate(&out, name, values); err != nil {
		n.t.Errorf("%s: %v", name, err)
	}
	return out.String()
}

// output is an output as the node decodes it.
type output struct {
	Value  string
	Script string
	Token  *token
}

type token struct {
	Category, Amount string
	NFT              *nft
}

type nft struct{ Capability, Commitment string }

func decodedOutput(out *wire.TxOut) output {
	decoded := output{Value: fmt.Sprintf("%d.%08d", out.Value/1e8, out.Value%1e8), Script: hex.EncodeToString(out.PkScript)}
	if data := out.TokenData; !data.IsEmpty() {
		decoded.Token = &token{Category: chainhash.Hash(data.CategoryID).String(), Amount: fmt.Sprint(data.Amount)}
		if data.HasNFT() {
			decoded.Token.NFT = &nft{[]string{"none", "mutable", "minting"}[data.GetCapability()], hex.EncodeToString(data.Commitment)}
		}
	}
	return decoded
}

// decoded returns a transaction as the node decodes it: alone, or in its block.
func (n *bchn) decoded(tx *wire.MsgTx, alone, undo, prevout bool) string {
	type input struct {
		Script    string
		Coinbase  bool
		TxID      string
		Vout      uint32
		Sequence  uint32
		Height    int
		Generated bool
		Spent     output
	}
	var inputs []input
	for _, in := range tx.TxIn {
		next := input{
			Script: hex.EncodeToString(in.SignatureScript), TxID: in.PreviousOutPoint.Hash.String(), Vout: in.PreviousOutPoint.Index, Sequence: in.Sequence,
		}
		if out := n.outputs[in.PreviousOutPoint]; out != nil {
			next.Height, next.Spent = n.txs[in.PreviousOutPoint.Hash], decodedOutput(out)
			next.Generated = n.blocks[next.Height].Transactions[0].TxHash() == in.PreviousOutPoint.Hash
		} else {
			next.Coinbase = true
		}
		inputs = append(inputs, next)
	}
	var outputs []output
	for _, out := range tx.TxOut {
		outputs = append(outputs, decodedOutput(out))
	}
	values := map[string]any{
		"TxID": tx.TxHash().String(), "Version": tx.Version, "Size": tx.SerializeSize(), "Hex": hexOf(tx), "LockTime": tx.LockTime,
		"Inputs": inputs, "Outputs": outputs, "Undo": undo, "Prevout": prevout,
	}
	if alone {
		block := n.blocks[n.txs[tx.TxHash()]]
		values["Block"], values["Time"], values["Confirmations"] = block.BlockHash().String(), block.Header.Timestamp.Unix(), n.confirmations(block)
	}
	return n.render("getrawtransaction.json", values)
}

func (n *bchn) confirmations(block *wire.MsgBlock) int {
	return len(n.blocks) - n.heights[block.BlockHash()]
}

// garbage writes n spaces.
func garbage(w io.Writer, n int) {
	spaces := bytes.Repeat([]byte{' '}, 1<<20)
	for ; n > 0; n -= len(spaces) {
		if _, err := w.Write(spaces); err != nil {
			return
		}
	}
}
