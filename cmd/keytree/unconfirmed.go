package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/pflag"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// unconfirmedFlag asks as well what would differ if what is pending were the next block.
type unconfirmedFlag struct {
	is *bool
	at *parsed[*uint32]
}

func newUnconfirmedFlag(flags *pflag.FlagSet, at *parsed[*uint32]) unconfirmedFlag {
	return unconfirmedFlag{flags.Bool("unconfirmed", false, "tell as well what would differ if the node's mempool were the next block"), at}
}

// use lets a server be asked so.
func (f unconfirmedFlag) use(c *server) error {
	if *f.is && f.at.value != nil {
		return usagef("--unconfirmed: what is unconfirmed comes after the tip, leave --at out")
	}
	c.unconfirmed = *f.is
	return nil
}

// printUnconfirmed prints what there is to say beside an answer, if it was asked for, and tells whether
// something differs, which it has announced.
func printUnconfirmed(w io.Writer, u *keytreev1.Unconfirmed) (differs bool) {
	switch {
	case u == nil:
		return false
	case !u.Available:
		fmt.Fprintf(w, "\nunconfirmed: not known: %s\n", u.Reason)
		return false
	case !u.Differs:
		fmt.Fprintf(w, "\nunconfirmed: nothing would differ in block %d\n", u.Height)
		return false
	}
	fmt.Fprintf(w, "\nunconfirmed: if it were in block %d, because of\n", u.Height)
	for _, tx := range u.By {
		fmt.Fprintf(w, "  %s%s\n", tx.TxHash, spentTwice(tx))
	}
	if u.More {
		fmt.Fprintln(w, "  … more")
	}
	fmt.Fprintln(w)
	return true
}

// spentTwice warns of a transaction that may never be mined.
func spentTwice(tx *keytreev1.PendingTransaction) string {
	if tx.DoubleSpend {
		return "  DOUBLE SPEND"
	}
	return ""
}

// joinUnconfirmed puts together what would differ from the parts of a list.
func joinUnconfirmed(all, part *keytreev1.Unconfirmed) *keytreev1.Unconfirmed {
	if all == nil || part == nil || !all.Available {
		return cmp.Or(all, part)
	}
	if !part.Available { // the tip has moved
		return part
	}
	all.Differs, all.More = all.Differs || part.Differs, all.More || part.More
	for _, tx := range part.By {
		if !slices.ContainsFunc(all.By, func(other *keytreev1.PendingTransaction) bool { return other.TxHash == tx.TxHash }) {
			all.By = append(all.By, tx)
		}
	}
	for _, action := range part.Actions {
		if !slices.ContainsFunc(all.Actions, func(other *keytreev1.Action) bool { return other.TxHash == action.TxHash }) {
			all.Actions = append(all.Actions, action)
		}
	}
	return all
}
