package compare_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/client/compare"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// played is a server whose blocks and states are its own from some heights on.
type played struct {
	network    string
	start, tip uint32
	away       error
	fork       uint32 // first height of another branch; 0: none
	wrong      uint32 // first height of another state; 0: none
	as         string // tells other ones apart
	root       string // state root
	gone       uint32 // height that is not there any more; 0: none

	asked *atomic.Int32
}

func (p *played) Status(context.Context) (*client.Status, error) {
	if p.away != nil {
		return nil, p.away
	}
	s := &client.Status{Network: p.network, StartHeight: p.start, TipHeight: p.tip, TipHash: "tip"}
	if p.tip == 0 {
		s.TipHash = ""
	}
	return s, nil
}

func (p *played) Block(_ context.Context, height uint32) (*client.Block, error) {
	p.asked.Add(1)
	if height > p.tip || height < p.start || p.gone != 0 && height == p.gone {
		return nil, errGone
	}
	b := &client.Block{Hash: fmt.Sprint("block ", height), StateHash: fmt.Sprint("state ", height), StateRoot: p.root}
	if p.fork != 0 && height >= p.fork {
		b.Hash += p.as
		b.StateHash += p.as
	}
	if p.wrong != 0 && height >= p.wrong {
		b.StateHash += p.as
	}
	return b, nil
}

var errAway, errGone = errors.New("away"), errors.New("gone")

func TestServers(t *testing.T) {
	const start, tip = 547_000, 900_000
	good := played{network: "mainnet", start: start, tip: tip}
	with := func(change func(*played)) played {
		p := good
		p.as = "'"
		change(&p)
		return p
	}
	behind := with(func(p *played) { p.tip -= 10 })
	wrong := with(func(p *played) { p.wrong = 600_000 })
	forked := with(func(p *played) { p.fork = tip })
	for name, test := range map[string]struct {
		servers  []played
		err      error
		same     bool
		height   uint32
		away     int
		minority string // a digit for each
	}{
		"two that agree":                {[]played{good, good}, nil, true, tip, 0, ""},
		"one behind":                    {[]played{good, behind}, nil, true, tip - 10, 0, ""},
		"one away":                      {[]played{good, with(func(p *played) { p.away = errAway }), behind}, nil, true, tip - 10, 1, ""},
		"one without a block":           {[]played{with(func(p *played) { p.tip = 0 }), good, good}, nil, true, tip, 1, ""},
		"without state roots, and with": {[]played{good, with(func(p *played) { p.root = "root" }), good}, nil, true, tip, 0, ""},
		"of different state roots":      {[]played{good, with(func(p *played) { p.root = "root" }), with(func(p *played) { p.root = "other" })}, nil, true, tip, 0, ""},
		"one of two wrong":              {[]played{good, wrong}, nil, false, 600_000, 0, ""},
		"one of three wrong":            {[]played{good, wrong, behind}, nil, false, 600_000, 0, "1"},
		"two of three wrong":            {[]played{wrong, good, wrong}, nil, false, 600_000, 0, "1"},
		"two of four wrong":             {[]played{wrong, good, wrong, good}, nil, false, 600_000, 0, ""},
		"three different ones":          {[]played{wrong, good, with(func(p *played) { p.wrong, p.as = 600_000, "''" })}, nil, false, 600_000, 0, ""},
		"wrong from the first on":       {[]played{good, good, with(func(p *played) { p.wrong = start })}, nil, false, start, 0, "2"},
		"wrong at the tip":              {[]played{good, good, with(func(p *played) { p.wrong = tip })}, nil, false, tip, 0, "2"},
		"another tip":                   {[]played{forked, good, good}, nil, false, tip, 0, "0"},
		"another tip, and one behind":   {[]played{forked, good, behind}, nil, true, tip - 10, 0, ""},
		"wrong and away":                {[]played{with(func(p *played) { p.away = errAway }), good, wrong, good}, nil, false, 600_000, 1, "2"},

		"one that answers": {[]played{good, with(func(p *played) { p.away = errAway })}, compare.ErrTooFew, false, 0, 1, ""},
		"one":              {[]played{good}, compare.ErrTooFew, false, 0, 0, ""},
		"another network":  {[]played{good, with(func(p *played) { p.network = "chipnet" })}, compare.ErrApart, false, 0, 0, ""},
		"another start":    {[]played{good, with(func(p *played) { p.start-- })}, compare.ErrApart, false, 0, 0, ""},
		"a tip that goes":  {[]played{good, with(func(p *played) { p.gone = tip })}, errGone, false, 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			var servers []compare.Server
			for i := range test.servers {
				test.servers[i].asked = &asked
				servers = append(servers, &test.servers[i])
			}
			r, err := compare.Servers(t.Context(), servers)
			if !errors.Is(err, test.err) || r.Same != test.same || r.Away() != test.away {
				t.Fatalf("%+v, %v", r, err)
			}
			if most := int32(len(servers) * 21); asked.Load() > most { // two, and the logarithm of how many blocks there are
				t.Errorf("%d questions, want at most %d", asked.Load(), most)
			}
			if err != nil {
				return
			}
			for i, s := range r.Standings {
				if s.Minority != strings.Contains(test.minority, fmt.Sprint(i)) || s.Err == nil && (s.Tip != test.servers[i].tip || s.Hash == "" || s.StateHash == "") {
					t.Errorf("server %d: %+v", i, s)
				}
			}
			if r.RootsDiffer != (name == "of different state roots") {
				t.Errorf("state roots differ: %t", r.RootsDiffer)
			}
			if r.Height != test.height || r.Same && r.Lowest != r.Height {
				t.Errorf("height %d of %d, want %d", r.Height, r.Lowest, test.height)
			}
		})
	}
}

// TestRealServers compares servers that are there, on two branches, one of which has a disconnected block.
func TestRealServers(t *testing.T) {
	c, blocks := rpctest.Family()
	one, two := rpctest.New(t, blocks...), rpctest.New(t, blocks[:6]...)
	one.Connect(t, c.Block())
	one.Disconnect(t, 2)
	c.Salt, c.Next, c.Prev = "fork", 6, blocks[5].Hash
	one.Connect(t, c.Block(), c.Block())
	var servers []compare.Server
	for _, r := range []*rpctest.Rig{one, two} {
		server, err := client.New(r.Conn.Target(), client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		servers = append(servers, server)
	}
	if r, err := compare.Servers(t.Context(), servers); err != nil || !r.Same || r.Height != 5 || r.Standings[1].Hash != blocks[5].Hash.String() {
		t.Errorf("one that is behind: %+v, %v", r, err)
	}
	two.Connect(t, blocks[6])
	if r, err := compare.Servers(t.Context(), servers); err != nil || r.Same || r.Height != 6 || r.Standings[0].Hash == r.Standings[1].Hash || r.Standings[1].Hash != blocks[6].Hash.String() {
		t.Errorf("one on another branch: %+v, %v", r, err)
	}
}
