// Package keytreev1 is the wire form of keytree's public API, generated from the
// .proto files beside it, which are its documentation. Nothing here is written by
// hand: change the .proto file and run go generate.
package keytreev1

//go:generate go run -C ../../../../scripts/tools ./protogen -root ../../rpc/proto keytree/v1/anchor.proto keytree/v1/identity.proto keytree/v1/keyserver.proto keytree/v1/links.proto keytree/v1/signin.proto
