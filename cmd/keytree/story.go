package main

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

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// step is one link transaction of the story, between keys by name.
type step struct {
	kind          protocol.Kind
	child, parent string
}

func ask(child, parent string) step    { return step{protocol.MLR, child, parent} }
func accept(child, parent string) step { return step{protocol.MLA, child, parent} }
func revoke(child, parent string) step { return step{protocol.MCR, child, parent} }

// String names the step's transaction: identities are called after theirs.
func (s step) String() string { return fmt.Sprintf("%v %s→%s", s.kind, s.child, s.parent) }

// expected is an identity as the MIP and identity-rules §5 have it.
type expected struct {
	id    step     // whose transaction names it; none for a key that was never linked
	paths []string // of each key: the key, its parent, and so on up to the root
}

// scene is a part of the story: what is done, one list a block, and what must
// be true then.
type scene struct {
	title  string // of the flow that begins here
	tells  string
	blocks [][]step
	then   []expected
	merged map[step]step // identities that live on in others
}

// scenes are the flows of MIP-0003, one after the other with the same keys. Names
// of keys are single letters, so a path is a word.
func scenes() []scene {
	signup := ask("B", "A")
	second := ask("K", "J")
	return []scene{
		{
			title: "Service signup",
			tells: "Alice uses a service with key A. A new service makes key B for her.",
			then:  []expected{{paths: []string{"A"}}, {paths: []string{"B"}}},
		}, {
			tells:  "B asks A to be its parent, and A accepts: two keys, one identity.",
			blocks: [][]step{{signup}, {accept("B", "A")}},
			then:   []expected{{signup, []string{"A", "BA"}}},
		}, {
			title:  "Key rotation",
			tells:  "B has a child C. To replace both, Alice links D and E beside them.",
			blocks: [][]step{{ask("C", "B"), ask("D", "A"), ask("E", "D")}, {accept("C", "B"), accept("D", "A"), accept("E", "D")}},
			then:   []expected{{signup, []string{"A", "BA", "CBA", "DA", "EDA"}}},
		}, {
			tells:  "Nothing uses B and C any more, so A revokes B. The branch becomes an identity of its own.",
			blocks: [][]step{{revoke("B", "A")}},
			then: []expected{
				{signup, []string{"A", "DA", "EDA"}},
				{revoke("B", "A"), []string{"B", "CB"}},
			},
		}, {
			title:  "Master key replacement",
			tells:  "Alice makes a new master key F, puts A under it, and links G and H in place of D and E.",
			blocks: [][]step{{ask("A", "F"), ask("G", "F"), ask("H", "G")}, {accept("A", "F")}, {accept("G", "F")}, {accept("H", "G")}},
			then: []expected{
				{signup, []string{"F", "AF", "DAF", "EDAF", "GF", "HGF"}},
				{revoke("B", "A"), []string{"B", "CB"}},
			},
		}, {
			tells:  "F revokes A, the key that it all began with. The identity stays the same, with F as its main address.",
			blocks: [][]step{{revoke("A", "F")}},
			then: []expected{
				{signup, []string{"F", "GF", "HGF"}},
				{revoke("A", "F"), []string{"A", "DA", "EDA"}},
				{revoke("B", "A"), []string{"B", "CB"}},
			},
		}, {
			title:  "Compromised child key",
			tells:  "A service to which Alice gave key I is broken into.",
			blocks: [][]step{{ask("I", "F")}, {accept("I", "F")}},
			then:   []expected{{signup, []string{"F", "GF", "HGF", "IF"}}},
		}, {
			tells:  "F revokes I. Whatever the thief does with it is another identity's.",
			blocks: [][]step{{revoke("I", "F")}},
			then: []expected{
				{signup, []string{"F", "GF", "HGF"}},
				{revoke("I", "F"), []string{"I"}},
			},
		}, {
			title:  "Merging two identities",
			tells:  "Alice has a second identity, J with its child K.",
			blocks: [][]step{{second}, {accept("K", "J")}},
			then: []expected{
				{signup, []string{"F", "GF", "HGF"}},
				{second, []string{"J", "KJ"}},
			},
		}, {
			tells:  "J becomes a child of F. The older id survives, the younger one leads to it.",
			blocks: [][]step{{ask("J", "F")}, {accept("J", "F")}},
			then:   []expected{{signup, []string{"F", "GF", "HGF", "JF", "KJF"}}},
			merged: map[step]step{second: signup},
		}, {
			title:  "Re-attaching a branch",
			tells:  "Alice wants the branch of A back. A asks F anew, F accepts: it takes the original id again.",
			blocks: [][]step{{ask("A", "F")}, {accept("A", "F")}},
			then: []expected{
				{signup, []string{"F", "AF", "DAF", "EDAF", "GF", "HGF", "JF", "KJF"}},
				{revoke("B", "A"), []string{"B", "CB"}},
				{revoke("I", "F"), []string{"I"}},
			},
			merged: map[step]step{second: signup, revoke("A", "F"): signup},
		},
	}
}

