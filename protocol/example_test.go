package protocol_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/protocol"
)

// An output's script is an action, or it is not. One that is an action may still be
// malformed.
func ExampleDecodeAction() {
	for _, text := range []string{
		"6a026d20140d4cd6490ddf863bbdf5c34d8ef1aebfd45c2105084d656d6f2d4f6c64", // a request with a message
		"6a026d2003aabbcc", // a request to a key of three bytes
		"6a0568656c6c6f",   // something else after OP_RETURN
	} {
		script, err := hex.DecodeString(text)
		if err != nil {
			log.Fatal(err)
		}
		switch action, ok := protocol.DecodeAction(script); {
		case !ok:
			fmt.Println("no action")
		case action.Malformed != nil:
			fmt.Printf("%v, malformed\n", action.Kind)
		default:
			fmt.Printf("%v to %x, %q\n", action.Kind, action.Parent, action.Message)
		}
	}
	// Output:
	// MLR to 0d4cd6490ddf863bbdf5c34d8ef1aebfd45c2105, "Memo-Old"
	// MLR, malformed
	// no action
}

// Users type addresses in several forms. All of them name a key, which is shown in one.
func ExampleParseAddress() {
	for _, typed := range []string{
		"bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a",
		"QPM2QSZNHKS23Z7629MMS6S4CWEF74VCWVY22GDX6A",
		"1BpEi6DfDAUFd7GtittLSdBeYJvcoaVggu",
		"bchtest:qpm2qsznhks23z7629mms6s4cwef74vcwvqcw003ap",
	} {
		key, err := protocol.ParseAddress(typed, &chaincfg.MainNetParams)
		if errors.Is(err, protocol.ErrAddress) {
			fmt.Println("not of mainnet")
			continue
		}
		fmt.Printf("%x %s\n", key, protocol.FormatAddress(key, &chaincfg.MainNetParams))
	}
	// Output:
	// 76a04053bda0a88bda5177b86a15c3b29f559873 bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a
	// 76a04053bda0a88bda5177b86a15c3b29f559873 bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a
	// 76a04053bda0a88bda5177b86a15c3b29f559873 bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a
	// not of mainnet
}

// A child asks a parent for a link, by a transaction that spends a coin of the child.
func ExampleNewLinkTx() {
	private, public := bchec.PrivKeyFromBytes(bchec.S256(), bytes.Repeat([]byte{7}, 32)) // never such a key
	child := protocol.KeyHash(bchutil.Hash160(public.SerializeCompressed()))
	parent, err := protocol.ParseAddress("bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a", &chaincfg.MainNetParams)
	if err != nil {
		log.Fatal(err)
	}

	script, err := protocol.RequestScript(parent, []byte("my phone"))
	if err != nil {
		log.Fatal(err)
	}
	request, err := protocol.NewLinkTx(script, protocol.Funding{
		Author: child,
		UTXOs: []protocol.UTXO{{ // as a node tells it
			OutPoint: wire.OutPoint{Hash: chainhash.Hash{1}, Index: 0},
			Value:    10_000,
			Script:   protocol.P2PKHScript(child),
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := request.Sign(private); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("signed: %v, fee %d satoshi, change %d\n", request.Signed(), request.Fee, request.Change())
	fmt.Println("by the child:", request.Author() == child)
	fmt.Println("to be broadcast:", len(request.Raw()), "bytes")
	// Output:
	// signed: true, fee 235 satoshi, change 9765
	// by the child: true
	// to be broadcast: 234 bytes
}
