package rpc

import "net/http"

// Handler returns what answers REST, without a network before it.
func (s *Server) Handler() http.Handler { return s.http.Handler }
