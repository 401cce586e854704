package proof_test

import (
	"bytes"
	"encoding/base64"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// TestMutations changes valid proofs in every way that comes to mind, 1,000,000 times if KEYTREE_EXHAUSTIVE is set. What
// still verifies shows nothing that is not so: the entry and the checkpoint are the same, and of each subject, which may be
// another, it shows what the map has. So it is only in these that a file can be another one and verify:
//
//   - signatures: those of keys that the policy does not name, among them such as the quorum does not need, once another
//     name or id stands before them; and those that the same log and witnesses have made for another proof of the block;
//   - subjects: in another order, or others whose walks end at the records that are shown.
func TestMutations(t *testing.T) {
	n := 3000
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		n = 1_000_000
	} else if testing.Short() {
		n = 600
	}
	var bases []*base
	for _, c := range validCases() {
		bases = append(bases, newBase(t, c))
	}
	r := rand.New(rand.NewPCG(28, uint64(n)))
	verified := make(map[string]int)
	refused := make(map[int]int)
	for i := range n {
		b := bases[r.IntN(len(bases))]
		kind := mutations[r.IntN(len(mutations))]
		file, ok := kind.change(&mutator{r, b, bases})
		if !ok || file == b.file {
			continue
		}
		proven, err := proof.VerifyState([]byte(file), b.policy)
		if err != nil {
			refused[err.(*proof.StateError).Check]++
			continue
		}
		where := b.differs(t, file, proven)
		if where == "" {
			t.Fatalf("%d: %s: %q verifies after the mutation %q", i, b.about, file, kind.name)
		}
		verified[where]++
	}
	t.Logf("%d mutations: refused because of a check: %v; verified, differing in no more than: %v", n, refused, verified)
}

// base is a valid proof that is changed.
type base struct {
	about  string
	m      *making
	file   string
	policy *tlog.Policy
	parts  *tlog.Proof
	state  *proof.StateProof
	proven *proof.ProvenState
}

func newBase(t *testing.T, c stateCase) *base {
	t.Helper()
	b := &base{about: c.about, m: newMaking(t)}
	c.change(b.m)
	b.file = b.m.file()
	var err error
	if b.policy, err = tlog.ParsePolicy([]byte(b.m.policy())); err != nil {
		t.Fatal(err)
	}
	if b.parts, err = tlog.ParseProof([]byte(b.file)); err != nil {
		t.Fatal(err)
	}
	if b.state, err = proof.ParseStateProof(b.parts.Extra); err != nil {
		t.Fatal(err)
	}
	if b.proven, err = proof.VerifyState([]byte(b.file), b.policy); err != nil {
		t.Fatal(err)
	}
	return b
}

