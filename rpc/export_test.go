package rpc

import (
	"net/http"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"github.com/keytree-bch/keytree/rpc/identity"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
)

// Handler returns what answers REST, without a network before it.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// Handler returns what answers JSON-RPC, without a network before it.
func (s *KeyserverServer) Handler() http.Handler { return s.http.Handler }

// Served returns all methods and paths that REST has, and all services of gRPC.
func Served() (routes map[string]bool, services map[string]grpc.ServiceInfo, err error) {
	failed := new(Part) // both are to be there, and need not be open
	failed.Fail()
	s, err := NewServer(Config{IndexPart: failed, KeyserverPart: failed, Log: zerolog.Nop()})
	if err != nil {
		return nil, nil, err
	}
	mux, err := s.newREST(identity.New(identity.Config{}), keyserverrpc.NewService(nil, keyserverrpc.NewAllowances(0), s.log))
	if err != nil {
		return nil, nil, err
	}
	return routesOf(mux), s.grpc.GetServiceInfo(), nil
}
