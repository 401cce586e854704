package links_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/links"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// world is a node and an index, in which a key has coins. It is for one goroutine.
type world struct {
	t     *testing.T
	key   *regtest.Key
	txs   map[chainhash.Hash][]byte
	spent map[wire.OutPoint]bool
	asked int // how often for the coins of an address
	sent  [][]byte

	plain, baton, token, other wire.OutPoint

	actions map[string]*keytreev1.Action
}

// Coins implements coins.Source.
func (w *world) Coins(_ context.Context, key protocol.KeyHash) ([]coins.Coin, error) {
	w.asked++
	return []coins.Coin{
		{UTXO: protocol.UTXO{OutPoint: w.plain, Value: 10_000, Script: w.key.Script()}, Height: 5},
		{UTXO: protocol.UTXO{OutPoint: w.baton, Value: 10_000, Script: w.key.Script()}, Height: 5},
	}, nil
}

// Transaction implements coins.Source.
func (w *world) Transaction(_ context.Context, txid chainhash.Hash) ([]byte, error) {
	if raw, ok := w.txs[txid]; ok {
		return raw, nil
	}
	return nil, node.ErrNotFound
}

// Unspent implements coins.Source.
func (w *world) Unspent(_ context.Context, out wire.OutPoint) (bool, error) {
	_, ok := w.txs[out.Hash]
	return ok && !w.spent[out], nil
}

// Submit implements coins.Sender.
func (w *world) Submit(_ context.Context, raw []byte) error {
	w.sent = append(w.sent, raw)
	w.txs[chainhash.DoubleHashH(raw)] = raw
	return nil
}

// Status implements linkcheck.Server.
func (w *world) Status(context.Context) (*keytreev1.GetStatusResponse, error) {
	return &keytreev1.GetStatusResponse{Network: "regtest", Synced: true}, nil
}

// Resolve implements linkcheck.Server.
func (w *world) Resolve(_ context.Context, address string) (*keytreev1.Resolution, error) {
	return &keytreev1.Resolution{MainAddress: address}, nil
}

// Action implements linkcheck.Server.
func (w *world) Action(_ context.Context, txid string) (*keytreev1.Action, error) {
	if a, ok := w.actions[txid]; ok {
		return a, nil
	}
	return nil, status.Error(codes.NotFound, "no such action")
}

// Pending implements linkcheck.Server.
func (w *world) Pending(context.Context, string) (*keytreev1.Action, error) {
	return nil, status.Error(codes.NotFound, "no such action is pending")
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, key: regtest.NewKey(), txs: make(map[chainhash.Hash][]byte), spent: make(map[wire.OutPoint]bool), actions: make(map[string]*keytreev1.Action),
	}
	record, err := (&protocol.Anchor{Domain: "keys.example.org"}).Script()
	if err != nil {
		t.Fatal(err)
	}
	token := w.key.Output(10_000)
	token.TokenData = wire.TokenData{CategoryID: chainhash.Hash{7}, BitField: wire.HAS_AMOUNT, Amount: 7}
	w.plain = w.pay(w.key.Output(10_000), []byte{0x6a})
	w.baton = w.pay(w.key.Output(10_000), record)
	w.token = w.pay(token, []byte{0x6a})
	w.other = w.pay(regtest.NewKey().Output(10_000), []byte{0x6a})
	return w
}

// pay adds a transaction, and returns its output 0.
func (w *world) pay(output *wire.TxOut, record []byte) wire.OutPoint {
	w.t.Helper()
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{byte(len(w.txs) + 1)}}, nil))
	tx.AddTxOut(output)
	tx.AddTxOut(wire.NewTxOut(0, record, wire.TokenData{}))
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		w.t.Fatal(err)
	}
	w.txs[tx.TxHash()] = raw.Bytes()
	return wire.OutPoint{Hash: tx.TxHash()}
}

func (w *world) service(indexed bool) *links.Service {
	return links.New(links.Config{
		Net: regtest.Params, Server: w, Log: zerolog.Nop(),
		Dial: func(context.Context) (*links.Access, error) {
			return &links.Access{Wallet: w, Indexed: indexed, Close: func() error { return nil }}, nil
		},
	})
}

// named names a coin.
func named(out wire.OutPoint) []*keytreev1.LinkCoin {
	return []*keytreev1.LinkCoin{{TxHash: out.Hash.String(), OutputIndex: out.Index, ValueSatoshi: 10_000}}
}

// someTxID is the request of the tests.
var someTxID = strings.Repeat("ab", 32)

