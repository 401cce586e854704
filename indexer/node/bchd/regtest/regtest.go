// Package regtest runs a private bchd on a regtest network of its own: for
// keytree demo, and for every test in which the chain matters. It mines, makes
// blocks with exactly the wanted transactions on any parent, and funds keys.
//
// What never belongs here: anything about actions or identities, and anything
// that a program on a public network would call. Keys and coins are worthless.
package regtest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Params are the parameters of the network that a Node runs.
var Params = &chaincfg.RegressionNetParams

const (
	rpcUser = "regtest"
	// readyTimeout bounds one start, from the fork to the first answers.
	readyTimeout = time.Minute
	// stopTimeout is what bchd gets to write its caches after SIGTERM.
	stopTimeout = 30 * time.Second
	// startAttempts: a port that was free when it was picked may be taken when
	// bchd binds it.
	startAttempts = 4
)

// Options say how Start runs bchd. The zero value is a node with all indexes.
type Options struct {
	// Binary is the path of a bchd. Empty: the go command builds the version
	// that go.mod pins, once per machine, about a minute. That needs a working
	// directory inside the keytree module.
	Binary string
	// Dir is where the node's folder is made; empty is the system's folder for
	// temporary files.
	Dir string
	// Keep leaves the folder in place at Stop.
	Keep bool
	// Blocks are mined before Start returns. With B ≥ 100 the coinbases of the
	// first B-99 of them are mature, and Fund can spend them.
	Blocks uint32
	// NoTxIndex starts bchd without --txindex and, which would imply it, without
	// --addrindex. NoAddrIndex leaves out the latter alone.
	NoTxIndex, NoAddrIndex bool
	// AuthToken, if not empty, is what gRPC clients have to send.
	AuthToken string
	// Args are further arguments for bchd.
	Args []string
	// Progress, if not nil, hears what takes long, one line a call, from any
	// goroutine.
	Progress func(string)
}

// Node is one running bchd with its own data. Its methods may be called
// concurrently, except that Halt, Resume, Restart and Stop must not overlap with
// others. Addresses, credentials and data survive Halt and Resume.
type Node struct {
	opts        Options
	binary      string
	dir         string
	p2pAddress  string
	rpcAddress  string
	grpcAddress string
	password    string
	roots       *x509.CertPool
	faucet      *Key

	// Set by Start and Resume, nil while halted.
	process *process
	http    *http.Client
	conn    *grpc.ClientConn
	grpc    pb.BchrpcClient

	mu           sync.Mutex               // guards what follows
	headers      map[chainhash.Hash]block // see chain.go
	coins        []Coin                   // the faucet's unspent change, oldest first
	nextCoinbase uint32                   // lowest height whose coinbase Fund has not taken
}

// Start runs a new bchd and returns when it answers. The context bounds the
// start alone: end the node with Stop, also when the context has ended.
func Start(ctx context.Context, opts Options) (*Node, error) {
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	binary, err := findBinary(ctx, opts.Binary, opts.Progress)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opts.Dir, "keytree-bchd-")
	if err != nil {
		return nil, fmt.Errorf("folder for bchd: %w", err)
	}
	n := &Node{
		opts: opts, binary: binary, dir: dir, password: rand.Text(), faucet: NewKey(),
		headers: make(map[chainhash.Hash]block), nextCoinbase: 1,
	}
	if err := n.firstStart(ctx); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

