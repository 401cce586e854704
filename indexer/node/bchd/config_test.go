package bchd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
)

func TestParseURL(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token := write("token", "hush hush\n")
	empty := write("empty", " \n")
	twoLines := write("two", "hush\nhush\n")
	large := write("large", strings.Repeat("x", 5000))

	type config struct{ address, cert, token, file string }
	for name, test := range map[string]struct {
		url  string
		want config
		err  string // "" if the URL is good
	}{
		"address alone":      {url: "bchd://node.example:8335", want: config{address: "node.example:8335"}},
		"everything":         {url: "bchd://127.0.0.1:8335?cert=/tmp/rpc.cert&token_file=" + token, want: config{"127.0.0.1:8335", "/tmp/rpc.cert", "hush hush", token}},
		"IPv6":               {url: "bchd://[::1]:8335/", want: config{address: "[::1]:8335"}},
		"other scheme":       {url: "http://127.0.0.1:8335", err: `scheme "http"`},
		"no scheme":          {url: "127.0.0.1:8335", err: "cannot be parsed"},
		"empty":              {url: "", err: `scheme ""`},
		"no port":            {url: "bchd://127.0.0.1", err: "no port"},
		"no host":            {url: "bchd://:8335", err: "no host"},
		"bad port":           {url: "bchd://127.0.0.1:port", err: "cannot be parsed"},
		"path":               {url: "bchd://127.0.0.1:8335/rpc", err: "path"},
		"token in the URL":   {url: "bchd://hush@127.0.0.1:8335", err: "holds credentials"},
		"unparsable secret":  {url: "bchd://hush:hush@127.0.0.1:port", err: "cannot be parsed"},
		"unknown key":        {url: "bchd://127.0.0.1:8335?token=hush", err: `unknown key "token"`},
		"key twice":          {url: "bchd://127.0.0.1:8335?cert=a&cert=b", err: "2 times"},
		"empty value":        {url: "bchd://127.0.0.1:8335?cert=", err: "empty"},
		"malformed query":    {url: "bchd://127.0.0.1:8335?cert=%zz", err: "malformed query"},
		"missing token file": {url: "bchd://127.0.0.1:8335?token_file=" + filepath.Join(dir, "none"), err: "no such file"},
		"empty token file":   {url: "bchd://127.0.0.1:8335?token_file=" + empty, err: "is empty"},
		"two tokens":         {url: "bchd://127.0.0.1:8335?token_file=" + twoLines, err: "more than one line"},
		"not a token file":   {url: "bchd://127.0.0.1:8335?token_file=" + large, err: "over 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := bchd.ParseURL(test.url)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %+v, error %v; want an error with %q", cfg, err, test.err)
				}
				if strings.Contains(err.Error(), "hush") {
					t.Errorf("the error gives the secret away: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := (config{cfg.Address, cfg.CertFile, cfg.AuthToken, cfg.TokenFile}); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
