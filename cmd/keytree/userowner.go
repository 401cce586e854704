package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

// owner is an own identity that a command acts for.
type owner struct {
	name       string // mapped
	passphrase []byte
}

// peek returns the user's own identities and the keyserver's domain. It does not keep others
// from the folder: while a person is asked something, they can go on.
func (u *userFlags) peek() (names []string, domain string, err error) {
	dir, err := u.mayUse()
	if err != nil {
		return nil, "", err
	}
	c, err := keyclient.OpenReadOnly(dir, keyclient.Options{})
	if err != nil {
		return nil, "", explainUser(err)
	}
	names, err = c.Names()
	return names, c.Domain(), errors.Join(err, c.Close())
}

// owner returns the user's identity that as names, or the only one if it is "".
func (u *userFlags) owner(ctx context.Context, as string, p passphraseFlag) (o owner, err error) {
	names, domain, err := u.peek()
	if err != nil {
		return o, err
	}
	switch {
	case as != "":
		if o.name, err = identityArgument(as); err != nil {
			return o, err
		}
	case len(names) == 0:
		return o, fmt.Errorf("%w: become somebody first: keytree user create NAME@%s", keyclient.ErrNoIdentity, domain)
	case len(names) > 1:
		return o, usagef("the folder has %d identities of yours: expected --as IDENTITY, one of %q", len(names), names)
	default:
		o.name = names[0]
	}
	if !slices.Contains(names, o.name) {
		return o, explainUser(fmt.Errorf("%w: %s", keyclient.ErrNoIdentity, o.name))
	}
	o.passphrase, err = p.read(ctx, o.name, false)
	return o, err
}

// newOwner is owner for an identity that need not be here yet.
func (u *userFlags) newOwner(ctx context.Context, name string, p passphraseFlag) (o owner, err error) {
	names, _, err := u.peek()
	if err != nil {
		return o, err
	}
	o.name = name
	o.passphrase, err = p.read(ctx, name, !slices.Contains(names, name))
	return o, err
}

// withOwner lets job work with one of the user's own identities.
func (u *userFlags) withOwner(o owner, job func(*keyclient.Client, *keyclient.Identity) error) error {
	return u.with(func(c *keyclient.Client) error {
		id, err := c.OpenIdentity(o.name, o.passphrase)
		if err != nil {
			return err
		}
		return job(c, id)
	})
}
