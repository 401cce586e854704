package statelog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	statelogrpc "github.com/keytree-bch/keytree/rpc/statelog"
)

// member is one of several that publish a state log and cosign those of the others.
type member struct {
	*rig
	name     string
	url      string
	handler  atomic.Value // of http.Handler
	cosigner *Cosigner
	policy   *format.Policy // of its log and its witness alone
}

func newIndexer(t *testing.T, name string) *member {
	x := &member{rig: newRig(t), name: name}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := x.handler.Load().(http.Handler); ok {
			h.ServeHTTP(w, r)
			return
		}
		http.Error(w, "starting", http.StatusServiceUnavailable)
	}))
	t.Cleanup(server.Close)
	x.url = server.URL
	opt := x.options()
	opt.Host = name
	p, err := Open(opt) // makes the log's key
	if err != nil {
		t.Fatal(err)
	}
	x.policy = &format.Policy{Logs: []format.PolicyLog{{Key: p.Log(1).Key(), URL: x.url + protocol.StatePath(network, 1)}}}
	w, err := witness.Open(witness.Options{KeyFile: x.witnessKey(), StateFile: x.witnessKey() + ".json", Name: name + "/witness", Policy: x.policy})
	if err != nil {
		t.Fatal(err)
	}
	x.policy.Witnesses = []format.PolicyWitness{{Name: name, Key: w.Key(), URL: x.url + "/state"}}
	if err := errors.Join(w.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *member) witnessKey() string { return filepath.Join(x.dir, "witness.key") }

func (x *member) evidence() string { return filepath.Join(x.dir, "evidence") }

// run publishes, and cosigns the others.
func (x *member) run(others ...*member) {
	x.t.Helper()
	var text, logs string
	var names string
	for _, o := range others {
		w, l := o.policy.Witnesses[0], o.policy.Logs[0]
		text += fmt.Sprintf("witness %s %s %s\n", w.Name, w.Key, w.URL)
		logs += fmt.Sprintf("log %s %s\n", l.Key, l.URL)
		names += " " + w.Name
	}
	policy, err := format.ParsePolicy([]byte(text + "group others any" + names + "\nquorum others\n"))
	if err != nil {
		x.t.Fatal(err)
	}
	cosigned, err := format.ParsePolicy([]byte(logs + "quorum none\n"))
	if err != nil {
		x.t.Fatal(err)
	}
	opt := x.options()
	opt.Host, opt.Policy, opt.WitnessInterval = x.name, policy, 20*time.Millisecond
	if x.Publisher, err = Open(opt); err != nil {
		x.t.Fatal(err)
	}
	x.cosigner, err = OpenCosigner(CosignerOptions{Publisher: x.Publisher, KeyFile: x.witnessKey(), Policy: cosigned, Evidence: x.evidence(), Log: zerolog.Nop()})
	if err != nil {
		x.t.Fatal(err)
	}
	x.handler.Store(statelogrpc.NewHandler(network, x.Publisher, x.cosigner.Witness(), zerolog.Nop()))
	ctx, cancel := context.WithCancel(context.Background())
	ran, searched := make(chan error, 1), make(chan struct{})
	go func() { ran <- x.Run(ctx) }()
	go func() { defer close(searched); x.cosigner.Run(ctx) }()
	x.t.Cleanup(func() {
		cancel()
		<-searched
		if err := errors.Join(<-ran, x.cosigner.Close(), x.Publisher.Close()); err != nil {
			x.t.Error(err)
		}
	})
}

// found returns the evidence about a log that an indexer has, once it has some with an entry.
func (x *member) found(about *member) *audit.Evidence {
	x.t.Helper()
	var e *audit.Evidence
	eventually(x.t, x.name+" has evidence about "+about.name, func() bool {
		about.pass(time.Second) // for the witness to be asked again
		files, err := os.ReadDir(x.evidence())
		if err != nil {
			x.t.Fatal(err)
		}
		for _, f := range files {
			if filepath.Ext(f.Name()) != ".json" {
				continue // being written
			}
			if e, err = readEvidence(filepath.Join(x.evidence(), f.Name())); err != nil {
				x.t.Fatal(err)
			}
			if e.Domain == about.name && len(e.StateLog.Entry) > 0 {
				return true
			}
		}
		return false
	})
	return e
}

