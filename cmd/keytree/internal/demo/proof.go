package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc/client"
)

// PlayProof plays how a wallet that has nothing but a policy finds out, offline, that one of three indexers lies, with
// everything in dir, and ends everything, in whichever way it ends. binary is as of PlayAnchor.
func PlayProof(ctx context.Context, h Host, binary, dir string) (err error) {
	chain, node, err := startChain(ctx, h, binary, dir)
	if err != nil {
		return err
	}
	running := true // until the wallet is alone
	stop := func() error {
		if !running {
			return nil
		}
		running = false
		return chain.Stop()
	}
	defer func() { err = errors.Join(err, stop()) }()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	p := &proofPlay{keyserverPlay: keyserverPlay{out: h.Out, dir: dir}, host: h, chain: chain, node: node, fail: fail}
	serving, end := context.WithCancel(ctx)
	p.end = func() error {
		end()
		for _, x := range p.indexers {
			if x.ended != nil {
				<-x.ended
			}
		}
		if p.flows != nil {
			p.flows.Close()
			p.flows = nil
		}
		return stop()
	}
	defer func() { err = errors.Join(err, p.end()) }()
	p.serving = serving
	return orCause(ctx, p.play(ctx))
}

// indexer is one of three.
type indexer struct {
	StateIndex
	name  string // one, two, three
	grpc  string
	ended <-chan struct{} // closed when it has ended; nil: it was not started
}

// proofPlay is the play of three indexers and a wallet.
type proofPlay struct {
	keyserverPlay // for how scenes are told
	host          Host
	chain         *regtest.Node
	node          bchd.Config
	fail          context.CancelCauseFunc
	serving       context.Context // of the indexers
	end           func() error    // ends all that runs

	ahead    atomic.Int64 // how far the clocks of the state logs are ahead, in nanoseconds
	indexers []*indexer
	policy   string // file
	flows    *FlowsPlay
	subject  string // the address of B
	height   uint32 // of the block with the revocation
}

func (p *proofPlay) play(ctx context.Context) error {
	return p.playAll(ctx, "who answers need not be trusted: an answer is proven, or it is not", []act{
		{"Three indexers, each a witness of the others", p.start},
		{"Alice links a key, and takes it back", p.revoke},
		{"The operator of the third indexer leaves that out", p.lie},
		{"The state logs publish, and witnesses compute", p.publish},
		{"A wallet asks all three", p.ask},
		{"The wallet decides, offline", p.decide},
		{"Two that contradict each other are evidence", p.convict},
	})
}

// start makes the keys of all, and has two indexers start.
func (p *proofPlay) start(ctx context.Context) error {
	var logs, witnesses string
	for _, name := range []string{"one", "two", "three"} {
		x, log, witness, err := p.newIndexer(name)
		if err != nil {
			return err
		}
		p.indexers = append(p.indexers, x)
		logs += fmt.Sprintf("log %s http://%s/%s\n", log, x.Address, strings.TrimPrefix(protocol.StatePath(regtest.Params.Name, 1), "/"))
		witnesses += fmt.Sprintf("witness %s %s http://%s/state\n", name, witness, x.Address)
	}
	text := logs + witnesses + "group two-of-three 2 one two three\nquorum two-of-three\n"
	policy, err := format.ParsePolicy([]byte(text))
	if err != nil {
		return err
	}
	p.policy = filepath.Join(p.dir, "wallet.policy")
	if err := os.WriteFile(p.policy, []byte(text), 0o600); err != nil {
		return err
	}
	for _, x := range p.indexers {
		x.Policy = policy
	}
	for _, x := range p.indexers[:2] {
		if err := p.run(x); err != nil {
			return err
		}
		p.says("Indexer", "%s answers at %s, and publishes its states below http://%s/state/", x.name, x.grpc, x.Address)
	}
	p.says("Wallet", "has a policy, and nothing else: %s", p.policy)
	fmt.Fprintf(p.out, "\n%s\n", text)
	p.says("Wallet", "takes an answer that one of these logs has signed and two of these witnesses have cosigned")
	if p.flows, err = NewFlowsPlay(ctx, p.chain, p.node, p.indexers[0].grpc, p.out); err != nil {
		return err
	}
	p.subject = p.flows.Address("B")
	return nil
}

