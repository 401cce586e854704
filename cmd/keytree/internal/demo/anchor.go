package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/operator"
)

const (
	// payment is what the operator pays for anchors, in satoshi.
	payment = 1_000_000
	// names is how many users register between two anchors.
	names = 3
	// patience is how long the demo waits for the keyserver to do something.
	patience = time.Minute
)

// PlayAnchor plays how a keyserver that tells two stories is found out, with everything in
// dir, and ends everything, in whichever way it ends. binary is that of a bchd; "" has one
// built.
func PlayAnchor(ctx context.Context, h Host, binary, dir string) (err error) {
	chain, node, err := startChain(ctx, h, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Stop()) }()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	k := newKeyserver(dir)
	k.Anchors = &Anchors{KeyFile: filepath.Join(dir, "anchor.key"), StateFile: filepath.Join(dir, "anchors.json"), MaxEntries: names}
	at, ended, err := h.Servers.StartIndex(ctx, fail, node, filepath.Join(dir, "data"), k)
	defer func() { fail(nil); <-ended }()
	if err != nil {
		return err
	}
	p := &anchorPlay{
		keyserverPlay: keyserverPlay{out: h.Out, dir: dir, url: "http://" + at.Keyserver + "/"},
		host:          h, chain: chain, node: node, keyserver: k, operator: operator.NewClient(k.Operator), server: at.GRPC,
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	p.transport = transport
	if p.issuer, err = token.OpenIssuer(k.IssuerFile); err != nil {
		return err
	}
	return orCause(ctx, p.play(ctx))
}

// anchorPlay is the play of a keyserver that anchors, and of its twin.
type anchorPlay struct {
	keyserverPlay
	host      Host
	chain     *regtest.Node
	node      bchd.Config
	keyserver *Keyserver
	operator  *operator.Client
	server    string // gRPC

	policy  *tlog.Policy // of the auditors; nil: the log is not audited
	genesis chainhash.Hash
	backup  string // file, made before the twin parts from the keyserver
}

func (p *anchorPlay) play(ctx context.Context) (err error) {
	fmt.Fprintf(p.out, "A private bchd is at %s, a keyserver for %s that anchors there at %s.\n", p.chain.GRPCAddress(), domain, p.url)
	defer func() {
		if p.others.client != nil {
			err = errors.Join(err, p.others.client.Close())
		}
	}()
	return p.playAll(ctx, "one history for everyone, or evidence", []act{
		{"The operator pays, and the first anchor begins a chain", p.begin},
		{"Users register, and the anchors follow", p.grow},
		{"An auditor finds it sound", func(ctx context.Context) error { return p.findsSound(ctx, "first audit") }},
		{"It goes on, and so does the auditor", p.goOn},
		{"A twin of the keyserver shows another history", p.fork},
	})
}

