package keyserver

import (
	"context"
	"crypto/ed25519"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// AddKeyInit stores KeyInits of the user with a public signature key, which must be
// the present SIGKEY of an identity, and returns the server's signature over each,
// in their order. payments are as many tokens. Either all are stored or none.
func (s *Service) AddKeyInit(ctx context.Context, sigKey ed25519.PublicKey, inits []*keyinit.KeyInit, payments []string) (receipts []string, err error) {
	if n := len(inits); n == 0 || n > MaxKeyInitsPerCall || n != len(payments) {
		return nil, fmt.Errorf("%w: expected 1 to %d KeyInits and as many tokens, got %d and %d",
			uid.ErrInvalid, MaxKeyInitsPerCall, n, len(payments))
	}
	spend, err := s.checkTokens(payments)
	if err != nil {
		return nil, err
	}
	hash := uid.SigKeyHash(sigKey)
	payable := func(txn *badger.Txn) error {
		if !has(txn, key(prefixSigKey, hash[:])) {
			return fmt.Errorf("%w: no identity has this SIGKEY", ErrUnknown)
		}
		return unspent(txn, spend)
	}
	// Before all those signatures are verified, for whoever cannot pay for that.
	if err := s.view(payable); err != nil {
		return nil, err
	}
	now := s.now()
	for i, k := range inits {
		if _, err := k.Verify(sigKey, s.opt.URIs, now); err != nil {
			return nil, fmt.Errorf("KeyInit %d: %w", i+1, err)
		}
	}
	err = s.change(ctx, func(t *tx) error {
		if err := payable(t.txn); err != nil { // it may have changed since
			return err
		}
		t.spend(spend)
		return t.addKeyInits(hash, inits, s.opt.MaxKeyInits)
	})
	if err != nil {
		return nil, err
	}
	server := s.writer.state.Load().keys.sign
	for _, k := range inits {
		receipts = append(receipts, k.SignServer(server))
	}
	return receipts, nil
}

// checkTokens returns which tokens a call that is paid with some has to spend.
func (s *Service) checkTokens(payments []string) (spend []token.ID, err error) {
	for i, payment := range payments {
		id, spends, err := s.opt.Tokens.Check(payment)
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", i+1, err)
		}
		if spends {
			spend = append(spend, id)
		}
	}
	return spend, nil
}

// addKeyInits stores KeyInits and removes twice as many of the same key's that have
// expired, if there are so many: so a key has not much more than most, though expired
// ones are removed by the hour only, and a call writes no more than it brings.
func (t *tx) addKeyInits(hash sigKeyHash, inits []*keyinit.KeyInit, most int) error {
	held, removed := 0, 0
	for _, h := range t.keyInits(hash) {
		if h.NotAfter > t.now {
			held++
		} else if removed < 2*len(inits) {
			t.forget(h, false)
			removed++
		}
	}
	if n := held + len(inits); n > most {
		return fmt.Errorf("%w: %d are stored for this key, %d more would be above %d", ErrFull, held, len(inits), most)
	}
	b, counted, err := get(t.txn, msgCountKey(hash))
	if err != nil {
		return err
	}
	var count uint64
	if counted {
		if count, err = decodeNumber(b); err != nil {
			return err
		}
	}
	here := make(map[[sha256.Size]byte]bool, len(inits))
	for i, k := range inits {
		c := &k.Contents
		h := heldKeyInit{
			Stored: keyinit.Stored{Fallback: c.Fallback, NotBefore: c.NotBefore, NotAfter: c.NotAfter},
			hash:   hash,
			digest: k.Digest(),
		}
		_, used, err1 := get(t.txn, h.usedKey())
		_, stored, err2 := get(t.txn, h.key())
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if used || stored || here[h.digest] {
			return fmt.Errorf("%w: KeyInit %d of the call", ErrUsed, i+1)
		}
		here[h.digest] = true
		if c.Version == uid.Version11 {
			if counted && c.MsgCount <= count {
				return fmt.Errorf("%w: KeyInit %d: MSGCOUNT: expected more than %d, got %d", uid.ErrInvalid, i+1, count, c.MsgCount)
			}
			count, counted = c.MsgCount, true
			t.set(msgCountKey(hash), number(count))
		}
		t.set(h.key(), k.Canonical())
		t.set(h.expiryKey(), number(t.now))
	}
	return nil
}

