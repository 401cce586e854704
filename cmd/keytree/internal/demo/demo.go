// Package demo has the plays of keytree demo: what happens, what each party says and checks,
// with the private node and the mail server that they need. A play fails at the first thing
// that is not as it must be.
//
// What never belongs here: a rule, and how a server is put together: the command that has
// the flags does that.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Blocks is the length of the private chain before the first action: enough for the
// coinbases that pay for all.
const Blocks = 110

// dialTimeout is how long a play waits for its node to answer at all.
const dialTimeout = 20 * time.Second

// Host is the program around the plays.
type Host struct {
	Out         io.Writer // for what is played
	Progress    io.Writer // for what takes long
	Log         zerolog.Logger
	Servers     Servers
	PrintReport func(io.Writer, *audit.Report) // for people
	QRCode      func(text string) string       // for a terminal
	Interrupted error                          // the cause of a context that the user has ended
	// Run runs a command line of keytree, without the program's name, with what it says on Out, and returns its exit code.
	Run func(ctx context.Context, args ...string) int
}

// Servers starts servers on the local machine, as keytree serve does.
type Servers interface {
	// StartIndex runs a server that indexes a private node until ctx ends, and returns when
	// it answers; with a keyserver if that is not nil. ended is closed when the server has
	// ended, also if there was an error; if it fails, fail is told.
	StartIndex(ctx context.Context, fail context.CancelCauseFunc, node bchd.Config, dataDir string, k *Keyserver) (at Addresses, ended <-chan struct{}, err error)
	// StartStateIndex is StartIndex for an index that publishes its states.
	StartStateIndex(ctx context.Context, fail context.CancelCauseFunc, node bchd.Config, of *StateIndex) (at Addresses, ended <-chan struct{}, err error)
	// StartKeyserver runs a keyserver alone, until it is stopped.
	StartKeyserver(ctx context.Context, k *Keyserver) (*RunningKeyserver, error)
	// StartWitness runs a witness of transparency logs, until it is stopped.
	StartWitness(ctx context.Context, w *Witness) (*RunningWitness, error)
}

// StateIndex says where an index with a state log keeps what it has, and whom it asks to cosign and cosigns.
type StateIndex struct {
	Dir        string // of its data
	Address    string // of REST, HOST:PORT
	Host       string // in the log's name
	LogKey     string // file
	WitnessKey string // file
	Policy     *tlog.Policy
	Now        func() time.Time // the state log's clock
}

// Witness says where a witness keeps what it has, and which logs it takes.
type Witness struct {
	Name, KeyFile, StateFile string
	Logs                     *tlog.Policy
	Address                  string // HOST:PORT; "" lets the system choose
}

// RunningWitness is a witness that was started.
type RunningWitness struct {
	URL  string
	Key  *tlog.PublicKey
	Stop func() error // is called once
}

// Log says where the key of a keyserver's transparency log is and what it has signed, and who
// cosigns it.
type Log struct {
	KeyFile, StateFile string
	Policy             *tlog.Policy
}

// Addresses are where a server answers, HOST:PORT each.
type Addresses struct {
	GRPC, HTTP string
	Keyserver  string // "" if none is run
}

// Keyserver says where a keyserver keeps what it has.
type Keyserver struct {
	Domain     string
	Dir        string // of its database
	KeyFile    string
	IssuerFile string
	Operator   string   // socket
	Anchors    *Anchors // nil: it does not anchor
	Log        *Log     // nil: one of its own, without witnesses
}

// Anchors says how a keyserver anchors its hashchain: as often as it can.
type Anchors struct {
	KeyFile, StateFile string
	MaxEntries         uint64 // that wait for an anchor
}

// RunningKeyserver is a keyserver that was started.
type RunningKeyserver struct {
	URL  string
	Stop func() error // is called once
}

// newKeyserver returns a keyserver with everything in dir.
func newKeyserver(dir string) *Keyserver {
	return &Keyserver{
		Domain: domain, Dir: filepath.Join(dir, "keyserver"), KeyFile: filepath.Join(dir, "keyserver.key"),
		IssuerFile: filepath.Join(dir, "issuer.key"), Operator: filepath.Join(dir, "operator", "socket"),
	}
}

// startChain starts a private bchd in dir. The caller stops it.
func startChain(ctx context.Context, h Host, binary, dir string) (*regtest.Node, bchd.Config, error) {
	chain, err := regtest.Start(ctx, regtest.Options{
		Binary: binary, Dir: dir, Blocks: Blocks, Progress: func(line string) { fmt.Fprintln(h.Progress, line) },
	})
	if err != nil {
		return nil, bchd.Config{}, err
	}
	config, err := bchd.ParseURL(chain.URL())
	if err != nil {
		return nil, bchd.Config{}, errors.Join(err, chain.Stop())
	}
	return chain, config, nil
}

// dialWallet connects to the private node, which has to be there now.
func dialWallet(ctx context.Context, config bchd.Config) (*bchd.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %v", dialTimeout))
	defer cancel()
	config.Network, config.RetryFor = regtest.Params, dialTimeout
	return bchd.Dial(ctx, config)
}

// orCause returns why ctx ended, if it did, since err then only follows from it.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
