package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// shown is a command that a document shows, or another block of it.
type shown struct {
	line string // as the document has it, or all lines of a block that is no command

	// How it is run: with this more in the environment; until it says something on standard
	// error, if it goes on until it is stopped; and what must come of it.
	env   []string
	until string
	code  int
	text  string // part of standard output

	before, after func(*rehearsal) // what happens besides

	file string // it is what this file has, when the next command is run
	why  string // it is not run
}

// shownCommands are all that the documents show, in an order in which they can be run: one
// node, one server with a keyserver, two users and an auditor.
func shownCommands() []shown {
	const demos = "TestDemo, TestDemoKeyserver, TestDemoAnchor, TestDemoWitness and TestDemoProof play it"
	const proofs = "TestProofOfAnswer plays it"
	const postgres = "it takes a PostgreSQL; TestKeyserverOnPostgres plays it"
	return []shown{
		{line: "go run ./cmd/keytree demo", why: demos},
		{line: "go run ./cmd/keytree demo keyserver", why: demos},
		{line: "go run ./cmd/keytree demo anchor", why: demos},
		{line: "go run ./cmd/keytree demo witness", why: demos},
		{line: "keytree demo keyserver", why: demos},
		{line: "keytree demo anchor", why: demos},
		{line: "go test ./...", why: "this test is one of them"},
		{line: "go install ./cmd/keytree", why: ".ci/run builds it"},
		{line: "go build ./cmd/keytree", why: ".ci/run builds it"},
		{line: ".ci/run", why: "it runs this test"},
		{line: "KEYTREE_BCHN=/path/to/bitcoind go test ./indexer/node/bitcoind -run TestRecord -record", why: "it takes a Bitcoin Cash Node, and changes the test's data"},
		{line: "keytree serve … --grpc-listen :8434 --http-listen :443 --acme keys.example.org", why: "the authority has to reach a domain; TestACME has one of its own"},
		{line: "cmd → rpc → {indexer, keyserver} → graph → protocol", why: "no command"},

		{line: "keytree serve … --state-log-key state.key --state-log-host keys.example.org --state-witness-policy witnesses.policy", why: "TestStateLog plays it"},
		{line: "keytree serve … --from-snapshot https://keys.example.org/mainnet.snapshot --expect-state HEIGHT:HASH", why: "TestSnapshot plays it"},
		{line: "keytree snapshot create --out mainnet.snapshot --node 'http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie'", why: "TestSnapshot plays it"},
		{line: "keytree resolve ADDRESS --proof alice.proof", why: proofs},
		{line: "keytree verify alice.proof --policy wallet.policy --address ADDRESS", why: proofs},
		{line: "keytree verify one.proof two.proof --policy wallet.policy", why: proofs},
		{line: "keytree audit verify-evidence 7a0e5d21c9b4f386.json --log-key keys.example.org/state/… --state BLOCK:STATE_HASH:STATE_ROOT", why: "TestVerifyStateEvidence plays it"},

		{line: "keytree keyserver serve --keyserver-domain example.org --keyserver-store postgres://keys@db.example.org/keys …", why: postgres},
		{line: "keytree keyserver serve --keyserver-domain example.org --keyserver-store postgres://keys@db.example.org/keys --standby …", why: postgres},
		{line: "keytree keyserver backup keys.backup --keyserver-domain example.org", why: postgres},
		{line: "keytree keyserver restore keys.backup --keyserver-domain example.org --keyserver-store postgres://keys@db.example.org/keys", why: postgres},
		{line: "keytree keyserver fsck --keyserver-domain example.org --keyserver-store postgres://keys@db.example.org/keys", why: postgres},

		{line: "keytree link send ANSWER_FILE --prepared ASKED_FILE --node 'http://…'", why: "it takes a wallet and a Bitcoin Cash Node; TestBCHNAlone plays it"},

		{line: "keytree import --blocks ~/.bitcoin/blocks", env: []string{"KEYTREE_DATA_DIR=imported"}, before: (*rehearsal).writeBlocks},

		// The keyserver, at first alone. Then it is anchored, beside an index.
		{line: "keytree keyserver serve --keyserver-domain example.org --keyserver-listen :8436 --tls-cert cert.pem --tls-key key.pem --data-dir /srv/keyserver",
			until: `"message":"serving"`},
		{line: "keytree keyserver issue-tokens 100 --keyserver-domain example.org --data-dir /srv/keyserver --out tokens.txt"},
		{line: "keytree serve --node 'bchd://127.0.0.1:8335?cert=/home/me/.bchd/rpc.cert' --keyserver-domain example.org … --anchor-key-file /srv/keyserver/anchor.key --anchor-interval 1h --anchor-max-entries 1000 --anchor-heartbeat 24h",
			until: `"message":"serving"`, env: []string{"KEYTREE_DATA_DIR=srv"}, after: (*rehearsal).beginChain},

		{line: "keytree status", text: "regtest"},
		{line: "keytree status --server keys.example.org:8434", text: "regtest"},
		{line: "keytree compare 127.0.0.1:8434 keys.example.org:8434", text: "same up to block"},
		{line: "keytree link request --parent PARENT_ADDRESS --key-file child.wif --node 'bchd://…'", before: (*rehearsal).makeKeys, after: (*rehearsal).takeRequest},
		{line: "keytree link accept REQUEST_TXID --key-file parent.wif --node 'bchd://…'", after: (*rehearsal).takeAccept},
		{line: "keytree resolve bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a", text: "child of"},
		{line: "keytree signin --domain memo.cash --uri https://memo.cash/login --key-file child.wif", text: "child of"},
		{line: "keytree resolve ADDRESS --at 800000", text: "child of"},
		{line: "keytree resolve ADDRESS --unconfirmed", text: "unconfirmed: nothing would differ", before: (*rehearsal).awaitMempool},
		{line: "keytree inbox ADDRESS --unconfirmed", text: "0 requests"},
		{line: "keytree tree ADDRESS", text: "2 keys"},
		{line: "keytree history ADDRESS", text: "2 actions"},
		{line: "keytree watch", until: "watching"},
		{line: "keytree watch ADDRESS --unconfirmed", until: "watching"},
		{line: "keytree link revoke ACCEPT_TXID --key-file parent.wif --node 'bchd://…'"},
		{line: "curl 'http://127.0.0.1:8435/v1/anchors/chains?domain=example.org'", text: `"genesis`},
		{line: "curl 'http://127.0.0.1:8435/v1/anchors?chain_tx_hash=…&page_size=10'", text: `"anchors"`},
		{line: "curl -o example.bundle 'http://127.0.0.1:8435/v1/anchors/chains/…/bundle'"},

		{line: "keytree user init --keyserver https://keys.example.org/", env: asAlice()},
		{line: "keytree user create alice@example.org --tokens tokens.txt", env: asAlice(), text: "Paper key"},
		{line: "keytree user keyinit add alice@example.org --mix-address mix@example.net --tokens tokens.txt", env: asAlice(), after: (*rehearsal).registerOthers},
		{line: "keytree user confirm alice@example.org", env: asAlice(), text: "alice@example.org"},
		{line: "keytree user lookup alice@example.org", env: asBob(), text: "alice@example.org"},
		{line: "keytree user send alice@example.org --as bob@example.org --mix-address mix@example.net --smtp mail.example.net:587 <text", env: asBob(), after: (*rehearsal).takeMail},
		{line: "keytree user receive mail.eml", env: asAlice(), text: "bob@example.org wrote to alice@example.org", after: (*rehearsal).readSession},
		{line: "keytree user answer SESSION --mix-address mix@example.net --smtp mail.example.net:587 <text", env: asAlice()},

		{line: "keytree audit --genesis TXID --keyserver https://keys.example.org/ --node 'bchd://127.0.0.1:8335?cert=rpc.cert' --server HOST:8434",
			env: asAuditor(), text: "sound up to position", after: (*rehearsal).findEntries},
		{line: "keytree audit bundle --genesis TXID --out keys.bundle"},
		{line: "keytree audit headers --node URL --from 800000 --out headers.bin"},
		{line: "keytree audit --genesis TXID --entries FILE --bundle keys.bundle --headers headers.bin --checkpoint 800000:HASH", text: "sound up to position"},
		{line: "keytree audit verify-evidence FILE --fingerprint HEX --genesis TXID --node URL", code: exitMisbehaviour, text: "misbehaviour", before: (*rehearsal).takeEvidence},

		// Other starts of servers, when that one has ended.
		{line: "network: mainnet\nnode: http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie&zmq=tcp://127.0.0.1:28332\nhttp-listen: 127.0.0.1:8435", file: "index/keytree.yaml"},
		{line: "keytree serve --node 'http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie'", until: `"message":"serving"`, env: []string{"KEYTREE_DATA_DIR=index"}, before: (*rehearsal).stopServer},
		{line: "keytree serve … --grpc-listen :8434 --http-listen :443 --tls-cert cert.pem --tls-key key.pem", until: `"message":"serving"`, env: []string{"KEYTREE_DATA_DIR=srv"}},
		{line: "keytree serve … --limit-connections 15000/128 --limit-streams 12000/32 --limit-bytes-in 192/16", until: `"message":"serving"`, env: []string{"KEYTREE_DATA_DIR=srv"}},
		{line: "keytree serve … --anchor-key-file FILE --anchor-chain TXID", until: `"message":"serving"`, env: []string{"KEYTREE_DATA_DIR=srv"}, before: (*rehearsal).takeAnchorKey},
		{line: "keytree serve … --anchor-chain none", until: `"message":"serving"`, env: []string{"KEYTREE_DATA_DIR=other", "KEYTREE_KEYSERVER_DOMAIN=example.net"}},
	}
}

