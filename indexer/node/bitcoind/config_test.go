package bitcoind_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
)

func TestParseURL(t *testing.T) {
	type config struct {
		address        string
		tls            bool
		cert           string
		user, password string
		cookie, zmq    string
	}
	for name, test := range map[string]struct {
		url  string
		want config
		err  string // "" if the URL is good
	}{
		"password":            {url: "http://me:hush@127.0.0.1:8332", want: config{address: "127.0.0.1:8332", user: "me", password: "hush"}},
		"escaped password":    {url: "http://me:hush%2F%40%3F%25@127.0.0.1:8332/", want: config{address: "127.0.0.1:8332", user: "me", password: "hush/@?%"}},
		"cookie":              {url: "http://[::1]:8332?cookie=/home/me/.bitcoin/.cookie", want: config{address: "[::1]:8332", cookie: "/home/me/.bitcoin/.cookie"}},
		"ZeroMQ":              {url: "http://node.example:8332?cookie=c&zmq=tcp://127.0.0.1:28332", want: config{address: "node.example:8332", cookie: "c", zmq: "127.0.0.1:28332"}},
		"TLS":                 {url: "https://me:hush@127.0.0.1:8334?cert=rpc.cert", want: config{address: "127.0.0.1:8334", tls: true, cert: "rpc.cert", user: "me", password: "hush"}},
		"other scheme":        {url: "bchd://me:hush@127.0.0.1:8332", err: "scheme"},
		"empty":               {url: "", err: "scheme"},
		"no port":             {url: "http://me:hush@127.0.0.1", err: "no port"},
		"no host":             {url: "http://me:hush@:8332", err: "no host"},
		"no credentials":      {url: "http://127.0.0.1:8332", err: "no credentials"},
		"no password":         {url: "http://hush@127.0.0.1:8332", err: "empty user or password"},
		"no user":             {url: "http://:hush@127.0.0.1:8332", err: "empty user or password"},
		"both":                {url: "http://me:hush@127.0.0.1:8332?cookie=c", err: "both"},
		"@ in the password":   {url: "http://me:hu@sh@127.0.0.1:8332?coo", err: "unknown key"},
		"/ in the password":   {url: "http://me:hush/hush@127.0.0.1:8332", err: "%2F for /"},
		"? in the password":   {url: "http://me:1?hush@127.0.0.1:8332", err: "unknown key"},
		"# in the password":   {url: "http://me:1#hush@127.0.0.1:8332", err: "fragment"},
		"% in the password":   {url: "http://me:hush%@127.0.0.1:8332", err: "%25 for %"},
		"path":                {url: "http://me:hush@127.0.0.1:8332/wallet", err: "path"},
		"unknown key":         {url: "http://me:hush@127.0.0.1:8332?hush=1", err: "unknown key"},
		"key twice":           {url: "http://127.0.0.1:8332?cookie=a&cookie=hush", err: "cookie more than once"},
		"empty value":         {url: "http://127.0.0.1:8332?cookie=", err: "empty"},
		"malformed query":     {url: "http://me:hush@127.0.0.1:8332?hush=%zz", err: "malformed query"},
		"cert without TLS":    {url: "http://me:hush@127.0.0.1:8332?cert=c", err: "https"},
		"ZeroMQ without tcp":  {url: "http://me:hush@127.0.0.1:8332?zmq=127.0.0.1:1", err: "tcp://HOST:PORT"},
		"ZeroMQ by ipc":       {url: "http://me:hush@127.0.0.1:8332?zmq=ipc:///tmp/x", err: "tcp://HOST:PORT"},
		"ZeroMQ without port": {url: "http://me:hush@127.0.0.1:8332?zmq=tcp://127.0.0.1", err: "tcp://HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := bitcoind.ParseURL(test.url)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %+v, error %v; want an error with %q", cfg, err, test.err)
				}
				if strings.Contains(err.Error(), "hush") {
					t.Errorf("the error gives the secret away: %v", err)
				}
				return
			}
			check(t, err)
			got := config{cfg.Address, cfg.TLS, cfg.CertFile, cfg.User, string(cfg.Password), cfg.CookieFile, cfg.ZMQ}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestSecret(t *testing.T) {
	cfg := must[bitcoind.Config](t)(bitcoind.ParseURL("http://me:hush@127.0.0.1:8332"))
	asJSON, err := json.Marshal(map[string]any{"password": cfg.Password})
	check(t, err)
	for _, shown := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%q %s %x", cfg.Password, cfg.Password, cfg.Password), string(asJSON)} {
		if strings.Contains(shown, "hush") || strings.Contains(shown, fmt.Sprintf("%x", "hush")) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
}

func TestBadConfig(t *testing.T) {
	net := &chaincfg.RegressionNetParams
	dir := t.TempDir()
	for name, test := range map[string]struct {
		cfg  bitcoind.Config
		says string
	}{
		"no network":               {bitcoind.Config{Address: "localhost:1", CookieFile: "c"}, "Network"},
		"no port":                  {bitcoind.Config{Address: "localhost", CookieFile: "c", Network: net}, "HOST:PORT"},
		"no credentials":           {bitcoind.Config{Address: "localhost:1", Network: net}, "CookieFile"},
		"no such certificate file": {bitcoind.Config{Address: "localhost:1", Network: net, CookieFile: "c", TLS: true, CertFile: dir + "/none"}, "no such file"},
		"not a certificate":        {bitcoind.Config{Address: "localhost:1", Network: net, CookieFile: "c", TLS: true, CertFile: "config_test.go"}, "no PEM certificate"},
		"cookie is a folder":       {bitcoind.Config{Address: "localhost:1", Network: net, CookieFile: dir}, "is a directory"},
	} {
		if _, err := bitcoind.Dial(t.Context(), test.cfg); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want an error with %q", name, err, test.says)
		}
	}
}
