package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/witness"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc"
)

// defaultWitness is where a witness listens by default.
const defaultWitness = "127.0.0.1:8437"

func (a *app) witnessCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "witness --key FILE --logs POLICY",
		Short: "Cosign the transparency logs of keyservers and others",
		Long: `witness runs a witness of transparency logs, of keyservers and of any others that speak
C2SP's tlog-witness: it cosigns a checkpoint after it has checked that the log has only grown
since the last one that it cosigned. So two operators can witness each other.

The first start makes the key, in a file that only its owner can read, for which it needs
--name, and FILE.json beside it, with what was cosigned last. The two belong together: a witness
that has forgotten would cosign a fork. Restore neither from a backup; make a new key then,
which the logs are told. The line "serving" has the public key, for their policies.

POLICY is a file in the form of C2SP's tlog-policy, of which the lines "log KEY" count: LOGVKEY in
a keyserver's Capabilities is its log's. Logs reach the witness at the URL of --listen. It
listens without TLS on the local machine only; for others, name a certificate, or say --plaintext
behind a proxy that has TLS.`,
		Example: `  keytree witness --key witness.key --name witness.example.net --logs logs.policy --listen :8437 --tls-cert cert.pem --tls-key key.pem`,
		Args:    takes(),
	}
	flags := cmd.Flags()
	key := flags.String("key", "", "key `FILE` of the witness, made at the first start, with FILE.json for what it remembers")
	name := flags.String("name", "", "`NAME` of the witness, as its host with a path, in its key and signatures; for the first start")
	logs := flags.String("logs", "", "`POLICY` file that names the logs to be cosigned")
	listen := newParsed("HOST:PORT", defaultWitness, parseHostPort(true))
	flags.Var(listen, "listen", "where to answer the logs; port 0 lets the system choose")
	cert := flags.String("tls-cert", "", "certificate `FILE` with its chain, PEM; read again when it changes")
	certKey := flags.String("tls-key", "", "private key `FILE` of the certificate, PEM")
	plaintext := flags.Bool("plaintext", false, "listen without TLS where others than this machine may reach it, as behind a proxy that has TLS")
	limits := newLimitFlags(flags)
	log := newLogFlags(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *key == "" || *logs == "":
			return usagef("expected --key FILE and --logs POLICY")
		case (*cert == "") != (*certKey == ""):
			return usagef("expected both or none of --tls-cert and --tls-key")
		case *plaintext && *cert != "":
			return usagef("expected --plaintext or certificates, got both")
		}
		if !*plaintext && *cert == "" {
			if err := refuseBeyondLoopback("listen", listen.value); err != nil {
				return err
			}
		}
		if _, err := os.Stat(*key); *name == "" && err != nil {
			return usagef("%s is not there: expected --name NAME, for which a key is made", *key)
		}
		policy, err := readPolicy(*logs)
		if err != nil {
			return err
		}
		if len(policy.Logs) == 0 {
			return usagef("%s names no log: expected lines of the form log KEY", *logs)
		}
		admission, err := limits.gate()
		if err != nil {
			return err
		}
		if err := mayWrite(filepath.Dir(*key)); err != nil {
			return err
		}
		out := newLog(a.stderr, log.format.value, log.level.value)
		config := rpc.WitnessConfig{Admission: admission, Log: out}
		if *cert != "" {
			if config.TLS, err = (&certificates{log: out}).load(*cert, *certKey); err != nil {
				return err
			}
		}
		return serveWitness(cmd.Context(), witness.Options{KeyFile: *key, StateFile: *key + ".json", Name: *name, Policy: policy}, config, listen.value, out)
	}
	return cmd
}

// serveWitness runs a witness until ctx ends, which is no error.
func serveWitness(ctx context.Context, opt witness.Options, config rpc.WitnessConfig, address string, log zerolog.Logger) (err error) {
	w, err := witness.Open(opt)
	if err != nil {
		return err
	}
	defer w.Close()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	config.Witness = w
	log.Info().Stringer("witness", listener.Addr()).Stringer("key", w.Key()).Strs("logs", origins(opt.Policy)).Msg("serving")
	return rpc.NewWitnessServer(config).Serve(ctx, listener)
}

// origins are the names of a policy's logs.
func origins(p *format.Policy) (names []string) {
	for _, l := range p.Logs {
		names = append(names, l.Key.Name())
	}
	return names
}
