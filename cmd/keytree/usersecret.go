package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/keytree-bch/keytree/graph/durable"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

// passphraseVariable is the environment variable that a passphrase is taken from.
const passphraseVariable = envPrefix + "PASSPHRASE"

// passphraseFlag tells where the passphrase of an identity's keys comes from.
type passphraseFlag struct {
	app  *app
	file *string
}

func (u *userFlags) passphraseFlag() passphraseFlag {
	p := passphraseFlag{u.app, u.flags.String("passphrase-file", "", "`FILE` with the passphrase of the keys, readable by its owner alone")}
	setting(u.flags, "passphrase-file")
	return p
}

// read returns the passphrase. A new one is asked for twice.
func (p passphraseFlag) read(ctx context.Context, name string, isNew bool) ([]byte, error) {
	if *p.file != "" {
		content, err := durable.ReadSecret(*p.file)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		return bytes.TrimRight(content, "\r\n"), nil
	}
	if text := os.Getenv(passphraseVariable); text != "" {
		return []byte(text), nil
	}
	first, err := p.app.ask(ctx, "Passphrase of "+name+": ")
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w; or give --passphrase-file FILE or %s", err, passphraseVariable)
	}
	if isNew {
		if err := keyclient.CheckPassphrase(first); err != nil {
			return nil, err
		}
		again, err := p.app.ask(ctx, "Again: ")
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(first, again) {
			return nil, errors.New("passphrase: the two are not the same")
		}
	}
	return first, nil
}

var errNoTerminal = errors.New("there is no terminal to ask on")

// terminal returns where to ask a person something: standard input, or the terminal that the
// process belongs to if standard input is something else.
func (a *app) terminal() (in *os.File, out io.Writer, err error) {
	in, ok := a.stdin.(*os.File)
	if !ok {
		return nil, nil, errNoTerminal
	}
	if term.IsTerminal(int(in.Fd())) {
		return in, a.stderr, nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, errNoTerminal
	}
	return tty, tty, nil
}

// ask reads a secret from the terminal, which does not show it.
func (a *app) ask(ctx context.Context, prompt string) ([]byte, error) {
	in, out, err := a.terminal()
	if err != nil {
		return nil, err
	}
	if in != a.stdin {
		defer in.Close()
	}
	fd := int(in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(out, prompt)
	defer fmt.Fprintln(out)
	type answer struct {
		secret []byte
		err    error
	}
	answers := make(chan answer, 1)
	go func() { // ends with a line of input or with the process
		secret, err := term.ReadPassword(fd)
		answers <- answer{secret, err}
	}()
	select {
	case got := <-answers:
		return got.secret, got.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, state))
	}
}

// tokensFlag is a file of tokens, one a line.
type tokensFlag struct {
	app  *app
	file *string
}

func (u *userFlags) tokensFlag() tokensFlag {
	f := tokensFlag{u.app, u.flags.String("tokens", "", "`FILE` with tokens to pay with, one a line; those that were spent are removed from it")}
	u.pays = u.flags.Bool("plaintext", false, "let tokens go to a keyserver beyond this machine without TLS, where others may read and spend them")
	setting(u.flags, "tokens")
	return f
}

// maxTokens is the size in bytes above which a file is no file of tokens.
const maxTokens = 64 << 20

// take returns the first n tokens of the file; n empty ones without a file.
func (f tokensFlag) take(n int) ([]string, error) {
	if *f.file == "" {
		return make([]string, n), nil
	}
	all, err := f.read()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(*f.file); err == nil && info.Mode().Perm()&0o077 != 0 {
		f.app.tell(fmt.Sprintf("tokens: %s can be read or written by others, who can spend what is in it: chmod 600 it", *f.file))
	}
	if len(all) < n {
		return nil, fmt.Errorf("tokens: %s has %d, this takes %d: ask the operator of the keyserver for more", *f.file, len(all), n)
	}
	return all[:n], nil
}

func (f tokensFlag) read() (all []string, err error) {
	info, err := os.Stat(*f.file)
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxTokens {
		return nil, fmt.Errorf("tokens: %s: expected a file of at most %d bytes", *f.file, maxTokens)
	}
	content, err := os.ReadFile(*f.file)
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	return strings.Fields(string(content)), nil
}

// payment takes a token of the file when it is asked for one, and removes it when it is
// spent.
func (f tokensFlag) payment() keyclient.Payment {
	var taken []string
	return keyclient.Payment{
		Take: func() (token string, err error) {
			if *f.file == "" {
				return "", fmt.Errorf("%w: the keyserver hands out each KeyInit for one", keyclient.ErrToken)
			}
			if taken, err = f.take(1); err != nil {
				return "", err
			}
			return taken[0], nil
		},
		Spent: func() error {
			if len(taken) == 0 {
				return nil
			}
			return f.spent(taken)
		},
	}
}

// spent removes tokens from the file, which is replaced as a whole.
func (f tokensFlag) spent(tokens []string) error {
	if *f.file == "" {
		return nil
	}
	all, err := f.read()
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(all, func(t string) bool { return slices.Contains(tokens, t) })
	err = durable.Rewrite(*f.file, func(out io.Writer) error {
		_, err := io.WriteString(out, strings.Join(append(left, ""), "\n"))
		return err
	})
	if err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	return nil
}
