package tlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxCheckpoint is the most bytes of a signed checkpoint that are read, with its cosignatures.
const MaxCheckpoint = 64 << 10

// Checkpoint is what a log states with a signature: all that it has ever had.
type Checkpoint struct {
	Origin string // the log's name, which is that of its key
	Size   uint64 // entries
	Root   Hash   // of the Merkle tree over all of them
}

// EmptyRoot is the root of a tree without entries.
var EmptyRoot = Hash(sha256.Sum256(nil))

// Text is what is signed.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// ParseCheckpoint reads what is signed. Lines that a log has added behind the third one are
// not looked at. ErrFormat otherwise.
func ParseCheckpoint(text string) (Checkpoint, error) {
	wrong := func(problem string) (Checkpoint, error) {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: %s", ErrFormat, problem)
	}
	if len(text) > MaxCheckpoint {
		return wrong(fmt.Sprintf("expected at most %d bytes, got %d", MaxCheckpoint, len(text)))
	}
	body, ended := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ended || len(lines) < 3 || lines[0] == "" {
		return wrong("expected lines with origin, size and root")
	}
	for _, line := range lines[3:] {
		if line == "" {
			return wrong("expected no empty line")
		}
	}
	size, ok := parseNumber(lines[1])
	if !ok || size > maxSize {
		return wrong(fmt.Sprintf("expected a size in decimal, got %.40q", lines[1]))
	}
	root, ok := parseHash(lines[2])
	if !ok {
		return wrong(fmt.Sprintf("expected a root of 32 bytes as base64, got %.80q", lines[2]))
	}
	if size == 0 && root != EmptyRoot {
		return wrong("the root of no entries is not that of an empty tree")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}

// parseNumber reads a number as strconv writes it.
func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// parseHash reads a hash in base64 as Hash.String writes it.
func parseHash(s string) (Hash, bool) {
	h, err := tlog.ParseHash(s)
	return h, err == nil && h.String() == s
}

// Open returns the checkpoint that a log has signed with the key of a verifier; cosignatures
// are not looked at. ErrSignature if it has not, ErrFormat if it is no checkpoint of that log.
func Open(signed []byte, log note.Verifier) (Checkpoint, error) {
	n, err := openNote(signed, log)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := ParseCheckpoint(n.Text)
	if err == nil && c.Origin != log.Name() {
		err = fmt.Errorf("%w: expected a checkpoint of %s, got one of %.80q", ErrFormat, log.Name(), c.Origin)
	}
	return c, err
}

// Stated returns what a signed checkpoint says, whoever has signed it, if anybody. ErrFormat if
// it is none.
func Stated(signed []byte) (Checkpoint, error) {
	end := bytes.LastIndex(signed, []byte("\n\n"))
	if end < 0 {
		return Checkpoint{}, fmt.Errorf("%w: expected a checkpoint, an empty line and signatures", ErrFormat)
	}
	return ParseCheckpoint(string(signed[:end+1]))
}

// openNote opens a note that one of some keys, at least, has signed.
func openNote(signed []byte, keys ...note.Verifier) (*note.Note, error) {
	if len(signed) > MaxCheckpoint {
		return nil, fmt.Errorf("%w: expected a note of at most %d bytes, got %d", ErrFormat, MaxCheckpoint, len(signed))
	}
	if !strictSignatures(signed) {
		return nil, fmt.Errorf("%w: expected signatures as base64 with padding, unused bits zero", ErrFormat)
	}
	n, err := note.Open(signed, note.VerifierList(keys...))
	var (
		unverified *note.UnverifiedNoteError
		invalid    *note.InvalidSignatureError
	)
	switch {
	case errors.As(err, &unverified), errors.As(err, &invalid):
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return n, nil
}

// signatureLines visits the lines with signatures of a note.
func signatureLines(signed []byte) iter.Seq2[string, string] {
	return func(yield func(name, encoded string) bool) {
		for line := range strings.Lines(string(signed[bytes.LastIndex(signed, []byte("\n\n"))+1:])) {
			name, encoded, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "— "), " ")
			if line != "\n" && !yield(name, encoded) {
				return
			}
		}
	}
}

// strictSignatures tells whether signatures are encoded in the one form that they should have. What else is wrong with a
// note, package note says.
func strictSignatures(signed []byte) bool {
	for _, encoded := range signatureLines(signed) {
		if _, err := base64.StdEncoding.Strict().DecodeString(encoded); err != nil || strings.Contains(encoded, "\r") {
			return false
		}
	}
	return true
}

// repeatedSigner returns the name of one of some keys under whose name and id two lines of a note are signed, "" if there
// is none. The note was opened before.
func repeatedSigner(signed []byte, keys []note.Verifier) string {
	seen := make(map[note.Verifier]bool, len(keys))
	for name, encoded := range signatureLines(signed) {
		id, err := base64.StdEncoding.DecodeString(encoded)
		for _, key := range keys {
			if err != nil || name != key.Name() || len(id) < 4 || binary.BigEndian.Uint32(id) != key.KeyHash() {
				continue
			}
			if seen[key] {
				return name
			}
			seen[key] = true
		}
	}
	return ""
}

// CheckConsistency checks that the tree of a checkpoint begins with that of an older one:
// equal sizes have equal roots, and no proof; no proof shows that there is nothing before.
// ErrProof otherwise.
func CheckConsistency(older, newer Checkpoint, proof []Hash) error {
	var err error
	switch {
	case older.Size > newer.Size || newer.Size > maxSize:
		err = errors.New("the older one is larger")
	case older.Size == newer.Size && older.Root != newer.Root:
		err = errors.New("the roots differ")
	case older.Size == 0 && older.Root != EmptyRoot:
		err = errors.New("the root of no entries is not that of an empty tree")
	case older.Size == newer.Size || older.Size == 0:
		if len(proof) > 0 {
			err = errors.New("expected no hashes")
		}
	default:
		err = tlog.CheckTree(proof, int64(newer.Size), newer.Root, int64(older.Size), older.Root)
	}
	if err != nil {
		return fmt.Errorf("%w: from %d to %d entries: %w", ErrProof, older.Size, newer.Size, err)
	}
	return nil
}

// CheckInclusion checks that an entry is at an index, counted from 0 on, of the tree of a
// checkpoint. ErrProof otherwise.
func CheckInclusion(c Checkpoint, index uint64, entry []byte, proof []Hash) error {
	err := errors.New("there is no such entry")
	if index < c.Size && c.Size <= maxSize {
		err = tlog.CheckRecord(proof, int64(c.Size), c.Root, int64(index), tlog.RecordHash(entry))
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d of %d: %w", ErrProof, index, c.Size, err)
	}
	return nil
}

// appendHashes writes hashes as lines of base64.
func appendHashes(b []byte, hashes []Hash) []byte {
	for i := range hashes {
		b = append(base64.StdEncoding.AppendEncode(b, hashes[i][:]), '\n')
	}
	return b
}

// MaxHashes is the most hashes of a proof, of inclusion or consistency: the tree has fewer than 1<<63 entries.
const MaxHashes = 63

// cutHashes reads lines of hashes up to an empty line, and returns what is behind that.
func cutHashes(text string) (hashes []Hash, rest string, ok bool) {
	for len(hashes) <= MaxHashes {
		line, below, ended := strings.Cut(text, "\n")
		if !ended {
			return nil, "", false
		}
		if line == "" {
			return hashes, below, true
		}
		h, is := parseHash(line)
		if !is {
			return nil, "", false
		}
		hashes, text = append(hashes, h), below
	}
	return nil, "", false
}
