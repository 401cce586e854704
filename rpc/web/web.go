// Package web is what REST has for people, pages and tools: the OpenAPI document of all its
// calls, a page that shows it, and keytree.js, by which pages and Node ask a server. What
// keytree.js offers is said there; npm packs the same file.
//
// The document is made by go generate from the .proto files and from openapi.yaml, which says
// what those do not. The page needs no other origin and no build step, and can be read
// without a script; docs.js lets calls be tried. What never belongs here: an answer of a
// call.
package web

import (
	_ "embed" // the files below
	"errors"
	"fmt"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/rest"
)

//go:generate go run -C ../../scripts/tools ./openapigen -root ../../rpc/proto -base ../../rpc/web/openapi.yaml -out ../../rpc/web/openapi.json keytree/v1/identity.proto keytree/v1/anchor.proto keytree/v1/keyserver.proto keytree/v1/links.proto keytree/v1/signin.proto

var (
	//go:embed openapi.json
	openAPI []byte
	//go:embed docs.css
	docsCSS []byte
	//go:embed docs.js
	docsJS []byte
	//go:embed keytree.js
	keytreeJS []byte
)

// policy lets the page load nothing but its own files, and ask nobody but this server.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Register adds the document, the page and keytree.js to REST.
func Register(mux *runtime.ServeMux) error {
	page, err := render(openAPI)
	if err != nil {
		return fmt.Errorf("web: %w", err)
	}
	document, docs := rest.NewFile("application/json", openAPI), rest.NewFile("text/html; charset=utf-8", page)
	files := map[string]rest.File{
		"docs.css": rest.NewFile("text/css; charset=utf-8", docsCSS),
		"docs.js":  rest.NewFile("text/javascript; charset=utf-8", docsJS),
	}
	return errors.Join(
		mux.HandlePath(http.MethodGet, "/openapi.json", answer(document)),
		mux.HandlePath(http.MethodGet, "/docs", answer(docs)),
		mux.HandlePath(http.MethodGet, "/keytree.js", answer(rest.NewFile("text/javascript; charset=utf-8", keytreeJS))),
		mux.HandlePath(http.MethodGet, "/docs/{file}", func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			if f, ok := files[path["file"]]; ok {
				answer(f)(w, r, path)
				return
			}
			rest.WriteError(w, http.StatusNotFound, status.Errorf(codes.NotFound, "no such file: %q", fault.Shortened(path["file"])))
		}),
	)
}

// answer returns a handler that sends a file.
func answer(f rest.File) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		w.Header().Set("Content-Security-Policy", policy)
		f.Answer(w, r)
	}
}
