package connect

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/explorer"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// page is what a page shows.
type page struct {
	Title   string
	Network string
	Version string
	Synced  bool
	Why     string // not synced, in words
	Tip     uint32
	// State is "ask" while something can be signed, "done" when it is so, "over" when it cannot be any more; "unknown"
	// where it is worth to ask again, "failed" where it is not.
	State   string
	Live    []string // addresses whose changes change the page
	To      *leads   // nil: nowhere
	Problem string   // unknown, failed
	Consent *consent // ask, done, over

	WalletConnect *WalletConnect
	WizardConnect *WizardConnect
}

// leads is where the buttons lead.
type leads struct {
	Host   string
	Refuse string // where who does not want to goes
	Back   string // done: where who is done goes
}

// leading returns where a refusal leads.
func leading(to target) *leads {
	if !to.there() {
		return nil
	}
	return &leads{Host: to.host(), Refuse: to.with("error", "access_denied")}
}

// consent is what a person is asked to sign, or has signed.
type consent struct {
	Revoke bool
	Kind   string // of what is to be signed: MLA or MCR
	TxID   string // of what that refers to
	Record string // how the output that says so begins, in hex

	Child, Parent string // addresses; who signs is the parent
	Says          string // what the child calls itself
	When          string // since when it asks, or is linked

	ID, Main string // of the identity that the parent is of; "" for a key in no link
	Brings   string // what comes along with the child
	Command  string

	Cannot  string // over: why it cannot be
	By      string // done: the transaction that made it so
	Undo    string // done: where it is taken back
	Pending bool   // done: it is in no block yet
	Since   uint32 // done: the block
	Twice   bool   // what is pending may never be mined
	Blind   string // why what is pending is not known
}

// seen is an action as it is if what is pending counts.
type seen struct {
	*keytreev1.Action
	unconfirmed bool    // the action is in no block itself
	pending     bool    // that it is so is only pending
	twice       bool    // an input was spent twice
	ago         *uint32 // seconds since it was seen, if it is unconfirmed
	blind       string
}

// action asks for an action.
func (v *visit) action(txid string) (seen, error) {
	a, err := v.pages.Identities.GetAction(v.Context(), &keytreev1.GetActionRequest{TxHash: txid, Unconfirmed: true})
	if status.Code(err) == codes.NotFound {
		return seen{}, status.Errorf(codes.NotFound, "This server does not know the transaction %s. If it has just been sent, it may be on its way: this page asks again by itself.", fault.Shortened(txid))
	}
	if err != nil {
		return seen{}, err
	}
	s := seen{Action: a}
	u := a.GetUnconfirmed()
	if u != nil && !u.Available {
		s.blind = u.Reason
	}
	if list := u.GetActions(); len(list) > 0 {
		s.unconfirmed, s.pending, s.Action = a.State == "UNCONFIRMED", true, list[0]
		for _, by := range u.By {
			s.twice = s.twice || by.DoubleSpend
			if by.TxHash == a.TxHash && s.unconfirmed {
				s.ago = by.SeenAgo
			}
		}
	}
	return s, nil
}

// when says since when an action is there.
func (v *visit) when(s seen) (string, error) {
	if s.unconfirmed {
		if s.ago == nil {
			return "In no block yet", nil
		}
		return "In no block yet; seen " + ago(time.Duration(*s.ago)*time.Second) + " ago", nil
	}
	height := s.Height
	answer, err := v.pages.Identities.ListEvents(v.Context(), &keytreev1.ListEventsRequest{FromHeight: &height, ToHeight: &height, PageSize: 1})
	if err != nil {
		return "", err
	}
	for _, b := range answer.Blocks {
		if b.Type == "CONNECT" {
			return fmt.Sprintf("Since block %d: its miner's clock said %s", height, time.Unix(int64(b.Time), 0).UTC().Format("2 January 2006, 15:04 UTC")), nil
		}
	}
	return fmt.Sprintf("Since block %d", height), nil
}

// ago says how long something is ago.
func ago(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.of); n == 1 {
			return "1 " + unit.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return fmt.Sprintf("%d seconds", int(d/time.Second))
}

// resolve asks who a key is if what is pending counts.
func (v *visit) resolve(address string) (*keytreev1.Resolution, error) {
	r, err := v.pages.Identities.ResolveAddress(v.Context(), &keytreev1.ResolveAddressRequest{Address: address, Unconfirmed: true})
	if err == nil && r.GetUnconfirmed().GetResolution() != nil {
		r = r.Unconfirmed.Resolution
	}
	return r, err
}

// begun makes the page one about an action of a kind.
func (v *visit) begun(txid, parameter, kind, name string) (seen, *consent, error) {
	txid = strings.ToLower(txid)
	hash, err := chainhash.NewHashFromStr(txid)
	if err != nil || len(txid) != chainhash.MaxHashStringSize {
		return seen{}, nil, fault.Field(codes.InvalidArgument, parameter, "expected the txid of %s, %d hex characters, got %q", name, chainhash.MaxHashStringSize, fault.Shortened(txid))
	}
	s, err := v.action(txid)
	if err != nil {
		return s, nil, err
	}
	if s.Kind != kind {
		return s, nil, fault.Field(codes.InvalidArgument, parameter, "expected the txid of %s, %s is something else", name, txid)
	}
	c := &consent{Revoke: kind == "MLA", Kind: "MLA", TxID: txid, Child: s.ChildAddress, Parent: s.ParentAddress, Blind: s.blind, Twice: s.twice}
	script, err := protocol.AcceptScript(*hash, nil)
	if c.Revoke {
		c.Kind = "MCR"
		script, err = protocol.RevokeScript(*hash, nil)
	}
	if err != nil {
		return s, nil, err
	}
	c.Record = hex.EncodeToString(script)
	v.page.Consent, v.page.Live = c, slices.DeleteFunc([]string{c.Child, c.Parent}, func(address string) bool { return address == "" })
	return s, c, nil
}

