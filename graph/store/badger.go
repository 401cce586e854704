package store

import (
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// MaxValue is more than any value that is written, in bytes: longer ones are cut
// at ChunkSize, or a little behind it.
const MaxValue = 4 * ChunkSize

// MemTables is how many memtables there are at most.
const MemTables = 3

// How much of the memory that a process may take, in bytes, goes to memtables and caches.
const (
	// MaxMemTable is the size of one memtable in bytes if there is memory enough, which
	// is MemTableShare as much. Up to MemTables exist at once.
	MaxMemTable   = 32 << 20
	MemTableShare = 32
	// MaxBlockCache is the size of the cache of table blocks in bytes if there is memory
	// enough, which is BlockCacheShare as much. The cache of their indices and filters has
	// half of that besides.
	MaxBlockCache   = 64 << 20
	BlockCacheShare = 16
	// FiltersShare is as much of the memory as filters of txids may take (package txids). It is
	// enough for 8 million txids and keys at 512 MiB.
	FiltersShare = 32
)

// MemTable is the size of a memtable of a process that may take so much memory, both in bytes.
func MemTable(memory int64) int64 { return max(1<<20, min(MaxMemTable, memory/MemTableShare)) }

// BlockCache is the size of the cache of table blocks of a process that may take so much memory,
// both in bytes.
func BlockCache(memory int64) int64 { return max(1<<20, min(MaxBlockCache, memory/BlockCacheShare)) }

// Filters is how many bytes the filters of txids may take in a process that may take so much memory,
// in bytes.
func Filters(memory int64) int64 { return memory / FiltersShare }

// Options are those of the graph's database in dir, but for what badgerdb sets: with memtables,
// and a cache of blocks, of so many bytes. The cache of indices and filters has half of that
// besides.
func Options(dir string, memTable, blockCache int64) badger.Options {
	return badger.LSMOnlyOptions(dir).
		WithMemTableSize(memTable).
		WithNumMemtables(MemTables).
		// A table of level 0 is as large as a memtable; a smaller level 1 would be
		// rewritten for each.
		WithBaseLevelSize(8 * memTable).
		WithBaseTableSize(8 << 20).
		WithBlockCacheSize(blockCache).
		WithIndexCacheSize(blockCache / 2).
		WithCompression(options.None) // hashes do not get smaller
}