// story plays the scenes on a private chain and asks a server about them.
type story struct {
	chain  *regtest.Node
	wallet *bchd.Client
	server *server
	out    io.Writer

	names []string // of the keys, in order
	keys  map[string]*regtest.Key
	name  map[string]string // of a key, by its address
	txid  map[step]string   // of the last transaction of each step
	past  []past
}

// past is a scene that was played, and the block after it.
type past struct {
	scene
	height uint32
}

// newStory makes the keys and gives each a coin.
func newStory(ctx context.Context, chain *regtest.Node, config bchd.Config, server string, out io.Writer) (*story, error) {
	s := &story{
		chain: chain, out: out,
		keys: make(map[string]*regtest.Key), name: make(map[string]string), txid: make(map[step]string),
	}
	var outputs []*wire.TxOut
	for letter := 'A'; letter <= 'K'; letter++ {
		name, key := string(letter), regtest.NewKey()
		s.names = append(s.names, name)
		s.keys[name], s.name[key.Address()] = key, name
		outputs = append(outputs, key.Output(100_000))
	}
	var err error
	if s.server, err = dial(server, nil); err != nil {
		return nil, err
	}
	if s.wallet, err = dialNode(ctx, config, regtest.Params); err != nil {
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

func (s *story) Close() {
	s.wallet.Close() // there is nothing to lose on either connection
	s.server.Close()
}

// mine mines a block and returns its height when the server has it.
func (s *story) mine(ctx context.Context) (uint32, error) {
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

// play plays all scenes, then asks about each of them again as of its block.
func (s *story) play(ctx context.Context) error {
	fmt.Fprintf(s.out, "A private bchd is at %s, a keytree server on it at %s.\n", s.chain.GRPCAddress(), s.server.address)
	number := 0
	for _, scene := range scenes() {
		if scene.title != "" {
			number++
			fmt.Fprintf(s.out, "\n── %d. %s %s\n", number, scene.title, strings.Repeat("─", 60-len(scene.title)))
		}
		fmt.Fprintf(s.out, "\n%s\n\n", scene.tells)
		height, err := s.act(ctx, scene.blocks)
		if err != nil {
			return err
		}
		s.past = append(s.past, past{scene, height})
		if err := s.show(ctx, scene.then); err != nil {
			return err
		}
		if err := s.verify(ctx, scene, nil); err != nil {
			return err
		}
		fmt.Fprintln(s.out, "✓ as the MIP says")
	}
	return s.lookBack(ctx)
}

// act publishes the transactions block by block and returns the height of the
// last block.
func (s *story) act(ctx context.Context, blocks [][]step) (height uint32, err error) {
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
func (s *story) publish(ctx context.Context, step step) error {
	author := s.keys[step.parent]
	var script []byte
	var err error
	switch step.kind {
	case protocol.MLR:
		author = s.keys[step.child]
		script, err = protocol.RequestScript(s.keys[step.parent].Hash(), nil)
	case protocol.MLA:
		script, err = s.refer(ask(step.child, step.parent), protocol.AcceptScript)
	default:
		script, err = s.refer(accept(step.child, step.parent), protocol.RevokeScript)
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
func (s *story) refer(to step, script func(chainhash.Hash, []byte) ([]byte, error)) ([]byte, error) {
	txid, err := chainhash.NewHashFromStr(s.txid[to])
	if err != nil {
		return nil, err
	}
	return script(*txid, nil)
}

// show draws the identities, and prints what the server says of each key.
func (s *story) show(ctx context.Context, identities []expected) error {
	var rows [][]string
	for _, want := range identities {
		t, err := s.server.tree(ctx, s.keys[want.paths[0]].Address(), "", nil, maxPage)
		if err != nil {
			return err
		}
		if t.identity == nil {
			fmt.Fprintln(s.out, "never linked")
		} else {
			fmt.Fprintf(s.out, "identity %s\n", s.identityName(t.identity.IdTxHash))
		}
		var keys []branch
		for _, k := range t.list.Keys {
			keys = append(keys, branch{k.Depth, s.keyName(k.Address) + "  " + k.Address})
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
		drawTree(s.out, keys, false)
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

// lookBack asks about every scene as of its block, and shows where one key was.
func (s *story) lookBack(ctx context.Context) error {
	const key = "D"
	fmt.Fprintf(s.out, "\n── And as of every block on the way %s\n\nThe same questions again, each as of its block, and key %s through time:\n\n", strings.Repeat("─", 31), key)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "as of\tpath\tidentity")
	for _, p := range s.past {
		if err := s.verify(ctx, p.scene, &p.height); err != nil {
			return err
		}
		r, err := s.server.At(p.height).Resolve(ctx, s.keys[key].Address())
		if err != nil {
			return err
		}
		id := "-"
		if r.IdTxHash != "" {
			id = s.identityName(r.IdTxHash)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", p.height, strings.Join(strings.Split(s.path(r), ""), " → "), id)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "✓ as the MIP says\n\n")
	return nil
}

// verify compares the server's answers with what a scene expects.
func (s *story) verify(ctx context.Context, scene scene, at *uint32) error {
	for _, want := range scene.then {
		if err := s.verifyIdentity(ctx, want, at); err != nil {
			return err
		}
	}
	for young, old := range scene.merged {
		identity, err := s.server.asOf(at).Identity(ctx, s.txid[young])
		if err != nil {
			return err
		}
		if identity.State != "MERGED" || identity.MergedInto != s.txid[old] {
			return fmt.Errorf("identity of %v: expected it merged into that of %v, the server says %s, %q", young, old, identity.State, identity.MergedInto)
		}
	}
	return nil
}

func (s *story) verifyIdentity(ctx context.Context, want expected, at *uint32) error {
	id := s.txid[want.id]
	var expectedKeys []string
	for _, path := range want.paths {
		name, root := path[:1], path[len(path)-1:]
		expectedKeys = append(expectedKeys, name)
		r, err := s.server.asOf(at).Resolve(ctx, s.keys[name].Address())
		if err != nil {
			return err
		}
		if s.path(r) != path || s.keyName(r.MainAddress) != root || r.IdTxHash != id {
			return fmt.Errorf("as of block %d: key %s: expected path %s, main key %s, identity %q, the server says %s, %s, %q",
				r.AsOfHeight, name, path, root, id, s.path(r), s.keyName(r.MainAddress), r.IdTxHash)
		}
	}
	if id == "" {
		return nil
	}
	list, err := s.server.keys(ctx, id, at, maxPage)
	if err != nil {
		return err
	}
	var listed []string
	for _, k := range list.Keys {
		listed = append(listed, s.keyName(k.Address))
	}
	slices.Sort(listed)
	slices.Sort(expectedKeys)
	if !slices.Equal(listed, expectedKeys) {
		return fmt.Errorf("as of block %d: identity of %v: expected the keys %v, the server lists %v", list.AsOfHeight, want.id, expectedKeys, listed)
	}
	return nil
}

// path returns the names of the keys from the key to its root.
func (s *story) path(r *keytreev1.Resolution) string {
	var names []string
	for _, address := range r.Path {
		names = append(names, s.keyName(address))
	}
	return strings.Join(names, "")
}

func (s *story) keyName(address string) string {
	if name := s.name[address]; name != "" {
		return name
	}
	return address
}

// identityName returns an id and the step whose transaction it is.
func (s *story) identityName(id string) string {
	for step, txid := range s.txid {
		if txid == id {
			return fmt.Sprintf("%s (%v)", brief(id), step)
		}
	}
	return brief(id)
}

// brief returns the beginning of a txid.
func brief(txid string) string { return txid[:min(len(txid), 8)] }
