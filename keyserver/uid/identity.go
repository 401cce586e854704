package uid

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of an identity, in bytes.
const (
	minLocalpart = 3
	maxLocalpart = 64
	maxIdentity  = 254
)

// Map returns the form of an identity, "localpart@domain", in which it is
// compared, hashed and signed: lower case, the localpart trimmed and with 0 as o,
// 1 as l and j as i, so that names that look alike are the same. ErrInvalid if it
// has none. The domain is only lower-cased: see CheckDomain.
func Map(identity string) (string, error) {
	local, domain, err := Split(identity)
	if err != nil {
		return "", err
	}
	local = strings.NewReplacer("0", "o", "1", "l", "j", "i").Replace(strings.ToLower(strings.TrimSpace(local)))
	domain = strings.ToLower(domain)
	if err := checkLocalpart(local); err != nil {
		return "", err
	}
	if n := len(local) + 1 + len(domain); n > maxIdentity {
		return "", fmt.Errorf("%w: identity of %d bytes, at most %d are allowed", ErrInvalid, n, maxIdentity)
	}
	return local + "@" + domain, nil
}

func checkLocalpart(local string) error {
	if len(local) < minLocalpart || len(local) > maxLocalpart {
		return fmt.Errorf("%w: localpart of %d bytes, %d to %d are allowed", ErrInvalid, len(local), minLocalpart, maxLocalpart)
	}
	for _, r := range local {
		if !(r >= 'a' && r <= 'z' || r >= '2' && r <= '9' || r == '-' || r == '.') {
			return fmt.Errorf("%w: %q in a localpart, allowed are a to z, 2 to 9, '-' and '.'", ErrInvalid, r)
		}
	}
	between := func(r rune) bool { return r == '-' || r == '.' }
	if strings.IndexFunc(local, between) == 0 || strings.LastIndexFunc(local, between) == len(local)-1 {
		return fmt.Errorf("%w: a localpart neither starts nor ends with '-' or '.'", ErrInvalid)
	}
	for _, doubled := range []string{"--", "..", "-.", ".-"} {
		if strings.Contains(local, doubled) {
			return fmt.Errorf("%w: %q in a localpart", ErrInvalid, doubled)
		}
	}
	return nil
}

// ErrReserved says that nobody may register a name: choose another.
var ErrReserved = errors.New("localpart is reserved")

// Reserved returns the localparts, mapped, that nobody may register (keyserver/WIRE.md §7).
func Reserved() []string {
	return []string{
		"abuse", "admin", "administrator", "anonymous", "hostmaster", KeyserverLocalpart, "mailer-daemon",
		"no-reply", "nobody", "noreply", "postmaster", "root", "security", "sysadmin", "system", "webmaster",
	}
}

// CheckReserved returns ErrReserved if nobody may register an identity, which is mapped.
func CheckReserved(identity string) error {
	if local, _, _ := strings.Cut(identity, "@"); slices.Contains(Reserved(), local) {
		return fmt.Errorf("%w: %s", ErrReserved, local)
	}
	return nil
}

// CheckMapped returns ErrInvalid unless an identity is in the form that Map
// returns.
func CheckMapped(identity string) error {
	mapped, err := Map(identity)
	if err == nil && mapped != identity {
		err = fmt.Errorf("%w: identity is not in mapped form, expected %q", ErrInvalid, mapped)
	}
	return err
}

// Split returns the two parts of an identity as they are. ErrInvalid unless there
// is exactly one '@'.
func Split(identity string) (local, domain string, err error) {
	local, domain, ok := strings.Cut(identity, "@")
	if !ok || strings.Contains(domain, "@") {
		return "", "", fmt.Errorf("%w: an identity has exactly one '@'", ErrInvalid)
	}
	return local, domain, nil
}

// CheckDomain returns ErrInvalid unless a domain is a host name in lower case:
// labels of 1 to 63 letters, digits and inner hyphens, 253 bytes in all.
func CheckDomain(domain string) error {
	invalid := fmt.Errorf("%w: not a host name in lower case", ErrInvalid)
	if len(domain) > 253 {
		return invalid
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return invalid
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') {
				return invalid
			}
		}
	}
	return nil
}
