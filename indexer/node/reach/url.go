package reach

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// URLForm is what the URL of a kind of node looks like.
type URLForm struct {
	Text    string // for people
	Schemes []string
	Keys    []string // that its query may have, once each
	// Password says that it may hold USER:PASS. Then nothing of the URL is repeated in
	// errors, since any part of it may turn out to be the password.
	Password bool
	// PutSecret says in an error where a secret belongs, if not into the URL.
	PutSecret string
}

// URL is a node's URL, taken apart.
type URL struct {
	Scheme  string
	Address string        // HOST:PORT
	User    *url.Userinfo // nil unless there is one
	Query   url.Values    // of keys that are allowed, each with one value
}

// Refuse returns the error for a URL, of which why tells what is wrong.
func (f URLForm) Refuse(why string) error {
	return fmt.Errorf("node URL %s: expected %s", why, f.Text)
}

// Parse takes a URL apart. Errors never repeat it as a whole, in case somebody put a secret
// into it.
func (f URLForm) Parse(s string) (URL, error) {
	unparsable := "cannot be parsed"
	if f.Password {
		unparsable += " (in a password, write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for %)"
	}
	u, err := url.Parse(s)
	if err != nil {
		return URL{}, f.Refuse(unparsable)
	}
	query, queryErr := url.ParseQuery(u.RawQuery)
	switch {
	case !slices.Contains(f.Schemes, u.Scheme):
		return URL{}, f.Refuse(f.quoting("has scheme %q", "has another scheme", u.Scheme))
	case u.User != nil && !f.Password:
		return URL{}, f.Refuse("holds credentials, which other users of the machine can see: " + f.PutSecret)
	case u.Hostname() == "" || u.Port() == "":
		return URL{}, f.Refuse("has no host or no port")
	case strings.Trim(u.Path, "/") != "" || u.Fragment != "":
		return URL{}, f.Refuse("has a path or fragment after the port")
	case queryErr != nil:
		return URL{}, f.Refuse("has a malformed query")
	}
	for key, values := range query {
		if !slices.Contains(f.Keys, key) {
			return URL{}, f.Refuse(f.quoting("has the unknown key %q in its query", "has an unknown key in its query", key))
		}
		if len(values) != 1 || values[0] == "" {
			return URL{}, f.Refuse(f.quoting(fmt.Sprintf("has %%q %d times or empty", len(values)), "has "+key+" more than once or empty", key))
		}
	}
	return URL{u.Scheme, net.JoinHostPort(u.Hostname(), u.Port()), u.User, query}, nil
}

// quoting chooses the text that quotes a part of the URL if that may be done.
func (f URLForm) quoting(quoted, silent, part string) string {
	if f.Password {
		return silent
	}
	return fmt.Sprintf(quoted, part)
}
