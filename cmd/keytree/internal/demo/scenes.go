package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/draw"
	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/client"
)

// Step is one link transaction of the play, between keys by name.
type Step struct {
	kind          protocol.Kind
	child, parent string
}

// Ask is a child's request to a parent.
func Ask(child, parent string) Step { return Step{protocol.MLR, child, parent} }

// Accept is the parent's answer to Ask.
func Accept(child, parent string) Step { return Step{protocol.MLA, child, parent} }

// Revoke takes an Accept back.
func Revoke(child, parent string) Step { return Step{protocol.MCR, child, parent} }

// String names the step's transaction: identities are called after theirs.
func (s Step) String() string { return fmt.Sprintf("%v %s→%s", s.kind, s.child, s.parent) }

// Expected is an identity as the MIP and protocol/SPEC.md §5 have it.
type Expected struct {
	ID    Step     // whose transaction names it; none for a key that was never linked
	Paths []string // of each key: the key, its parent, and so on up to the root
}

// Scene is a part of the play: what is done, one list a block, and what must
// be true then.
type Scene struct {
	Title  string // of the flow that begins here
	Tells  string
	Blocks [][]Step
	Then   []Expected
	Merged map[Step]Step // identities that live on in others
}

// Scenes returns the flows of MIP-0003, one after the other with the same keys. Names
// of keys are single letters, so a path is a word.
func Scenes() []Scene {
	signup := Ask("B", "A")
	second := Ask("K", "J")
	return []Scene{
		{
			Title: "Service signup",
			Tells: "Alice uses a service with key A. A new service makes key B for her.",
			Then:  []Expected{{Paths: []string{"A"}}, {Paths: []string{"B"}}},
		}, {
			Tells:  "B asks A to be its parent, and A accepts: two keys, one identity.",
			Blocks: [][]Step{{signup}, {Accept("B", "A")}},
			Then:   []Expected{{signup, []string{"A", "BA"}}},
		}, {
			Title:  "Key rotation",
			Tells:  "B has a child C. To replace both, Alice links D and E beside them.",
			Blocks: [][]Step{{Ask("C", "B"), Ask("D", "A"), Ask("E", "D")}, {Accept("C", "B"), Accept("D", "A"), Accept("E", "D")}},
			Then:   []Expected{{signup, []string{"A", "BA", "CBA", "DA", "EDA"}}},
		}, {
			Tells:  "Nothing uses B and C any more, so A revokes B. The branch becomes an identity of its own.",
			Blocks: [][]Step{{Revoke("B", "A")}},
			Then: []Expected{
				{signup, []string{"A", "DA", "EDA"}},
				{Revoke("B", "A"), []string{"B", "CB"}},
			},
		}, {
			Title:  "Master key replacement",
			Tells:  "Alice makes a new master key F, puts A under it, and links G and H in place of D and E.",
			Blocks: [][]Step{{Ask("A", "F"), Ask("G", "F"), Ask("H", "G")}, {Accept("A", "F")}, {Accept("G", "F")}, {Accept("H", "G")}},
			Then: []Expected{
				{signup, []string{"F", "AF", "DAF", "EDAF", "GF", "HGF"}},
				{Revoke("B", "A"), []string{"B", "CB"}},
			},
		}, {
			Tells:  "F revokes A, the key that it all began with. The identity stays the same, with F as its main address.",
			Blocks: [][]Step{{Revoke("A", "F")}},
			Then: []Expected{
				{signup, []string{"F", "GF", "HGF"}},
				{Revoke("A", "F"), []string{"A", "DA", "EDA"}},
				{Revoke("B", "A"), []string{"B", "CB"}},
			},
		}, {
			Title:  "Compromised child key",
			Tells:  "A service to which Alice gave key I is broken into.",
			Blocks: [][]Step{{Ask("I", "F")}, {Accept("I", "F")}},
			Then:   []Expected{{signup, []string{"F", "GF", "HGF", "IF"}}},
		}, {
			Tells:  "F revokes I. Whatever the thief does with it is another identity's.",
			Blocks: [][]Step{{Revoke("I", "F")}},
			Then: []Expected{
				{signup, []string{"F", "GF", "HGF"}},
				{Revoke("I", "F"), []string{"I"}},
			},
		}, {
			Title:  "Merging two identities",
			Tells:  "Alice has a second identity, J with its child K.",
			Blocks: [][]Step{{second}, {Accept("K", "J")}},
			Then: []Expected{
				{signup, []string{"F", "GF", "HGF"}},
				{second, []string{"J", "KJ"}},
			},
		}, {
			Tells:  "J becomes a child of F. The older id survives, the younger one leads to it.",
			Blocks: [][]Step{{Ask("J", "F")}, {Accept("J", "F")}},
			Then:   []Expected{{signup, []string{"F", "GF", "HGF", "JF", "KJF"}}},
			Merged: map[Step]Step{second: signup},
		}, {
			Title:  "Re-attaching a branch",
			Tells:  "Alice wants the branch of A back. A asks F anew, F accepts: it takes the original id again.",
			Blocks: [][]Step{{Ask("A", "F")}, {Accept("A", "F")}},
			Then: []Expected{
				{signup, []string{"F", "AF", "DAF", "EDAF", "GF", "HGF", "JF", "KJF"}},
				{Revoke("B", "A"), []string{"B", "CB"}},
				{Revoke("I", "F"), []string{"I"}},
			},
			Merged: map[Step]Step{second: signup, Revoke("A", "F"): signup},
		},
	}
}

