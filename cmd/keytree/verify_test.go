package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// provingWorld is a server with a state log and a witness, after the flows of MIP-0003, and what a wallet has.
type provingWorld struct {
	*testing.T
	dir          string
	node         *regtest.Node
	play         *demo.FlowsPlay
	server, rest string // HOST:PORT
	program      *program
	policy       string // file
	log, witness *format.Key
}

func (w *provingWorld) file(name string) string { return filepath.Join(w.dir, name) }

// newProvingWorld plays the flows, has two hours pass while the server is ended, and starts it again with a witness, which is itself.
func newProvingWorld(t *testing.T) *provingWorld {
	w := &provingWorld{T: t, dir: t.TempDir(), node: regtest.ForTest(t, regtest.Options{Blocks: demo.Blocks})}
	args := append(serveArgs(w.node.URL(), w.dir), "--state-log-key", w.file("state.key"), "--state-log-host", "keys.example.org")
	s := startProgram(t, nil, args...)
	server, _ := s.awaitServing()
	config, err := bchd.ParseURL(w.node.URL())
	if err != nil {
		t.Fatal(err)
	}
	if w.play, err = demo.NewFlowsPlay(t.Context(), w.node, config, server, io.Discard); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.play.Close)
	if err := w.play.Play(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.Mine(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	awaitTip(t, server, w.node)
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatalf("ended with %d: %s", code, s.errors())
	}
	height, tip, err := w.node.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, w.file("state-log/known.json"), fmt.Sprintf(`[{"time":%d,"height":%d,"block":"%v"}]`, time.Now().Add(-2*time.Hour).Unix(), height, tip))
	secret, err := os.ReadFile(w.file("state.key"))
	if err != nil {
		t.Fatal(err)
	}
	if w.log, err = format.ParseKey(strings.TrimSpace(string(secret))); err != nil {
		t.Fatal(err)
	}
	if w.witness, err = format.GenerateKey("witness.example/w"); err != nil {
		t.Fatal(err)
	}
	write(t, w.file("witness.key"), w.witness.Text()+"\n")
	write(t, w.file("witness.key.json"), `{"version":1,"logs":{}}`)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.rest = listener.Addr().String()
	listener.Close()
	w.policy = w.file("policy")
	write(t, w.policy, fmt.Sprintf("log %s http://%s/state/regtest/1/1\nwitness w %s http://%s/state\nquorum w\n", w.log.Log(), w.rest, w.witness.Witness(), w.rest))
	w.program = startProgram(t, nil, append(args, "--http-listen", w.rest, "--state-witness-policy", w.policy, "--cosign-key", w.file("witness.key"), "--cosign-logs", w.policy)...)
	w.server, _ = w.program.awaitServing()
	awaitTip(t, w.server, w.node)
	regtest.Await(t, func() string {
		o := w.prove("first.proof", "A", "--policy", w.policy)
		if o.code != exitDone {
			return o.stderr
		}
		return ""
	})
	return w
}

// prove saves a proof of a key of the play.
func (w *provingWorld) prove(name, key string, more ...string) outcome {
	w.Helper()
	return keytree(w.T, append([]string{"resolve", w.play.Address(key), "--server", w.server, "--proof", w.file(name)}, more...)...)
}

// shown reads what was printed with --json of one file.
func (w *provingWorld) shown(text string) (s shownProof) {
	w.Helper()
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		w.Fatalf("%v: %s", err, text)
	}
	return s
}

