package audit_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"os"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// Somebody sends evidence against a keyserver. It is judged offline, and convicts only the
// keyserver that its reader has pinned before.
func ExampleEvidence_Verify() {
	file, err := os.Open("testdata/earlier/cheat/evidence/07b859aa3c656b9e.json")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	evidence, err := audit.ReadEvidence(file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("said of %s: %s, by %s\n", evidence.Domain, evidence.Finding, evidence.Proof)

	// What `keytree user init` has printed, and others have compared.
	b, err := hex.DecodeString("6c1c02f6ed504c50067be34aab2b760ffb2c9b62131fc42ade5da56643e62192")
	if err != nil {
		log.Fatal(err)
	}
	fingerprint := hashchain.Hash(b)
	for _, pins := range []audit.Pins{{}, {Fingerprint: &fingerprint}} {
		// Evidence that has anchors needs headers besides, of one's own node or of ReadHeaders.
		conviction, err := evidence.Verify(context.Background(), pins, nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(conviction.Verdict)
		for _, compare := range conviction.Compare {
			fmt.Println("- compare:", compare)
		}
	}
	// Output:
	// said of example.org: rewritten entry, by two heads
	// consistent, but about whom?
	// - compare: the fingerprint of the keyserver of example.org is 6c1c02f6ed504c50067be34aab2b760ffb2c9b62131fc42ade5da56643e62192: anybody can begin a hashchain in its name
	// misbehaviour
}
