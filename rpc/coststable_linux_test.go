package rpc_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// costs is the table of all questions that strangers can ask, and of what each may cost. The bounds are in words in
// cmd/keytree/OPERATING.md, "What one question may cost".
func costs(w *costWorlds) map[string]cost {
	middle, listener, giant := rpctest.Address("middle"), rpctest.Address("listener"), rpctest.Address("giant")
	deepest := rpctest.Address(named("path", w.path-1))
	id, pathID, busyID := txid("request child0"), txid("request path1"), txid("busy request beside 0.0")
	const all = "?page_size=1000"
	const before, supposed = all + "&at_height=0", all + "&unconfirmed=true"
	lone := (w.many + 49) / 50 // chains of one anchor that rpctest.Long makes besides
	page, supposedPage := min(1000, w.many), min(400, w.many)

	table := map[string]cost{
		// Identities.
		"GetStatus": little("counts and the tip, which are at hand"),
		"ResolveAddress": asked(
			w.crowd.get("/v1/addresses/"+deepest+"?at_height=0").as("before its whole way was cut"),
			w.supposed.get("/v1/addresses/"+deepest+"?unconfirmed=true").as("its whole way would be cut"),
		),
		"BatchResolve": asked(
			w.crowd.post("/v1/addresses:batchResolve", rpctest.Object{"addresses": w.addresses(), "at_height": 0}).as("before they were cut").of(w.batch),
			w.supposed.post("/v1/addresses:batchResolve", rpctest.Object{"addresses": w.addresses(), "unconfirmed": true}).as("all would be cut").of(w.batch),
		),
		"ResolveChanged": asked(
			w.crowd.post("/v1/addresses:changed", rpctest.Object{"addresses": w.addresses(), "since_height": 0, "since_hash": txid("0")}).as("all were cut").of(w.batch),
		),
		"GetIdentity": asked(
			w.crowd.get("/v1/identities/"+id+"?at_height=0").as("before all was cut"),
			w.supposed.get("/v1/identities/"+id+"?unconfirmed=true").as("all would be cut"),
		),
		"ListIdentityKeys": asked(
			w.crowd.get("/v1/identities/"+id+"/keys"+before).lists("keys", page, w.many+1).as("a star, before it was cut"),
			w.crowd.get("/v1/identities/"+pathID+"/keys"+before).lists("keys", 0, w.path).as("a path, before it was cut"),
			w.supposed.get("/v1/identities/"+id+"/keys"+supposed).lists("keys", page, w.many+1).as("all would be cut"),
		),
		"ListIdentityChanges": asked(
			w.moved.get("/v1/identities/"+busyID+"/changes"+all).lists("changes", min(1000, moves*w.stays), moves*w.stays),
			w.moved.get("/v1/identities/"+busyID+"/changes?parts=1000").as("an overview"),
		),
		"GetAction": asked(
			w.crowd.get("/v1/actions/"+txid("request shouter0")).as("with a message as long as a transaction"),
			w.supposed.get("/v1/actions/"+txid("request shouter0")+"?unconfirmed=true").as("such a one is pending"),
		),
		"ListAddressActions": asked(
			w.crowd.get("/v1/addresses/"+middle+"/actions"+all).lists("actions", page, 3*w.many),
			w.crowd.get("/v1/addresses/"+listener+"/actions"+all).lists("actions", 0, spoken).as("messages of 1 kB"),
			w.crowd.get("/v1/addresses/"+giant+"/actions"+all).lists("actions", 0, shouted).as("messages as long as transactions"),
			w.supposed.get("/v1/addresses/"+middle+"/actions"+supposed).lists("actions", supposedPage, 2*w.many).as("all would be cut"),
			w.supposed.get("/v1/addresses/"+listener+"/actions"+supposed).as("messages of 1 kB are pending"),
			w.supposed.get("/v1/addresses/"+giant+"/actions"+supposed).as("messages as long as transactions are pending"),
		),
		"ListAddressRequests": asked(
			w.crowd.get("/v1/addresses/"+middle+"/requests"+all+"&state=all").lists("requests", page, w.many),
			w.crowd.get("/v1/addresses/"+middle+"/requests"+all).lists("requests", 0, 0).as("none is open"),
			w.crowd.get("/v1/addresses/"+listener+"/requests"+all).lists("requests", 0, spoken).as("messages of 1 kB"),
			w.crowd.get("/v1/addresses/"+giant+"/requests"+all).lists("requests", 0, shouted).as("messages as long as transactions"),
			w.supposed.get("/v1/addresses/"+rpctest.Address("inbox")+"/requests"+supposed).lists("requests", supposedPage, w.many).as("others are pending"),
			w.supposed.get("/v1/addresses/"+middle+"/requests"+supposed+"&state=all").lists("requests", supposedPage, w.many).as("all would be cut"),
			w.supposed.get("/v1/addresses/"+listener+"/requests"+supposed).as("messages of 1 kB are pending"),
			w.supposed.get("/v1/addresses/"+giant+"/requests"+supposed).as("messages as long as transactions are pending"),
		),
		"ListAddressLinks": asked(
			w.crowd.get("/v1/addresses/"+middle+"/links"+before).lists("links", page, w.many).as("before they were cut"),
			w.supposed.get("/v1/addresses/"+middle+"/links"+supposed).lists("links", supposedPage, w.many).as("all would be cut"),
		),
		"ListMempool": asked(w.supposed.get("/v1/mempool"+all).lists("actions", 1000, w.pendingLimit())),
		"ListEvents": asked(
			w.crowd.get("/v1/events").lists("blocks", 0, 0),
			w.crowd.get("/v1/events?page_size=10000").lists("blocks", 0, 0).as("pages of more events").of(10_000),
		),
		"Watch":     little("it is Stream"),
		"Stream":    asked(w.crowd.get("/v1/stream?from_height=0").ofEach(`"type":`)),
		"StreamOf":  asked(w.crowd.post("/v1/stream", rpctest.Object{"addresses": w.addresses(), "from_height": 0}).as("for many addresses").of(w.transactions)),
		"GetExport": asked(w.crowd.get("/v1/export?count=100000").ofEach(`"type":`)),

		// State proofs.
		"ProveAddress": asked(
			w.proven.get("/v1/addresses/"+rpctest.Address(named("path", w.shown-1))+"/proof").as("records of a long way").of(min(10_000, w.shown)),
			w.proven.get("/v1/addresses/"+rpctest.Address("child0")+"/proof?at_height=1").as("keys of an older block's map, made again").of(w.shown+2*w.many).once(),
		),
		"ProveAddresses": asked(w.proven.post("/v1/addresses:prove", rpctest.Object{"addresses": w.provenAddresses()}).of(1000)),
		"ProveIdentity":  asked(w.proven.get("/v1/identities/" + pathID + "/proof")),

		// Anchors.
		"ListAnchorChains": asked(
			w.crowd.get("/v1/anchors/chains"+all+"&domain=example.org").lists("chains", page, w.many+1+lone),
			w.supposed.get("/v1/anchors/chains"+supposed+"&domain=example.org").as("others would begin"),
		),
		"GetAnchorChain": asked(w.supposed.get("/v1/anchors/chains/" + w.names["supposed chain"] + "?unconfirmed=true").as("it would go on")),
		"ListAnchors": asked(
			w.crowd.get("/v1/anchors"+all+"&domain=example.org").lists("anchors", page, 2*w.many+lone).as("each of a chain of its own"),
			w.crowd.get("/v1/anchors"+all+"&chain_tx_hash="+w.names["chain"]).lists("anchors", page, w.many).as("of a long chain"),
			w.supposed.get("/v1/anchors"+supposed+"&domain=example.org").as("others are pending"),
			w.supposed.get("/v1/anchors"+supposed+"&chain_tx_hash="+w.names["supposed chain"]).as("it would go on"),
		),
		"GetAnchor": asked(
			w.crowd.get("/v1/anchors/txs/"+w.names["last anchor"]).as("last of a block full of them"),
			w.crowd.get("/v1/anchors/txs/"+w.names["large"]).as("in a transaction as long as there are"),
			w.supposed.get("/v1/anchors/txs/"+w.names["pending anchor"]+"?unconfirmed=true").as("it is pending"),
		),
		"GetProofBundle": asked(w.crowd.get("/v1/anchors/chains/" + w.names["chain"] + "/bundle").of(w.many)),

		// Links, and signing in.
		"PrepareLink":     asked(w.supposed.postNew("/v1/links:prepare", w.toPrepare).as("coins in transactions as long as there are")),
		"SubmitLink":      asked(w.supposed.postNew("/v1/links:submit", w.toSubmit).as("signed for each of many coins")),
		"ChallengeSignIn": asked(w.supposed.postNew("/v1/signin:challenge", func() any { return w.toChallenge() })),
		"VerifySignIn":    asked(w.supposed.postNew("/v1/signin:verify", w.toVerify).as("by a key whose whole way would be cut")),

		// The keyserver, over REST and gRPC.
		"GetCapabilities": little("what the operator has set, and a key for each rotation of his"),
		"GetSignedHead":   little("a signature"),
		"ListEntries":     asked(w.kept.get("/v1/keyserver/entries?page_size=10000")),
		"StreamEntries":   little("it is FetchHashChain: 1,000 entries a message, and 10,000 are another call"),
		"GetInclusionProof": asked(
			w.kept.get("/v1/keyserver/proofs/inclusion?position=1"),
		),
		"GetConsistencyProof": asked(w.kept.get("/v1/keyserver/proofs/consistency?first_size=3")),
		"LookupUID": asked(
			w.kept.get("/v1/keyserver/identities/alice@example.org").as("the last entries of many").holds(`"earlier":true`),
			w.kept.get(fmt.Sprint("/v1/keyserver/identities/alice@example.org?last_position=", looked-keyserver.MaxPositions)).as("those before").holds(`"earlier":true`),
		),
		"FetchUID":     asked(w.kept.get("/v1/keyserver/messages/" + w.names["uid index"])),
		"CreateUID":    asked(w.kept.postNew("/v1/keyserver:createUID", func() any { return rpctest.Object{"uid_message": string(w.newUser().Canonical())} })),
		"UpdateUID":    asked(w.kept.postNew("/v1/keyserver:updateUID", func() any { return rpctest.Object{"uid_message": string(w.nextUser().Canonical())} })),
		"GetLink":      little("one record"),
		"AddKeyInit":   asked(w.kept.postNew("/v1/keyserver:addKeyInit", w.toAdd).of(keyserver.MaxKeyInitsPerCall)),
		"FetchKeyInit": asked(w.kept.postNew("/v1/keyserver:fetchKeyInit", func() any { return rpctest.Object{"sig_key_hash": w.sigKeyHash()} }).as("of as many as a key may have")),
		"FlushKeyInit": asked(w.kept.postNew("/v1/keyserver:flushKeyInit", w.toFlush).as("as many as a key may have").once()),

		// The keyserver's own wire.
		"KeyRepository.Capabilities":      little("it is GetCapabilities"),
		"KeyRepository.FetchUID":          little("it is FetchUID"),
		"KeyRepository.GetLink":           little("it is GetLink"),
		"KeyRepository.FetchHashChain":    little("it is KeyHashchain.FetchHashChain"),
		"KeyHashchain.FetchLastHashChain": asked(w.wire.calls("KeyHashchain.FetchLastHashChain", rpctest.Object{}, 100).of(100).as("a batch")),
		"KeyHashchain.FetchHashChain":     asked(w.wire.call("KeyHashchain.FetchHashChain", func() any { return rpctest.Object{"StartPosition": 0, "EndPosition": 1 << 40} }).ofEach(`","`)),
		"KeyHashchain.LookupUID":          asked(w.wire.call("KeyHashchain.LookupUID", func() any { return rpctest.Object{"Identity": "alice@example.org"} }).holds(`"HCEarlier":true`)),
		"KeyRepository.CreateUID":         asked(w.wire.call("KeyRepository.CreateUID", func() any { return rpctest.Object{"UIDMessage": w.newUser(), "Token": ""} })),
		"KeyRepository.UpdateUID":         asked(w.wire.call("KeyRepository.UpdateUID", func() any { return rpctest.Object{"UIDMessage": w.nextUser(), "Token": ""} })),
		"KeyInitRepository.AddKeyInit":    little("it is AddKeyInit"),
		"KeyInitRepository.FetchKeyInit":  little("it is FetchKeyInit"),
		"KeyInitRepository.FlushKeyInit":  little("it is FlushKeyInit"),
		"KeyInitRepository.CountKeyInit":  asked(w.wire.call("KeyInitRepository.CountKeyInit", w.toCount).as("as many as a key may have")),

		// Pages.
		"/":       asked(w.crowd.get("/"), w.supposed.get("/")),
		"/search": asked(w.supposed.get("/search?q=" + txid("request shouter0")).answers(303)),
		"/key/{address}": asked(
			w.crowd.get("/key/"+deepest+"?at=0").as("before its whole way was cut"),
			w.crowd.get("/key/"+giant).as("messages as long as transactions"),
			w.crowd.get("/key/"+listener).as("messages of 1 kB"),
			w.moved.get("/key/"+rpctest.Address("mover")).as("with a long past"),
			w.supposed.get("/key/"+deepest).as("its whole way would be cut"),
			w.supposed.get("/key/"+giant).as("messages as long as transactions are pending"),
		),
		"/identity/{id}": asked(
			w.crowd.get("/identity/"+id+"?at=0").as("of many keys, before they were cut"),
			w.crowd.get("/identity/"+pathID+"?at=0&below="+deepest).as("at the end of a path, before it was cut"),
			w.moved.get("/identity/"+busyID).as("of many changes"),
			w.moved.get(fmt.Sprint("/identity/", busyID, "?at=", moves*w.stays/2)).as("of many changes, in their midst"),
			w.supposed.get("/identity/"+id).as("all would be cut"),
		),
		"/action/{txid}": asked(
			w.crowd.get("/action/"+txid("request shouter0")).as("with a message as long as a transaction"),
			w.supposed.get("/action/"+txid("request shouter0")).as("such a one is pending"),
		),
		"/blocks": asked(w.crowd.get("/blocks")),
		"/block/{height}": asked(
			w.crowd.get("/block/0").as("of many events"),
			w.crowd.get("/block/3").as("of long messages"),
		),
		"/mempool":            asked(w.supposed.get("/mempool")),
		"/keyservers":         little("it asks nothing"),
		"/keyserver/{domain}": asked(w.crowd.get("/keyserver/example.org")),
		"/chain/{txid}":       asked(w.crowd.get("/chain/" + w.names["chain"])),
		"/anchor/{txid}": asked(
			w.crowd.get("/anchor/"+w.names["breaker"]).as("of what broke a chain, in a block in which many did"),
			w.crowd.get("/anchor/"+w.names["large"]).as("in a transaction as long as there are"),
		),
		"/status":          little("it is GetStatus"),
		"/explorer/{file}": little("files at hand"),
		"/connect": asked(
			w.supposed.get("/connect?request="+txid("request shouter0")).as("a long message is pending"),
			w.supposed.get("/connect?request="+txid("request person")).as("by a key whose whole way would be cut"),
		),
		"/connect/revoke":       asked(w.supposed.get("/connect/revoke?accept=" + txid("accept person")).as("by a key whose whole way would be cut")),
		"/connect/files/{file}": little("files at hand"),

		// What servers have besides.
		"GetHealth": little("no question"), "GetReadiness": little("how the parts are, which is at hand"), "GetPartReadiness": little("it is GetReadiness"),
		"GetOpenAPI": little("a file at hand"), "GetDocs": little("a file at hand"), "GetDocsFile": little("files at hand"), "GetKeytreeJS": little("a file at hand"),
		"grpc.health.v1.Health/Check": little("it is GetReadiness"), "grpc.health.v1.Health/List": little("it is GetReadiness"),
		"grpc.health.v1.Health/Watch":                                   little("it is GetReadiness, and again when that changes"),
		"grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      little("a stream of descriptions that are at hand; each question counts as a call"),
		"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": little("it is that of v1"),
		"a checkpoint of a log":                                         little("it is at hand"),
		"a tile of a log":                                               asked(w.wire.get("/keytree/"+w.names["tile"]).as("of hashes"), w.wire.get("/keytree/"+w.names["bundle"]).as("of entries")),
		"a checkpoint to be cosigned":                                   little("a signature of the log that it names, and 63 hashes, in 68 kB at most"),
	}
	return table
}

