package bchd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// liar stands for a node that answers with what it should not: no real one
// can be made to. It tells the truth about its network, as far as the fields
// say so.
type liar struct {
	pb.UnimplementedBchrpcServer
	info    *pb.GetBlockchainInfoResponse
	genesis *pb.BlockInfo
	block   *pb.BlockInfo // for every other height
	raw     []byte        // of every block and transaction
	unspent *pb.UnspentOutput
	submit  func() (*pb.SubmitTransactionResponse, error)
}

func (l *liar) GetBlockchainInfo(context.Context, *pb.GetBlockchainInfoRequest) (*pb.GetBlockchainInfoResponse, error) {
	return l.info, nil
}

func (l *liar) GetBlockInfo(_ context.Context, q *pb.GetBlockInfoRequest) (*pb.GetBlockInfoResponse, error) {
	if q.GetHeight() == 0 {
		return &pb.GetBlockInfoResponse{Info: l.genesis}, nil
	}
	return &pb.GetBlockInfoResponse{Info: l.block}, nil
}

func (l *liar) GetRawBlock(context.Context, *pb.GetRawBlockRequest) (*pb.GetRawBlockResponse, error) {
	return &pb.GetRawBlockResponse{Block: l.raw}, nil
}

func (l *liar) GetRawTransaction(context.Context, *pb.GetRawTransactionRequest) (*pb.GetRawTransactionResponse, error) {
	return &pb.GetRawTransactionResponse{Transaction: l.raw}, nil
}

func (l *liar) GetAddressUnspentOutputs(context.Context, *pb.GetAddressUnspentOutputsRequest) (*pb.GetAddressUnspentOutputsResponse, error) {
	return &pb.GetAddressUnspentOutputsResponse{Outputs: []*pb.UnspentOutput{l.unspent}}, nil
}

func (l *liar) SubmitTransaction(context.Context, *pb.SubmitTransactionRequest) (*pb.SubmitTransactionResponse, error) {
	return l.submit()
}

// SubscribeBlocks says nothing until the client leaves.
func (l *liar) SubscribeBlocks(_ *pb.SubscribeBlocksRequest, stream pb.Bchrpc_SubscribeBlocksServer) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

// honest returns a liar that does not lie yet.
func honest() *liar {
	genesis := regtest.Params.GenesisBlock.Header
	hash := genesis.BlockHash()
	return &liar{
		info: &pb.GetBlockchainInfoResponse{
			BitcoinNet: pb.GetBlockchainInfoResponse_REGTEST, TxIndex: true, BestBlockHash: hash[:],
		},
		genesis: &pb.BlockInfo{
			Hash: hash[:], Version: genesis.Version, PreviousBlock: genesis.PrevBlock[:], MerkleRoot: genesis.MerkleRoot[:],
			Timestamp: genesis.Timestamp.Unix(), Bits: genesis.Bits, Nonce: genesis.Nonce,
		},
	}
}

// serve runs the liar, or with nil a server without services, until the test
// ends.
func serve(t *testing.T, l pb.BchrpcServer) bchd.Config {
	t.Helper()
	cert, key, err := bchutil.NewTLSCertPair("liar", time.Now().AddDate(1, 0, 0), nil)
	check(t, err)
	file := filepath.Join(t.TempDir(), "cert.pem")
	check(t, os.WriteFile(file, cert, 0o600))
	pair := must[tls.Certificate](t)(tls.X509KeyPair(cert, key))
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	if l != nil {
		pb.RegisterBchrpcServer(server, l)
	}
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		check(t, <-served)
	})
	return bchd.Config{Address: listener.Addr().String(), CertFile: file, Network: regtest.Params}
}