func asAlice() []string   { return []string{"KEYTREE_USER_DIR=alice"} }
func asBob() []string     { return []string{"KEYTREE_USER_DIR=bob"} }
func asAuditor() []string { return []string{"KEYTREE_DATA_DIR=auditor"} }

// rehearsal is where the commands are run: a folder, a private node and a server, and what
// the documents' hosts, paths and ids are there.
type rehearsal struct {
	*testing.T
	dir  string
	env  []string
	node *regtest.Node
	mix  *demo.Mix

	server *anchoredServer
	output string // of the last command
	found  []string
}

func newRehearsal(t *testing.T) *rehearsal {
	dir := t.TempDir()
	r := &rehearsal{T: t, dir: dir, node: regtest.ForTest(t, regtest.Options{Blocks: 110})}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(r.path("bin"), 0o700), os.Symlink(executable, r.path("bin/keytree"))); err != nil {
		t.Fatal(err)
	}
	if r.mix, err = demo.StartMix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.mix.Close() })
	cert, key, _ := certificateFiles(t)
	write(t, r.path("text"), "Hi\n")
	r.env = append(os.Environ(), asProgram+"=1", "HOME="+dir, "PATH="+r.path("bin")+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"KEYTREE_NETWORK=regtest", "KEYTREE_LOG_FORMAT=json",
		"KEYTREE_GRPC_LISTEN=127.0.0.1:0", "KEYTREE_HTTP_LISTEN=127.0.0.1:0",
		passphraseVariable+"="+userPassphrase, "KEYTREE_SMTP_SECURITY=plain")
	r.is(
		// Hosts and paths. The longer stands before what it begins with.
		"'bchd://127.0.0.1:8335?cert=/home/me/.bchd/rpc.cert'", "'"+r.node.URL()+"'",
		"'bchd://127.0.0.1:8335?cert=rpc.cert'", "'"+r.node.URL()+"'",
		"'http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie'", "'"+r.node.URL()+"'",
		"'bchd://…'", "'"+r.node.URL()+"'",
		"network: mainnet", "network: "+regtest.Params.Name,
		"node: http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie&zmq=tcp://127.0.0.1:28332", "node: "+r.node.URL(),
		"http-listen: 127.0.0.1:8435", "http-listen: 127.0.0.1:0",
		"--node URL", "--node '"+r.node.URL()+"'",
		"serve …", "serve --node '"+r.node.URL()+"'",
		"example.org … ", "example.org --keyserver-listen 127.0.0.1:0 ",
		"/srv/keyserver", r.path("srv"),
		"cert.pem", cert,
		"key.pem", key,
		"listen :8436", "listen 127.0.0.1:0",
		"listen :8434", "listen 127.0.0.1:0",
		"listen :443", "listen 127.0.0.1:0",
		"mix@example.net", demo.MixAddress,
		"mail.example.net:587", r.mix.Client().Server,
		"curl ", "curl --silent --show-error --fail ",
	)
	return r
}

