package keyserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// grow registers n identities.
func grow(t testing.TB, s *Service, n int) {
	t.Helper()
	for range n {
		size := s.Chain().Size
		mustCreate(t, s, message(s, fmt.Sprintf("n%s@example.org", letters(size)), newKey(size)))
	}
}

// letters writes a number so that no two look alike.
func letters(n uint64) string {
	const digits = "abcdefgh"
	s := ""
	for range 7 {
		s, n = string(digits[n%8])+s, n/8
	}
	return s
}

func TestEntries(t *testing.T) {
	s, _ := newTest(t)
	grow(t, s, 9)
	all := collect(t, s, 0, 9)
	for _, test := range []struct{ first, last, from, to uint64 }{
		{0, 9, 0, 9}, {0, 0, 0, 0}, {3, 5, 3, 5}, {9, 9, 9, 9},
		{5, 1 << 63, 5, 9}, // past the end: what exists
		{10, 10, 9, 9},     // behind the end: the last
		{1 << 63, 1<<64 - 1, 9, 9},
	} {
		from, entries, err := s.Entries(t.Context(), test.first, test.last)
		if err != nil || from != test.from {
			t.Fatalf("%d to %d: from %d, %v", test.first, test.last, from, err)
		}
		got := []hashchain.Entry{}
		for e, err := range entries {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if !slices.Equal(got, all[test.from:test.to+1]) {
			t.Errorf("%d to %d: %d entries", test.first, test.last, len(got))
		}
	}
	if _, _, err := s.Entries(t.Context(), 3, 2); !errors.Is(err, ErrRange) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, entries, err := s.Entries(ctx, 0, 9)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for _, err := range entries {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	// Who has had enough may stop.
	_, entries, _ = s.Entries(t.Context(), 0, 9)
	for range entries {
		break
	}
	if last, position, err := s.LastEntry(t.Context()); err != nil || position != 9 || last != all[9] {
		t.Errorf("last: %d %v", position, err)
	}
}

func TestServiceProofs(t *testing.T) {
	s, _ := newTest(t)
	var heads []hashchain.Chain
	for range 12 {
		heads = append(heads, s.Chain())
		grow(t, s, 1)
	}
	now, root := s.Chain(), chainRoot(s)
	for i, e := range collect(t, s, 0, now.Size-1) {
		p, err := s.InclusionProof(t.Context(), uint64(i), now.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := hashchain.VerifyInclusion(&e, uint64(i), now.Size, p, root); err != nil {
			t.Error(err)
		}
	}
	for _, old := range heads {
		p, err := s.ConsistencyProof(t.Context(), old.Size, now.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := hashchain.VerifyConsistency(old.Size, now.Size, p, old.Root(), root); err != nil {
			t.Error(err)
		}
	}
	for _, wrong := range [][2]uint64{{now.Size, now.Size}, {0, now.Size + 1}, {0, 0}, {5, 1<<64 - 1}} {
		if _, err := s.InclusionProof(t.Context(), wrong[0], wrong[1]); !errors.Is(err, ErrRange) {
			t.Errorf("inclusion of %d in %d: %v", wrong[0], wrong[1], err)
		}
	}
	for _, wrong := range [][2]uint64{{2, 1}, {0, now.Size + 1}, {1, 1<<64 - 1}} {
		if _, err := s.ConsistencyProof(t.Context(), wrong[0], wrong[1]); !errors.Is(err, ErrRange) {
			t.Errorf("from %d to %d: %v", wrong[0], wrong[1], err)
		}
	}
}
