package tlog

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// What a witness and a log send each other has these bounds, in bytes.
const (
	// MaxSubmission is the most of a submission.
	MaxSubmission = MaxCheckpoint + 4<<10
	// MaxCosignatures is the most of a witness's answer.
	MaxCosignatures = 4 << 10
)

// SizeType is the content type of a witness's answer that tells the size that it knows.
const SizeType = "text/x.tlog.size"

// Submission is what a log sends a witness: its newest checkpoint, and that it begins with the
// tree that the witness has cosigned last.
type Submission struct {
	Old        uint64 // size that the witness has cosigned last; 0 for none
	Proof      []Hash // of consistency, from Old on
	Checkpoint []byte // signed
}

// Marshal returns the submission as it is sent.
func (s *Submission) Marshal() []byte {
	b := appendHashes(fmt.Appendf(nil, "old %d\n", s.Old), s.Proof)
	return append(append(b, '\n'), s.Checkpoint...)
}

// ParseSubmission reads a submission. It checks the form alone. ErrFormat otherwise.
func ParseSubmission(b []byte) (*Submission, error) {
	if len(b) > MaxSubmission {
		return nil, fmt.Errorf("%w: expected a submission of at most %d bytes, got %d", ErrFormat, MaxSubmission, len(b))
	}
	line, text, _ := strings.Cut(string(b), "\n")
	digits, ok := strings.CutPrefix(line, "old ")
	s := new(Submission)
	var number bool
	if s.Old, number = parseNumber(digits); !ok || !number {
		return nil, fmt.Errorf("%w: submission: expected a line of the form old SIZE, got %.80q", ErrFormat, line)
	}
	hashes, rest, ok := cutHashes(text)
	if !ok {
		return nil, fmt.Errorf("%w: submission: expected at most %d hashes as base64 and an empty line", ErrFormat, MaxHashes)
	}
	s.Proof, s.Checkpoint = hashes, []byte(rest)
	return s, nil
}

// ParseSize reads a size as a witness answers it. ErrFormat otherwise.
func ParseSize(b []byte) (uint64, error) {
	n, ok := parseNumber(strings.TrimSuffix(string(b), "\n"))
	if !ok || n > maxSize || !bytes.HasSuffix(b, []byte("\n")) {
		return 0, fmt.Errorf("%w: expected a size in decimal, got %.40q", ErrFormat, b)
	}
	return n, nil
}

// FormatSize is the inverse of ParseSize.
func FormatSize(size uint64) []byte { return fmt.Appendf(nil, "%d\n", size) }

// ParseCosignatures returns, of what a witness has answered, the line by its key, and when it
// was made, in Unix seconds. ErrSignature if there is no such line that holds for the signed
// checkpoint, ErrFormat if the answer is none.
func ParseCosignatures(signed, answer []byte, witness note.Verifier) (line []byte, at uint64, err error) {
	if len(answer) > MaxCosignatures {
		return nil, 0, fmt.Errorf("%w: expected an answer of at most %d bytes, got %d", ErrFormat, MaxCosignatures, len(answer))
	}
	text := signed[:bytes.LastIndex(signed, []byte("\n\n"))+2]
	n, err := openNote(append(bytes.Clone(text), answer...), witness)
	if err != nil {
		return nil, 0, err
	}
	s := n.Sigs[0]
	return fmt.Appendf(nil, "— %s %s\n", s.Name, s.Base64), cosignedAt(s), nil
}