// FetchKeyInit hands out a KeyInit, in canonical form, for the given SIGKEYHASH by
// the dispersing rules (keyinit.Choose). One that is used up by that is never
// handed out again, also if this call's answer gets lost. ErrUnknown if there is
// none. With Options.PaidFetch payment is a token, which is spent if there is one;
// without, it is not looked at.
func (s *Service) FetchKeyInit(ctx context.Context, hash [64]byte, payment string) (message []byte, err error) {
	var spend []token.ID
	if s.opt.PaidFetch {
		if spend, err = s.checkTokens([]string{payment}); err != nil {
			return nil, err
		}
	}
	err = s.view(func(txn *badger.Txn) error { // without keeping the writer from its work
		if !has(txn, key(prefixKeyInit, hash[:])) {
			return errNoKeyInit()
		}
		return unspent(txn, spend)
	})
	if err != nil {
		return nil, err
	}
	random := newRandom()
	err = s.change(ctx, func(t *tx) (err error) {
		held := valid(t.txn, key(prefixKeyInit, hash[:]), t.now)
		chosen, remove := choose(held, t.now, random)
		if chosen < 0 {
			return errNoKeyInit()
		}
		if err := unspent(t.txn, spend); err != nil {
			return err
		}
		t.spend(spend)
		message, err = readKeyInit(t.txn, held[chosen])
		if remove {
			t.forget(held[chosen], true)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return message, nil
}

// PaidFetch reports Options.PaidFetch.
func (s *Service) PaidFetch() bool { return s.opt.PaidFetch }

// FetchFallback hands out a KeyInit as FetchKeyInit does, but only one for fallback, and
// uses none up: whoever has fetched too many still gets what is there for everybody.
// ErrRate if there are only others, ErrUnknown if there is none.
func (s *Service) FetchFallback(_ context.Context, hash [64]byte) (message []byte, err error) {
	err = s.view(func(txn *badger.Txn) (err error) {
		now := s.now()
		fallback := valid(txn, key(prefixKeyInit, hash[:], []byte{1}), now)
		if chosen, _ := choose(fallback, now, newRandom()); chosen >= 0 {
			message, err = readKeyInit(txn, fallback[chosen])
			return err
		}
		if len(valid(txn, key(prefixKeyInit, hash[:]), now)) == 0 {
			return errNoKeyInit()
		}
		return fmt.Errorf("%w: you have fetched too many KeyInits lately, and this SIGKEYHASH has none for fallback", ErrRate)
	})
	return message, err
}

func errNoKeyInit() error { return fmt.Errorf("%w: KeyInit of this SIGKEYHASH", ErrUnknown) }

// newRandom returns randomness that nobody can foresee.
func newRandom() *rand.Rand {
	var seed [32]byte
	cryptorand.Read(seed[:]) // never fails
	return rand.New(rand.NewChaCha8(seed))
}

// choose is keyinit.Choose.
func choose(held []heldKeyInit, now uint64, random *rand.Rand) (index int, remove bool) {
	stored := make([]keyinit.Stored, len(held))
	for i, h := range held {
		stored[i] = h.Stored
	}
	return keyinit.Choose(stored, now, random)
}

// readKeyInit returns a stored KeyInit in canonical form.
func readKeyInit(txn *badger.Txn, h heldKeyInit) ([]byte, error) {
	message, ok, err := get(txn, h.key())
	if err == nil && !ok {
		err = fmt.Errorf("%w: KeyInit %x vanished", ErrDamaged, h.digest)
	}
	return message, err
}

// valid returns what keyinit.Choose needs to see of a key's messages, at a time: the first
// valid one under a prefix that is not for fallback, or all fallback ones.
func valid(txn *badger.Txn, prefix []byte, now uint64) (found []heldKeyInit) {
	keysUnder(txn, prefix, func(k []byte) bool {
		h := readHeldKey(k)
		if h.NotBefore > now || h.NotAfter <= now {
			return true
		}
		found = append(found, h)
		return h.Fallback // they come last
	})
	return found
}

// FlushKeyInit forgets the KeyInits of a public signature key that were added up to
// nonce, so that none of them is handed out any more. nonce is the time in Unix seconds
// at which the order was signed (keyinit.SignFlush), by the user's clock. uid.ErrExpired
// for an order older than the last one, and for the last one given again more than
// flushAgain seconds after it was executed: so who repeats somebody's order removes
// nothing that was added since, also where the user's clock is ahead.
func (s *Service) FlushKeyInit(ctx context.Context, sigKey ed25519.PublicKey, nonce uint64, signature string) error {
	if err := keyinit.VerifyFlush(sigKey, nonce, signature, s.now()); err != nil {
		return err
	}
	hash := uid.SigKeyHash(sigKey)
	return s.change(ctx, func(t *tx) error {
		b, flushed, err := get(t.txn, flushKey(hash))
		if err != nil {
			return err
		}
		order := flushRecord{nonce, t.now}
		if flushed {
			last, err := decodeFlushRecord(b)
			if err != nil {
				return err
			}
			switch {
			case nonce < last.nonce:
				return fmt.Errorf("%w: Nonce: expected at least that of the last flush, %d, got %d", uid.ErrExpired, last.nonce, nonce)
			case nonce == last.nonce && t.now > last.executed+flushAgain:
				return fmt.Errorf("%w: Nonce %d: this order was executed at %d: sign another one", uid.ErrExpired, nonce, last.executed)
			case nonce == last.nonce:
				order.executed = last.executed
			}
		}
		for _, h := range t.keyInits(hash) {
			added, err := t.added(h)
			if err != nil {
				return err
			}
			if added <= nonce {
				t.forget(h, true)
			}
		}
		// Of keys that nobody has here, anybody could fill the database with flushes.
		if len(t.writes) > 0 || has(t.txn, key(prefixSigKey, hash[:])) {
			t.set(flushKey(hash), order.encode())
		}
		return nil
	})
}

// flushAgain is how many seconds after an order to flush was executed another one with
// the same nonce is legitimate: two that are signed within one second are the same. Later
// it is the old one, which somebody repeats.
const flushAgain = 1

// forgetAtOnce is how many expired KeyInits are removed in one transaction.
const forgetAtOnce = 1000

// forgetExpired removes KeyInits, and what is remembered of used ones, after their
// NOTAFTER.
func (s *Service) forgetExpired(ctx context.Context) error {
	for more := true; more; {
		err := s.writer.do(ctx, func(t *tx) error {
			n := 0
			expired := func(remove func(k []byte)) func(k []byte) bool {
				return func(k []byte) bool {
					if n == forgetAtOnce || binary.BigEndian.Uint64(k[1:]) > t.now {
						return false
					}
					n++
					remove(k)
					return true
				}
			}
			keysUnder(t.txn, []byte{prefixExpiry}, expired(func(k []byte) { t.forget(readExpiryKey(k), false) }))
			keysUnder(t.txn, []byte{prefixUsed}, expired(func(k []byte) { t.delete(append([]byte(nil), k...)) }))
			more = n == forgetAtOnce
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// heldKeyInit is what the keys of the database say of a stored KeyInit.
type heldKeyInit struct {
	keyinit.Stored
	hash   sigKeyHash
	digest [sha256.Size]byte
}

func (h *heldKeyInit) key() []byte {
	fallback := byte(0)
	if h.Fallback {
		fallback = 1
	}
	return key(prefixKeyInit, h.hash[:], []byte{fallback}, number(h.NotAfter), number(h.NotBefore), h.digest[:])
}

func (h *heldKeyInit) expiryKey() []byte {
	return key(prefixExpiry, number(h.NotAfter), h.key()[1:])
}

func (h *heldKeyInit) usedKey() []byte {
	return key(prefixUsed, number(h.NotAfter), h.digest[:])
}

// readHeldKey reads a key under 'i'.
func readHeldKey(k []byte) (h heldKeyInit) {
	k = k[1+copy(h.hash[:], k[1:]):]
	h.Fallback = k[0] == 1
	h.NotAfter, h.NotBefore = binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint64(k[9:])
	copy(h.digest[:], k[17:])
	return h
}

// readExpiryKey reads a key under 'y'.
func readExpiryKey(k []byte) heldKeyInit { return readHeldKey(k[8:]) }

// keyInits returns a key's stored KeyInits: those that are not for fallback first,
// each sort by NOTAFTER.
func (t *tx) keyInits(hash sigKeyHash) (found []heldKeyInit) {
	keysUnder(t.txn, key(prefixKeyInit, hash[:]), func(k []byte) bool {
		found = append(found, readHeldKey(k))
		return true
	})
	return found
}

// added returns when a KeyInit was added, in Unix seconds; 0 if nobody knows any more.
func (t *tx) added(h heldKeyInit) (uint64, error) {
	b, _, err := get(t.txn, h.expiryKey())
	if err != nil {
		return 0, err
	}
	return decodeNumber(b)
}

// forget removes a KeyInit. If it is used up, that is remembered until its
// NOTAFTER: anybody who has it could add it again.
func (t *tx) forget(h heldKeyInit, used bool) {
	t.delete(h.key())
	t.delete(h.expiryKey())
	if used && h.NotAfter > t.now {
		t.set(h.usedKey(), nil)
	}
}

// checkKeyInits compares the two records of each KeyInit in a database of a format (see
// Check).
func checkKeyInits(txn *badger.Txn, format int) error {
	expiry := byte(prefixExpiry)
	if format == 1 {
		expiry = prefixExpiry1
	}
	held, expiring := 0, 0
	var problem error
	opt := badger.DefaultIteratorOptions
	opt.Prefix = []byte{prefixKeyInit}
	it := txn.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid() && problem == nil; it.Next() {
		held++
		h := readHeldKey(it.Item().Key())
		problem = it.Item().Value(func(b []byte) error {
			k, err := keyinit.Parse(b)
			if err != nil || k.Digest() != h.digest || !has(txn, key(expiry, h.expiryKey()[1:])) {
				return fmt.Errorf("%w: KeyInit %x: %v", ErrDamaged, h.digest, err)
			}
			return nil
		})
	}
	keysUnder(txn, []byte{expiry}, func([]byte) bool { expiring++; return true })
	if problem == nil && held != expiring {
		problem = fmt.Errorf("%w: %d KeyInits, but %d dates of expiry", ErrDamaged, held, expiring)
	}
	return problem
}
