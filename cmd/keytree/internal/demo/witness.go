package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/audit"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/token"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc/operator"
)

// noMemory is the state of a witness that has cosigned nothing.
const noMemory = `{"version":1,"logs":{}}`

// unsignedLog is the state of a log that has signed nothing.
const unsignedLog = `{"version":1,"signed":"","witnessed":"","witnessed_at":0}`

// PlayWitness plays how two witnesses keep a keyserver to one history between its anchors, and how a
// fork convicts it, with everything in dir, and ends everything, in whichever way it ends. binary is
// as of PlayAnchor.
func PlayWitness(ctx context.Context, h Host, binary, dir string) (err error) {
	chain, node, err := startChain(ctx, h, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Stop()) }()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	p := &witnessPlay{}
	k := newKeyserver(dir)
	k.Anchors = &Anchors{KeyFile: filepath.Join(dir, "anchor.key"), StateFile: filepath.Join(dir, "anchors.json"), MaxEntries: names}
	k.Log = &Log{KeyFile: filepath.Join(dir, "log.key"), StateFile: filepath.Join(dir, "log.json")}
	p.anchorPlay = anchorPlay{
		keyserverPlay: keyserverPlay{out: h.Out, dir: dir},
		host:          h, chain: chain, node: node, keyserver: k, operator: operator.NewClient(k.Operator),
	}
	defer func() {
		for _, w := range p.witnesses {
			err = errors.Join(err, w.Stop())
		}
	}()
	if err := p.startWitnesses(ctx); err != nil {
		return err
	}
	at, ended, err := h.Servers.StartIndex(ctx, fail, node, filepath.Join(dir, "data"), k)
	defer func() { fail(nil); <-ended }()
	if err != nil {
		return err
	}
	p.url, p.server = "http://"+at.Keyserver+"/", at.GRPC
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	p.transport = transport
	if p.issuer, err = token.OpenIssuer(k.IssuerFile); err != nil {
		return err
	}
	return orCause(ctx, p.play(ctx))
}

// witnessPlay is the play of a keyserver with witnesses, and of its twin.
type witnessPlay struct {
	anchorPlay
	logs      *format.Policy // as the witnesses have it
	witnesses []*RunningWitness
	seen      *format.Opened // checkpoint of the keyserver, by both witnesses
}

// startWitnesses makes the log's key, and has two witnesses that take it.
func (p *witnessPlay) startWitnesses(ctx context.Context) error {
	k := p.keyserver
	log, err := tlog.Open(tlog.Options{Origin: tlog.Origin(k.Domain), KeyFile: k.Log.KeyFile, StateFile: k.Log.StateFile})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("log %s\n", log.Key())
	if err := log.Close(); err != nil {
		return err
	}
	if p.logs, err = format.ParsePolicy([]byte(text + "quorum none\n")); err != nil {
		return err
	}
	for _, name := range []string{"one", "two"} {
		w, err := p.host.Servers.StartWitness(ctx, p.witness(name))
		if err != nil {
			return err
		}
		p.witnesses = append(p.witnesses, w)
		text += fmt.Sprintf("witness %s %s %s\n", name, w.Key, w.URL)
	}
	p.policy, err = format.ParsePolicy([]byte(text + "group either any one two\nquorum either\n"))
	k.Log.Policy = p.policy
	return err
}

func (p *witnessPlay) witness(name string) *Witness {
	return &Witness{
		Name: name + ".example", KeyFile: filepath.Join(p.dir, name+".key"), StateFile: filepath.Join(p.dir, name+".json"), Logs: p.logs,
	}
}

func (p *witnessPlay) play(ctx context.Context) (err error) {
	fmt.Fprintf(p.out, "A keyserver for %s is at %s, its witnesses at %s and %s.\n", domain, p.url, p.witnesses[0].URL, p.witnesses[1].URL)
	defer func() {
		if p.others.client != nil {
			err = errors.Join(err, p.others.client.Close())
		}
	}()
	return p.playAll(ctx, "one history for everyone, seen by witnesses, or evidence", []act{
		{"The operator pays, and the first anchor begins a chain", p.begin},
		{"Users register, and two witnesses cosign", p.cosigned},
		{"An auditor finds it sound, log and anchors", func(ctx context.Context) error { return p.findsSound(ctx, "the audit") }},
		{"A fork, which one witness refuses", p.forks},
	})
}

