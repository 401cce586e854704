package tlogcheck

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	"github.com/keytree-bch/keytree/keyserver/witness"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	witnessrpc "github.com/keytree-bch/keytree/rpc/witness"
)

// serveWitness runs a witness of a log over HTTP.
func serveWitness(t *testing.T, log string) (*witness.Witness, string) {
	t.Helper()
	policy, err := format.ParsePolicy([]byte("log " + log + "\nquorum none"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := witness.Open(witness.Options{KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Name: "witness.example/w", Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(witnessrpc.NewHandler(w, zerolog.Nop()))
	t.Cleanup(func() { server.Close(); w.Close() })
	return w, server.URL
}

// await waits until what returns "".
func await(t *testing.T, what func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if last = what(); last == "" {
			return
		}
	}
	t.Fatal(last)
}

// leaves is what fsck is told of a bundle: an entry's leaf is that of RFC 6962.
func leaves(bundle []byte) (hashes [][]byte, err error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	for _, entry := range b.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}

// TestOthersRead has tessera's fsck and client, and x/mod's note, read and verify a whole log, over
// HTTP and as files. KEYTREE_EXHAUSTIVE=1 has it do so with long ones, too.
func TestOthersRead(t *testing.T) {
	sizes := []int{1, 255, 256, 257}
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		sizes = append(sizes, 65_535, 65_536, 65_537, 1_000_000)
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			chain := tlogtest.New(t, uint64(size)).Grow(size)
			opt := tlog.Options{Source: chain, Origin: "example.org/keytree", KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state")}
			first, err := tlog.Open(opt)
			if err != nil {
				t.Fatal(err)
			}
			key := first.Key()
			first.Close()
			w, at := serveWitness(t, key.String())
			policy := fmt.Sprintf("witness w %s %s\nquorum w\n", w.Key(), at)
			if opt.Policy, err = format.ParsePolicy([]byte(policy)); err != nil {
				t.Fatal(err)
			}
			l, err := tlog.Open(opt)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { l.Run(ctx); close(done) }()
			defer func() { cancel(); <-done; l.Close() }()
			await(t, func() string {
				if signed, witnessed, err := l.Checkpoint(); !witnessed {
					return fmt.Sprintf("%q (%v)", signed, err)
				}
				return ""
			})
			server := httptest.NewServer(keyserverrpc.WithLog(l, http.NotFoundHandler(), zerolog.Nop()))
			defer server.Close()
			root, err := url.Parse(server.URL + "/keytree/")
			if err != nil {
				t.Fatal(err)
			}
			overHTTP, err := client.NewHTTPFetcher(root, server.Client())
			if err != nil {
				t.Fatal(err)
			}
			www := filepath.Join(dir, "www")
			if _, _, err := tlog.Export(t.Context(), l, www); err != nil {
				t.Fatal(err)
			}
			verifier, err := note.NewVerifier(key.String())
			if err != nil {
				t.Fatal(err)
			}
			for name, fetcher := range map[string]fsck.Fetcher{"HTTP": overHTTP, "files": client.FileFetcher{Root: www}} {
				if err := fsck.New("example.org/keytree", verifier, fetcher, leaves, fsck.Opts{N: 4}).Check(t.Context()); err != nil {
					t.Errorf("fsck over %s: %v", name, err)
				}
			}
			readWithClient(t, overHTTP, verifier, w, chain, size)
		})
	}
}

// readWithClient verifies a cosigned checkpoint, and proofs that tessera's client makes of tiles.
func readWithClient(t *testing.T, f *client.HTTPFetcher, verifier note.Verifier, w *witness.Witness, chain *tlogtest.Chain, size int) {
	cp, raw, _, err := client.FetchCheckpoint(t.Context(), f.ReadCheckpoint, verifier, "example.org/keytree")
	if err != nil || cp.Size != uint64(size) {
		t.Fatalf("the checkpoint: %+v (%v)", cp, err)
	}
	cosigner, err := fnote.NewVerifierForCosignatureV1(w.Key().String())
	if err != nil {
		t.Fatal(err)
	}
	if parsed, _, n, err := flog.ParseCheckpoint(raw, "example.org/keytree", verifier, cosigner); err != nil || len(n.Sigs) != 2 || parsed.Size != cp.Size {
		t.Errorf("with its cosignature: %+v (%v)", n, err)
	}
	builder, err := client.NewProofBuilder(t.Context(), cp.Size, f.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < size; at += max(1, size/7) {
		inclusion, err := builder.InclusionProof(t.Context(), uint64(at))
		if err != nil {
			t.Fatal(err)
		}
		e := chain.Entry(at)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(at), cp.Size, rfc6962.DefaultHasher.HashLeaf(e[:]), inclusion, cp.Hash); err != nil {
			t.Errorf("entry %d: %v", at, err)
		}
		consistency, err := builder.ConsistencyProof(t.Context(), uint64(at+1), cp.Size)
		if err != nil {
			t.Fatal(err)
		}
		before, err := chain.ChainAt(t.Context(), uint64(at+1))
		if err != nil {
			t.Fatal(err)
		}
		old := before.Root()
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(at+1), cp.Size, consistency, old[:], cp.Hash); err != nil {
			t.Errorf("from %d on: %v", at+1, err)
		}
	}
}

