package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/protocol"
)

// parsed is a flag that is read and checked as soon as it is given, wherever it
// comes from. Errors of parse say what was expected and what came.
type parsed[T any] struct {
	text  string
	kind  string // what help calls the value
	value T
	parse func(string) (T, error)
}

// newParsed returns a flag with a default, which must be good; "" is none.
func newParsed[T any](kind, byDefault string, parse func(string) (T, error)) *parsed[T] {
	p := &parsed[T]{kind: kind, parse: parse}
	if byDefault != "" {
		if err := p.Set(byDefault); err != nil {
			panic(err)
		}
	}
	return p
}

// Set implements pflag.Value.
func (p *parsed[T]) Set(s string) error {
	value, err := p.parse(s)
	if err != nil {
		return err
	}
	p.text, p.value = s, value
	return nil
}

// String implements pflag.Value.
func (p *parsed[T]) String() string { return p.text }

// Type implements pflag.Value.
func (p *parsed[T]) Type() string { return p.kind }

// list is a parsed flag that can be given more than once.
type list[T any] struct {
	kind   string
	values []T
	parse  func(string) (T, error)
}

// Set implements pflag.Value.
func (l *list[T]) Set(s string) error {
	value, err := l.parse(s)
	if err == nil {
		l.values = append(l.values, value)
	}
	return err
}

// String implements pflag.Value.
func (l *list[T]) String() string { return "" }

// Type implements pflag.Value.
func (l *list[T]) Type() string { return l.kind }

func networkFlag(flags *pflag.FlagSet) *parsed[*chaincfg.Params] {
	p := newParsed("NETWORK", chaincfg.MainNetParams.Name, protocol.Network)
	flags.Var(p, "network", "mainnet, testnet3, testnet4, chipnet or regtest")
	setting(flags, "network")
	return p
}

// heightFlag is a block height that may be left out.
func heightFlag(flags *pflag.FlagSet, name, usage string) *parsed[*uint32] {
	p := newParsed("HEIGHT", "", func(s string) (*uint32, error) {
		height, err := parseNumber(s, "a block height", 0, 1<<32-1)
		return &height, err
	})
	flags.Var(p, name, usage)
	return p
}

func numberFlag(flags *pflag.FlagSet, name string, byDefault, least, most uint32, usage string) *parsed[uint32] {
	p := newParsed("N", strconv.FormatUint(uint64(byDefault), 10), func(s string) (uint32, error) {
		return parseNumber(s, "a whole number", least, most)
	})
	flags.Var(p, name, usage)
	return p
}

func parseNumber(s, what string, least, most uint32) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || uint32(n) < least || uint32(n) > most {
		return 0, fmt.Errorf("expected %s from %d to %d, got %q", what, least, most, shortened(s))
	}
	return uint32(n), nil
}

// parseHostPort checks HOST:PORT. An empty host, all interfaces, is for
// listening only.
func parseHostPort(listen bool) func(string) (string, error) {
	return func(s string) (string, error) {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return "", fmt.Errorf("expected HOST:PORT, got %q", shortened(s))
		}
		if host == "" && !listen {
			return "", fmt.Errorf("expected HOST:PORT, got no host in %q", shortened(s))
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 && !listen {
			return "", fmt.Errorf("expected a port number up to 65535 after the colon, got %q", shortened(port))
		}
		return s, nil
	}
}

// commaSeparated reads a list of values with commas between them; "none" is none.
func commaSeparated[T any](parse func(string) (T, error)) func(string) ([]T, error) {
	return func(s string) (values []T, err error) {
		if s == "none" {
			return nil, nil
		}
		for _, text := range strings.Split(s, ",") {
			value, err := parse(strings.TrimSpace(text))
			if err != nil {
				return nil, err
			}
			values = append(values, value)
		}
		return values, nil
	}
}

func oneOf(allowed ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, a := range allowed {
			if s == a {
				return s, nil
			}
		}
		return "", fmt.Errorf("expected one of %s, got %q", strings.Join(allowed, ", "), shortened(s))
	}
}

// parseTxID reads a txid in display order.
func parseTxID(s string) (chainhash.Hash, error) {
	if i := strings.IndexFunc(s, notHex); i >= 0 {
		return chainhash.Hash{}, fmt.Errorf("expected %d hex characters, got %q as character %d", chainhash.MaxHashStringSize, s[i:i+1], i+1)
	}
	if len(s) != chainhash.MaxHashStringSize {
		return chainhash.Hash{}, fmt.Errorf("expected %d hex characters, got %d", chainhash.MaxHashStringSize, len(s))
	}
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil {
		return chainhash.Hash{}, err
	}
	return *hash, nil
}

func notHex(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) }
