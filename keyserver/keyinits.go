package keyserver

import (
	"cmp"
	"context"
	"crypto/ed25519"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/store"
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
	hash := uid.SigKeyHash(sigKey)
	// Before all those signatures are verified, for whoever may not add or cannot pay.
	owner, err := s.owner(ctx, hash)
	if err != nil {
		return nil, err
	}
	spend, err := s.unspentTokens(ctx, payments)
	if err != nil {
		return nil, err
	}
	now := s.now()
	for i, k := range inits {
		anchor, err := k.Verify(sigKey, s.opt.URIs, now)
		if err == nil {
			err = anchor.CheckAddress()
		}
		if err != nil {
			return nil, fmt.Errorf("KeyInit %d: %w", i+1, err)
		}
	}
	added := prepareKeyInits(inits)
	if _, err := s.heldNow(ctx, hash); err != nil { // so that the writer has it at hand
		return nil, err
	}
	for {
		err = s.change(ctx, func(t *tx) error {
			if _, present, err := t.view.Get(sigKeyKey(hash, owner)); err != nil || !present {
				return cmp.Or(err, errOvertaken)
			}
			if err := unspent(t.view, spend); err != nil { // it may have changed since
				return err
			}
			t.spend(spend)
			return t.addKeyInits(hash, added, s.opt.MaxKeyInits)
		})
		if !errors.Is(err, errOvertaken) {
			break
		}
		if owner, err = s.owner(ctx, hash); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	server := s.writer.state.Load().keys.sign
	for _, k := range inits {
		receipts = append(receipts, k.SignServer(server))
	}
	return receipts, nil
}

// owner returns an identity whose present SIGKEY a key is. ErrUnknown if there is none.
func (s *Service) owner(ctx context.Context, hash sigKeyHash) (identity string, err error) {
	err = s.view(ctx, func(view store.Reader) error {
		of := key(prefixSigKey, hash[:])
		for k, err := range view.Keys(of, nil) {
			identity = string(k[len(of):])
			return err
		}
		return fmt.Errorf("%w: no identity has this SIGKEY", ErrUnknown)
	})
	return identity, err
}

// unspentTokens returns which tokens a call that is paid with some has to spend. It looks no
// further than the first one that is not good: each takes the check of a signature.
func (s *Service) unspentTokens(ctx context.Context, payments []string) (spend []token.ID, err error) {
	err = s.view(ctx, func(view store.Reader) (err error) {
		spend, err = s.unspentIn(view, payments)
		return err
	})
	return spend, err
}

// unspentIn is unspentTokens as of a view.
func (s *Service) unspentIn(view store.Getter, payments []string) (spend []token.ID, err error) {
	for i, payment := range payments {
		id, spends, err := s.opt.Tokens.Check(payment)
		if err != nil {
			return spend, fmt.Errorf("token %d: %w", i+1, err)
		}
		if !spends {
			continue
		}
		_, before, err := view.Get(tokenKey(id))
		if err != nil {
			return spend, err
		}
		if before || slices.Contains(spend, id) {
			return spend, fmt.Errorf("%w: token %d of the call", ErrSpent, i+1)
		}
		spend = append(spend, id)
	}
	return spend, nil
}

// newKeyInit is a KeyInit to be stored, with all that can be made of it before.
type newKeyInit struct {
	heldKeyInit
	counts    bool   // in profile 1.1
	msgCount  uint64 // MSGCOUNT
	canonical []byte
}

func prepareKeyInits(inits []*keyinit.KeyInit) []newKeyInit {
	made := make([]newKeyInit, len(inits))
	for i, k := range inits {
		c := &k.Contents
		made[i] = newKeyInit{
			heldKeyInit: heldKeyInit{
				Stored: keyinit.Stored{Fallback: c.Fallback, NotBefore: c.NotBefore, NotAfter: c.NotAfter},
				digest: k.Digest(),
			},
			counts:    c.Version == uid.Version11,
			msgCount:  c.MsgCount,
			canonical: k.Canonical(),
		}
	}
	return made
}

// addKeyInits stores KeyInits and removes twice as many of the same key's that have
// expired, if there are so many: so a key has not much more than most, though expired
// ones are removed by the hour only, and a call writes no more than it brings.
func (t *tx) addKeyInits(hash sigKeyHash, inits []newKeyInit, most int) error {
	before, err := t.keyInits(hash)
	if err != nil {
		return err
	}
	here := make(map[[sha256.Size]byte]bool, len(inits)) // whether it is stored
	for i := range inits {
		here[inits[i].digest] = false
	}
	after := make([]heldKeyInit, 0, len(before)+len(inits))
	held, removed := 0, 0
	for i := range before {
		h := &before[i]
		if h.NotAfter > t.now {
			held++
		} else if removed < 2*len(inits) {
			t.forget(hash, h, false)
			removed++
			continue
		}
		if _, again := here[h.digest]; again {
			here[h.digest] = true
		}
		after = append(after, *h)
	}
	if n := held + len(inits); n > most {
		return fmt.Errorf("%w: %d are stored for this key, %d more would be above %d", ErrFull, held, len(inits), most)
	}
	b, counted, err := t.view.Get(msgCountKey(hash))
	if err != nil {
		return err
	}
	var count uint64
	if counted {
		if count, err = decodeNumber(b); err != nil {
			return err
		}
	}
	for i := range inits {
		k := &inits[i]
		_, used, err := t.view.Get(k.usedKey())
		if err != nil {
			return err
		}
		if used || here[k.digest] {
			return fmt.Errorf("%w: KeyInit %d of the call", ErrUsed, i+1)
		}
		here[k.digest] = true
		if k.counts {
			if counted && k.msgCount <= count {
				return fmt.Errorf("%w: KeyInit %d: MSGCOUNT: expected more than %d, got %d", uid.ErrInvalid, i+1, count, k.msgCount)
			}
			count, counted = k.msgCount, true
			t.set(msgCountKey(hash), number(count))
		}
		t.set(k.key(hash), k.canonical)
		t.set(k.expiryKey(hash), number(t.now))
		t.state.keyInits++
		after = append(after, k.heldKeyInit)
	}
	t.keep(hash, after)
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
		if spend, err = s.unspentTokens(ctx, []string{payment}); err != nil {
			return nil, err
		}
	}
	held, err := s.heldNow(ctx, hash)
	if err != nil {
		return nil, err
	}
	random := newSeed()                                                // the same choice each time that the call is decided
	if chosen, _ := choose(held, s.now(), random.rand()); chosen < 0 { // without keeping the writer from its work
		return nil, errNoKeyInit()
	}
	err = s.change(ctx, func(t *tx) error {
		held, err := t.keyInits(hash)
		if err != nil {
			return err
		}
		chosen, remove := choose(held, t.now, random.rand())
		if chosen < 0 {
			return errNoKeyInit()
		}
		if err := unspent(t.view, spend); err != nil {
			return err
		}
		t.spend(spend)
		h := &held[chosen]
		var ok bool
		if message, ok, err = t.view.Get(h.key(hash)); err == nil && !ok {
			err = fmt.Errorf("%w: KeyInit %x vanished", ErrDamaged, h.digest)
		}
		if err == nil && remove {
			t.forget(hash, h, true)
			t.keep(hash, slices.Delete(slices.Clone(held), chosen, chosen+1))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return message, nil
}

// heldNow returns a key's KeyInits as they were a moment ago, on disk or about to be.
func (s *Service) heldNow(ctx context.Context, hash sigKeyHash) (held []heldKeyInit, err error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	err = s.whileOpen(func() (err error) {
		held, err = s.writer.shelf(ctx, hash)
		return err
	})
	return held, err
}

// PaidFetch reports Options.PaidFetch.
func (s *Service) PaidFetch() bool { return s.opt.PaidFetch }

// FetchFallback hands out a KeyInit as FetchKeyInit does, but only one for fallback, and
// uses none up: whoever has fetched too many still gets what is there for everybody.
// ErrRate if there are only others, ErrUnknown if there is none.
func (s *Service) FetchFallback(ctx context.Context, hash [64]byte) (message []byte, err error) {
	held, err := s.heldNow(ctx, hash)
	if err != nil {
		return nil, err
	}
	now, random := s.now(), newSeed().rand()
	fallback := slices.DeleteFunc(slices.Clone(held), func(h heldKeyInit) bool { return !h.Fallback })
	err = s.view(ctx, func(view store.Reader) error {
		for {
			chosen, _ := choose(fallback, now, random)
			if chosen < 0 {
				break
			}
			var ok bool
			if message, ok, err = view.Get(fallback[chosen].key(hash)); ok || err != nil {
				return err
			}
			fallback = slices.Delete(fallback, chosen, chosen+1) // not on disk yet, or not any more
		}
		if chosen, _ := choose(held, now, random); chosen < 0 {
			return errNoKeyInit()
		}
		return fmt.Errorf("%w: you have fetched too many KeyInits lately, and this SIGKEYHASH has none for fallback", ErrRate)
	})
	return message, err
}

func errNoKeyInit() error { return fmt.Errorf("%w: KeyInit of this SIGKEYHASH", ErrUnknown) }

// seed makes randomness that nobody can foresee.
type seed [32]byte

func newSeed() (s seed) {
	cryptorand.Read(s[:]) // never fails
	return s
}

// rand returns the randomness, from its beginning.
func (s seed) rand() *rand.Rand { return rand.New(rand.NewChaCha8(s)) }

// choose is keyinit.Choose.
func choose(held []heldKeyInit, now uint64, random *rand.Rand) (index int, remove bool) {
	stored := make([]keyinit.Stored, len(held))
	for i, h := range held {
		stored[i] = h.Stored
	}
	return keyinit.Choose(stored, now, random)
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
	_, err := s.owner(ctx, hash)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return err
	}
	owned := err == nil
	added, err := s.whenAdded(ctx, hash)
	if err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		b, flushed, err := t.view.Get(flushKey(hash))
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
				return fmt.Errorf("%w: Nonce: expected at least that of the last flush, %s, got %s", uid.ErrExpired, uid.Date(last.nonce), uid.Date(nonce))
			case nonce == last.nonce && t.now > last.executed+flushAgain:
				return fmt.Errorf("%w: Nonce %s: this order was executed at %s: sign another one", uid.ErrExpired, uid.Date(nonce), uid.Date(last.executed))
			case nonce == last.nonce:
				order.executed = last.executed
			}
		}
		before, err := t.keyInits(hash)
		if err != nil {
			return err
		}
		var after []heldKeyInit
		for i := range before {
			h := &before[i]
			at, known := added[h.digest]
			if !known { // it came since
				if at, err = readAdded(t.view, hash, h); err != nil {
					return err
				}
			}
			if at <= nonce {
				t.forget(hash, h, true)
			} else {
				after = append(after, *h)
			}
		}
		if len(after) < len(before) {
			t.keep(hash, after)
		}
		// Of keys that nobody has here, anybody could fill the database with flushes.
		if len(t.writes) > 0 || owned {
			t.set(flushKey(hash), order.encode())
		}
		return nil
	})
}