// accept asks for an accept of someTxID, with a coin.
func (w *world) accept(out wire.OutPoint) *keytreev1.PrepareLinkRequest {
	return &keytreev1.PrepareLinkRequest{Kind: "MLA", AuthorAddress: w.key.Address(), RefTxHash: someTxID, Coins: named(out)}
}

// request is a link request to the key in the index.
func (w *world) request() *keytreev1.Action {
	return &keytreev1.Action{
		TxHash: someTxID, Kind: "MLR", State: "OPEN", ParentAddress: w.key.Address(), ChildAddress: regtest.NewKey().Address(), Message: "memo.cash\u202e",
	}
}

// TestPrepare looks at what a wallet is asked, and at the facts.
func TestPrepare(t *testing.T) {
	w := newWorld(t)
	w.actions[someTxID] = w.request()
	answer, err := w.service(false).PrepareLink(t.Context(), w.accept(w.plain))
	if err != nil {
		t.Fatal(err)
	}
	facts := answer.Facts
	if facts.Kind != "MLA" || facts.Expected != "IN_FORCE" || facts.CounterpartAddress != w.actions[someTxID].ChildAddress || facts.FeeSatoshi != 231 || facts.ChangeSatoshi != 9769 ||
		facts.Says != `calls itself "memo.cash?" (unverified)` {
		t.Errorf("the facts are %v", facts)
	}
	text, err := answer.Params.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if prepared, err := signing.ReadPrepared(text); err != nil || prepared.TxIn[0].PreviousOutPoint != w.plain {
		t.Errorf("a wallet is asked %s (%v)", text, err)
	}
	fields := answer.Params.GetStructValue().GetFields()
	if prompt := fields["userPrompt"].GetStringValue(); prompt != "Accept "+facts.CounterpartAddress+` into your identity (MIP-0003 link accept). It calls itself "memo.cash?" (unverified). Fee 231 sat.` {
		t.Errorf("the prompt is %s", prompt)
	}
	if w.asked > 0 {
		t.Error("the node was asked for the coins of an address, although they were named")
	}

	w.actions[someTxID].ParentAddress = regtest.NewKey().Address()
	if answer, err := w.service(false).PrepareLink(t.Context(), w.accept(w.plain)); err != nil || answer.Facts.Expected != "NOT_THE_PARENT" {
		t.Errorf("of what would be refused: %v, %v", answer, err)
	}
	unnamed := w.accept(w.plain)
	unnamed.Coins, unnamed.Format = nil, "hex"
	if answer, err := w.service(true).PrepareLink(t.Context(), unnamed); err != nil || w.asked != 1 || !strings.Contains(answer.Params.GetStringValue(), "6a026d2120") {
		t.Errorf("with an index of addresses: %v, %v", answer, err)
	}
	wizard := w.accept(w.plain)
	wizard.Format, wizard.KeyPath = "wizardconnect", "receive/5"
	if answer, err := w.service(false).PrepareLink(t.Context(), wizard); err != nil || len(answer.Params.GetStructValue().GetFields()["inputPaths"].GetListValue().GetValues()) != 1 {
		t.Errorf("for WizardConnect: %v, %v", answer, err)
	}
}