// until waits until the publisher's status is as wanted.
func (p *anchorPlay) until(ctx context.Context, what string, wanted func(*anchor.Status) bool) (s anchor.Status, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s: nothing came of it within %v", what, patience))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		// That it does not answer now may pass, too.
		if s, err = p.operator.AnchorStatus(ctx); err == nil && wanted(&s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// confirmAnchors mines until nothing is left to anchor, and all of it is in blocks.
func (p *anchorPlay) confirmAnchors(ctx context.Context) (anchor.Status, error) {
	s, err := p.until(ctx, "anchoring", func(s *anchor.Status) bool { return s.NotAnchored == 0 })
	if err != nil {
		return s, err
	}
	for _, pending := range s.Pending {
		p.says("Keyserver", "anchors position %d: %s", pending.Position, pending.TxID)
	}
	if _, err := p.chain.Mine(ctx, 1); err != nil {
		return s, err
	}
	return p.until(ctx, "confirming", func(s *anchor.Status) bool { return len(s.Pending) == 0 && s.Last != nil })
}

func (p *anchorPlay) begin(ctx context.Context) error {
	s, err := p.until(ctx, "comparing the hashchain with its anchors", func(s *anchor.Status) bool { return s.Address != "" })
	if err != nil {
		return err
	}
	p.says("Keyserver", "has no anchors yet; it asks for a payment to")
	fmt.Fprintf(p.out, "\n%s\n%s\n", s.URI, p.host.QRCode(s.URI))
	key, err := protocol.ParseAddress(s.Address, regtest.Params)
	if err != nil {
		return err
	}
	if _, err := p.chain.Fund(ctx, wire.NewTxOut(payment, protocol.P2PKHScript(key), wire.TokenData{})); err != nil {
		return err
	}
	if _, err := p.chain.Mine(ctx, 1); err != nil {
		return err
	}
	p.says("Operator", "pays %d satoshi", payment)
	if s, err = p.confirmAnchors(ctx); err != nil {
		return err
	}
	genesis, err := chainhash.NewHashFromStr(s.Chain)
	if err != nil {
		return err
	}
	p.genesis = *genesis
	p.checked("the chain of anchors is %s, in block %d: whoever audits pins this", s.Chain, s.Last.Height)
	p.checked("what is left of the payment is enough for %d more", s.Left)
	p.others, err = p.join(ctx, "others")
	return err
}

// register lets names register with a party.
func (p *anchorPlay) register(ctx context.Context, who *party, prefix string) error {
	for i := range names {
		name := fmt.Sprintf("%s.%c@%s", prefix, 'a'+i, domain)
		if err := p.create(ctx, who, name, uid.Mandatory, onPaper); err != nil {
			return err
		}
		p.says("Keyserver", "%s registers: position %d", name, who.id.Position())
	}
	return nil
}

func (p *anchorPlay) grow(ctx context.Context) error {
	for _, prefix := range []string{"first", "second"} {
		if err := p.register(ctx, &p.others, prefix); err != nil {
			return err
		}
		s, err := p.confirmAnchors(ctx)
		if err != nil {
			return err
		}
		p.checked("anchor %d is in block %d: it spends output 0 of the one before, which can be spent once", s.Last.Number, s.Last.Height)
		if p.backup == "" {
			if err := p.takeBackup(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *anchorPlay) takeBackup(ctx context.Context) (err error) {
	p.backup = filepath.Join(p.dir, "backup")
	file, err := os.OpenFile(p.backup, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	p.says("Operator", "makes a backup now")
	return p.operator.Backup(ctx, file)
}

// auditFrom audits the keyserver at url, with the state of the auditor of that name.
func (p *anchorPlay) auditFrom(ctx context.Context, who, url string) (report *audit.Report, err error) {
	c, err := client.New(p.server, client.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	node, err := p.dialNode(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	auditor, err := audit.Open(audit.Config{
		Dir: filepath.Join(p.dir, who), Network: regtest.Params, Genesis: p.genesis, Policy: p.policy,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, auditor.Close()) }()
	server, own := sources.NewServer(c, p.server, nil), sources.Node{NodeClient: node}
	from := &sources.Keyserver{Reader: keyclient.NewReader(url, p.transport)}
	return auditor.Audit(ctx, audit.Sources{
		Keyserver: from, Log: from,
		Bundle: func(ctx context.Context, first uint32) (io.ReadCloser, error) {
			return server.Bundle(ctx, p.genesis, first)
		},
		Headers:     own,
		OtherChains: server.OtherChains,
		Newest:      own.Newest,
		Spending:    own.Spending,
	})
}

// dialNode connects to the private node, which says which blocks are on the best chain.
func (p *anchorPlay) dialNode(ctx context.Context) (*bchd.Client, error) {
	config := p.node
	config.Network, config.Log = regtest.Params, p.host.Log
	return bchd.Dial(ctx, config)
}

// showReport prints a report, indented.
func (p *anchorPlay) showReport(r *audit.Report) {
	var text bytes.Buffer
	p.host.PrintReport(&text, r)
	fmt.Fprintln(p.out)
	for line := range strings.Lines(text.String()) {
		fmt.Fprintf(p.out, "    %s", line)
	}
	fmt.Fprintln(p.out)
}

func (p *anchorPlay) findsSound(ctx context.Context, what string) error {
	p.says("Auditor", "takes the entries from the keyserver, the anchors from the server, and asks the node about blocks")
	report, err := p.auditFrom(ctx, "auditor", p.url)
	if err != nil {
		return err
	}
	p.showReport(report)
	if report.Verdict != audit.Sound || report.Covered != report.Entries {
		return fmt.Errorf("%s: expected all %d entries sound, got %s for %d", what, report.Entries, report.Verdict, report.Covered)
	}
	p.checked("sound up to position %d, which is all %d entries: they are what %d anchors committed to", *report.SoundUpTo, report.Entries, report.Anchors)
	return nil
}

func (p *anchorPlay) goOn(ctx context.Context) error {
	if err := p.register(ctx, &p.others, "third"); err != nil {
		return err
	}
	if _, err := p.confirmAnchors(ctx); err != nil {
		return err
	}
	return p.findsSound(ctx, "second audit")
}

// fork makes a twin of the keyserver from the backup, with other entries behind it.
func (p *anchorPlay) fork(ctx context.Context) (err error) {
	twin := *p.keyserver
	twin.Dir, twin.Operator, twin.Anchors = filepath.Join(p.dir, "twin"), filepath.Join(p.dir, "twin-operator", "socket"), nil
	backup, err := os.Open(p.backup)
	if err != nil {
		return err
	}
	err = errors.Join(keyserver.Restore(ctx, keyserver.Options{Dir: twin.Dir, Log: p.host.Log}, backup), backup.Close())
	if err != nil {
		return err
	}
	server, err := p.host.Servers.StartKeyserver(ctx, &twin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	url := server.URL
	p.says("Operator", "starts a twin from the backup, with the same key, at %s", url)

	victim, err := keyclient.Init(ctx, filepath.Join(p.dir, "victim"), url, "", nil, keyclient.Options{Transport: p.transport})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, victim.Close()) }()
	for _, prefix := range []string{"other", "another"} {
		if err := p.register(ctx, &party{client: victim}, prefix); err != nil {
			return err
		}
	}
	p.checked("a second client copies the twin's hashchain: %d entries, each follows the one before it", victim.Size())
	p.says("Auditor 2", "has never seen the keyserver, only the twin; pins the same genesis anchor")
	report, err := p.auditFrom(ctx, "auditor2", url)
	if err != nil {
		return err
	}
	p.showReport(report)
	if report.Verdict != audit.Misbehaviour || len(report.Findings) == 0 || report.Findings[0].Evidence == "" {
		return fmt.Errorf("expected evidence of misbehaviour, got %s", report.Verdict)
	}
	return p.convinces(ctx, report.Findings[0].Evidence, victim.Fingerprint())
}

// convinces verifies a file of evidence for who has pinned the keyserver and its chain
// of anchors.
func (p *anchorPlay) convinces(ctx context.Context, path string, fingerprint hashchain.Hash) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	evidence, err := audit.ReadEvidence(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	node, err := p.dialNode(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	conviction, err := evidence.Verify(ctx, audit.Pins{Fingerprint: &fingerprint, Genesis: &p.genesis}, sources.Node{NodeClient: node})
	if err != nil {
		return err
	}
	if conviction.Verdict != audit.Misbehaviour {
		return fmt.Errorf("expected that the evidence convicts, got %q: %q", conviction.Verdict, conviction.Compare)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	p.says("Anybody", "who has pinned the keyserver verifies the file of %d bytes, and asks a node about blocks:", info.Size())
	for _, shows := range conviction.Shows {
		p.checked("%s", shows)
	}
	return nil
}
