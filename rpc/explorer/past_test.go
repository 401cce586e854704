package explorer_test

import (
	"fmt"
	"html"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestPast lets a few keys be linked and cut at random, and compares what their pages say of each time with what
// they resolve to as of each block. The last pages look back from the beginning of what the first ones tell.
func TestPast(t *testing.T) {
	const keys, last = 6, 60
	random := rand.New(rand.NewPCG(5, 6))
	chain := new(rpctest.Chain)
	w := &world{Rig: rpctest.New(t, chain.Block()), chain: chain}
	accepts := make(map[int][2]string) // of the children: whose, and in which transaction
	for block := 1; block <= last; block++ {
		child, parent := random.IntN(keys), random.IntN(keys)
		name := fmt.Sprint("p", block)
		var actions []links.Action
		if accept, ok := accepts[child]; ok && random.IntN(2) == 0 {
			actions = append(actions, rpctest.MCR("mcr "+name, accept[0], accept[1]))
			delete(accepts, child)
		} else if !ok && child != parent {
			by := fmt.Sprint("p", parent)
			actions = append(actions, rpctest.MLR("mlr "+name, fmt.Sprint("p", child), by, ""), rpctest.MLA("mla "+name, by, "mlr "+name))
		}
		w.Connect(t, chain.Block(actions...))
		if len(actions) == 2 { // unless it was refused, for it would be a loop
			if _, answer := w.REST(t, "GET", "/v1/actions/"+txid("mla "+name), ""); answer["state"] == "IN_FORCE" {
				accepts[child] = [2]string{fmt.Sprint("p", parent), "mla " + name}
			}
		}
	}
	line := regexp.MustCompile(`(?:From block (\d+) to block (\d+)|As of block (\d+) alone): (.*?)(?:, since|, as block)`)
	stays, joined := 0, 0
	for key := range keys {
		address := rpctest.Address(fmt.Sprint("p", key))
		said := make(map[int]string)
		for at := last; at >= 0; {
			_, body := w.Send(t, "GET", fmt.Sprint("/key/", address, "?at=", at), "")
			_, list, _ := strings.Cut(body, "Who it was, and when")
			list, _, _ = strings.Cut(list, "</section>")
			text := strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(list, ""))), " ")
			first := at + 1
			for _, found := range line.FindAllStringSubmatch(text, -1) {
				from, _ := strconv.Atoi(found[1] + found[3])
				to, _ := strconv.Atoi(found[2] + found[3])
				if to != first-1 {
					t.Fatalf("%s: %q does not end where the next one begins: %s", address, found[0], text)
				}
				for height := from; height <= to; height++ {
					said[height] = found[4]
				}
				first = from
				stays++
			}
			if strings.Contains(text, "Before, it was in no link") {
				break
			}
			if first == at+1 {
				t.Fatalf("as of block %d, the page says nothing: %s", at, text)
			}
			at = first - 1
		}
		for height := 0; height <= last; height++ {
			_, answer := w.REST(t, "GET", fmt.Sprint("/v1/addresses/", address, "?at_height=", height), "")
			id, main, want := answer["id_tx_hash"].(string), answer["main_address"].(string), ""
			switch {
			case id == "":
			case main == address:
				want = "the main key of identity " + short(id)
			default:
				want = "of identity " + short(id) + ", under its main key " + short(main)
				joined++
			}
			if said[height] != want {
				t.Errorf("p%d as of block %d: the page says %q, it is %q", key, height, said[height], want)
			}
		}
	}
	if stays < 10*keys/2 || joined < last {
		t.Errorf("only %d times and %d blocks below another key: nothing was tried", stays, joined)
	}
}
