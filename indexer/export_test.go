package indexer

// BlockCalls is how many blocks a node is asked for at a time.
const BlockCalls = blockCalls
