package proof_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

var update = flag.Bool("update", false, "write ../testdata/stateproofs.json anew")

const vectorsFile = "../testdata/stateproofs.json"

// vector is a state proof, and what a reader has to make of it.
type vector struct {
	About      string          `json:"about,omitempty"`
	File       string          `json:"file"`
	Policy     string          `json:"policy"`
	OK         bool            `json:"ok"`
	Check      int             `json:"check,omitempty"` // that fails, of protocol/SPEC.md §13
	AsOfHeight uint32          `json:"as_of_height,omitempty"`
	CosignedAt int64           `json:"cosigned_at,omitempty"` // Unix seconds, protocol/proof ProvenState.CosignedAt
	Subjects   []vectorSubject `json:"subjects,omitempty"`
	TxIDs      []string        `json:"txids,omitempty"` // of the transactions, bytes in internal order
}

// vectorSubject is what is shown of a subject. All is in hexadecimal; ids are in internal byte order.
type vectorSubject struct {
	Key  string   `json:"key,omitempty"`
	ID   string   `json:"id,omitempty"`
	Cut  bool     `json:"cut"`
	Keys []string `json:"keys,omitempty"` // records
	IDs  []string `json:"ids,omitempty"`
}

// expect fills in what is proven.
func (v *vector) expect(p *proof.ProvenState) {
	v.OK, v.AsOfHeight = true, p.Entry.Height
	if !p.CosignedAt.IsZero() {
		v.CosignedAt = p.CosignedAt.Unix()
	}
	for i := range p.Subjects {
		s := &p.Subjects[i]
		of := vectorSubject{Cut: s.Cut}
		if s.IsID {
			of.ID = hex.EncodeToString(s.ID[:])
		} else {
			of.Key = hex.EncodeToString(s.Key[:])
		}
		for _, r := range s.Keys {
			of.Keys = append(of.Keys, hex.EncodeToString(r.AppendTo(nil)))
		}
		for _, r := range s.IDs {
			of.IDs = append(of.IDs, hex.EncodeToString(r.AppendTo(nil)))
		}
		v.Subjects = append(v.Subjects, of)
	}
	for _, tx := range p.Transactions {
		v.TxIDs = append(v.TxIDs, hex.EncodeToString(tx.TxID[:]))
	}
}

