package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// newLogOptions are those of the log of a domain's keyserver, with its files in a folder.
func newLogOptions(domain, dir string) tlog.Options {
	return tlog.Options{
		Origin:    tlog.Origin(domain),
		KeyFile:   filepath.Join(dir, "keyserver-log.key"),
		StateFile: filepath.Join(dir, "keyserver-log.json"),
	}
}

// logServingFlags tell how a keyserver's transparency log is signed and witnessed.
type logServingFlags struct {
	interval, witnessInterval, witnessTimeout *parsed[time.Duration]
	policy                                    *string
}

func newLogServingFlags(flags *pflag.FlagSet) logServingFlags {
	f := logServingFlags{
		interval:        newParsed("DURATION", tlog.DefaultInterval.String(), parseTime(time.Second, time.Hour)),
		witnessInterval: newParsed("DURATION", tlog.DefaultWitnessInterval.String(), parseTime(time.Second, 24*time.Hour)),
		witnessTimeout:  newParsed("DURATION", tlog.DefaultWitnessTimeout.String(), parseTime(100*time.Millisecond, time.Minute)),
		policy:          flags.String("witness-policy", "", "`FILE` that names the witnesses of the keyserver's transparency log, and how many of them a checkpoint needs (C2SP tlog-policy)"),
	}
	flags.Var(f.interval, "checkpoint-interval", "how long after a checkpoint of the keyserver's transparency log the next one is made, at least")
	flags.Var(f.witnessInterval, "witness-interval", "how long after its witnesses were asked they are asked again, at least")
	flags.Var(f.witnessTimeout, "witness-timeout", "how long a witness is waited for")
	setting(flags, logServingFlagNames()...)
	return f
}

func logServingFlagNames() []string {
	return []string{"checkpoint-interval", "witness-policy", "witness-interval", "witness-timeout"}
}

// into tells a log what was asked for.
func (f logServingFlags) into(o *tlog.Options) (err error) {
	o.Interval, o.WitnessInterval, o.WitnessTimeout = f.interval.value, f.witnessInterval.value, f.witnessTimeout.value
	if *f.policy != "" {
		o.Policy, err = readPolicy(*f.policy)
	}
	return err
}

// readPolicy reads which logs and witnesses somebody trusts.
func readPolicy(path string) (*format.Policy, error) {
	policy, _, err := readPolicyText(path)
	return policy, err
}

// readPolicyText is readPolicy, with the file's text.
func readPolicyText(path string) (*format.Policy, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, format.MaxPolicy+1))
	if err != nil {
		return nil, nil, err
	}
	policy, err := format.ParsePolicy(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return policy, text, nil
}
