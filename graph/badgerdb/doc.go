// Package badgerdb is the one place that knows Badger's files. It opens a database
// after it has made sure that the files are what was written, that nobody else has
// them, and that there is room on the disk. It makes transactions durable so that
// damage can be told later.
//
// When Badger finds a damaged file, it goes on without what it cannot read, or ends
// the process. A log ends at the first record that does not check, whatever follows.
// A block of a table that cannot be read is a gap in which keys do not exist, also
// for the compaction that writes the table anew. Without the manifest, all tables are
// leftovers to be removed. So every byte is checked before, and from time to time
// afterwards.
//
// Some damage looks like a crash: the end of the newest log may be missing. Then the
// last transactions are missing, each as a whole, as if the process had been killed
// before them.
//
// It relies on how keytree uses Badger: without encryption, with all values in
// the tables, in transactions whose versions have no gaps because each writes one
// and the same key. Open and Commit see to that.
//
//	open.go     opening a database; the stamped commit
//	readonly.go opening one only to read it
//	damage.go   what is wrong with files
//	files.go    the check
//	log.go      the logs of the memtables, as the check reads them
//	disk.go     how much room there has to be on the disk
//	system_*    the lock on a folder, and its free space
//
// What never belongs here: what the keys and values mean.
package badgerdb
