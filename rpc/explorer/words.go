package explorer

import (
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// words is a sentence: text, and names of things that have pages.
type words []word

// word is a text, or the name of a thing.
type word struct {
	Kind string // "" for text, else key, identity, action, block, chain or domain
	Text string // whole
	Href string
}

// Short is the text as it is shown: names in hex, and addresses without their prefix, by their ends.
func (w word) Short() string {
	switch w.Kind {
	case "key":
		_, rest, found := strings.Cut(w.Text, ":")
		if !found {
			rest = w.Text
		}
		return ends(rest, 6, 5)
	case "identity", "action", "chain":
		return ends(w.Text, 6, 4)
	}
	return w.Text
}

// ends is the beginning and the end of what is longer.
func ends(s string, first, last int) string {
	if len(s) <= first+last+1 {
		return s
	}
	return s[:first] + "…" + s[len(s)-last:]
}

// speaker makes sentences whose links keep the block that the page is as of.
type speaker struct {
	query string
	tip   uint32
}

func (q *request) speak() speaker {
	s := speaker{tip: q.page.Tip}
	if q.page.At != nil {
		s.query = fmt.Sprintf("?at=%d", *q.page.At)
	}
	return s
}

func (s speaker) name(kind, path, text string) word {
	return word{kind, text, path + url.PathEscape(text) + s.query}
}

func (s speaker) key(address string) word {
	if address == "" {
		return word{Text: "nobody that can be proven"}
	}
	return s.name("key", "/key/", address)
}
func (s speaker) identity(id string) word { return s.name("identity", "/identity/", id) }
func (s speaker) action(txid string) word { return s.name("action", "/action/", txid) }
func (s speaker) chain(txid string) word  { return s.name("chain", "/chain/", txid) }
func (s speaker) anchor(txid string) word { return s.name("action", "/anchor/", txid) }
func (s speaker) domain(name string) word { return s.name("domain", "/keyserver/", name) }

func (s speaker) block(height uint32) word {
	if height > s.tip {
		return word{Text: "the next block"}
	}
	w := s.name("block", "/block/", fmt.Sprint(height))
	w.Text = "block " + w.Text
	return w
}

// say puts a sentence together: strings are text, the rest are names.
func say(parts ...any) (w words) {
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			w = append(w, word{Text: part})
		case word:
			w = append(w, part)
		case words:
			w = append(w, part...)
		default:
			w = append(w, word{Text: fmt.Sprint(part)})
		}
	}
	return w
}

// event says what happened.
func (s speaker) event(e *keytreev1.Event) words {
	switch e.Type {
	case "REQUEST_OPENED":
		return say(s.key(e.ChildAddress), " asks ", s.key(e.ParentAddress), " to be a key of its identity, by request ", s.action(e.TxHash), ".")
	case "LINK_FORMED":
		return say(s.key(e.ParentAddress), " takes ", s.key(e.ChildAddress), " into identity ", s.identity(e.IdTxHash), ", by accept ", s.action(e.TxHash), " of request ", s.action(e.RefTxHash), ".")
	case "LINK_CUT":
		return say(s.key(e.ParentAddress), " cuts ", s.key(e.ChildAddress), " and all below it out of identity ", s.identity(e.IdTxHash), ", by revoke ", s.action(e.TxHash), " of accept ", s.action(e.RefTxHash), ".")
	case "ACTION_REFUSED":
		w := say(upper(kind(e.Kind)), " ", s.action(e.TxHash))
		if e.AuthorAddress != "" {
			w = append(w, say(" of ", s.key(e.AuthorAddress))...)
		}
		return append(w, say(" is refused: ", Reason(e.Reason), ".")...)
	case "ACTION_WAITING":
		return say(upper(kind(e.Kind)), " ", s.action(e.TxHash), " of ", s.key(e.AuthorAddress), " waits for what it refers to, ", ends(e.Reference, 6, 4), ", which is not on the chain yet.")
	case "IDENTITY_NAMED":
		return say("The tree of ", s.key(e.MainAddress), " is named identity ", s.identity(e.IdTxHash), ".")
	case "IDENTITY_MERGED":
		return say("Identity ", s.identity(e.IdTxHash), " merges into ", s.identity(e.MergedInto), ", whose tree its keys have joined.")
	case "ANCHOR_ADDED":
		return say("Anchor ", s.anchor(e.TxHash), " commits to position ", e.GetAnchor().GetPosition(), " of a keyserver's hashchain that calls itself ", s.domain(e.GetAnchor().GetDomain()), ", in chain ", s.chain(e.GetAnchor().GetChainTxHash()), ".")
	case "ANCHOR_CHAIN_BROKEN":
		return say("The chain of anchors ", s.chain(e.GetAnchor().GetChainTxHash()), " is broken by ", s.anchor(e.TxHash), ": ", broken(e.GetAnchor().GetBreakReason()), ".")
	}
	return say("Something that this page does not know happened: ", e.Type, ".")
}

// kind is what an action is called.
func kind(k string) string {
	switch k {
	case "MLR":
		return "request"
	case "MLA":
		return "accept"
	case "MCR":
		return "revoke"
	}
	return k
}

