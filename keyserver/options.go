package keyserver

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/store/badger"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Defaults and bounds of Options.
const (
	// DefaultMaxKeyInits is how many KeyInits a key may have stored.
	DefaultMaxKeyInits = 1000
	// mostKeyInits is the highest value of Options.MaxKeyInits: a flush of all of
	// them is one transaction.
	mostKeyInits = 5000

	// MaxKeyInitsPerCall is how many KeyInits one AddKeyInit may bring.
	MaxKeyInitsPerCall = 100

	// maxDomain is the longest domain, in bytes, whose hashchain can be anchored.
	maxDomain = 63
)

// Tokens decides what calls are paid with.
type Tokens interface {
	// Check returns the ID under which a token is to be remembered as spent, or
	// spend false if there is nothing to remember. token.ErrInvalid if the token is
	// not good. It is called concurrently and changes nothing.
	Check(text string) (id token.ID, spend bool, err error)
	// PublicKey is what clients need to buy or check tokens, "" if nothing.
	PublicKey() string
}

// Options are what a Service is told. Domain, Dir, KeyFile and Tokens are
// required; elsewhere zero means the default.
type Options struct {
	Domain  string // that is served, for good: a host name in lower case of at most 63 bytes
	Dir     string // of the database, made if it does not exist; with Place, only of the backup that Migrate makes
	KeyFile string // with the server's secrets, made at the first start
	Tokens  Tokens

	// Place is where the database is; nil is in Dir, in Badger.
	Place store.Place

	// URIs under which clients reach this server, as Capabilities lists them and as
	// KeyInits must name it. Domain alone by default; it must be one of them.
	URIs []string

	// LinkAuthority is the public key of whoever may vouch for authoritative links
	// (LINKAUTHORITY); nil if nobody may.
	LinkAuthority ed25519.PublicKey

	// Anchors is how often the hashchain is anchored, as Capabilities tell auditors; nil
	// if it is not.
	Anchors *schedule.Schedule

	MaxKeyInits int  // stored for one key, at most 5000
	PaidFetch   bool // FetchKeyInit takes a token, as the calls that add something do

	// Held keeps the service from showing or changing its history until Release: until
	// it is known that no anchor contradicts it.
	Held bool

	// Migrate has Open convert a database that an earlier keytree has made, after it has
	// written a backup of it beside Dir: DIR.format-N.backup. Without, Open refuses it
	// with ErrFormat.
	Migrate bool
	// ReadOnly opens a database, which must be there, of this or an earlier format, only to
	// read it: a call that changes something returns ErrReadOnly. Database and key file stay
	// as they are, to the last byte (see badger.Place). A process that may not read the
	// key file can open the database so, too; the log says that the two were not compared.
	ReadOnly bool

	// Standby has the service answer what needs no writing, beside another that writes the same
	// store, until TakeOver. Place must be a store.SharedPlace, and hold a keyserver.
	Standby bool
	// Acknowledged is a file that remembers how far the hashchain was acknowledged, so that Open
	// and TakeOver notice a store that has lost some of it; "" is none.
	Acknowledged string

	Now func() time.Time // the clock; time.Now by default
	Log zerolog.Logger

	memTable     int64                                  // bytes; tests make it small
	migratePiece int                                    // records; tests make it small
	commit       func(store.Store, []store.Write) error // Commit; tests kill the process there
}

// place is where the database is.
func (o *Options) place() store.Place {
	if o.Place != nil {
		return o.Place
	}
	return badger.Place{Dir: o.Dir, MemTable: o.memTable, Log: o.Log}
}

func (o *Options) complete() error {
	if err := uid.CheckDomain(o.Domain); err != nil || len(o.Domain) > maxDomain {
		return fmt.Errorf("%w: domain %q: expected a host name in lower case of at most %d bytes", ErrMismatch, o.Domain, maxDomain)
	}
	if o.Dir == "" || o.KeyFile == "" || o.Tokens == nil {
		return fmt.Errorf("%w: folder, key file and tokens must be given", ErrMismatch)
	}
	if len(o.URIs) == 0 {
		o.URIs = []string{o.Domain}
	}
	if !slices.Contains(o.URIs, o.Domain) {
		return fmt.Errorf("%w: URIs %q: must include the domain, %s, under which profile 1.0 finds everything", ErrMismatch, o.URIs, o.Domain)
	}
	if o.Anchors != nil {
		if err := o.Anchors.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrMismatch, err)
		}
	}
	if o.MaxKeyInits == 0 {
		o.MaxKeyInits = DefaultMaxKeyInits
	}
	if o.MaxKeyInits < 0 || o.MaxKeyInits > mostKeyInits {
		return fmt.Errorf("%w: expected 1 to %d KeyInits of a key, got %d", ErrMismatch, mostKeyInits, o.MaxKeyInits)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.memTable == 0 {
		o.memTable = 64 << 20
	}
	if o.migratePiece == 0 {
		o.migratePiece = migratePiece
	}
	if o.commit == nil {
		o.commit = store.Store.Commit
	}
	return nil
}