func TestLies(t *testing.T) {
	genesis := *regtest.Params.GenesisHash
	raw := serialized(t, regtest.Params.GenesisBlock)
	tx := regtest.Params.GenesisBlock.Transactions[0]
	rawTx := serialized(t, tx)
	address := must[*bchutil.AddressPubKeyHash](t)(bchutil.NewAddressPubKeyHash(make([]byte, 20), regtest.Params))

	block := func(change func(*pb.BlockInfo)) *pb.BlockInfo {
		info := honest().genesis
		info.Height = 1
		change(info)
		return info
	}
	getBlock := func(ctx context.Context, c *bchd.Client) error { _, err := c.Block(ctx, genesis); return err }
	getHash := func(ctx context.Context, c *bchd.Client) error { _, err := c.BlockHash(ctx, 1); return err }
	getTx := func(ctx context.Context, c *bchd.Client) error { _, err := c.Transaction(ctx, tx.TxHash()); return err }
	getScript := func(ctx context.Context, c *bchd.Client) error {
		_, err := spentScript(ctx, c, genesis, genesis, wire.OutPoint{Hash: tx.TxHash()})
		return err
	}
	getTip := func(ctx context.Context, c *bchd.Client) error { _, err := c.Tip(ctx); return err }
	getUnspent := func(ctx context.Context, c *bchd.Client) error { _, err := c.UnspentOutputs(ctx, address); return err }
	submit := func(ctx context.Context, c *bchd.Client) error { _, err := c.Submit(ctx, rawTx); return err }

	for name, test := range map[string]struct {
		lie  func(*liar)
		call func(context.Context, *bchd.Client) error
		want error // nil: not a lie, the call has to work
	}{
		"true block":          {func(l *liar) { l.raw = raw }, getBlock, nil},
		"other block":         {func(l *liar) { l.raw = append([]byte{9}, raw[1:]...) }, getBlock, node.ErrInvalid},
		"block cut short":     {func(l *liar) { l.raw = raw[:79] }, getBlock, node.ErrInvalid},
		"no block":            {func(*liar) {}, getBlock, node.ErrInvalid},
		"true header":         {func(l *liar) { l.block = block(func(*pb.BlockInfo) {}) }, getHash, nil},
		"other height":        {func(l *liar) { l.block = block(func(b *pb.BlockInfo) { b.Height = 2 }) }, getHash, node.ErrInvalid},
		"other hash":          {func(l *liar) { l.block = block(func(b *pb.BlockInfo) { b.Hash = make([]byte, 32) }) }, getHash, node.ErrInvalid},
		"other nonce":         {func(l *liar) { l.block = block(func(b *pb.BlockInfo) { b.Nonce++ }) }, getHash, node.ErrInvalid},
		"short previous hash": {func(l *liar) { l.block = block(func(b *pb.BlockInfo) { b.PreviousBlock = nil }) }, getHash, node.ErrInvalid},
		"short merkle root":   {func(l *liar) { l.block = block(func(b *pb.BlockInfo) { b.MerkleRoot = make([]byte, 31) }) }, getHash, node.ErrInvalid},
		"no header":           {func(*liar) {}, getHash, node.ErrInvalid},
		"true transaction":    {func(l *liar) { l.raw = rawTx }, getTx, nil},
		"other transaction":   {func(l *liar) { l.raw = append(bytes.Clone(rawTx), 0) }, getTx, node.ErrInvalid},
		"no transaction":      {func(*liar) {}, getTx, node.ErrInvalid},
		"true script":         {func(l *liar) { l.raw = rawTx }, getScript, nil},
		"other script":        {func(l *liar) { l.raw = append([]byte{9}, rawTx[1:]...) }, getScript, node.ErrInvalid},
		"short tip hash":      {func(l *liar) { l.info.BestBlockHash = []byte{1} }, getTip, node.ErrInvalid},
		"negative tip":        {func(l *liar) { l.info.BestHeight = -1 }, getTip, node.ErrInvalid},
		"output of nothing":   {func(l *liar) { l.unspent = &pb.UnspentOutput{Value: 1} }, getUnspent, node.ErrInvalid},
		"negative value": {func(l *liar) {
			l.unspent = &pb.UnspentOutput{Value: -1, Outpoint: &pb.Transaction_Input_Outpoint{Hash: genesis[:]}}
		}, getUnspent, node.ErrInvalid},
		"took another transaction": {func(l *liar) {
			l.submit = func() (*pb.SubmitTransactionResponse, error) {
				return &pb.SubmitTransactionResponse{Hash: genesis[:]}, nil
			}
		}, submit, node.ErrInvalid},
		"rejects what it does not have": {func(l *liar) {
			l.submit = func() (*pb.SubmitTransactionResponse, error) {
				return nil, status.Error(codes.InvalidArgument, "tx rejected: already have transaction")
			}
		}, submit, node.ErrRejected},
	} {
		t.Run(name, func(t *testing.T) {
			l := honest()
			test.lie(l)
			err := test.call(t.Context(), dial(t, serve(t, l)))
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestDialRefusesAnotherChain(t *testing.T) {
	for name, test := range map[string]struct {
		lie  func(*liar)
		want error
	}{
		"another genesis block": {func(l *liar) {
			l.genesis.Nonce++
			header := regtest.Params.GenesisBlock.Header
			header.Nonce++
			hash := header.BlockHash()
			l.genesis.Hash = hash[:]
		}, node.ErrUnsuitable},
		"genesis header with another hash": {func(l *liar) { l.genesis.Hash = chainhash.DoubleHashB(nil) }, node.ErrInvalid},
		"unknown network":                  {func(l *liar) { l.info.BitcoinNet = 99 }, node.ErrUnsuitable},
		"same genesis, other network":      {func(l *liar) { l.info.BitcoinNet = pb.GetBlockchainInfoResponse_SIMNET }, node.ErrUnsuitable},
	} {
		t.Run(name, func(t *testing.T) {
			l := honest()
			test.lie(l)
			_, err := bchd.Dial(t.Context(), serve(t, l))
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// Another program's gRPC server is refused, not waited for.
func TestDialRefusesAnotherService(t *testing.T) {
	cfg := serve(t, nil)
	_, err := bchd.Dial(t.Context(), cfg)
	wantError(t, err, node.ErrUnsuitable, "--grpclisten")
}

// changing is a node that may be another one each time.
type changing struct {
	*liar
	info atomic.Pointer[pb.GetBlockchainInfoResponse]
}

func (c *changing) GetBlockchainInfo(context.Context, *pb.GetBlockchainInfoRequest) (*pb.GetBlockchainInfoResponse, error) {
	return c.info.Load(), nil
}

// TestNodeChanges starts another node in the place of the one that was suitable.
func TestNodeChanges(t *testing.T) {
	n := &changing{liar: honest()}
	n.info.Store(n.liar.info)
	c := dial(t, serve(t, n))
	for _, test := range []struct {
		change func(*pb.GetBlockchainInfoResponse)
		says   string
	}{
		{func(i *pb.GetBlockchainInfoResponse) { i.TxIndex = false }, "--txindex"},
		{func(i *pb.GetBlockchainInfoResponse) { i.BitcoinNet = pb.GetBlockchainInfoResponse_MAINNET }, "it is on network mainnet, expected regtest"},
	} {
		other := honest().info
		test.change(other)
		n.info.Store(other)
		_, err := c.Tip(t.Context())
		wantError(t, err, node.ErrUnsuitable, test.says)
		n.info.Store(honest().info)
		must[node.Tip](t)(c.Tip(t.Context()))
	}
}
