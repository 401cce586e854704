package bchd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
)

var errToken = fmt.Errorf("%w: it refuses the auth token: expected the value of its --grpcauthtoken in the file of token_file=FILE", node.ErrUnsuitable)

// authToken is what the node wants to see with every call. The file that it came
// from is read again when the node refuses it.
type authToken struct {
	file string // "" if there is none

	mu    sync.Mutex
	value string // mu; "" if the node is sent none
}

func newAuthToken(value, file string) *authToken { return &authToken{file: file, value: value} }

func (t *authToken) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.value
}

// renew reads the token anew after the node refused one. It fails unless there is
// another now.
func (t *authToken) renew(refused string) error {
	if t.file == "" {
		return errors.New("there is no such file")
	}
	value, err := readToken(t.file)
	if err != nil {
		return err
	}
	if value == refused {
		return fmt.Errorf("%s still holds the token that it refuses", t.file)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.value = value
	return nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials, under the name that
// bchd looks for (AuthenticationTokenKey in its grpcserver.go, in HTTP/2's lower
// case).
func (t *authToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authenticationtoken": t.current()}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (*authToken) RequireTransportSecurity() bool { return true }

// refusesToken reports whether a call failed because of the token.
func refusesToken(s *status.Status) bool {
	return s.Code() == codes.Unknown && s.Message() == "invalid authentication token"
}
