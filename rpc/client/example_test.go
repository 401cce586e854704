package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// Example asks who is behind an address, and follows what changes from there on.
func Example() {
	address, child, stop := exampleServer()
	defer stop()

	c, err := client.New(address, client.Options{}) // as keys.example.org:8434
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	now, err := c.Resolve(ctx, child)
	if err != nil {
		log.Fatal(err)
	}
	before, err := c.At(1).Resolve(ctx, child)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("as of block %d it is linked: %v, as of block %d: %v\n",
		before.AsOfHeight, before.ParentAddress != "", now.AsOfHeight, now.ParentAddress != "")

	keys := 0
	for _, err := range c.Keys(ctx, now.IdTxHash) {
		if err != nil {
			log.Fatal(err)
		}
		keys++
	}
	fmt.Println("keys of the identity:", keys)

	for update, err := range c.WatchFrom(ctx, 5) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(update.Type, update.Height)
		for _, event := range update.Events {
			fmt.Println(" ", event.Type)
		}
		if update.Cursor != nil && update.Cursor.Height == now.AsOfHeight { // to be stored, and given to Watch later
			break
		}
	}
	// Output:
	// as of block 1 it is linked: false, as of block 6: true
	// keys of the identity: 3
	// CONNECT 5
	//   LINK_CUT
	//   IDENTITY_NAMED
	// CONNECT 6
	//   REQUEST_OPENED
	//   LINK_FORMED
	//   IDENTITY_MERGED
}

// exampleServer runs a server on a short chain, and returns its address and that of a key.
func exampleServer() (address, child string, stop func()) {
	t := &exampleTB{}
	_, blocks := rpctest.Family()
	return rpctest.New(t, blocks...).Conn.Target(), rpctest.Address("child"), t.end
}

// exampleTB is as much of a test as a server needs.
type exampleTB struct {
	testing.TB
	ends []func()
}

func (t *exampleTB) Helper()            {}
func (t *exampleTB) Cleanup(end func()) { t.ends = append(t.ends, end) }
func (t *exampleTB) Fatal(args ...any)  { log.Fatal(args...) }
func (t *exampleTB) Error(args ...any)  { log.Fatal(args...) }

func (t *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *exampleTB) end() {
	for i := len(t.ends) - 1; i >= 0; i-- {
		t.ends[i]()
	}
}