// elsewhere are the questions of costs that no list of a server has: what is below /keytree/ and /state/.
func elsewhere() []string {
	return []string{"a checkpoint of a log", "a tile of a log", "a checkpoint to be cosigned"}
}

// txid is that of the transaction of a name, in hex.
func txid(name string) string { return rpctest.HashOf(name).String() }

// addresses are those of a batch, of the path and of the star.
func (w *costWorlds) addresses() (list []string) {
	for n := range w.batch {
		if n < w.path {
			list = append(list, rpctest.Address(named("path", n)))
		} else {
			list = append(list, rpctest.Address(named("child", n-w.path)))
		}
	}
	return list
}

// provenAddresses are as many as a proof may be about, whose records are as many as it may show.
func (w *costWorlds) provenAddresses() (list []string) {
	for n := range 1000 {
		list = append(list, rpctest.Address(named("path", w.shown-1-n)))
	}
	return list
}

// toPrepare is a request whose coins have to be read.
func (w *costWorlds) toPrepare() any {
	var coins []rpctest.Object
	for _, out := range w.wallet.outs {
		coins = append(coins, rpctest.Object{"tx_hash": out.Hash.String(), "output_index": out.Index, "value_satoshi": fmt.Sprint(coinValue)})
	}
	return rpctest.Object{"kind": "MLR", "author_address": w.wallet.key.Address, "parent_address": rpctest.Address(named("path", w.path-1)), "coins": coins, "fee_rate": 65}
}

