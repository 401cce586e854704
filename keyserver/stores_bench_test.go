package keyserver

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/store/badger"
	"github.com/keytree-bch/keytree/keyserver/store/postgres"
	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// BenchmarkStores has 64 clients register identities, and fetch the hashchain, from a keyserver on
// either store, and beside it insert rows by pgbench into the same PostgreSQL, all on the disk of
// the folder for temporary files. Only the ratios of one run mean something.
func BenchmarkStores(b *testing.B) {
	const clients, identities, fetches = 64, 2000, 64
	cluster := postgrestest.Start(b)
	url := cluster.URL("postgres", nil)
	place, err := postgres.Parse(url)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	// each calls do n times, by all clients, and reports how often a second.
	each := func(b *testing.B, n int, what string, do func(i int) error) {
		var next atomic.Int64
		var working sync.WaitGroup
		b.ResetTimer()
		for range clients {
			working.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					if err := do(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		working.Wait()
		b.StopTimer()
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), what)
	}
	for name, place := range map[string]store.Place{"Badger": badger.Place{Dir: filepath.Join(dir, "db"), MemTable: 64 << 20}, "PostgreSQL": place} {
		opt := testOptions(b.TempDir(), newClock())
		opt.Place = place
		s := openTest(b, opt)
		registered := uint64(0)
		b.Run(name+"/CreateUID", func(b *testing.B) {
			messages := make([]*uid.Message, identities)
			for i := range messages { // others each time that it is run
				messages[i] = message(s, fmt.Sprintf("n%s@example.org", letters(registered)), newKey(registered))
				registered++
			}
			each(b, identities, "entries/s", func(i int) error { _, err := s.CreateUID(b.Context(), messages[i], ""); return err })
		})
		b.Run(name+"/FetchHashChain", func(b *testing.B) {
			each(b, fetches, "chains/s", func(int) error {
				_, entries, err := s.Entries(b.Context(), 0, identities) // as many, however many there are
				if err != nil {
					return err
				}
				for _, err := range entries {
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	b.Run("pgbench", func(b *testing.B) {
		b.ReportMetric(cluster.Inserts(b, clients), "inserts/s")
	})
}