// TestPrepareRefuses has one case for each thing that is refused. No stranger has the node
// scan.
func TestPrepareRefuses(t *testing.T) {
	w := newWorld(t)
	w.actions[someTxID] = w.request()
	gone := w.pay(w.key.Output(10_000), []byte{0x6a})
	w.spent[gone] = true
	with := func(change func(r *keytreev1.PrepareLinkRequest)) *keytreev1.PrepareLinkRequest {
		r := w.accept(w.plain)
		change(r)
		return r
	}
	for name, test := range map[string]struct {
		request *keytreev1.PrepareLinkRequest
		code    codes.Code
		want    string
	}{
		"no coins":        {with(func(r *keytreev1.PrepareLinkRequest) { r.Coins = nil }), codes.FailedPrecondition, "name the coins"},
		"a baton":         {w.accept(w.baton), codes.InvalidArgument, "the baton"},
		"a token":         {w.accept(w.token), codes.InvalidArgument, "tokens"},
		"a stranger's":    {w.accept(w.other), codes.InvalidArgument, "does not belong"},
		"a spent one":     {w.accept(gone), codes.InvalidArgument, "is spent"},
		"none":            {w.accept(wire.OutPoint{Hash: chainhash.Hash{9}}), codes.InvalidArgument, "not there"},
		"another value":   {with(func(r *keytreev1.PrepareLinkRequest) { r.Coins[0].ValueSatoshi++ }), codes.InvalidArgument, "holds 10000"},
		"a negative one":  {with(func(r *keytreev1.PrepareLinkRequest) { r.Coins[0].ValueSatoshi = -1 }), codes.InvalidArgument, "coins"},
		"too many":        {with(func(r *keytreev1.PrepareLinkRequest) { r.Coins = make([]*keytreev1.LinkCoin, 101) }), codes.InvalidArgument, "up to 100"},
		"twice":           {with(func(r *keytreev1.PrepareLinkRequest) { r.Coins = append(r.Coins, r.Coins...) }), codes.InvalidArgument, "given twice"},
		"not enough":      {with(func(r *keytreev1.PrepareLinkRequest) { r.FeeRate = 1000 }), codes.FailedPrecondition, "insufficient funds"},
		"the rate":        {with(func(r *keytreev1.PrepareLinkRequest) { r.FeeRate = 1001 }), codes.InvalidArgument, "fee_rate"},
		"the kind":        {with(func(r *keytreev1.PrepareLinkRequest) { r.Kind = "MLB" }), codes.InvalidArgument, "kind"},
		"the author":      {with(func(r *keytreev1.PrepareLinkRequest) { r.AuthorAddress = "" }), codes.InvalidArgument, "author_address"},
		"the parent":      {with(func(r *keytreev1.PrepareLinkRequest) { r.Kind = "MLR" }), codes.InvalidArgument, "parent_address"},
		"the reference":   {with(func(r *keytreev1.PrepareLinkRequest) { r.RefTxHash = "ab" }), codes.InvalidArgument, "ref_tx_hash"},
		"no such request": {with(func(r *keytreev1.PrepareLinkRequest) { r.RefTxHash = strings.Repeat("cd", 32) }), codes.NotFound, "ref_tx_hash"},
		"the message":     {with(func(r *keytreev1.PrepareLinkRequest) { r.Message = strings.Repeat("x", 185) }), codes.InvalidArgument, "message"},
		"the format":      {with(func(r *keytreev1.PrepareLinkRequest) { r.Format = "psbt" }), codes.InvalidArgument, "format"},
		"no path":         {with(func(r *keytreev1.PrepareLinkRequest) { r.Format = "wizardconnect" }), codes.InvalidArgument, "key_path"},
		"a path":          {with(func(r *keytreev1.PrepareLinkRequest) { r.KeyPath = "receive/5" }), codes.InvalidArgument, "key_path"},
	} {
		_, err := w.service(false).PrepareLink(t.Context(), test.request)
		if status.Code(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %v with %q", name, err, test.code, test.want)
		}
	}
	if w.asked > 0 {
		t.Errorf("the node was asked %d times for the coins of an address", w.asked)
	}
}

// signed makes a transaction that spends coins of the key, with scripts beside the change,
// and signs it.
func (w *world) signed(hashType txscript.SigHashType, out wire.OutPoint, scripts ...[]byte) string {
	w.t.Helper()
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&out, nil))
	tx.AddTxOut(w.key.Output(9000))
	for _, script := range scripts {
		tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	}
	coin := regtest.Coin{OutPoint: out, Output: *w.key.Output(10_000)}
	unlock, err := w.key.Sign(tx, 0, coin, hashType)
	if err != nil {
		w.t.Fatal(err)
	}
	tx.TxIn[0].SignatureScript = unlock
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		w.t.Fatal(err)
	}
	return hex.EncodeToString(raw.Bytes())
}