func (n *Node) firstStart(ctx context.Context) error {
	if err := n.writeFiles(); err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		if err := n.pickPorts(); err != nil {
			return err
		}
		err := n.Resume(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil || attempt == startAttempts {
			return err
		}
		if err := os.RemoveAll(n.path("data")); err != nil {
			return fmt.Errorf("bchd's data: %w", err)
		}
	}
	if n.opts.Blocks > 0 {
		if _, err := n.Mine(ctx, n.opts.Blocks); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *Node) writeFiles() error {
	cert, key, err := bchutil.NewTLSCertPair("keytree regtest", time.Now().AddDate(1, 0, 0), nil)
	if err != nil {
		return fmt.Errorf("certificate for bchd: %w", err)
	}
	n.roots = x509.NewCertPool()
	if !n.roots.AppendCertsFromPEM(cert) {
		return errors.New("certificate for bchd: cannot be read back")
	}
	files := map[string][]byte{
		"cert.pem": cert,
		"key.pem":  key,
		// bchd writes a sample where its config file is missing.
		"bchd.conf": nil,
	}
	if n.opts.AuthToken != "" {
		files["token"] = []byte(n.opts.AuthToken + "\n")
	}
	for name, content := range files {
		if err := os.WriteFile(n.path(name), content, 0o600); err != nil {
			return fmt.Errorf("bchd's files: %w", err)
		}
	}
	return nil
}

// pickPorts lets the system choose three free ports, all held until the last
// one is chosen so that they differ.
func (n *Node) pickPorts() error {
	for _, address := range []*string{&n.p2pAddress, &n.rpcAddress, &n.grpcAddress} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("port for bchd: %w", err)
		}
		defer l.Close()
		*address = l.Addr().String()
	}
	return nil
}

func (n *Node) args() []string {
	args := []string{
		"--configfile=" + n.path("bchd.conf"),
		"--regtest", "--regtestnoreset",
		"--datadir=" + n.path("data"), "--logdir=" + n.path("logs"), "--debuglevel=warn",
		"--listen=" + n.p2pAddress, "--nodnsseed", "--nobanning",
		"--rpcuser=" + rpcUser, "--rpcpass=" + n.password,
		"--rpclisten=" + n.rpcAddress, "--rpcmaxclients=100",
		"--rpccert=" + n.path("cert.pem"), "--rpckey=" + n.path("key.pem"),
		"--grpclisten=" + n.grpcAddress,
		"--miningaddr=" + n.faucet.Address(),
	}
	if !n.opts.NoTxIndex {
		args = append(args, "--txindex")
		if !n.opts.NoAddrIndex {
			args = append(args, "--addrindex")
		}
	}
	if n.opts.AuthToken != "" {
		args = append(args, "--grpcauthtoken="+n.opts.AuthToken)
	}
	return append(args, n.opts.Args...)
}

// Resume starts a halted node again, on the same data and addresses, and
// returns when JSON-RPC and gRPC answer.
func (n *Node) Resume(ctx context.Context) error {
	if n.process != nil {
		return errors.New("bchd is running already")
	}
	p, err := startProcess(ctx, n.binary, n.args(), n.path("output.log"))
	if err != nil {
		return err
	}
	tlsConfig := &tls.Config{RootCAs: n.roots, MinVersion: tls.VersionTLS12}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
	}
	if n.opts.AuthToken != "" {
		options = append(options, grpc.WithPerRPCCredentials(authToken(n.opts.AuthToken)))
	}
	conn, err := grpc.NewClient(n.grpcAddress, options...)
	if err != nil {
		return errors.Join(fmt.Errorf("bchd gRPC: %w", err), p.stop())
	}
	n.process, n.conn, n.grpc = p, conn, pb.NewBchrpcClient(conn)
	n.http = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	if err := n.waitReady(ctx); err != nil {
		return errors.Join(err, n.Halt())
	}
	return nil
}

// waitReady returns when both interfaces have answered with this node's
// certificate and credentials.
func (n *Node) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %v", readyTimeout))
	defer cancel()
	for {
		err := n.Call(ctx, nil, "getblockcount")
		if err == nil {
			_, err = n.grpc.GetBlockchainInfo(ctx, &pb.GetBlockchainInfoRequest{})
		}
		if err == nil {
			return nil
		}
		if unknown := new(x509.UnknownAuthorityError); errors.As(err, unknown) {
			return fmt.Errorf("bchd did not start: another program answers at its port: %w", err)
		}
		select {
		case <-n.process.exited:
			return fmt.Errorf("bchd did not start: %v; its output:\n%s", n.process.err, n.process.output())
		case <-ctx.Done():
			return fmt.Errorf("bchd did not start: %w; last: %w; its output:\n%s", context.Cause(ctx), err, n.process.output())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Halt ends the process and keeps the data, so that Resume can go on. It first
// asks with SIGTERM, so what was acknowledged is on disk.
func (n *Node) Halt() error {
	if n.process == nil {
		return nil
	}
	err := errors.Join(n.conn.Close(), n.process.stop())
	n.http.CloseIdleConnections()
	n.process, n.conn, n.grpc, n.http = nil, nil, nil, nil
	return err
}

// Renew gives a halted node another certificate and, if it has one, another auth
// token, in the same files.
func (n *Node) Renew() error {
	if n.process != nil {
		return errors.New("bchd is running")
	}
	if n.opts.AuthToken != "" {
		n.opts.AuthToken = rand.Text()
	}
	return n.writeFiles()
}

// Restart is Halt and Resume.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Halt(); err != nil {
		return err
	}
	return n.Resume(ctx)
}

