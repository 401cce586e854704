// Package cmd is the folder of keytree's programs. It holds no code of its own, only
// tests of the repository as a whole: of what GitHub reads of it, and that imports point
// one way:
//
//	cmd → rpc → {indexer, keyserver} → graph → protocol
//
// and those of the rooms in rpc, too:
//
//	rpc → {identity, links, signin, keyserver, operator, web, explorer, connect} → push → {rest, jsonrpc} → admission, fault
//
// So a change to a room can break only the rooms to its left. Two rooms that do not know
// each other are joined by one of their own: keyserver/anchor/onchain and
// keyserver/audit/sources.
//
// The test of imports also finds that the program, cmd/keytree, is wiring. Rules, transactions and
// retries belong into a room that others can import.
//
// Another test finds that comments and documents cite only what a reader can open.
package cmd

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// house is the table of what may be imported where.
func house() ([]room, []exception) {
	network := []string{"crypto/tls", "net"}
	// Formats, keys and scripts of the chain. What else bchd has connects or stores.
	chain := []string{
		"github.com/gcash/bchd/bchec",
		"github.com/gcash/bchd/chaincfg",
		"github.com/gcash/bchd/txscript",
		"github.com/gcash/bchd/wire",
		"github.com/gcash/bchutil",
	}
	served := []string{module + "rpc"} // by a server
	rooms := []room{
		{folder: "cmd", rooms: []string{"rpc", "indexer", "keyserver", "graph", "protocol"}},
		{ // Flags to configuration to one call: no rule, no transaction, no retry.
			folder:  "cmd/keytree",
			rooms:   []string{"rpc", "indexer", "keyserver", "graph", "protocol"},
			without: []string{"graph/anchors", "graph/cow", "graph/forest", "graph/links", "graph/state", "graph/store", "graph/txids", "indexer/node/reach", "keyserver/chainfile"},
			never:   []string{"crypto/ecdh", "crypto/hmac"},
			libraries: []string{
				// The command line, the terminal, settings.
				"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/term", "go.yaml.in/yaml/v2", "github.com/mattn/go-isatty",
				"github.com/dustin/go-humanize", "github.com/mdp/qrterminal/v3", "github.com/KimMachineGun/automemlimit/memlimit", "golang.org/x/sys",
				// What is told about the work, to people and to systemd.
				"github.com/rs/zerolog", "github.com/coreos/go-systemd/v22/daemon",
				// Networks and hashes by name: neither wire nor txscript, of which transactions are made.
				"github.com/gcash/bchd/chaincfg",
				// Errors and answers of a server.
				"google.golang.org/grpc", "google.golang.org/protobuf",
			},
			unused: map[string][]string{
				"time":              {"Sleep", "Tick", "NewTimer", "AfterFunc"}, // of which retries are made
				module + "protocol": {"Author", "CheckMerkleBranch", "DecodeAction", "DecodeAnchor", "NewRecordTx"},
			},
			tests: append(slices.Clone(chain), module+"graph", "github.com/dgraph-io/badger/v4", "go.uber.org/goleak", "golang.org/x/net/dns/dnsmessage",
				"github.com/prometheus/client_model", "github.com/prometheus/common"),
		},
		{ // plays, with a private node and a mail server
			folder: "cmd/keytree/internal",
			rooms:  []string{"rpc", "indexer", "keyserver", "graph", "protocol"},
		},
		{folder: "scripts", rooms: []string{"rpc", "indexer", "keyserver", "graph", "protocol"}},
		{folder: "rpc", rooms: []string{"indexer", "keyserver", "graph", "protocol"}},
		{ // what the graph answers
			folder: "rpc/identity",
			rooms:  []string{"rpc/push", "rpc/rest", "rpc/admission", "rpc/fault", "rpc/proto", "indexer", "keyserver", "graph", "protocol"},
			tests:  served,
		},
		{ // what follows the chain for who is to be told
			folder: "rpc/push",
			rooms:  []string{"rpc/rest", "rpc/admission", "rpc/fault", "rpc/proto", "graph", "protocol"},
			tests:  append(served, module+"indexer"),
		},
		{ // what publishes links for who has a wallet
			folder: "rpc/links",
			rooms:  []string{"rpc/admission", "rpc/fault", "rpc/proto", "rpc/client/linkcheck", "indexer", "protocol"},
			tests:  served,
		},
		{ // what lets keys sign in
			folder: "rpc/signin",
			rooms:  []string{"rpc/admission", "rpc/fault", "rpc/proto", "graph/durable", "protocol"},
			tests:  append(served, module+"graph", module+"indexer"),
		},
		{ // what a keyserver answers
			folder: "rpc/keyserver",
			rooms:  []string{"rpc/jsonrpc", "rpc/tlog", "rpc/admission", "rpc/fault", "rpc/proto", "keyserver", "protocol/tlog"},
			tests:  served,
		},
		{folder: "rpc/web", rooms: []string{"rpc/rest", "rpc/fault"}, tests: append(served, module+"keyserver", module+"indexer", module+"protocol", module+"graph", module+"graph/links")}, // what people, pages and tools read
		{ // pages for people, made of what identity answers
			folder: "rpc/explorer",
			rooms:  []string{"rpc/rest", "rpc/admission", "rpc/fault", "rpc/proto", "protocol"},
			tests:  append(served, module+"graph", module+"indexer"),
		},
		{ // the page on which a person answers a service's link request
			folder: "rpc/connect",
			rooms:  []string{"rpc/explorer", "rpc/rest", "rpc/admission", "rpc/fault", "rpc/proto", "protocol"},
			tests:  append(served, module+"graph", module+"indexer"),
		},
		{ // what an operator's Prometheus is told
			folder: "rpc/metrics",
			rooms:  []string{"rpc/admission", "rpc/keyserver", "indexer", "keyserver", "graph"},
			tests:  served,
		},
		{folder: "rpc/operator", rooms: []string{"keyserver", "graph", "protocol/tlog"}, tests: served},
		{folder: "rpc/tlog", rooms: []string{"rpc/admission", "keyserver", "protocol/tlog"}},                                                   // what readers of logs are told
		{folder: "rpc/statelog", rooms: []string{"rpc/tlog", "rpc/witness", "keyserver/tlog", "keyserver/witness", "protocol"}, tests: served}, // and those of state logs
		{folder: "rpc/witness", rooms: []string{"keyserver", "protocol/tlog"}},                                                                 // what logs are told that want to be cosigned
		{folder: "rpc/rest", rooms: []string{"rpc/admission", "rpc/fault", "rpc/proto"}, tests: served},
		{folder: "rpc/jsonrpc", rooms: []string{"rpc/admission", "rpc/fault"}},
		{ // what apps import
			folder: "rpc/client",
			rooms:  []string{"rpc/proto", "protocol"},
			tests:  append(served, module+"graph", module+"indexer"),
		},
		{folder: "rpc/admission"},
		{folder: "rpc/fault"},
		{ // joins an auditor with what it asks
			folder: "keyserver/audit/sources",
			rooms:  []string{"keyserver", "indexer/node", "rpc/client", "rpc/proto", "protocol"},
			tests:  []string{module + "rpc/rpctest", module + "graph"},
		},
		{folder: "indexer", rooms: []string{"graph", "protocol"}},
		{ // joins the graph with what publishes and cosigns logs
			folder: "indexer/statelog",
			rooms:  []string{"graph", "keyserver/audit", "keyserver/hashchain", "keyserver/tlog", "keyserver/uid", "keyserver/witness", "protocol"},
			tests:  []string{module + "indexer", module + "rpc/statelog"},
		},
		{ // and graph only as the exceptions say; databases only behind keyserver/store
			folder: "keyserver",
			rooms:  []string{"graph/durable", "protocol"},
			never:  []string{"github.com/dgraph-io/badger/v4"},
			tests:  []string{"github.com/dgraph-io/badger/v4"},
		},
		{folder: "keyserver/store", rooms: []string{"graph/durable"}, never: []string{"github.com/dgraph-io/badger/v4"}},
		{folder: "keyserver/store/badger", rooms: []string{"keyserver/store", "graph/durable"}}, // one of several engines
		{ // joins what publishes anchors with what it asks
			folder: "keyserver/anchor/onchain",
			rooms:  []string{"keyserver/anchor", "indexer/coins", "indexer/node", "graph", "protocol"},
			tests:  []string{module + "indexer", module + "keyserver"},
		},
		{ // knows neither node nor network
			folder:    "graph",
			rooms:     []string{"protocol"},
			never:     network,
			libraries: append([]string{"github.com/dgraph-io/badger/v4", "github.com/rs/zerolog", "golang.org/x/sync"}, chain...),
			// Random histories, and goroutines that were left behind.
			tests: []string{"pgregory.net/rapid", "go.uber.org/goleak"},
		},
		{ // has no I/O
			folder: "protocol",
			never:  append([]string{"os", "syscall"}, network...),
			// cpu tells which SHA-256 the processor has, sumdb has notes and the Merkle tree of logs.
			libraries: append([]string{"golang.org/x/sys/cpu", "golang.org/x/mod/sumdb"}, chain...),
			// Random blocks, files of test vectors, and the node's own rules to compare with.
			tests: []string{"pgregory.net/rapid", "os", "github.com/gcash/bchd/blockchain"},
		},
		{folder: "protocol/vectors", rooms: []string{"indexer", "graph", "protocol"}}, // tests alone: what the whole makes of blocks
	}
	exceptions := []exception{
		{
			from: "keyserver/anchor", to: "graph/anchors",
			names: []string{"Chain", "Proof", "Status"},
			why:   "It asks through an interface that it declares, anchor.View; these are the answers.",
		},
		{
			from: "keyserver/anchor", to: "graph/store",
			names: []string{"ErrNotFound", "Position"},
			why:   "It asks through an interface that it declares, anchor.View; these are in the answers.",
		},
		{
			from: "keyserver/store/badger", to: "graph/badgerdb",
			why: "One place knows Badger's files, and that knows nothing of the graph.",
		},
		{
			from: "keyserver", to: "graph/badgerdb", inTests: true,
			names: []string{"FreeSpace", "ReserveMemTables"},
			why:   "Tests fill the disk up to what has to stay free.",
		},
		{
			from: "keyserver/client", to: "rpc", inTests: true,
			why: "The tests of the client talk to the server that serves users.",
		},
	}
	return rooms, exceptions
}