// TestVectors: the corpus is what is made here, and each proof of it is accepted, or refused because of the check that it
// is there for.
func TestVectors(t *testing.T) {
	var vectors []vector
	ok := 0
	for _, c := range stateCases() {
		v := vector{About: c.about, Check: c.check}
		m := newMaking(t)
		c.change(m)
		v.File, v.Policy = m.file(), m.policy()
		policy, err := tlog.ParsePolicy([]byte(v.Policy))
		if err != nil {
			t.Fatalf("%s: %v", c.about, err)
		}
		got, err := proof.VerifyState([]byte(v.File), policy)
		var failed *proof.StateError
		switch {
		case c.check == 0 && err != nil:
			t.Errorf("%s: %v", c.about, err)
		case c.check != 0 && err == nil:
			t.Errorf("%s: it is accepted", c.about)
		case c.check != 0 && (!errors.As(err, &failed) || failed.Check != c.check):
			t.Errorf("%s: expected that check %d fails, got %v", c.about, c.check, err)
		case err == nil:
			v.expect(got)
			ok++
		}
		vectors = append(vectors, v)
	}
	t.Logf("%d proofs, %d of them valid", len(vectors), ok)
	text, err := json.MarshalIndent(map[string]any{
		"about":  "State proofs (protocol/SPEC.md §13), valid and not. \"check\" is the number of the check that fails; \"records\" of the walks are in hexadecimal, as in the map.",
		"proofs": vectors,
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if text = append(text, '\n'); *update {
		if err := os.WriteFile(vectorsFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(vectorsFile); err != nil || !bytes.Equal(have, text) {
		t.Errorf("%s is not what is made here (%v): go test ./protocol/proof -run TestVectors -update", vectorsFile, err)
	}
}

// making is a state proof that is made, with what a case does to it on the way.
type making struct {
	t         testing.TB
	log       *stateLog
	reader    *stateLog // whose policy is read; nil: the log's
	entries   []protocol.StateEntry
	index     int // of the entry
	records   records
	subjects  []proof.StateSubject
	shown     []protocol.MapKey
	txs       []proof.BundleItem
	editTxs   func(txs []proof.StateTransaction)
	editTree  func(tree []byte) []byte
	editExtra func(extra []byte) []byte
	editProof func(p *tlog.Proof)
	editFile  func(file string) string
}

// logStart is the height of the first entry.
const logStart = 490

// newMaking returns one of a path of three keys, of which the last one's id merged into another's.
func newMaking(t testing.TB) *making {
	m := &making{t: t, log: newStateLog(t, regtestLog, "vectors", 3, 2), records: make(records), index: 14}
	for i := range 19 {
		m.entries = append(m.entries, protocol.StateEntry{Height: logStart + uint32(i), Block: anID(byte(0xb0 + i)), StateHash: anID(byte(0x50 + i)), StateRoot: anID(byte(i))})
	}
	m.records.addKey(protocol.KeyRecord{Key: aKey(1), Parent: aKey(2), Accept: anID(0x12), Height: 490})
	m.records.addKey(protocol.KeyRecord{Key: aKey(2), Parent: aKey(3), Accept: anID(0x23), Height: 504})
	m.records.addKey(protocol.KeyRecord{Key: aKey(3), ID: anID(0xa3), Height: 504})
	m.records.addKey(protocol.KeyRecord{Key: aKey(9), ID: anID(0xa9), Height: 480})
	m.records.addKey(protocol.KeyRecord{Key: aKey(8), Parent: aKey(9), Accept: anID(0x89), Height: 470})
	m.records.addID(protocol.IDRecord{ID: anID(0xa1), Merged: true, Into: anID(0xa2)})
	m.records.addID(protocol.IDRecord{ID: anID(0xa2), Merged: true, Into: anID(0xa3)})
	m.records.addID(protocol.IDRecord{ID: anID(0xa3), Root: aKey(3)})
	m.records.addID(protocol.IDRecord{ID: anID(0xa9), Root: aKey(9)})
	m.subjects = []proof.StateSubject{ofKey(2), ofID(0xa2)}
	return m
}

// about sets what the proof is about.
func (m *making) about(subjects ...proof.StateSubject) { m.subjects = subjects }

// walks returns the records at which the look-ups of the subjects end, as far as the records go.
func (m *making) walks() (shown []protocol.MapKey) {
	for _, s := range m.subjects {
		seen := make(map[protocol.MapKey]bool)
		for at := s.MapKey(); !seen[at]; {
			seen[at] = true
			end := m.end(at)
			if m.records[end] == nil { // of an empty map
				break
			}
			if shown = append(shown, end); end != at {
				break
			}
			switch r := m.records[at]; {
			case r[0] == protocol.RecordOfKey && !bytes.Equal(r[21:41], make([]byte, 20)):
				at = protocol.MapKeyOf(protocol.KeyHash(r[21:]))
			case r[0] == protocol.RecordOfID && r[33] == 1:
				at = protocol.MapKeyOfID(chainhash.Hash(r[54:]))
			}
		}
	}
	return shown
}

// end returns the map key of the record at which a look-up ends.
func (m *making) end(key protocol.MapKey) protocol.MapKey {
	among := m.records
	for len(among) > 1 {
		bit, sides := among.split()
		among = sides[key.Bit(bit)]
	}
	for at := range among {
		return at
	}
	return key
}

func (m *making) policy() string {
	if m.reader != nil {
		return m.reader.text
	}
	return m.log.text
}

func (m *making) file() string {
	if m.shown == nil {
		m.shown = m.walks()
	}
	m.entries[m.index].StateRoot = m.records.hash()
	tree := m.records.tree(m.shown...)
	if m.editTree != nil {
		tree = m.editTree(tree)
	}
	p := proof.StateProof{Entry: m.entries[m.index], Subjects: m.subjects, Tree: tree, Transactions: m.transactions()}
	extra, err := p.Marshal()
	if err != nil {
		m.t.Fatal(err)
	}
	if m.editExtra != nil {
		extra = m.editExtra(extra)
	}
	made := m.log.prove(m.t, m.entries, m.index, extra)
	if m.editProof != nil {
		m.editProof(made)
	}
	file := string(made.Marshal())
	if m.editFile != nil {
		file = m.editFile(file)
	}
	return file
}

// transactions gives the transactions what shows that the log has their blocks.
func (m *making) transactions() (txs []proof.StateTransaction) {
	for i := range m.txs {
		if at := int(m.txs[i].Height - logStart); at != m.index {
			header, err := protocol.ParseHeader(m.txs[i].Header[:])
			if err != nil {
				m.t.Fatal(err)
			}
			m.entries[at].Block = header.Hash
		}
	}
	for i := range m.txs {
		at := int(m.txs[i].Height - logStart)
		e := &m.entries[at]
		txs = append(txs, proof.StateTransaction{
			BundleItem: m.txs[i], StateHash: e.StateHash, StateRoot: e.StateRoot, Inclusion: m.log.prove(m.t, m.entries, at, nil).Hashes,
		})
	}
	if m.editTxs != nil {
		m.editTxs(txs)
	}
	return txs
}

// replace replaces the only place where something is.
func (m *making) replace(in, old, with []byte) []byte {
	if bytes.Count(in, old) != 1 {
		m.t.Fatalf("%x is there %d times", old, bytes.Count(in, old))
	}
	return bytes.Replace(in, old, with, 1)
}

func (m *making) replaceInFile(old, with string) {
	m.editFile = func(file string) string { return string(m.replace([]byte(file), []byte(old), []byte(with))) }
}

// lies lets the log be of a map that has a record that there cannot be, which the proof shows.
func (m *making) lies(edit func(r records)) { edit(m.records) }

// link returns an MLA and the MLR that it accepts, in one block, which asks for a parent. index tells pairs apart.
func link(t testing.TB, height uint32, parent protocol.KeyHash, internal bool, index byte) [2]proof.BundleItem {
	t.Helper()
	asks, err := protocol.RequestScript(parent, []byte("please"))
	if err != nil {
		t.Fatal(err)
	}
	request := rawTx(index, asks)
	accepts, err := protocol.AcceptScript(protocol.Tx(request).TxID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if internal {
		id := protocol.Tx(request).TxID()
		copy(accepts[len(accepts)-32:], id[:])
	}
	return inOneBlock(t, height, rawTx(index+1, accepts), request, rawTx(index+2, []byte{0x6a}))
}

// inOneBlock puts transactions in a block of their own.
func inOneBlock(t testing.TB, height uint32, first, second, third []byte) [2]proof.BundleItem {
	t.Helper()
	a, b, c := protocol.Tx(first).TxID(), protocol.Tx(second).TxID(), protocol.Tx(third).TxID()
	pair := func(l, r chainhash.Hash) chainhash.Hash { return chainhash.DoubleHashH(append(l[:], r[:]...)) }
	header := mine(t, pair(pair(a, b), pair(c, c)))
	return [2]proof.BundleItem{
		{Height: height, Header: header, Index: 0, Branch: []chainhash.Hash{b, pair(c, c)}, Raw: first},
		{Height: height, Header: header, Index: 1, Branch: []chainhash.Hash{a, pair(c, c)}, Raw: second},
	}
}

// rawTx returns a transaction with an output.
func rawTx(salt byte, script []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	b = append(append(append(b, 1), bytes.Repeat([]byte{salt}, 36)...), 0)
	b = binary.LittleEndian.AppendUint32(b, 0xffffffff)
	b = binary.LittleEndian.AppendUint64(append(b, 1), 0)
	b = append(append(b, byte(len(script))), script...)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// mine returns a header with a merkle root that has the work of regtest.
func mine(t testing.TB, root chainhash.Hash) (header [protocol.HeaderSize]byte) {
	t.Helper()
	copy(header[36:], root[:])
	binary.LittleEndian.PutUint32(header[68:], 1_690_000_000)
	binary.LittleEndian.PutUint32(header[72:], chaincfg.RegressionNetParams.PowLimitBits)
	for !worked(header) {
		binary.LittleEndian.PutUint32(header[76:], binary.LittleEndian.Uint32(header[76:])+1)
	}
	return header
}

func worked(header [protocol.HeaderSize]byte) bool {
	h, err := protocol.ParseHeader(header[:])
	return err == nil && h.CheckWork(chaincfg.RegressionNetParams.PowLimit) == nil
}

// accepted adds a key with a link that is proven by transactions, and is about it.
func (m *making) accepted(internal bool) *[2]proof.BundleItem {
	pair := link(m.t, 495, aKey(9), internal, 0x31)
	m.records.addKey(protocol.KeyRecord{Key: aKey(7), Parent: aKey(9), Accept: protocol.Tx(pair[0].Raw).TxID(), Height: 495})
	m.about(ofKey(7))
	m.txs = pair[:]
	return &pair
}

// stateCase is a proof of the corpus.
type stateCase struct {
	about  string
	check  int // that fails; 0: it is valid
	change func(m *making)
}

var (
	extraLine = regexp.MustCompile(`extra (\S+)\n`)
	signature = regexp.MustCompile("— (\\S+) (\\S+)\n")
)

// lastBits sets the bits of a last digit of base64 that are not used.
func lastBits(encoded string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	at := strings.IndexByte(encoded, '=') - 1
	n := strings.IndexByte(digits, encoded[at])
	return encoded[:at] + digits[n+1:n+2] + encoded[at+1:]
}

func keyRecord(r protocol.KeyRecord) []byte { return r.AppendTo(nil) }
func idRecord(r protocol.IDRecord) []byte   { return r.AppendTo(nil) }

func stateCases() []stateCase {
	return slices.Concat(validCases(), formCases(), checkpointCases(), mapCases(), walkCases(), transactionCases())
}

func validCases() []stateCase {
	empty := func(m *making) { m.records = make(records); m.about(ofKey(1), ofID(0xa1)) }
	return []stateCase{
		{"a key with a parent, and an id that merged", 0, func(m *making) {}},
		{"an empty map", 0, empty},
		{"a map with one record: another key is absent", 0, func(m *making) {
			m.records = make(records)
			m.records.addKey(protocol.KeyRecord{Key: aKey(1), ID: anID(0xa1), Height: 1})
			m.about(ofKey(2))
		}},
		{"a root", 0, func(m *making) { m.about(ofKey(3)) }},
		{"a path of three keys", 0, func(m *making) { m.about(ofKey(1)) }},
		{"a key that was in no link", 0, func(m *making) { m.about(ofKey(5)) }},
		{"an id that is current", 0, func(m *making) { m.about(ofID(0xa3)) }},
		{"a chain of two merges", 0, func(m *making) { m.about(ofID(0xa1)) }},
		{"an id that names nothing", 0, func(m *making) { m.about(ofID(0xaf)) }},
		{"a key and an id of the same bytes", 0, func(m *making) { m.about(ofKey(0xa3), ofID(0xa3)) }},
		{"many subjects, in no order, that share records", 0, func(m *making) {
			m.about(ofID(0xa1), ofKey(8), ofKey(1), ofKey(0x77), ofID(0xa3), ofKey(2), ofKey(3), ofID(0xa2), ofID(0x77), ofKey(9))
		}},
		{"a path of 40 keys", 0, func(m *making) {
			for i := byte(100); i < 140; i++ {
				m.records.addKey(protocol.KeyRecord{Key: aKey(i), Parent: aKey(i + 1), Accept: anID(i), Height: 400})
			}
			m.records.addKey(protocol.KeyRecord{Key: aKey(140), ID: anID(140), Height: 400})
			m.about(ofKey(100))
		}},
		{"200 records, and a key that is absent", 0, func(m *making) {
			for i := byte(20); i < 220; i++ {
				m.records.addKey(protocol.KeyRecord{Key: aKey(i), ID: anID(i), Height: 400})
			}
			m.about(ofKey(250))
		}},
		{"a log of one entry: no hashes", 0, func(m *making) { m.entries, m.index = m.entries[10:11], 0; m.about(ofKey(9)) }},
		{"the last entry of the log", 0, func(m *making) { m.index = len(m.entries) - 1 }},
		{"a policy that demands no witness", 0, func(m *making) { m.log = newStateLog(m.t, regtestLog, "vectors", 0, 0) }},
		{"two of three witnesses are enough, one has not cosigned", 0, func(m *making) {
			m.editProof = func(p *tlog.Proof) { p.Checkpoint = m.log.cosign(m.unsigned(p), 2) }
		}},
		{"signatures of others, one of them twice, and by a witness's name with another id", 0, func(m *making) {
			other := newStateLog(m.t, regtestLog, "others", 3, 3)
			m.editProof = func(p *tlog.Proof) {
				theirs := other.cosign(m.unsigned(p), 3)[len(m.unsigned(p)):]
				p.Checkpoint = append(append(p.Checkpoint, theirs...), theirs...)
			}
		}},
		{"a checkpoint with further lines", 0, func(m *making) { m.sign("", "further line", "another") }},
		{"a log of mainnet, of epoch 4294967295", 0, func(m *making) {
			m.log = newStateLog(m.t, "log.example:8443/state/mainnet/1/4294967295", "vectors", 1, 1)
		}},
		{"an MLA and its MLR", 0, func(m *making) { m.accepted(false) }},
		{"an MLA that refers to its MLR in internal byte order", 0, func(m *making) { m.accepted(true) }},
		{"two pairs, of two keys", 0, func(m *making) {
			first := m.accepted(false)
			second := link(m.t, 492, aKey(7), false, 0x41)
			m.records.addKey(protocol.KeyRecord{Key: aKey(6), Parent: aKey(7), Accept: protocol.Tx(second[0].Raw).TxID(), Height: 495})
			m.about(ofKey(6))
			m.txs = slices.Concat(first[:], second[:])
		}},
		{"an MLA in the entry's block", 0, func(m *making) {
			pair := m.accepted(false)
			h, err := protocol.ParseHeader(pair[0].Header[:])
			if err != nil {
				m.t.Fatal(err)
			}
			m.index = 495 - logStart
			m.entries[m.index].Block = h.Hash
			m.records = records{}
			m.records.addKey(protocol.KeyRecord{Key: aKey(7), Parent: aKey(9), Accept: protocol.Tx(pair[0].Raw).TxID(), Height: 495})
			m.records.addKey(protocol.KeyRecord{Key: aKey(9), ID: anID(0xa9), Height: 480})
		}},
	}
}

func formCases() []stateCase {
	file := func(about, old, with string) stateCase {
		return stateCase{about, 1, func(m *making) { m.replaceInFile(old, with) }}
	}
	extra := func(about string, edit func(b []byte) []byte) stateCase {
		return stateCase{about, 1, func(m *making) { m.editExtra = edit }}
	}
	const subjectsAt = 5 + protocol.StateEntrySize
	encoded := func(about string, edit func(encoded string) string) stateCase {
		return stateCase{about, 1, func(m *making) {
			m.editFile = func(file string) string {
				line := extraLine.FindStringSubmatch(file)
				return strings.Replace(file, line[1], edit(line[1]), 1)
			}
		}}
	}
	return []stateCase{
		file("another first line", "tlog-proof@v1", "tlog-proof@v2"),
		{"no extra data", 1, func(m *making) { m.editFile = func(f string) string { return extraLine.ReplaceAllString(f, "") } }},
		encoded("extra data without padding", func(e string) string { return strings.TrimRight(e, "=") }),
		{"extra data whose last bits are not zero", 1, func(m *making) {
			m.about(ofKey(9)) // 2 bytes in the last group
			m.editFile = func(file string) string {
				line := extraLine.FindStringSubmatch(file)
				if !strings.HasSuffix(line[1], "=") {
					m.t.Fatal("there is no padding")
				}
				return strings.Replace(file, line[1], lastBits(line[1]), 1)
			}
		}},
		encoded("extra data in base64 for URLs", func(e string) string { return strings.NewReplacer("+", "-", "/", "_").Replace(e) }),
		file("an index with a zero in front", "\nindex 14\n", "\nindex 014\n"),
		file("a line that ends in 0d 0a", "\nindex 14\n", "\nindex 14\r\n"),
		{"64 hashes", 1, func(m *making) {
			m.editProof = func(p *tlog.Proof) {
				for len(p.Hashes) < 64 {
					p.Hashes = append(p.Hashes, p.Hashes[0])
				}
			}
		}},
		{"no checkpoint", 1, func(m *making) { m.editProof = func(p *tlog.Proof) { p.Checkpoint = nil } }},
		extra("another id", func(b []byte) []byte { b[2] = 'S'; return b }),
		extra("another version", func(b []byte) []byte { b[4] = 2; return b }),
		extra("another version of the entry", func(b []byte) []byte { b[9] = 2; return b }),
		extra("no subjects", func(b []byte) []byte { return slices.Replace(b, subjectsAt, subjectsAt+2+21+33, 0, 0) }),
		extra("a subject that is neither a key nor an id", func(b []byte) []byte { b[subjectsAt+2] = 3; return b }),
		extra("a subject twice", func(b []byte) []byte {
			b[subjectsAt] = 3
			return slices.Insert(b, subjectsAt+2, b[subjectsAt+2:subjectsAt+2+21]...)
		}),
		extra("a byte behind the transactions", func(b []byte) []byte { return append(b, 0) }),
		extra("it ends within the transactions", func(b []byte) []byte { return b[:len(b)-1] }),
		extra("one transaction is announced, there is none", func(b []byte) []byte { b[len(b)-2] = 1; return b }),
		extra("2,001 transactions are announced", func(b []byte) []byte { binary.LittleEndian.PutUint16(b[len(b)-2:], 2001); return b }),
		{"a node of an unknown kind", 1, func(m *making) { m.editTree = func(b []byte) []byte { b[0] = 5; return b } }},
		{"an empty map below a node", 1, func(m *making) {
			m.editTree = func(b []byte) []byte { return append([]byte{2, 0, 0}, b...) }
		}},
		{"a bit that does not grow", 1, func(m *making) {
			m.editTree = func(b []byte) []byte {
				return append(append([]byte{3, 0}, make([]byte, 32)...), b...)
			}
		}},
		{"a record on the side that it does not belong to", 1, func(m *making) {
			m.records = make(records)
			m.records.addKey(protocol.KeyRecord{Key: aKey(1), ID: anID(0xa1), Height: 1})
			m.records.addKey(protocol.KeyRecord{Key: aKey(2), ID: anID(0xa2), Height: 1})
			m.about(ofKey(1), ofKey(2))
			m.editTree = func(b []byte) []byte {
				const size = 1 + protocol.KeyRecordSize
				return slices.Concat(b[:2], b[2+size:], b[2:2+size])
			}
		}},
		{"the count of a branch is 33", 1, func(m *making) {
			pair := m.accepted(false)
			m.editExtra = func(b []byte) []byte {
				at := bytes.Index(b, pair[0].Header[:]) + protocol.HeaderSize + 4
				b[at] = 33
				return slices.Insert(b, at+1, make([]byte, 31*32)...)
			}
		}},
		{"a transaction of 64 bytes", 1, func(m *making) {
			m.accepted(false)
			raw := m.txs[1].Raw
			m.editExtra = func(b []byte) []byte {
				at := bytes.Index(b, raw)
				binary.LittleEndian.PutUint32(b[at-4:], 64)
				return b[:at+64]
			}
		}},
	}
}

// unsigned returns the checkpoint of a proof with the log's signature alone.
func (m *making) unsigned(p *tlog.Proof) []byte {
	end := bytes.LastIndex(p.Checkpoint, []byte("\n\n")) + 2
	line := bytes.IndexByte(p.Checkpoint[end:], '\n') + 1
	return slices.Clone(p.Checkpoint[:end+line])
}

// sign lets the log and its witnesses sign another text: with another origin, if it is given, and with further lines.
func (m *making) sign(origin string, further ...string) {
	m.editProof = func(p *tlog.Proof) {
		text := string(p.Checkpoint[:bytes.LastIndex(p.Checkpoint, []byte("\n\n"))+1])
		if origin != "" {
			_, rest, _ := strings.Cut(text, "\n")
			text = origin + "\n" + rest
		}
		for _, line := range further {
			text += line + "\n"
		}
		p.Checkpoint = m.log.signText(m.t, text)
	}
}

func checkpointCases() []stateCase {
	origin := func(about, name string) stateCase {
		return stateCase{about, 2, func(m *making) { m.log = newStateLog(m.t, name, "vectors", 3, 2) }}
	}
	return []stateCase{
		{"another log than the policy's", 2, func(m *making) { m.reader = newStateLog(m.t, regtestLog, "another", 3, 2) }},
		{"the log's key, with witnesses that are not the policy's", 2, func(m *making) {
			m.reader = newStateLog(m.t, regtestLog, "vectors", 3, 2)
			for i, w := range newStateLog(m.t, regtestLog, "another", 3, 2).witnesses {
				m.reader.text = strings.Replace(m.reader.text, m.log.witnesses[i].Witness().String(), w.Witness().String(), 1)
			}
		}},
		{"one of three witnesses, the policy demands two", 2, func(m *making) {
			m.editProof = func(p *tlog.Proof) { p.Checkpoint = m.log.cosign(m.unsigned(p), 1) }
		}},
		{"the log has not signed", 2, func(m *making) {
			m.editFile = func(f string) string { return strings.Replace(f, signature.FindString(f), "", 1) }
		}},
		{"a signature of the log that is of another checkpoint", 2, func(m *making) {
			m.editFile = func(f string) string {
				other := string(m.log.log.Sign(tlog.Checkpoint{Origin: m.log.log.Name(), Size: 1}))
				return strings.Replace(f, signature.FindString(f), signature.FindString(other), 1)
			}
		}},
		{"a third cosignature that is wrong, two are enough", 2, func(m *making) {
			m.editProof = func(p *tlog.Proof) {
				other := m.log.log.Sign(tlog.Checkpoint{Origin: m.log.log.Name(), Size: 1})
				p.Checkpoint = append(m.log.cosign(m.unsigned(p), 2), m.log.witnesses[2].Cosign(other, time.Unix(cosignedAt, 0))...)
			}
		}},
		{"two signatures by one witness", 2, func(m *making) {
			m.editProof = func(p *tlog.Proof) {
				p.Checkpoint = append(p.Checkpoint, m.log.witnesses[1].Cosign(m.unsigned(p), time.Unix(cosignedAt+100, 0))...)
			}
		}},
		{"the log's signature twice", 2, func(m *making) {
			m.editFile = func(f string) string { return f + signature.FindString(f) }
		}},
		{"a log that signs under another origin than its name", 2, func(m *making) { m.sign("other.example/state/regtest/1/1") }},
		origin("a name without a host", "/state/regtest/1/1"),
		origin("a host with a path", "log.example/path/state/regtest/1/1"),
		origin("rules of version 2", "log.example/state/regtest/2/1"),
		origin("an unknown network", "log.example/state/simnet/1/1"),
		origin("epoch 0", "log.example/state/regtest/1/0"),
		origin("an epoch with a zero in front", "log.example/state/regtest/1/01"),
		origin("a name that is no state log's", "log.example/keys/regtest/1/1"),
		{"a signature whose unused bits are not zero", 1, func(m *making) {
			m.editFile = func(f string) string {
				parts := signature.FindStringSubmatch(f)
				return strings.Replace(f, parts[2], lastBits(parts[2]), 1)
			}
		}},
		{"text behind the signatures", 1, func(m *making) { m.editFile = func(f string) string { return f + "text\n" } }},
		{"an empty line in the checkpoint", 1, func(m *making) { m.sign("", "", "further") }},
		{"a size with a zero in front", 1, func(m *making) {
			m.editProof = func(p *tlog.Proof) {
				text := string(p.Checkpoint[:bytes.LastIndex(p.Checkpoint, []byte("\n\n"))+1])
				p.Checkpoint = m.log.signText(m.t, strings.Replace(text, "\n19\n", "\n019\n", 1))
			}
		}},
	}
}

func mapCases() []stateCase {
	key := func(about string, r protocol.KeyRecord) stateCase {
		return stateCase{about, 1, func(m *making) { m.records.addKey(r); m.about(proof.StateSubject{Key: r.Key}) }}
	}
	id := func(about string, edit func(record []byte)) stateCase {
		return stateCase{about, 1, func(m *making) {
			r := protocol.IDRecord{ID: anID(0xa1), Merged: true, Into: anID(0xa2)}
			record := idRecord(r)
			edit(record)
			m.records[r.MapKey()] = record
			m.about(ofID(0xa1))
			m.shown = []protocol.MapKey{r.MapKey(), protocol.MapKeyOfID(anID(0xa2)), protocol.MapKeyOfID(anID(0xa3))}
		}}
	}
	return []stateCase{
		key("a key with a parent and an id", protocol.KeyRecord{Key: aKey(7), Parent: aKey(3), Accept: anID(7), ID: anID(7), Height: 1}),
		key("a key with a parent without an MLA", protocol.KeyRecord{Key: aKey(7), Parent: aKey(3), Height: 1}),
		key("a root with an MLA", protocol.KeyRecord{Key: aKey(7), Accept: anID(7), ID: anID(7), Height: 1}),
		key("a key with neither parent nor id", protocol.KeyRecord{Key: aKey(7), Height: 1}),
		key("a record that is later than the entry", protocol.KeyRecord{Key: aKey(7), ID: anID(7), Height: 505}),
		id("an id in state 2", func(r []byte) { r[33] = 2 }),
		id("an id that merged, with a root", func(r []byte) { r[34] = 1 }),
		id("an id that merged into none", func(r []byte) { clear(r[54:]) }),
		id("an id that merged into itself", func(r []byte) { copy(r[54:], r[1:33]) }),
		id("an id that is current, and merged into another", func(r []byte) { r[33], r[34] = 0, 1 }),
		id("an id that is current, without a root", func(r []byte) { r[33] = 0; clear(r[54:]) }),
		{"a record that is not what the root was made of", 4, func(m *making) {
			m.editTree = func(b []byte) []byte {
				return m.replace(b, keyRecord(protocol.KeyRecord{Key: aKey(3), ID: anID(0xa3), Height: 504}), keyRecord(protocol.KeyRecord{Key: aKey(3), ID: anID(0xa3), Height: 503}))
			}
		}},
		{"another parent", 4, func(m *making) {
			m.about(ofKey(8))
			m.shown = []protocol.MapKey{protocol.MapKeyOf(aKey(8)), protocol.MapKeyOf(aKey(9)), protocol.MapKeyOf(aKey(3))}
			m.editTree = func(b []byte) []byte {
				return m.replace(b, keyRecord(protocol.KeyRecord{Key: aKey(8), Parent: aKey(9), Accept: anID(0x89), Height: 470}),
					keyRecord(protocol.KeyRecord{Key: aKey(8), Parent: aKey(3), Accept: anID(0x89), Height: 470}))
			}
		}},
		{"a root key that is another's", 4, func(m *making) {
			m.about(ofID(0xa3))
			m.editTree = func(b []byte) []byte {
				return m.replace(b, idRecord(protocol.IDRecord{ID: anID(0xa3), Root: aKey(3)}), idRecord(protocol.IDRecord{ID: anID(0xa3), Root: aKey(9)}))
			}
		}},
		{"another hash of what is not shown", 4, func(m *making) {
			m.about(ofKey(3))
			m.editTree = func(b []byte) []byte { // of the root, one of whose sides is not shown
				b[5] ^= 1
				return b
			}
		}},
		{"the tree of another block", 4, func(m *making) {
			later := make(records)
			for at, r := range m.records {
				later[at] = r
			}
			later.addKey(protocol.KeyRecord{Key: aKey(0x66), ID: anID(0x66), Height: 504})
			m.editTree = func([]byte) []byte { return later.tree(m.shown...) }
		}},
		{"a record is left out: the root becomes that of fewer", 4, func(m *making) {
			fewer := make(records)
			for at, r := range m.records {
				fewer[at] = r
			}
			delete(fewer, protocol.MapKeyOf(aKey(2)))
			m.about(ofKey(2))
			m.shown = []protocol.MapKey{}
			m.editTree = func([]byte) []byte {
				of := making{records: fewer, subjects: m.subjects}
				return fewer.tree(of.walks()...)
			}
		}},
		{"another index", 3, func(m *making) { m.replaceInFile("\nindex 14\n", "\nindex 15\n") }},
		{"an index beyond the log", 3, func(m *making) { m.replaceInFile("\nindex 14\n", "\nindex 19\n") }},
		{"another hash of the inclusion proof", 3, func(m *making) { m.editProof = func(p *tlog.Proof) { p.Hashes[1][0] ^= 1 } }},
		{"a hash too few", 3, func(m *making) { m.editProof = func(p *tlog.Proof) { p.Hashes = p.Hashes[:len(p.Hashes)-1] } }},
		{"a hash too many", 3, func(m *making) { m.editProof = func(p *tlog.Proof) { p.Hashes = append(p.Hashes, p.Hashes[0]) } }},
		{"another height in the entry", 3, func(m *making) { m.editExtra = func(b []byte) []byte { b[5+5]++; return b } }},
		{"another block in the entry", 3, func(m *making) { m.editExtra = func(b []byte) []byte { b[5+9]++; return b } }},
		{"another state hash in the entry", 3, func(m *making) { m.editExtra = func(b []byte) []byte { b[5+41]++; return b } }},
		{"the entry of another block, whose root is the same", 3, func(m *making) {
			m.editExtra = func(b []byte) []byte {
				entry := m.entries[m.index+1]
				entry.StateRoot = m.records.hash()
				of := entry.Bytes()
				copy(b[5:], of[:])
				return b
			}
		}},
	}
}

func walkCases() []stateCase {
	hidden := func(about string, without protocol.MapKey, subjects ...proof.StateSubject) stateCase {
		return stateCase{about, 5, func(m *making) {
			m.about(subjects...)
			m.shown = slices.DeleteFunc(m.walks(), func(at protocol.MapKey) bool { return at == without })
		}}
	}
	return []stateCase{
		hidden("the parent's record is not shown", protocol.MapKeyOf(aKey(3)), ofKey(2), ofID(0xa3)),
		hidden("the subject's record is not shown", protocol.MapKeyOf(aKey(2)), ofKey(2), ofKey(3)),
		hidden("the id merged into is not shown", protocol.MapKeyOfID(anID(0xa3)), ofID(0xa2), ofKey(9)),
		{"a key that is absent, whose look-up ends at what is not shown", 5, func(m *making) {
			m.about(ofKey(5))
			end := m.walks()[0]
			m.about(ofKey(5), ofKey(9), ofKey(3), ofID(0xa9), ofID(0xa3))
			m.shown = slices.DeleteFunc(m.walks(), func(at protocol.MapKey) bool { return at == end })
			m.subjects = slices.DeleteFunc(m.subjects, func(s proof.StateSubject) bool { return s.MapKey() == end })
		}},
		{"a parent without a record", 5, func(m *making) {
			m.lies(func(r records) { delete(r, protocol.MapKeyOf(aKey(3))) })
			m.about(ofKey(2))
		}},
		{"a circle of parents", 5, func(m *making) {
			m.lies(func(r records) {
				r.addKey(protocol.KeyRecord{Key: aKey(3), Parent: aKey(1), Accept: anID(0x31), Height: 1})
			})
			m.about(ofKey(1))
		}},
		{"a key that is its own parent", 5, func(m *making) {
			m.lies(func(r records) {
				r.addKey(protocol.KeyRecord{Key: aKey(3), Parent: aKey(3), Accept: anID(0x31), Height: 1})
			})
			m.about(ofKey(3))
		}},
		{"an id merged into that has no record", 5, func(m *making) {
			m.lies(func(r records) { delete(r, protocol.MapKeyOfID(anID(0xa3))) })
			m.about(ofID(0xa2))
		}},
		{"a circle of merges", 5, func(m *making) {
			m.lies(func(r records) { r.addID(protocol.IDRecord{ID: anID(0xa3), Merged: true, Into: anID(0xa1)}) })
			m.about(ofID(0xa1))
		}},
		{"a record that no walk comes to", 6, func(m *making) {
			m.about(ofKey(3))
			m.shown = append(m.walks(), protocol.MapKeyOf(aKey(9)))
		}},
		{"the record of the id of the root, which no walk looks up", 6, func(m *making) {
			m.about(ofKey(2))
			m.shown = append(m.walks(), protocol.MapKeyOfID(anID(0xa3)))
		}},
	}
}

func transactionCases() []stateCase {
	wrong := func(about string, edit func(m *making, txs []proof.BundleItem) []proof.BundleItem) stateCase {
		return stateCase{about, 7, func(m *making) {
			m.accepted(false)
			m.txs = edit(m, slices.Clone(m.txs))
		}}
	}
	unlogged := func(about string, edit func(tx *proof.StateTransaction)) stateCase {
		return stateCase{about, 7, func(m *making) {
			m.accepted(false)
			m.editTxs = func(txs []proof.StateTransaction) { edit(&txs[0]) }
		}}
	}
	return []stateCase{
		wrong("an MLA without its MLR", func(_ *making, txs []proof.BundleItem) []proof.BundleItem { return txs[:1] }),
		wrong("the MLR before the MLA", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			return []proof.BundleItem{txs[1], txs[0]}
		}),
		wrong("a pair twice", func(_ *making, txs []proof.BundleItem) []proof.BundleItem { return slices.Concat(txs, txs) }),
		wrong("another index", func(_ *making, txs []proof.BundleItem) []proof.BundleItem { txs[0].Index = 2; return txs }),
		wrong("an index beyond the branch", func(_ *making, txs []proof.BundleItem) []proof.BundleItem { txs[0].Index = 4; return txs }),
		wrong("another branch", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			txs[0].Branch = slices.Clone(txs[0].Branch)
			txs[0].Branch[1][0] ^= 1
			return txs
		}),
		wrong("another transaction of the same size", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			txs[1].Raw = slices.Clone(txs[1].Raw)
			txs[1].Raw[5] ^= 1
			return txs
		}),
		wrong("a header without the work that it claims", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			for worked(txs[0].Header) {
				txs[0].Header[79]++
			}
			return txs
		}),
		wrong("a target that is easier than regtest's", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			txs[0].Header[75] = 0x21
			return txs
		}),
		{"the easy target of regtest in a log of mainnet", 7, func(m *making) {
			m.accepted(false)
			m.log = newStateLog(m.t, "log.example/state/mainnet/1/1", "vectors", 1, 1)
		}},
		wrong("an MLA of a record that is not shown", func(m *making, txs []proof.BundleItem) []proof.BundleItem {
			m.about(ofKey(8))
			return txs
		}),
		wrong("an MLA that is higher than its record", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			txs[0].Height = 496
			return txs
		}),
		wrong("an MLR that is higher than the record", func(_ *making, txs []proof.BundleItem) []proof.BundleItem {
			txs[1].Height = 496
			return txs
		}),
		wrong("an MLR that the MLA does not refer to", func(m *making, txs []proof.BundleItem) []proof.BundleItem {
			other := link(m.t, 495, aKey(9), false, 0x51)
			return []proof.BundleItem{txs[0], other[1]}
		}),
		wrong("an MLR that asks for another parent", func(m *making, _ []proof.BundleItem) []proof.BundleItem {
			pair := link(m.t, 495, aKey(3), false, 0x31)
			m.records.addKey(protocol.KeyRecord{Key: aKey(7), Parent: aKey(9), Accept: protocol.Tx(pair[0].Raw).TxID(), Height: 495})
			return pair[:]
		}),
		wrong("a transaction that is no action, whose txid the record has", func(m *making, txs []proof.BundleItem) []proof.BundleItem {
			pair := inOneBlock(m.t, 495, rawTx(0x61, []byte{0x6a, 4, 1, 2, 3, 4}), txs[1].Raw, rawTx(0x62, nil))
			m.records.addKey(protocol.KeyRecord{Key: aKey(7), Parent: aKey(9), Accept: protocol.Tx(pair[0].Raw).TxID(), Height: 495})
			return pair[:]
		}),
		unlogged("another height", func(tx *proof.StateTransaction) { tx.Height = 494 }),
		unlogged("a height before the log's first block", func(tx *proof.StateTransaction) { tx.Height = logStart - 1 }),
		unlogged("another block with that transaction", func(tx *proof.StateTransaction) {
			for tx.Header[0]++; !worked(tx.Header); {
				tx.Header[76]++
			}
		}),
		unlogged("another state hash of its block", func(tx *proof.StateTransaction) { tx.StateHash[0] ^= 1 }),
		unlogged("another state root of its block", func(tx *proof.StateTransaction) { tx.StateRoot[31] ^= 1 }),
		unlogged("another inclusion proof of its block", func(tx *proof.StateTransaction) { tx.Inclusion[1][3] ^= 1 }),
		unlogged("an inclusion proof that is too short", func(tx *proof.StateTransaction) { tx.Inclusion = tx.Inclusion[1:] }),
		unlogged("an inclusion proof that is too long", func(tx *proof.StateTransaction) { tx.Inclusion = append(tx.Inclusion, tlog.Hash{}) }),
		{"an inclusion proof of 64 hashes", 1, func(m *making) {
			m.accepted(false)
			m.editExtra = func(extra []byte) []byte {
				last := m.transactions()[1].Inclusion
				extra[len(extra)-32*len(last)-1] = 64
				return append(extra, make([]byte, 32*(64-len(last)))...)
			}
		}},
		wrong("an MLA at the entry's height, in another block", func(m *making, txs []proof.BundleItem) []proof.BundleItem {
			m.records.addKey(protocol.KeyRecord{Key: aKey(7), Parent: aKey(9), Accept: protocol.Tx(txs[0].Raw).TxID(), Height: 504})
			txs[0].Height = 504
			return txs
		}),
	}
}

// signText returns a note of a text, which need be no checkpoint, with the signatures of the log and its witnesses.
func (l *stateLog) signText(t testing.TB, text string) []byte {
	t.Helper()
	secret, err := base64.StdEncoding.DecodeString(strings.SplitN(l.log.Text(), "+", 5)[4])
	if err != nil {
		t.Fatal(err)
	}
	line := noteLine(l.log.Log(), secret[1:], text)
	return l.cosign([]byte(text+"\n"+line), len(l.witnesses))
}
