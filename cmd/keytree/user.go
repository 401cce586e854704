package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

func (a *app) userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Be a user of a keyserver: copy its hashchain, register, look others up",
		Long: `user does what a user of a keyserver does, trusting it as little as possible.

  keytree user init      begin a copy of a keyserver's hashchain
  keytree user create    register an identity, with an escrow key for paper
  keytree user confirm   wait for others to follow, then verify; tell the name then
  keytree user keyinit   publish, fetch and flush keys for the beginning of sessions
  keytree user lookup    find out who is behind a name, by the local copy alone
  keytree user proof     save what shows to others that a name is in the hashchain
  keytree user send      begin a session with somebody; receive and answer messages
  keytree user sessions  show the messages again with which sessions began
  keytree user update    new signature key, another year
  keytree user pending   see what was begun and not finished; make it again, or cancel it
  keytree user recover   new keys with the help of the paper
  keytree user resync    begin the copy again, if it is damaged or wrong

Everything the keyserver says is verified. What does not fit, a rewritten or withheld
entry above all, ends the command with the position in the hashchain. Most of what is
said is not signed, so that it may come from somebody between: it is not kept, and
nobody is accused. If the keyserver has signed it, it misbehaves, and that is kept as
evidence in the user's folder.

The folder is --user-dir, by default user in the data folder: one for each
keyserver. Private keys are encrypted in it. The passphrase comes from
--passphrase-file, the environment variable KEYTREE_PASSPHRASE or the terminal, also
where standard input is something else. Tokens to pay with come from --tokens FILE,
one a line; spent ones are removed. What others wrote is printed without what a
terminal would take for commands, and texts of theirs are set off line by line.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("expected one of: user init, sync, resync, status, create, confirm, update, recover, pending, keyinit, lookup, proof, send, receive, answer, sessions")
		},
	}
	cmd.AddCommand(
		a.userInitCommand(), a.userSyncCommand(), a.userResyncCommand(), a.userStatusCommand(),
		a.userCreateCommand(), a.userConfirmCommand(), a.userUpdateCommand(), a.userRecoverCommand(), a.userPendingCommand(),
		a.userKeyInitCommand(), a.userLookupCommand(), a.userProofCommand(),
		a.userSendCommand(), a.userReceiveCommand(), a.userAnswerCommand(), a.userSessionsCommand(),
	)
	return cmd
}

// userFlags are what all user commands take.
type userFlags struct {
	app     *app
	flags   *pflag.FlagSet
	dataDir *string
	userDir *string
	ca      *caFlag
	json    *bool
	looks   bool          // the command changes nothing in the folder
	pays    *bool         // --plaintext; nil for a command that pays nothing
	line    *progressLine // nil without a terminal
}

func (a *app) userFlags(cmd *cobra.Command) *userFlags {
	flags := cmd.Flags()
	u := &userFlags{
		app: a, flags: flags,
		dataDir: placeFlags(flags),
		userDir: flags.String("user-dir", "", "`DIR` of the copy of the hashchain and of the user's keys (default user in the data folder)"),
		ca:      newCAFlag(flags, "keyserver-ca"),
		json:    flags.Bool("json", false, "print the outcome as JSON, one object a line"),
	}
	setting(flags, "user-dir")
	return u
}

// dir is the user's folder.
func (u *userFlags) dir() (string, error) {
	switch {
	case *u.userDir != "":
		return *u.userDir, nil
	case *u.dataDir != "":
		return filepath.Join(*u.dataDir, "user"), nil
	}
	return "", usagef("no folder given, and the system has no home folder to put one into: expected --user-dir DIR")
}

// mayUse returns the user's folder, unless the command would change it and it is another's.
func (u *userFlags) mayUse() (string, error) {
	dir, err := u.dir()
	if err == nil && !u.looks {
		err = keepOwner(dir)
	}
	return dir, err
}

// tell says something on standard error.
func (a *app) tell(text string) { fmt.Fprintf(a.stderr, "keytree: %s\n", oneLine(errors.New(text))) }

// use opens the user's folder with open and lets job work with it.
func (u *userFlags) use(open func(dir string, opt keyclient.Options) (*keyclient.Client, error), job func(*keyclient.Client) error) (err error) {
	dir, err := u.mayUse()
	if err != nil {
		return err
	}
	transport, err := u.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	opt := keyclient.Options{Transport: transport, Notice: u.app.tell, Plaintext: u.pays != nil && *u.pays}
	if isTerminal(u.app.stderr) {
		u.line = &progressLine{w: u.app.stderr}
		defer u.line.clear()
		said := time.Time{}
		opt.Progress = func(what string, done, all uint64) {
			if now := time.Now(); now.Sub(said) >= 100*time.Millisecond {
				said = now
				u.line.show("%s  %d of %d entries (%d %%)", what, done, all, 100*done/max(all, 1))
			}
		}
	}
	c, err := open(dir, opt)
	if c != nil {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	if err == nil {
		err = job(c)
	}
	return explainUser(err)
}

// explainUser adds to an error what to do.
func explainUser(err error) error {
	for _, hint := range []struct {
		err  error
		todo string
	}{
		{keyclient.ErrNotInitialized, "begin with keytree user init"},
		{keyclient.ErrDamagedCopy, "keytree user resync downloads it again"},
		{keyclient.ErrDamaged, "take it from a backup; or keytree user init another folder, and copy the files in identities there"},
		{keyclient.ErrContradiction, "try another network, and compare keytree user status with others'; if it is the copy that is wrong, keytree user resync downloads it again"},
		{keyclient.ErrNoQuorum, "try again later, or on another network; keytree user sync --policy FILE demands other witnesses"},
		{keyclient.ErrOldQuorum, "try again later, or on another network; or is this machine's clock right?"},
		{keyclient.ErrNotCovered, "keytree user sync, and try again later"},
		{keyclient.ErrFingerprint, "try another network, unless the fingerprint or the URL is wrong"},
		{keyclient.ErrUnsigned, "nothing of it was taken; try again, or on another network"},
		{keyclient.ErrLocked, "try again when it has ended"},
		{keyclient.ErrUnknown, "ask for the exact name, and whether it was registered with this keyserver"},
		{keyclient.ErrToken, "give them in --tokens FILE, one a line"},
		{keyclient.ErrSpent, "take it out of the file of --tokens: the next in it may be good"},
		{keyclient.ErrPlaintext, "use its https:// URL (keytree user init --keyserver URL), or say --plaintext if that is meant"},
		{keyclient.ErrNoIdentity, "keytree user status lists yours, keytree user create makes one, keytree user recover brings one back from its paper key"},
		{keyclient.ErrExists, "keytree user update gives it new keys and another year"},
		{keyclient.ErrPending, "call it again, or see keytree user pending"},
		{keyclient.ErrPassphrase, "nothing was changed"},
		{keyclient.ErrOvertaken, "if it was not you on another machine, keytree user recover takes it back"},
	} {
		if errors.Is(err, hint.err) {
			return fmt.Errorf("%w: %s", err, hint.todo)
		}
	}
	return err
}

// with opens the user's folder and lets job work with it.
func (u *userFlags) with(job func(*keyclient.Client) error) error { return u.use(keyclient.Open, job) }

// look is with for a job that changes nothing.
func (u *userFlags) look(job func(*keyclient.Client) error) error {
	u.looks = true
	return u.use(keyclient.OpenReadOnly, job)
}

func (u *userFlags) transport() (*http.Transport, error) { return keyserverTransport(u.ca) }

// keyserverTransport reaches keyservers, also those whose certificates only a file
// vouches for.
func keyserverTransport(ca *caFlag) (*http.Transport, error) {
	config, err := ca.trust()
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = config
	return t, nil
}

// print prints an outcome: as JSON, or else by text. It fails unless all was written.
func (u *userFlags) print(outcome any, text func(out io.Writer)) error {
	if u.line != nil {
		u.line.clear()
	}
	var b strings.Builder
	show := harmless
	if *u.json {
		show = harmlessJSON
		if err := json.NewEncoder(&b).Encode(outcome); err != nil {
			return err
		}
	} else {
		text(&b)
	}
	_, err := io.WriteString(u.app.stdout, show(b.String()))
	return err
}

// identityArgument checks an identity from the command line.
func identityArgument(s string) (string, error) {
	mapped, err := uid.Map(s)
	if err == nil {
		_, domain, _ := uid.Split(mapped)
		err = uid.CheckDomain(domain)
	}
	if err != nil {
		return "", usagef("expected NAME@DOMAIN, got %q: %w", shortened(s), err)
	}
	return mapped, nil
}

func (a *app) userInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --keyserver URL",
		Short: "Begin a copy of a keyserver's hashchain",
		Long: `init asks a keyserver what it offers, and downloads its hashchain from the first
