package signing

import (
	"fmt"
	"strings"

	"github.com/keytree-bch/keytree/protocol"
)

// maxCalls is how many characters of what a stranger has written are shown.
const maxCalls = 40

// Subject is what an action is about, for people.
type Subject struct {
	Kind protocol.Kind
	// Counterpart is the address of the other key: MLR the parent that is asked, MLA and
	// MCR the child; "" if it is not known.
	Counterpart string
	// Reference is the txid that an MLA or MCR names.
	Reference string
	// Message is what the child has written in its request, for an MLA: a stranger's word.
	Message string
	Fee     int64 // satoshi
}

// Prompt says in words what a wallet is asked to sign.
func (s Subject) Prompt() string {
	var b strings.Builder
	switch s.Kind {
	case protocol.MLR:
		fmt.Fprintf(&b, "Ask %s to take this key into its identity (MIP-0003 link request).", s.Counterpart)
	case protocol.MLA:
		fmt.Fprintf(&b, "Accept %s into your identity (MIP-0003 link accept).", s.counterpart("request"))
	default:
		fmt.Fprintf(&b, "Remove %s from your identity (MIP-0003 link revoke).", s.counterpart("accept"))
	}
	if calls := CallsItself(s.Message); calls != "" {
		b.WriteString(" It " + calls + ".")
	}
	fmt.Fprintf(&b, " Fee %d sat.", s.Fee)
	return b.String()
}

// counterpart names the child, or if it is not known the transaction that tells.
func (s Subject) counterpart(kind string) string {
	if s.Counterpart != "" {
		return s.Counterpart
	}
	return "the key of " + kind + " " + s.Reference
}

// CallsItself is how what a stranger has written about himself is shown, in a prompt or on a
// page: marked as unverified, with at most 40 characters, printable ASCII without quotes and
// backslashes, so that it cannot pass for anything else. "" for what has none.
func CallsItself(message string) string {
	var shown []byte
	for _, r := range message {
		if r == '"' || r == '\\' || r < ' ' || r > '~' {
			r = '?'
		}
		if len(shown) == maxCalls {
			break
		}
		shown = append(shown, byte(r))
	}
	if strings.Trim(string(shown), " ?") == "" {
		return ""
	}
	return fmt.Sprintf(`calls itself "%s" (unverified)`, shown)
}
