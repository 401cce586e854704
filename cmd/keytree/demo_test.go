package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
)

// TestDemo runs the demo as a user does, and checks what it says and what it
// leaves behind.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo")
	if code := p.end(); code != exitDone {
		t.Fatalf("exit code %d; standard error:\n%s\nstandard output:\n%s", code, p.errors(), p.output())
	}
	wantParts(t, p.output(),
		"── 1. Service signup ─", "── 2. Key rotation ─", "── 3. Master key replacement ─", "── 4. Compromised child key ─",
		"── 5. Merging two identities ─", "── 6. Re-attaching a branch ─", "── And as of every block on the way ─")
	if got, want := strings.Count(p.output(), "✓ as the MIP says"), len(demo.Scenes())+1; got != want {
		t.Errorf("%d scenes were checked, want %d", got, want)
	}
	tree := regexp.MustCompile(`identity [0-9a-f]{8} \(MLR B→A\)\nF  bchreg:q\w{41}\n(?:├─ [AGJ]  bchreg:q\w{41}\n│  └─ .*\n(?:│     └─ .*\n)?){2}└─ [AGJ]  `)
	if !tree.MatchString(p.output()) {
		t.Errorf("the last tree is not there:\n%s", p.output())
	}
	wantGone(t, tmp, demoNode(t, p))
}

// TestDemoAnchor runs the demo of the anchors: the twin must be found out, and
// nothing be left behind.
func TestDemoAnchor(t *testing.T) {
	if testing.Short() {
		t.Skip("TestAnchoring does the same without the play")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "anchor")
	if code := p.end(); code != exitDone {
		t.Fatalf("exit code %d; standard error:\n%s\nstandard output:\n%s", code, p.errors(), p.output())
	}
	wantParts(t, p.output(),
		"── 1. The operator pays", "asks for a payment to", "bchreg:q", "pins this",
		"── 3. An auditor finds it sound", "verdict       sound up to position 6; every entry shown is covered", "schedule      an anchor within 1s or", "as the keyserver publishes, unsigned",
		"── 4. It goes on", "verdict       sound up to position 9; every entry shown is covered",
		"── 5. A twin of the keyserver", "verdict       misbehaviour", "finding       rewritten entry", "both cannot be true")
	wantGone(t, tmp, demoNode(t, p))
}

// TestDemoWitness runs the demo of the witnesses to its end.
func TestDemoWitness(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "witness")
	if code := p.end(); code != exitDone {
		t.Fatalf("exit code %d; standard error:\n%s\nstandard output:\n%s", code, p.errors(), p.output())
	}
	wantParts(t, p.output(),
		"── 2. Users register", "the checkpoint of 7 entries has the signatures of one and two",
		"── 3. An auditor finds it sound", "checkpoint: passed: of 7 entries, cosigned by one, two",
		"── 4. A fork", "has the signature of witness two alone", "one answers 422", "verdict       misbehaviour",
		"finding       checkpoint of another history", "both cannot be true", "✓ one history for everyone, seen by witnesses, or evidence")
	wantGone(t, tmp)
}

// TestDemoKeep looks at what --keep leaves running, and that Ctrl-C ends all of it.
func TestDemoKeep(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "--keep")
	p.await(&p.stdout, "Everything is left running until Ctrl-C")
	rest := strings.TrimSuffix(strings.Fields(p.await(&p.stdout, "REST   "))[1], ",")
	server := strings.Fields(p.await(&p.stdout, "gRPC   "))[1]
	nodeURL := strings.Fields(p.await(&p.stdout, "bchd   "))[1]
	keys := strings.Fields(p.await(&p.stdout, "keys   "))[1]
	p.await(&p.stdout, "asks for")
	if r, err := http.Get(rest + "/readyz"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%s/readyz: %v, %v", rest, r, err)
	} else {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()

	// The example with a link, which gets a block without more ado.
	parent := regexp.MustCompile(`--parent (\S+)`).FindStringSubmatch(p.output())[1]
	txid := strings.TrimSpace(mustKeytree(t, "link", "request", "--parent", parent, "--key-file", keys+"/K.wif",
		"--network", "regtest", "--server", server, "--node", nodeURL))
	regtest.Await(t, func() string {
		o := keytree(t, "history", parent, "--server", server)
		if strings.Contains(o.stdout, txid) {
			return ""
		}
		return "no block takes " + txid + ": " + o.stderr
	})

	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT; standard error:\n%s", code, p.errors())
	}
	wantGone(t, tmp, demoNode(t, p), strings.TrimPrefix(rest, "http://"), server)
}