// TestSubmit sends what is good, and nothing else.
func TestSubmit(t *testing.T) {
	w := newWorld(t)
	request, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	self, err := protocol.RequestScript(w.key.Hash(), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := w.signed(txscript.SigHashAll, w.plain, request)
	for name, test := range map[string]struct {
		tx   string
		code codes.Code
		want string
	}{
		"no hex":           {"x", codes.InvalidArgument, "hex"},
		"no transaction":   {"00", codes.InvalidArgument, "malformed"},
		"too large":        {w.signed(txscript.SigHashAll, w.plain, request, append([]byte{0x6a}, make([]byte, signing.MaxSize)...)), codes.InvalidArgument, "10000 bytes"},
		"no action":        {w.signed(txscript.SigHashAll, w.plain), codes.InvalidArgument, "exactly one action"},
		"two actions":      {w.signed(txscript.SigHashAll, w.plain, request, request), codes.InvalidArgument, "exactly one action"},
		"malformed":        {w.signed(txscript.SigHashAll, w.plain, request[:10]), codes.InvalidArgument, "MLR"},
		"a baton":          {w.signed(txscript.SigHashAll, w.baton, request), codes.InvalidArgument, "the baton"},
		"a token":          {w.signed(txscript.SigHashAll, w.token, request), codes.InvalidArgument, "tokens"},
		"no coin":          {w.signed(txscript.SigHashAll, wire.OutPoint{Hash: chainhash.Hash{9}}, request), codes.InvalidArgument, "not there"},
		"another's coin":   {w.signed(txscript.SigHashAll, w.other, request), codes.InvalidArgument, "signature"},
		"ANYONECANPAY":     {w.signed(txscript.SigHashAll|txscript.SigHashAnyOneCanPay, w.plain, request), codes.InvalidArgument, "signature"},
		"NONE":             {w.signed(txscript.SigHashNone, w.plain, request), codes.InvalidArgument, "signature"},
		"another satoshi":  {strings.Replace(good, "2823", "2723", 1), codes.InvalidArgument, "signature"},
		"would be refused": {w.signed(txscript.SigHashAll, w.plain, self), codes.FailedPrecondition, "SELF_LINK"},
	} {
		_, err := w.service(false).SubmitLink(t.Context(), &keytreev1.SubmitLinkRequest{SignedTransaction: test.tx})
		if status.Code(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %v with %q", name, err, test.code, test.want)
		}
	}
	if len(w.sent) > 0 {
		t.Fatalf("%d transactions were sent", len(w.sent))
	}
	s := w.service(false)
	for known := range 2 {
		answer, err := s.SubmitLink(t.Context(), &keytreev1.SubmitLinkRequest{SignedTransaction: good})
		if err != nil || answer.Known != (known > 0) || answer.Kind != "MLR" || len(w.sent) != 1 || answer.TxHash != chainhash.DoubleHashH(w.sent[0]).String() {
			t.Errorf("sent, known: %v: got %v, %v", known > 0, answer, err)
		}
	}
	if _, err := s.SubmitLink(t.Context(), &keytreev1.SubmitLinkRequest{SignedTransaction: w.signed(txscript.SigHashAll, w.plain, self), Force: true}); err != nil || len(w.sent) != 2 {
		t.Errorf("forced: got %v", err)
	}
	// What the node has forgotten the index knows.
	mined := w.signed(txscript.SigHashAll, wire.OutPoint{Hash: chainhash.Hash{9}}, request)
	raw, _ := hex.DecodeString(mined)
	txid := chainhash.DoubleHashH(raw).String()
	w.actions[txid] = &keytreev1.Action{TxHash: txid, Kind: "MLR"}
	if answer, err := s.SubmitLink(t.Context(), &keytreev1.SubmitLinkRequest{SignedTransaction: mined}); err != nil || !answer.Known {
		t.Errorf("what is mined: got %v, %v", answer, err)
	}
}

// TestLongTransactions names coins of transactions as long as there are: they are not all read.
func TestLongTransactions(t *testing.T) {
	w := newWorld(t)
	s := w.service(false)
	var coins []*keytreev1.LinkCoin
	for range 20 {
		long := append([]byte{txscript.OP_RETURN}, make([]byte, 980_000)...)
		coins = append(coins, named(w.pay(w.key.Output(10_000), long))...)
	}
	for few, want := range map[int]codes.Code{16: codes.OK, 20: codes.FailedPrecondition} {
		_, err := s.PrepareLink(t.Context(), &keytreev1.PrepareLinkRequest{
			Kind: "MLR", AuthorAddress: w.key.Address(), ParentAddress: regtest.NewKey().Address(), Coins: coins[:few]})
		if status.Code(err) != want || err != nil && !strings.Contains(err.Error(), "take fewer coins") {
			t.Errorf("%d coins in transactions of 1 MB: %v, want %v", few, err, want)
		}
	}
}

// TestRates refuses who asks too often, and says that there is nobody to ask.
func TestRates(t *testing.T) {
	w := newWorld(t)
	s := w.service(false)
	var err error
	for range 100 {
		if _, err = s.PrepareLink(t.Context(), w.accept(w.baton)); status.Code(err) == codes.ResourceExhausted {
			break
		}
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a hundred calls at once: %v", err)
	}
	if _, err := s.SubmitLink(t.Context(), &keytreev1.SubmitLinkRequest{SignedTransaction: w.signed(txscript.SigHashAll, w.plain)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("and one more: %v", err)
	}
	alone := links.New(links.Config{Net: regtest.Params, Server: w, Log: zerolog.Nop()})
	if _, err := alone.PrepareLink(t.Context(), w.accept(w.plain)); status.Code(err) != codes.Unavailable {
		t.Errorf("without a node: %v", err)
	}
}
