package explorer

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// How much the pages hold.
const (
	entries    = 50 // of a list on a page
	recent     = 12 // blocks that are looked through for what is new
	shownInOne = 8  // changes of one of those, or of a block that changed an identity
)

// templateOf is the file that shows what a page holds.
func templateOf(data any) string {
	switch data.(type) {
	case *homePage:
		return "home.html"
	case *keyPage:
		return "key.html"
	case *identityPage:
		return "identity.html"
	case *actionPage:
		return "action.html"
	case *blocksPage:
		return "blocks.html"
	case *blockPage:
		return "block.html"
	case *mempoolPage:
		return "mempool.html"
	case *keyserverPage:
		return "keyserver.html"
	case *chainPage:
		return "chain.html"
	case *anchorPage:
		return "anchor.html"
	case *statusPage:
		return "status.html"
	}
	return "failure.html"
}

// pending is what would differ if what is pending were in the next block.
type pending struct {
	Reason  string // why it is not known
	By      []pendingTx
	More    bool
	Changes []words
}

type pendingTx struct {
	Action      word
	DoubleSpend bool
	Ago         string
}

// supposed says what an answer has beside it of what is pending; nil if nothing would differ.
func (q *request) supposed(u *keytreev1.Unconfirmed) *pending {
	if u == nil || u.Available && !u.Differs {
		return nil
	}
	if !u.Available {
		return &pending{Reason: u.Reason}
	}
	p := &pending{More: u.More}
	for _, by := range u.By {
		p.By = append(p.By, q.pendingTx(by))
	}
	return p
}

func (q *request) pendingTx(t *keytreev1.PendingTransaction) pendingTx {
	p := pendingTx{Action: q.speak().action(t.GetTxHash()), DoubleSpend: t.GetDoubleSpend()}
	if t.GetSeenAgo() > 0 || t != nil && t.SeenAgo != nil {
		p.Ago = ago(t.GetSeenAgo())
	}
	return p
}

// ago says how long ago something was.
func ago(seconds uint32) string {
	switch {
	case seconds < 2:
		return "just now"
	case seconds < 120:
		return strconv.Itoa(int(seconds)) + " seconds ago"
	case seconds < 2*60*60:
		return strconv.Itoa(int(seconds/60)) + " minutes ago"
	}
	return strconv.Itoa(int(seconds/3600)) + " hours ago"
}

// homePage is where one begins.
type homePage struct {
	Counts  *keytreev1.Counts
	Blocks  []blockPage
	Mempool *keytreev1.Mempool
}

func (e *Explorer) home(q *request) error {
	q.page.At = nil
	q.called("/v1/status", nil, fixed)
	st := q.status
	data := &homePage{Counts: st.Counts, Mempool: st.Mempool}
	if st.TipHash != "" {
		var err error
		if data.Blocks, err = q.latest(st.TipHeight); err != nil {
			return err
		}
	}
	q.follow(live{All: true})
	q.show("", data)
	return nil
}

// latest lists the last blocks up to one, the newest first.
func (q *request) latest(upTo uint32) ([]blockPage, error) {
	from := max(q.status.StartHeight, upTo-min(upTo, recent-1))
	var list []blockPage
	for height := upTo; ; height-- {
		b, err := q.readBlock(height, shownInOne, "")
		if err != nil {
			return nil, err
		}
		if list = append(list, *b); height == from {
			break
		}
	}
	q.called("/v1/events", url.Values{"from_height": {strconv.Itoa(int(from))}, "to_height": {strconv.Itoa(int(upTo))}}, fixed)
	return list, nil
}

// blocksPage is a list of blocks.
type blocksPage struct {
	Blocks []blockPage
	Older  string
	Newer  string
}

func (e *Explorer) blocks(q *request) error {
	st, data := q.status, new(blocksPage)
	if st.TipHash != "" {
		var err error
		upTo := min(q.page.AsOf, st.TipHeight)
		if upTo < st.StartHeight {
			return fault.Field(codes.OutOfRange, "at", "expected a block from %d on, the first that is indexed, got %d", st.StartHeight, upTo)
		}
		if data.Blocks, err = q.latest(upTo); err != nil {
			return err
		}
		if last := data.Blocks[len(data.Blocks)-1].Height; last > st.StartHeight {
			data.Older = "/blocks?at=" + strconv.Itoa(int(last-1))
		}
		if upTo < st.TipHeight {
			data.Newer = "/blocks?at=" + strconv.Itoa(int(min(upTo+recent, st.TipHeight)))
		}
	}
	q.follow(live{All: true})
	q.show("Blocks", data)
	return nil
}

