package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/rpc/operator"
)

// onKeyserver completes a command that does something with the keyserver of the data
// folder.
func (a *app) onKeyserver(cmd *cobra.Command, do func(ctx context.Context, c *keyserverConfig, args []string) error) *cobra.Command {
	dataDir := placeFlags(cmd.Flags())
	place := newKeyserverPlace(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := place.config(*dataDir)
		if err != nil {
			return err
		}
		if c == nil {
			return errNoDomain
		}
		return do(cmd.Context(), c, args)
	}
	return cmd
}

// withService runs a job on the keyserver's database, which no server may have
// open. One that only reads can do so also where an earlier keytree has made it, and where
// nothing can be written.
func (a *app) withService(ctx context.Context, c *keyserverConfig, readOnly bool, job func(*keyserver.Service) error) (err error) {
	for _, needed := range append(c.folders(), c.keyFile) {
		if _, err := os.Stat(needed); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no keyserver: %w", err)
		} else if err != nil {
			return err
		}
	}
	if !readOnly {
		if err := mayWrite(filepath.Dir(c.dir), c.folders()...); err != nil {
			return err
		}
	}
	opt := c.options(newLog(a.stderr, "auto", "warn"))
	opt.Tokens = token.Open{} // nothing is paid here
	opt.ReadOnly = readOnly
	service, err := keyserver.Open(ctx, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	return job(service)
}

// notRunning tells from an Operator's error whether there is no server.
func notRunning(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

func (a *app) rotateKeyCommand() *cobra.Command {
	return a.onKeyserver(&cobra.Command{
		Use:   "rotate-key",
		Short: "Replace the keyserver's signature key, and renew its identity for a year",
		Long: `rotate-key gives the keyserver a new signature key, by an update of its identity
keyserver@DOMAIN, which the old key still signs; clients follow it through the
hashchain. The identity is then valid for another year. The old key is deleted.

A running server does it itself, asked through a socket in the data folder that only
its owner can open, since nobody else can write to its database: nothing has to
stop, and no client is turned away. Without one, it is done here.`,
		Example: `  keytree keyserver rotate-key --keyserver-domain example.org
  keytree keyserver rotate-key --config /etc/keytree.yaml`,
		Args: takes(),
	}, func(ctx context.Context, c *keyserverConfig, _ []string) error {
		reply, err := operator.NewClient(c.operator).RotateKey(ctx)
		if notRunning(err) {
			const what = "to rotate its key without a running server"
			if err := c.anchor.refuseUnchecked(what); err != nil {
				return err
			}
			err = a.withService(ctx, c, false, func(s *keyserver.Service) (err error) {
				if err := refuseAnchored(s, what); err != nil {
					return err
				}
				reply, err = s.RotateKey(ctx)
				return err
			})
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "the key of keyserver@%s was replaced by the entry at position %d\n", c.domain, reply.Entry.HashchainPos)
		return nil
	})
}

func (a *app) issueTokensCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issue-tokens N",
		Short: "Make tokens, with which clients pay the keyserver",
		Long: `issue-tokens makes N tokens, one a line, each good for one registration, update or
KeyInit. They are signed by the issuer's key, keyserver-issuer.key in the data folder,
which is made if it is not there. The server may be running.

Whoever reads a token can spend it: --out FILE writes them to a new file that only its
owner can read.`,
		Example: `  keytree keyserver issue-tokens 100 --keyserver-domain example.org --out tokens.txt`,
		Args:    takes("N"),
	}
	out := cmd.Flags().String("out", "", "write the tokens to a new `FILE` that only its owner can read (default standard output)")
	return a.onKeyserver(cmd, func(ctx context.Context, c *keyserverConfig, args []string) error {
		n, err := parseNumber(args[0], "a number of tokens", 1, 1_000_000)
		if err != nil {
			return usageError{err}
		}
		if err := a.mustServe(ctx, c); err != nil {
			return fmt.Errorf("%w: nobody would take tokens of this folder and domain", err)
		}
		if _, err := os.Stat(c.issuerFile); err != nil {
			if err := mayWrite(filepath.Dir(c.issuerFile)); err != nil {
				return err
			}
		}
		issuer, err := token.OpenIssuer(c.issuerFile)
		if err != nil {
			return fmt.Errorf("token issuer's key: %w", err)
		}
		issue := func(to io.Writer) error {
			for range n {
				text, err := issuer.Issue(c.domain)
				if err == nil {
					_, err = fmt.Fprintln(to, text)
				}
				if err != nil {
					return err
				}
			}
			return ctx.Err()
		}
		if *out != "" {
			return writeNew(*out, issue)
		}
		if f, ok := a.stdout.w.(*os.File); ok {
			if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
				a.tell(fmt.Sprintf("the file that the tokens go to can be read or written by others (mode %04o), who can spend them: use --out FILE, or chmod 600 it", info.Mode().Perm()))
			}
		}
		return issue(a.stdout)
	})
}