// newIndexer makes the keys of an indexer, and chooses where it will answer.
func (p *proofPlay) newIndexer(name string) (x *indexer, log, witness *format.PublicKey, err error) {
	dir := filepath.Join(p.dir, name)
	x = &indexer{name: name, StateIndex: StateIndex{
		Dir: filepath.Join(dir, "data"), Host: name + ".example", LogKey: filepath.Join(dir, "state.key"), WitnessKey: filepath.Join(dir, "witness.key"),
		Now: func() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) },
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	x.Address = listener.Addr().String()
	if err := errors.Join(listener.Close(), os.MkdirAll(x.Dir, 0o700)); err != nil {
		return nil, nil, nil, err
	}
	logKey, err := newKeyFile(x.LogKey, protocol.StateOrigin(x.Host, regtest.Params.Name, 1), unsignedLog)
	if err != nil {
		return nil, nil, nil, err
	}
	witnessKey, err := newKeyFile(x.WitnessKey, name+".example/witness", noMemory)
	if err != nil {
		return nil, nil, nil, err
	}
	return x, logKey.Log(), witnessKey.Witness(), nil
}

// newKeyFile makes a key in a file, with the state of one that has signed nothing.
func newKeyFile(path, name, state string) (*format.Key, error) {
	key, err := format.GenerateKey(name)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(os.WriteFile(path, []byte(key.Text()+"\n"), 0o600), os.WriteFile(path+".json", []byte(state+"\n"), 0o600))
}

// run starts an indexer.
func (p *proofPlay) run(x *indexer) error {
	at, ended, err := p.host.Servers.StartStateIndex(p.serving, p.fail, p.node, &x.StateIndex)
	x.grpc, x.ended = at.GRPC, ended
	return err
}

// awaitSynced waits until an indexer has compared what it has with the node.
func (p *proofPlay) awaitSynced(ctx context.Context, x *indexer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("indexer %s is not synced within %v", x.name, patience))
	defer cancel()
	c, err := client.New(x.grpc, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		if s, err := c.Status(ctx); err == nil && s.Synced {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *proofPlay) revoke(ctx context.Context) (err error) {
	p.says("Alice", "has key A, and makes key B for a service: B asks A to be its parent, A accepts")
	fmt.Fprintln(p.out)
	if _, err = p.flows.act(ctx, [][]Step{{Ask("B", "A")}, {Accept("B", "A")}}); err != nil {
		return err
	}
	p.says("Service", "is broken into: Alice revokes B")
	fmt.Fprintln(p.out)
	if p.height, err = p.flows.act(ctx, [][]Step{{Revoke("B", "A")}}); err != nil {
		return err
	}
	const above = 10
	p.says("Chain", "goes on for %d blocks", above)
	for range above {
		if _, err := p.flows.mine(ctx); err != nil {
			return err
		}
	}
	return nil
}

// lie has the third indexer begin with a block file in which the revocation is not.
func (p *proofPlay) lie(ctx context.Context) error {
	liar := p.indexers[2]
	blocks := filepath.Join(p.dir, "three", "blocks")
	if err := p.writeBlocks(ctx, blocks); err != nil {
		return err
	}
	p.says("Operator", "of three takes a transaction out of block %d in a copy of a block file, and has it imported", p.height)
	p.says("", "so that only blocks with actions are compared with their headers: this one has none any more")
	if err := p.command(ctx, 0, "import", "--blocks", blocks, "--verify", "actions", "--network", regtest.Params.Name, "--data-dir", liar.Dir, "--log-level", "error"); err != nil {
		return err
	}
	if err := p.run(liar); err != nil {
		return err
	}
	if err := p.awaitSynced(ctx, liar); err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	p.says("Operator", "serves that. Its block hashes are those of the chain, so that the node's later blocks follow")
	for _, x := range []*indexer{p.indexers[0], liar} {
		if err := p.command(ctx, 0, "resolve", p.subject, "--server", x.grpc); err != nil {
			return err
		}
	}
	fmt.Fprintln(p.out)
	p.says("Wallet", "could believe either")
	return nil
}

// writeBlocks writes the chain as a block file of a node, but for the revocation.
func (p *proofPlay) writeBlocks(ctx context.Context, dir string) error {
	tip, _, err := p.chain.Tip(ctx)
	if err != nil {
		return err
	}
	var file bytes.Buffer
	for height := range tip + 1 {
		hash, err := p.chain.BlockHash(ctx, height)
		if err != nil {
			return err
		}
		block, err := p.chain.Block(ctx, hash)
		if err != nil {
			return err
		}
		if height == p.height {
			block.Transactions = slices.DeleteFunc(block.Transactions, func(tx *wire.MsgTx) bool { return tx.TxHash() == p.revocation() })
		}
		var raw bytes.Buffer
		if err := block.Serialize(&raw); err != nil {
			return err
		}
		file.Write(binary.LittleEndian.AppendUint32(nil, uint32(regtest.Params.Net)))
		file.Write(binary.LittleEndian.AppendUint32(nil, uint32(raw.Len())))
		file.Write(raw.Bytes())
	}
	return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "blk00000.dat"), file.Bytes(), 0o600))
}

