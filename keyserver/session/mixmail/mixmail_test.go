package mixmail_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/session/mixmail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var letter = session.Letter{
	To:      session.Address{Mix: "mix@mix.example", Nym: []byte("nym\x00\r\n.\r\n")},
	Message: bytes.Repeat([]byte("KTS1\x01.\r\n.\r\n\x00"), 500),
}

// server is a real mail server on loopback, which keeps what it is given.
type server struct {
	address string
	refuse  error // to RCPT
	user    string

	mu    sync.Mutex
	mails []mail // mu
}

type mail struct {
	from, to string
	content  []byte
	secure   bool
}

// serve starts a server. tlsConfig may be nil; implicit is TLS from the first byte.
func serve(t *testing.T, s *server, tlsConfig *tls.Config, implicit bool) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	backend := smtp.NewServer(s)
	backend.TLSConfig, backend.Domain, backend.AllowInsecureAuth = tlsConfig, "mail.example", true
	backend.MaxMessageBytes = 1 << 20
	backend.ErrorLog = silent{}
	if implicit {
		listener = tls.NewListener(listener, tlsConfig)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		backend.Serve(listener) // until Close
	}()
	t.Cleanup(func() {
		backend.Close()
		listener.Close() // in case that Serve has not begun
		<-ended
	})
	return s
}

// silent takes what the server has to say about clients that leave.
type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// NewSession implements smtp.Backend.
func (s *server) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, secure := c.TLSConnectionState()
	return &talk{server: s, mail: mail{secure: secure}, authorized: s.user == ""}, nil
}

type talk struct {
	server     *server
	mail       mail
	authorized bool
}

func (k *talk) AuthMechanisms() []string { return []string{sasl.Plain} }

func (k *talk) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != k.server.user || password != "secret" {
			return smtp.ErrAuthFailed
		}
		k.authorized = true
		return nil
	}), nil
}

func (k *talk) Mail(from string, _ *smtp.MailOptions) error {
	if !k.authorized {
		return smtp.ErrAuthRequired
	}
	k.mail.from = from
	return nil
}

func (k *talk) Rcpt(to string, _ *smtp.RcptOptions) error {
	k.mail.to = to
	return k.server.refuse
}

func (k *talk) Data(r io.Reader) (err error) {
	k.mail.content, err = io.ReadAll(r)
	if err == nil {
		k.server.mu.Lock()
		defer k.server.mu.Unlock()
		k.server.mails = append(k.server.mails, k.mail)
	}
	return err
}

func (k *talk) Reset()        {}
func (k *talk) Logout() error { return nil }

func (s *server) received() []mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mails
}

// certificate returns a server's certificate for 127.0.0.1, and who believes it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}
}

func TestSend(t *testing.T) {
	ours, theirs := certificate(t)
	for name, test := range map[string]struct {
		user     string
		tls      bool
		implicit bool
		client   mixmail.SMTP
	}{
		"plain":            {client: mixmail.SMTP{Security: mixmail.Plain}},
		"plain, but could": {tls: true, client: mixmail.SMTP{Security: mixmail.Plain}},
		"STARTTLS":         {tls: true, client: mixmail.SMTP{Security: mixmail.StartTLS, TLS: theirs}},
		"TLS":              {tls: true, implicit: true, client: mixmail.SMTP{Security: mixmail.TLS, TLS: theirs}},
		"account": {user: "bob", tls: true,
			client: mixmail.SMTP{Security: mixmail.StartTLS, TLS: theirs, From: "bob@mail.example", Username: "bob", Password: "secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := ours
			if !test.tls {
				config = nil
			}
			s := serve(t, &server{user: test.user}, config, test.implicit)
			test.client.Server = s.address
			if err := test.client.Ready(t.Context()); err != nil || len(s.received()) > 0 {
				t.Fatalf("ready: %v, with %d mails", err, len(s.received()))
			}
			if err := test.client.Send(t.Context(), &letter); err != nil {
				t.Fatal(err)
			}
			got := s.received()
			if len(got) != 1 || got[0].from != test.client.From || got[0].to != letter.To.Mix || got[0].secure != (test.client.Security != mixmail.Plain) {
				t.Fatalf("received %+v", got)
			}
			nym, message, err := mixmail.Read(bytes.NewReader(got[0].content))
			if err != nil || !bytes.Equal(nym, letter.To.Nym) || !bytes.Equal(message, letter.Message) {
				t.Errorf("read %q, %q, %v", nym, message, err)
			}
		})
	}
}

