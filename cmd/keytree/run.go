package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1 // the job failed
	exitUsage  = 2 // it was asked for in a way that is not understood
	// exitMisbehaviour is audit's and verify's: there is evidence.
	exitMisbehaviour = 3
)

// app is one run of the command line.
type app struct {
	args   []string // the command line, without the program's name
	stdin  io.Reader
	stdout *output
	stderr io.Writer
	// begun is set when flags, arguments and settings were understood: what fails
	// earlier is wrong usage.
	begun bool
}

// run executes one command line, without the program's name, and returns the
// exit code. The end of ctx is a request to stop.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &app{args: args, stdin: stdin, stdout: &output{w: stdout, failed: cancel}, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(slices.Concat([]string{}, args)) // never nil, for which cobra takes os.Args
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(stderr)

	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && a.stdout.err == nil {
		return exitDone
	}
	if ctx.Err() != nil && (a.begun || a.stdout.err != nil) {
		fmt.Fprintf(stderr, "keytree: %s\n", oneLine(context.Cause(ctx)))
		return exitFailed
	}
	if !a.begun || errors.As(err, new(usageError)) {
		fmt.Fprintf(stderr, "keytree: %s (see %s --help)\n", oneLine(err), cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(stderr, "keytree: %s\n", oneLine(err))
	if errors.As(err, new(misbehaviour)) {
		return exitMisbehaviour
	}
	return exitFailed
}

// usageError is what a command finds wrong with what it was given after it has
// begun.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

var lineBreaks = regexp.MustCompile(`\s*[\r\n]+\s*`)

// oneLine returns an error's text with its lines joined, fit to be shown.
func oneLine(err error) string {
	return harmless(withoutSecrets(lineBreaks.ReplaceAllString(strings.TrimSpace(err.Error()), "; ")))
}

// output is standard output. When it fails the command ends: a full disk must
// not look like success, and nobody may read on behind a closed pipe.
type output struct {
	w      io.Writer
	failed context.CancelCauseFunc // called with the first error
	err    error                   // owned by the goroutine that runs the command
}

func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	if err != nil {
		o.err = fmt.Errorf("writing the output: %w", err)
		o.failed(o.err)
	}
	return n, o.err
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "keytree",
		Short: "Delegated keys (MIP-0003) on Bitcoin Cash",
		Long: `keytree tells which identity is behind a Bitcoin Cash address: it indexes the
link transactions of MIP-0003 from a node and answers over gRPC and REST.

  keytree demo      everything at work on a private network, nothing to set up;
                    demo keyserver does it for the keyserver
  keytree serve     index a node's chain and answer questions
  keytree snapshot  make a file with which others begin, and trust nobody for it
  keytree import    index a node's block files first, much faster
  keytree resolve   ask a server which identity is behind an address
  keytree verify    check offline what a server has proven
  keytree compare   tell whether servers agree
  keytree link      publish link transactions
  keytree signin    sign in by a key, as apps have people do it
  keytree fsck      check a server's database
  keytree keyserver run a keyserver, and look after it
  keytree anchor    look after the anchors of a keyserver
  keytree user      be a user of a keyserver: register, look others up
  keytree audit     find out whether a keyserver has shown everyone one history

Settings come from, in this order: flags, environment variables (KEYTREE_ and
the flag's name: --data-dir is KEYTREE_DATA_DIR), a config file, defaults. The
config file is YAML, one "flag: value" a line; it is --config FILE, or
keytree.yaml in the data folder if that exists. Flags that say what one call is
about (--at, --json, --dry-run, ...) are taken from the command line alone.

Exit codes: 0 done, 1 the job failed, 2 wrong usage, 3 audit or verify found misbehaviour.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		a.serveCommand(), a.importCommand(), a.snapshotCommand(), a.demoCommand(),
		a.statusCommand(), a.resolveCommand(), a.treeCommand(), a.historyCommand(), a.inboxCommand(), a.watchCommand(), a.compareCommand(), a.verifyCommand(),
		a.linkCommand(), a.signInCommand(), a.fsckCommand(), a.keyserverCommand(), a.witnessCommand(), a.anchorCommand(), a.userCommand(), a.auditCommand(), a.verifyProofCommand(), a.versionCommand(),
	)
	root.SetHelpCommand(helpCommand())
	a.prepare(root)
	return root
}

// helpCommand is in place of cobra's own, which takes an unknown command for a
// success.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Print the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, left, err := cmd.Root().Find(args)
			if err != nil || len(left) > 0 {
				return usagef("no command is called %q", shortened(strings.Join(args, " ")))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// refuseKeys refuses a private key where a path, or anything else, belongs: a command would
// make a file of that name, and logs would repeat it.
func refuseKeys(flags *pflag.FlagSet, args []string) error {
	for i, arg := range args {
		if wif.MatchString(arg) {
			return fmt.Errorf("argument %d looks like a private key, which no command takes there: it belongs into a file that only its owner can read", i+1)
		}
	}
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if kind, _ := pflag.UnquoteUsage(f); (kind == "FILE" || kind == "DIR") && wif.MatchString(f.Value.String()) {
			err = fmt.Errorf("--%s: expected a path, got what looks like a private key: a key belongs into a file that only its owner can read", f.Name)
		}
	})
	return err
}

// prepare has every command read its settings before it begins.
func (a *app) prepare(cmd *cobra.Command) {
	job := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := readSettings(cmd); err != nil {
			return err
		}
		if err := refuseKeys(cmd.Flags(), args); err != nil {
			return err
		}
		a.begun = true
		return job(cmd, args)
	}
	for _, sub := range cmd.Commands() {
		a.prepare(sub)
	}
}

// flagError makes the errors of flags say what was expected. It leaves out what
// came, which the checks name themselves unless it could be secret.
func flagError(_ *cobra.Command, err error) error {
	if invalid := new(pflag.InvalidValueError); errors.As(err, &invalid) {
		return fmt.Errorf("--%s: %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	return err
}

// takes checks that there is one argument for each name, and no other.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", shortened(args[len(names)]))
		case len(args) < len(names):
			return fmt.Errorf("expected %s, got nothing", names[len(args)])
		}
		return nil
	}
}