// tesseraLog is a log that tessera makes, in a folder, and has a witness cosign if there is one.
func tesseraLog(t *testing.T, dir, key, policy string, entries int, salt string) []byte {
	t.Helper()
	signer, err := note.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	driver, err := posix.New(t.Context(), posix.Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	opt := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithCheckpointInterval(200*time.Millisecond).WithBatching(64, 50*time.Millisecond)
	if policy != "" {
		group, err := tessera.NewWitnessGroupFromPolicy([]byte(policy))
		if err != nil {
			t.Fatal(err)
		}
		opt = opt.WithWitnesses(group, &tessera.WitnessOptions{})
	}
	appender, shutdown, reader, err := tessera.NewAppender(t.Context(), driver, opt)
	if err != nil {
		t.Fatal(err)
	}
	var last tessera.IndexFuture
	for i := range entries {
		last = appender.Add(t.Context(), tessera.NewEntry(fmt.Appendf(nil, "entry %d %s", i, salt)))
	}
	awaiter := tessera.NewPublicationAwaiter(t.Context(), reader.ReadCheckpoint, 50*time.Millisecond)
	_, signed, err := awaiter.Await(t.Context(), last)
	if err != nil {
		t.Fatal(err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestWitnessOfTessera has our witness cosign a log that tessera makes, for tessera, and refuse its fork.
func TestWitnessOfTessera(t *testing.T) {
	private, public, err := note.GenerateKey(rand.Reader, "tessera.example/log")
	if err != nil {
		t.Fatal(err)
	}
	w, at := serveWitness(t, public)
	policy := fmt.Sprintf("witness w %s %s\nquorum w\n", w.Key(), at)
	signed := tesseraLog(t, t.TempDir(), private, policy, 300, "")
	ours, err := format.ParsePolicy([]byte("log " + public + "\n" + policy))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := ours.Open(signed)
	if err != nil || opened.Quorum(0) != nil || opened.Checkpoint.Size != 300 {
		t.Fatalf("tessera has published %q (%v)", signed, err)
	}
	dir := t.TempDir()
	fork := tesseraLog(t, dir, private, "", 310, "of a fork")
	builder, err := client.NewProofBuilder(t.Context(), 310, client.FileFetcher{Root: dir}.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := builder.ConsistencyProof(t.Context(), 300, 310)
	if err != nil {
		t.Fatal(err)
	}
	submission := &format.Submission{Old: 300, Checkpoint: fork}
	for _, h := range hashes {
		submission.Proof = append(submission.Proof, format.Hash(h))
	}
	response, err := http.Post(at+"/add-checkpoint", "text/plain", bytes.NewReader(submission.Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("of its fork the witness says %d, %q (%v)", response.StatusCode, said, err)
	}
	again, err := http.Post(at+"/add-checkpoint", "text/plain", bytes.NewReader((&format.Submission{Old: 300, Checkpoint: signed}).Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	again.Body.Close()
	if again.StatusCode != http.StatusOK {
		t.Errorf("of what it has cosigned the witness says %d", again.StatusCode)
	}
}
