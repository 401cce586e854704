package explorer

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// keyserverPage is the chains of anchors of a domain; without one it asks for it.
type keyserverPage struct {
	Domain string
	Chains []chainPage
	Page   string
}

func (e *Explorer) keyservers(q *request) error {
	if domain := strings.ToLower(strings.TrimSpace(q.URL.Query().Get("domain"))); domain != "" {
		q.redirect("/keyserver/" + url.PathEscape(domain) + q.speak().query)
		return nil
	}
	q.show("Keyservers", &keyserverPage{})
	return nil
}

func (e *Explorer) keyserver(q *request) error {
	data := &keyserverPage{Domain: q.path["domain"]}
	answer, err := e.Anchors.ListAnchorChains(q.Context(), &keytreev1.ListAnchorChainsRequest{
		Domain: data.Domain, AtHeight: q.asOf(), PageSize: entries, PageToken: q.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	q.called("/v1/anchors/chains", url.Values{"domain": {data.Domain}}, asOf)
	for _, c := range answer.Chains {
		data.Chains = append(data.Chains, *q.describe(c))
	}
	if answer.NextPageToken != "" {
		data.Page = q.pageURL("/keyserver/"+url.PathEscape(data.Domain), answer.NextPageToken)
	}
	q.follow(live{All: true})
	q.show("Keyserver "+data.Domain, data)
	return nil
}

// pageURL is the address of another page of a list.
func (q *request) pageURL(path, token string) string {
	query := url.Values{"page": {token}}
	if q.page.At != nil {
		query.Set("at", strconv.Itoa(int(*q.page.At)))
	}
	return path + "?" + query.Encode()
}

// chainPage is a chain of anchors.
type chainPage struct {
	Name    word
	TxID    string
	Domain  word
	State   words
	Count   uint32
	First   words
	Last    words
	Anchors []anchored
	Page    string
	Bundle  string
}

// anchored is an anchor in a list.
type anchored struct {
	Number   uint32
	Name     word
	Block    word
	Position uint64
	Head     string
	Author   words
}

// describe says how a chain of anchors stands.
func (q *request) describe(c *keytreev1.AnchorChain) *chainPage {
	s := q.speak()
	data := &chainPage{Name: s.chain(c.ChainTxHash), TxID: c.ChainTxHash, Domain: s.domain(c.Domain), Count: c.AnchorCount,
		Bundle: "/v1/anchors/chains/" + c.ChainTxHash + "/bundle"}
	if c.Genesis != nil {
		data.First = say("It begins in ", s.block(c.Genesis.Height), ", signed by ", s.author(c.Genesis), ".")
	}
	if c.Last != nil {
		data.Last = say("The last anchor commits to position ", c.Last.Position, ", in ", s.block(c.Last.Height), ", signed by ", s.author(c.Last), ".")
	}
	switch c.State {
	case "OPEN":
		data.State = say("It is open: nobody but who holds its baton can go on with it.")
	case "BROKEN":
		data.State = say("It was broken for good by ", s.anchor(c.BrokenByTxHash), " in ", s.block(c.BrokenHeight), ": ", broken(c.BreakReason), ".")
	}
	return data
}

// author names who signed an anchor, and who that was then.
func (s speaker) author(a *keytreev1.Anchor) words {
	if a.AuthorIdTxHash == "" {
		return say(s.key(a.AuthorAddress))
	}
	return say(s.key(a.AuthorAddress), " of identity ", s.identity(a.AuthorIdTxHash))
}

func (e *Explorer) chain(q *request) error {
	txid := strings.ToLower(q.path["txid"])
	c, err := e.Anchors.GetAnchorChain(q.Context(), &keytreev1.GetAnchorChainRequest{ChainTxHash: txid, AtHeight: q.asOf()})
	if err != nil {
		return err
	}
	q.called("/v1/anchors/chains/"+txid, nil, asOf)
	list, err := e.Anchors.ListAnchors(q.Context(), &keytreev1.ListAnchorsRequest{ChainTxHash: txid, AtHeight: q.asOf(), PageSize: entries, PageToken: q.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	q.called("/v1/anchors", url.Values{"chain_tx_hash": {txid}}, asOf)
	s, data := q.speak(), q.describe(c)
	for _, a := range list.Anchors {
		data.Anchors = append(data.Anchors, anchored{a.Number, s.anchor(a.TxHash), s.block(a.Height), a.Position, hex.EncodeToString(a.Head), s.author(a)})
	}
	if list.NextPageToken != "" {
		data.Page = q.pageURL("/chain/"+txid, list.NextPageToken)
	}
	q.follow(live{All: true})
	q.show("Chain of anchors "+ends(txid, 6, 4), data)
	return nil
}

// breaks says which chain of anchors a transaction broke, and how, if it is among the first changes of its block.
func (q *request) breaks(txid string, height uint32) (words, error) {
	list, err := q.explorer.Identities.ListEvents(q.Context(), &keytreev1.ListEventsRequest{FromHeight: &height, ToHeight: &height, PageSize: 1000})
	if err != nil {
		return nil, err
	}
	text := strconv.FormatUint(uint64(height), 10)
	q.called("/v1/events", url.Values{"from_height": {text}, "to_height": {text}}, fixed)
	for _, b := range list.Blocks {
		for _, event := range b.Events {
			if b.Type == "CONNECT" && event.Type == "ANCHOR_CHAIN_BROKEN" && event.TxHash == txid {
				return q.speak().event(event), nil
			}
		}
	}
	return nil, nil
}

// anchorPage is an anchor, or what broke a chain of them.
type anchorPage struct {
	TxID       string
	Is         bool // an anchor
	Commits    words
	Chain      words
	Author     words
	Head, Root string
	Breaks     words  // the chain that it broke, and how
	Time       string // of its block, as its miner says
	Where      words
	Missing    bool // it is not on the chain, but pending
}

func (e *Explorer) anchor(q *request) error {
	txid := strings.ToLower(q.path["txid"])
	t, err := e.Anchors.GetAnchor(q.Context(), &keytreev1.GetAnchorRequest{TxHash: txid, AtHeight: q.asOf(), Unconfirmed: q.now()})
	if err != nil {
		return err
	}
	q.called("/v1/anchors/txs/"+txid, nil, orNext)
	s := q.speak()
	data := &anchorPage{TxID: txid, Where: say("It is transaction ", t.TxIndex, " of ", s.block(t.Height), ".")}
	a := t.Anchor
	if list := t.GetUnconfirmed().GetAnchors(); a == nil && len(t.RawTx) == 0 && len(list) > 0 {
		a, data.Missing = list[0], true
	}
	if data.Is = a != nil; data.Is {
		data.Commits = say("It commits to position ", a.Position, " of a keyserver's hashchain that calls itself ", s.domain(a.Domain), ".")
		data.Chain = say("It is number ", a.Number, " of chain ", s.chain(a.ChainTxHash), ".")
		data.Author = say("It is signed by ", s.author(a), ".")
		data.Head, data.Root = hex.EncodeToString(a.Head), hex.EncodeToString(a.Root)
	}
	if len(t.BlockHeader) > 0 {
		header, err := protocol.ParseHeader(t.BlockHeader)
		if err != nil {
			return fmt.Errorf("the header of block %d: %w", t.Height, err)
		}
		data.Time = clock(header.Time)
	}
	if !data.Is {
		if data.Breaks, err = q.breaks(txid, t.Height); err != nil {
			return err
		}
	}
	q.follow(live{All: true})
	q.show("Anchor "+ends(txid, 6, 4), data)
	return nil
}
