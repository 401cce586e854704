package rpc

import "testing"

func TestOwnName(t *testing.T) {
	for header, want := range map[string]bool{
		"localhost":           true,
		"localhost:8435":      true,
		"LocalHost.:8435":     true,
		"a.localhost":         true,
		"127.0.0.1":           true,
		"127.0.0.1:8435":      true,
		"127.9.9.9:1":         true,
		"[::1]:8435":          true,
		"[::1]":               true,
		"keys.example.org":    true,
		"Keys.Example.org:80": true,
		"":                    false,
		":8435":               false,
		"example.org":         false,
		"xkeys.example.org":   false,
		"notlocalhost":        false,
		"localhost.evil.com":  false,
		"127.0.0.1.evil.com":  false,
		"192.0.2.1":           false,
		"[2001:db8::1]:8435":  false,
		"0.0.0.0:8435":        false,
	} {
		if got := ownName(header, []string{"keys.example.org"}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}
