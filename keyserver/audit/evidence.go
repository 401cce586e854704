package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Proof names how a file of evidence convinces.
type Proof string

// The proofs. Root, where it is named, is R.
const (
	// Two signed heads, of n1 <= n2 entries. Consistency joins R at n1 to the second
	// head's root, so its first n1 entries have R, and the first head states another
	// root. Without Root n1 = n2.
	ByHeads Proof = "two heads"
	// Two signed replies with different entries at one position, or with entries at
	// two positions in a row of which the second does not follow the first.
	ByReplies Proof = "two replies"
	// A signed reply and a signed head whose last entry is at the same position and
	// another, or whose tree has another there, which Inclusion shows.
	ByReplyAndHead Proof = "reply and head"
	// A signed head that names its chain of anchors, and that chain up to an anchor
	// (Bundle). Consistency joins R at the anchor's position + 1 to the head's root,
	// and the anchor states another root. Without Root the head's last entry is the
	// anchor's.
	ByHeadAndAnchor Proof = "head and anchor"
	// A signed reply about an anchor's position, with an entry whose hash is not the
	// anchor's head. A signed head that names the chain of anchors may come with it.
	ByReplyAndAnchor Proof = "reply and anchor"
	// A chain of anchors up to the tx that broke it (Bundle), and perhaps a signed head
	// that names it.
	ByAnchors Proof = "chain of anchors"
	// Two checkpoints that one key of the keyserver's log has signed, of n1 <= n2 entries.
	// Consistency joins R at n1 to the second one's root, and the first states another. Without Root
	// n1 = n2. Log says whose key it is.
	ByCheckpoints Proof = "two checkpoints"
	// A checkpoint and a signed head, either of which may be the larger; otherwise as two
	// checkpoints.
	ByCheckpointAndHead Proof = "checkpoint and head"
	// A checkpoint and an anchor, whose record of position p is that of p + 1 entries; otherwise as
	// two checkpoints. A signed head that names the chain of anchors comes with them: anybody can
	// begin one for a domain.
	ByCheckpointAndAnchor Proof = "checkpoint and anchor"
	// An entry of a state log (protocol/STATELOG.md §5), under a checkpoint that the log has signed, and what somebody
	// else has computed of the same block.
	ByStateEntry Proof = "state entry"
)

// Evidence is a file of evidence. It is enough to see that statements which the keyserver
// signed, or the chain has, cannot all be true.
// Binary fields are base64.
type Evidence struct {
	Version int    `json:"version"` // 1, 2 with checkpoints, 3 of a state log
	Proof   Proof  `json:"proof"`
	Finding Kind   `json:"finding"`
	Text    string `json:"text"`
	Domain  string `json:"domain"`
	Time    uint64 `json:"time"` // at which it was noticed, Unix seconds

	Keyserver   []*uid.Reply            `json:"keyserver,omitempty"` // to its own messages: its keys
	Heads       []*hashchain.SignedHead `json:"heads,omitempty"`
	Replies     []*uid.Reply            `json:"replies,omitempty"`
	Root        []byte                  `json:"root,omitempty"`
	Consistency [][]byte                `json:"consistency,omitempty"` // RFC 6962 §2.1.2
	Inclusion   *Inclusion              `json:"inclusion,omitempty"`

	// Checkpoints are notes that the key of the keyserver's log has signed (keyserver/TLOG.md §1). Log
	// is the keyserver's word, when it had as many entries as the larger or more, that the key is its
	// log's.
	Checkpoints []string                      `json:"checkpoints,omitempty"`
	Log         *hashchain.SignedLogStatement `json:"log,omitempty"`

	StateLog *StateLog `json:"state_log,omitempty"`

	Genesis string `json:"genesis,omitempty"` // txid
	Bundle  []byte `json:"bundle,omitempty"`  // package bundle
}

// Inclusion shows which entry is at the position of a reply in a head's tree (RFC
// 6962 §2.1.1).
type Inclusion struct {
	Entry  string   `json:"entry"` // base64
	Hashes [][]byte `json:"hashes"`
}

const (
	// evidenceVersion is that of evidence without checkpoints, which earlier keytrees read, too;
	// checkpointVersion that of evidence with them.
	evidenceVersion   = 1
	checkpointVersion = 2
	// stateLogVersion is that of evidence about a state log.
	stateLogVersion = 3
	// maxEvidence is the most bytes that are read of a file of evidence: who wrote it
	// decides how many it has. Nearly all are the proof bundle, some 1.5 kB for each
	// anchor.
	maxEvidence = 512 << 20
	// maxStatements is the most bytes of it besides the proof bundle: more than maxKeys
	// messages of a keyserver's take.
	maxStatements = 16 << 20
	// maxElements is the most commas and opening brackets in them, and so the most
	// values that they can make: maxKeys replies have a tenth.
	maxElements = 1 << 17
)