// TestProofOfAnswer proves answers on a real chain, through the program, and has them verified without it.
func TestProofOfAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	w := newProvingWorld(t)
	defer http.DefaultClient.CloseIdleConnections()
	verify := func(more ...string) outcome {
		return keytree(t, append([]string{"verify", "--policy", w.policy}, more...)...)
	}

	t.Run("as of every scene", func(t *testing.T) {
		var addresses []string
		for letter := 'A'; letter <= 'K'; letter++ {
			addresses = append(addresses, w.play.Address(string(letter)))
		}
		for _, scene := range w.play.Played {
			at := []string{"--at", fmt.Sprint(scene.Height), "--server", w.server, "--json"}
			proven := w.shown(mustKeytree(t, append(append([]string{"resolve", "--proof", w.file("scene.proof"), "--policy", w.policy}, at...), addresses...)...))
			again := w.shown(verify("--json", w.file("scene.proof")).stdout)
			var answered struct {
				Resolutions []struct {
					Address, IDTxHash, MainAddress, ParentAddress, AcceptTxHash string
					Path                                                        []string
				}
			}
			raw := mustKeytree(t, append(append([]string{"resolve"}, at...), addresses...)...)
			if err := json.Unmarshal([]byte(strings.ReplaceAll(raw, "_", "")), &answered); err != nil {
				t.Fatal(err)
			}
			for i, want := range answered.Resolutions {
				for _, p := range []shownProof{proven, again} {
					got := p.Subjects[i]
					if !p.Proven || p.Height != scene.Height || got.Address != want.Address || got.ID != want.IDTxHash || got.MainAddress != want.MainAddress || got.Parent != want.ParentAddress || got.Accept != want.AcceptTxHash ||
						got.Known != (want.IDTxHash != "") || got.Known && strings.Join(got.Path, " ") != strings.Join(want.Path, " ") {
						t.Errorf("as of %d: proven is %+v, answered %+v", scene.Height, got, want)
					}
				}
			}
		}
	})
	t.Run("what it prints", func(t *testing.T) {
		o := w.prove("e.proof", "E")
		wantParts(t, o.stdout, "shown  ", "not looked at: the proof was not checked against a policy", "not proven  ", "key_count")
		o = verify(w.file("e.proof"), "--address", w.play.Address("E"))
		wantParts(t, o.stdout, "proven  ", "of regtest", "log  ", "keys.example.org/state/regtest/1/1", "by w", "s ago, at ", "witnesses' word", "child of", "linked by", "not revoked", "not proven  ", "named_by")
		if o.code != exitDone || strings.Contains(o.stdout, "old") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("identities", func(t *testing.T) {
		merged := w.play.Played[len(w.play.Played)-1]
		for step := range merged.Merged {
			id := w.play.TxID(step)
			var answer struct{ Proof string }
			if err := json.Unmarshal(mustGet(t, w.program, "/v1/identities/"+id+"/proof"), &answer); err != nil {
				t.Fatal(err)
			}
			write(t, w.file("id.proof"), answer.Proof)
			o := verify(w.file("id.proof"), "--id", id, "--json")
			if s := w.shown(o.stdout); o.code != exitDone || len(s.Subjects) != 1 || len(s.Subjects[0].MergedInto) == 0 || s.Subjects[0].MainAddress != w.play.Address("F") {
				t.Errorf("%+v", o)
			}
			verify(w.file("id.proof"), "--address", w.play.Address("F")).wantError(t, exitFailed, "it is not about the key")
		}
	})
	t.Run("what is not proven", func(t *testing.T) {
		file := w.file("first.proof")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := format.GenerateKey("stranger.example/w")
		if err != nil {
			t.Fatal(err)
		}
		write(t, w.file("other.policy"), fmt.Sprintf("log %s\nwitness s %s\nquorum s\n", w.log.Log(), stranger.Witness()))
		write(t, w.file("none.policy"), fmt.Sprintf("log %s\nquorum none\n", w.log.Log()))
		write(t, w.file("damaged.proof"), strings.Replace(string(text), "extra S", "extra T", 1))
		keytree(t, "verify", file, "--policy", w.file("other.policy")).wantError(t, exitFailed, "too few witnesses have cosigned")
		keytree(t, "verify", file, "--policy", w.file("none.policy"), "--max-age", "1h").wantError(t, exitFailed, "demands no witness")
		if o := keytree(t, "verify", file, "--policy", w.file("none.policy")); o.code != exitDone || !strings.Contains(o.stdout, "the policy demands no witness: all of it is the log's word") {
			t.Errorf("%+v", o)
		}
		verify(w.file("damaged.proof")).wantError(t, exitFailed, "check 1 of protocol/SPEC.md §13")
		verify(file, "--address", w.play.Address("B")).wantError(t, exitFailed, "it is not about the key")
		verify(file, "--max-age", "1ns").wantError(t, exitFailed, "get a newer one")
		verify(file, "--address", "x").wantError(t, exitUsage, "--address: ")
		verify(file, "--headers", "h").wantError(t, exitUsage, "go together")
		verify(w.file("nowhere")).wantError(t, exitFailed, "no such file")
		keytree(t, "verify", file).wantError(t, exitUsage, "no policy given")
		keytree(t, "verify").wantError(t, exitUsage, "expected FILE")
		for _, more := range [][]string{{"--policy", w.policy}, {"--transactions"}} {
			keytree(t, append([]string{"resolve", w.play.Address("A"), "--server", w.server}, more...)...).wantError(t, exitUsage, "go with --proof FILE")
		}
		w.prove("x.proof", "A", "--unconfirmed").wantError(t, exitUsage, "cannot be proven")
		w.prove("x.proof", "A", "--at", "4000000").wantError(t, exitFailed, "the newest that the state log's checkpoint covers")

		// Cosignatures of another time, and another tree that the log has signed: by who has its keys.
		p, err := format.ParseProof(text)
		if err != nil {
			t.Fatal(err)
		}
		c, err := format.Stated(p.Checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		signed := w.log.Sign(c)
		p.Checkpoint = append(signed, w.witness.Cosign(signed, time.Now().Add(-48*time.Hour))...)
		write(t, w.file("old.proof"), string(p.Marshal()))
		if o := verify(w.file("old.proof")); o.code != exitDone || !strings.Contains(o.stdout, "old: 2 days ago") {
			t.Errorf("%+v", o)
		}
		verify(w.file("old.proof"), "--max-age", "24h").wantError(t, exitFailed, "get a newer one")
		c.Root[0] ^= 1
		p.Checkpoint = w.log.Sign(c)
		write(t, w.file("lie.proof"), string(p.Marshal()))
		o := verify(file, w.file("lie.proof"))
		if wantParts(t, o.stdout, "proven  ", "not proven  ", "evidence  ", "has signed two roots of"); o.code != exitMisbehaviour {
			t.Errorf("%+v", o)
		}
		if o := verify(file, w.file("old.proof"), "--json"); o.code != exitDone || strings.Count(o.stdout, "\n") != 2 {
			t.Errorf("two that agree: %+v", o)
		}
	})
	t.Run("headers", func(t *testing.T) {
		headers := w.file("headers.bin")
		mustKeytree(t, "audit", "headers", "--node", w.node.URL(), "--network", "regtest", "--from", "100", "--out", headers)
		hash, err := w.node.BlockHash(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		known := []string{w.file("first.proof"), "--headers", headers, "--checkpoint", fmt.Sprintf("100:%v", hash)}
		wantParts(t, verify(known...).stdout, "on the chain of the headers, with 10 blocks on top; they and it carry the work of 22 hashes")
		if s := w.shown(verify(append(known, "--json")...).stdout); s.Chain == nil || s.Chain.Above != 10 || s.Chain.Work.Int64() != 22 {
			t.Errorf("%+v", s.Chain)
		}
		text, err := os.ReadFile(headers)
		if err != nil {
			t.Fatal(err)
		}
		write(t, headers, string(text[:5*protocol.HeaderSize]))
		verify(known...).wantError(t, exitFailed, "the file has the headers of blocks 100 to 104")
		verify(append(known[:4:4], fmt.Sprintf("99:%v", hash))...).wantError(t, exitFailed, "the file has the headers of blocks 99 to 103")
		verify(append(known[:4:4], "100:"+someTxID)...).wantError(t, exitFailed, "expected the checkpoint")
	})
	t.Run("many", func(t *testing.T) {
		list := []string{w.play.Address("H"), w.play.Address("I"), w.play.Address("H")}
		for len(list) < 1000 {
			list = append(list, regtest.NewKey().Address())
		}
		many := []string{"resolve", "-", "--server", w.server, "--proof", w.file("many.proof"), "--policy", w.policy, "--json"}
		o := keytreeWith(t, strings.Join(list, "\n"), many...)
		if s := w.shown(o.stdout); o.code != exitDone || len(s.Subjects) != 999 || s.Subjects[0].Parent == "" || s.Subjects[1].Parent != "" || s.Subjects[998].Known {
			t.Errorf("%d subjects, exit code %d: %s", len(s.Subjects), o.code, o.stderr)
		}
		if o := verify(w.file("many.proof"), "--address", list[500], "--address", list[1], "--json"); o.code != exitDone || len(w.shown(o.stdout).Subjects) != 2 {
			t.Errorf("%d: %s", o.code, o.stderr)
		}
		keytreeWith(t, strings.Join(append(list, list[0]), "\n"), many...).wantError(t, exitUsage, "at most 1000 addresses")
	})
	t.Run("transactions", func(t *testing.T) {
		o := w.prove("txs.proof", "E", "--transactions", "--policy", w.policy, "--json")
		s := w.shown(o.stdout)
		if want := 2 * (len(s.Subjects[0].Path) - 1); o.code != exitDone || want < 4 || len(s.Transactions) != want || s.Transactions[0].TxID != s.Subjects[0].Accept {
			t.Errorf("%d transactions: %+v", len(s.Transactions), o)
		}
		wantParts(t, verify(w.file("txs.proof")).stdout, "transaction  ", ", in block ")
	})
	t.Run("a reorganisation", func(t *testing.T) {
		if _, err := w.node.Reorg(t.Context(), 4, nil, nil, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		awaitTip(t, w.server, w.node)
		if o := w.prove("after.proof", "A", "--policy", w.policy); o.code != exitDone {
			t.Errorf("%+v", o)
		}
		if o := verify(w.file("first.proof"), w.file("after.proof")); o.code != exitDone {
			t.Errorf("%+v", o)
		}
	})
	t.Run("without a node", func(t *testing.T) {
		if err := w.node.Halt(); err != nil {
			t.Fatal(err)
		}
		w.prove("x.proof", "E", "--transactions").wantError(t, exitFailed, "the node does not answer; try again later, or ask without transactions")
		if o := w.prove("x.proof", "E", "--policy", w.policy); o.code != exitDone {
			t.Errorf("%+v", o)
		}
	})
	if code := w.program.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("ended with %d: %s", code, w.program.errors())
	}
}
