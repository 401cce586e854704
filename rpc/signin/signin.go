// Package signin lets people sign in at apps by a key of their identity: it makes the texts
// that wallets sign, and tells apps who has signed one. It has keytree.v1.SignInService over
// gRPC, and the same over REST.
//
// A challenge holds no memory, and servers that share a key know each other's. That one was
// answered is remembered until it expires, for each server by itself.
//
// What never belongs here: the text and its signature, which are package protocol/signin's; a
// rule of identities, which are asked for; a session, which is the app's.
package signin

import (
	"context"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// unitVerify is as how many calls a verification counts besides the one that it is: to find
// who has signed takes some 0.5 ms of a processor.
const unitVerify = 10

// Index is what is asked for the place of a key in its identity. Its errors are gRPC statuses.
type Index interface {
	// Status is GetStatus.
	Status(ctx context.Context) (*keytreev1.GetStatusResponse, error)
	// ResolveUnconfirmed is ResolveAddress as of the tip, with what is unconfirmed.
	ResolveUnconfirmed(ctx context.Context, address string) (*keytreev1.Resolution, error)
}

// Config is what the service works with.
type Config struct {
	Net   *chaincfg.Params
	Index Index
	// Key is the secret of signin.NonceKeySize bytes that makes the nonces, for servers that
	// share one; nil: one of the service's own, which ends with it.
	Key []byte
	// Now is the clock; nil: the system's.
	Now func() time.Time
}

// Service is keytree.v1.SignInService. It may be used concurrently.
type Service struct {
	keytreev1.UnimplementedSignInServiceServer
	index    Index
	net      *chaincfg.Params
	verifier *signin.Verifier
	now      func() time.Time
	// since is the first time of a challenge that this service can know to be unanswered. It is
	// a whole second, as the time of a challenge is, up to a second after the service began.
	since time.Time
	taken *taken
}

// New returns the service. The error is that of signin.NewVerifier.
func New(c Config) (*Service, error) {
	key := c.Key
	if key == nil {
		key = newKey()
	}
	verifier, err := signin.NewVerifier(key, c.Net)
	if err != nil {
		return nil, err
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	since := now().Truncate(time.Second).Add(time.Second)
	return &Service{index: c.Index, net: c.Net, verifier: verifier, now: now, since: since, taken: newTaken()}, nil
}

// Register adds the service to a gRPC server.
func (s *Service) Register(server *grpc.Server) {
	keytreev1.RegisterSignInServiceServer(server, s)
}

// RegisterREST adds the service to REST.
func (s *Service) RegisterREST(mux *runtime.ServeMux) error {
	return keytreev1.RegisterSignInServiceHandlerServer(context.Background(), mux, s)
}

// ChallengeSignIn implements SignInService.
func (s *Service) ChallengeSignIn(_ context.Context, request *keytreev1.ChallengeSignInRequest) (*keytreev1.ChallengeSignInResponse, error) {
	key, err := protocol.ParseAddress(request.GetAddress(), s.net)
	if err != nil {
		return nil, fault.Reason(codes.InvalidArgument, "BAD_ADDRESS", "address", "%v", err)
	}
	now := s.now()
	if now.Before(s.since) { // VerifySignIn takes none from before
		now = s.since
	}
	message, err := s.verifier.Challenge(signin.Request{
		Domain: request.GetDomain(), URI: request.GetUri(), Key: key, AllowLong: request.GetAllowLong(),
	}, now)
	if err != nil {
		return nil, refusal(err, "domain or uri")
	}
	return &keytreev1.ChallengeSignInResponse{
		Message: message.Text(), Nonce: message.Nonce.String(), ExpiresAt: message.Expires().UTC().Format(time.RFC3339),
	}, nil
}

// VerifySignIn implements SignInService.
func (s *Service) VerifySignIn(ctx context.Context, request *keytreev1.VerifySignInRequest) (*keytreev1.VerifySignInResponse, error) {
	if err := admission.Work(ctx, unitVerify); err != nil {
		return nil, err
	}
	now := s.now()
	message, err := s.verifier.Verify(signin.Answer{
		Text: request.GetMessage(), Signature: request.GetSignature(), Domain: request.GetDomain(), AllowLong: request.GetAllowLong(),
	}, now)
	if err == nil && message.IssuedAt.Before(s.since) {
		err = fmt.Errorf("%w: it was made before this server began, which does not know whether it was answered", signin.ErrExpired)
	}
	if err != nil {
		return nil, refusal(err, "message")
	}
	status, err := s.index.Status(ctx)
	if err != nil {
		return nil, err
	}
	if !status.GetSynced() {
		return nil, fault.Reason(codes.Unavailable, "INDEX_BEHIND", "", "the server is not synced with its node, and might not know that the key was cut off: %s; try again later", status.GetUnsynced())
	}
	resolution, err := s.index.ResolveUnconfirmed(ctx, message.Address())
	if err != nil {
		return nil, err
	}
	if err := checkPlace(resolution, request); err != nil {
		return nil, err
	}
	if err := s.taken.take(admission.ClientOf(ctx), message, now); err != nil {
		return nil, err
	}
	return answer(resolution), nil
}
