package snapshot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/durable"
)

// Bounds on a download.
const (
	// MaxDownload is the most bytes that a snapshot may have, if the disk has room for them.
	MaxDownload = 256 << 30
	// silence is how long a server may send nothing.
	silence = time.Minute
	// downloadTries is how often in a row it is begun or gone on with in vain.
	downloadTries = 8
)

func (c *Config) isURL() bool {
	return strings.HasPrefix(c.From, "http://") || strings.HasPrefix(c.From, "https://")
}

func (c *Config) download() *download {
	return &download{url: c.From, path: c.Dir + downloadSuffix, log: c.Log, on: c.OnProgress, silence: silence, pause: time.Second, most: MaxDownload}
}

// download is a file that is fetched, and goes on where it was: as long as the server says that what it has is
// the same. What it got is checked by who reads it.
type download struct {
	url, path string
	log       zerolog.Logger
	on        OnProgress
	silence   time.Duration
	pause     time.Duration // before the second try
	most      int64         // bytes
}

// begun is what is written beside a download: of what it is the beginning.
type begun struct {
	URL string
	// Validator is the server's ETag, a strong one, or its Last-Modified.
	Validator string
}

// errRefusedBy is an answer that will be the same the next time.
var errRefusedBy = errors.New("the server does not give it")

// remove removes what has been fetched.
func (d *download) remove() error {
	return errors.Join(durable.Remove(d.path), durable.Remove(d.path+".json"))
}

// get fetches the file, or the rest of it. It tries again as long as something comes.
func (d *download) get(ctx context.Context) error {
	meter := newMeter(d.on, Progress{Stage: StageDownload})
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(d.pause), backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0))
	tries := 0
	for {
		came, err := d.try(ctx, meter)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if came {
			tries = 0
			wait.Reset()
		}
		if tries++; errors.Is(err, errRefusedBy) || tries >= downloadTries {
			return fmt.Errorf("downloading %s: %w", d.shown(), err)
		}
		pause := wait.NextBackOff()
		d.log.Warn().Err(err).Stringer("again_in", pause.Round(time.Millisecond)).Msg("downloading the snapshot")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// shown is the URL without what may be a secret.
func (d *download) shown() string {
	request, err := http.NewRequest(http.MethodGet, d.url, nil)
	if err != nil {
		return "the snapshot"
	}
	request.URL.RawQuery = ""
	return request.URL.Redacted()
}

// try fetches what is missing once. came tells whether anything came.
func (d *download) try(ctx context.Context, m *meter) (came bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(d.silence, func() { cancel(fmt.Errorf("nothing came for %v", d.silence)) })
	defer quiet.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return false, fmt.Errorf("%w: its URL is none", errRefusedBy)
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errRefusedBy, err)
	}
	defer f.Close()
	have := d.has(f)
	request.Header.Set("Accept-Encoding", "identity")
	if have.size > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have.size))
		request.Header.Set("If-Range", have.Validator)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, d.withoutURL(ctx, err)
	}
	defer response.Body.Close()
	size := int64(-1) // of all
	switch response.StatusCode {
	case http.StatusOK:
		size = response.ContentLength
		if err := d.begin(f, response); err != nil {
			return false, fmt.Errorf("%w: %w", errRefusedBy, err)
		}
		have.size = 0
	case http.StatusPartialContent:
		var first, last int64
		if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil || first != have.size || last != size-1 {
			return false, errors.Join(fmt.Errorf("asked for what follows byte %d, it answers %.100q", have.size, response.Header.Get("Content-Range")), f.Truncate(0))
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes */%d", &size); err == nil && size == have.size {
			return true, nil // it was all there
		}
		return false, errors.Join(errors.New("it has less than it had"), f.Truncate(0))
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false, fmt.Errorf("it answers %s", response.Status)
	default:
		return false, fmt.Errorf("%w: it answers %s", errRefusedBy, response.Status)
	}
	most := d.most
	if free, ok, err := badgerdb.FreeSpace(d.path); err == nil && ok {
		most = min(most, have.size+int64(min(free, uint64(d.most))))
	}
	if size > most {
		return false, fmt.Errorf("%w: it has %d bytes, and there is room for %d", errRefusedBy, size, most)
	}
	if _, err := f.Seek(have.size, io.SeekStart); err != nil {
		return false, fmt.Errorf("%w: %w", errRefusedBy, err)
	}
	m.progress.Size = max(size, 0)
	buffer := make([]byte, 256<<10)
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 {
			quiet.Reset(d.silence)
			came = true
			if have.size += int64(n); have.size > most {
				return came, fmt.Errorf("%w: it has more than %d bytes, for which there is room", errRefusedBy, most)
			}
			if _, err := f.Write(buffer[:n]); err != nil {
				return came, fmt.Errorf("%w: %w", errRefusedBy, err)
			}
			m.progress.Bytes = have.size
			m.tell()
		}
		switch {
		case err == io.EOF && (size < 0 || have.size == size):
			return came, f.Sync()
		case err == io.EOF:
			return came, io.ErrUnexpectedEOF
		case err != nil:
			return came, d.withoutURL(ctx, err)
		}
	}
}

// withoutURL is an error of a request without its URL, which may have a secret in it.
func (d *download) withoutURL(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	type wrapper interface{ Unwrap() error }
	if w, ok := err.(wrapper); ok {
		return cmp.Or(w.Unwrap(), err)
	}
	return err
}

// partial is what there is of a download.
type partial struct {
	begun
	size int64
}

// has tells what can be gone on with; nothing if it is not known of what it is the beginning.
func (d *download) has(f *os.File) (p partial) {
	text, err := os.ReadFile(d.path + ".json")
	if err != nil || json.Unmarshal(text, &p.begun) != nil || p.URL != d.url || p.Validator == "" {
		return partial{}
	}
	info, err := f.Stat()
	if err != nil {
		return partial{}
	}
	p.size = info.Size()
	return p
}

// begin begins anew with what a server answers.
func (d *download) begin(f *os.File, response *http.Response) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	b := begun{URL: d.url, Validator: response.Header.Get("ETag")}
	if b.Validator == "" || strings.HasPrefix(b.Validator, "W/") {
		b.Validator = response.Header.Get("Last-Modified")
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return durable.Write(d.path+".json", text)
}
