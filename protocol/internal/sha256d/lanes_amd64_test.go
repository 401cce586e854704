package sha256d

import "testing"

// TestWithoutLanes repeats the tests as on a processor that lacks the instructions.
func TestWithoutLanes(t *testing.T) {
	if !manyLanes {
		t.Skip("this processor has no AVX-512: the other tests have shown it")
	}
	manyLanes = false
	defer func() { manyLanes = true }()
	t.Run("messages", TestMessages)
	t.Run("pairs", TestPairs)
}
