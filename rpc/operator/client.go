package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"

	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/uid"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// Client makes the operator's requests to the server at a socket.
type Client struct{ client *http.Client }

// NewClient returns a client. It connects for each request anew.
func NewClient(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}}
}

// RotateKey has the server rotate its key.
func (o *Client) RotateKey(ctx context.Context) (reply *uid.Reply, err error) {
	err = o.request(ctx, http.MethodPost, rotateKeyPath, func(body io.Reader) error {
		text, err := io.ReadAll(body)
		if err == nil {
			reply, err = uid.ParseReply(text)
		}
		return err
	})
	return reply, err
}

// Domain returns the domain that the server's keyserver serves.
func (o *Client) Domain(ctx context.Context) (domain string, err error) {
	err = o.request(ctx, http.MethodGet, domainPath, readJSON(&domain))
	return domain, err
}

// Backup has the server write a backup. If it fails, what was written is none.
func (o *Client) Backup(ctx context.Context, to io.Writer) error {
	return o.request(ctx, http.MethodGet, backupPath, func(body io.Reader) error {
		_, err := io.Copy(to, body)
		return err
	})
}

// AnchorStatus returns how the anchoring stands.
func (o *Client) AnchorStatus(ctx context.Context) (status anchor.Status, err error) {
	err = o.request(ctx, http.MethodGet, anchorStatusPath, readJSON(&status))
	return status, err
}

// Anchors returns the anchors that are confirmed, in their order, from a number on.
func (o *Client) Anchors(ctx context.Context, from uint32) iter.Seq2[anchor.Anchor, error] {
	return func(yield func(anchor.Anchor, error) bool) {
		for {
			var page []anchor.Anchor
			err := o.request(ctx, http.MethodGet, fmt.Sprintf("%s?from=%d", anchorsPath, from), readJSON(&page))
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
func (o *Client) RotateAnchorKey(ctx context.Context) (txid string, err error) {
	err = o.request(ctx, http.MethodPost, anchorRotatePath, readJSON(&txid))
	return txid, err
}

// maxTile is more bytes than a tile or a bundle of a keyserver's log has.
const maxTile = 1 << 20

// Newest returns the checkpoint of the keyserver's log that readers get.
func (o *Client) Newest(ctx context.Context) ([]byte, error) { return o.readLog(ctx, checkpointPath) }

// Tile returns a tile or an entry bundle of the keyserver's log.
func (o *Client) Tile(ctx context.Context, t format.Tile) ([]byte, error) {
	return o.readLog(ctx, format.Path(t))
}

func (o *Client) readLog(ctx context.Context, path string) (content []byte, err error) {
	err = o.request(ctx, http.MethodGet, logPath+path, func(body io.Reader) (err error) {
		content, err = io.ReadAll(io.LimitReader(body, maxTile))
		return err
	})
	return content, err
}

func readJSON(into any) func(io.Reader) error {
	return func(body io.Reader) error { return json.NewDecoder(body).Decode(into) }
}

func (o *Client) request(ctx context.Context, method, path string, read func(io.Reader) error) error {
	response, err := o.open(ctx, method, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return read(response.Body)
}

// open makes a request, which the server has granted. Close the body of the answer.
func (o *Client) open(ctx context.Context, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://operator"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := o.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		problem, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // whatever came of it
		return nil, fmt.Errorf("the running server refused: %s", bytes.TrimSpace(problem))
	}
	return response, nil
}
