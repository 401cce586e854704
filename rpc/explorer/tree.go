package explorer

import (
	"net/url"
	"strconv"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// How much of an identity is drawn at once.
const (
	wholeTree = 200 // keys of an identity that is drawn as a whole
	branches  = 50  // links below a key on a page
	deepest   = 8   // links one below the other that are drawn
)

// node is a key in a drawn tree.
type node struct {
	Key      word
	Accept   *word // of the link to the parent; nil for the root
	Linked   word  // the block of that link
	Children []*node
	Closed   bool   // there are more below it, that are not drawn
	Open     string // where they are drawn; also where the tree goes on from this key
}

// tree is what is drawn of an identity.
type tree struct {
	Way  []word // from the root to the key at the top of what is drawn, if that is another
	Top  *node
	More string // where the list of the top's links goes on
}

// whole draws an identity of few keys, listed depth first.
func (q *request) whole(id string, keys []*keytreev1.IdentityKey) *tree {
	s := q.speak()
	byAddress := make(map[string]*node, len(keys))
	t := new(tree)
	for _, k := range keys {
		n := q.node(s, id, k.Address)
		byAddress[k.Address] = n
		parent := byAddress[k.ParentAddress]
		switch {
		case k.ParentAddress == "":
			t.Top = n
			continue
		case parent == nil:
			continue // below one that is not drawn
		case k.Depth > deepest:
			parent.Closed = true
			delete(byAddress, k.Address)
			continue
		}
		accept := s.action(k.AcceptTxHash)
		n.Accept, n.Linked = &accept, s.block(k.LinkedHeight)
		parent.Children = append(parent.Children, n)
	}
	return t
}

func (q *request) node(s speaker, id, address string) *node {
	return &node{Key: s.key(address), Open: q.branchURL(id, address, "")}
}

// branchURL is where what is below a key is drawn.
func (q *request) branchURL(id, address, token string) string {
	query := url.Values{"below": {address}}
	if token != "" {
		query.Set("page", token)
	}
	if q.page.At != nil {
		query.Set("at", strconv.FormatUint(uint64(*q.page.At), 10))
	}
	return "/identity/" + id + "?" + query.Encode() + "#tree"
}

// branch draws what is directly below a key.
func (q *request) branch(id, address, token string) (*tree, error) {
	s := q.speak()
	t := &tree{Top: q.node(s, id, address)}
	answer, err := q.explorer.Identities.ListAddressLinks(q.Context(), &keytreev1.ListAddressLinksRequest{
		Address: address, AtHeight: q.asOf(), PageSize: branches, PageToken: token})
	if err != nil {
		return nil, err
	}
	q.called("/v1/addresses/"+address+"/links", nil, asOf)
	for _, link := range answer.Links {
		n := q.node(s, id, link.ChildAddress)
		accept := s.action(link.AcceptTxHash)
		n.Accept, n.Linked, n.Closed = &accept, s.block(link.LinkedHeight), link.HasLinks
		t.Top.Children = append(t.Top.Children, n)
	}
	if answer.NextPageToken != "" {
		t.More = q.branchURL(id, address, answer.NextPageToken)
	}
	return t, nil
}