func TestSendRefused(t *testing.T) {
	ours, theirs := certificate(t)
	for name, test := range map[string]struct {
		refuse error
		user   string
		tls    bool
		client mixmail.SMTP
		letter session.Letter
		want   error
	}{
		"no such mix":     {refuse: &smtp.SMTPError{Code: 550, Message: "no \x1b[2J such mix"}, client: mixmail.SMTP{Security: mixmail.Plain}, letter: letter, want: mixmail.ErrRefused},
		"busy":            {refuse: &smtp.SMTPError{Code: 451, Message: "later"}, client: mixmail.SMTP{Security: mixmail.Plain}, letter: letter, want: mixmail.ErrUnsent},
		"no STARTTLS":     {client: mixmail.SMTP{Security: mixmail.StartTLS}, letter: letter, want: mixmail.ErrUnsent},
		"unknown issuer":  {tls: true, client: mixmail.SMTP{Security: mixmail.StartTLS}, letter: letter, want: mixmail.ErrUnsent},
		"another's name":  {tls: true, client: mixmail.SMTP{Security: mixmail.StartTLS, TLS: &tls.Config{RootCAs: theirs.RootCAs, ServerName: "mail.example"}}, letter: letter, want: mixmail.ErrUnsent},
		"wrong password":  {tls: true, user: "bob", client: mixmail.SMTP{Security: mixmail.StartTLS, TLS: theirs, Username: "bob", Password: "wrong"}, letter: letter, want: mixmail.ErrRefused},
		"without account": {tls: true, user: "bob", client: mixmail.SMTP{Security: mixmail.StartTLS, TLS: theirs}, letter: letter, want: mixmail.ErrRefused},
		"open password":   {user: "bob", client: mixmail.SMTP{Security: mixmail.Plain, Username: "bob", Password: "secret"}, letter: letter, want: mixmail.ErrUnsent},
		"no security":     {client: mixmail.SMTP{}, letter: letter, want: mixmail.ErrUnsent},
		"no address":      {client: mixmail.SMTP{Security: mixmail.Plain}, letter: session.Letter{Message: letter.Message}, want: session.ErrRecipient},
		"too big": {client: mixmail.SMTP{Security: mixmail.Plain}, want: mixmail.ErrRefused,
			letter: session.Letter{To: letter.To, Message: make([]byte, 1<<20)}},
	} {
		t.Run(name, func(t *testing.T) {
			config := ours
			if !test.tls {
				config = nil
			}
			s := serve(t, &server{refuse: test.refuse, user: test.user}, config, false)
			test.client.Server = s.address
			ready := test.client.Ready(t.Context())
			// Whom it will not deliver to, or how much, it says later.
			if soon := test.refuse == nil && test.letter.To.Mix != "" && len(test.letter.Message) < 1<<20; soon && !errors.Is(ready, test.want) || !soon && ready != nil {
				t.Errorf("ready: %v", ready)
			}
			err := test.client.Send(t.Context(), &test.letter)
			if errors.Is(err, session.ErrUnsure) {
				t.Errorf("nobody has it for sure, but: %v", err)
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.ContainsRune(err.Error(), '\x1b')) {
				t.Errorf("the error tells too much: %q", err)
			}
			if n := len(s.received()); n > 0 {
				t.Errorf("%d mails were taken", n)
			}
		})
	}
}

