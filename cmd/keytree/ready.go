package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/pflag"
)

// readyTime is how long a server may take to say whether it is ready.
const readyTime = 10 * time.Second

// readyFlags tell where the server of this machine answers REST: the settings of keytree serve,
// from the same config file.
type readyFlags struct {
	ready *bool
	http  *parsed[string]
	cert  *string
	acme  *parsed[[]string]
}

func newReadyFlags(flags *pflag.FlagSet) readyFlags {
	f := readyFlags{
		ready: flags.Bool("ready", false, "only ask the server on this machine, by REST, whether it is synced and serves: exit code 0 if it is, else 1, with the reason"),
		http:  newParsed("HOST:PORT", defaultHTTP, parseHostPort(true)),
		cert:  flags.String("tls-cert", "", "with --ready: certificate `FILE`, as serve has it: REST is asked over TLS"),
		acme:  newParsed("DOMAIN,…", "", commaSeparated(parseHost)),
	}
	flags.Var(f.http, "http-listen", "with --ready: where REST is answered, as serve has it")
	flags.Var(f.acme, "acme", "with --ready: host names, as serve has them: REST is asked over TLS, under the first")
	setting(flags, "http-listen", "tls-cert", "acme")
	return f
}

// notReady says why a server is not ready.
type notReady struct{ reason string }

func (e notReady) Error() string { return "not ready: " + e.reason }

// ask asks the server; notReady if it is not, or another error if it does not tell.
func (f readyFlags) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("no answer within %v", readyTime))
	defer cancel()
	host, port, err := net.SplitHostPort(f.http.value)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // any of the machine's addresses would do
	}
	scheme := "http"
	// The server is this machine's own, and is told nothing: whose certificate it shows does
	// not matter. With --acme it shows one only under a name that it is for.
	config := &tls.Config{InsecureSkipVerify: true}
	if len(f.acme.value) > 0 {
		config.ServerName = f.acme.value[0]
	}
	if *f.cert != "" || config.ServerName != "" {
		scheme = "https"
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		return fmt.Errorf("%w; is keytree serve running here? (--http-listen HOST:PORT, as it was given to it)", err)
	}
	defer response.Body.Close()
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return fmt.Errorf("%s: %w", request.URL, err)
	}
	var answer struct {
		Ready  *bool
		Reason string
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Ready == nil {
		return fmt.Errorf(`%s: expected {"ready": …}, got %s: %q`, request.URL, response.Status, shortened(string(text)))
	}
	if !*answer.Ready {
		return notReady{answer.Reason}
	}
	return nil
}
