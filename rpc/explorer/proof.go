package explorer

import (
	"net/url"
	"strconv"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// proof is what a page has of a state proof (protocol/SPEC.md §13): proof.js asks for it, checks it in the
// browser, and compares it with what the page says. The server says of nothing that it is proven.
type proof struct {
	Kind string  `json:"kind"` // key or identity
	Name string  `json:"name"` // the address or id
	At   *uint32 `json:"at"`   // as of which block the page was asked for; nil for now
	AsOf uint32  `json:"as_of"`
	Said any     `json:"said"` // what the page says, in the names of REST

	File     string `json:"-"` // where the proof is
	Unproven string `json:"-"` // what the page says besides, which no proof can show, in words
}

// resolution is what keytree.js compares with the proof of a key.
type resolution struct {
	Address       string   `json:"address"`
	IDTxHash      string   `json:"id_tx_hash"`
	MainAddress   string   `json:"main_address"`
	ParentAddress string   `json:"parent_address"`
	AcceptTxHash  string   `json:"accept_tx_hash"`
	Path          []string `json:"path"`
	PathTruncated bool     `json:"path_truncated"`
	Depth         uint32   `json:"depth"`
}

// identified is what keytree.js compares with the proof of an identity.
type identified struct {
	IDTxHash    string `json:"id_tx_hash"`
	State       string `json:"state"`
	MergedInto  string `json:"merged_into"`
	MainAddress string `json:"main_address"`
}

// proofOfKey is what the page of a key has of a proof; nil if the server has no state log.
func (q *request) proofOfKey(r *keytreev1.Resolution) *proof {
	if q.explorer.statePolicy() == "" {
		return nil
	}
	said := resolution{r.Address, r.IdTxHash, r.MainAddress, r.ParentAddress, r.AcceptTxHash, append([]string{}, r.Path...), r.PathTruncated, r.Depth}
	return &proof{Kind: "key", Name: r.Address, At: q.page.At, AsOf: r.AsOfHeight, Said: said, File: q.proofFile("/v1/addresses/" + url.PathEscape(r.Address)),
		Unproven: "who the key was before, what it is asked, what it did, the keys below it, and what is pending"}
}

// proofOfIdentity is what the page of an identity has of a proof; nil if the server has no state log.
func (q *request) proofOfIdentity(id string, i *keytreev1.Identity) *proof {
	if q.explorer.statePolicy() == "" {
		return nil
	}
	return &proof{Kind: "identity", Name: id, At: q.page.At, AsOf: i.AsOfHeight, Said: identified{id, i.State, i.MergedInto, i.MainAddress}, File: q.proofFile("/v1/identities/" + id),
		Unproven: "how many keys the identity has and which, what named it, how it came to be what it is, and what is pending"}
}

// proofFile is where the proof of what is at a path of REST is.
func (q *request) proofFile(path string) string {
	path += "/proof"
	if q.page.At != nil {
		path += "?at_height=" + strconv.FormatUint(uint64(*q.page.At), 10)
	}
	return path
}
