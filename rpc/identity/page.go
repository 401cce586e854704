package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/rpc/fault"
)

// pageToken is where a listing goes on, and for which question. Its wire form is
// base64url, without padding, of
//
//	version 1 ‖ query (16) ‖ height (4) ‖ hash (32) ‖ cursor (0 to 32) ‖ checksum (4)
//
// with big-endian numbers; the checksum is the start of the SHA-256 of what
// precedes it. It guards against accidents, not against forgery: a forged token
// can ask nothing that another request could not.
type pageToken struct {
	query  [16]byte
	height uint32         // the block that the first page was as of
	hash   chainhash.Hash // its hash
	cursor []byte         // the call's own
}

const (
	pageTokenVersion = 1
	pageTokenFixed   = 1 + 16 + 4 + 32
	pageTokenSum     = 4
	maxCursor        = 32
)

var (
	tokenEncoding = base64.RawURLEncoding.Strict()
	errPageToken  = errors.New("not a page token of this server")
)

func (t pageToken) String() string {
	b := make([]byte, 0, pageTokenFixed+maxCursor+pageTokenSum)
	b = append(b, pageTokenVersion)
	b = append(b, t.query[:]...)
	b = binary.BigEndian.AppendUint32(b, t.height)
	b = append(b, t.hash[:]...)
	b = append(b, t.cursor...)
	sum := sha256.Sum256(b)
	return tokenEncoding.EncodeToString(append(b, sum[:pageTokenSum]...))
}

func parsePageToken(s string) (t pageToken, err error) {
	if len(s) > tokenEncoding.EncodedLen(pageTokenFixed+maxCursor+pageTokenSum) {
		return t, errPageToken
	}
	b, err := tokenEncoding.DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") || len(b) < pageTokenFixed+pageTokenSum || b[0] != pageTokenVersion {
		return t, errPageToken
	}
	body, sum := b[:len(b)-pageTokenSum], b[len(b)-pageTokenSum:]
	if want := sha256.Sum256(body); string(want[:pageTokenSum]) != string(sum) {
		return t, errPageToken
	}
	copy(t.query[:], body[1:])
	t.height = binary.BigEndian.Uint32(body[17:])
	copy(t.hash[:], body[21:])
	t.cursor = body[pageTokenFixed:]
	return t, nil
}

// queryDigest identifies a listing: the call, what it is about, and its heights
// as they were asked for. Neither page_size nor the spelling of an address
// belongs to it.
func queryDigest(call string, subject []byte, heights ...*uint32) (digest [16]byte) {
	h := sha256.New()
	h.Write([]byte(call))
	h.Write([]byte{0})
	h.Write(subject)
	for _, height := range heights {
		if height == nil {
			h.Write([]byte{0})
			continue
		}
		h.Write(binary.BigEndian.AppendUint32([]byte{1}, *height))
	}
	copy(digest[:], h.Sum(nil))
	return digest
}

// parsePageTokenFor reads the page_token of a request for the listing that query
// identifies; nil means the first page.
func parsePageTokenFor(query [16]byte, s string) (*pageToken, error) {
	if s == "" {
		return nil, nil
	}
	token, err := parsePageToken(s)
	if err != nil {
		return nil, fault.Field(codes.InvalidArgument, "page_token", "expected the next_page_token of an earlier page, got %q, which is %v", fault.Shortened(s), err)
	}
	if token.query != query {
		return nil, fault.Field(codes.InvalidArgument, "page_token", "it belongs to another query; repeat the other fields as in the request for the first page")
	}
	return &token, nil
}

// errReorganised refuses to go on with a listing whose block has left the chain.
func errReorganised(height uint32, hash chainhash.Hash) error {
	return fault.Field(codes.Aborted, "page_token", "block %d, %s, which the listing is as of, was reorganised away; start again without a page token", height, hash)
}

// errCursor is for a token that passes its checksum and yet holds no cursor of
// the call: only a forged one does.
func errCursor() error {
	return fault.Field(codes.InvalidArgument, "page_token", "%v", errPageToken)
}