// cosigners are the names of those who have cosigned the newest checkpoint, of so many entries.
func (x *member) cosigners(policy *format.Policy, size uint64) []string {
	signed, _, err := x.Log(1).Checkpoint()
	if err != nil {
		return nil
	}
	opened, err := policy.OpenOf(x.Log(1).Key(), signed)
	if err != nil || opened.Checkpoint.Size != size {
		return nil
	}
	return opened.Cosigners()
}

// TestThreeIndexers has three cosign each other, of which one makes another state of a block: those who are honest
// cosign each other and not it, and have evidence, which names the block, and which only convicts the one that lies.
func TestThreeIndexers(t *testing.T) {
	const lieAt = 277
	names := []string{"a.example", "b.example", "liar.example"}
	var all []*member
	for _, name := range names {
		x := newIndexer(t, name)
		x.mine(lieAt, "")
		b := graph.Block{Height: lieAt, Hash: sha256.Sum256([]byte("here"))}
		tip, _ := x.graph.Tip()
		b.PrevHash = tip.Hash
		if name == "liar.example" { // which finds what is not in the block
			author := protocol.KeyHash{1}
			b.Actions = []links.Action{{TxID: sha256.Sum256([]byte("made up")), Index: 1, Author: &author, Action: protocol.Action{Kind: protocol.MLR, Parent: protocol.KeyHash{2}}}}
		}
		if err := x.graph.Connect(b); err != nil {
			t.Fatal(err)
		}
		x.mine(300, "")
		all = append(all, x)
	}
	a, b, liar := all[0], all[1], all[2]
	a.run(b, liar)
	b.run(a, liar)
	liar.run(a, b)
	for _, x := range all {
		x.seen()
		x.pass(2 * time.Hour)
	}
	const size = lieAt + 301 - depth
	cosigned := &format.Policy{}
	for _, x := range all {
		cosigned.Witnesses = append(cosigned.Witnesses, x.policy.Witnesses[0])
	}
	for _, honest := range []struct{ log, by *member }{{a, b}, {b, a}} {
		eventually(t, honest.by.name+" cosigns "+honest.log.name, func() bool {
			honest.log.pass(time.Second) // for the witness to be asked again
			return slices.Equal(honest.log.cosigners(cosigned, size), []string{honest.by.name})
		})
	}
	truth, _, err := entryAt(a.graph, lieAt)
	if err != nil {
		t.Fatal(err)
	}
	lie, _, err := entryAt(liar.graph, lieAt)
	if err != nil {
		t.Fatal(err)
	}
	if truth.Block != lie.Block || truth.StateHash == lie.StateHash {
		t.Fatalf("no lie: %+v and %+v", truth, lie)
	}
	verdict := func(e *audit.Evidence, pins audit.Pins) audit.Verdict {
		t.Helper()
		c, err := e.Verify(t.Context(), pins, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Verdict
	}
	for _, honest := range []*member{a, b} {
		e := honest.found(liar)
		if entry, err := protocol.DecodeStateEntry(e.StateLog.Entry); err != nil || entry != lie || e.StateLog.Index != lieAt {
			t.Errorf("the evidence is of entry %d, %+v; %v", e.StateLog.Index, entry, err)
		}
		key := liar.Log(1).Key()
		for _, test := range []struct {
			pins audit.Pins
			want audit.Verdict
		}{
			{audit.Pins{StateLog: key, State: &truth}, audit.Misbehaviour},
			{audit.Pins{StateLog: key}, audit.WhichState},
			{audit.Pins{State: &truth}, audit.AboutWhom},
			{audit.Pins{StateLog: key, State: &lie}, audit.ConvictsNobody},
		} {
			if got := verdict(e, test.pins); got != test.want {
				t.Errorf("%+v: %s, want %s", test.pins, got, test.want)
			}
		}
		if c := liar.cosigners(cosigned, size); len(c) > 0 {
			t.Errorf("%v have cosigned the lie", c)
		}
		for _, forge := range []func(s *audit.StateLog){
			func(s *audit.StateLog) { s.Entry = s.Computed },
			func(s *audit.StateLog) { s.Index++ },
			func(s *audit.StateLog) { s.Entry, s.Computed = s.Computed, s.Entry },
			func(s *audit.StateLog) { s.Inclusion = s.Inclusion[1:] },
			func(s *audit.StateLog) { s.Key = a.Log(1).Key().String() },
			func(s *audit.StateLog) { s.Checkpoint = s.Checkpoint[1:] },
		} {
			forged, s := *e, *e.StateLog
			forge(&s)
			forged.StateLog = &s
			if _, err := forged.Verify(t.Context(), audit.Pins{State: &truth}, nil); !errors.Is(err, audit.ErrNoEvidence) {
				t.Errorf("forged: %v", err)
			}
		}
	}
	// What the liar has about those who are honest convicts nobody who knows the block's state.
	if got := verdict(liar.found(a), audit.Pins{StateLog: a.Log(1).Key(), State: &truth}); got != audit.ConvictsNobody {
		t.Errorf("an honest log: %s", got)
	}
}

// TestForkedWitness is on another chain than the log: it cosigns nothing, and what it keeps convicts nobody.
func TestForkedWitness(t *testing.T) {
	a, b := newIndexer(t, "a.example"), newIndexer(t, "b.example")
	a.mine(40, "")
	b.mine(20, "")
	b.mine(30, "fork")
	a.run(b)
	b.run(a)
	for _, x := range []*member{a, b} {
		x.seen()
		x.pass(2 * time.Hour)
	}
	e := b.found(a)
	if e.StateLog.Index != 20 {
		t.Errorf("evidence of entry %d, want 20", e.StateLog.Index)
	}
	for _, x := range []*member{a, b} {
		own, _, err := entryAt(x.graph, 20)
		if err != nil {
			t.Fatal(err)
		}
		c, err := e.Verify(t.Context(), audit.Pins{StateLog: a.Log(1).Key(), State: &own}, nil)
		if err != nil || c.Verdict != audit.ConvictsNobody {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// TestCosignerRefuses has it answer what it has not computed yet with a request to come later, and take no policy with
// another network's log.
func TestCosignerRefuses(t *testing.T) {
	a, b := newIndexer(t, "a.example"), newIndexer(t, "b.example")
	a.mine(40, "")
	b.mine(35, "")
	a.run(b)
	b.run(a)
	a.seen()
	b.seen()
	a.pass(2 * time.Hour)
	b.pass(2 * time.Hour)
	a.await(1, 30)
	eventually(t, "b has computed 25", func() bool { return b.Size() == 25 })
	l := a.Log(1)
	signed, _, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	submission := format.Submission{Checkpoint: signed}
	if _, err := b.cosigner.Witness().Add(submission.Marshal()); !errors.Is(err, witness.ErrLater) {
		t.Errorf("got %v, want ErrLater", err)
	}
	if files, err := os.ReadDir(b.evidence()); err != nil || len(files) > 0 {
		t.Errorf("evidence of what is not computed yet: %v, %v", files, err)
	}
	b.mine(5, "")
	b.pass(lookAgain)
	b.seen()
	b.pass(2 * time.Hour)
	eventually(t, "b cosigns", func() bool {
		a.pass(time.Second) // for the witness to be asked again
		return slices.Equal(a.cosigners(&format.Policy{Witnesses: b.policy.Witnesses}, 30), []string{"b.example"})
	})

	for _, origin := range []string{"a.example/state/mainnet/1/1", "a.example/state/regtest/2/1", "a.example/state/regtest/1/0", "/state/regtest/1/1", "a.example:80/state/regtest/1/1", "a.example/keytree"} {
		key, err := format.GenerateKey(origin)
		if err != nil {
			t.Fatal(err)
		}
		_, err = OpenCosigner(CosignerOptions{Publisher: a.Publisher, KeyFile: filepath.Join(t.TempDir(), "key"), Name: "w", Policy: &format.Policy{Logs: []format.PolicyLog{{Key: key.Log()}}}, Evidence: t.TempDir()})
		if err == nil {
			t.Errorf("%s is cosigned", origin)
		}
	}
}
