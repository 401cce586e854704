// Package chain makes chains of regtest blocks without a node: every block is
// valid by the rules of the network, and equal options give equal bytes.
//
// A chain begins with the genesis block. The next hundred blocks hold nothing
// but a coinbase, since a coinbase may not be spent earlier. A few more spread
// the first coins over a thousand keys, so that there are enough for a block of the
// wanted size; then come the blocks that were asked for, as full as they get.
//
// # What is in the blocks
//
//   - P2PKH payments of one or two inputs and two outputs, most of the
//     transactions, and all but the actions in the shape Payments. With one input
//     they have 219 bytes (Schnorr) or 225 and 226 (ECDSA);
//   - in the shape Mixed also CashToken genesis outputs (fungible, NFT, both),
//     memo posts, SLP-like OP_RETURNs, P2SH outputs, consolidations of many
//     coins, and batches of many payments;
//   - the wanted share of keytree actions, which make sense together:
//     keys ask, parents accept, trees grow, are cut, hand over a branch within a
//     block and take it back, and some actions are wrong and get refused.
//     Forest.go predicts what becomes of each, for tests to compare. The same
//     keys also write memo posts.
//
// Transactions are in CTOR order (by txid), and none spends another of its own
// block, so the order is right also where a network wants parents first.
//
// # Signatures
//
// All signatures are valid, half of the keys sign ECDSA and half Schnorr. They
// are all made with one nonce. That gives every key away, which harms nobody as
// the keys follow from the seed anyhow; and signing takes a hash and two
// multiplications in place of curve arithmetic, so that a chain is made at tens of
// megabytes a second. Verifying them costs as much as ever.
//
// # What is not in the blocks
//
// Tokens are made and never spent: the pinned bchd does not have the CashToken
// rules active on regtest, takes a token output for what it was before them, and
// refuses to spend it. BCHN and others, which have them active, accept the chain
// as well, as each genesis follows the rules. There are no side branches, and the
// blocks come in the order of their height.
//
// What never belongs here: measuring.
package chain