// CountKeyInit tells how many KeyInits of a public signature key can be handed out now. nonce
// is the time in Unix seconds at which its owner asked (keyinit.SignCount): uid.ErrExpired if
// that is not now, uid.ErrSignature if somebody else asks.
func (s *Service) CountKeyInit(ctx context.Context, sigKey ed25519.PublicKey, nonce uint64, signature string) (count keyinit.Count, err error) {
	now := s.now()
	if err := keyinit.VerifyCount(sigKey, nonce, signature, now); err != nil {
		return count, err
	}
	held, err := s.heldNow(ctx, uid.SigKeyHash(sigKey))
	for _, h := range held {
		switch {
		case h.NotBefore > now || h.NotAfter <= now:
		case h.Fallback:
			count.Fallback++
		default:
			count.Once++
		}
	}
	return count, err
}

// flushAgain is how many seconds after an order to flush was executed another one with
// the same nonce is legitimate: two that are signed within one second are the same. Later
// it is the old one, which somebody repeats.
const flushAgain = 1

// whenAdded returns when the KeyInits of a key that are on disk were added, by their digests.
func (s *Service) whenAdded(ctx context.Context, hash sigKeyHash) (map[[sha256.Size]byte]uint64, error) {
	added := make(map[[sha256.Size]byte]uint64)
	held, err := s.heldNow(ctx, hash)
	if err != nil {
		return nil, err
	}
	return added, s.view(ctx, func(view store.Reader) error {
		for i := range held {
			b, ok, err := view.Get(held[i].expiryKey(hash))
			if err != nil {
				return err
			}
			if !ok {
				continue // not yet, or not any more
			}
			if added[held[i].digest], err = decodeNumber(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// heldKeyInit is what the keys of the database say of a stored KeyInit, but for its
// SIGKEYHASH.
type heldKeyInit struct {
	keyinit.Stored
	digest [sha256.Size]byte
}

func (h *heldKeyInit) key(hash sigKeyHash) []byte {
	fallback := byte(0)
	if h.Fallback {
		fallback = 1
	}
	return key(prefixKeyInit, hash[:], []byte{fallback}, number(h.NotAfter), number(h.NotBefore), h.digest[:])
}

func (h *heldKeyInit) expiryKey(hash sigKeyHash) []byte {
	return key(prefixExpiry, number(h.NotAfter), h.key(hash)[1:])
}

func (h *heldKeyInit) usedKey() []byte {
	return key(prefixUsed, number(h.NotAfter), h.digest[:])
}

// readHeldKey reads a key under 'i'.
func readHeldKey(k []byte) (hash sigKeyHash, h heldKeyInit) {
	k = k[1+copy(hash[:], k[1:]):]
	h.Fallback = k[0] == 1
	h.NotAfter, h.NotBefore = binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint64(k[9:])
	copy(h.digest[:], k[17:])
	return hash, h
}

// readExpiryKey reads a key under 'y'.
func readExpiryKey(k []byte) (sigKeyHash, heldKeyInit) { return readHeldKey(k[8:]) }

// readKeyInits returns a key's KeyInits that are on disk.
func readKeyInits(view store.Reader, hash sigKeyHash) (found []heldKeyInit, err error) {
	for k, err := range view.Keys(key(prefixKeyInit, hash[:]), nil) {
		if err != nil {
			return nil, err
		}
		_, h := readHeldKey(k)
		found = append(found, h)
	}
	return found, nil
}

// keyInits returns a key's KeyInits before this change. They must not be changed.
func (t *tx) keyInits(hash sigKeyHash) ([]heldKeyInit, error) { return t.shelf(hash) }

// keep says which KeyInits a key has after this change.
func (t *tx) keep(hash sigKeyHash, held []heldKeyInit) { t.shelved[hash] = held }

// readAdded returns when a KeyInit was added, in Unix seconds; 0 if nobody knows any more.
func readAdded(view store.Getter, hash sigKeyHash, h *heldKeyInit) (uint64, error) {
	b, _, err := view.Get(h.expiryKey(hash))
	if err != nil {
		return 0, err
	}
	return decodeNumber(b)
}

// forget removes a KeyInit. If it is used up, that is remembered until its
// NOTAFTER: anybody who has it could add it again.
func (t *tx) forget(hash sigKeyHash, h *heldKeyInit, used bool) {
	t.delete(h.key(hash))
	t.delete(h.expiryKey(hash))
	t.state.keyInits--
	if used && h.NotAfter > t.now {
		t.set(h.usedKey(), nil)
	}
}

// checkKeyInits compares the two records of each KeyInit in a database of a format (see
// Check).
func checkKeyInits(view store.Reader, format int) error {
	expiry := byte(prefixExpiry)
	if format == 1 {
		expiry = prefixExpiry1
	}
	held := uint64(0)
	for pair, err := range view.Pairs([]byte{prefixKeyInit}, nil) {
		if err != nil {
			return err
		}
		held++
		hash, h := readHeldKey(pair.Key)
		k, err := keyinit.Parse(pair.Value)
		dated := false
		if err == nil {
			_, dated, err = view.Get(key(expiry, h.expiryKey(hash)[1:]))
		}
		if err != nil || k.Digest() != h.digest || !dated {
			return fmt.Errorf("%w: KeyInit %x: %v", ErrDamaged, h.digest, err)
		}
	}
	expiring, err := store.Count(view, []byte{expiry})
	if err == nil && held != expiring {
		err = fmt.Errorf("%w: %d KeyInits, but %d dates of expiry", ErrDamaged, held, expiring)
	}
	return err
}
