// Package restclient is a client of REST that oapi-codegen makes of the OpenAPI document, to
// show that one can be made: it is for the tests of the document alone. Apps in Go have
// package rpc/client.
package restclient

//go:generate go tool -modfile=../../../../scripts/tools/go.mod oapi-codegen -config config.yaml ../../openapi.json
