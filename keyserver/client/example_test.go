package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/rpc"
)

// Example registers alice at a keyserver. Bob then finds her key in a copy of his own.
func Example() {
	url, dir, stop := exampleKeyserver()
	defer stop()
	ctx := context.Background()

	alice, err := client.Init(ctx, filepath.Join(dir, "alice"), url, "", nil, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	toPaper := func(key string) error { fmt.Println("characters for the paper:", len(key)); return nil }
	id, err := alice.Create(ctx, "alice@example.org", []byte("a long passphrase"), client.Registration{Paper: toPaper})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id.Name(), "is at position", id.Position())

	fingerprint := alice.Fingerprint() // which she tells bob
	bob, err := client.Init(ctx, filepath.Join(dir, "bob"), url, "", &fingerprint, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Close()
	contact, err := bob.Lookup(ctx, "alice@example.org")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("bob has her key:", bytes.Equal(contact.SigKey(), id.Message().Content.SigKey.Public()))
	_, err = bob.Lookup(ctx, "carol@example.org")
	fmt.Println("carol is unknown:", errors.Is(err, client.ErrUnknown))
	// Output:
	// characters for the paper: 69
	// alice@example.org is at position 1
	// bob has her key: true
	// carol is unknown: true
}

// exampleKeyserver runs a keyserver, and returns its URL and a folder for its users.
func exampleKeyserver() (url, dir string, stop func()) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	service, err := keyserver.Open(context.Background(), keyserver.Options{
		Domain: "example.org", Dir: filepath.Join(dir, "keyserver"), KeyFile: filepath.Join(dir, "key"), Tokens: token.Open{}})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	server := rpc.NewKeyserverServer(rpc.KeyserverConfig{Service: service, Log: zerolog.Nop()})
	go func() { served <- server.Serve(ctx, listener) }()
	return "http://" + listener.Addr().String() + "/", dir, func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := errors.Join(<-served, service.Close(), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}
