package bitcoind_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// TestImitation asks the imitation of BCHN all that a BCHN was asked. It may leave
// things out, but has to agree in all that it says.
func TestImitation(t *testing.T) {
	chain, _ := nodetest.NewChain()
	for name, index := range recordings() {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.rest, n.txIndex = true, index
			n.take(chain)
			for question, want := range replay(t, name).answers {
				got := askImitation(t, n, question)
				if got.Status != want.Status {
					t.Errorf("%s: HTTP %d, BCHN %d", question, got.Status, want.Status)
				} else if err := sameAnswer(got, want); err != nil {
					t.Errorf("%s: %v", question, err)
				}
			}
		})
	}
}

func askImitation(t *testing.T, n *bchn, question string) answer {
	t.Helper()
	url := "http://" + n.config().Address
	method, params, ok := strings.Cut(question, " ")
	if !ok {
		url += question // by REST
	}
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))
	if ok {
		req.Method, req.Body = http.MethodPost, io.NopCloser(strings.NewReader(fmt.Sprintf(`{"id":1,"method":%q,"params":%s}`, method, params)))
		req.SetBasicAuth("keytree", "hush")
	}
	resp := must[*http.Response](t)(n.server.Client().Do(req))
	defer resp.Body.Close()
	return answer{Status: resp.StatusCode, Body: string(must[[]byte](t)(io.ReadAll(resp.Body)))}
}

// sameAnswer compares answers of which the first is not in hex, and may leave out
// members of its objects.
func sameAnswer(got, want answer) error {
	if want.Binary {
		got.Body = hex.EncodeToString([]byte(got.Body))
	}
	if got.Body == want.Body {
		return nil
	}
	values := make([]any, 2)
	for i, body := range []string{got.Body, want.Body} {
		d := json.NewDecoder(bytes.NewReader([]byte(body)))
		d.UseNumber()
		if err := d.Decode(&values[i]); err != nil {
			return fmt.Errorf("%.200q, BCHN %.200q", got.Body, want.Body)
		}
	}
	return within("", values[0], values[1])
}

// within returns an error unless all that is in got is in want.
func within(path string, got, want any) error {
	switch got := got.(type) {
	case map[string]any:
		wanted, _ := want.(map[string]any)
		for key, value := range got {
			if _, ok := wanted[key]; !ok {
				return fmt.Errorf("BCHN says nothing of %s.%s", path, key)
			}
			if err := within(path+"."+key, value, wanted[key]); err != nil {
				return err
			}
		}
		return nil
	case []any:
		wanted, ok := want.([]any)
		if !ok || len(wanted) != len(got) {
			return fmt.Errorf("%d elements of %s, BCHN has %d", len(got), path, len(wanted))
		}
		for i := range got {
			if err := within(fmt.Sprintf("%s[%d]", path, i), got[i], wanted[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if got != want {
		return fmt.Errorf("%s is %v, BCHN's %v", path, got, want)
	}
	return nil
}