// linked says of a link that was made who is what by it.
func (v *visit) linked(c *consent) error {
	parent, err := v.resolve(c.Parent)
	if err != nil {
		return err
	}
	c.ID, c.Main = parent.IdTxHash, parent.MainAddress
	return nil
}

// command is what who has the key in a file types.
func (v *visit) command(verb, txid string) string {
	line := "keytree link " + verb + " " + txid + " --key-file FILE --node URL"
	if v.page.Network != "mainnet" {
		line += " --network " + v.page.Network
	}
	return line
}

// accept makes the page on which a request is accepted.
func (v *visit) accept(txid string) error {
	s, c, err := v.begun(txid, "request", "MLR", "a link request")
	if err != nil {
		return err
	}
	c.Says, c.Command = signing.CallsItself(s.Message), v.command("accept", c.TxID)
	if c.When, err = v.when(s); err != nil {
		return err
	}
	switch s.State {
	case "OPEN":
		return v.asked(c)
	case "USED":
		return v.accepted(s, c)
	case "REFUSED":
		return v.over(c, "It cannot be accepted: "+explorer.Reason(s.Reason)+".")
	}
	return v.over(c, "It cannot be accepted just now.")
}

// asked shows a request that is open.
func (v *visit) asked(c *consent) error {
	if err := v.linked(c); err != nil {
		return err
	}
	child, err := v.resolve(c.Child)
	if err != nil {
		return err
	}
	switch {
	case child.ParentAddress != "":
		return v.over(c, "It cannot be accepted: "+explorer.Reason("CHILD_HAS_PARENT")+".")
	case child.IdTxHash != "" && child.IdTxHash == c.ID:
		return v.over(c, "It cannot be accepted: "+explorer.Reason("LOOP")+".")
	case child.IdTxHash != "":
		i, err := v.pages.Identities.GetIdentity(v.Context(), &keytreev1.GetIdentityRequest{IdTxHash: child.IdTxHash})
		switch {
		case status.Code(err) == codes.NotFound: // all of it is pending
			c.Brings = "The keys that are below it come along."
		case err != nil:
			return err
		case i.KeyCount == 2:
			c.Brings = "The key below it comes along, and its identity becomes part of yours."
		case i.KeyCount > 2:
			c.Brings = fmt.Sprintf("The %d keys below it come along, and its identity becomes part of yours.", i.KeyCount-1)
		}
	}
	v.page.State, v.page.Title = "ask", "A key asks to speak in your name"
	return nil
}

// accepted shows a request that was accepted.
func (v *visit) accepted(s seen, c *consent) error {
	link, err := v.action(s.ByTxHash)
	if err != nil {
		return err
	}
	if link.State != "IN_FORCE" {
		return v.over(c, "It was accepted, and revoked since. A request counts once: to be linked again, the key has to ask again.")
	}
	child, err := v.resolve(c.Child)
	if err != nil {
		return err
	}
	c.ID, c.Main, c.By, c.Twice = child.IdTxHash, child.MainAddress, s.ByTxHash, s.twice || link.twice
	c.Pending, c.Since = link.unconfirmed || link.pending, link.DecidedHeight
	c.Undo = revokePath + "?accept=" + c.By
	v.page.State, v.page.Title = "done", "The key speaks in your name"
	if v.to.there() {
		v.page.To.Back = v.to.with("request_tx_hash", c.TxID, "accept_tx_hash", c.By, "id_tx_hash", c.ID)
	}
	return nil
}

// over shows what cannot be signed, or need not be.
func (v *visit) over(c *consent, why string) error {
	c.Cannot = why
	v.page.State, v.page.Title = "over", "This cannot be accepted"
	if c.Revoke {
		v.page.Title = "This cannot be revoked"
	}
	return nil
}

// revoke makes the page on which an accept is revoked.
func (v *visit) revoke(txid string) error {
	s, c, err := v.begun(txid, "accept", "MLA", "an accept")
	if err != nil {
		return err
	}
	c.Command = v.command("revoke", c.TxID)
	if c.When, err = v.when(s); err != nil {
		return err
	}
	if s.RefTxHash != "" {
		request, err := v.action(s.RefTxHash)
		if err != nil {
			return err
		}
		c.Says = signing.CallsItself(request.Message)
	}
	switch s.State {
	case "IN_FORCE":
		v.page.State, v.page.Title = "ask", "Take a key out of your identity"
		return v.linked(c)
	case "CUT":
		c.By, c.Pending, c.Since = s.ByTxHash, s.pending, s.DecidedHeight
		v.page.State, v.page.Title = "done", "The key speaks in your name no more"
		if v.to.there() {
			v.page.To.Back = v.to.with("request_tx_hash", s.RefTxHash, "accept_tx_hash", c.TxID, "revoke_tx_hash", c.By)
		}
		return v.linked(c)
	case "REFUSED":
		return v.over(c, "It put no link in force: "+explorer.Reason(s.Reason)+".")
	}
	return v.over(c, "It put no link in force yet.")
}

// upper makes the first letter a capital one.
func upper(s string) string {
	r, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[size:]
}
