package tlog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Bounds of a policy.
const (
	// MaxPolicy is the most bytes that a policy has.
	MaxPolicy = 64 << 10
	// maxNamed is the most logs, witnesses and groups, each. A note has at most 100 signatures.
	maxNamed = 64
)

// MaxAge is how long after the cosignatures were made a quorum of them shows what a log has now. Logs
// have their witnesses cosign again within that time though nothing is new.
const MaxAge = 24 * time.Hour

// Policy says which logs somebody reads, which witnesses there are, and how many of them have to
// have cosigned a checkpoint. It does not change.
type Policy struct {
	Logs      []PolicyLog
	Witnesses []PolicyWitness
	quorum    *member // nil: none is demanded
}

// PolicyLog is a log that a policy names.
type PolicyLog struct {
	Key *PublicKey
	URL string // the prefix of its paths; "" if the policy does not tell
}

// PolicyWitness is a witness that a policy names.
type PolicyWitness struct {
	Name string // in the policy, which need not be that of the key
	Key  *PublicKey
	URL  string // its submission prefix; "" if the policy does not tell
}

// member is what a quorum is made of: a witness, or a group of members.
type member struct {
	name    string
	witness int // index in Policy.Witnesses; -1: it is a group
	most    int // how many of the members have to have cosigned
	members []*member
	used    bool // it is a member of a group
}

func (m *member) satisfied(has func(witness int) bool) bool {
	if m.witness >= 0 {
		return has(m.witness)
	}
	n := 0
	for _, member := range m.members {
		if member.satisfied(has) {
			n++
		}
	}
	return n >= m.most
}

// policyParser is a policy that is being read.
type policyParser struct {
	policy  Policy
	members map[string]*member
	quorum  bool // its line has come
}

// ParsePolicy reads a policy. ErrFormat, with the number of the line, if it is not one.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, fmt.Errorf("%w: expected a policy of at most %d bytes, got %d", ErrFormat, MaxPolicy, len(text))
	}
	p := policyParser{members: make(map[string]*member)}
	for i, line := range strings.Split(string(text), "\n") {
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("%w: policy, line %d: %w", ErrFormat, i+1, err)
		}
	}
	if !p.quorum {
		return nil, fmt.Errorf("%w: policy: expected a line with the quorum, of the form quorum NAME, or quorum none", ErrFormat)
	}
	return &p.policy, nil
}

func (p *policyParser) line(line string) error {
	for _, c := range []byte(line) {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return fmt.Errorf("expected no control character, got %#04x", c)
		}
	}
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return nil
	}
	keyword, args := fields[0], fields[1:]
	switch {
	case keyword == "log" && (len(args) == 1 || len(args) == 2):
		return p.log(args)
	case keyword == "witness" && (len(args) == 2 || len(args) == 3):
		return p.witness(args)
	case keyword == "group" && len(args) >= 3:
		return p.group(args)
	case keyword == "quorum" && len(args) == 1:
		return p.setQuorum(args[0])
	}
	return fmt.Errorf("expected log KEY [URL], witness NAME KEY [URL], group NAME all|any|NUMBER NAME… or quorum NAME, got %.80q", line)
}

func (p *policyParser) log(args []string) error {
	key, err := parseKey(args[0], kindLog)
	if err != nil {
		return err
	}
	where, err := optionalURL(args[1:])
	if err != nil {
		return err
	}
	if slices.ContainsFunc(p.policy.Logs, func(l PolicyLog) bool { return sameKey(l.Key, key) }) {
		return fmt.Errorf("the key of log %s is there already", key.Name())
	}
	if len(p.policy.Logs) == maxNamed {
		return fmt.Errorf("expected at most %d logs", maxNamed)
	}
	p.policy.Logs = append(p.policy.Logs, PolicyLog{key, where})
	return nil
}

func (p *policyParser) witness(args []string) error {
	key, err := parseKey(args[1], kindWitness)
	if err != nil {
		return err
	}
	where, err := optionalURL(args[2:])
	if err != nil {
		return err
	}
	if slices.ContainsFunc(p.policy.Witnesses, func(w PolicyWitness) bool { return sameKey(w.Key, key) }) {
		return fmt.Errorf("the key of witness %s is there already", args[0])
	}
	if len(p.policy.Witnesses) == maxNamed {
		return fmt.Errorf("expected at most %d witnesses", maxNamed)
	}
	if err := p.define(&member{name: args[0], witness: len(p.policy.Witnesses)}); err != nil {
		return err
	}
	p.policy.Witnesses = append(p.policy.Witnesses, PolicyWitness{args[0], key, where})
	return nil
}

// optionalURL reads a prefix of paths, without a slash at its end.
func optionalURL(args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	scheme, rest, ok := strings.Cut(args[0], "://")
	if !ok || scheme != "http" && scheme != "https" || strings.Trim(rest, "/") == "" || strings.ContainsAny(rest, "?#@") {
		return "", fmt.Errorf("expected a URL such as https://witness.example/prefix, got %.80q", args[0])
	}
	return strings.TrimRight(args[0], "/"), nil
}

func (p *policyParser) group(args []string) error {
	g := &member{name: args[0], witness: -1}
	for _, name := range args[2:] {
		m := p.members[name]
		if m == nil {
			return fmt.Errorf("expected a witness or group of a line before, got %.80q", name)
		}
		if m.used {
			return fmt.Errorf("%.80q is a member of a group already", name)
		}
		m.used = true
		g.members = append(g.members, m)
	}
	switch args[1] {
	case "any":
		g.most = 1
	case "all":
		g.most = len(g.members)
	default:
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 1 || n > len(g.members) || strconv.Itoa(n) != args[1] {
			return fmt.Errorf("expected all, any or a number from 1 to %d, got %.80q", len(g.members), args[1])
		}
		g.most = n
	}
	return p.define(g)
}

