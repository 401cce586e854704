package tlog

import (
	"encoding/base64"
	"fmt"
	"strings"
)

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	// MaxProof is the most bytes of a proof that are read.
	MaxProof = 64 << 20
)

// Proof shows that an entry is in a log, whose checkpoint it holds.
type Proof struct {
	// Extra is what the log's readers have agreed on, which nothing here vouches for; nil if
	// there is none.
	Extra      []byte
	Index      uint64 // of the entry, from 0 on
	Hashes     []Hash // from the leaf's sibling up
	Checkpoint []byte // signed
}

// Marshal returns the proof as a file.
func (p *Proof) Marshal() []byte {
	b := []byte(proofHeader + "\n")
	if p.Extra != nil {
		b = append(base64.StdEncoding.AppendEncode(append(b, "extra "...), p.Extra), '\n')
	}
	b = fmt.Appendf(b, "index %d\n", p.Index)
	return append(append(appendHashes(b, p.Hashes), '\n'), p.Checkpoint...)
}

// ParseProof reads a proof. It checks the form alone. ErrFormat otherwise.
func ParseProof(b []byte) (*Proof, error) {
	wrong := func(expected string) (*Proof, error) {
		return nil, fmt.Errorf("%w: proof: expected %s", ErrFormat, expected)
	}
	if len(b) > MaxProof {
		return wrong(fmt.Sprintf("at most %d bytes, got %d", MaxProof, len(b)))
	}
	p := new(Proof)
	text, ok := strings.CutPrefix(string(b), proofHeader+"\n")
	if !ok {
		return wrong("the first line " + proofHeader)
	}
	if below, ok := strings.CutPrefix(text, "extra "); ok {
		line, rest, _ := strings.Cut(below, "\n")
		extra, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || strings.Contains(line, "\r") {
			return wrong("extra data as base64")
		}
		p.Extra, text = extra, rest
	}
	line, text, _ := strings.Cut(text, "\n")
	digits, ok := strings.CutPrefix(line, "index ")
	if p.Index, _ = parseNumber(digits); !ok || fmt.Sprint(p.Index) != digits {
		return wrong("a line of the form index NUMBER")
	}
	hashes, rest, ok := cutHashes(text)
	if !ok {
		return wrong(fmt.Sprintf("at most %d hashes as base64 and an empty line", MaxHashes))
	}
	if len(rest) > MaxCheckpoint {
		return wrong(fmt.Sprintf("a checkpoint of at most %d bytes, got %d", MaxCheckpoint, len(rest)))
	}
	p.Hashes, p.Checkpoint = hashes, []byte(rest)
	return p, nil
}

// Verify checks that an entry is in the log whose checkpoint the proof holds, as a policy
// demands it. ErrFormat, ErrSignature, ErrQuorum or ErrProof otherwise.
func (p *Proof) Verify(entry []byte, policy *Policy) (*Opened, error) {
	opened, err := policy.Open(p.Checkpoint)
	if err == nil {
		err = opened.Quorum(0)
	}
	if err == nil {
		err = CheckInclusion(opened.Checkpoint, p.Index, entry, p.Hashes)
	}
	if err != nil {
		return nil, err
	}
	return opened, nil
}