// room is a folder with all that is below it, but for rooms of their own.
type room struct {
	folder    string
	rooms     []string // that it may import besides itself
	without   []string // of those, folders that it may not import nevertheless
	never     []string // of the standard library and other modules, with what is below
	libraries []string // of other modules that it may import, with what is below; nil allows all
	tests     []string // that its tests may import nevertheless, with what is below

	unused map[string][]string // names that it may not use but in tests, by the path of their package
}

// exception lets one package import another against the arrows.
type exception struct {
	from, to string   // folders
	inTests  bool     // only tests may
	names    []string // what may be used of it; nil allows all
	why      string
}

func (e exception) isFor(f file) bool {
	return path.Dir(f.name) == e.from && (f.isTest() || !e.inTests)
}

// TestImports fails for an import that the table does not allow, and for an exception
// that nobody needs any more.
func TestImports(t *testing.T) {
	rooms, exceptions := house()
	files := read(t, os.DirFS(".."))
	for _, f := range files {
		for _, wrong := range f.judge(rooms, exceptions) {
			t.Error(wrong)
		}
	}
	for _, e := range exceptions {
		if !slices.ContainsFunc(files, func(f file) bool { _, imports := f.uses[module+e.to]; return imports && e.isFor(f) }) {
			t.Errorf("%s does not import %s any more: delete the exception", e.from, e.to)
		}
	}
}

