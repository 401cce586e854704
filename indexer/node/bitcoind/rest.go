package bitcoind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// restTimeout is how long REST may take to begin an answer.
	restTimeout = 10 * time.Second
	// restPause is how long nothing is asked by REST after it failed at something that
	// JSON-RPC could do. The node may be started anew at any time, with REST or without.
	restPause = 10 * time.Minute
)

// errNoREST says that something else came by REST than was asked for.
var errNoREST = errors.New("not served by REST")

// byREST fetches something in binary, of at most limit bytes, without credentials.
// It is only a faster way than JSON-RPC, which decides whenever this fails.
func (c *Client) byREST(ctx context.Context, path string, limit int64, check func(raw []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(restTimeout, func() { cancel(fmt.Errorf("%w within %v", errNoREST, restTimeout)) })
	defer late.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/rest/"+path, nil)
	if err != nil {
		return err
	}
	return c.do(req, limit, func(answer *http.Response, r *bufio.Reader) error {
		late.Stop()
		switch {
		case answer.StatusCode >= 500: // 503: too many questions at a time
			return statusError(answer.StatusCode)
		case answer.StatusCode != http.StatusOK:
			return fmt.Errorf("%w (HTTP %d)", errNoREST, answer.StatusCode)
		case answer.ContentLength < 0 && answer.TransferEncoding == nil:
			// It ends where the connection does: nobody knows whether that is all of it.
			return fmt.Errorf("%w: an answer of unknown length", errNoREST)
		}
		raw, err := io.ReadAll(r)
		if err == nil {
			err = check(raw)
		}
		if err != nil {
			return fmt.Errorf("%w: %v", errNoREST, err)
		}
		return nil
	})
}

// asksREST reports whether to ask by REST now.
func (c *Client) asksREST() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !time.Now().Before(c.restFrom)
}

// pauseREST is for when JSON-RPC has answered what REST, if it was asked, has failed at with
// err: REST is not asked for a while, if it was not served.
func (c *Client) pauseREST(err error) {
	if !errors.Is(err, errNoREST) {
		return
	}
	c.log.Debug().Err(err).Dur("for", restPause).Msg("doing without REST")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restFrom = time.Now().Add(restPause)
}
