package client

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/token"
)

// TestConfirmLetsOthersIn has another process use the folder while Confirm waits: it
// registers the identity for whose entry Confirm waits, and updates its own.
func TestConfirmLetsOthersIn(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	id := must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: new(paper).show}))(t)
	waiting := make(chan struct{})
	begin := sync.OnceFunc(func() { close(waiting) })
	c.opt.Progress = func(what string, done, all uint64) {
		if what == "waiting" {
			begin()
		}
	}
	var others sync.WaitGroup
	others.Go(func() {
		<-waiting
		other, err := Open(c.dir, s.options())
		for errors.Is(err, ErrLocked) {
			other, err = Open(c.dir, s.options())
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		if _, err := other.Create(t.Context(), "bob@example.org", testPassphrase, Registration{Paper: new(paper).show}); err != nil {
			t.Error(err)
		}
		its, err := other.OpenIdentity(alice, testPassphrase)
		if err == nil {
			err = other.Update(t.Context(), its, Registration{})
		}
		if err != nil {
			t.Error(err)
		}
		s.fill(2)
	})
	err := c.Confirm(t.Context(), id, 2, time.Millisecond)
	others.Wait()
	if err != nil || id.Stage() != Confirmed || id.Position() != 3 || id.Message().Content.MsgCount != 1 {
		t.Errorf("%v: %s at %d", err, id.Stage(), id.Position())
	}
}
