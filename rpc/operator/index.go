package operator

import (
	"bufio"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
)

// Paths of the requests about an index.
const (
	indexPath       = "/index"        // GET; the answer is an indexState in JSON
	indexBlocksPath = "/index/blocks" // GET, ?from=HEIGHT; of the blocks from there up to the tip each a graph.Recorded in gob
)

// indexState is what an index is of, and how far it is.
type indexState struct {
	Params graph.Params
	Height *uint32 // nil before the first block
}

// NewIndexHandler returns what answers an operator about an index. It asks nobody who he is. A block
// is read when the client has taken the one before.
func NewIndexHandler(g *graph.Graph, log zerolog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+indexPath, func(w http.ResponseWriter, _ *http.Request) {
		state := indexState{Params: g.Params()}
		if tip, started := g.Tip(); started {
			state.Height = &tip.Height
		}
		body, err := json.Marshal(state)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		respond(w, body)
	})
	mux.HandleFunc("GET "+indexBlocksPath, func(w http.ResponseWriter, r *http.Request) {
		from, err := strconv.ParseUint(r.FormValue("from"), 10, 32)
		tip, started := g.Tip()
		if err != nil || !started || from > uint64(tip.Height) {
			http.Error(w, fmt.Sprintf("from: expected a height up to %d, got %q", tip.Height, r.FormValue("from")), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		out := gob.NewEncoder(w)
		for height := from; height <= uint64(tip.Height) && r.Context().Err() == nil; height++ {
			block, err := g.Recorded(uint32(height))
			if err == nil {
				err = out.Encode(block)
			}
			if err != nil {
				if r.Context().Err() == nil {
					log.Error().Err(err).Uint64("height", height).Msg("reading the index for its operator")
				}
				panic(http.ErrAbortHandler) // what was sent is not all
			}
		}
	})
	return mux
}

// Index is the index of the server at a socket, to be read block by block, from the lowest up at best: a
// snapshot.Index. It is for one goroutine at a time.
type Index struct {
	client *Client
	ctx    context.Context // of all that is asked
	state  indexState
	tip    graph.Tip

	body   io.Closer // of the answer under way; nil: there is none
	blocks *gob.Decoder
	next   uint32 // height of the next block in it
}

// Index begins to read the index of the server, as of its tip now. Close it; ctx ends all that is asked.
func (o *Client) Index(ctx context.Context) (*Index, error) {
	i := &Index{client: o, ctx: ctx}
	if err := o.request(ctx, http.MethodGet, indexPath, readJSON(&i.state)); err != nil {
		return nil, err
	}
	if i.state.Height == nil {
		return i, nil
	}
	last, err := i.Recorded(*i.state.Height)
	i.tip = last.Tip
	return i, err
}

// Close ends what is under way.
func (i *Index) Close() error {
	if i.body == nil {
		return nil
	}
	err := i.body.Close()
	i.body = nil
	return err
}

// Params returns what the index is of.
func (i *Index) Params() graph.Params { return i.state.Params }

// Tip returns the last block that was applied when the index was asked first; ok is false if there was none.
func (i *Index) Tip() (tip graph.Tip, ok bool) { return i.tip, i.state.Height != nil }

// Recorded returns what is recorded of the applied block at height.
func (i *Index) Recorded(height uint32) (block graph.Recorded, err error) {
	if i.body == nil || height != i.next {
		i.Close() // of an answer that is not read to its end
		response, err := i.client.open(i.ctx, http.MethodGet, fmt.Sprintf("%s?from=%d", indexBlocksPath, height))
		if err != nil {
			return block, err
		}
		i.body, i.blocks, i.next = response.Body, gob.NewDecoder(bufio.NewReader(response.Body)), height
	}
	if err := i.blocks.Decode(&block); err != nil {
		i.Close()
		return block, fmt.Errorf("the running server, block at height %d: %w", height, err)
	}
	i.next++
	return block, nil
}
