package postgrestest

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// Link is a way to a cluster that can be cut: what is on it then stays there, and no end hears of it.
type Link struct {
	of     *Cluster
	dir    string
	listen net.Listener

	mu    sync.Mutex
	flows *sync.Cond
	cut   bool       // mu
	ended bool       // mu
	conns []net.Conn // mu; both ends of each connection
}

// Link makes a way to the cluster, until the test ends.
func (c *Cluster) Link(t testing.TB) *Link {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(c.dir), "pg-")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{of: c, dir: dir}
	l.flows = sync.NewCond(&l.mu)
	if l.listen, err = net.Listen("unix", l.socket(dir)); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			from, err := l.listen.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { l.serve(from) })
		}
	})
	t.Cleanup(func() {
		l.mu.Lock()
		l.ended = true
		l.flows.Broadcast()
		for _, conn := range l.conns {
			conn.Close()
		}
		l.mu.Unlock()
		err := errors.Join(l.listen.Close(), os.RemoveAll(dir))
		serving.Wait()
		if err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *Link) socket(dir string) string {
	return filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(port))
}

// URL is that of the cluster, over the link.
func (l *Link) URL(database string, more url.Values) string {
	return (&Cluster{dir: l.dir}).URL(database, more)
}

// Cut cuts the link, or mends it: what was on it arrives then.
func (l *Link) Cut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	l.flows.Broadcast()
}

// open waits while the link is cut. It returns false when the link has ended.
func (l *Link) open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.cut && !l.ended {
		l.flows.Wait()
	}
	return !l.ended
}

// keep has a connection closed with the link. It returns false when that has ended.
func (l *Link) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		conn.Close()
		return false
	}
	l.conns = append(l.conns, conn)
	return true
}

func (l *Link) serve(from net.Conn) {
	if !l.keep(from) || !l.open() {
		return
	}
	to, err := net.Dial("unix", l.socket(l.of.dir))
	if err != nil {
		from.Close()
		return
	}
	if !l.keep(to) {
		return
	}
	var flowing sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		flowing.Go(func() {
			piece := make([]byte, 16<<10)
			for {
				n, err := way[0].Read(piece)
				if !l.open() {
					return
				}
				if n > 0 {
					if _, err := way[1].Write(piece[:n]); err != nil {
						break
					}
				}
				if err != nil {
					if !errors.Is(err, io.EOF) {
						way[1].Close()
					}
					break
				}
			}
			way[0].Close()
			way[1].Close()
		})
	}
	flowing.Wait()
}
