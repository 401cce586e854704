package client

import (
	"context"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// MaxProven is how many addresses one state proof is about.
const MaxProven = 1000

// Prove asks for a state proof of an address, with the transactions of the links that it shows if they are wanted: a file, in
// Proof, that proof.VerifyState checks by a policy. Nothing of it is checked here. It is as of the block of Client.At, or else of the
// newest that the state log covers, which is not the tip: OUT_OF_RANGE beyond that. FAILED_PRECONDITION if the server publishes no
// state log, or the block is too old; UNAVAILABLE if nothing can be proven yet.
func (v View) Prove(ctx context.Context, address string, transactions bool) (*StateProof, error) {
	return v.identities.ProveAddress(ctx, &keytreev1.ProveAddressRequest{Address: address, AtHeight: v.at, Transactions: transactions})
}

// ProveAll asks for one state proof of up to MaxProven addresses, as Prove does. A bad address is named as addresses[i].
func (v View) ProveAll(ctx context.Context, addresses []string, transactions bool) (*StateProof, error) {
	return v.identities.ProveAddresses(ctx, &keytreev1.ProveAddressesRequest{Addresses: addresses, AtHeight: v.at, Transactions: transactions})
}

// ProveIdentity asks for a state proof of what an id names, as Prove does.
func (v View) ProveIdentity(ctx context.Context, id string) (*StateProof, error) {
	return v.identities.ProveIdentity(ctx, &keytreev1.ProveIdentityRequest{IdTxHash: id, AtHeight: v.at})
}