// toSubmit is a signed transaction that spends as many coins as it may have bytes for.
func (w *costWorlds) toSubmit() any {
	return rpctest.Object{"signed_transaction": hex.EncodeToString(w.wallet.signed)}
}

func (w *costWorlds) toChallenge() rpctest.Object {
	w.challenges++ // else it is the same within a second
	return rpctest.Object{"domain": "example.org", "uri": fmt.Sprint("https://example.org/login?", w.challenges), "address": w.person.Address, "allow_long": true}
}

// toVerify is an answer to a challenge of its own.
func (w *costWorlds) toVerify() any {
	text := w.challenge()
	return rpctest.Object{"message": text, "signature": w.person.Sign(w.t, text), "domain": "example.org", "allow_long": true}
}

// newUser is the first message of an identity.
func (w *costWorlds) newUser() *uid.Message {
	w.users++
	return rpctest.NewMessage(fmt.Sprint("user", letters(w.users), "@example.org"), w.entry, rpctest.NewKey(1), time.Now())
}

// nextUser is the next message of the first one, which keeps its key.
func (w *costWorlds) nextUser() *uid.Message {
	w.user = rpctest.NextMessage(w.user, rpctest.NewKey(1), rpctest.NewKey(1))
	return w.user
}

func (w *costWorlds) toAdd() any {
	w.forget()
	w.held = keyserver.MaxKeyInitsPerCall
	var texts []string
	for _, k := range w.keyInits(keyserver.MaxKeyInitsPerCall) {
		texts = append(texts, string(k.Canonical()))
	}
	return rpctest.Object{"sig_pub_key": []byte(rpctest.Public(rpctest.NewKey(1))), "key_inits": texts, "tokens": make([]string, len(texts))}
}

func (w *costWorlds) sigKeyHash() []byte {
	w.refill()
	w.held-- // it may be used up
	hash := uid.SigKeyHash(rpctest.Public(rpctest.NewKey(1)))
	return hash[:]
}

func (w *costWorlds) toFlush() any {
	w.refill()
	w.held = 0
	nonce := uint64(time.Now().Unix())
	signature, err := canonical.Decode(keyinit.SignFlush(nonce, rpctest.NewKey(1)), -1)
	if err != nil {
		w.t.Fatal(err)
	}
	return rpctest.Object{"sig_pub_key": []byte(rpctest.Public(rpctest.NewKey(1))), "nonce": fmt.Sprint(nonce), "signature": base64.StdEncoding.EncodeToString(signature)}
}

func (w *costWorlds) toCount() any {
	w.refill()
	nonce := uint64(time.Now().Unix())
	return rpctest.Object{"SigPubKey": canonical.Encode(rpctest.Public(rpctest.NewKey(1))), "Nonce": nonce, "Signature": keyinit.SignCount(nonce, rpctest.NewKey(1))}
}
