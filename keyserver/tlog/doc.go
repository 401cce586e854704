// Package tlog signs and serves a transparency log that programs of others read, check and cosign
// (keyserver/TLOG.md): a keyserver's hashchain, or any other Tree. The formats are those of protocol/tlog.
//
//	log.go        what was signed last, and when the next checkpoint is
//	file.go       the key and the state beside it
//	publish.go    which checkpoint is served, and with whose cosignatures
//	submit.go     asking witnesses
//	tiles.go      tiles and entry bundles
//	prove.go      proofs that entries are in the log
//	hashchain.go  a keyserver's hashchain as a Tree
//	export.go     a log as files
//
// # What is never signed
//
// A log that signs two roots for one size, or a smaller size than before, has lied, and cannot
// take it back. So:
//
//  1. A checkpoint is signed of what is in the keyserver's database, on disk, while the keyserver
//     shows its history: not while it is held back until its anchors were compared.
//  2. What was signed is in the state file, synced, before anybody gets it. That file stands
//     beside the key, outside of the database and its backups. Key and state belong together:
//     the one without the other is refused.
//  3. At the first checkpoint after a start, the hashchain has to begin with what was signed
//     last. ErrBehind or ErrForked otherwise, and nothing is signed until the next start.
//  4. Before that, all witnesses are asked about what was signed last. If one has cosigned more,
//     key, state and database are all out of an old backup: ErrOutgrown, and nothing is signed. One
//     that is away then is listened to when it answers for the first time.
//  5. A process holds a lock on the key file while it has the log open.
//
// Ed25519 has one signature for one text. So a process that is killed between signing and
// storing leaves nothing that the next one could contradict.
//
// Known gaps. Somebody who restores key, state and database out of one old backup, and has no
// witness and no anchor, signs smaller sizes again. A witness that lies about what it has
// cosigned can keep a log from signing after a restart: take it out of the policy then.
//
// What never belongs here: how HTTP requests are answered (rpc/keyserver), what entries mean.
package tlog

import "errors"

// Why a log is not opened, or signs nothing. Each is final until the next start.
var (
	// ErrMismatch says that key, state and keyserver do not belong together. Nothing was
	// changed. Restore the file that is missing or another's.
	ErrMismatch = errors.New("files of the transparency log do not belong together")
	// ErrLocked says that another process has the log open. End it first.
	ErrLocked = errors.New("transparency log in use")
	// ErrBehind says that the hashchain has fewer entries than the log has signed: its
	// database is an old backup. Restore the newest one.
	ErrBehind = errors.New("the hashchain ends before what the log has signed")
	// ErrForked says that the hashchain is another one than the log has signed. Restore the
	// database, or the key and the state, that belong together.
	ErrForked = errors.New("the hashchain is another than the log has signed")
	// ErrOutgrown says that a witness has cosigned what is newer than all that this log knows
	// of: everything here is an old backup. Restore the newest one.
	ErrOutgrown = errors.New("a witness has cosigned more than the log knows of")
	// ErrNone says that there is no checkpoint yet: the keyserver waits, or has just started.
	// Come back later.
	ErrNone = errors.New("no checkpoint yet")
)
