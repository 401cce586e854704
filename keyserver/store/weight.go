package store

// WriteOverhead is how many bytes a write counts besides its key and value.
const WriteOverhead = 12

// Weight is how much of a commit something takes.
type Weight struct {
	Writes int64
	Bytes  int64 // of keys and values, and WriteOverhead for each write
}

// Weight is how much of a commit the write takes.
func (w Write) Weight() Weight { return Weight{1, int64(len(w.Key)+len(w.Value)) + WriteOverhead} }

// Plus returns the weight of both.
func (w Weight) Plus(other Weight) Weight {
	return Weight{w.Writes + other.Writes, w.Bytes + other.Bytes}
}

// Within tells whether there is no more than the other has, of both.
func (w Weight) Within(other Weight) bool { return w.Writes <= other.Writes && w.Bytes <= other.Bytes }
