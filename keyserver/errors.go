package keyserver

import (
	"errors"

	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Why a call is refused. Nothing was changed, and no token spent. Besides these
// there are canonical.ErrMalformed, uid.ErrInvalid, uid.ErrSignature,
// uid.ErrExpired and token.ErrInvalid: the message or token must be corrected.
var (
	// ErrTaken says that a name, or one that looks like it, is not free.
	ErrTaken = errors.New("identity is taken")
	// ErrUnknown says that an identity, message or entry is not here.
	ErrUnknown = errors.New("not found")
	// ErrReserved says that nobody may have a name.
	ErrReserved = uid.ErrReserved
	// ErrDomain says that the keyserver does not serve a domain.
	ErrDomain = errors.New("domain is not served here")
	// ErrLastEntry says that LASTENTRY is not an entry of this chain, or too old:
	// the author should update the hashchain and sign anew.
	ErrLastEntry = errors.New("LASTENTRY")
	// ErrSpent says that a token has paid for something else before.
	ErrSpent = errors.New("token was spent before")
	// ErrUsed says that a KeyInit is or was in the repository already.
	ErrUsed = errors.New("KeyInit was added before")
	// ErrFull says that a key has as many KeyInits as it may have.
	ErrFull = errors.New("too many KeyInits")
	// ErrRate says that somebody has fetched too many KeyInits; try again later.
	ErrRate = errors.New("too many requests")
	// ErrTooBig says that one call writes more than can be written at once.
	ErrTooBig = errors.New("too much for one call")
	// ErrRange says that positions or sizes make no sense, or are beyond the chain.
	ErrRange = errors.New("range not in the hashchain")
	// ErrDiskFull says that the disk has too little room left for a write, or for
	// opening or restoring the database. An open service goes on, and writes again
	// as soon as there is room.
	ErrDiskFull = store.ErrDiskFull
)

// Why a service does not work.
var (
	// ErrHeld says that the service is held back until Release. Wait.
	ErrHeld = errors.New("the keyserver is held back until its hashchain has been compared with what was anchored; try again later")
	// ErrStandby says that another server writes, for which this one stands by. Ask that one,
	// or try again later: this one may have taken over then.
	ErrStandby = errors.New("this keyserver stands by for another one, which alone may write")
	// ErrUnavailable says that whatever the database is in does not answer. Try again later.
	ErrUnavailable = store.ErrUnavailable
	// ErrClosed says that the service has been closed.
	ErrClosed = errors.New("keyserver is closed")
	// ErrFailed says that something could not be written, or that what is stored was
	// found damaged. Whether the call has been stored is not known: look for it
	// after the service was opened anew.
	ErrFailed = errors.New("keyserver has failed and must be started anew")
	// ErrMismatch says that database, key file and options do not belong together.
	// Nothing was changed; correct what is named.
	ErrMismatch = errors.New("wrong database or key")
	// ErrFormat says that an earlier keytree has made the database, and that the service
	// was opened without Options.Migrate. Nothing was changed.
	ErrFormat = errors.New("database of an earlier format")
	// ErrReadOnly says that a call would change a database that was opened with Options.ReadOnly.
	ErrReadOnly = store.ErrReadOnly
	// ErrDamaged says that the database holds something else than was written.
	// Restore a backup, and compare its head with what others have seen.
	ErrDamaged = store.ErrDamaged
	// ErrLocked says that another process has the database open, or has taken it over.
	ErrLocked = store.ErrLocked
)