func (r *rehearsal) path(name string) string { return filepath.Join(r.dir, name) }

// is says what some hosts, paths or ids of the documents are here, in pairs.
func (r *rehearsal) is(pairs ...string) { r.found = append(r.found, pairs...) }

// write writes a file that a document shows.
func (r *rehearsal) write(c shown) {
	path := r.path(c.file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.Fatal(err)
	}
	write(r.T, path, strings.NewReplacer(r.found...).Replace(c.line))
}

// command returns a command of a document, as it is run here.
func (r *rehearsal) command(c shown) *exec.Cmd {
	cmd := exec.Command("sh", "-c", "exec "+strings.NewReplacer(r.found...).Replace(c.line))
	cmd.Dir, cmd.Env = r.dir, append(slices.Clone(r.env), c.env...)
	return cmd
}

// run runs a command, and checks what comes of it.
func (r *rehearsal) run(c shown) {
	r.Helper()
	cmd := r.command(c)
	if c.until != "" {
		p := startCommand(r.T, cmd)
		p.await(&p.stderr, c.until)
		if c.after != nil {
			r.server = &anchoredServer{keyserverProgram: &keyserverProgram{program: p}, node: r.node, dir: r.path("srv")}
			return
		}
		if code := p.signal(syscall.SIGTERM); code != exitDone {
			r.Errorf("%s: exit code %d: %s", c.line, code, p.errors())
		}
		return
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		r.Fatalf("%s: %v", c.line, err)
	}
	if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.text) {
		r.Fatalf("%s\nrun as %s\nexit code %d, want %d; want %q in\n%s%s", c.line, cmd.Args[2], code, c.code, c.text, out, stderr.String())
	}
	r.output = string(out)
}

