package admission

import (
	"context"
	"math/bits"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec below needs it
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
)

// ServerOptions are those of a gRPC server that gets its connections from Listen, over wire. kinds
// tells what a call is, by its full method name; it is called concurrently.
func (g *Gate) ServerOptions(wire credentials.TransportCredentials, kinds func(method string) Kind) []grpc.ServerOption {
	s := &grpcGate{g, kinds}
	return []grpc.ServerOption{
		grpc.Creds(framedWire{wire}),
		grpc.InTapHandle(s.tap),
		grpc.StatsHandler(s),
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto"), g.buffers}),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.MaxConcurrentStreams(uint32(min(100, g.limits.Requests.One))),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.StaticStreamWindowSize(window), // else they grow to megabytes
		grpc.StaticConnWindowSize(4 * window),
		grpc.ReadBufferSize(readBuffer),
		grpc.WriteBufferSize(writeBuffer),
		grpc.ConnectionTimeout(g.limits.Arrive),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: mostIdle - 10*time.Second, Time: time.Minute, Timeout: 20 * time.Second}), // of which it tells
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// grpcGate stands before a gRPC server.
type grpcGate struct {
	*Gate
	kinds func(string) Kind
}

// tap lets a call in when its header is there.
func (s *grpcGate) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	kind := s.kinds(info.FullMethodName)
	from, ok := peer.FromContext(ctx)
	if kind == Unknown || !ok {
		return ctx, nil
	}
	at, ok := from.Addr.(remote)
	if !ok {
		return ctx, nil
	}
	client := s.asking(at.conn.address, info.Header.Get("x-forwarded-for"), info.Header.Get("forwarded"))
	c, refusal := s.let(at.conn, client, kind)
	if refusal != nil {
		at.conn.refuse(ctx)
		return nil, refusal
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, callKey{}, c))
	at.conn.arrive()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
	c.arrival = time.AfterFunc(s.limits.Arrive, func() {
		cancel(context.DeadlineExceeded)
		if !c.begun.Load() {
			c.end(false)
		}
	})
	return ctx, nil
}

// TagRPC implements stats.Handler. gRPC may drop a call that was let in: if its time is up
// already. From here on, it tells of its end.
func (s *grpcGate) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if c := callOf(ctx); c != nil {
		c.begun.Store(true)
	}
	return ctx
}

// HandleRPC implements stats.Handler.
func (s *grpcGate) HandleRPC(ctx context.Context, event stats.RPCStats) {
	c := callOf(ctx)
	if c == nil {
		return
	}
	switch event := event.(type) {
	case *stats.InPayload:
		c.messageArrived(event.WireLength)
	case *stats.End:
		c.end(status.Code(event.Error) == codes.Canceled)
	}
}

// TagConn implements stats.Handler.
func (s *grpcGate) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (s *grpcGate) HandleConn(context.Context, stats.ConnStats) {}

// messageArrived counts a message as the call's, and no longer as on its way.
func (c *call) messageArrived(n int) {
	c.mu.Lock()
	first := c.arrival != nil && !c.ended
	if first {
		c.arrival.Stop()
		c.arrival = nil
		if c.kind == Request {
			c.place.keep()
		}
	}
	if more := max(0, c.in+n-bodySmall) - c.counted; !c.ended && more > 0 {
		c.gate.in.force(c.client, more)
		c.counted += more
	}
	c.in += n
	c.mu.Unlock()
	if first && c.conn != nil {
		c.conn.arrived(n)
	}
}

// unary counts the answer to a call until it is taken.
func (s *grpcGate) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := callOf(ctx)
	if c == nil {
		return handler(ctx, request)
	}
	defer c.finish()
	if err := c.compute(ctx); err != nil {
		return nil, withoutTurn(ctx, err)
	}
	answer, err := handler(ctx, request)
	if err != nil || c.conn == nil {
		return answer, err
	}
	return c.send(answer, streamCost)
}

