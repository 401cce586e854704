//go:build !unix

package main

// mostOpenFiles returns ok false: the system has no such limit.
func mostOpenFiles() (n uint64, ok bool) { return 0, false }