// checkpoint waits for a checkpoint of a keyserver that some witnesses have cosigned.
func (p *witnessPlay) checkpoint(ctx context.Context, r *keyclient.Reader, size uint64, by ...string) (opened *format.Opened, signed []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("a checkpoint of %d entries, cosigned by %s: nothing came of it within %v", size, strings.Join(by, " and "), patience))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if signed, err = r.Checkpoint(ctx); err == nil {
			if opened, err = p.policy.Open(signed); err == nil && opened.Checkpoint.Size == size && strings.Join(opened.Cosigners(), " ") == strings.Join(by, " ") {
				return opened, signed, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, nil, errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

func (p *witnessPlay) cosigned(ctx context.Context) (err error) {
	if err := p.grow(ctx); err != nil {
		return err
	}
	p.seen, _, err = p.checkpoint(ctx, keyclient.NewReader(p.url, p.transport), p.others.client.Size(), "one", "two")
	if err != nil {
		return err
	}
	c := p.seen.Checkpoint
	p.says("Log", "signs that its first %d entries have the root %v", c.Size, c.Root)
	p.says("Witnesses", "check that it goes on from what they have cosigned last, remember it, and cosign")
	p.checked("the checkpoint of %d entries has the signatures of %s", c.Size, strings.Join(p.seen.Cosigners(), " and "))
	return nil
}

// forks has the operator show another history, with the same keys, from an old backup, and has a
// witness forget what it has cosigned.
func (p *witnessPlay) forks(ctx context.Context) (err error) {
	if err := p.witnesses[1].Stop(); err != nil {
		return err
	}
	p.witnesses = p.witnesses[:1]
	friend := p.witness("two")
	friend.Address = strings.TrimPrefix(p.policy.Witnesses[1].URL, "http://")
	if err := os.WriteFile(friend.StateFile, []byte(noMemory), 0o600); err != nil {
		return err
	}
	forgetful, err := p.host.Servers.StartWitness(ctx, friend)
	if err != nil {
		return err
	}
	p.witnesses = append(p.witnesses, forgetful)
	p.says("Operator", "has witness two, a friend, forget what it has cosigned")

	twin, stop, err := p.startTwin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	p.says("Operator", "starts a twin from a backup, with the same keys, at %s", twin)
	victim, err := keyclient.Init(ctx, filepath.Join(p.dir, "victim"), twin, "", nil, keyclient.Options{Transport: p.transport})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, victim.Close()) }()
	for _, prefix := range []string{"other", "another"} {
		if err := p.register(ctx, &party{client: victim}, prefix); err != nil {
			return err
		}
	}
	reader := keyclient.NewReader(twin, p.transport)
	opened, signed, err := p.checkpoint(ctx, reader, victim.Size(), "two")
	if err != nil {
		return err
	}
	p.checked("the twin's checkpoint of %d entries has the signature of witness two alone", opened.Checkpoint.Size)
	if err := p.refuses(ctx, reader, opened.Checkpoint, signed); err != nil {
		return err
	}
	p.says("Auditor", "is shown the twin")
	report, err := p.auditFrom(ctx, "auditor", twin)
	if err != nil {
		return err
	}
	p.showReport(report)
	for _, f := range report.Findings {
		if f.Kind == audit.OtherCheckpoint && f.Evidence != "" {
			return p.convinces(ctx, f.Evidence, victim.Fingerprint())
		}
	}
	return fmt.Errorf("expected evidence of a forked log, got %s", report.Verdict)
}

// refuses submits the twin's checkpoint to witness one, as the twin does.
func (p *witnessPlay) refuses(ctx context.Context, twin *keyclient.Reader, c format.Checkpoint, signed []byte) error {
	submission := format.Submission{Old: p.seen.Checkpoint.Size, Checkpoint: signed}
	_, proof, err := format.Prove(c, submission.Old, func(t format.Tile) ([]byte, error) { return twin.Tile(ctx, t) })
	if err != nil {
		return err
	}
	submission.Proof = proof
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.policy.Witnesses[0].URL+"/add-checkpoint", bytes.NewReader(submission.Marshal()))
	if err != nil {
		return err
	}
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode != http.StatusUnprocessableEntity {
		return fmt.Errorf("expected that witness one refuses with 422, got %s", response.Status)
	}
	p.says("Witness", "one answers 422: it has cosigned %d entries with another root", p.seen.Checkpoint.Size)
	p.checked("who demands both witnesses is shown no fork; who demands either can be")
	return nil
}

// startTwin starts a keyserver from the backup, with the log's key, but without what tells what was
// signed with it.
func (p *witnessPlay) startTwin(ctx context.Context) (url string, stop func() error, err error) {
	twin := *p.keyserver
	twin.Dir, twin.Operator, twin.Anchors = filepath.Join(p.dir, "twin"), filepath.Join(p.dir, "twin-operator", "socket"), nil
	twin.Log = &Log{KeyFile: filepath.Join(p.dir, "twin-log.key"), StateFile: filepath.Join(p.dir, "twin-log.json"), Policy: p.policy}
	key, err := os.ReadFile(p.keyserver.Log.KeyFile)
	if err == nil {
		err = errors.Join(os.WriteFile(twin.Log.KeyFile, key, 0o600), os.WriteFile(twin.Log.StateFile, []byte(unsignedLog), 0o600))
	}
	if err != nil {
		return "", nil, err
	}
	backup, err := os.Open(p.backup)
	if err != nil {
		return "", nil, err
	}
	if err := errors.Join(keyserver.Restore(ctx, keyserver.Options{Dir: twin.Dir, Log: p.host.Log}, backup), backup.Close()); err != nil {
		return "", nil, err
	}
	server, err := p.host.Servers.StartKeyserver(ctx, &twin)
	if err != nil {
		return "", nil, err
	}
	return server.URL, server.Stop, nil
}
