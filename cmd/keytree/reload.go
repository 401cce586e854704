package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// certificates are those of files, of all that a server listens on.
type certificates struct {
	log    zerolog.Logger
	loaded []*rpc.Certificate // all of them before the server answers
}

// load reads a certificate and returns what a listener needs to show it.
func (c *certificates) load(certFile, keyFile string) (*tls.Config, error) {
	certificate, err := rpc.LoadCertificate(certFile, keyFile, c.log)
	if err != nil {
		return nil, err
	}
	c.loaded = append(c.loaded, certificate)
	return certificate.TLS(), nil
}

// reloading reads again what can change while a server runs: certificates, and from the config
// file the sizes of the budgets. Everything else holds until the next start.
type reloading struct {
	certificates *certificates
	admission    *admission.Gate
	settings     *pflag.FlagSet // that hold
	again        func() (*pflag.FlagSet, error)
	log          zerolog.Logger
}

// run reads again whenever it is asked to, until ctx ends.
func (r *reloading) run(ctx context.Context, asked <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			notifyReloading(r.log)
			r.reload()
			notify(r.log, "READY=1")
		}
	}
}

// reload reads everything again, and leaves what cannot be used as it is.
func (r *reloading) reload() {
	for _, certificate := range r.certificates.loaded {
		certificate.Reload() // says how that went
	}
	settings, err := r.again()
	if err != nil {
		r.log.Error().Err(err).Msg("the settings cannot be used: those before hold")
		return
	}
	limits, err := limitFlagsIn(settings).limits()
	if err != nil {
		r.log.Error().Err(err).Msg("the limits cannot be used: those before hold")
		return
	}
	r.admission.Resize(limits)
	changed, waiting := r.changed(settings)
	line := r.log.Info().Strs("changed", changed)
	if len(waiting) > 0 {
		line = r.log.Warn().Strs("changed", changed).Strs("waiting_for_a_restart", waiting)
	}
	line.Int("certificates", len(r.certificates.loaded)).Msg("read certificates and limits again; all other settings hold until the next start")
}

// changed lists the settings that have changed and hold now, and those that wait for the next
// start, and has r hold the former. Passwords and lists it cannot compare.
func (r *reloading) changed(settings *pflag.FlagSet) (now, waiting []string) {
	now = []string{}
	settings.VisitAll(func(f *pflag.Flag) {
		old, text := r.settings.Lookup(f.Name), f.Value.String()
		switch {
		case !isSetting(f) || old.Value.String() == text:
		case slices.Contains(budgetFlags, f.Name):
			now = append(now, f.Name+" "+text)
			if err := old.Value.Set(text); err != nil {
				panic(err) // it has been read once
			}
		default:
			waiting = append(waiting, f.Name)
		}
	})
	return now, waiting
}

// settingsAgain returns a function that reads the settings of a command anew, as they would be
// if it was started now.
func (a *app) settingsAgain(cmd *cobra.Command) func() (*pflag.FlagSet, error) {
	return func() (*pflag.FlagSet, error) {
		root := (&app{stdin: a.stdin, stdout: a.stdout, stderr: a.stderr}).rootCommand()
		again, rest, err := root.Find(a.args)
		if err == nil && again.CommandPath() != cmd.CommandPath() {
			err = fmt.Errorf("the command line %q is not that of %s", strings.Join(a.args, " "), cmd.CommandPath())
		}
		if err == nil {
			err = again.ParseFlags(rest)
		}
		if err == nil {
			err = readSettings(again)
		}
		return again.Flags(), err
	}
}