// TestJudge has one file that is allowed or refused for each thing that the table says.
func TestJudge(t *testing.T) {
	rooms, exceptions := house()
	for _, test := range []struct {
		file, imports, uses string
		refused             bool
	}{
		{file: "rpc/a.go", imports: module + "graph"},
		{file: "rpc/a.go", imports: module + "rpc/proto/keytree/v1"},
		{file: "rpc/a.go", imports: module + "rpc/identity"},
		{file: "rpc/identity/a.go", imports: module + "rpc/rest"},
		{file: "rpc/identity/a.go", imports: module + "graph"},
		{file: "rpc/identity/a.go", imports: module + "rpc", refused: true},
		{file: "rpc/identity/a.go", imports: module + "rpc/jsonrpc", refused: true},
		{file: "rpc/identity/a.go", imports: module + "rpc/keyserver", refused: true},
		{file: "rpc/identity/a_test.go", imports: module + "rpc/rpctest"},
		{file: "rpc/keyserver/a.go", imports: module + "graph", refused: true},
		{file: "rpc/rest/a.go", imports: module + "rpc/identity", refused: true},
		{file: "rpc/jsonrpc/a.go", imports: module + "keyserver/canonical", refused: true},
		{file: "rpc/admission/a.go", imports: module + "rpc/fault", refused: true},
		{file: "rpc/client/a.go", imports: module + "rpc/identity", refused: true},
		{file: "rpc/client/a.go", imports: module + "graph", refused: true},
		{file: "graph/a.go", imports: module + "rpc", refused: true},
		{file: "graph/forest/a.go", imports: module + "indexer/node", refused: true},
		{file: "graph/a_test.go", imports: module + "indexer/node/bchd/regtest", refused: true},
		{file: "indexer/a.go", imports: module + "keyserver", refused: true},
		{file: "keyserver/a.go", imports: module + "indexer", refused: true},
		{file: "protocol/internal/sha256d/a.go", imports: module + "graph", refused: true},
		{file: "cmd/keytree/a.go", imports: module + "scripts/bench/chain", refused: true},
		{file: "cmd/keytree/a.go", imports: module + "cmd/keytree/internal/demo"},
		{file: "cmd/keytree/a.go", imports: module + "graph"},
		{file: "cmd/keytree/a.go", imports: module + "graph/links", refused: true},
		{file: "cmd/keytree/a.go", imports: "github.com/gcash/bchd/chaincfg/chainhash"},
		{file: "cmd/keytree/a.go", imports: "github.com/gcash/bchd/wire", refused: true},
		{file: "cmd/keytree/a.go", imports: "github.com/gcash/bchd/txscript", refused: true},
		{file: "cmd/keytree/a.go", imports: "github.com/cenkalti/backoff/v4", refused: true},
		{file: "cmd/keytree/a.go", imports: "crypto/ecdh", refused: true},
		{file: "cmd/keytree/a.go", imports: "time", uses: "Now"},
		{file: "cmd/keytree/a.go", imports: "time", uses: "Sleep", refused: true},
		{file: "cmd/keytree/a.go", imports: module + "protocol", uses: "ParseAddress"},
		{file: "cmd/keytree/a.go", imports: module + "protocol", uses: "DecodeAction", refused: true},
		{file: "cmd/keytree/a_test.go", imports: "time", uses: "Sleep"},
		{file: "cmd/keytree/a_test.go", imports: "github.com/gcash/bchd/wire"},
		{file: "cmd/keytree/internal/demo/a.go", imports: "github.com/gcash/bchd/wire"},
		{file: "a.go", imports: module + "protocol", refused: true},
		{file: "utils/a.go", imports: "fmt", refused: true},

		{file: "keyserver/anchor/a.go", imports: module + "graph/anchors", uses: "Proof"},
		{file: "keyserver/anchor/a.go", imports: module + "graph", uses: "Open", refused: true},
		{file: "keyserver/audit/a.go", imports: module + "graph/anchors", uses: "Proof", refused: true},
		{file: "keyserver/audit/a.go", imports: module + "rpc/client", refused: true},
		{file: "keyserver/audit/sources/a.go", imports: module + "rpc/client"},
		{file: "keyserver/audit/sources/a.go", imports: module + "rpc", refused: true},
		{file: "keyserver/client/a.go", imports: module + "graph/durable"},
		{file: "keyserver/client/a.go", imports: module + "graph", refused: true},
		{file: "keyserver/anchor/a.go", imports: module + "indexer/coins", refused: true},
		{file: "keyserver/anchor/onchain/a.go", imports: module + "indexer/coins"},
		{file: "keyserver/anchor/onchain/a.go", imports: module + "indexer", refused: true},
		{file: "keyserver/a.go", imports: module + "graph/badgerdb", refused: true},
		{file: "keyserver/a.go", imports: module + "keyserver/store/badger"},
		{file: "keyserver/a.go", imports: "github.com/dgraph-io/badger/v4", refused: true},
		{file: "keyserver/a_test.go", imports: module + "graph/badgerdb", uses: "FreeSpace"},
		{file: "keyserver/store/a.go", imports: "github.com/dgraph-io/badger/v4", refused: true},
		{file: "keyserver/store/a.go", imports: module + "keyserver/hashchain", refused: true},
		{file: "keyserver/store/badger/a.go", imports: "github.com/dgraph-io/badger/v4"},
		{file: "keyserver/store/badger/a.go", imports: module + "graph/badgerdb"},
		{file: "keyserver/store/badger/a.go", imports: module + "keyserver", refused: true},
		{file: "keyserver/client/a.go", imports: module + "rpc", refused: true},
		{file: "keyserver/client/a_test.go", imports: module + "rpc"},

		{file: "indexer/a.go", imports: "net/http"},
		{file: "graph/a.go", imports: "net/http", refused: true},
		{file: "graph/a_test.go", imports: "net", refused: true},
		{file: "graph/a.go", imports: "google.golang.org/grpc/codes", refused: true},
		{file: "graph/a.go", imports: "github.com/gcash/bchd/rpcclient", refused: true},
		{file: "graph/a.go", imports: "os"},
		{file: "graph/a.go", imports: "go.uber.org/goleak", refused: true},
		{file: "graph/a_test.go", imports: "go.uber.org/goleak"},
		{file: "protocol/a.go", imports: "github.com/gcash/bchd/chaincfg/chainhash"},
		{file: "protocol/a.go", imports: "github.com/gcash/bchd/wirelike", refused: true},
		{file: "protocol/a.go", imports: "github.com/rs/zerolog", refused: true},
		{file: "protocol/a.go", imports: "golang.org/x/sys/unix", refused: true},
		{file: "protocol/a.go", imports: "os/exec", refused: true},
		{file: "protocol/a_test.go", imports: "os"},
		{file: "protocol/a_test.go", imports: "net/http", refused: true},
	} {
		text := fmt.Sprintf("package a\nimport p %q\nvar _ = p.%s", test.imports, cmp.Or(test.uses, "X"))
		files := read(t, fstest.MapFS{test.file: {Data: []byte(text)}})
		if wrong := files[0].judge(rooms, exceptions); test.refused != (len(wrong) > 0) {
			t.Errorf("%s imports %s, and uses %q: got %q, want it refused: %v", test.file, test.imports, test.uses, wrong, test.refused)
		}
	}
}

