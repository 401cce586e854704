package badgerdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
)

// logHeader is the size of the header of Badger's logs: the id of a key, 8
// bytes, zero for none, and 12 random bytes.
const logHeader = 20

// Bits of a log record's first byte.
const (
	logDeletes        = 1 << 0
	logInTransaction  = 1 << 6
	logEndTransaction = 1 << 7
)

// logRange is what a log holds.
type logRange struct {
	first, last uint64 // versions of the first and the last whole transaction, zero if there is none
	end         int    // offset behind the last one
	memory      int64  // what its records take in a memtable at most, in bytes
}

// nodeMemory is more than Badger's memtables take for an entry, besides its key and value, in bytes.
const nodeMemory = 128

// readLog reads the log of a memtable, as Badger v4 writes them: records of two
// bytes, three varints (length of key and value, an unused one), key with its
// version, value, and the CRC-32C of all that. A transaction is its records and
// one that ends it. known is the newest version that is not missed if it cannot
// be read here.
//
// What a crash leaves behind the last whole transaction is no error: part of one
// more. Records of another one behind that are.
func readLog(content []byte, known uint64, maxValue int) (logRange, error) {
	var l logRange
	if len(content) < logHeader {
		return l, nil // never begun: Badger starts it afresh
	}
	if !isZero(content[:8]) {
		return l, errors.New("the header names a key, keytree uses none")
	}
	l.end = logHeader
	at := l.end     // behind the last record
	var open uint64 // version of the transaction under way
	for {
		r, ok := readLogRecord(content[at:], maxValue)
		if !ok || open != 0 && r.version != open {
			break
		}
		at += r.size
		l.memory += int64(r.size) + nodeMemory
		open = r.version
		if !r.ends {
			continue
		}
		if l.first == 0 {
			l.first = open
		} else if open != l.last+1 {
			return l, fmt.Errorf("transaction %d at offset %d follows %d", open, l.end, l.last)
		}
		l.last, open, l.end = open, 0, at
	}
	known = max(known, l.last)
	for at := l.end + 1; at < len(content); at++ {
		if content[at] < logInTransaction {
			continue // quickly over the zeros behind the end
		}
		if r, ok := readLogRecord(content[at:], maxValue); ok && r.version > known+1 {
			return l, fmt.Errorf("at offset %d, behind transaction %d, something cannot be read; transaction %d at offset %d can", l.end, l.last, r.version, at)
		}
	}
	return l, nil
}

type logRecord struct {
	size    int
	version uint64
	ends    bool // the transaction
}

// readLogRecord reads the record that b starts with; ok is false if there is
// none.
func readLogRecord(b []byte, maxValue int) (r logRecord, ok bool) {
	if len(b) < 2 || b[0]&(logInTransaction|logEndTransaction) == 0 || b[1] != 0 {
		return r, false
	}
	at := 2
	var fields [3]uint64
	for i := range fields {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return r, false
		}
		fields[i], at = v, at+n
	}
	keyLen, valueLen := fields[0], fields[1]
	if keyLen <= 8 || keyLen > 1<<16 || valueLen > uint64(maxValue) || fields[2] != 0 ||
		uint64(len(b)-at) < keyLen+valueLen+crc32.Size {
		return r, false
	}
	version := b[at+int(keyLen)-8:]
	at += int(keyLen + valueLen)
	if crc32c(b[:at]) != binary.BigEndian.Uint32(b[at:]) {
		return r, false
	}
	return logRecord{at + crc32.Size, math.MaxUint64 - binary.BigEndian.Uint64(version), b[0]&logEndTransaction != 0}, true
}

// logDelete returns the record with which a transaction deletes a key.
func logDelete(key []byte, version uint64) []byte {
	return logRecordOf(logDeletes|logInTransaction, key, version, nil)
}

// logEnd returns the record that ends a transaction.
func logEnd(version uint64) []byte {
	return logRecordOf(logEndTransaction, []byte("!badger!txn"), version, strconv.AppendUint(nil, version, 10))
}

// logRecordOf returns a record as Badger writes it.
func logRecordOf(bits byte, key []byte, version uint64, value []byte) []byte {
	b := []byte{bits, 0}
	b = binary.AppendUvarint(b, uint64(len(key)+8))
	b = binary.AppendUvarint(b, uint64(len(value)))
	b = append(b, 0) // it does not expire
	b = append(b, key...)
	b = binary.BigEndian.AppendUint64(b, math.MaxUint64-version)
	b = append(b, value...)
	return binary.BigEndian.AppendUint32(b, crc32c(b))
}