func (p *policyParser) define(m *member) error {
	if m.name == "none" || p.members[m.name] != nil {
		return fmt.Errorf("the name %.80q is taken", m.name)
	}
	if len(p.members) == 2*maxNamed {
		return fmt.Errorf("expected at most %d witnesses and groups", 2*maxNamed)
	}
	p.members[m.name] = m
	return nil
}

func (p *policyParser) setQuorum(name string) error {
	if p.quorum {
		return fmt.Errorf("expected one quorum line")
	}
	if p.quorum = true; name == "none" {
		return nil
	}
	if p.policy.quorum = p.members[name]; p.policy.quorum == nil {
		return fmt.Errorf("expected a witness or group of a line before, or none, got %.80q", name)
	}
	return nil
}

// Log returns the log with an origin; nil if the policy names none.
func (p *Policy) Log(origin string) *PolicyLog {
	for i := range p.Logs {
		if p.Logs[i].Key.Name() == origin {
			return &p.Logs[i]
		}
	}
	return nil
}

// Demands tells whether the policy demands any cosignature.
func (p *Policy) Demands() bool { return p.quorum != nil }

// Opened is a checkpoint that one of a policy's logs has signed.
type Opened struct {
	Checkpoint Checkpoint
	Log        *PolicyLog
	policy     *Policy
	// times are when witnesses have cosigned, in Unix seconds, by their index in the policy.
	times map[int]uint64
	// repeated is the name of a key of the policy under which two lines are signed; "" if there is none.
	repeated string
}

// Open opens a checkpoint: it has to be signed by one of the policy's logs. It does not ask for
// a quorum, which Opened tells of. ErrSignature or ErrFormat otherwise; ErrSignature, too, if a
// witness of the policy is named by a signature that is not its own.
func (p *Policy) Open(signed []byte) (*Opened, error) { return p.open(signed, p.Logs) }

// OpenOf is Open for the log with a key, whether the policy names it or not.
func (p *Policy) OpenOf(log *PublicKey, signed []byte) (*Opened, error) {
	return p.open(signed, []PolicyLog{{Key: log}})
}

func (p *Policy) open(signed []byte, logs []PolicyLog) (*Opened, error) {
	keys := make([]note.Verifier, 0, len(logs)+len(p.Witnesses))
	for i := range logs {
		keys = append(keys, logs[i].Key)
	}
	for i := range p.Witnesses {
		keys = append(keys, p.Witnesses[i].Key)
	}
	n, err := openNote(signed, keys...)
	if err != nil {
		return nil, err
	}
	o := &Opened{policy: p, times: make(map[int]uint64), repeated: repeatedSigner(signed, keys)}
	if o.Checkpoint, err = ParseCheckpoint(n.Text); err != nil {
		return nil, err
	}
	for _, s := range n.Sigs {
		for i := range logs {
			if key := logs[i].Key; key.Name() == s.Name && key.KeyHash() == s.Hash && s.Name == o.Checkpoint.Origin {
				o.Log = &logs[i]
			}
		}
		for i := range p.Witnesses {
			if key := p.Witnesses[i].Key; key.Name() == s.Name && key.KeyHash() == s.Hash {
				o.times[i] = cosignedAt(s)
			}
		}
	}
	if o.Log == nil {
		return nil, fmt.Errorf("%w: no log of the policy has signed the checkpoint of %.80q", ErrSignature, o.Checkpoint.Origin)
	}
	return o, nil
}

// Cosigners are the names, as in the policy, of the witnesses that have cosigned.
func (o *Opened) Cosigners() (names []string) {
	for i := range o.policy.Witnesses {
		if _, ok := o.times[i]; ok {
			names = append(names, o.policy.Witnesses[i].Name)
		}
	}
	return names
}

// Quorum returns nil if enough witnesses have cosigned at or after a time, in Unix seconds;
// ErrQuorum otherwise.
func (o *Opened) Quorum(since uint64) error {
	if o.policy.quorum == nil {
		return nil
	}
	if o.policy.quorum.satisfied(func(i int) bool { at, ok := o.times[i]; return ok && at >= since }) {
		return nil
	}
	after := ""
	if since > 0 {
		after = " since " + time.Unix(int64(since), 0).UTC().Format(time.RFC3339)
	}
	return fmt.Errorf("%w: expected the quorum %q of the policy, got %q%s for the checkpoint of %d entries of %s",
		ErrQuorum, o.policy.quorum.name, o.Cosigners(), after, o.Checkpoint.Size, o.Checkpoint.Origin)
}

// CosignedSince returns the latest time, in Unix seconds, at or after which enough witnesses have cosigned: what Quorum
// accepts as since. It is zero if the policy demands none; call Quorum first.
func (o *Opened) CosignedSince() (at uint64) {
	if o.policy.quorum == nil {
		return 0
	}
	for _, since := range o.times {
		if since > at && o.Quorum(since) == nil {
			at = since
		}
	}
	return at
}

// SignedOnce returns ErrFormat if two lines are signed under the name and id of one of the policy's keys: only the first
// of them was verified.
func (o *Opened) SignedOnce() error {
	if o.repeated != "" {
		return fmt.Errorf("%w: expected one signature by %s", ErrFormat, o.repeated)
	}
	return nil
}
