package rpc

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/keytree-bch/keytree/rpc/connect"
	"github.com/keytree-bch/keytree/rpc/explorer"
)

// TestEveryRouteIsDocumented compares what REST serves with what the OpenAPI document has.
func TestEveryRouteIsDocumented(t *testing.T) {
	served, _, err := Served()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("web/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for path, calls := range document.Paths {
		for method := range calls {
			documented[strings.ToUpper(method)+" "+path] = true
		}
	}
	for _, page := range slices.Concat(explorer.Paths(), connect.Paths()) { // for people, not for programs
		if !served["GET "+page] {
			t.Errorf("there is no page %s", page)
		}
		delete(served, "GET "+page)
	}
	for _, route := range slices.Sorted(maps.Keys(served)) {
		if !documented[route] {
			t.Errorf("%s is served, but not documented", route)
		}
	}
	for _, route := range slices.Sorted(maps.Keys(documented)) {
		if !served[route] {
			t.Errorf("%s is documented, but not served", route)
		}
	}
}

// routesOf returns the methods and paths that a mux serves. It does not tell them: they are
// read where it keeps them.
func routesOf(mux *runtime.ServeMux) map[string]bool {
	routes := make(map[string]bool)
	byMethod := reflect.ValueOf(mux).Elem().FieldByName("handlers")
	for _, method := range byMethod.MapKeys() {
		handlers := byMethod.MapIndex(method)
		for i := range handlers.Len() {
			kept := handlers.Index(i).FieldByName("pat")
			pattern := reflect.NewAt(kept.Type(), unsafe.Pointer(kept.UnsafeAddr())).Elem().Interface().(runtime.Pattern)
			routes[method.String()+" "+strings.ReplaceAll(pattern.String(), "=*}", "}")] = true
		}
	}
	return routes
}