// FlowsPlay plays the scenes on a private chain and asks a server about them.
type FlowsPlay struct {
	chain  *regtest.Node
	wallet *bchd.Client
	server *client.Client
	at     string // of the server, HOST:PORT
	out    io.Writer

	names  []string // of the keys, in order
	keys   map[string]*regtest.Key
	name   map[string]string // of a key, by its address
	txid   map[Step]string   // of the last transaction of each step
	Played []PlayedScene
}

// PlayedScene is a scene that was played, and the block after it.
type PlayedScene struct {
	Scene
	Height uint32
}

// NewFlowsPlay makes the keys and gives each a coin.
func NewFlowsPlay(ctx context.Context, chain *regtest.Node, config bchd.Config, server string, out io.Writer) (*FlowsPlay, error) {
	s := &FlowsPlay{
		chain: chain, at: server, out: out,
		keys: make(map[string]*regtest.Key), name: make(map[string]string), txid: make(map[Step]string),
	}
	var outputs []*wire.TxOut
	for letter := 'A'; letter <= 'K'; letter++ {
		name, key := string(letter), regtest.NewKey()
		s.names = append(s.names, name)
		s.keys[name], s.name[key.Address()] = key, name
		outputs = append(outputs, key.Output(100_000))
	}
	var err error
	if s.server, err = client.New(server, client.Options{}); err != nil {
		return nil, err
	}
	if s.wallet, err = dialWallet(ctx, config); err != nil {
		return nil, errors.Join(err, s.server.Close())
	}
	if _, err = chain.Fund(ctx, outputs...); err == nil {
		_, err = s.mine(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the connections of the play.
func (s *FlowsPlay) Close() {
	s.wallet.Close() // there is nothing to lose on either connection
	s.server.Close()
}

// Address is that of a key, by its name.
func (s *FlowsPlay) Address(name string) string { return s.keys[name].Address() }

// TxID is that of the last transaction of a step.
func (s *FlowsPlay) TxID(step Step) string { return s.txid[step] }

// mine mines a block and returns its height when the server has it.
func (s *FlowsPlay) mine(ctx context.Context) (uint32, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the server did not index a block within a minute"))
	defer cancel()
	hashes, err := s.chain.Mine(ctx, 1)
	if err != nil {
		return 0, err
	}
	for {
		status, err := s.server.Status(ctx)
		if err == nil && status.TipHash == hashes[0].String() {
			return status.TipHeight, nil
		}
		if err != nil && ctx.Err() == nil {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Play plays all scenes, then asks about each of them again as of its block.
func (s *FlowsPlay) Play(ctx context.Context) error {
	fmt.Fprintf(s.out, "A private bchd is at %s, a keytree server on it at %s.\n", s.chain.GRPCAddress(), s.at)
	number := 0
	for _, scene := range Scenes() {
		if scene.Title != "" {
			number++
			fmt.Fprintf(s.out, "\n── %d. %s %s\n", number, scene.Title, strings.Repeat("─", 60-len(scene.Title)))
		}
		fmt.Fprintf(s.out, "\n%s\n\n", scene.Tells)
		height, err := s.act(ctx, scene.Blocks)
		if err != nil {
			return err
		}
		s.Played = append(s.Played, PlayedScene{scene, height})
		if err := s.show(ctx, scene.Then); err != nil {
			return err
		}
		if err := s.Verify(ctx, scene, nil); err != nil {
			return err
		}
		fmt.Fprintln(s.out, "✓ as the MIP says")
	}
	return s.checkHistory(ctx)
}

// act publishes the transactions block by block and returns the height of the
// last block.
func (s *FlowsPlay) act(ctx context.Context, blocks [][]Step) (height uint32, err error) {
	if len(blocks) == 0 {
		height, _, err = s.chain.Tip(ctx)
		return height, err
	}
	for _, steps := range blocks {
		for _, step := range steps {
			if err := s.publish(ctx, step); err != nil {
				return 0, fmt.Errorf("%v: %w", step, err)
			}
		}
		if height, err = s.mine(ctx); err != nil {
			return 0, err
		}
		for _, step := range steps {
			fmt.Fprintf(s.out, "  block %d  %v  %s\n", height, step, brief(s.txid[step]))
		}
	}
	fmt.Fprintln(s.out)
	return height, nil
}

// publish sends the transaction of a step, as keytree link does.
func (s *FlowsPlay) publish(ctx context.Context, step Step) error {
	author := s.keys[step.parent]
	var script []byte
	var err error
	switch step.kind {
	case protocol.MLR:
		author = s.keys[step.child]
		script, err = protocol.RequestScript(s.keys[step.parent].Hash(), nil)
	case protocol.MLA:
		script, err = s.refer(Ask(step.child, step.parent), protocol.AcceptScript)
	default:
		script, err = s.refer(Accept(step.child, step.parent), protocol.RevokeScript)
	}
	if err != nil {
		return err
	}
	utxos, _, err := coins.Spendable(ctx, coins.NewBchd(s.wallet, regtest.Params), author.Hash())
	if err != nil {
		return err
	}
	link, err := protocol.NewLinkTx(script, protocol.Funding{Author: author.Hash(), UTXOs: utxos})
	if err != nil {
		return err
	}
	if err := link.Sign(author.PrivateKey()); err != nil {
		return err
	}
	txid, err := s.wallet.Submit(ctx, link.Raw())
	s.txid[step] = txid.String()
	return err
}

// refer makes the script of an action that refers to the transaction of another
// step.
func (s *FlowsPlay) refer(to Step, script func(chainhash.Hash, []byte) ([]byte, error)) ([]byte, error) {
	txid, err := chainhash.NewHashFromStr(s.txid[to])
	if err != nil {
		return nil, err
	}
	return script(*txid, nil)
}

// show draws the identities, and prints what the server says of each key.
func (s *FlowsPlay) show(ctx context.Context, identities []Expected) error {
	var rows [][]string
	for _, want := range identities {
		keys, id, err := s.identity(ctx, s.keys[want.Paths[0]].Address())
		if err != nil {
			return err
		}
		if id == "" {
			fmt.Fprintln(s.out, "never linked")
		} else {
			fmt.Fprintf(s.out, "identity %s\n", s.identityName(id))
		}
		var branches []draw.Branch
		for _, k := range keys {
			branches = append(branches, draw.Branch{Depth: k.Depth, Label: s.keyName(k.Address) + "  " + k.Address})
			r, err := s.server.Resolve(ctx, k.Address)
			if err != nil {
				return err
			}
			id := "-"
			if r.IdTxHash != "" {
				id = s.identityName(r.IdTxHash)
			}
			rows = append(rows, []string{s.keyName(r.Address), s.keyName(r.MainAddress), strings.Join(strings.Split(s.path(r), ""), " → "), id})
		}
		draw.Tree(s.out, branches, false)
		fmt.Fprintln(s.out)
	}
	slices.SortFunc(rows, slices.Compare)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "resolve\tmain key\tpath\tidentity")
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// identity returns the keys of the identity behind an address, depth first from the root,
// and its id; "" if the key was never linked.
func (s *FlowsPlay) identity(ctx context.Context, address string) (keys []*client.Key, id string, err error) {
	r, err := s.server.Resolve(ctx, address)
	if err != nil {
		return nil, "", err
	}
	if r.IdTxHash == "" {
		return []*client.Key{{Address: r.Address}}, "", nil
	}
	for k, err := range s.server.At(r.AsOfHeight).Keys(ctx, r.IdTxHash) {
		if err != nil {
			return nil, "", err
		}
		keys = append(keys, k)
	}
	return keys, r.IdTxHash, nil
}

// asOf asks as of the block at a height; as of the tip if it is nil.
func (s *FlowsPlay) asOf(height *uint32) client.View {
	if height == nil {
		return s.server.View
	}
	return s.server.At(*height)
}

// checkHistory asks about every scene as of its block, and shows where one key was.
func (s *FlowsPlay) checkHistory(ctx context.Context) error {
	const key = "D"
	fmt.Fprintf(s.out, "\n── And as of every block on the way %s\n\nThe same questions again, each as of its block, and key %s through time:\n\n", strings.Repeat("─", 31), key)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "as of\tpath\tidentity")
	for _, p := range s.Played {
		if err := s.Verify(ctx, p.Scene, &p.Height); err != nil {
			return err
		}
		r, err := s.server.At(p.Height).Resolve(ctx, s.keys[key].Address())
		if err != nil {
			return err
		}
		id := "-"
		if r.IdTxHash != "" {
			id = s.identityName(r.IdTxHash)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", p.Height, strings.Join(strings.Split(s.path(r), ""), " → "), id)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "✓ as the MIP says\n\n")
	return nil
}

// Verify compares the server's answers with what a scene expects.
func (s *FlowsPlay) Verify(ctx context.Context, scene Scene, at *uint32) error {
	for _, want := range scene.Then {
		if err := s.verifyIdentity(ctx, want, at); err != nil {
			return err
		}
	}
	for young, old := range scene.Merged {
		identity, err := s.asOf(at).Identity(ctx, s.txid[young])
		if err != nil {
			return err
		}
		if identity.State != "MERGED" || identity.MergedInto != s.txid[old] {
			return fmt.Errorf("identity of %v: expected it merged into that of %v, the server says %s, %q", young, old, identity.State, identity.MergedInto)
		}
	}
	return nil
}

func (s *FlowsPlay) verifyIdentity(ctx context.Context, want Expected, at *uint32) error {
	id := s.txid[want.ID]
	var expectedKeys []string
	var asOf uint32
	for _, path := range want.Paths {
		name, root := path[:1], path[len(path)-1:]
		expectedKeys = append(expectedKeys, name)
		r, err := s.asOf(at).Resolve(ctx, s.keys[name].Address())
		if err != nil {
			return err
		}
		asOf = r.AsOfHeight
		if s.path(r) != path || s.keyName(r.MainAddress) != root || r.IdTxHash != id {
			return fmt.Errorf("as of block %d: key %s: expected path %s, main key %s, identity %q, the server says %s, %s, %q",
				r.AsOfHeight, name, path, root, id, s.path(r), s.keyName(r.MainAddress), r.IdTxHash)
		}
	}
	if id == "" {
		return nil
	}
	var listed []string
	for k, err := range s.asOf(at).Keys(ctx, id) {
		if err != nil {
			return err
		}
		listed = append(listed, s.keyName(k.Address))
	}
	slices.Sort(listed)
	slices.Sort(expectedKeys)
	if !slices.Equal(listed, expectedKeys) {
		return fmt.Errorf("as of block %d: identity of %v: expected the keys %v, the server lists %v", asOf, want.ID, expectedKeys, listed)
	}
	return nil
}

// path returns the names of the keys from the key to its root.
func (s *FlowsPlay) path(r *client.Resolution) string {
	var names []string
	for _, address := range r.Path {
		names = append(names, s.keyName(address))
	}
	return strings.Join(names, "")
}

func (s *FlowsPlay) keyName(address string) string {
	if name := s.name[address]; name != "" {
		return name
	}
	return address
}

// identityName returns an id and the step whose transaction it is.
func (s *FlowsPlay) identityName(id string) string {
	for step, txid := range s.txid {
		if txid == id {
			return fmt.Sprintf("%s (%v)", brief(id), step)
		}
	}
	return brief(id)
}

// brief returns the beginning of a txid.
func brief(txid string) string { return txid[:min(len(txid), 8)] }
