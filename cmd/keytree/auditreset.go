package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/audit"
)

func (a *app) auditResetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset --genesis TXID",
		Short: "Have the next audit begin again from what is pinned",
		Long: `reset drops what was verified of a keyserver: the copy of its hashchain, its anchors,
and what it has signed. The next audit gets all of that again. It is for a folder
that is damaged, or with which something is wrong that an audit cannot mend.

It keeps the pinned genesis anchor, the first entry of the hashchain, the replies
that name the keyserver's keys, and the evidence: who was convicted stays so. It
refuses while another process uses the folder. Whenever it is interrupted, all is
still there, or nothing but the pins.`,
		Example: `  keytree audit reset --genesis 3f2c...
  keytree audit reset --genesis 3f2c... --state ~/audits/example.org`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	network, genesis := networkFlag(flags), genesisFlag(flags)
	state := stateFlag(flags)
	cmd.RunE = func(*cobra.Command, []string) error {
		if genesis.text == "" {
			return usagef("no genesis anchor given: expected --genesis TXID of the audit to reset")
		}
		dir, err := auditDir(*state, *dataDir, genesis.value.String())
		if err != nil {
			return err
		}
		if err := keepOwner(dir); err != nil {
			return err
		}
		pins, err := audit.Reset(audit.Config{Dir: dir, Network: network.value, Genesis: genesis.value})
		if err != nil {
			return explainAudit(err)
		}
		fmt.Fprintf(a.stdout, "kept     genesis anchor %v\n", pins.Genesis)
		if pins.Fingerprint != nil {
			fmt.Fprintf(a.stdout, "kept     first entry of the hashchain %v, %d replacements of the keyserver's key\n", pins.Fingerprint, len(pins.Rotations))
		}
		fmt.Fprintf(a.stdout, "kept     evidence in %s\n", filepath.Join(dir, "evidence"))
		fmt.Fprintf(a.stdout, "dropped  the copy of the hashchain, the anchors, signed heads and replies: the next keytree audit gets them again\n")
		return nil
	}
	return cmd
}

// auditDir is the folder of the audits of a chain of anchors.
func auditDir(state, dataDir, genesis string) (string, error) {
	switch {
	case state != "":
		return state, nil
	case dataDir != "":
		return filepath.Join(dataDir, "audit", genesis), nil
	}
	return "", usagef("no folder given, and the system has no home folder to put one into: expected --state DIR")
}

// explainAudit adds to an error of an audit what to do.
func explainAudit(err error) error {
	if errors.Is(err, audit.ErrDamaged) {
		return fmt.Errorf("%w: keytree audit reset has the next audit get it again", err)
	}
	return err
}
