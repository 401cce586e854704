// Follow is a program to begin with: it follows addresses, and goes on where it was. Run it as
//
//	follow HOST:PORT ADDRESS…
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/keytree-bch/keytree/rpc/client"
)

func main() {
	c, err := client.New(os.Args[1], client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	last, _ := os.ReadFile("last-id") // none at first
	for m, err := range c.Follow(context.Background(), client.Filter{Addresses: os.Args[2:], LastID: string(last)}) {
		if err != nil {
			log.Fatal(err)
		}
		if m.Block != nil {
			fmt.Println(m.Block.Type, m.Block.Height, m.Changed) // here you call your hook
		}
		if m.Id != "" { // as soon as the hook has taken it
			if err := os.WriteFile("last-id", []byte(m.Id), 0o600); err != nil {
				log.Fatal(err)
			}
		}
	}
}
