// Package session begins a session between two users of a keyserver: the first
// message, which Bob makes from what he has found out about Alice, and her
// answer, for which she needs her own copy of the hashchain and nothing else.
// SPEC.md is the format, what it protects against, and what it does not.
//
//	wire.go    the bytes of a message; parsing them
//	keys.go    key agreement, key derivation, authenticated encryption
//	start.go   Bob: the first message
//	open.go    Alice: opening it
//	sender.go  Alice: whether the sender is who the hashchain says
//	answer.go  Alice's answer, and Bob opening it
//	state.go   what both keep in between
//
// What never belongs here: calls to a keyserver, storage, delivery (mixmail does
// that), and what a session goes on with after the answer.
//
// Functions and methods may be called concurrently, those on one value only if
// what they are given may be.
package session

import "errors"

// Why a message is not opened. Besides these there are canonical.ErrMalformed,
// if it is not a message at all, and uid.ErrExpired, if it came too late. Nothing
// was recorded and nothing may be shown of the message.
var (
	// ErrUnknown says that the recipient does not have the KeyInit or session that a
	// message is for: it was for somebody else, or the KeyInit is used up.
	ErrUnknown = errors.New("not a KeyInit or session of ours")
	// ErrForged says that a message does not open: somebody has changed or forged
	// it, or made it for other keys.
	ErrForged = errors.New("message does not open")
	// ErrSender says that whoever made a message is not the identity that it names,
	// or that the identity is not to be trusted now.
	ErrSender = errors.New("sender is not proven")
	// ErrBehind says that the hashchain copy does not have what the sender's has:
	// bring it up to date and try again.
	ErrBehind = errors.New("copy of the hashchain is not current")
	// ErrReplay says that a message was received before, or that another one was
	// for the same KeyInit, which is good for one only.
	ErrReplay = errors.New("received before")
)

// ErrRecipient says that nothing can be sent with what is known of a recipient:
// look the recipient up, fetch another KeyInit, or correct what is named.
var ErrRecipient = errors.New("cannot begin a session")

// ErrUnsure says that a letter may have been taken or not. Send the same one again: it is
// harmless, because a message opens once.
var ErrUnsure = errors.New("perhaps sent")

// ErrTooLong says that a message would be longer than is allowed.
var ErrTooLong = errors.New("message too long")
