package indexer

// BlockCalls is how many blocks a node is asked for at a time.
const BlockCalls = blockCalls

// SetBatonsKept makes an indexer forget batons sooner than it would.
func (opt *Options) SetBatonsKept(kept int) { opt.batonsKept = kept }