// upper makes the first letter a capital one.
func upper(s string) string {
	r, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[size:]
}

// Reason says why an action is refused, in words, without a full stop.
func Reason(r string) string {
	switch r {
	case "MALFORMED":
		return "its data is not what MIP-0003 says it has to be"
	case "NO_AUTHOR":
		return "it cannot be proven who signed it"
	case "SELF_LINK":
		return "a key asks to be its own parent"
	case "WRONG_KIND":
		return "it refers to an action of the wrong kind"
	case "REQUEST_REFUSED":
		return "the request that it accepts was refused itself"
	case "NOT_THE_PARENT":
		return "its author is not the parent that this is about"
	case "REQUEST_USED":
		return "the request was accepted before, and counts once"
	case "CHILD_HAS_PARENT":
		return "the key that asked has a parent already"
	case "LOOP":
		return "the link would lead back to itself: the parent is below the key that asked"
	case "ACCEPT_REFUSED":
		return "the accept that it revokes was refused itself"
	case "ALREADY_REVOKED":
		return "the link was cut before"
	}
	return r
}

// broken says how a chain of anchors was broken.
func broken(r string) string {
	switch r {
	case "NO_RECORD":
		return "its baton was spent by a transaction that is no anchor"
	case "OTHER_DOMAIN":
		return "its baton was spent by the anchor of another domain"
	case "NOT_FIRST_INPUT":
		return "its baton was spent by an anchor, but not as the first input"
	case "LOWER_POSITION":
		return "the last anchor goes back to a lower position"
	case "OTHER_HEAD":
		return "the last anchor shows another history at the same position"
	}
	return r
}

// outcome says what became of an action, or would.
func (s speaker) outcome(a *keytreev1.Action) words {
	child, parent := s.key(a.ChildAddress), s.key(a.ParentAddress)
	if a.DecidedHeight > s.tip {
		switch a.State {
		case "USED":
			return say(parent, " would accept it, by ", s.action(a.ByTxHash), ".")
		case "IN_FORCE":
			return say("The link would be in force: ", child, " would be a key below ", parent, ".")
		case "CUT":
			return say("The link would be cut, by ", s.action(a.ByTxHash), ".")
		case "DONE":
			return say("It would cut ", child, " from ", parent, ".")
		case "REFUSED":
			return say("It would be refused for good: ", Reason(a.Reason), ".")
		}
	}
	switch a.State {
	case "OPEN":
		return say("It is open: ", parent, " may accept it.")
	case "USED":
		return say(parent, " accepted it, by ", s.action(a.ByTxHash), " in ", s.block(a.DecidedHeight), ".")
	case "IN_FORCE":
		return say("The link is in force since ", s.block(a.DecidedHeight), ": ", child, " is a key below ", parent, ".")
	case "CUT":
		return say("The link was in force, and was cut by ", s.action(a.ByTxHash), " in ", s.block(a.DecidedHeight), ".")
	case "DONE":
		return say("It cut ", child, " from ", parent, " in ", s.block(a.DecidedHeight), ".")
	case "WAITING":
		return say("It waits: what it refers to, ", ends(a.Reference, 6, 4), ", is not on the chain yet, or waits itself.")
	case "REFUSED":
		return say("It is refused for good: ", Reason(a.Reason), ".")
	}
	return say("Its state is one that this page does not know: ", a.State, ".")
}

// does says what an action wants.
func (s speaker) does(a *keytreev1.Action) words {
	author := s.key(a.AuthorAddress)
	if author.Kind == "" {
		author.Text = upper(author.Text)
	}
	switch a.Kind {
	case "MLR":
		return say(author, " asks ", s.key(a.ParentAddress), " to be a key of its identity.")
	case "MLA":
		if a.ChildAddress == "" {
			return say(author, " accepts a request.")
		}
		return say(author, " accepts ", s.key(a.ChildAddress), " as a key of its identity.")
	case "MCR":
		if a.ChildAddress == "" {
			return say(author, " revokes a link.")
		}
		return say(author, " revokes the link to ", s.key(a.ChildAddress), ".")
	}
	return say(author, " does what this page does not know: ", a.Kind, ".")
}

// clock is the time in the header of a block, which its miner's clock said.
func clock(seconds uint32) string {
	return time.Unix(int64(seconds), 0).UTC().Format("2 January 2006, 15:04:05 UTC")
}

// maxTheirs is how many characters of a stranger's text are shown.
const maxTheirs = 200

// mostMarks is how many accents one above the other are drawn: more of them would cover the lines beside.
const mostMarks = 2

// theirs is a stranger's text, bounded. What is not seen, turns around what is beside it, or would cover it, is
// shown by its number.
func theirs(s string) string {
	var b strings.Builder
	n, marks := 0, 0
	for _, r := range s {
		if marks++; !unicode.Is(unicode.M, r) {
			marks = 0
		}
		if n++; n > maxTheirs {
			b.WriteString(" …")
			break
		}
		if r == '\n' || r == '\t' {
			r = ' '
		}
		if !unicode.IsPrint(r) && r != utf8.RuneError || marks > mostMarks {
			fmt.Fprintf(&b, "⟨%04X⟩", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
