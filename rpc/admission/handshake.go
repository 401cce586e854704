package admission

import "crypto/tls"

// connectWork is how many calls a connection counts as, whatever comes of it: it is let in, has its buffers, and
// is closed again. Who has used up his budget is closed before that if the server is busy.
const connectWork = 2

// handshakeWork is how many calls a TLS handshake counts as: a signature and a key agreement take about
// as long, and the first bytes of a client, which may send the same to anybody, are enough to have them made.
const handshakeWork = 10

// Handshakes returns a configuration by which a server on a listener of Listen has clients pay for handshakes out of their budget
// of work, as for calls, before anything is computed for them. Who has used it up is not answered. It returns nil
// for nil.
func (g *Gate) Handshakes(config *tls.Config) *tls.Config {
	if config == nil {
		return nil
	}
	paid := config.Clone()
	choose := config.GetConfigForClient
	paid.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if at, ok := hello.Conn.RemoteAddr().(remote); ok && at.conn.client.Single() { // a proxy stands for many
			if refusal := g.work.take(at.conn.client, handshakeWork); refusal != nil {
				return nil, refusal
			}
		}
		if choose == nil {
			return nil, nil // the one that this is of
		}
		return choose(hello)
	}
	return paid
}
