package client

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// entries returns the true chain.
func (s *server) entries() (all []hashchain.Entry) {
	s.t.Helper()
	_, entries, err := s.service.Entries(s.t.Context(), 0, chainfile.MaxEntries)
	if err != nil {
		s.t.Fatal(err)
	}
	for e, err := range entries {
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// show has the server show some entries as its chain.
func (s *server) show(entries []hashchain.Entry) {
	last := len(entries) - 1
	s.put(func(method string, params []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		switch method {
		case "KeyHashchain.FetchLastHashChain":
			return map[string]any{"HCEntry": entries[last].String(), "HCPos": last}, nil
		case "KeyHashchain.FetchHashChain":
			var p struct{ StartPosition, EndPosition int }
			if err := json.Unmarshal(params, &p); err != nil {
				return nil, err
			}
			var texts []string
			for _, e := range entries[min(p.StartPosition, last):min(p.EndPosition+1, len(entries))] {
				texts = append(texts, e.String())
			}
			return map[string]any{"HCEntries": texts, "HCFirstPos": min(p.StartPosition, last)}, nil
		case "KeyRepository.Capabilities":
			result, err := pass()
			if err == nil {
				result["CAPABILITIES"].(map[string]any)["KEYHASHCHAINENTRY"] = entries[last].String()
			}
			return result, err
		}
		_, err := pass()
		return nil, err
	})
}

// rehashed changes an entry and makes a chain of it again from there on.
func rehashed(entries []hashchain.Entry, position int) []hashchain.Entry {
	entries = slices.Clone(entries)
	entries[position][100] ^= 1
	for i := position; i < len(entries); i++ {
		var prev hashchain.Hash
		if i > 0 {
			prev = entries[i-1].Hash()
		}
		sum := sha256.Sum256(append(slices.Clone(entries[i][len(prev):]), prev[:]...))
		copy(entries[i][:], sum[:])
	}
	return entries
}

func swapped(entries []hashchain.Entry, i int) []hashchain.Entry {
	entries = slices.Clone(entries)
	entries[i], entries[i+1] = entries[i+1], entries[i]
	return entries
}

// appended adds an entry that nobody has signed.
func appended(s *server, entries []hashchain.Entry, identity string) []hashchain.Entry {
	e, err := hashchain.Seal(entries[len(entries)-1].Hash(), identity, hashchain.Hash{1}, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return append(slices.Clone(entries), e)
}

func flipped(entries []hashchain.Entry, position, at int) []hashchain.Entry {
	entries = slices.Clone(entries)
	entries[position][at] ^= 1
	return entries
}

func dropped(entries []hashchain.Entry, i int) []hashchain.Entry {
	return slices.Delete(slices.Clone(entries), i, i+1)
}

// Who changes what a client has seen, or shows no chain, is told where. It need not be
// the keyserver: the keyserver has signed none of it.
func TestRewrittenChain(t *testing.T) {
	const known, all = 6, 9
	s := newServer(t, token.Open{})
	s.fill(known - 1)
	dir := t.TempDir()
	if err := s.mustInit(dir).Close(); err != nil {
		t.Fatal(err)
	}
	s.fill(all - known)
	truth := s.entries()
	for name, test := range map[string]struct {
		chain    []hashchain.Entry
		position uint64
		kind     error
		problem  string
	}{
		"rewritten, grown":           {rehashed(truth, 3), 3, ErrContradiction, anotherEntry},
		"rewritten, first":           {rehashed(truth, 0), 0, ErrContradiction, anotherEntry},
		"rewritten, last":            {rehashed(truth, known-1), known - 1, ErrContradiction, anotherEntry},
		"rewritten, not grown":       {rehashed(truth[:known], 2), 2, ErrContradiction, anotherEntry},
		"rewritten, shorter":         {rehashed(truth[:4], 1), 1, ErrContradiction, anotherEntry},
		"an old state":               {truth[:4], 4, ErrContradiction, "withheld"},
		"new entry changed":          {flipped(truth, 7, 50), 7, ErrUnsigned, "does not follow"},
		"new entry dropped":          {dropped(truth, 7), 7, ErrUnsigned, "does not follow"},
		"first new entry dropped":    {dropped(truth, known), known, ErrUnsigned, "does not follow"},
		"new entries swapped":        {swapped(truth, 7), 7, ErrUnsigned, "does not follow"},
		"last known entry dropped":   {dropped(truth, known-1), known - 1, ErrContradiction, anotherEntry},
		"new entries made up":        {rehashed(truth, 7), all - 1, ErrUnsigned, "another entry"},
		"an entry appended":          {appended(s, truth, alice), all, ErrUnsigned, "no signed message"},
		"a key of the keyserver's":   {appended(s, truth, "keyserver@"+testDomain), all, ErrUnsigned, "no signed message"},
		"an old one, and only there": {flipped(truth, 2, 50), 0, nil, ""}, // nobody asks for it again
	} {
		t.Run(name, func(t *testing.T) {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c := must(Open(copied, s.options()))(t)
			s.show(test.chain)
			_, err := c.Sync(t.Context())
			if test.kind == nil {
				if err != nil {
					t.Fatal(err)
				}
				wantUnproven(t, copied, errors.Join(c.Recheck(t.Context()), c.Close()), ErrContradiction, 2, anotherEntry)
				return
			}
			wantUnproven(t, copied, err, test.kind, test.position, test.problem)
			if c.Size() != known {
				t.Errorf("the copy has %d entries", c.Size())
			}
			_, err = c.Sync(t.Context())
			wantUnproven(t, copied, err, test.kind, test.position, test.problem)
			s.put(nil)
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			honest := must(Open(copied, s.options()))(t)
			defer honest.Close()
			if _, err := honest.Sync(t.Context()); err != nil || honest.Size() != all {
				t.Errorf("the truth afterwards: %d entries, %v", honest.Size(), err)
			}
		})
	}
}

// A changed byte is found wherever it is, by a client that has nothing yet.
func TestEveryByte(t *testing.T) {
	s := newServer(t, token.Open{})
	s.fill(4)
	truth := s.entries()
	for position := range truth {
		for at := range hashchain.EntrySize {
			if position != 2 && at%50 != 0 {
				continue
			}
			s.show(flipped(truth, position, at))
			c, err := s.init(t.TempDir())
			switch {
			case at == 32: // the type, without which it is no entry
				if !errors.Is(err, hashchain.ErrEntry) {
					t.Errorf("byte %d of entry %d: %v", at, position, err)
				}
			default:
				wantUnproven(t, c.dir, err, ErrUnsigned, uint64(position), "")
			}
			if c != nil {
				if c.Size() != 0 {
					t.Errorf("byte %d of entry %d: %d entries were taken", at, position, c.Size())
				}
				c.Close()
			}
		}
	}
}

// Nothing but the truth is taken for the answer to CreateUID; what was created is not
// lost by a lie about it, and nobody is convicted of it.
func TestLyingReplies(t *testing.T) {
	for name, test := range map[string]struct {
		lie      func(s *server)
		kind     error
		position uint64
		problem  string
	}{
		"another's reply": {func(s *server) {
			other := s.register("bert@example.org") // at position 3
			s.changing("CreateUID", func(_ []byte, r map[string]any) { r["UIDMessageReply"] = other })
		}, ErrUnsigned, 3, "another message than was sent"},
		"wrong server signature": {func(s *server) {
			s.changing("CreateUID", resigned)
		}, ErrUnsigned, 3, "SERVERSIGNATURE"},
		"another position": {func(s *server) {
			s.changing("CreateUID", func(_ []byte, r map[string]any) {
				r["UIDMessageReply"].(map[string]any)["ENTRY"].(map[string]any)["HASHCHAINPOS"] = 2
			})
		}, ErrUnsigned, 2, "SERVERSIGNATURE"},
		"no entry": {func(s *server) {
			s.changing("CreateUID", func(_ []byte, r map[string]any) {
				r["UIDMessageReply"].(map[string]any)["ENTRY"].(map[string]any)["HASHCHAINENTRY"] = ""
			})
		}, ErrUnsigned, 3, "entry"},
		"acknowledged, withheld": {func(s *server) { s.show(s.entries()) }, ErrContradiction, 3, "withheld"},
		"another entry in the chain": {func(s *server) {
			s.put(func(method string, params []byte, pass func() (map[string]any, error)) (map[string]any, error) {
				_, err := pass()
				if method == "KeyRepository.CreateUID" {
					s.show(rehashed(s.entries(), 3))
				}
				return nil, err
			})
		}, ErrUnsigned, 3, "another entry"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, token.Open{})
			s.fill(2)
			c := s.mustInit(t.TempDir())
			test.lie(s)
			var printed paper
			_, err := c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show})
			wantUnproven(t, c.dir, err, test.kind, test.position, test.problem)
			id := must(c.OpenIdentity(alice, testPassphrase))(t)
			if id.Stage() != Pending || id.record.Pending.Escrow == nil {
				t.Errorf("the escrow key is gone at stage %s", id.Stage())
			}
			if errors.Is(err, ErrContradiction) { // as long as it is withheld
				_, err := c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show})
				wantUnproven(t, c.dir, err, test.kind, test.position, test.problem)
			}
			s.put(nil)
			if _, err = c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show}); err != nil || len(printed.keys) != 1 {
				t.Errorf("afterwards: %d papers, %v", len(printed.keys), err)
			}
			wantNoEvidence(t, c.dir)
		})
	}
}

