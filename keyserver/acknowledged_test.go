package keyserver

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// TestAcknowledged: a store that has lost what was acknowledged, or has something else in its
// place, is refused at the start, also by who only reads it.
func TestAcknowledged(t *testing.T) {
	inMemory(t)
	dir := t.TempDir()
	opt := testOptions(dir, newClock())
	opt.Acknowledged = filepath.Join(dir, "key.acknowledged")
	s := openTest(t, opt)
	grow(t, s, 3)
	var before bytes.Buffer
	if err := s.Backup(t.Context(), &before); err != nil {
		t.Fatal(err)
	}
	old := before.Bytes()
	grow(t, s, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, opt).Close() // nothing is lost
	remembered, err := os.ReadFile(opt.Acknowledged)
	if err != nil || len(remembered) != 2*acknowledgedLine {
		t.Fatalf("%q, %v", remembered, err)
	}

	wipe(t, opt)
	if err := Restore(t.Context(), opt, bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	reading := opt
	reading.ReadOnly = true
	refused := func(why string) {
		t.Helper()
		for _, opt := range []Options{opt, reading} {
			s, err := Open(t.Context(), opt)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), why) {
				t.Errorf("got %v, want that it says %q", err, why)
			}
		}
	}
	refused("up to size 6")

	// One line may be torn.
	torn := bytes.Clone(remembered)
	older := []byte(formatAcknowledged(2, hashchain.Hash{1}))
	for _, at := range []int{0, acknowledgedLine} {
		copy(torn, remembered)
		copy(torn[at:], older)
		torn[at+3] = 'x'
		if err := os.WriteFile(opt.Acknowledged, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		refused("up to size")
	}
	if err := os.WriteFile(opt.Acknowledged, []byte("anything else"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("is not what a keyserver has written")

	// The same size, with another history.
	if err := os.Remove(opt.Acknowledged); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, opt)
	grow(t, s, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(opt.Acknowledged, remembered, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("expected")
}