entry on, verifying it as it arrives and following the keyserver's own keys
through it. An interrupted download goes on when init, or sync, is called again.
Called with another URL, init goes on there, if the hashchain is the same.

The fingerprint that is printed, the hash of the first entry, names the hashchain:
compare it with what the keyserver's operator has published, or others have. With
--fingerprint nothing else is taken. --policy pins witnesses, as of keytree user sync.`,
		Example: `  keytree user init --keyserver https://keys.example.org/
  keytree user init --keyserver http://127.0.0.1:8436/ --user-dir ~/alice --fingerprint 3f2c...`,
		Args: takes(),
	}
	u := a.userFlags(cmd)
	url := newParsed("URL", "http://"+defaultKeyserver+"/", func(s string) (string, error) { return s, keyclient.CheckURL(s) })
	u.flags.Var(url, "keyserver", "where the keyserver is")
	domain := u.flags.String("domain", "", "`DOMAIN` to use, of a keyserver that serves several")
	fingerprint := newParsed("HEX", "", parseFingerprint)
	u.flags.Var(fingerprint, "fingerprint", "hash of the first entry, 64 hex characters; refuse any other hashchain")
	policy := u.policyFlag()
	setting(u.flags, "keyserver")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		pin, _, err := policy()
		if err != nil {
			return err
		}
		return u.use(func(dir string, opt keyclient.Options) (*keyclient.Client, error) {
			opt.Policy = pin
			return keyclient.Init(cmd.Context(), dir, url.value, *domain, fingerprint.value, opt)
		}, u.printStatus)
	}
	return cmd
}

