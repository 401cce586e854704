package keyserver

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/uid"
)

func TestBackup(t *testing.T) {
	inMemory(t)
	dir := t.TempDir()
	opt := testOptions(dir, newClock())
	s := openTest(t, opt)
	grow(t, s, 20)
	addAll(t, s, newKey(1), keyInits(t, s, newKey(1), 3)...)

	// A backup while entries are appended is of one moment.
	var appending sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	appending.Go(func() {
		for ctx.Err() == nil {
			grow(t, s, 1)
		}
	})
	var backups [3]bytes.Buffer
	for i := range backups {
		if err := s.Backup(t.Context(), &backups[i]); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	appending.Wait()
	all := collect(t, s, 0, 1<<63)
	s.Close()

	for i := range backups {
		restored := at(opt, filepath.Join(dir, "restored", string('a'+rune(i))))
		if err := Restore(t.Context(), restored, bytes.NewReader(backups[i].Bytes())); err != nil {
			t.Fatal(err)
		}
		r := openTest(t, restored)
		mustCheck(t, r)
		if size := r.Chain().Size; size < 21 || !slices.Equal(collect(t, r, 0, size-1), all[:size]) {
			t.Errorf("backup %d: %d entries, others than those that were there", i, size)
		}
		if _, err := r.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(1))), ""); err != nil {
			t.Error(err)
		}
		grow(t, r, 1)
		r.Close()
		openTest(t, restored).Close()
	}

	whole := backups[0].Bytes()
	changed := slices.Clone(whole)
	changed[len(changed)/2] ^= 1
	target := testOptions(filepath.Join(dir, "bad"), newClock())
	for name, bad := range map[string][]byte{
		"nothing":  nil,
		"no mark":  whole[1:],
		"half":     whole[:len(whole)/2],
		"no sum":   whole[:len(whole)-32],
		"cut":      whole[:len(whole)-1],
		"changed":  changed,
		"sum":      append(slices.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1),
		"a length": append([]byte("keytree keyserver backup 1\n"), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
	} {
		if err := Restore(t.Context(), target, bytes.NewReader(bad)); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(target.Dir + "*"); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	if err := Restore(t.Context(), opt, bytes.NewReader(whole)); !errors.Is(err, ErrMismatch) {
		t.Errorf("over a database: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Restore(ended, target, bytes.NewReader(whole)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := target.place().OpenReadOnly(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was restored: %v", err)
	}
}