// TestDemoWeb opens the address that is printed.
func TestDemoWeb(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "web")
	address := strings.TrimSpace(p.await(&p.stdout, "  http://"))
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(response.Body)
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(page), "into identity") {
		t.Errorf("%s: %d, %v: %s", address, response.StatusCode, err, page)
	}
	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT; standard error:\n%s", code, p.errors())
	}
	wantGone(t, tmp, demoNode(t, p), strings.Trim(strings.TrimPrefix(address, "http://"), "/"))
}

// TestDemoInterrupted stops the demo half-way.
func TestDemoInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	for _, test := range []struct {
		at     string
		signal os.Signal
	}{
		{"A private bchd is at", os.Interrupt},
		{"── 3. Master key replacement", syscall.SIGTERM},
	} {
		tmp := t.TempDir()
		p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo")
		p.await(&p.stdout, test.at)
		// Had it just ended by itself, there would be nothing to see here.
		if code := p.signal(test.signal); code != exitFailed || !strings.HasSuffix(p.errors(), "keytree: interrupted\n") {
			t.Errorf("at %q: exit code %d, standard error %q", test.at, code, p.errors())
		}
		wantGone(t, tmp, demoNode(t, p))
	}
}

// TestDemoIntoClosedPipe is what keytree demo | head -1 does.
func TestDemoIntoClosedPipe(t *testing.T) {
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo")
	p.await(&p.stdout, "A private bchd is at")
	p.closeOutput()
	if code := p.end(); code != exitFailed || !strings.HasSuffix(p.errors(), "broken pipe\n") {
		t.Errorf("exit code %d, standard error %q", code, p.errors())
	}
	wantGone(t, tmp, demoNode(t, p))
}

// TestStoryFindsMistakes gives the comparison answers to wrong expectations: a
// demo that agrees with everything would show nothing.
func TestStoryFindsMistakes(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: demo.Blocks})
	server, _ := startProgram(t, nil, serveArgs(n.URL(), t.TempDir())...).awaitServing()
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	s, err := demo.NewFlowsPlay(t.Context(), n, config, server, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Play(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*demo.Scene){
		"another path":     func(s *demo.Scene) { s.Then[0].Paths[2] = "DGF" },
		"another root":     func(s *demo.Scene) { s.Then[1].Paths = []string{"BC", "C"} },
		"another identity": func(s *demo.Scene) { s.Then[2].ID = demo.Revoke("B", "A") },
		"never linked":     func(s *demo.Scene) { s.Then[2].ID = demo.Step{} },
		"a key too few":    func(s *demo.Scene) { s.Then[0].Paths = s.Then[0].Paths[:5] },
		"another merge":    func(s *demo.Scene) { s.Merged[demo.Ask("K", "J")] = demo.Revoke("B", "A") },
		"no merge":         func(s *demo.Scene) { s.Merged[demo.Ask("B", "A")] = demo.Ask("K", "J") },
	} {
		scenes := demo.Scenes()
		last := scenes[len(scenes)-1]
		if err := s.Verify(t.Context(), last, nil); err != nil {
			t.Fatal(err)
		}
		spoil(&last)
		if err := s.Verify(t.Context(), last, nil); err == nil {
			t.Errorf("%s: nothing was found", name)
		}
	}
	early := s.Played[0].Height
	if err := s.Verify(t.Context(), demo.Scenes()[1], &early); err == nil {
		t.Error("a scene as of the block before it: nothing was found")
	}
}

// demoNode returns the address of the demo's bchd.
func demoNode(t *testing.T, p *program) string {
	t.Helper()
	found := regexp.MustCompile(`(?:A private bchd is at |bchd://)([0-9.:]+)`).FindStringSubmatch(p.output())
	if found == nil {
		t.Fatalf("no bchd in\n%s", p.output())
	}
	return found[1]
}

// wantGone checks that a folder for temporary files is empty again, and that
// nobody listens at the addresses.
func wantGone(t *testing.T, tmp string, addresses ...string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		// The lock of bchd's build is one empty file per user, and stays.
		if !strings.HasPrefix(entry.Name(), "keytree-bchd-build-") {
			t.Errorf("%s is left behind", entry.Name())
		}
	}
	for _, address := range addresses {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("somebody still listens at %s", address)
		}
	}
}