// differs says in which of what may differ a file does that verifies; "" if it shows what is not so.
func (b *base) differs(t *testing.T, file string, got *proof.ProvenState) string {
	t.Helper()
	p, err := tlog.ParseProof([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if got.Entry != b.proven.Entry || got.Checkpoint != b.proven.Checkpoint || got.Network != b.proven.Network ||
		p.Index != b.parts.Index || !slices.Equal(p.Hashes, b.parts.Hashes) {
		return ""
	}
	var where []string
	if !bytes.Equal(p.Checkpoint, b.parts.Checkpoint) {
		where = append(where, "signatures")
	}
	state, err := proof.ParseStateProof(p.Extra)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(state.Subjects, b.state.Subjects) {
		where = append(where, "subjects")
	}
	for i := range got.Subjects {
		if s := &got.Subjects[i]; s.Cut || !slices.Equal(shownOf(s), b.m.records.walk(s.StateSubject)) {
			return ""
		}
	}
	if !bytes.Equal(state.Tree, b.state.Tree) && len(where) == 0 {
		return "" // there is one tree for the subjects
	}
	if !slices.Equal(got.Transactions, b.proven.Transactions) {
		return ""
	}
	slices.Sort(where)
	return strings.Join(slices.Compact(where), ", ")
}

func shownOf(s *proof.ProvenSubject) (records []string) {
	for _, r := range s.Keys {
		records = append(records, string(r.AppendTo(nil)))
	}
	for _, r := range s.IDs {
		records = append(records, string(r.AppendTo(nil)))
	}
	return records
}

// walk is the walk of a subject over all records.
func (m records) walk(s proof.StateSubject) (walk []string) {
	for at := s.MapKey(); ; {
		r := m[at]
		if r == nil {
			return walk
		}
		walk = append(walk, string(r))
		switch {
		case !s.IsID && !bytes.Equal(r[21:41], make([]byte, 20)):
			at = protocol.MapKeyOf(protocol.KeyHash(r[21:]))
		case s.IsID && r[33] == 1:
			at = protocol.MapKeyOfID(chainhash.Hash(r[54:]))
		default:
			return walk
		}
	}
}

// mutator changes a proof.
type mutator struct {
	*rand.Rand
	*base
	others []*base
}

func (m *mutator) other() *base { return m.others[m.IntN(len(m.others))] }

// mutations are ways to change a proof. ok is false if there is nothing to be changed.
var mutations = []struct {
	name   string
	change func(m *mutator) (file string, ok bool)
}{
	{"a bit of the file", func(m *mutator) (string, bool) {
		b := []byte(m.file)
		b[m.IntN(len(b))] ^= 1 << m.IntN(8)
		return string(b), true
	}},
	{"bytes of the file", func(m *mutator) (string, bool) { return string(m.bytes([]byte(m.file), []byte(m.other().file))), true }},
	{"lines of the file", func(m *mutator) (string, bool) {
		lines := strings.SplitAfter(m.file, "\n")
		i, j := m.IntN(len(lines)), m.IntN(len(lines))
		switch m.IntN(4) {
		case 0:
			lines[i], lines[j] = lines[j], lines[i]
		case 1:
			lines = slices.Delete(lines, i, i+1)
		case 2:
			lines = slices.Insert(lines, i, lines[j])
		default:
			others := strings.SplitAfter(m.other().file, "\n")
			lines[i] = others[m.IntN(len(others))]
		}
		return strings.Join(lines, ""), true
	}},
	{"a signature", func(m *mutator) (string, bool) {
		lines := signature.FindAllStringSubmatch(m.file, -1)
		one := lines[m.IntN(len(lines))]
		b, err := base64.StdEncoding.DecodeString(one[2])
		if err != nil {
			return "", false
		}
		b[m.IntN(len(b))] ^= 1 << m.IntN(8)
		return strings.Replace(m.file, one[2], base64.StdEncoding.EncodeToString(b), 1), true
	}},
	{"the last bits of base64", func(m *mutator) (string, bool) {
		lines := signature.FindAllStringSubmatch(m.file, -1)
		encoded := append([]string{extraLine.FindStringSubmatch(m.file)[1]}, lines[m.IntN(len(lines))][2])
		one := encoded[m.IntN(2)]
		if !strings.HasSuffix(one, "=") {
			return "", false
		}
		return strings.Replace(m.file, one, lastBits(one), 1), true
	}},
	{"a bit of the extra data", func(m *mutator) (string, bool) {
		return m.extra(func(b []byte) []byte { b[m.IntN(len(b))] ^= 1 << m.IntN(8); return b }), true
	}},
	{"bytes of the extra data", func(m *mutator) (string, bool) {
		return m.extra(func(b []byte) []byte { return m.bytes(b, m.other().parts.Extra) }), true
	}},
	{"another's extra data", func(m *mutator) (string, bool) {
		return m.extra(func([]byte) []byte { return m.other().parts.Extra }), true
	}},
	{"the log's proof of another block", func(m *mutator) (string, bool) {
		p := *m.parts
		o := m.other().parts
		switch m.IntN(3) {
		case 0:
			p.Checkpoint = o.Checkpoint
		case 1:
			p.Hashes = o.Hashes
		default:
			p.Index, p.Hashes, p.Checkpoint = o.Index, o.Hashes, o.Checkpoint
		}
		return string(p.Marshal()), true
	}},
	{"hashes of the log's proof", func(m *mutator) (string, bool) {
		p := *m.parts
		if p.Hashes = slices.Clone(p.Hashes); len(p.Hashes) == 0 {
			return "", false
		}
		i, j := m.IntN(len(p.Hashes)), m.IntN(len(p.Hashes))
		switch m.IntN(3) {
		case 0:
			p.Hashes[i], p.Hashes[j] = p.Hashes[j], p.Hashes[i]
		case 1:
			p.Hashes = slices.Delete(p.Hashes, i, i+1)
		default:
			p.Hashes = slices.Insert(p.Hashes, i, p.Hashes[j])
		}
		return string(p.Marshal()), true
	}},
	{"the index", func(m *mutator) (string, bool) {
		p := *m.parts
		p.Index = m.Uint64N(12)
		return string(p.Marshal()), true
	}},
	{"the entry", func(m *mutator) (string, bool) {
		return m.edit(func(s *proof.StateProof) bool {
			switch o := m.m.entries[m.IntN(len(m.m.entries))]; m.IntN(5) {
			case 0:
				s.Entry.Height = o.Height
			case 1:
				s.Entry.Block = o.Block
			case 2:
				s.Entry.StateHash = o.StateHash
			case 3:
				s.Entry.StateRoot = o.StateRoot
			default:
				s.Entry = o
			}
			return true
		})
	}},
	{"subjects", func(m *mutator) (string, bool) {
		return m.edit(func(s *proof.StateProof) bool {
			i, j := m.IntN(len(s.Subjects)), m.IntN(len(s.Subjects))
			switch m.IntN(5) {
			case 0:
				s.Subjects[i], s.Subjects[j] = s.Subjects[j], s.Subjects[i]
			case 1:
				s.Subjects = slices.Delete(s.Subjects, i, i+1)
			case 2:
				s.Subjects[i].Key[m.IntN(20)] ^= 1 << m.IntN(8)
				s.Subjects[i].IsID, s.Subjects[i].ID = false, chainhash.Hash{}
			case 3:
				o := m.other().state.Subjects
				s.Subjects[i] = o[m.IntN(len(o))]
			default:
				at := slices.Collect(maps.Keys(m.m.records))
				slices.SortFunc(at, func(a, b protocol.MapKey) int { return bytes.Compare(a[:], b[:]) })
				if len(at) == 0 {
					return false
				}
				r := m.m.records[at[m.IntN(len(at))]]
				if s.Subjects[i] = (proof.StateSubject{Key: protocol.KeyHash(r[1:])}); r[0] == protocol.RecordOfID {
					s.Subjects[i] = proof.StateSubject{IsID: true, ID: chainhash.Hash(r[1:])}
				}
			}
			return proof.CheckSubjects(s.Subjects) == nil
		})
	}},
	{"the tree", func(m *mutator) (string, bool) {
		return m.edit(func(s *proof.StateProof) bool {
			root := readTree(&s.Tree)
			var nodes []*treeNode
			root.each(func(n *treeNode) { nodes = append(nodes, n) })
			n := nodes[m.IntN(len(nodes))]
			switch m.IntN(8) {
			case 0: // sides
				n.sides[0], n.sides[1] = n.sides[1], n.sides[0]
			case 1: // the bit
				n.bit = byte(m.IntN(256))
			case 2: // what is shown is hidden
				*n = treeNode{kind: hiddenNode, hash: n.hashOf()}
			case 3: // what is hidden is shown, or another record
				at := slices.Collect(maps.Keys(m.m.records))
				slices.SortFunc(at, func(a, b protocol.MapKey) int { return bytes.Compare(a[:], b[:]) })
				if len(at) == 0 {
					return false
				}
				*n = treeNode{kind: 1, record: m.m.records[at[m.IntN(len(at))]]}
			case 4: // another node
				*n = *nodes[m.IntN(len(nodes))].clone()
			case 5: // another's node
				theirs := readTree(new(slices.Clone(m.other().state.Tree)))
				var others []*treeNode
				theirs.each(func(n *treeNode) { others = append(others, n) })
				*n = *others[m.IntN(len(others))]
			case 6: // a node more
				*n = treeNode{kind: 2, bit: byte(m.IntN(256)), sides: [2]*treeNode{n.clone(), {kind: hiddenNode, hash: n.hashOf()}}}
			default: // a node less
				if n.sides[0] == nil {
					return false
				}
				*n = *n.sides[m.IntN(2)]
			}
			s.Tree = root.appendTo(nil)
			return true
		})
	}},
	{"a field of a record", func(m *mutator) (string, bool) {
		return m.edit(func(s *proof.StateProof) bool {
			root := readTree(&s.Tree)
			var leaves []*treeNode
			root.each(func(n *treeNode) {
				if n.kind == 1 {
					leaves = append(leaves, n)
				}
			})
			if len(leaves) == 0 {
				return false
			}
			a, b := leaves[m.IntN(len(leaves))], leaves[m.IntN(len(leaves))]
			if m.IntN(2) == 0 {
				a.record, b.record = b.record, a.record
			} else {
				a.record = slices.Clone(a.record)
				a.record[m.IntN(len(a.record))] ^= 1 << m.IntN(8)
			}
			s.Tree = root.appendTo(nil)
			return true
		})
	}},
	{"transactions", func(m *mutator) (string, bool) {
		return m.edit(func(s *proof.StateProof) bool {
			if len(s.Transactions) == 0 {
				s.Transactions = slices.Clone(m.other().state.Transactions)
				return len(s.Transactions) > 0
			}
			i, j := m.IntN(len(s.Transactions)), m.IntN(len(s.Transactions))
			it := &s.Transactions[i]
			switch m.IntN(11) {
			case 0:
				s.Transactions[i], s.Transactions[j] = s.Transactions[j], s.Transactions[i]
			case 1:
				s.Transactions = slices.Delete(s.Transactions, i, i+1)
			case 2:
				s.Transactions = append(s.Transactions, s.Transactions[i])
			case 3:
				it.Index ^= 1 << m.IntN(4)
			case 4:
				it.Raw = slices.Clone(it.Raw)
				it.Raw[m.IntN(len(it.Raw))] ^= 1 << m.IntN(8)
			case 5:
				it.Branch = slices.Clone(it.Branch)
				it.Branch[m.IntN(len(it.Branch))][m.IntN(32)] ^= 1 << m.IntN(8)
			case 6:
				it.StateHash[m.IntN(32)] ^= 1 << m.IntN(8)
			case 7:
				it.StateRoot[m.IntN(32)] ^= 1 << m.IntN(8)
			case 8:
				it.Inclusion = slices.Clone(it.Inclusion)
				it.Inclusion[m.IntN(len(it.Inclusion))][m.IntN(32)] ^= 1 << m.IntN(8)
			case 9:
				it.Height = uint32(int(it.Height) + m.IntN(30) - 15)
			default:
				it.Header[m.IntN(80)] ^= 1 << m.IntN(8)
			}
			return true
		})
	}},
}

// bytes changes some bytes, as others have them or not.
func (m *mutator) bytes(b, others []byte) []byte {
	b = slices.Clone(b)
	from := m.IntN(len(b))
	to := min(len(b), from+1+m.IntN(64))
	at := m.IntN(len(b))
	switch m.IntN(6) {
	case 0:
		return slices.Delete(b, from, to)
	case 1:
		return slices.Insert(b, at, slices.Clone(b[from:to])...)
	case 2:
		return append(b[:from:from], append([]byte{byte(m.IntN(256))}, b[from:]...)...)
	case 3:
		return b[:from]
	case 4:
		b[from] = byte(m.IntN(256))
		return b
	}
	from = min(from, len(others))
	copy(b[from:to], others[from:])
	return b
}

func (m *mutator) extra(change func(extra []byte) []byte) string {
	p := *m.parts
	p.Extra = change(slices.Clone(p.Extra))
	return string(p.Marshal())
}

func (m *mutator) edit(change func(s *proof.StateProof) bool) (file string, ok bool) {
	s := *m.state
	s.Subjects, s.Tree, s.Transactions = slices.Clone(s.Subjects), slices.Clone(s.Tree), slices.Clone(s.Transactions)
	if !change(&s) {
		return "", false
	}
	extra, err := s.Marshal()
	if err != nil {
		return "", false
	}
	return m.extra(func([]byte) []byte { return extra }), true
}

// treeNode is a node of a tree as it is written; a hidden side is a node as well.
type treeNode struct {
	kind   byte
	record []byte
	bit    byte
	sides  [2]*treeNode
	hash   [32]byte
}

const hiddenNode = 9

// readTree reads a tree that is right.
func readTree(b *[]byte) *treeNode {
	take := func(n int) []byte {
		taken := (*b)[:n:n]
		*b = (*b)[n:]
		return taken
	}
	n := &treeNode{kind: take(1)[0]}
	hidden := func() *treeNode { return &treeNode{kind: hiddenNode, hash: [32]byte(take(32))} }
	switch n.kind {
	case 1:
		n.record = take(map[byte]int{1: protocol.KeyRecordSize, 2: protocol.IDRecordSize}[(*b)[0]])
	case 2, 3, 4:
		n.bit = take(1)[0]
		if n.kind == 3 {
			n.sides[0] = hidden()
		} else {
			n.sides[0] = readTree(b)
		}
		if n.kind == 4 {
			n.sides[1] = hidden()
		} else {
			n.sides[1] = readTree(b)
		}
	}
	return n
}

func (n *treeNode) each(visit func(*treeNode)) {
	if n != nil {
		visit(n)
		n.sides[0].each(visit)
		n.sides[1].each(visit)
	}
}

func (n *treeNode) clone() *treeNode {
	if n == nil {
		return nil
	}
	return &treeNode{n.kind, n.record, n.bit, [2]*treeNode{n.sides[0].clone(), n.sides[1].clone()}, n.hash}
}

func (n *treeNode) hashOf() [32]byte {
	switch {
	case n.kind == hiddenNode:
		return n.hash
	case n.kind == 1 && n.record[0] == protocol.RecordOfKey:
		return protocol.MapLeafHash(protocol.MapKeyOf(protocol.KeyHash(n.record[1:])), n.record)
	case n.kind == 1:
		return protocol.MapLeafHash(protocol.MapKeyOfID(chainhash.Hash(n.record[1:])), n.record)
	case n.sides[0] == nil:
		return protocol.EmptyMapHash()
	}
	return protocol.MapNodeHash(int(n.bit), n.sides[0].hashOf(), n.sides[1].hashOf())
}

// appendTo writes the tree, also if it is wrong.
func (n *treeNode) appendTo(b []byte) []byte {
	switch {
	case n.kind == hiddenNode:
		return append(b, n.hash[:]...)
	case n.kind == 1:
		return append(append(b, 1), n.record...)
	case n.sides[0] == nil:
		return append(b, n.kind)
	}
	left, right := n.sides[0].kind == hiddenNode, n.sides[1].kind == hiddenNode
	kind := byte(2)
	if left {
		kind = 3
	} else if right {
		kind = 4
	}
	b = append(b, kind, n.bit)
	return n.sides[1].appendTo(n.sides[0].appendTo(b))
}
