package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

const (
	// fewKeyInits is below how many status warns.
	fewKeyInits = 3
	// soon is how long before an identity expires status warns.
	soon = 30 * 24 * time.Hour
)

// userState is what --json prints of an own identity that was opened.
type userState struct {
	Identity string          `json:"identity"`
	Stage    keyclient.Stage `json:"stage"`
	NotAfter uint64          `json:"not_after"` // 0 before the identity was registered
	// What the keyserver has left, to be handed out once and for fallback; nil if it is not known.
	KeyInits *uint64  `json:"key_inits,omitempty"`
	Fallback *uint64  `json:"fallback_key_inits,omitempty"`
	Problem  string   `json:"problem,omitempty"` // why it is not known
	Warnings []string `json:"warnings,omitempty"`
}

// passphrases returns the user's identities whose passphrase is at hand, or is told on the
// terminal. Who tells none is not asked for the next.
func (u *userFlags) passphrases(ctx context.Context, names []string, p passphraseFlag) (who []owner, err error) {
	silent := *p.file == "" && os.Getenv(passphraseVariable) == ""
	if in, ok := u.app.stdin.(*os.File); silent && (!ok || !term.IsTerminal(int(in.Fd())) || *u.json) {
		return nil, nil // a program, which is not to wait for a person
	}
	if silent && len(names) > 0 {
		u.app.tell("the passphrase tells how many KeyInits are left; an empty one does without")
	}
	for _, name := range names {
		passphrase, err := p.read(ctx, name, false)
		if err != nil || len(passphrase) == 0 {
			return who, err
		}
		who = append(who, owner{name, passphrase})
	}
	return who, nil
}

// states tells how it is with the user's identities, as far as their passphrases are at hand.
func (u *userFlags) states(ctx context.Context, c *keyclient.Client, names []string, who []owner) (states []userState) {
	asked := true // the keyserver answers
	for _, name := range names {
		s := userState{Identity: name}
		i := slices.IndexFunc(who, func(o owner) bool { return o.name == name })
		if i < 0 {
			s.Problem = "that takes the passphrase: --passphrase-file FILE, " + passphraseVariable + " or a terminal"
		} else if id, err := c.OpenIdentity(name, who[i].passphrase); err != nil {
			s.Problem = err.Error()
		} else {
			s.look(id)
			if asked = asked && s.count(ctx, c, id); !asked && s.Problem == "" {
				s.Problem = "the keyserver did not answer"
			}
		}
		states = append(states, s)
	}
	return states
}

// look tells what the own file says of an identity.
func (s *userState) look(id *keyclient.Identity) {
	s.Stage = id.Stage()
	if m := id.Message(); m != nil {
		s.NotAfter = m.Content.NotAfter
		if left := time.Until(time.Unix(int64(s.NotAfter), 0)); left < soon {
			s.warn("it is valid until %s: keytree user update %s renews it", date(s.NotAfter), s.Identity)
		}
	}
	if p := id.Pending(); p != nil {
		s.warn("keytree user %s was begun and is not finished: see keytree user pending %s", p.Call, s.Identity)
	}
}

func (s *userState) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

// count asks how many KeyInits are left. It returns false if the keyserver does not answer.
func (s *userState) count(ctx context.Context, c *keyclient.Client, id *keyclient.Identity) bool {
	count, err := c.CountKeyInits(ctx, id)
	if errors.Is(err, keyclient.ErrPending) {
		return true // it can have none
	}
	if err != nil {
		s.Problem = err.Error()
		return false
	}
	s.KeyInits, s.Fallback = &count.Once, &count.Fallback
	switch {
	case count.Once+count.Fallback == 0:
		s.warn("the keyserver has no KeyInits of it left, so that nobody can write first: keytree user keyinit add %s --keep 10 --mix-address ADDRESS", s.Identity)
	case count.Once < fewKeyInits:
		s.warn("the keyserver has only %d KeyInits of it left: keytree user keyinit add %s --keep 10 --mix-address ADDRESS", count.Once, s.Identity)
	}
	return true
}

// text is what people read of it, below its name.
func (s *userState) text(out io.Writer) {
	if s.Stage != "" {
		fmt.Fprintf(out, "             %s", s.Stage)
		if s.NotAfter != 0 {
			fmt.Fprintf(out, ", valid until %s", date(s.NotAfter))
		}
		fmt.Fprintln(out)
	}
	switch {
	case s.KeyInits != nil:
		fmt.Fprintf(out, "             %d KeyInits left, and %d for fallback\n", *s.KeyInits, *s.Fallback)
	case s.Problem != "":
		fmt.Fprintf(out, "             KeyInits left: not known: %s\n", s.Problem)
	}
}