// mustServe returns an error unless the data folder has the keyserver of the domain. It asks
// the running server, or looks into the database.
func (a *app) mustServe(ctx context.Context, c *keyserverConfig) error {
	domain, err := operator.NewClient(c.operator).Domain(ctx)
	if notRunning(err) || errors.Is(err, fs.ErrPermission) {
		return a.withService(ctx, c, true, func(*keyserver.Service) error { return nil })
	}
	if err == nil && domain != c.domain {
		err = fmt.Errorf("%s has the keyserver of %s, not of %s", filepath.Dir(c.dir), domain, c.domain)
	}
	return err
}

func (a *app) keyserverBackupCommand() *cobra.Command {
	return a.onKeyserver(&cobra.Command{
		Use:   "backup FILE",
		Short: "Back up the keyserver's database",
		Long: `backup writes the keyserver's database to a new file, as it is at one moment. A
running server does it itself and goes on meanwhile; without one, it is done here,
also for a database that an earlier keytree has made, which stays as it is, and by any user
who can read it.

The key file is not in it: keep a copy of that apart, and another after each
rotate-key. A backup that is not the newest state must not be put into service again
lightly: clients that have seen later entries will find that they are gone. A server
with anchors refuses one that is older than the last of them.`,
		Example: `  keytree keyserver backup /backup/keyserver-2026-01-31 --keyserver-domain example.org`,
		Args:    takes("FILE"),
	}, func(ctx context.Context, c *keyserverConfig, args []string) error {
		return writeNew(args[0], func(to io.Writer) error {
			err := operator.NewClient(c.operator).Backup(ctx, to)
			// Who may not ask a server may read a database that none has open.
			if notRunning(err) || errors.Is(err, fs.ErrPermission) {
				err = a.withService(ctx, c, true, func(s *keyserver.Service) error { return s.Backup(ctx, to) })
			}
			return err
		})
	})
}

// writeNew writes a file that is there only when it is whole and on disk. It
// overwrites none.
func writeNew(path string, write func(io.Writer) error) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s exists already: expected the name of a new file", path))
	}
	return durable.Replace(path, 0o600, write)
}

func (a *app) keyserverRestoreCommand() *cobra.Command {
	return a.onKeyserver(&cobra.Command{
		Use:   "restore FILE",
		Short: "Make the keyserver's database from a backup",
		Long: `restore makes the database in the data folder, where none may be, from a backup, and
verifies it with the key file, which has to be in its place. Compare the position
that it prints with what others have seen: what was registered later is lost.`,
		Example: `  keytree keyserver restore /backup/keyserver-2026-01-31 --keyserver-domain example.org`,
		Args:    takes("FILE"),
	}, func(ctx context.Context, c *keyserverConfig, args []string) error {
		if err := mayWrite(filepath.Dir(c.dir), c.folders()...); err != nil {
			return err
		}
		if _, err := os.Stat(c.keyFile); err != nil {
			return fmt.Errorf("the key file that belongs to the backup: %w", err)
		}
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		if err := keyserver.Restore(ctx, c.options(zerolog.Nop()), f); err != nil {
			return err
		}
		return a.withService(ctx, c, true, func(s *keyserver.Service) error { return a.printHead(ctx, c, s, "restored") })
	})
}

func (a *app) keyserverFsckCommand() *cobra.Command {
	return a.onKeyserver(&cobra.Command{
		Use:   "fsck",
		Short: "Check the keyserver's database",
		Long: `fsck compares everything in the keyserver's database with everything else in it:
the files with their checksums, the hashchain and its Merkle tree, every reply with
its entry and signature, every identity with its messages, every KeyInit. No server
may be running on it, unless it is in PostgreSQL. Nothing is repaired: restore a backup. Nor is a database that an
earlier keytree has made converted: serve does that when it starts.

It changes nothing, like keytree fsck, and any user who can read the database can check
it. One who cannot read the key file is told that this was not compared.`,
		Example: `  keytree keyserver fsck --keyserver-domain example.org`,
		Args:    takes(),
	}, func(ctx context.Context, c *keyserverConfig, _ []string) error {
		return a.withService(ctx, c, true, func(s *keyserver.Service) error {
			if err := s.Check(ctx); err != nil {
				return err
			}
			return a.printHead(ctx, c, s, "sound")
		})
	})
}

// printHead says how it is with a database, and where its hashchain ends.
func (a *app) printHead(ctx context.Context, c *keyserverConfig, s *keyserver.Service, how string) error {
	entry, position, err := s.LastEntry(ctx)
	if err != nil {
		return err
	}
	chain := s.Chain()
	fmt.Fprintf(a.stdout, "%s is %s: the keyserver of %s, %d entries, the last one %s at position %d, tree root %s\n",
		c.where(), how, c.domain, chain.Size, entry.Hash(), position, chain.Root())
	return nil
}
