// Package identity answers what the graph knows, for apps: who is behind an address, what an
// identity is made of, what happened block by block, and how keyservers have anchored their
// histories. It has keytree.v1.IdentityService and keytree.v1.AnchorService over gRPC, and
// the same over REST.
//
// It translates and limits: requests into questions to the graph, answers and errors into
// wire form. What never belongs here: an identity rule, a decision about a block, storage, a
// listener, anything of a keyserver.
//
// # What a call may cost
//
// Each call is bounded, whatever the graph holds and as of whatever block: by less than 100 ms of
// processor time, but for what is named here. Pages hold 1,000 entries at most; more than 10 count as another call for
// every 50 (unitEntries). What a record is, and what
// bounds the questions of links, is said in package links.
//
//	GetStatus            constant
//	ResolveAddress       links.MaxWork, else FAILED_PRECONDITION; as of the tip logarithmic
//	BatchResolve         what ResolveAddress takes, for each of up to 10,000 addresses; they share their ways. More than
//	                     20 count as more calls (unitBatch), and so does what is above them and has changed: 500 steps, 50
//	                     keys of their ways, or 20 transactions because of which they would differ. When the client may ask
//	                     for no more, it waits within the answer (effort.go)
//	ResolveChanged       the same, twice, for those on whose way to the root something has changed; for the others what it
//	                     takes to find that out, and a record for each root
//	GetIdentity          35 records
//	ListIdentityKeys     twice links.MaxWork: to find where to go on, and for the page
//	ListIdentityChanges  a page of a record each; an overview of a record for each part, and 35
//	GetAction            14 records and the message
//	ListAddressActions   a page of up to 14 records each, or 512 kB of messages; 4,096 late mentions passed over
//	ListAddressRequests  a page of up to 15 records each, or 512 kB of messages; 4,096 actions passed over, two records each
//	ListAddressLinks     a page of a record each
//	ListMempool          a page of 14 records each, or 512 kB of messages; it passes over 100,000 other transactions, 10 ns each
//	ListEvents           a page of 7 records for each event; for every 100 of them two records for each bit of how many events their
//	                     block has
//	GET /v1/export       the same for each event of up to 100,000 blocks, 500 of them at a time; 50 events, or blocks without, count as
//	                     another call. When the client may ask for no more, it ends with a line, and waits within one
//	Watch                the same for every message, of 20 events, in turns with other calls. Up to the block that was the tip when it began,
//	                     50 events, or blocks without, or 20 answers that are compared, or 500 steps of these, count as another call: it
//	                     goes on when the client may ask for more
//	ListAnchorChains     a page of 6 records each
//	GetAnchorChain       5 records
//	ListAnchors          a page of 3 records each
//	GetAnchor            10 records, 32 merkle nodes, and the transaction
//	ProveAddress         what the graph's ProveState takes: 10,000 records, and for an older block its map, which it makes anew out of no more
//	                     keys than the operator has said; ten records, and 25 of that map, count as another call. With
//	                     transactions up to 2,000 blocks of the node's, each of which counts as 100 calls (provetxs.go)
//	ProveAddresses       the same for up to 1,000 addresses. Two count as another call (unitProven)
//	ProveIdentity        the same, without transactions
//	GetProofBundle       what GetAnchor takes for each anchor. Ten count as another call (unitAnchors)
//
// With unconfirmed, a call asks twice: of the tip, and of what is pending. Where the two differ it names 100
// transactions at most as the reason. To find them takes twice links.MaxWork at most for a key and 28 records for
// each of 200 links, 56 for each of 100 links of an identity and 35 for what it merged into, and 42 for an action. The first page of
// ListAddressRequests and ListAddressLinks looks at 1,000 pending actions, 34 records each, and a page of these or of
// ListAddressActions has 400 entries. A BatchResolve counts twice, and every 100 entries of a page of ListAddressActions, or of such a first one, as another call (unitUnconfirmed).
package identity

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/mempool"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
)

// Indexer is what the server asks of the indexer: how the graph stands beside
// the node. It is called concurrently and must not block.
type Indexer interface {
	Status() indexer.Status
	// Mempool is how what the graph supposes of the next block stands beside the node's mempool.
	Mempool() mempool.Status
}

// Config is what the services work with. All of it stays the caller's.
type Config struct {
	Graph   *graph.Graph // nil for none: then nobody may call
	Indexer Indexer
	Net     *chaincfg.Params // the graph's network
	// StateLog publishes the graph's states: to it proofs lead; nil: none is published.
	StateLog StateLog
	// Blocks are read again for proofs that have transactions; nil: nobody has any.
	Blocks Blocks
	Log    zerolog.Logger
	// Heartbeat is how often a follower is told what it has, for want of other news; 0 is DefaultHeartbeat.
	Heartbeat time.Duration
}

// DefaultHeartbeat is how often a follower is told what it has, for want of other news.
const DefaultHeartbeat = 15 * time.Second

// Services are the two services, over gRPC and REST. They may be used concurrently, and
// keep nothing between calls.
type Services struct {
	reader     graphReader
	identities *identityService
	anchors    *anchorService
	streams    *push.Handler
}

// New returns the services of a graph.
func New(c Config) *Services {
	reader := graphReader{graph: c.Graph, indexer: c.Indexer, net: c.Net, states: c.StateLog, blocks: c.Blocks, log: c.Log}
	identities := &identityService{
		graphReader: reader, pool: push.NewMempool(c.Graph), readers: make(chan struct{}, readersAtOnce), heartbeat: cmp.Or(c.Heartbeat, DefaultHeartbeat),
	}
	return &Services{reader, identities, &anchorService{graphReader: reader}, push.NewHandler(identities)}
}

// Register adds the services to a gRPC server.
func (s *Services) Register(server *grpc.Server) {
	keytreev1.RegisterIdentityServiceServer(server, s.identities)
	keytreev1.RegisterAnchorServiceServer(server, s.anchors)
}

// Identities returns IdentityService, for pages of the same server.
func (s *Services) Identities() keytreev1.IdentityServiceServer { return s.identities }

// Anchors returns AnchorService, for the same.
func (s *Services) Anchors() keytreev1.AnchorServiceServer { return s.anchors }

// RegisterREST adds the services to REST.
func (s *Services) RegisterREST(mux *runtime.ServeMux) error {
	return errors.Join(
		keytreev1.RegisterIdentityServiceHandlerServer(context.Background(), mux, s.identities),
		keytreev1.RegisterAnchorServiceHandlerServer(context.Background(), mux, s.anchors),
		s.streams.Register(mux),
		mux.HandlePath(http.MethodGet, bundlePath, s.anchors.download),
		mux.HandlePath(http.MethodGet, exportPath, s.identities.export),
		s.identities.handleDirectly(mux),
	)
}

// Cached tells caches what to make of the answers of next, which has all of REST: of the
// graph's they keep what stays true. version is the server's: another one may answer in
// another form.
func (s *Services) Cached(version string, next http.Handler) http.Handler {
	return &cached{graphReader: s.reader, version: version, next: next}
}
