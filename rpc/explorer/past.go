package explorer

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// How far a key's page looks back. At most, that is mostStays*(2+longestWay) questions, and mostStays*mostVersions
// versions of identities that are read.
const (
	mostStays    = 8
	longestWay   = 24  // links from the key up to the root
	mostVersions = 500 // of an identity, in which nothing may have become of the key
	unitStay     = 8   // units of work that a stay counts as
	namedOfWay   = 12  // keys of a way that are named
)

// stay is a time in which a key spoke for one identity under one main key.
type stay struct{ Span, Line words }

// past is who a key was before, the latest first, as far as the page looks.
type past struct {
	Stays []stay
	Rest  words // why there are no more
}

// pastOf looks back in time from an answer. What a key is changes with its own links and with those of
// the keys above it. Since a block, it is the same if the links of its way are all that old, and its identity
// had the same main key ever since.
func (q *request) pastOf(r *keytreev1.Resolution) (*past, error) {
	p, s := new(past), q.speak()
	for to := q.until(); ; {
		if r.IdTxHash == "" {
			p.Rest = say("Before, it was in no link, and its own identity.")
			return p, nil
		}
		if len(p.Stays) == mostStays {
			p.Rest = say("There is more: ", q.lookAt(r.Address, r.AsOfHeight), ".")
			return p, nil
		}
		if err := admission.Work(q.Context(), unitStay); err != nil {
			return nil, err
		}
		if len(p.Stays) == 0 {
			q.called("/v1/identities/"+r.IdTxHash+"/changes", nil, asOf)
		}
		line := say("of identity ", s.identity(r.IdTxHash), ", under its main key ", s.key(r.MainAddress))
		if r.ParentAddress == "" {
			line = say("the main key of identity ", s.identity(r.IdTxHash))
		}
		since, why, known, err := q.since(r)
		if err != nil {
			return nil, err
		}
		if !known {
			p.Stays = append(p.Stays, stay{say("From ", s.block(since), " or before to ", to), line})
			p.Rest = say("What was before would take long to find. Look as of a block that you choose.")
			return p, nil
		}
		begin := word{"block", fmt.Sprint("block ", since), q.keyURL(r.Address, since)}
		span := say("From ", begin, " to ", to)
		if fmt.Sprint("block ", since) == to {
			span = say("As of ", begin, " alone")
		}
		p.Stays = append(p.Stays, stay{span, append(line, why...)})
		if since <= q.status.StartHeight {
			return p, nil
		}
		before := since - 1
		to = fmt.Sprint("block ", before)
		if r, err = q.explorer.Identities.ResolveAddress(q.Context(), &keytreev1.ResolveAddressRequest{Address: r.Address, AtHeight: &before}); err != nil {
			return nil, err
		}
	}
}

// until is the end of the time that the page is about.
func (q *request) until() string {
	if q.now() {
		return "now"
	}
	return fmt.Sprint("block ", *q.page.At)
}

// keyURL is a key's page as of a block.
func (q *request) keyURL(address string, at uint32) string {
	return "/key/" + url.PathEscape(address) + "?at=" + strconv.FormatUint(uint64(at), 10)
}

func (q *request) lookAt(address string, at uint32) word {
	return word{"block", "look from block " + strconv.FormatUint(uint64(at), 10) + " back", q.keyURL(address, at)}
}

// since finds the block since which a key is what an answer says, and what made it so; if that is not known,
// a block since which it is so for sure.
func (q *request) since(r *keytreev1.Resolution) (height uint32, why words, known bool, err error) {
	s, at := q.speak(), r.AsOfHeight
	if r.PathTruncated || len(r.Path) > longestWay+1 {
		return at, nil, false, nil
	}
	way, err := q.explorer.Identities.BatchResolve(q.Context(), &keytreev1.BatchResolveRequest{Addresses: r.Path, AtHeight: &at, OmitPath: true})
	if err != nil {
		return 0, nil, false, err
	}
	for _, key := range way.Resolutions {
		if key.AcceptTxHash == "" {
			continue // the root
		}
		accept, err := q.explorer.Identities.GetAction(q.Context(), &keytreev1.GetActionRequest{TxHash: key.AcceptTxHash, AtHeight: &at})
		if err != nil {
			return 0, nil, false, err
		}
		if accept.DecidedHeight >= height {
			height = accept.DecidedHeight
			why = say(", since ", s.key(key.ParentAddress), " took it in, by accept ", s.action(key.AcceptTxHash))
			if key.Address != r.Address {
				why = say(", since ", s.key(key.ParentAddress), " took ", s.key(key.Address), ", which it is below, in, by accept ", s.action(key.AcceptTxHash))
			}
		}
	}
	list, err := q.explorer.Identities.ListIdentityChanges(q.Context(), &keytreev1.ListIdentityChangesRequest{IdTxHash: r.IdTxHash, AtHeight: &at, PageSize: mostVersions})
	if err != nil {
		return 0, nil, false, err
	}
	same := at // the first block of those looked through
	for _, c := range list.Changes {
		if c.State != "CURRENT" || c.MainAddress != r.MainAddress {
			return same, say(", as ", s.block(same), " made it"), true, nil
		}
		if c.Height <= height {
			return height, why, true, nil
		}
		same = c.Height
	}
	if list.NextPageToken != "" {
		return same, nil, false, nil
	}
	return same, say(", since ", s.block(same), " made that identity"), true, nil
}

// wayOf names the keys from the root down to a key. Of a long way it says how many are left out below the root.
func (q *request) wayOf(r *keytreev1.Resolution) (way []word) {
	s, path := q.speak(), r.Path
	if r.Depth+1 > namedOfWay {
		path = path[:min(len(path), namedOfWay-1)]
		out := r.Depth - uint32(len(path)) // of depth+1 keys, but the root
		way = []word{s.key(r.MainAddress), {Text: "… " + plural(out, "key", "keys") + " …"}}
	}
	for _, a := range slices.Backward(path) {
		way = append(way, s.key(a))
	}
	return way
}