// ReadEvidence reads a file of evidence. Whether it convicts, Verify says. From a
// file it takes about twice the memory that the file has bytes. ErrNoEvidence if it is none.
func ReadEvidence(in io.Reader) (*Evidence, error) {
	read := new(bytes.Buffer)
	if file, ok := in.(fs.File); ok { // room for all at once, not twice that
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		read = bytes.NewBuffer(make([]byte, 0, min(info.Size(), maxEvidence)+bytes.MinRead))
	}
	if _, err := read.ReadFrom(io.LimitReader(in, maxEvidence+1)); err != nil {
		return nil, err
	}
	content := read.Bytes()
	if len(content) > maxEvidence {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrNoEvidence, maxEvidence)
	}
	proofs, content, err := cutBundle(content)
	if err != nil {
		return nil, fmt.Errorf("%w: its proof bundle: %w", ErrNoEvidence, err)
	}
	elements := 0
	for _, mark := range []string{",", "{", "["} {
		elements += bytes.Count(content, []byte(mark))
	}
	if len(content) > maxStatements || elements > maxElements {
		return nil, fmt.Errorf("%w: besides a proof bundle it has %d bytes and %d elements, at most %d and %d are possible", ErrNoEvidence, len(content), elements, maxStatements, maxElements)
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	e := new(Evidence)
	if err := d.Decode(e); err != nil {
		return nil, fmt.Errorf("%w: it cannot be read: %w", ErrNoEvidence, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more follows it", ErrNoEvidence)
	}
	if e.Version != e.version() {
		return nil, fmt.Errorf("%w: expected version %d, got %d: is this keytree too old?", ErrNoEvidence, e.version(), e.Version)
	}
	if proofs != nil {
		e.Bundle = proofs
	}
	return e, nil
}

// version is which one evidence has.
func (e *Evidence) version() int {
	switch {
	case e.StateLog != nil:
		return stateLogVersion
	case len(e.Checkpoints) > 0:
		return checkpointVersion
	}
	return evidenceVersion
}

// cutBundle takes the proof bundle out of a file of evidence, and leaves an empty text
// there: encoding/json copies what it reads several times over. The rest moves up within
// content, which must not be read afterwards. No text in JSON can hold
// what is looked for, since its quotes are escaped.
func cutBundle(content []byte) (proofs, rest []byte, err error) {
	before, after, ok := bytes.Cut(content, []byte(`"bundle":`))
	if !ok {
		return nil, content, nil
	}
	text, ok := bytes.CutPrefix(bytes.TrimLeft(after, " \t\r\n"), []byte(`"`))
	if !ok {
		return nil, content, nil // null, or for the decoder to refuse
	}
	text, after, ok = bytes.Cut(text, []byte(`"`))
	if !ok {
		return nil, nil, io.ErrUnexpectedEOF
	}
	proofs = make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(proofs, text)
	return proofs[:n], append(append(before, `"bundle":""`...), after...), err
}

// keepEvidence writes a file of evidence and returns its path. Evidence of the same is
// kept once: a keyserver makes new statements of it with every audit.
func (u *run) keepEvidence(ctx context.Context, e *Evidence) (string, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s", e.Finding, e.Text))
	path := u.path(evidenceDir, fmt.Sprintf("%x.json", sum[:8]))
	_, err := u.verifyKept(ctx, path)
	if err == nil || !errors.Is(err, ErrNoEvidence) && !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	e.Time = uint64(u.now().Unix())
	return path, e.Write(path)
}

// Write puts evidence into a file, in the place of whatever is there.
func (e *Evidence) Write(path string) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", " ")
	if err := enc.Encode(e); err != nil {
		return err
	}
	return durable.Write(path, out.Bytes())
}

// verifyKept reads a file of evidence that was kept, and verifies it again.
func (u *run) verifyKept(ctx context.Context, path string) (*Evidence, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	e, err := ReadEvidence(file)
	if err != nil {
		return nil, err
	}
	pins, err := u.pinsFor(ctx, e)
	if err != nil {
		return nil, err
	}
	c, err := e.Verify(ctx, pins, u.from.Headers)
	if err == nil && c.Verdict != Misbehaviour {
		err = fmt.Errorf("%w: %s", ErrNoEvidence, strings.Join(c.Compare, "; "))
	}
	return e, err
}

func hashesOf(hashes []hashchain.Hash) [][]byte {
	var raw [][]byte
	for _, h := range hashes {
		raw = append(raw, bytes.Clone(h[:]))
	}
	return raw
}

func toHashes(raw [][]byte) ([]hashchain.Hash, error) {
	hashes := make([]hashchain.Hash, len(raw))
	for i, b := range raw {
		if len(b) != len(hashes[i]) {
			return nil, fmt.Errorf("%w: a hash of %d bytes, expected %d", ErrNoEvidence, len(b), len(hashes[i]))
		}
		hashes[i] = hashchain.Hash(b)
	}
	return hashes, nil
}
