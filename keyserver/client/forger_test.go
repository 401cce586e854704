package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// forger is a keyserver that enters whatever it is told to: what a dishonest one
// could do, and chains that are too long for an honest one to be made in a test.
type forger struct {
	t       testing.TB
	now     uint64
	key     ed25519.PrivateKey
	entries []hashchain.Entry
	replies map[string]*uid.Reply     // by UIDIndex in base64
	sealed  map[hashchain.Hash]uint64 // positions of entries without a message, by UIDIndex
	http    *httptest.Server
	// lastEntry and capabilityEntry are shown instead of the last, unless they are nil.
	lastEntry, capabilityEntry *hashchain.Entry
	// withheld are positions about which there is no reply.
	withheld []uint64
	sent     atomic.Int64 // bytes of chain
}

func newForger(t testing.TB) *forger {
	inMemory(t)
	f := &forger{t: t, now: 1_800_000_000, key: newKey(0), replies: make(map[string]*uid.Reply), sealed: make(map[hashchain.Hash]uint64)}
	f.http = httptest.NewServer(f)
	t.Cleanup(func() {
		f.http.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	f.enter(firstMessage("keyserver@"+testDomain, "", f.now, f.key))
	return f
}

func (f *forger) last() string { return f.entries[len(f.entries)-1].String() }

// enter enters a message that need not be good.
func (f *forger) enter(m *uid.Message) {
	f.t.Helper()
	sealed, err := m.Seal(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	f.seal(m.Content.Identity, sealed.Hash)
	f.reply(sealed.Encrypted, len(f.entries)-1, f.key)
}

// reply signs a reply about the entry at a position.
func (f *forger) reply(encrypted string, position int, key ed25519.PrivateKey) {
	f.replies[indexOf(&f.entries[position])] = uid.NewReply(encrypted, &f.entries[position], uint64(position), key)
}

func indexOf(e *hashchain.Entry) string {
	index := e.UIDIndex()
	return canonical.Encode(index[:])
}

// rewrite makes another history of it from a position on, and of another length. What
// was signed about the old one is still given out.
func (f *forger) rewrite(from, size int) {
	for i := from; i < len(f.entries); i++ {
		f.reply("", i, f.key)
	}
	f.entries = f.entries[:from:from]
	f.fill(size - from)
}

// or is the text of an entry; of the last if it is nil.
func (f *forger) or(e *hashchain.Entry) string {
	if e == nil {
		return f.last()
	}
	return e.String()
}

// seal enters an entry without a message. Its reply is signed when it is asked for.
func (f *forger) seal(identity string, uidHash hashchain.Hash) {
	var prev hashchain.Hash
	if n := len(f.entries); n > 0 {
		prev = f.entries[n-1].Hash()
	}
	e, err := hashchain.Seal(prev, identity, uidHash, rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	f.sealed[e.UIDIndex()] = uint64(len(f.entries))
	f.entries = append(f.entries, e)
}

// fill enters n entries without messages.
func (f *forger) fill(n int) {
	for range n {
		var uidHash hashchain.Hash
		rand.Read(uidHash[:]) // never fails
		f.seal("somebody@example.org", uidHash)
	}
}

func (f *forger) options() Options {
	return Options{Now: func() time.Time { return time.Unix(int64(f.now), 0) }, argonMemory: 64}
}

// init makes a folder with a copy of the chain that begins as this one does now.
func (f *forger) init() (*Client, error) {
	first := f.entries[0].Hash()
	c, err := Init(context.Background(), f.t.TempDir(), f.http.URL+"/", "", &first, f.options())
	if c != nil {
		f.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// ServeHTTP implements http.Handler.
func (f *forger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call struct {
		Method string
		Params struct {
			StartPosition, EndPosition int
			UIDIndex                   string
			UIDMessage                 *uid.Message
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
		f.t.Error(err)
	}
	w.Header().Set("Date", time.Unix(int64(f.now), 0).UTC().Format(http.TimeFormat))
	var result any
	switch name := call.Method[strings.Index(call.Method, ".")+1:]; name {
	case "Capabilities":
		result = map[string]any{"CAPABILITIES": map[string]any{
			"METHODS": []string{
				"KeyHashchain.FetchLastHashChain", "KeyRepository.FetchHashChain", "KeyRepository.FetchUID", // the other name of one
				"KeyRepository.CreateUID", "KeyRepository.UpdateUID",
			},
			"DOMAINS": []string{testDomain}, "KEYHASHCHAINENTRY": f.or(f.capabilityEntry), "SIGPUBKEYS": []string{},
		}}
	case "FetchLastHashChain":
		result = map[string]any{"HCEntry": f.or(f.lastEntry), "HCPos": len(f.entries) - 1}
	case "FetchUID":
		reply := f.replies[call.Params.UIDIndex]
		index, err := canonical.Decode(call.Params.UIDIndex, len(hashchain.Hash{}))
		if err != nil {
			f.t.Error(err)
			return
		}
		if position, ok := f.sealed[hashchain.Hash(index)]; reply == nil && ok && position < uint64(len(f.entries)) {
			reply = uid.NewReply("", &f.entries[position], position, f.key)
		}
		if reply == nil || slices.Contains(f.withheld, reply.Entry.HashchainPos) {
			fmt.Fprint(w, `{"jsonrpc":"2.0","error":{"code":-32001,"message":"not found"},"id":1}`)
			return
		}
		result = map[string]any{"UIDMessageReply": reply}
	case "CreateUID", "UpdateUID":
		m := call.Params.UIDMessage
		if err := m.Content.CheckTime(f.now); err != nil {
			fmt.Fprintf(w, `{"jsonrpc":"2.0","error":{"code":-32002,"message":%q},"id":1}`, err)
			return
		}
		f.enter(m)
		result = map[string]any{"UIDMessageReply": f.replies[indexOf(&f.entries[len(f.entries)-1])]}
	case "FetchHashChain":
		text := []byte(`{"jsonrpc":"2.0","result":{"HCEntries":[`)
		for i := call.Params.StartPosition; i <= call.Params.EndPosition; i++ {
			if i > call.Params.StartPosition {
				text = append(text, ',')
			}
			text = append(base64.StdEncoding.AppendEncode(append(text, '"'), f.entries[i][:]), '"')
			if len(text) > 64<<10 {
				w.Write(text)
				f.sent.Add(int64(len(text)))
				text = text[:0]
			}
		}
		text = fmt.Appendf(text, `],"HCFirstPos":%d},"id":1}`, call.Params.StartPosition)
		w.Write(text)
		f.sent.Add(int64(len(text)))
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "result": result, "id": 1})
}

// What is wrong in an entry or message that follows the chain and that the keyserver
// has signed is found by who looks the identity up.
func TestForgedMessages(t *testing.T) {
	first := func(f *forger, last string) *uid.Message { return firstMessage(alice, last, f.now, newKey(1)) }
	for name, test := range map[string]struct {
		forge    func(f *forger)
		position uint64
		problem  string
	}{
		"registered twice": {func(f *forger) {
			f.enter(first(f, f.last()))
			f.enter(firstMessage(alice, f.last(), f.now, newKey(2)))
		}, 2, "registered again"},
		"update without signature": {func(f *forger) {
			f.enter(first(f, f.last()))
			m := firstMessage(alice, f.last(), f.now, newKey(2))
			m.Content.MsgCount = 1
			m.Sign(newKey(2))
			f.enter(m)
		}, 2, "USERSIGNATURE"},
		"begins with an update": {func(f *forger) {
			m := first(f, f.last())
			m.Content.MsgCount = 1
			m.Sign(newKey(1))
			f.enter(m)
		}, 1, "MSGCOUNT"},
		"unsigned": {func(f *forger) {
			m := first(f, f.last())
			m.SelfSignature = ""
			f.enter(m)
		}, 1, "SELFSIGNATURE"},
		"not of a profile": {func(f *forger) {
			m := first(f, f.last())
			m.Content.Version = "2.0"
			m.Sign(newKey(1))
			f.enter(m)
		}, 1, "VERSION"},
		"of another identity": {func(f *forger) {
			m := firstMessage("bert@example.org", f.last(), f.now, newKey(1))
			f.enter(m)
			sealed, _ := m.Seal(rand.Reader)
			f.seal(alice, sealed.Hash)
			e := &f.entries[2]
			index := e.UIDIndex()
			f.replies[canonical.Encode(index[:])] = uid.NewReply(sealed.Encrypted, e, 2, f.key)
		}, 2, "its message of bert"},
		"the author saw another chain": {func(f *forger) {
			f.seal("bert@example.org", hashchain.Hash{1})
			fork := f.last()
			f.entries = f.entries[:1]
			f.seal("bert@example.org", hashchain.Hash{2})
			f.enter(first(f, fork))
		}, 2, "different chains"},
		"the author saw the future": {func(f *forger) {
			m := first(f, f.last())
			f.enter(m)
			future := f.entries
			f.entries = f.entries[:1]
			f.enter(first(f, future[1].String()))
		}, 1, "different chains"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForger(t)
			test.forge(f)
			c, err := f.init()
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Lookup(t.Context(), alice)
			e := wantMisbehaviour(t, err, test.position, test.problem)
			if len(e.Reply) == 0 {
				t.Error("what the keyserver signed is not in the evidence")
			}
			if _, err := c.Lookup(t.Context(), alice); err == nil {
				t.Error("found it the second time")
			}
		})
	}
	t.Run("withheld", func(t *testing.T) {
		f := newForger(t)
		f.seal(alice, hashchain.Hash{1})
		f.fill(1)
		c, err := f.init()
		if err != nil {
			t.Fatal(err)
		}
		f.withheld = []uint64{1}
		if _, err := c.Lookup(t.Context(), alice); err == nil || !strings.Contains(err.Error(), "position 1 is in the hashchain, but its message is withheld") {
			t.Error(err)
		}
	})
}

// The keyserver's own identity is followed by the same rules.
func TestForgedServerKeys(t *testing.T) {
	rotation := func(f *forger, old ed25519.PrivateKey) *uid.Message {
		m := firstMessage("keyserver@"+testDomain, f.last(), f.now, newKey(5))
		m.Content.MsgCount = 1
		m.Sign(newKey(5))
		m.SignUser(old)
		return m
	}
	for name, test := range map[string]struct {
		forge    func(f *forger)
		signed   bool
		position uint64
		problem  string
	}{
		"first entry of another": {func(f *forger) {
			m := firstMessage(alice, f.last(), f.now, newKey(1))
			f.entries = nil
			f.enter(m)
		}, false, 0, "first entry is not of keyserver@"},
		"rotation not by the old key": {func(f *forger) { f.enter(rotation(f, newKey(6))) }, true, 1, "USERSIGNATURE"},
		"rotation under the new key": {func(f *forger) {
			m := rotation(f, f.key)
			f.key = newKey(5)
			f.enter(m)
		}, false, 1, "SERVERSIGNATURE"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForger(t)
			test.forge(f)
			c, err := f.init()
			if test.signed {
				wantMisbehaviour(t, err, test.position, test.problem)
			} else {
				wantUnproven(t, c.dir, err, ErrUnsigned, test.position, test.problem)
			}
			// Anybody can make all of that, unless it is known whose chain it is.
			dir := t.TempDir()
			stranger, err := Init(t.Context(), dir, f.http.URL+"/", "", nil, f.options())
			wantUnproven(t, dir, errors.Join(err, stranger.Close()), ErrUnsigned, test.position, test.problem)
			if c.Size() != 0 {
				t.Errorf("%d entries were taken", c.Size())
			}
		})
	}

	// After a rotation the old key is good for what it signed before, and no more.
	f := newForger(t)
	f.enter(firstMessage("bert@example.org", f.last(), f.now, newKey(1)))
	old := f.key
	f.enter(rotation(f, f.key))
	f.enter(firstMessage("carl@example.org", f.last(), f.now, newKey(2)))
	f.key = newKey(5)
	f.enter(firstMessage("dora@example.org", f.last(), f.now, newKey(3)))
	c, err := f.init()
	if err != nil {
		t.Fatal(err)
	}
	if keys := c.ServerKeys(); len(keys) != 2 || keys[1].Position != 2 || !keys[0].Public.Equal(public(old)) {
		t.Errorf("keys %v", keys)
	}
	for _, name := range []string{"bert@example.org", "dora@example.org"} {
		if _, err := c.Lookup(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	_, err = c.Lookup(t.Context(), "carl@example.org")
	wantUnproven(t, c.dir, err, ErrUnsigned, 3, "SERVERSIGNATURE")
}
