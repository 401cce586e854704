package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Paths of the operator's requests.
const (
	operatorRotateKey = "/rotate-key" // POST; the answer is the uid.Reply in JSON
	operatorBackup    = "/backup"     // GET; the answer is what Service.Backup writes

	operatorAnchorStatus = "/anchor/status" // GET; the answer is an anchor.Status in JSON
	operatorAnchors      = "/anchor/list"   // GET, ?from=NUMBER; a list of anchor.Anchor in JSON
	operatorAnchorRotate = "/anchor/rotate" // POST; the answer is the txid in JSON
)

// anchorsAtOnce is how many anchors are listed in one answer.
const anchorsAtOnce = 1000

// OperatorConfig is what an OperatorServer works with.
type OperatorConfig struct {
	Service *keyserver.Service
	Anchors *anchor.Publisher // nil if there is none
	Log     zerolog.Logger
}

// OperatorServer does for a keyserver's operator what cannot be done from outside
// while a server has the database open. It asks nobody who he is: whoever reaches
// its listener is the operator, so that must be a socket that only he can open.
type OperatorServer struct {
	http *http.Server
	gate sync.RWMutex // read-locked by every handler, locked for good when Serve has ended
}

// NewOperatorServer prepares a server. Nothing is running before Serve.
func NewOperatorServer(c OperatorConfig) *OperatorServer {
	s := new(OperatorServer)
	service, log := c.Service, c.Log
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+operatorRotateKey, func(w http.ResponseWriter, r *http.Request) {
		reply, err := service.RotateKey(r.Context())
		if errors.Is(err, keyserver.ErrHeld) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if err != nil {
			log.Error().Err(err).Msg("rotating the keyserver's key")
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		log.Info().Uint64("position", reply.Entry.HashchainPos).Msg("the keyserver's key was rotated")
		respond(w, reply.Canonical())
	})
	mux.HandleFunc("GET "+operatorBackup, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		if err := service.Backup(r.Context(), w); err != nil {
			log.Error().Err(err).Msg("backup")
			panic(http.ErrAbortHandler) // what was sent is not a whole backup
		}
	})
	handleAnchors(mux, c.Anchors)
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !s.gate.TryRLock() {
				http.Error(w, "the server is shutting down", http.StatusServiceUnavailable)
				return
			}
			defer s.gate.RUnlock()
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          newHTTPLog(log.With().Str("wire", "operator").Logger()),
	}
	return s
}

// handleAnchors adds the requests about anchors.
func handleAnchors(mux *http.ServeMux, anchors *anchor.Publisher) {
	handle := func(pattern string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if anchors == nil {
				http.Error(w, "it does not anchor: it was started without --anchor-key-file", http.StatusNotFound)
				return
			}
			result, err := answer(r)
			var body []byte
			if err == nil {
				body, err = json.Marshal(result)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			respond(w, body)
		})
	}
	handle("GET "+operatorAnchorStatus, func(*http.Request) (any, error) { return anchors.Status(), nil })
	handle("GET "+operatorAnchors, func(r *http.Request) (any, error) {
		from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("from: expected the number of an anchor: %w", err)
		}
		return anchors.List(r.Context(), uint32(from), anchorsAtOnce)
	})
	handle("POST "+operatorAnchorRotate, func(r *http.Request) (any, error) {
		txid, err := anchors.Rotate(r.Context())
		return txid.String(), err
	})
}

func respond(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Write(body) // a client that went away is no fault to report
}

// Serve answers on the listener, which it closes, until ctx is done, which is no
// error, or it fails. What goes on then has ShutdownGrace to end.
func (s *OperatorServer) Serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(listener) }()
	return endHTTP(ctx, s.http, &s.gate, served, "the operator on "+listener.Addr().String())
}

// endHTTP waits until ctx is done or a server has failed, ends the server, by force
// after ShutdownGrace, and waits for its handlers, which hold the gate.
func endHTTP(ctx context.Context, server *http.Server, gate *sync.RWMutex, served <-chan error, what string) error {
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-served:
	}
	grace, cancel := context.WithTimeout(context.Background(), ShutdownGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close() // nothing is left to do about an error of a dying connection
	}
	gate.Lock()
	if failure != nil {
		return fmt.Errorf("rpc: serving %s: %w", what, failure)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("rpc: serving %s: %w", what, err)
	}
	return nil
}

// Operator makes the operator's requests to the server at a socket.
type Operator struct{ client *http.Client }

// NewOperator returns an Operator. It connects for each request anew.
func NewOperator(socket string) *Operator {
	return &Operator{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}}
}

// RotateKey has the server rotate its key.
func (o *Operator) RotateKey(ctx context.Context) (reply *uid.Reply, err error) {
	err = o.request(ctx, http.MethodPost, operatorRotateKey, func(body io.Reader) error {
		text, err := io.ReadAll(body)
		if err == nil {
			reply, err = uid.ParseReply(text)
		}
		return err
	})
	return reply, err
}

// Backup has the server write a backup. If it fails, what was written is none.
func (o *Operator) Backup(ctx context.Context, to io.Writer) error {
	return o.request(ctx, http.MethodGet, operatorBackup, func(body io.Reader) error {
		_, err := io.Copy(to, body)
		return err
	})
}

// AnchorStatus returns how the anchoring stands.
func (o *Operator) AnchorStatus(ctx context.Context) (status anchor.Status, err error) {
	err = o.request(ctx, http.MethodGet, operatorAnchorStatus, readJSON(&status))
	return status, err
}

// Anchors returns the anchors that are confirmed, in their order, from a number on.
func (o *Operator) Anchors(ctx context.Context, from uint32) iter.Seq2[anchor.Anchor, error] {
	return func(yield func(anchor.Anchor, error) bool) {
		for {
			var page []anchor.Anchor
			err := o.request(ctx, http.MethodGet, fmt.Sprintf("%s?from=%d", operatorAnchors, from), readJSON(&page))
			if err != nil {
				yield(anchor.Anchor{}, err)
				return
			}
			for _, a := range page {
				if !yield(a, nil) {
					return
				}
			}
			if len(page) < anchorsAtOnce {
				return
			}
			from += anchorsAtOnce
		}
	}
}

// RotateAnchorKey has the server hand the baton to a new key, and returns the txid of
// the anchor that does so.
func (o *Operator) RotateAnchorKey(ctx context.Context) (txid string, err error) {
	err = o.request(ctx, http.MethodPost, operatorAnchorRotate, readJSON(&txid))
	return txid, err
}

func readJSON(into any) func(io.Reader) error {
	return func(body io.Reader) error { return json.NewDecoder(body).Decode(into) }
}

func (o *Operator) request(ctx context.Context, method, path string, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://operator"+path, nil)
	if err != nil {
		return err
	}
	response, err := o.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		problem, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // whatever came of it
		return fmt.Errorf("the running keyserver refused: %s", bytes.TrimSpace(problem))
	}
	return read(response.Body)
}
