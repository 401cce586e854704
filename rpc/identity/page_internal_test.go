package identity

import (
	"bytes"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

func FuzzParsePageToken(f *testing.F) {
	height := uint32(7)
	query := queryDigest("ListAddressActions", []byte("subject"), &height, nil)
	token := pageToken{query: query, height: 7, hash: chainhash.Hash{1, 31: 2}}
	f.Add(token.String())
	token.cursor = appendMemberCursor(links.MemberCursor{Key: [20]byte{3}})
	f.Add(token.String())
	token.cursor = appendMemberCursor(links.MemberCursor{Key: [20]byte{3}, Done: true})
	f.Add(token.String())
	token.cursor = appendActionCursor(store.Position{Height: 6, Index: 5})
	f.Add(token.String())
	token.cursor = appendEventCursor(eventCursor{disconnects: 1, height: 6, event: 5})
	f.Add(token.String())
	f.Add(token.String()[:50] + "\r" + token.String()[50:])
	f.Add("")
	f.Add("AA==")
	f.Add("not base64!")

	f.Fuzz(func(t *testing.T, s string) {
		token, err := parsePageToken(s)
		if err != nil {
			return
		}
		if again := token.String(); again != s {
			t.Errorf("%q and %q are the same token", s, again)
		}
		if c, err := parseMemberCursor(token.cursor); err == nil && c != nil && !bytes.Equal(appendMemberCursor(*c), token.cursor) {
			t.Errorf("member cursor %+v is not %x", c, token.cursor)
		}
		if c, err := parseActionCursor(token.cursor); err == nil && c != nil && !bytes.Equal(appendActionCursor(*c), token.cursor) {
			t.Errorf("action cursor %+v is not %x", c, token.cursor)
		}
		if c, err := parseEventCursor(token.cursor, 0, token.height); err == nil && len(token.cursor) > 0 {
			if !bytes.Equal(appendEventCursor(c), token.cursor) || c.height > token.height {
				t.Errorf("event cursor %+v is not %x of a listing up to %d", c, token.cursor, token.height)
			}
		}
	})
}

// TestPageTokenRefusesEveryChange flips each bit of a token.
func TestPageTokenRefusesEveryChange(t *testing.T) {
	b, err := tokenEncoding.DecodeString(pageToken{height: 7, cursor: []byte("cursor")}.String())
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := parsePageToken(tokenEncoding.EncodeToString(b)); err == nil {
			t.Errorf("bit %d may be flipped", i)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestQueryDigestTellsQueriesApart(t *testing.T) {
	zero, one := uint32(0), uint32(1)
	seen := make(map[[16]byte]int)
	for i, digest := range [][16]byte{
		queryDigest("a", nil),
		queryDigest("b", nil),
		queryDigest("a", []byte("x")),
		queryDigest("a", []byte("x"), nil),
		queryDigest("a", []byte("x"), &zero),
		queryDigest("a", []byte("x"), &one),
		queryDigest("a", []byte("x"), &one, nil),
		queryDigest("a", []byte("x"), nil, &one),
	} {
		if j, ok := seen[digest]; ok {
			t.Errorf("queries %d and %d have one digest", i, j)
		}
		seen[digest] = i
	}
}
