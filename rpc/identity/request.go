package identity

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// parseAddress reads the address in a field of a request.
func parseAddress(field, s string, net *chaincfg.Params) (protocol.KeyHash, error) {
	key, err := protocol.ParseAddress(s, net)
	if err != nil {
		return protocol.KeyHash{}, fault.Field(codes.InvalidArgument, field, "%v", err)
	}
	return key, nil
}

// parseHash reads the txid or block hash, in display order, in a field of a
// request.
func parseHash(field, s string) (chainhash.Hash, error) {
	const want = chainhash.MaxHashStringSize
	if i := strings.IndexFunc(s, notHex); i >= 0 {
		r, _ := utf8.DecodeRuneInString(s[i:])
		return chainhash.Hash{}, fault.Field(codes.InvalidArgument, field, "expected %d hex characters, got %q as character %d", want, r, i+1)
	}
	if len(s) != want {
		return chainhash.Hash{}, fault.Field(codes.InvalidArgument, field, "expected %d hex characters, got %d", want, len(s))
	}
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil {
		return chainhash.Hash{}, fault.Field(codes.InvalidArgument, field, "%v", err)
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
		return 0, fault.Field(codes.InvalidArgument, "page_size", "expected at most %d, got %d", most, size)
	}
	return int(size), nil
}

// shortPage is how many entries a page may have that is made as soon as it is asked for.
const shortPage = 10

// unitEntries is how many entries of a page are as much work as another call.
const unitEntries = 50

// awaitPage lets a page of up to so many entries in as the work that it is, and waits for its turn, unless it is short: else calls that
// are answered in no time would stand in line behind everybody's pages.
func awaitPage(ctx context.Context, entries int) error {
	if entries <= shortPage {
		return nil
	}
	if err := admission.Work(ctx, entries/unitEntries); err != nil {
		return err
	}
	return admission.Turn(ctx)
}