// blockPage is a block and what it changed.
type blockPage struct {
	Height                     uint32
	Name                       word
	Hash, StateHash, StateRoot string
	Time                       string // by its miner's clock
	Previous, Next             string
	Events                     []words
	More                       bool
	Page                       string // where its list goes on
}

// readBlock reads what a block changed, up to so many changes.
func (q *request) readBlock(height uint32, most uint32, token string) (*blockPage, error) {
	answer, err := q.explorer.Identities.ListEvents(q.Context(), &keytreev1.ListEventsRequest{
		FromHeight: &height, ToHeight: &height, PageSize: most, PageToken: token})
	if err != nil {
		return nil, err
	}
	s := q.speak()
	data := &blockPage{Height: height, Name: speaker{tip: height}.block(height), Page: answer.NextPageToken}
	for _, b := range answer.Blocks {
		if b.Type != "CONNECT" {
			continue // a block that was on the chain before
		}
		data.Hash, data.StateHash, data.StateRoot, data.Time, data.More = b.Hash, b.StateHash, b.StateRoot, clock(b.Time), b.More
		for _, event := range b.Events {
			data.Events = append(data.Events, s.event(event))
		}
	}
	return data, nil
}

func (e *Explorer) block(q *request) error {
	height, err := parseHeight(q.path["height"])
	if err != nil {
		return err
	}
	if height > q.page.Tip || q.status.TipHash == "" {
		return q.notThere(height)
	}
	data, err := q.readBlock(height, entries, q.URL.Query().Get("page"))
	if err != nil {
		return err
	}
	text := strconv.Itoa(int(height))
	q.called("/v1/events", url.Values{"from_height": {text}, "to_height": {text}}, fixed)
	if height > 0 {
		data.Previous = "/block/" + strconv.Itoa(int(height-1))
	}
	if height < q.page.Tip {
		data.Next = "/block/" + strconv.Itoa(int(height+1))
	}
	if data.Page != "" {
		data.Page = "/block/" + text + "?page=" + url.QueryEscape(data.Page)
	}
	q.page.Live = live{All: true}
	q.show("Block "+text, data)
	return nil
}

// notThere says that a block is not on the chain yet, or not any more.
func (q *request) notThere(height uint32) error {
	return status.Errorf(codes.NotFound, "Block %d is not there: the last one is %d.", height, q.page.Tip)
}

// keyPage is a key: who it is, what it has been asked, what it did.
type keyPage struct {
	Address  string
	Who      words
	Way      []word // from the root down to the key
	Past     *past
	Links    *tree
	Requests []requested
	MoreAsks bool
	Actions  []acted
	Page     string
	Pending  *pending
	Proof    *proof
}

// requested is a link request that a key was asked.
type requested struct {
	Line    words
	Message string
}

// acted is an action by or about a key.
type acted struct {
	Block   word
	Name    word
	Does    words
	Outcome words
	Message string
}