// stream counts each message of a stream until it is taken.
func (s *grpcGate) stream(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := callOf(stream.Context())
	if c == nil {
		return handler(service, stream)
	}
	defer c.finish()
	if c.conn != nil {
		stream = &countedStream{ServerStream: stream, call: c}
	}
	return handler(service, stream)
}

type countedStream struct {
	grpc.ServerStream
	call  *call
	asked bool // the first message has come; owned by the goroutine that receives
}

// RecvMsg implements grpc.ServerStream. Each message after the first asks for something else, as reflection has it: it counts
// as another call.
func (s *countedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if s.asked {
		if refusal := s.call.gate.work.take(s.call.client, 1); refusal != nil {
			return refusal
		}
	}
	s.asked = true
	return nil
}

// SendMsg implements grpc.ServerStream.
func (s *countedStream) SendMsg(m any) error {
	out, err := s.call.send(m, messageCost)
	if err != nil {
		return err
	}
	s.call.pause()
	defer s.call.proceed()
	return s.ServerStream.SendMsg(out)
}

// outgoing is a message that is counted as held from before it is encoded until gRPC has
// let go of what it is encoded in: it was written, or never will be.
type outgoing struct {
	message proto.Message // nil once it is encoded: gRPC holds on to an outgoing until it is sent
	size    int
	held    *message
}

// send counts a message of gRPC's that is about to be sent, and what it costs besides, or
// refuses it.
func (c *call) send(m any, cost int) (any, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return m, nil
	}
	size := proto.Size(p)
	held, refusal := c.conn.owe(bufferFor(size) + cost)
	if refusal != nil {
		return nil, refusal
	}
	return &outgoing{p, size, held}, nil
}

const (
	// streamCost is about how many bytes gRPC keeps of a stream while an answer waits in it.
	streamCost = 4 << 10
	// messageCost is the same of a message, where streams are counted for themselves.
	messageCost = 512
	// readBuffer is how many bytes gRPC reads from a connection at once, for which each has
	// a buffer all the time.
	readBuffer = 4 << 10
	// writeBuffer is how many bytes gRPC sends at once, for which a connection has a buffer
	// while it sends.
	writeBuffer = 16 << 10
)

// The sizes of buffers for messages are the powers of two from 2 kB, below which gRPC gives
// none back when it was sent, to 1 MB. A larger message has a buffer of whole pages.
const (
	leastBuffer = 1 << 11
	mostBuffer  = 1 << 20
	page        = 4 << 10
)

// newBuffers returns a pool of them. gRPC's own pool has few sizes: a message may take sixteen
// times as many bytes as it needs there, and none of them is counted.
func newBuffers() mem.BufferPool {
	var exponents []uint8
	for size := leastBuffer; size <= mostBuffer; size *= 2 {
		exponents = append(exponents, uint8(bits.Len(uint(size))-1))
	}
	pool, err := mem.NewBinaryTieredBufferPool(exponents...)
	if err != nil { // only for sizes that no memory has
		panic(err)
	}
	return pool
}

// bufferFor is the size of the buffer for a message.
func bufferFor(size int) int {
	switch {
	case size <= leastBuffer:
		return leastBuffer
	case size > mostBuffer:
		return (size + page - 1) / page * page
	}
	return 1 << bits.Len(uint(size-1))
}

// codec encodes outgoing messages so that it is known when they have been sent.
type codec struct {
	encoding.CodecV2
	buffers mem.BufferPool
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	out, ok := v.(*outgoing)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	buffer := c.buffers.Get(max(out.size, leastBuffer))
	text, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], out.message)
	out.message = nil
	if err != nil {
		out.held.taken()
		return nil, err
	}
	*buffer = text
	return mem.BufferSlice{mem.NewBuffer(buffer, out.held)}, nil
}

// Get implements mem.BufferPool.
func (m *message) Get(n int) *[]byte { return m.conn.gate.buffers.Get(n) }

// Put implements mem.BufferPool: gRPC has let go of the message.
func (m *message) Put(b *[]byte) {
	m.taken()
	m.conn.gate.buffers.Put(b)
}
