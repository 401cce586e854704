package jsonrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// testMethods are calls that end in every way.
func testMethods() map[string]Method {
	return map[string]Method{
		"echo": func(_ context.Context, p *Params) (any, error) {
			s, n, list := p.Text("Text"), p.NumberOr("Number", 7), p.Texts("List", 3)
			return struct {
				Text   string
				Number uint64
				List   []string
			}{s, n, list}, p.Done()
		},
		"panic":   func(context.Context, *Params) (any, error) { panic("a broken invariant") },
		"unknown": func(context.Context, *Params) (any, error) { return nil, errors.New("disk on fire") },
		"stream": func(context.Context, *Params) (any, error) {
			return Stream(func(w io.Writer) error { _, err := io.WriteString(w, `{"x":1}`); return err }), nil
		},
		"broken": func(context.Context, *Params) (any, error) {
			return Stream(func(w io.Writer) error {
				for range 100_000 {
					if _, err := io.WriteString(w, `{"x":`); err != nil {
						return err
					}
				}
				return errors.New("disk on fire")
			}), nil
		},
	}
}

// testFault hides every error but those of parameters, and logs it.
func testFault(to zerolog.Logger) func(error) *Error {
	return func(err error) *Error {
		if errors.Is(err, ErrParams) {
			return Errorf(CodeInvalidParams, "%v", err)
		}
		to.Error().Err(err).Msg("a method failed")
		return Errorf(CodeInternal, fault.Internal)
	}
}

func testJSONRPC(t testing.TB, to zerolog.Logger) func(body string) (string, error) {
	server := httptest.NewServer(NewHandler(testMethods(), admission.Unlimited(), testFault(to), to))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	return func(body string) (string, error) {
		response, err := server.Client().Post(server.URL, "application/json", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		return string(answer), err
	}
}

func TestFaultsStayInside(t *testing.T) {
	var log bytes.Buffer
	post := testJSONRPC(t, zerolog.New(&log))
	for _, test := range []struct{ method, logged string }{{"panic", "a broken invariant"}, {"unknown", "disk on fire"}} {
		answer, err := post(fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"id":1}`, test.method))
		want := `{"jsonrpc":"2.0","error":{"code":-32603,"message":"` + fault.Internal + `"},"id":1}`
		if err != nil || answer != want {
			t.Errorf("%s: %s, %v; want %s", test.method, answer, err, want)
		}
		if !strings.Contains(log.String(), test.logged) {
			t.Errorf("%s: the log has %s", test.method, log.String())
		}
	}
}

// TestStreams checks that what has begun and cannot be ended does not look whole.
func TestStreams(t *testing.T) {
	post := testJSONRPC(t, zerolog.Nop())
	const call = `{"jsonrpc":"2.0","method":"stream","id":1}`
	answer, err := post("[" + call + "," + call + "]")
	if want := `{"jsonrpc":"2.0","result":{"x":1},"id":1}`; err != nil || answer != "["+want+","+want+"]" {
		t.Errorf("%s, %v", answer, err)
	}
	if answer, err := post(`{"jsonrpc":"2.0","method":"broken","id":1}`); err == nil {
		t.Errorf("a broken stream ended well: %.100s", answer)
	}
}

// FuzzJSONRPC answers anything: with JSON, once for each call that has an id.
func FuzzJSONRPC(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","method":"echo","params":{"Text":"x","Number":5,"List":["a"]},"id":1}`,
		`[{"jsonrpc":"2.0","method":"echo"},{"jsonrpc":"2.0","method":"panic","id":"x"}]`,
		`{"jsonrpc":"2.0","method":"stream","id":null}`, `[]`, `[[]]`, `{"id":1e5}`, "\ufeff{}", `{"jsonrpc":"2.0","method":"echo","params":{"List":[null]},"id":1}`,
	} {
		f.Add([]byte(seed))
	}
	j := NewHandler(testMethods(), admission.Unlimited(), testFault(zerolog.Nop()), zerolog.Nop())
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Contains(body, []byte("broken")) {
			return // breaks the connection off
		}
		request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		w := deadlineRecorder{httptest.NewRecorder()}
		j.ServeHTTP(w, request)
		answer := w.Body.Bytes()
		if w.Code == http.StatusNoContent && len(answer) == 0 {
			return
		}
		var one struct {
			Version string          `json:"jsonrpc"`
			Result  json.RawMessage `json:"result"`
			Error   *Error          `json:"error"`
		}
		all := []json.RawMessage{answer}
		if len(answer) > 0 && answer[0] == '[' {
			if err := json.Unmarshal(answer, &all); err != nil {
				t.Fatalf("%q: %q: %v", body, answer, err)
			}
		}
		for _, text := range all {
			one.Result, one.Error = nil, nil
			if err := json.Unmarshal(text, &one); err != nil || one.Version != "2.0" || (one.Result == nil) == (one.Error == nil) {
				t.Fatalf("%q: %q: %v", body, text, err)
			}
		}
	})
}

// deadlineRecorder is a recorder that takes deadlines.
type deadlineRecorder struct{ *httptest.ResponseRecorder }

// SetWriteDeadline is there for http.ResponseController.
func (deadlineRecorder) SetWriteDeadline(time.Time) error { return nil }
