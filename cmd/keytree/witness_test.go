package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// TestWitnessed runs a keyserver and a witness of its log, each a program. The keyserver vouches for the
// log, serves what the witness has cosigned, and is exported, while it runs and when it has ended.
func TestWitnessed(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	serve := []string{"keyserver", "serve", "--keyserver-tokens", "open", "--data-dir", file("data")}
	s := startKeyserver(t, serve...)
	var answer struct {
		Capabilities keyserver.Capabilities `json:"CAPABILITIES"`
	}
	s.call("KeyRepository.Capabilities", &answer)
	key, err := format.ParseLogKey(answer.Capabilities.LogVKey)
	if err != nil || answer.Capabilities.LogStatement == nil {
		t.Fatalf("capabilities %+v: %v", answer, err)
	}
	s.kill()

	write(t, file("logs"), "log "+key.String()+"\nquorum none\n")
	witness := []string{"witness", "--key", file("witness.key"), "--logs", file("logs"), "--listen", "127.0.0.1:0", "--log-format", "json"}
	keytree(t, witness...).wantError(t, exitUsage, "expected --name NAME")
	w := startProgram(t, nil, append(witness, "--name", "witness.example/w")...)
	var serving struct{ Witness, Key string }
	if err := json.Unmarshal([]byte(w.await(&w.stderr, `"message":"serving"`)), &serving); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("witness w %s http://%s\nquorum w\n", serving.Key, serving.Witness)
	write(t, file("policy"), text)
	policy, err := format.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s = startKeyserver(t, append(serve, "--witness-policy", file("policy"), "--witness-interval", "1s")...)
	wanted := func(signed []byte) string {
		opened, err := policy.OpenOf(key, signed)
		if err == nil {
			err = opened.Quorum(0)
		}
		if err != nil || opened.Checkpoint.Size != 1 {
			return fmt.Sprintf("%q: %v", signed, err)
		}
		return ""
	}
	regtest.Await(t, func() string {
		response, err := s.client.Get(s.url + "keytree/checkpoint")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		signed, err := io.ReadAll(response.Body)
		if err != nil {
			return err.Error()
		}
		return wanted(signed)
	})
	export := func(to string) string {
		return mustKeytree(t, "keyserver", "export-tiles", file(to), "--keyserver-domain", "example.org", "--data-dir", file("data"))
	}
	if said := export("www"); !strings.Contains(said, "with 1 entries, 1 of them new") {
		t.Errorf("beside the server: %q", said)
	}
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("the keyserver ended with %d", code)
	}
	if code := w.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("the witness ended with %d", code)
	}
	if said := export("again"); !strings.Contains(said, "with 1 entries, 1 of them new") {
		t.Errorf("without a server: %q", said)
	}
	for _, name := range []string{"checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"} {
		one, err := os.ReadFile(file("www/" + name))
		two, err2 := os.ReadFile(file("again/" + name))
		if name == "checkpoint" && wanted(two) != "" {
			t.Error(wanted(two))
		}
		if err != nil || err2 != nil || string(one) != string(two) {
			t.Errorf("%s: %q and %q (%v, %v)", name, one, two, err, err2)
		}
	}
	if said := export("www"); !strings.Contains(said, "with 1 entries, 0 of them new") {
		t.Errorf("again: %q", said)
	}
	mustKeytree(t, "keyserver", "fsck", "--keyserver-domain", "example.org", "--data-dir", file("data"))
}
