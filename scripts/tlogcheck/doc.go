// Package tlogcheck has programs of others read and check what keytree serves as transparency logs, and
// what it cosigns: tessera's client and fsck, golang.org/x/mod's notes, transparency-dev's formats. It is a module of
// its own, since these bring more than a hundred others, none of which keytree needs.
//
// What never belongs here: anything but tests.
package tlogcheck