// TestDocuments runs every command that the documents show.
func TestDocuments(t *testing.T) {
	commands := shownCommands()
	t.Run("all of them", func(t *testing.T) {
		var have, want []string
		for _, c := range commands {
			have = append(have, c.line)
		}
		for _, of := range documentBlocks(t) {
			want = append(want, of...)
		}
		slices.Sort(have)
		slices.Sort(want)
		want = slices.Compact(want)
		for begins, by := range shownCode() {
			if !slices.ContainsFunc(want, func(line string) bool { return strings.HasPrefix(line, begins) }) {
				t.Errorf("no document shows %q (%s)", begins, by)
			}
			want = slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, begins) })
		}
		for _, line := range want {
			if !slices.Contains(have, line) {
				t.Errorf("a document shows %q, which the table does not have", line)
			}
		}
		for _, line := range have {
			if !slices.Contains(want, line) {
				t.Errorf("the table has %q, which no document shows", line)
			}
		}
	})
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	r := newRehearsal(t)
	_, err := exec.LookPath("curl")
	for _, c := range commands {
		if c.why != "" {
			continue
		}
		if c.file != "" {
			r.write(c)
			continue
		}
		if program, _, _ := strings.Cut(c.line, " "); program == "curl" && err != nil {
			t.Logf("%s: %v; .ci/run installs it", c.line, err)
			continue
		}
		if c.before != nil {
			c.before(r)
		}
		r.run(c)
		if c.after != nil {
			c.after(r)
		}
	}
}

// shownCode are the beginnings of blocks that are no commands, with who runs them.
func shownCode() map[string]string {
	const script = "TestReadme of rpc/web runs it"
	return map[string]string{
		"// Follow is a program":              "TestFollowers of scripts/follow runs it",
		"// node follow.mjs":                  "TestFollowers of scripts/follow runs it",
		"import { Keytree":                    script,
		"import { verifyStateProof":           script,
		"const signed = {":                    script,
		"for await (const { type }":           script,
		"log keys.example.org/state/mainnet/": "TestStateLog reads such a file",
		"witness one   witness.example.net+":  "protocol/tlog reads such files in its tests",
		"node protocol/vectors/second":        "TestSecond of protocol/vectors runs it",
	}
}