// policyFlag says which witnesses are pinned: pin is nil for none, and given tells whether anything was said.
func (u *userFlags) policyFlag() func() (pin []byte, given bool, err error) {
	path := u.flags.String("policy", "", "`FILE` that names witnesses, and how many of them must have cosigned what the keyserver shows (C2SP tlog-policy), pinned from now on; none ends it")
	return func() ([]byte, bool, error) {
		if *path == "" || *path == "none" {
			return nil, *path != "", nil
		}
		policy, text, err := readPolicyText(*path)
		if err != nil {
			return nil, false, fmt.Errorf("--policy: %w", err)
		}
		if !policy.Demands() {
			return nil, false, usagef("--policy: %s demands no witness: expected a line quorum NAME; --policy none pins nothing", *path)
		}
		return text, true, nil
	}
}

// parseFingerprint reads the hash of a hashchain's first entry.
func parseFingerprint(s string) (*hashchain.Hash, error) {
	id, err := parseTxID(s) // has the same form, but the bytes in reverse
	h := hashchain.Hash{}
	for i := range h {
		h[i] = id[len(id)-1-i]
	}
	return &h, err
}

func (a *app) userSyncCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Bring the copy of the hashchain up to date",
		Long: `sync downloads and verifies what the hashchain has grown by. Entries come unsigned:
they are taken as far as the keyserver has signed a reply that covers them. If the
hashchain does not go on from the copy, the position is named. Somebody between may
be the cause, unless the keyserver has signed the other entry: that is evidence.

The copy has to contain the checkpoint that the keyserver's log shows. --policy FILE, in
the form of C2SP's tlog-policy, pins witnesses, from now on: its quorum of them must have
cosigned a checkpoint that the copy contains, within 24h. What everybody's witnesses have
cosigned everybody sees, without knowing each other. Entries that came after that are
taken, and told as not witnessed yet. Who has such a checkpoint goes on while witnesses are
away. --policy none ends it.

--recheck downloads everything again and compares each entry with the copy.`,
		Example: `  keytree user sync
  keytree user sync --policy witnesses.policy
  keytree user sync --recheck --json`,
		Args: takes(),
	}
	u := a.userFlags(cmd)
	recheck := u.flags.Bool("recheck", false, "compare the whole hashchain with the copy, too")
	policy := u.policyFlag()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		pin, given, err := policy()
		if err != nil {
			return err
		}
		return u.with(func(c *keyclient.Client) error {
			if given {
				if err := c.Pin(pin); err != nil {
					return err
				}
			}
			if _, err := c.Sync(cmd.Context()); err != nil {
				return err
			}
			if *recheck {
				if err := c.Recheck(cmd.Context()); err != nil {
					return err
				}
			}
			return u.printStatus(c)
		})
	}
	return cmd
}

