package indexer

// SetRangeMemory makes an import commit more often than it would.
func (opt *ImportOptions) SetRangeMemory(bytes int64) { opt.rangeMemory = bytes }
