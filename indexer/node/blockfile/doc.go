// Package blockfile reads the blocks that a node keeps in files: the blk*.dat of
// BCHN, Bitcoin Cash Node's relatives and their common ancestor, and bchd's *.fdb.
//
// Open looks at every record's header, once, and chooses the best chain by the
// work in the headers; after that any block of this chain can be read by its
// height. A node may be running meanwhile: it only appends.
//
// It does not implement node.Node. Files cannot tell which output a transaction
// spends other than by a search through all of them, which is bearable once for
// very many transactions (indexer.Import) but not for each; and nothing in them
// says when they grow. So the index is built from files in one go, and then kept
// by following a node.
//
// What never belongs here: what is in a block beyond its header; asking a node.
//
// # Files
//
// A record is the network's magic (4 bytes), the length (4 bytes, little-endian),
// the block, and in *.fdb a checksum (4 bytes), which is not looked at: a block
// hashes to its header's merkle root, or does not. Records come in the order in
// which the blocks arrived, which is not that of the chain, with stale ones among
// them. BCHN writes ahead zeros, which it overwrites; a killed node leaves its
// last record torn, and may go on writing before or behind it. What is no record
// is searched for the next one.
//
// # Trust
//
// The files are the operator's own, but disks rot and folders get mixed up. A
// header counts if it carries the work that it claims, and a block only if headers
// that do lead from it to the network's genesis block, and keep the rules of the
// network's chain (protocol.HeaderChain): other networks share the first blocks, and
// one of them has more work. Blocks that may still be one of these count once the
// files get to the network's last checkpoint. Whether a block is valid beyond its
// header was checked by the node that wrote it, and is not checked again.
package blockfile
