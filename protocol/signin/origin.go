package signin

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of RFC 1035 §2.3.4, in bytes.
const (
	maxHost  = 253
	maxLabel = 63
)

// checkDomain takes a domain as browsers write location.host: a host name in lower case,
// with its international labels as xn--…, and a port.
func checkDomain(domain string) error {
	host, port, hasPort := strings.Cut(domain, ":")
	if len(host) > maxHost {
		return fmt.Errorf("expected a host name of up to %d bytes, got %d", maxHost, len(host))
	}
	for label := range strings.SplitSeq(host, ".") {
		if !isLabel(label) {
			return fmt.Errorf("expected a host name of lower-case letters, digits and hyphens, with xn-- for others, such as memo.cash, got %.80q", host)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); hasPort && (err != nil || n == 0 || strconv.FormatUint(n, 10) != port) {
		return fmt.Errorf("expected a port of 1 to 65535, got %.80q", port)
	}
	return nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// checkURI takes a URI that begins with the domain as it is, so that no two readers can
// find different hosts in it. Only this machine is reached without TLS.
func checkURI(uri, domain string) error {
	scheme, rest, ok := strings.Cut(uri, "://")
	host, port, _ := strings.Cut(domain, ":")
	switch loopback := host == "localhost" || host == "127.0.0.1"; {
	case !ok || scheme != "https" && scheme != "http":
		return fmt.Errorf("expected https://…, got %.80q", uri)
	case scheme == "http" && !loopback:
		return fmt.Errorf("expected https://…, for http is for localhost and 127.0.0.1 alone, got %.80q", uri)
	case scheme == "https" && port == "443", scheme == "http" && port == "80":
		return fmt.Errorf("expected the domain without the port of %s, got %s", scheme, domain)
	}
	path, ok := strings.CutPrefix(rest, domain)
	if !ok || path != "" && path[0] != '/' {
		return fmt.Errorf("%w: expected %s://%s and then nothing or a path, got %.80q", ErrDomain, scheme, domain, uri)
	}
	return checkPath(path)
}

// checkPath takes the characters of a path and a query (RFC 3986 §3.3). There is no
// fragment: it never reaches a service.
func checkPath(path string) error {
	const marks = "-._~!$&'()*+,;=:@/?"
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case isAlphanumeric(c), strings.IndexByte(marks, c) >= 0:
		case c == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]):
			i += 2
		case c == '%':
			return errors.New("expected two hex digits behind each % of the URI")
		default:
			return fmt.Errorf("expected letters, digits and %s in the URI, and others as %%XX, got %q", marks, c)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isHex(c byte) bool { return c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c >= '0' && c <= '9' }