// resigned replaces a server signature.
func resigned(_ []byte, r map[string]any) {
	raw, _ := json.Marshal(r["UIDMessageReply"])
	reply, err := uid.ParseReply(raw)
	if err != nil {
		panic(err)
	}
	reply.ServerSignature = canonical.Encode(ed25519.Sign(newKey(1000), canonical.Marshal(reply.Entry)))
	r["UIDMessageReply"] = reply
}

func TestLyingMessages(t *testing.T) {
	s := newServer(t, token.Open{})
	s.fill(2)
	s.register(alice) // at position 3
	other := s.register("bert@example.org")
	s.fill(1)
	dir := t.TempDir()
	if err := s.mustInit(dir).Close(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		lie     func()
		problem string
	}{
		"another's message":      {func() { s.changing("FetchUID", func(_ []byte, r map[string]any) { r["UIDMessageReply"] = other }) }, "another entry"},
		"wrong server signature": {func() { s.changing("FetchUID", resigned) }, "SERVERSIGNATURE"},
		"changed message": {func() {
			s.changing("FetchUID", func(_ []byte, r map[string]any) {
				entry := r["UIDMessageReply"].(map[string]any)["ENTRY"].(map[string]any)
				text := []byte(entry["UIDMESSAGEENCRYPTED"].(string))
				text[200] ^= 1
				entry["UIDMESSAGEENCRYPTED"] = string(text)
			})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c := must(Open(copied, s.options()))(t)
			defer c.Close()
			test.lie()
			_, err := c.Lookup(t.Context(), alice)
			wantUnproven(t, copied, err, ErrUnsigned, 3, test.problem)
			s.put(nil)
			if contact, err := c.Lookup(t.Context(), alice); err != nil || contact.Position() != 3 {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestLyingCapabilities(t *testing.T) {
	s := newServer(t, token.Open{})
	s.fill(3)
	truth := s.entries()
	caps := func(change func(c map[string]any)) func() {
		return func() {
			s.changing("Capabilities", func(_ []byte, r map[string]any) { change(r["CAPABILITIES"].(map[string]any)) })
		}
	}
	for name, test := range map[string]struct {
		lie  func()
		want error
	}{
		"foreign entry":   {caps(func(c map[string]any) { c["KEYHASHCHAINENTRY"] = rehashed(truth, 1)[3].String() }), ErrUnsigned},
		"no entry":        {caps(func(c map[string]any) { c["KEYHASHCHAINENTRY"] = "" }), ErrAnswer},
		"foreign key":     {caps(func(c map[string]any) { c["SIGPUBKEYS"] = []string{canonical.Encode(public(newKey(7)))} }), ErrUnsigned},
		"no such domain":  {caps(func(c map[string]any) { c["DOMAINS"] = []string{"../etc"} }), ErrAnswer},
		"another domain":  {caps(func(c map[string]any) { c["DOMAINS"] = []string{"example.net"} }), ErrUnsigned},
		"no domain":       {caps(func(c map[string]any) { c["DOMAINS"] = nil }), ErrUnsupported},
		"no methods":      {caps(func(c map[string]any) { c["METHODS"] = nil }), ErrUnsupported},
		"no capabilities": {func() { s.changing("Capabilities", func(_ []byte, r map[string]any) { r["CAPABILITIES"] = nil }) }, ErrAnswer},
		"two last entries": {func() {
			s.changing("FetchLastHashChain", func(_ []byte, r map[string]any) { r["HCEntry"] = truth[2].String() })
		}, ErrContradiction},
		"a short answer": {func() {
			s.changing("FetchHashChain", func(_ []byte, r map[string]any) { r["HCEntries"] = r["HCEntries"].([]any)[1:] })
		}, ErrAnswer},
		"another beginning": {func() { s.changing("FetchHashChain", func(_ []byte, r map[string]any) { r["HCFirstPos"] = 1 }) }, ErrAnswer},
		"an endless chain": {func() {
			s.changing("FetchLastHashChain", func(_ []byte, r map[string]any) { r["HCPos"] = uint64(1) << 63 })
		}, ErrAnswer},
		"a long text": {func() {
			s.changing("FetchLastHashChain", func(_ []byte, r map[string]any) { r["More"] = strings.Repeat("x", maxAnswer) })
		}, ErrAnswer},
	} {
		test.lie()
		dir := t.TempDir()
		c, err := s.init(dir)
		if c != nil {
			c.Close()
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		s.put(nil) // nothing of it stays
		c, err = s.init(dir)
		if err != nil {
			t.Fatalf("%s: afterwards: %v", name, err)
		}
		c.Close()
		wantNoEvidence(t, dir)
	}
	dir := t.TempDir()
	wrong := hashchain.Hash{1}
	if _, err := Init(t.Context(), dir, s.url, "", &wrong, s.options()); !errors.Is(err, ErrFingerprint) {
		t.Errorf("another fingerprint: %v", err)
	}
	right := truth[0].Hash()
	c := must(Init(t.Context(), dir, s.url, testDomain, &right, s.options()))(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), dir, s.url, "", &wrong, s.options()); !errors.Is(err, ErrFingerprint) {
		t.Errorf("another fingerprint, afterwards: %v", err)
	}
	if _, err := Init(t.Context(), dir, newServer(t, token.Open{}).url, "", nil, s.options()); !errors.Is(err, ErrInitialized) {
		t.Errorf("another keyserver of the domain: %v", err)
	}
	if _, err := Init(t.Context(), dir, s.url, "example.net", nil, s.options()); !errors.Is(err, ErrInitialized) {
		t.Errorf("another domain: %v", err)
	}
	if _, err := Init(t.Context(), dir, "http://127.0.0.1:1/", "", nil, s.options()); err == nil || errors.Is(err, ErrInitialized) {
		t.Errorf("nobody there: %v", err)
	}
	moved := s.url + "moved/"
	for _, url := range []string{s.url, moved} { // it has stayed where it was, and moves
		c = must(Init(t.Context(), dir, url, "", &right, s.options()))(t)
		if err := c.Close(); err != nil || c.URL() != url {
			t.Errorf("%s, %v", c.URL(), err)
		}
	}
	c = must(Open(dir, s.options()))(t)
	if err := c.Close(); err != nil || c.URL() != moved {
		t.Errorf("%s, %v", c.URL(), err)
	}
}
