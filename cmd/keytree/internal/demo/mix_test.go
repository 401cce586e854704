package demo_test

import (
	"bytes"
	"testing"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/demo"
	"github.com/keytree-bch/keytree/keyserver/session"
)

// TestMix sends a message by the mix, which hands it out once, and takes no mail for others.
func TestMix(t *testing.T) {
	mix, err := demo.StartMix()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mix.Close(); err != nil {
			t.Error(err)
		}
	}()
	letter := &session.Letter{To: session.Address{Mix: demo.MixAddress, Nym: []byte("a nym")}, Message: bytes.Repeat([]byte("KTS1"), 100)}
	if err := mix.Client().Send(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
	if got, err := mix.Fetch("a nym"); err != nil || !bytes.Equal(got, letter.Message) {
		t.Errorf("the mix had %d bytes (%v), expected %d", len(got), err, len(letter.Message))
	}
	if _, err := mix.Fetch("a nym"); err == nil {
		t.Error("the mix has a message twice")
	}
	letter.To.Mix = "another@mix.example"
	if err := mix.Client().Send(t.Context(), letter); err == nil {
		t.Error("the mix takes mail for another")
	}
}

// TestScenes checks that the play expects nothing of steps that nobody has taken.
func TestScenes(t *testing.T) {
	done := make(map[demo.Step]bool)
	for _, scene := range demo.Scenes() {
		for _, block := range scene.Blocks {
			for _, step := range block {
				done[step] = true
			}
		}
		for _, want := range scene.Then {
			if len(want.Paths) == 0 || want.ID != (demo.Step{}) && !done[want.ID] {
				t.Errorf("%q expects an identity of %v, with keys %v", scene.Tells, want.ID, want.Paths)
			}
		}
		for young, old := range scene.Merged {
			if !done[young] || !done[old] {
				t.Errorf("%q expects %v merged into %v", scene.Tells, young, old)
			}
		}
	}
	if len(done) == 0 {
		t.Error("nothing happens")
	}
}
