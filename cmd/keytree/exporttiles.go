package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/rpc/operator"
)

func (a *app) exportTilesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export-tiles DIR",
		Short: "Write the keyserver's transparency log as files for any static host",
		Long: `export-tiles writes the keyserver's transparency log below DIR as it serves it below /keytree/:
checkpoint, tiles and entry bundles, for any static host or CDN. Readers then need no server
of the keyserver's. What a former export has left is continued; the checkpoint is written last,
when all that it covers is on disk.

A running server is asked, through a socket in the data folder that only its owner can open;
without one, the database is read. --follow goes on with each new checkpoint of the running
server until it is interrupted.`,
		Example: `  keytree keyserver export-tiles /srv/www/keytree --keyserver-domain example.org --follow`,
		Args:    takes("DIR"),
	}
	follow := cmd.Flags().Bool("follow", false, "go on until interrupted, with each new checkpoint of the running server")
	return a.onKeyserver(cmd, func(ctx context.Context, c *keyserverConfig, args []string) error {
		tell := func(size, before uint64) {
			fmt.Fprintf(a.stdout, "%s has the log of %s with %d entries, %d of them new\n", args[0], c.log.Origin, size, size-before)
		}
		export := func(from tlog.Reader) error {
			size, before, err := tlog.Export(ctx, from, args[0])
			if err == nil {
				tell(size, before)
			}
			return err
		}
		server := operator.NewClient(c.operator)
		err := export(server)
		// Who may not ask a server may read a database that none has open.
		if !*follow && (notRunning(err) || errors.Is(err, fs.ErrPermission)) {
			return a.withService(ctx, c, true, func(s *keyserver.Service) error {
				opt := c.log
				opt.Source, opt.ReadOnly = s, true
				l, err := tlog.Open(opt)
				if err != nil {
					return fmt.Errorf("transparency log: %w", err)
				}
				return export(l)
			})
		}
		if err != nil || !*follow {
			return err
		}
		return tlog.Follow(ctx, server, args[0], tell)
	})
}