func (a *app) userResyncCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resync",
		Short: "Begin the copy of the hashchain again",
		Long: `resync drops the copy of the hashchain, and what was found in it, and downloads it
again: because it is damaged, or because the copy is wrong where the keyserver seems
to contradict it.

It keeps the fingerprint, with which the hashchain that comes has to begin, the
user's own identities with their keys, and evidence. What the keyserver had signed
about the old copy the new one has to agree with, too. It refuses while another
process uses the folder, and drops nothing before the keyserver has shown the same
first entry. If it is interrupted, keytree user sync goes on.`,
		Example: `  keytree user resync
  keytree user resync --user-dir ~/alice --json`,
		Args: takes(),
	}
	u := a.userFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return u.use(func(dir string, opt keyclient.Options) (*keyclient.Client, error) {
			return keyclient.Resync(cmd.Context(), dir, opt)
		}, func(c *keyclient.Client) error {
			fmt.Fprintln(a.stderr, "keytree: kept the fingerprint, your identities, and evidence; dropped the copy of the hashchain and what was found in it, and downloaded it again")
			return u.printStatus(c)
		})
	}
	return cmd
}

func (a *app) userStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how far the copy goes, which identities are the user's own, and how they are",
		Long: `status tells how far the copy goes, and which identities are the user's own. With the
passphrase it also tells of each how far it has come, until when it is valid, and how
many KeyInits the keyserver has left of it, and warns of what needs something to be
done. Without a passphrase, or without the keyserver, it tells the rest.`,
		Example: `  keytree user status
  keytree user status --passphrase-file pass.txt --json`,
		Args: takes(),
	}
	u := a.userFlags(cmd)
	passphrase := u.passphraseFlag()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		u.looks = true
		names, _, err := u.peek()
		if err != nil {
			return err
		}
		who, err := u.passphrases(cmd.Context(), names, passphrase)
		if err != nil {
			return err
		}
		return u.look(func(c *keyclient.Client) error { return u.printStatusOf(c, u.states(cmd.Context(), c, names, who)) })
	}
	return cmd
}

// userStatus is what --json prints of a copy.
type userStatus struct {
	Domain      string       `json:"domain"`
	URL         string       `json:"url"`
	Entries     uint64       `json:"entries"`
	Head        string       `json:"head"`
	Fingerprint string       `json:"fingerprint"`
	ServerKeys  []userSigKey `json:"server_keys"`
	NotAfter    uint64       `json:"server_not_after"`
	// Witnessed is how far the pinned witnesses have cosigned the copy; absent if none are pinned.
	Witnessed  *userWitnessed `json:"witnessed,omitempty"`
	Identities []string       `json:"identities"`
	// States tells more of each, in the order of Identities, where the passphrase is at hand.
	States []userState `json:"states,omitempty"`
}

// userWitnessed is how far witnesses have cosigned the copy.
type userWitnessed struct {
	Entries     uint64   `json:"entries"`
	By          []string `json:"by"` // as the policy names them
	Unwitnessed uint64   `json:"unwitnessed"`
}

func witnessedOf(c *keyclient.Client) (*userWitnessed, error) {
	w, err := c.Witnessed()
	if w == nil || err != nil {
		return nil, err
	}
	return &userWitnessed{w.Entries, append([]string{}, w.By...), c.Size() - min(w.Entries, c.Size())}, nil
}

// userSigKey is a public signature key and the position of the entry that named it.
type userSigKey struct {
	Position uint64 `json:"position"`
	Public   []byte `json:"public"` // base64
}

func userSigKeys(keys []keyclient.SigKey) []userSigKey {
	list := []userSigKey{}
	for _, k := range keys {
		list = append(list, userSigKey{k.Position, k.Public})
	}
	return list
}

func (u *userFlags) printStatus(c *keyclient.Client) error { return u.printStatusOf(c, nil) }

func (u *userFlags) printStatusOf(c *keyclient.Client, states []userState) error {
	names, err := c.Names()
	if err != nil {
		return err
	}
	s := userStatus{
		Domain: c.Domain(), URL: c.URL(), Entries: c.Size(), Head: c.Head().String(), Fingerprint: c.Fingerprint().String(),
		ServerKeys: userSigKeys(c.ServerKeys()), NotAfter: c.ServerNotAfter(), Identities: append([]string{}, names...), States: states,
	}
	if s.Witnessed, err = witnessedOf(c); err != nil {
		return err
	}
	if s.NotAfter != 0 && !uid.Trusted(s.NotAfter, uint64(time.Now().Unix())) {
		u.app.tell(fmt.Sprintf("the keyserver's own key expired at %s and was not renewed", date(s.NotAfter)))
	}
	for _, state := range states {
		for _, warning := range state.Warnings {
			u.app.tell(state.Identity + ": " + warning)
		}
	}
	return u.print(s, func(out io.Writer) {
		fmt.Fprintf(out, "keyserver    %s (%s)\n", s.Domain, s.URL)
		fmt.Fprintf(out, "hashchain    %d entries, head %s\n", s.Entries, s.Head)
		fmt.Fprintf(out, "fingerprint  %s\n", s.Fingerprint)
		if w := s.Witnessed; w != nil {
			fmt.Fprintf(out, "witnessed    %d entries, by %s; %d behind them not yet\n", w.Entries, strings.Join(w.By, ", "), w.Unwitnessed)
		}
		for _, k := range s.ServerKeys {
			fmt.Fprintf(out, "server key   %x since position %d\n", k.Public, k.Position)
		}
		for _, name := range s.Identities {
			fmt.Fprintf(out, "yours        %s\n", name)
			for _, state := range states {
				if state.Identity == name {
					state.text(out)
				}
			}
		}
	})
}