// documentBlocks returns the commands in the documents of the repository, by document: the
// lines that are indented by four spaces, or fenced, without specifications of formats. A
// block whose first line begins with no program is one.
func documentBlocks(t *testing.T) map[string][]string {
	t.Helper()
	program := regexp.MustCompile(`^(\w+=\S+ )*(keytree|go|curl|git|docker|systemctl|\.ci/run)( |$)`)
	blocks := make(map[string][]string)
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range codeBlocks(string(text)) {
			if program.MatchString(block[0]) {
				blocks[path] = append(blocks[path], block...)
			} else if !slices.Contains([]string{"SPEC.md", "WIRE.md", "SIGNIN.md"}, filepath.Base(path)) {
				blocks[path] = append(blocks[path], strings.Join(block, "\n"))
			}
		}
	}
	if len(blocks) < 4 {
		t.Fatalf("%d documents show commands", len(blocks))
	}
	return blocks
}

// documents returns the paths of the repository's documents.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == "node_modules" {
			return filepath.SkipDir // others' documents
		}
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// TestDocumentsNameCommands finds commands and flags in the text of documents that keytree does
// not have.
func TestDocumentsNameCommands(t *testing.T) {
	inline := regexp.MustCompile("`keytree ([^`]+)`")
	found := 0
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range inline.FindAllStringSubmatch(string(text), -1) {
			if match[1] == "token 1" || match[1] == "count KeyInits 1" { // texts that signatures begin with
				continue
			}
			found++
			words := strings.Fields(match[1])
			cmd, rest, err := (&app{stdout: &output{w: io.Discard}, stderr: io.Discard}).rootCommand().Find(words)
			if err != nil || cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
				t.Errorf("%s: keytree %s: there is no such command (%v)", path, match[1], err)
				continue
			}
			for _, word := range rest {
				name, _, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
				if strings.HasPrefix(word, "--") && name != "help" && cmd.Flags().Lookup(name) == nil {
					t.Errorf("%s: keytree %s: there is no flag %s", path, match[1], word)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("%d commands were found", found)
	}
}

// codeBlocks returns the blocks of code of a document, each as its lines; one that ends with a
// backslash is one with the next.
func codeBlocks(text string) (blocks [][]string) {
	var block []string
	end := func() {
		if block != nil {
			blocks = append(blocks, block)
		}
		block = nil
	}
	fenced, goesOn := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		fence := strings.HasPrefix(line, "```")
		indented := strings.HasPrefix(line, "    ")
		if fence || !fenced && !indented {
			end()
			fenced = fenced != fence
			continue
		}
		line, more := strings.CutSuffix(strings.TrimSpace(line), `\`)
		if line = strings.TrimSpace(line); goesOn {
			block[len(block)-1] += " " + line
		} else if line != "" {
			block = append(block, line)
		}
		goesOn = more
	}
	end()
	return blocks
}

func TestCodeBlocks(t *testing.T) {
	text := "a\n\n    b \\\n      c\n    d\n\ne\n\n    f\n```sh\ng\n\nh\n```\ni\n```\nj\n```\n"
	want := [][]string{{"b c", "d"}, {"f"}, {"g", "h"}, {"j"}}
	if got := codeBlocks(text); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// writeBlocks puts a node's files where bitcoind has them.
func (r *rehearsal) writeBlocks() {
	dir := r.path(".bitcoin/blocks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	write(r.T, filepath.Join(dir, "blk00000.dat"), string(blockFile(r.T, 10, 0)))
}

// beginChain pays for the first anchor of the server, and waits until it is confirmed.
func (r *rehearsal) beginChain() {
	s := r.server
	var at struct{ GRPC, HTTP, Keyserver string }
	if err := json.Unmarshal([]byte(s.await(&s.stderr, `"message":"serving"`)), &at); err != nil {
		r.Fatal(err)
	}
	s.grpc = at.GRPC
	payTo(r.T, r.node, s.status().Address, 1_000_000)
	mine(r.T, s.grpc, r.node)
	status := s.awaitAnchor(1)
	checkpoint, err := r.node.BlockHash(r.Context(), 1)
	if err != nil {
		r.Fatal(err)
	}
	r.env = append(r.env, "KEYTREE_SERVER="+s.grpc)
	r.is(
		"https://keys.example.org/", "http://"+at.Keyserver+"/",
		"127.0.0.1:8434", s.grpc, "keys.example.org:8434", "http://"+s.grpc,
		"HOST:8434", s.grpc,
		"http://127.0.0.1:8435", "http://"+at.HTTP,
		"--genesis TXID", "--genesis "+status.Chain,
		"--anchor-chain TXID", "--anchor-chain "+status.Chain,
		"chain_tx_hash=…", "chain_tx_hash="+status.Chain,
		"chains/…/", "chains/"+status.Chain+"/",
		"--from 800000", "--from 1",
		"800000:HASH", "1:"+checkpoint.String(),
	)
}

// makeKeys makes a parent and a child, with coins.
func (r *rehearsal) makeKeys() {
	parent, child := regtest.NewKey(), regtest.NewKey()
	fund(r.Context(), r.T, r.node, parent, child)
	mine(r.T, r.server.grpc, r.node)
	write(r.T, r.path("parent.wif"), parent.WIF())
	write(r.T, r.path("child.wif"), child.WIF())
	r.is("PARENT_ADDRESS", parent.Address(), "bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a", child.Address(), "ADDRESS", child.Address())
}

// takeRequest waits until the request that the last command has published is indexed.
func (r *rehearsal) takeRequest() {
	mine(r.T, r.server.grpc, r.node)
	r.is("REQUEST_TXID", strings.TrimSpace(r.output))
}

// takeAccept is takeRequest for an accept, after which the key has a parent.
func (r *rehearsal) takeAccept() {
	mine(r.T, r.server.grpc, r.node)
	height, _, err := r.node.Tip(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	r.is("ACCEPT_TXID", strings.TrimSpace(r.output), "--at 800000", fmt.Sprint("--at ", height))
}

// awaitMempool waits until the server knows its node's mempool after the last block.
func (r *rehearsal) awaitMempool() {
	regtest.Await(r.T, func() string {
		if o := keytree(r.T, "status", "--json", "--server", r.server.grpc); !strings.Contains(o.stdout, `"mempool":{"available":true`) {
			return "the mempool is not known: " + o.stdout + o.stderr
		}
		return ""
	})
}

// registerOthers has as many register as Alice waits for.
func (r *rehearsal) registerOthers() {
	for _, name := range []string{"bob", "carl", "dave"} {
		env := []string{"KEYTREE_USER_DIR=" + name}
		r.run(shown{line: "keytree user init --keyserver https://keys.example.org/", env: env})
		r.run(shown{line: "keytree user create " + name + "@example.org --tokens tokens.txt", env: env})
	}
}

// takeMail fetches what was sent to Alice.
func (r *rehearsal) takeMail() {
	mail, err := r.mix.Fetch("")
	if err != nil {
		r.Fatal(err)
	}
	write(r.T, r.path("mail.eml"), string(mail))
}

// readSession finds which session the message that was received begins.
func (r *rehearsal) readSession() {
	session := regexp.MustCompile(`session ([0-9A-Za-z+/=_-]{16,})`).FindStringSubmatch(r.output)
	if session == nil {
		r.Fatalf("no session in %q", r.output)
	}
	r.is("SESSION", session[1])
}

// findEntries finds the hashchain that the audit has kept.
func (r *rehearsal) findEntries() {
	var entries string
	filepath.WalkDir(r.path("auditor"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "entries" {
			entries = path
		}
		return err
	})
	if entries == "" {
		r.Fatal("the audit kept no entries")
	}
	r.is("--entries FILE", "--entries "+entries)
}

// takeEvidence takes what an earlier auditor has found.
func (r *rehearsal) takeEvidence() {
	evidence, err := filepath.Abs("../../keyserver/audit/testdata/earlier/cheat/evidence/07b859aa3c656b9e.json")
	if err != nil {
		r.Fatal(err)
	}
	r.is("verify-evidence FILE", "verify-evidence "+evidence,
		"--fingerprint HEX", "--fingerprint 6c1c02f6ed504c50067be34aab2b760ffb2c9b62131fc42ade5da56643e62192")
}

// stopServer ends the server that the commands before have asked.
func (r *rehearsal) stopServer() {
	if code := r.server.signal(syscall.SIGTERM); code != exitDone {
		r.Errorf("exit code %d: %s", code, r.server.errors())
	}
}

func (r *rehearsal) takeAnchorKey() {
	r.is("--anchor-key-file FILE", "--anchor-key-file "+r.path("srv/anchor.key"))
	r.env = append(r.env, "KEYTREE_KEYSERVER_DOMAIN=example.org", "KEYTREE_KEYSERVER_LISTEN=127.0.0.1:0")
}