func (p *proofPlay) revocation() (txid chainhash.Hash) {
	hash, err := chainhash.NewHashFromStr(p.flows.txid[Revoke("B", "A")])
	if err != nil {
		return txid
	}
	return *hash
}

// publish moves the clocks until the logs of all have signed the block with the revocation, and those of the honest ones are cosigned.
func (p *proofPlay) publish(ctx context.Context) error {
	p.says("Clock", "a block gets into a state log when it was known for two hours: here the state logs' clocks are moved")
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the state logs have not published block %d within %v", p.height, patience))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		done := 0
		for i, x := range p.indexers {
			opened, err := p.checkpoint(ctx, x)
			if err == nil && opened.Checkpoint.Size > uint64(p.height) && (opened.Quorum(0) == nil) == (i < 2) {
				done++
			}
		}
		if done == len(p.indexers) {
			break
		}
		if n%25 == 0 { // each time has to be noticed
			p.ahead.Add(int64(2*time.Hour + time.Minute))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	for _, x := range p.indexers {
		opened, err := p.checkpoint(ctx, x)
		if err != nil {
			return err
		}
		by := "with too few cosignatures"
		if opened.Quorum(0) == nil {
			by = "cosigned by " + strings.Join(opened.Cosigners(), " and ")
		}
		p.says("Log", "of %s: %d entries, root %.16s…, %s", x.name, opened.Checkpoint.Size, opened.Checkpoint.Root, by)
	}
	p.checked("a witness cosigns only what it has computed itself: one and two have refused the third log, and keep it as evidence")
	return nil
}

// checkpoint asks an indexer for the checkpoint that it serves.
func (p *proofPlay) checkpoint(ctx context.Context, x *indexer) (*format.Opened, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+x.Address+protocol.StatePath(regtest.Params.Name, 1)+"/checkpoint", nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	signed, err := io.ReadAll(io.LimitReader(response.Body, format.MaxCheckpoint))
	if err != nil {
		return nil, err
	}
	return x.Policy.Open(signed)
}

// proofFile is where the wallet saves what an indexer has proven.
func (p *proofPlay) proofFile(x *indexer) string { return filepath.Join(p.dir, x.name+".proof") }

func (p *proofPlay) headersFile() string { return filepath.Join(p.dir, "headers.bin") }

// ask has the wallet ask for proofs, and the node for headers. Then everything is ended but the wallet.
func (p *proofPlay) ask(ctx context.Context) error {
	for _, x := range p.indexers {
		if err := p.command(ctx, 0, "resolve", p.subject, "--server", x.grpc, "--proof", p.proofFile(x)); err != nil {
			return err
		}
	}
	fmt.Fprintln(p.out)
	p.says("Wallet", "takes headers along as well: from anybody, since they carry work")
	if err := p.command(ctx, 0, "audit", "headers", "--node", p.chain.URL(), "--network", regtest.Params.Name, "--from", "0", "--out", p.headersFile()); err != nil {
		return err
	}
	if err := p.end(); err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	p.says("All", "of it is ended now, the indexers and the node: the wallet has files, and no network")
	return nil
}

// decide has the wallet verify the proofs.
func (p *proofPlay) decide(ctx context.Context) error {
	for i, x := range p.indexers {
		want := 0
		if i == 2 {
			want = 1
		}
		if err := p.command(ctx, want, "verify", p.proofFile(x), "--policy", p.policy, "--address", p.subject); err != nil {
			return err
		}
	}
	fmt.Fprintln(p.out)
	p.checked("two have proven that B is nobody's child; what the third says is not proven: too few witnesses have cosigned")
	return p.command(ctx, 0, "verify", p.proofFile(p.indexers[0]), "--policy", p.policy, "--address", p.subject,
		"--headers", p.headersFile(), "--checkpoint", "0:"+regtest.Params.GenesisHash.String())
}

// convict has the wallet compare the liar's proof with an honest one's.
func (p *proofPlay) convict(ctx context.Context) error {
	if err := p.command(ctx, 3, "verify", p.proofFile(p.indexers[0]), p.proofFile(p.indexers[2]), "--policy", p.policy); err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	p.checked("both logs have signed the state after one block, and say another: whoever indexes the chain sees which one has lied")
	return nil
}

// command prints a command, runs it, and wants an exit code.
func (p *proofPlay) command(ctx context.Context, code int, args ...string) error {
	line := "keytree"
	for _, arg := range args {
		if strings.ContainsAny(arg, "?&") { // in a URL
			arg = "'" + arg + "'"
		}
		line += " " + arg
	}
	fmt.Fprintf(p.out, "\n$ %s\n", line)
	got := p.host.Run(ctx, args...)
	fmt.Fprintf(p.out, "exit code %d\n", got)
	if got != code {
		return fmt.Errorf("keytree %s: expected exit code %d, got %d", args[0], code, got)
	}
	return nil
}