// TestDemoSignup signs up at the demo's service in a browser, with the demo's wallet, to the end, and leaves again.
func TestDemoSignup(t *testing.T) {
	b := browser.Start(t, "../../rpc/explorer/browser", "")
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "signup")
	service := strings.Fields(p.await(&p.stdout, "  service  http://"))[1]
	wallet := strings.Fields(p.await(&p.stdout, "  wallet   http://"))[1]
	expect := func(origin string) { b.Do("expect", browser.Order{"origin": strings.TrimSuffix(origin, "/")}) }
	open := func(url string) { b.Open(url, nil) }
	value := func(selector string) string {
		t.Helper()
		return b.Do("evaluate", browser.Order{"script": "document.querySelector('" + selector + "').value"}).Value.(string)
	}
	// sign has the wallet sign something, and comes back to where it was asked for.
	sign := func(asked, says string) (answer string) {
		t.Helper()
		back := b.Do("text", nil).URL
		open(wallet)
		b.Do("fill", browser.Order{"selector": "#asked", "text": asked})
		b.Do("click", browser.Order{"selector": "form button"})
		b.Do("wait", browser.Order{"selector": "#says", "text": says})
		b.Do("click", browser.Order{"selector": "#sure"})
		b.Do("wait", browser.Order{"selector": "#answer"})
		answer = value("#answer")
		open(back)
		return answer
	}

	open(wallet)
	address := b.Do("text", browser.Order{"selector": "#address"}).Text
	open(service)
	b.Do("fill", browser.Order{"selector": "#address", "text": address})
	b.Do("click", browser.Order{"selector": "form button"})
	b.Do("wait", browser.Order{"selector": "#text"})
	text := value("#text")
	signature := sign(text, "wants you to sign in with your Bitcoin Cash account")
	b.Do("fill", browser.Order{"selector": "#signature", "text": signature})
	expect(keytreeOf(p))
	b.Do("click", browser.Order{"selector": "form button"})

	answered := func(title, prompt, then string) {
		t.Helper()
		b.Do("wait", browser.Order{"selector": "main", "text": title})
		b.Do("click", browser.Order{"selector": "#prepare button"})
		b.Do("until", browser.Order{"script": `document.getElementById("asked").value !== ""`})
		answer := sign(value("#asked"), prompt)
		b.Do("wait", browser.Order{"selector": "main", "text": title})
		b.Do("fill", browser.Order{"selector": "#signed", "text": answer})
		b.Do("click", browser.Order{"selector": "#send button"})
		b.Do("wait", browser.Order{"selector": "main", "text": then})
		expect(service)
		b.Do("click", browser.Order{"selector": "#back"})
	}
	answered("A key asks to speak in your name", "into your identity (MIP-0003 link accept)", "The key speaks in your name")
	b.Do("wait", browser.Order{"selector": "main", "text": "whose main key is " + address})
	expect(keytreeOf(p))
	b.Do("click", browser.Order{"selector": "#revoke"})
	answered("Take a key out of your identity", "from your identity (MIP-0003 link revoke)", "The key speaks in your name no more")
	b.Do("wait", browser.Order{"selector": "main", "text": "is in no identity of yours"})

	// Whoever did not begin here does not end here.
	b.Open(service+"linked?state=guessed", browser.Order{"fresh": true})
	b.Do("wait", browser.Order{"selector": "main", "text": "has not signed up here"})

	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT; standard error:\n%s", code, p.errors())
	}
	left, err := os.ReadDir(tmp)
	for _, entry := range left {
		if !strings.HasPrefix(entry.Name(), "keytree-bchd-build-") {
			t.Errorf("%s is left behind", entry.Name())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// keytreeOf returns the origin of a demo's server.
func keytreeOf(p *program) string {
	line := p.await(&p.stdout, "to the keytree server at ")
	return strings.Fields(line[strings.Index(line, "http://"):])[0]
}

// TestDemoProof runs the demo of state proofs: the wallet must find the liar out, and nothing be left behind.
func TestDemoProof(t *testing.T) {
	if testing.Short() {
		t.Skip("TestProofOfAnswer does the same without the play")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "proof")
	if code := p.end(); code != exitDone {
		t.Fatalf("exit code %d; standard error:\n%s\nstandard output:\n%s", code, p.errors(), p.output())
	}
	wantParts(t, p.output(),
		"── 1. Three indexers", "quorum two-of-three", "── 3. The operator of the third indexer", "--verify actions", "child of",
		"── 4. The state logs publish", "of three: ", "with too few cosignatures", "── 5. A wallet asks all three", "not checked against a policy",
		"── 6. The wallet decides, offline", "exit code 0", "too few witnesses have cosigned", "exit code 1", "on the chain of the headers, with 10 blocks on top",
		"── 7. Two that contradict", "evidence  ", "exit code 3", "✓ who answers need not be trusted")
	wantGone(t, tmp, demoNode(t, p))
}