const module = "github.com/keytree-bch/keytree/"

// file is a Go file. It tells which names of which package it uses.
type file struct {
	name string              // with its folders, from the top of the repository
	uses map[string][]string // by import path
}

// read reads the Go files of a module, for whatever platform they are.
func read(t *testing.T, top fs.FS) []file {
	t.Helper()
	var files []file
	err := fs.WalkDir(top, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != ".":
			_, err := fs.Stat(top, path.Join(name, "go.mod"))
			if another := err == nil; another || entry.Name() == "testdata" || strings.ContainsAny(entry.Name()[:1], "._") {
				return fs.SkipDir
			}
		case path.Ext(name) == ".go":
			text, err := fs.ReadFile(top, name)
			if err != nil {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			files = append(files, file{name, uses(parsed)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// uses returns the names that a file uses, by the path of the package that has them.
func uses(parsed *ast.File) map[string][]string {
	selected := make(map[string][]string) // by the name that the file calls a package
	ast.Inspect(parsed, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if pkg, ok := selector.X.(*ast.Ident); ok {
				selected[pkg.Name] = append(selected[pkg.Name], selector.Sel.Name)
			}
		}
		return true
	})
	uses := make(map[string][]string)
	for _, spec := range parsed.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
		called := path.Base(imported)
		if spec.Name != nil {
			called = spec.Name.Name
		}
		uses[imported] = selected[called]
	}
	return uses
}

func (f file) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

// judge says what is wrong with the file's imports.
func (f file) judge(rooms []room, exceptions []exception) (wrong []string) {
	var r room
	for _, candidate := range rooms {
		if within(f.name, []string{candidate.folder}) && len(candidate.folder) > len(r.folder) {
			r = candidate
		}
	}
	if r.folder == "" {
		return []string{f.name + " is in no room: expected one of those in the table"}
	}
	for imported, names := range f.uses {
		for _, name := range names {
			if !f.isTest() && slices.Contains(r.unused[imported], name) {
				wrong = append(wrong, fmt.Sprintf("%s uses %s of %s, which the table does not allow in %s", f.name, name, imported, r.folder))
			}
		}
		folder, ours := strings.CutPrefix(imported, module)
		host, _, _ := strings.Cut(imported, "/")
		var allowed bool
		switch {
		case f.isTest() && within(imported, r.tests):
			allowed = true
		case ours:
			allowed = within(folder, r.rooms) && !within(folder, r.without) || within(folder, []string{r.folder})
		case !strings.Contains(host, "."): // the standard library
			allowed = !within(imported, r.never)
		default:
			allowed = (r.libraries == nil || within(imported, r.libraries)) && !within(imported, r.never)
		}
		if allowed {
			continue
		}
		i := slices.IndexFunc(exceptions, func(e exception) bool { return folder == e.to && e.isFor(f) })
		if i < 0 {
			wrong = append(wrong, fmt.Sprintf("%s imports %s, which the table does not allow in %s", f.name, imported, r.folder))
			continue
		}
		for _, name := range names {
			if e := exceptions[i]; e.names != nil && !slices.Contains(e.names, name) {
				wrong = append(wrong, fmt.Sprintf("%s uses %s of %s, expected nothing but %v. %s", f.name, name, imported, e.names, e.why))
			}
		}
	}
	return wrong
}

// within says whether a path is one of those listed, or below one.
func within(path string, listed []string) bool {
	return slices.ContainsFunc(listed, func(l string) bool { return path == l || strings.HasPrefix(path, l+"/") })
}