func (a *app) userLookupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lookup NAME",
		Short: "Find out who is behind a name",
		Long: `lookup brings the copy of the hashchain up to date and searches all of it for a
name, on all cores: the keyserver does not learn which. Of what is found it fetches
the UID messages and verifies each against the one before it. The next look-up of
the name goes on where this one ended, or was interrupted.`,
		Example: `  keytree user lookup alice@example.org
  keytree user lookup alice@example.org --no-sync --json`,
		Args: takes("NAME"),
	}
	u := a.userFlags(cmd)
	noSync := u.flags.Bool("no-sync", false, "search the copy as it is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		return u.with(func(c *keyclient.Client) error {
			contact, err := lookUp(cmd.Context(), c, name, !*noSync)
			if err != nil {
				return err
			}
			return u.printContact(c, contact)
		})
	}
	return cmd
}

// lookUp finds out who is behind a name, after bringing the copy up to date if sync
// is set.
func lookUp(ctx context.Context, c *keyclient.Client, name string, sync bool) (*keyclient.Contact, error) {
	if sync {
		if _, err := c.Sync(ctx); err != nil {
			return nil, err
		}
	}
	return c.Lookup(ctx, name)
}

// userContact is what --json prints of a look-up.
type userContact struct {
	Identity   string       `json:"identity"`
	Trusted    bool         `json:"trusted"` // not expired
	NotAfter   uint64       `json:"not_after"`
	Position   uint64       `json:"position"` // of the entry in force
	UIDIndex   []byte       `json:"uid_index"`
	MsgCount   uint64       `json:"msg_count"`
	SigKeys    []userSigKey `json:"sig_keys"` // the last is the present one
	ForwardSec string       `json:"forward_sec"`
	MixAddress string       `json:"mix_address"`
	NymAddress string       `json:"nym_address"`
	Entries    []uint64     `json:"entries"` // positions of all
	Searched   uint64       `json:"searched"`
	// Unwitnessed says that the pinned witnesses have not cosigned the entry in force yet.
	Unwitnessed bool `json:"unwitnessed,omitempty"`
}

func (u *userFlags) printContact(c *keyclient.Client, contact *keyclient.Contact) error {
	content := &contact.Message().Content
	o := userContact{
		Identity: contact.Identity, Trusted: c.Trusted(contact) == nil, NotAfter: content.NotAfter,
		Position: contact.Position(), UIDIndex: contact.UIDIndex[:], MsgCount: content.MsgCount, SigKeys: userSigKeys(contact.Keys),
		ForwardSec: content.Preferences.ForwardSec, MixAddress: content.MixAddress, NymAddress: content.NymAddress,
		Entries: contact.Positions, Searched: c.Size(),
	}
	w, err := witnessedOf(c)
	if err != nil {
		return err
	}
	if o.Unwitnessed = w != nil && o.Position >= w.Entries; o.Unwitnessed {
		u.app.tell(fmt.Sprintf("%s: no quorum of the pinned witnesses has cosigned the entry at position %d yet: others may be shown another", o.Identity, o.Position))
	}
	if !o.Trusted {
		u.app.tell(fmt.Sprintf("%s expired at %s and was not renewed: do not rely on it", o.Identity, date(o.NotAfter)))
	}
	return u.print(o, func(out io.Writer) {
		fmt.Fprintf(out, "%s, message %d, position %d, valid until %s\n", o.Identity, o.MsgCount, o.Position, date(o.NotAfter))
		for _, k := range o.SigKeys {
			fmt.Fprintf(out, "signature key  %x since position %d\n", k.Public, k.Position)
		}
		fmt.Fprintf(out, "forward sec.   %s\n", o.ForwardSec)
		if o.MixAddress != "" {
			fmt.Fprintf(out, "mix address    %s %s\n", o.MixAddress, o.NymAddress)
		}
	})
}