// TestSendNowhere has nobody listen, somebody say nothing, and somebody not stop.
func TestSendNowhere(t *testing.T) {
	listen := func(handle func(net.Conn)) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var open sync.WaitGroup
		open.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				open.Go(func() {
					defer conn.Close()
					handle(conn)
				})
			}
		})
		t.Cleanup(func() {
			listener.Close()
			open.Wait()
		})
		return listener.Addr().String()
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silence := listen(func(c net.Conn) { io.Copy(io.Discard, c) })
	endless := listen(func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, "220-and so on\r\n"); err != nil {
				return
			}
		}
	})
	afterData := listen(func(c net.Conn) {
		io.WriteString(c, "220 mail.example\r\n")
		b := make([]byte, 1)
		var line []byte
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if line = append(line, b[0]); b[0] != '\n' {
				continue
			}
			if bytes.HasPrefix(line, []byte("DATA")) {
				io.WriteString(c, "354 go on\r\n")
				io.Copy(io.Discard, c)
				return
			}
			io.WriteString(c, "250 fine\r\n")
			line = nil
		}
	})
	for name, test := range map[string]struct {
		address string
		timeout time.Duration
	}{
		"nobody": {closed.Addr().String(), 0}, "silence": {silence, 100 * time.Millisecond},
		"endless": {endless, 0}, "silence after DATA": {afterData, 300 * time.Millisecond}, "no port": {"127.0.0.1", 0},
	} {
		for _, security := range []mixmail.Security{mixmail.Plain, mixmail.StartTLS, mixmail.TLS} {
			c := mixmail.SMTP{Server: test.address, Security: security, Timeout: test.timeout}
			unsure := test.address == afterData && security == mixmail.Plain
			if err := c.Send(t.Context(), &letter); !errors.Is(err, mixmail.ErrUnsent) || unsure != errors.Is(err, session.ErrUnsure) {
				t.Errorf("%s, %s: %v", name, security, err)
			}
			if err := c.Ready(t.Context()); unsure != (err == nil) || !unsure && !errors.Is(err, mixmail.ErrUnsent) {
				t.Errorf("%s, %s: ready: %v", name, security, err)
			}
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed my mind")
	time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
	c := mixmail.SMTP{Server: silence, Security: mixmail.Plain}
	if err := c.Send(ctx, &letter); !errors.Is(err, reason) || !errors.Is(err, mixmail.ErrUnsent) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFileReady finds out where no new file can be, and leaves none.
func TestFileReady(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{there: fs.ErrExist, filepath.Join(dir, "no folder", "file"): fs.ErrNotExist, filepath.Join(dir, "new"): nil} {
		if err := (mixmail.File{Path: path}).Ready(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%d files, %v", len(left), err)
	}
}

func TestReadRefuses(t *testing.T) {
	var b bytes.Buffer
	if err := mixmail.Write(&b, &letter, "", time.Unix(1_800_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	if strings.Contains(good, "08:00:01") || !strings.Contains(good, "From: <anonymous@invalid>\r\n") {
		t.Errorf("header:\n%.300s", good)
	}
	unix := strings.ReplaceAll(good, "\r\n", "\n")
	for _, s := range []string{good, unix, "Received: by mail.example\r\n" + good} {
		if _, message, err := mixmail.Read(strings.NewReader(s)); err != nil || !bytes.Equal(message, letter.Message) {
			t.Error(err)
		}
	}
	for _, from := range []string{"a@b.example>\r\nBcc: <c@d.example", "nobody"} {
		if err := mixmail.Write(io.Discard, &letter, from, time.Now()); !errors.Is(err, session.ErrRecipient) {
			t.Errorf("from %q: %v", from, err)
		}
	}
	part := good[strings.Index(good, "--"):]
	for name, s := range map[string]string{
		"nothing":         "",
		"no mail":         "KTS1",
		"another mail":    "From: <a@b.example>\r\nContent-Type: text/plain\r\n\r\nHi",
		"no boundary":     strings.Replace(good, "boundary=", "border=", 1),
		"no message":      strings.Replace(good, "session-message", "another", 1),
		"two messages":    good[:len(good)-4] + "\r\n" + part,
		"cut":             good[:len(good)/2],
		"not base64":      strings.Replace(good, "\r\n\r\nS1RT", "\r\n\r\n!!!!", 1),
		"another coding":  strings.ReplaceAll(good, "base64", "7bit"),
		"long":            strings.Repeat("X: y\r\n", int(mixmail.MaxMail)/6) + good,
		"long nym":        strings.Replace(good, "session-message", "nymaddress", 1),
		"endless headers": "From: " + strings.Repeat("x", int(mixmail.MaxMail)),
	} {
		if _, _, err := mixmail.Read(strings.NewReader(s)); !errors.Is(err, mixmail.ErrMail) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRead looks for mails that are read as a message that was not in them.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	small := session.Letter{To: letter.To, Message: []byte("KTS1")}
	if err := mixmail.Write(&b, &small, "a@b.example", time.Unix(1_800_000_000, 0)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		nym, message, err := mixmail.Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, mixmail.ErrMail) {
				t.Error(err)
			}
			return
		}
		var again bytes.Buffer
		letter := session.Letter{To: session.Address{Mix: "a@b.example", Nym: nym}, Message: message}
		if err := mixmail.Write(&again, &letter, "", time.Now()); err != nil {
			t.Fatal(err)
		}
		nym2, message2, err := mixmail.Read(&again)
		if err != nil || !bytes.Equal(nym, nym2) || !bytes.Equal(message, message2) {
			t.Errorf("%q, %q became %q, %q, %v", nym, message, nym2, message2, err)
		}
	})
}

// TestFile keeps a mail in a file, once, and reads the message in it.
func TestFile(t *testing.T) {
	file := mixmail.File{Path: filepath.Join(t.TempDir(), "mail")}
	if err := file.Send(t.Context(), &letter); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, message, err := mixmail.Read(bytes.NewReader(content)); err != nil || !bytes.Equal(message, letter.Message) {
		t.Errorf("the file has another message, or none: %v", err)
	}
	if err := file.Send(t.Context(), &letter); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: got %v, want %v", err, fs.ErrExist)
	}
	// The letter's message only looks like one.
	_, alone := mixmail.Parse(letter.Message)
	_, mailed := mixmail.Parse(content)
	if alone == nil || !errors.Is(mailed, canonical.ErrMalformed) {
		t.Errorf("not a message: got %v alone, %v in a mail, want %v", alone, mailed, canonical.ErrMalformed)
	}
}