// Stop ends the process and removes its folder, unless Options.Keep. Further
// calls do nothing.
func (n *Node) Stop() error {
	err := n.Halt()
	if !n.opts.Keep {
		err = errors.Join(err, os.RemoveAll(n.dir))
	}
	return err
}

// Dir returns the node's folder, with its data, certificate and output.
func (n *Node) Dir() string { return n.dir }

// GRPCAddress returns HOST:PORT of the gRPC interface, which speaks TLS with the
// certificate in CertFile.
func (n *Node) GRPCAddress() string { return n.grpcAddress }

// RPCAddress returns HOST:PORT of the JSON-RPC interface, which speaks TLS with
// the same certificate. Use Call.
func (n *Node) RPCAddress() string { return n.rpcAddress }

// P2PAddress returns HOST:PORT of the peer-to-peer interface.
func (n *Node) P2PAddress() string { return n.p2pAddress }

// CertFile returns the path of the node's self-signed certificate (PEM).
func (n *Node) CertFile() string { return n.path("cert.pem") }

// TokenFile returns the path of the file that holds the gRPC auth token, or ""
// if there is none.
func (n *Node) TokenFile() string {
	if n.opts.AuthToken == "" {
		return ""
	}
	return n.path("token")
}

// URL returns the node as keytree's --node flag takes it.
func (n *Node) URL() string {
	query := url.Values{"cert": {n.CertFile()}}
	if token := n.TokenFile(); token != "" {
		query.Set("token_file", token)
	}
	u := url.URL{Scheme: "bchd", Host: n.grpcAddress, RawQuery: query.Encode()}
	return u.String()
}

// RPCURL returns the node's JSON-RPC interface as keytree's --node flag takes
// it. The password in it is worth nothing.
func (n *Node) RPCURL() string {
	u := url.URL{
		Scheme: "https", User: url.UserPassword(rpcUser, n.password), Host: n.rpcAddress,
		RawQuery: url.Values{"cert": {n.CertFile()}}.Encode(),
	}
	return u.String()
}

// authToken is sent with every call, as bchd's grpcserver.go expects it.
type authToken string

func (t authToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authenticationtoken": string(t)}, nil
}

func (authToken) RequireTransportSecurity() bool { return true }

// process is one run of bchd.
type process struct {
	cmd     *exec.Cmd
	logFile string
	exited  chan struct{} // closed when the process has ended
	err     error         // how it ended; read after exited is closed
}

func startProcess(ctx context.Context, binary string, args []string, logFile string) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("bchd's output: %w", err)
	}
	defer out.Close()
	for {
		p := &process{cmd: exec.Command(binary, args...), logFile: logFile, exited: make(chan struct{})}
		p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = out, out, childAttr()
		started := make(chan error)
		go p.run(started)
		err := <-started
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, syscall.ETXTBSY) {
			return nil, fmt.Errorf("bchd: %w", err)
		}
		// Another go command is just writing the same executable.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("bchd: %w: %w", err, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// run starts the process and waits for its end, all on one thread: the kernel
// sends the parent-death signal when the thread that forked ends, so that thread
// has to last as long as the child.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

func (p *process) stop() error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-p.exited:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing bchd: %w", err)
	}
	<-p.exited
	return nil
}

// output returns the end of what the process has written.
func (p *process) output() string {
	content, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	const most = 4000
	return strings.TrimSpace(string(content[max(0, len(content)-most):]))
}