func (e *Explorer) key(q *request) error {
	address := q.path["address"]
	r, err := e.Identities.ResolveAddress(q.Context(), &keytreev1.ResolveAddressRequest{Address: address, AtHeight: q.asOf(), Unconfirmed: q.now()})
	if err != nil {
		return err
	}
	if r.Address != address && !q.URL.Query().Has("page") {
		q.redirect("/key/" + url.PathEscape(r.Address) + q.speak().query)
		return nil
	}
	q.called("/v1/addresses/"+r.Address, nil, orNext)
	s := q.speak()
	data := &keyPage{Address: r.Address, Who: s.who(r), Way: q.wayOf(r)}
	if data.Past, err = q.pastOf(r); err != nil {
		return err
	}
	if data.Pending = q.supposed(r.Unconfirmed); data.Pending != nil && r.Unconfirmed.GetResolution() != nil {
		data.Pending.Changes = append(data.Pending.Changes, s.would(s.who(r.Unconfirmed.Resolution)))
	}
	data.Proof = q.proofOfKey(r)
	if r.IdTxHash != "" {
		if data.Links, err = q.branch(r.IdTxHash, r.Address, ""); err != nil {
			return err
		}
	}
	asked, err := e.Identities.ListAddressRequests(q.Context(), &keytreev1.ListAddressRequestsRequest{Address: r.Address, AtHeight: q.asOf(), PageSize: 10, Unconfirmed: q.now()})
	if err != nil {
		return err
	}
	q.called("/v1/addresses/"+r.Address+"/requests", nil, orNext)
	for _, one := range asked.GetUnconfirmed().GetRequests() {
		if one.Pending != nil {
			data.Requests = append(data.Requests, requested{say("Pending: ", s.key(one.ChildAddress), " asks by ", s.action(one.TxHash), "."), theirs(one.Message)})
		}
	}
	for _, one := range asked.Requests {
		data.Requests = append(data.Requests, requested{say(s.key(one.ChildAddress), " asks by ", s.action(one.TxHash), " since ", s.block(one.Height), "."), theirs(one.Message)})
	}
	data.MoreAsks = asked.NextPageToken != ""
	did, err := e.Identities.ListAddressActions(q.Context(), &keytreev1.ListAddressActionsRequest{
		Address: r.Address, AtHeight: q.asOf(), PageSize: entries, PageToken: q.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	q.called("/v1/addresses/"+r.Address+"/actions", nil, asOf)
	for _, a := range did.Actions {
		data.Actions = append(data.Actions, acted{s.block(a.Height), s.action(a.TxHash), s.does(a), s.outcome(a), theirs(a.Message)})
	}
	if did.NextPageToken != "" {
		query := url.Values{"page": {did.NextPageToken}}
		if q.page.At != nil {
			query.Set("at", strconv.Itoa(int(*q.page.At)))
		}
		data.Page = "/key/" + url.PathEscape(r.Address) + "?" + query.Encode() + "#history"
	}
	q.follow(live{Addresses: []string{r.Address}})
	q.show("Key "+word{Kind: "key", Text: r.Address}.Short(), data)
	return nil
}

// who says who a key is.
func (s speaker) who(r *keytreev1.Resolution) words {
	switch {
	case r.IdTxHash == "":
		return say("This key was never in a link: it is its own identity.")
	case r.ParentAddress == "":
		return say("This is the main key of identity ", s.identity(r.IdTxHash), ".")
	case r.Depth == 1:
		return say("This key speaks for identity ", s.identity(r.IdTxHash), ", directly below its main key ", s.key(r.MainAddress), ".")
	}
	return say("This key speaks for identity ", s.identity(r.IdTxHash), ", ", r.Depth, " links below its main key ", s.key(r.MainAddress), ".")
}

// would marks what is not so yet.
func (s speaker) would(w words) words { return say("If the next block has what is pending: ", w) }

// identityPage is an identity as of a block.
type identityPage struct {
	ID      string
	Merged  words // into which, if it is
	Main    word
	Keys    uint32
	NamedBy word
	NamedAt word
	Time    *timeline
	At      uint32
	Changed uint32 // the last block that changed it
	Block   word   // that one
	Clock   string // when that was, by its miner's clock
	Events  []words
	More    bool // of these
	Tree    *tree
	Outside bool // the key that the tree was to begin with is not of this identity
	Pending *pending
	Proof   *proof
}

func (e *Explorer) identity(q *request) error {
	id := strings.ToLower(q.path["id"])
	i, err := e.Identities.GetIdentity(q.Context(), &keytreev1.GetIdentityRequest{IdTxHash: id, AtHeight: q.asOf(), Unconfirmed: q.now()})
	if err != nil {
		return err
	}
	q.called("/v1/identities/"+id, nil, orNext)
	s := q.speak()
	data := &identityPage{ID: id, Keys: i.KeyCount, NamedBy: s.action(i.GetNamedBy().GetTxHash()), NamedAt: s.block(i.GetNamedBy().GetHeight()),
		At: i.AsOfHeight, Pending: q.supposed(i.Unconfirmed)}
	for _, r := range i.GetUnconfirmed().GetKeys() {
		if r.IdTxHash == id {
			data.Pending.Changes = append(data.Pending.Changes, say(s.key(r.Address), " would be in this identity."))
		} else {
			data.Pending.Changes = append(data.Pending.Changes, say(s.key(r.Address), " and all below it would leave."))
		}
	}
	q.follow(live{IDs: []string{id}})
	q.show("Identity "+word{Kind: "identity", Text: id}.Short(), data)
	if i.State == "UNCONFIRMED" {
		return nil
	}
	data.Main = s.key(i.MainAddress)
	data.Proof = q.proofOfIdentity(id, i)
	if i.MergedInto != "" {
		data.Merged = say("It merged into identity ", s.identity(i.MergedInto), ". The keys below are those of that one.")
	}
	if err := q.timeOf(data, i); err != nil {
		return err
	}
	return q.treeOf(data, i)
}

// Short is the identity's name as it is shown.
func (p *identityPage) Short() string { return word{Kind: "identity", Text: p.ID}.Short() }

// timeOf fills in how an identity came to be what it is: over all its time, whatever block the page is as of.
func (q *request) timeOf(data *identityPage, i *keytreev1.Identity) error {
	list := q.explorer.Identities.ListIdentityChanges
	all, err := list(q.Context(), &keytreev1.ListIdentityChangesRequest{IdTxHash: data.ID, Parts: columns})
	if err != nil {
		return err
	}
	q.called("/v1/identities/"+data.ID+"/changes", nil, fixed)
	last, err := list(q.Context(), &keytreev1.ListIdentityChangesRequest{IdTxHash: data.ID, AtHeight: q.asOf(), PageSize: 2})
	if err != nil {
		return err
	}
	if len(all.Changes) > 0 {
		data.Time = newTimeline(all.Changes, min(i.GetNamedBy().GetHeight(), all.Changes[len(all.Changes)-1].Height), all.AsOfHeight, data.At)
	}
	if len(last.Changes) == 0 {
		return nil
	}
	data.Changed = last.Changes[0].Height
	data.Block = q.speak().block(data.Changed)
	if data.Time != nil {
		if data.At > data.Changed {
			data.Time.Before = &data.Changed
		} else if len(last.Changes) > 1 {
			data.Time.Before = &last.Changes[1].Height
		}
		if data.Time.After, err = q.nextChange(data.ID, all.Changes, data.At); err != nil {
			return err
		}
	}
	events, err := q.explorer.Identities.ListEvents(q.Context(), &keytreev1.ListEventsRequest{FromHeight: &data.Changed, ToHeight: &data.Changed, PageSize: 1000})
	if err != nil {
		return err
	}
	data.More = events.NextPageToken != ""
	for _, b := range events.Blocks {
		if b.Type != "CONNECT" {
			continue
		}
		data.Clock = clock(b.Time)
		for _, event := range b.Events {
			if event.IdTxHash != data.ID && event.MergedInto != data.ID && event.TxHash != data.ID {
				continue
			}
			if len(data.Events) == shownInOne {
				data.More = true
				break
			}
			data.Events = append(data.Events, q.speak().event(event))
		}
	}
	return nil
}

// nextChange finds the first change after a block: the overview says in which part of the time it is.
func (q *request) nextChange(id string, overview []*keytreev1.IdentityChange, after uint32) (*uint32, error) {
	var end *uint32
	for _, c := range overview { // the newest first
		if c.Height <= after {
			break
		}
		end = &c.Height
	}
	if end == nil {
		return nil, nil
	}
	// Between the page's block and the last change of that part there may be many more.
	list, err := q.explorer.Identities.ListIdentityChanges(q.Context(), &keytreev1.ListIdentityChangesRequest{IdTxHash: id, AtHeight: end, PageSize: 1000})
	if err != nil {
		return nil, err
	}
	for _, c := range list.Changes {
		if c.Height <= after {
			break
		}
		end = &c.Height
	}
	return end, nil
}

// treeOf draws an identity, or the part of it that was asked for.
func (q *request) treeOf(data *identityPage, i *keytreev1.Identity) (err error) {
	id := data.ID
	if i.MergedInto != "" {
		id = i.MergedInto
	}
	below := q.URL.Query().Get("below")
	if below == "" && i.KeyCount <= wholeTree {
		answer, err := q.explorer.Identities.ListIdentityKeys(q.Context(), &keytreev1.ListIdentityKeysRequest{IdTxHash: id, AtHeight: q.asOf(), PageSize: wholeTree})
		if err != nil {
			return err
		}
		q.called("/v1/identities/"+id+"/keys", nil, asOf)
		data.Tree = q.whole(id, answer.Keys)
		return nil
	}
	top := i.MainAddress
	var way []word
	if below != "" {
		r, err := q.explorer.Identities.ResolveAddress(q.Context(), &keytreev1.ResolveAddressRequest{Address: below, AtHeight: q.asOf()})
		if err != nil {
			return err
		}
		if r.IdTxHash != id {
			data.Outside = true
		} else {
			top = r.Address
			way = q.wayOf(r)
			way = way[:len(way)-1] // the key itself is drawn
			for i, w := range way {
				if w.Kind == "key" {
					way[i].Href = q.branchURL(id, w.Text, "")
				}
			}
		}
	}
	if data.Tree, err = q.branch(id, top, q.URL.Query().Get("page")); err == nil {
		data.Tree.Way = way
	}
	return err
}

// actionPage is an action and what became of it.
type actionPage struct {
	Kind    string
	TxID    string
	Does    words
	Outcome words
	About   words // the link that it is about, if it is by neither of its keys
	Ref     *word
	Message string
	Long    int // bytes of the message, if there is more of it
	Where   words
	Time    string // of its block, by its miner's clock
	Pending *pending
	Missing bool // it is not on the chain: all of it is what is pending
}

func (e *Explorer) action(q *request) error {
	txid := strings.ToLower(q.path["txid"])
	a, err := e.Identities.GetAction(q.Context(), &keytreev1.GetActionRequest{TxHash: txid, AtHeight: q.asOf(), Unconfirmed: q.now()})
	if notFound(err) {
		// Anchors have pages of their own.
		if _, err := e.Anchors.GetAnchor(q.Context(), &keytreev1.GetAnchorRequest{TxHash: txid, AtHeight: q.asOf(), Unconfirmed: q.now()}); err == nil {
			q.redirect("/anchor/" + txid + q.speak().query)
			return nil
		}
	}
	if err != nil {
		return err
	}
	q.called("/v1/actions/"+txid, nil, orNext)
	s := q.speak()
	data := &actionPage{TxID: txid, Pending: q.supposed(a.Unconfirmed)}
	if list := a.GetUnconfirmed().GetActions(); a.State == "UNCONFIRMED" && len(list) > 0 {
		data.Missing, a = true, list[0]
	} else if data.Pending != nil && len(list) > 0 {
		data.Pending.Changes = append(data.Pending.Changes, s.would(s.outcome(list[0])))
	}
	data.Kind, data.Does, data.Outcome = upper(kind(a.Kind)), s.does(a), s.outcome(a)
	data.Where = say("It is transaction ", a.TxIndex, " of ", s.block(a.Height), ".")
	if !data.Missing {
		block, err := q.readBlock(a.Height, 1, "")
		if err != nil {
			return err
		}
		data.Time = block.Time
	}
	if a.ChildAddress != "" && a.ParentAddress != "" && a.AuthorAddress != a.ChildAddress && a.AuthorAddress != a.ParentAddress {
		data.About = say("It is about ", s.key(a.ChildAddress), " below ", s.key(a.ParentAddress), ".")
	}
	if a.RefTxHash != "" {
		ref := s.action(a.RefTxHash)
		data.Ref = &ref
	}
	data.Message = theirs(a.Message)
	if utf8.RuneCountInString(a.Message) > maxTheirs {
		data.Long = len(a.MessageHex) / 2
	}
	q.follow(live{Addresses: present(a.ChildAddress, a.ParentAddress, a.AuthorAddress)})
	q.show(data.Kind+" "+ends(txid, 6, 4), data)
	return nil
}

// present are those that are not empty, each once.
func present(list ...string) (out []string) {
	for _, s := range list {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mempoolPage is what is pending.
type mempoolPage struct {
	Mempool *keytreev1.Mempool
	Height  uint32
	Actions []pendingAction
	Page    string
}

// pendingAction is an action of the mempool, or an anchor, and what would become of it.
type pendingAction struct {
	pendingTx
	Kind    string
	Does    words
	Outcome words
	Message string
}

func (e *Explorer) mempool(q *request) error {
	q.page.At = nil
	answer, err := e.Identities.ListMempool(q.Context(), &keytreev1.ListMempoolRequest{PageSize: entries, PageToken: q.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	q.called("/v1/mempool", nil, fixed)
	s := q.speak()
	data := &mempoolPage{Mempool: answer.Mempool, Height: answer.Height}
	for _, p := range answer.Actions {
		data.Actions = append(data.Actions, pendingAction{q.pendingTx(p.Transaction), upper(kind(p.Action.Kind)), s.does(p.Action), s.outcome(p.Action), theirs(p.Action.Message)})
	}
	for _, p := range answer.Anchors {
		data.Actions = append(data.Actions, pendingAction{pendingTx: q.pendingTx(p.Transaction), Kind: "Anchor", Does: s.event(p.Event)})
	}
	if answer.NextPageToken != "" {
		data.Page = "/mempool?page=" + url.QueryEscape(answer.NextPageToken)
	}
	q.page.Live = live{All: true}
	q.show("Mempool", data)
	return nil
}

// statusPage is how the server stands, for its operator.
type statusPage struct{ *keytreev1.GetStatusResponse }

func (e *Explorer) status(q *request) error {
	q.page.At = nil
	q.called("/v1/status", nil, fixed)
	q.page.Live = live{All: true}
	q.show("Status", &statusPage{q.status})
	return nil
}
