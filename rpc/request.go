package rpc

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/protocol"
)

// fieldError is a status about one field of a request. Its message names the
// field; the format says what was expected and what came.
func fieldError(code codes.Code, field, format string, args ...any) error {
	description := strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD")
	st, err := status.New(code, field+": "+description).WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}},
	})
	if err != nil { // only for codes.OK
		return errInternal
	}
	return st.Err()
}

// shortened returns what a client sent, cut to what an error may repeat of it.
func shortened(s string) string {
	const most = 100
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	cut := most
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// parseAddress reads the address in a field of a request.
func parseAddress(field, s string, net *chaincfg.Params) (protocol.KeyHash, error) {
	key, err := protocol.ParseAddress(s, net)
	if err != nil {
		return protocol.KeyHash{}, fieldError(codes.InvalidArgument, field, "%v", err)
	}
	return key, nil
}

// parseHash reads the txid or block hash, in display order, in a field of a
// request.
func parseHash(field, s string) (chainhash.Hash, error) {
	const want = chainhash.MaxHashStringSize
	if i := strings.IndexFunc(s, notHex); i >= 0 {
		r, _ := utf8.DecodeRuneInString(s[i:])
		return chainhash.Hash{}, fieldError(codes.InvalidArgument, field, "expected %d hex characters, got %q as character %d", want, r, i+1)
	}
	if len(s) != want {
		return chainhash.Hash{}, fieldError(codes.InvalidArgument, field, "expected %d hex characters, got %d", want, len(s))
	}
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil {
		return chainhash.Hash{}, fieldError(codes.InvalidArgument, field, "%v", err)
	}
	return *hash, nil
}

func notHex(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) }

// parsePageSize reads page_size: 0 means the default.
func parsePageSize(size, byDefault, most uint32) (int, error) {
	switch {
	case size == 0:
		return int(byDefault), nil
	case size > most:
		return 0, fieldError(codes.InvalidArgument, "page_size", "expected at most %d, got %d", most, size)
	}
	return int(size), nil
}
