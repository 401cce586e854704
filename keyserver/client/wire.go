package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

const (
	// maxAnswer is the most bytes that an answer may have which is not a piece of
	// the chain.
	maxAnswer = 1 << 20
	// entryOnWire is what an entry takes in an answer: its text, two quotes, a comma
	// and some white space.
	entryOnWire = hashchain.TextSize + 16
)

var (
	// ErrAnswer says that what the keyserver answered cannot be understood, or is
	// too much. Is it a keyserver?
	ErrAnswer = errors.New("keyserver's answer makes no sense")
	// ErrUnsupported says that the keyserver does not offer what is needed.
	ErrUnsupported = errors.New("keyserver does not offer this")
	// ErrPlaintext says that a token would have gone over a network where others can read
	// and spend it: use https, or say by Options.Plaintext that it is meant. Nothing was sent.
	ErrPlaintext = errors.New("token not sent without TLS")
)

// ErrSpent says that a token has paid for something else before: take it out of where it
// came from, and pay with another.
var ErrSpent = errors.New("the token was spent before")

// ServerError is a refusal. Nothing was changed on the keyserver.
type ServerError struct {
	Code    int    // keyserver/WIRE.md §3
	Message string // by the keyserver, at most 500 bytes
}

// Codes of refusals that mean something to a client.
const (
	codeInvalid  = -32602
	codeTaken    = -32003
	codeUnknown  = -32004
	codeReserved = -32005
	codeDomain   = -32006
	codeToken    = -32008
	codeSpent    = -32009
)

// refusedWith reports whether an error is a refusal with one of some codes.
func refusedWith(err error, codes ...int) bool {
	var refusal *ServerError
	return errors.As(err, &refusal) && slices.Contains(codes, refusal.Code)
}

// Is makes a refusal of a spent token ErrSpent.
func (e *ServerError) Is(target error) bool { return target == ErrSpent && e.Code == codeSpent }

func (e *ServerError) Error() string { return fmt.Sprintf("keyserver refuses: %q", e.Message) }

// capabilities is what a keyserver says of itself.
type capabilities struct {
	Methods               []string `json:"METHODS"`
	Domains               []string `json:"DOMAINS"`
	KeyInitRepositoryURIs []string `json:"KEYINITREPOSITORYURIS"`
	KeyHashchainEntry     string   `json:"KEYHASHCHAINENTRY"`
	SigPubKeys            []string `json:"SIGPUBKEYS"`
	TokenPubKey           string   `json:"TKNPUBKEY"`    // "" if calls cost nothing
	KeyInitFetch          string   `json:"KEYINITFETCH"` // "token" if FetchKeyInit takes one
	// In seconds; absent, as with the next two, where there are no anchors.
	AnchorInterval   uint32 `json:"ANCHORINTERVAL"`
	AnchorHeartbeat  uint32 `json:"ANCHORHEARTBEAT"`
	AnchorMaxEntries uint32 `json:"ANCHORMAXENTRIES"`
	// LogStatement says which log the hashchain is served as; nil if the keyserver serves none.
	LogStatement *hashchain.SignedLogStatement `json:"LOGSTATEMENT"`
}

// wire speaks to a keyserver. It may be used concurrently.
type wire struct {
	url    string
	http   *http.Client
	opt    Options
	clocks clocks
}

// CheckURL returns an error unless a keyserver can be reached under a URL: http or
// https, a host, and neither credentials nor query.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("expected a keyserver's URL, http://HOST:PORT/ or https://HOST:PORT/")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("expected a keyserver's URL without credentials, query and fragment")
	}
	return nil
}

func newWire(url string, opt Options) *wire {
	opt = opt.complete()
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &wire{url: url, http: &http.Client{Transport: opt.Transport, CheckRedirect: refuse}, opt: opt}
}

// checkToken returns ErrPlaintext if a token, unless it is "", can be read on its way.
func (w *wire) checkToken(token string) error {
	u, err := url.Parse(w.url)
	if err != nil || token == "" || w.opt.Plaintext || u.Scheme == "https" || isLoopback(u.Hostname()) {
		return err
	}
	return fmt.Errorf("%w: %s: others on the way could read and spend it", ErrPlaintext, w.url)
}

// isLoopback reports whether a host is this machine, by its name alone.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// call makes one call whose answer has at most limit bytes, and decodes its result
// into a struct.
func call[R any](ctx context.Context, w *wire, method string, params any, limit int64) (*R, error) {
	content, err := w.post(ctx, method, params, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return decode[R](method, content)
}

// post makes one call and returns the answer as it comes.
func (w *wire) post(ctx context.Context, method string, params any, limit int64) ([]byte, error) {
	body, err := json.Marshal(struct {
		Version string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
		ID      int    `json:"id"`
	}{"2.0", method, params, callID})
	if err != nil {
		return nil, err
	}
	ctx, read, end := hurry(ctx, w.url, len(body), w.opt.patience)
	defer end()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	status, content, err := w.answer(request, read, limit)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK && !json.Valid(content) {
		return nil, fmt.Errorf("%w: HTTP status %d", ErrAnswer, status)
	}
	return content, nil
}

// answer makes a request whose answer has at most limit bytes, which read lets take their time.
func (w *wire) answer(request *http.Request, read func(io.Reader) io.Reader, limit int64) (status int, content []byte, err error) {
	ctx := request.Context()
	answer, err := w.http.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return 0, nil, cause
		}
		return 0, nil, fmt.Errorf("keyserver %s: %w", w.url, errors.Unwrap(err)) // which has no body in it
	}
	defer answer.Body.Close()
	w.clocks.note(answer, w.opt.Now())
	content, err = io.ReadAll(io.LimitReader(read(answer.Body), limit+1))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return 0, nil, cause
	}
	if err != nil {
		return 0, nil, fmt.Errorf("keyserver %s: reading its answer: %w", w.url, err)
	}
	if int64(len(content)) > limit {
		return 0, nil, fmt.Errorf("%w: more than %d bytes", ErrAnswer, limit)
	}
	return answer.StatusCode, content, nil
}

// logPath is where a keyserver's transparency log is below its URL (keyserver/TLOG.md §1).
const logPath = "keytree/"

// get fetches what is below the keyserver's URL, of at most limit bytes. ErrUnsupported if it is
// not there.
func (w *wire) get(ctx context.Context, path string, limit int64) ([]byte, error) {
	ctx, read, end := hurry(ctx, w.url, 0, w.opt.patience)
	defer end()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(w.url, "/")+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	status, content, err := w.answer(request, read, max(limit, maxRefusal))
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound:
		return nil, fmt.Errorf("%w: /%s is not there: %q", ErrUnsupported, path, shortened(string(content)))
	case status != http.StatusOK:
		return nil, fmt.Errorf("%w: /%s: HTTP status %d: %q", ErrAnswer, path, status, shortened(string(content)))
	case int64(len(content)) > limit:
		return nil, fmt.Errorf("%w: /%s: more than %d bytes", ErrAnswer, path, limit)
	}
	return content, nil
}

// maxRefusal is the most bytes of an answer that only says why there is none.
const maxRefusal = 4 << 10

// checkpoint returns the checkpoint that the keyserver's log shows.
func (w *wire) checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := w.get(ctx, logPath+"checkpoint", tlog.MaxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint: %w", err)
	}
	return signed, nil
}

// callID is the id of every call: each has an exchange of HTTP to itself.
const callID = 1

// decode reads the answer to a call.
func decode[R any](method string, content []byte) (*R, error) {
	var envelope struct {
		Result *R `json:"result"`
		Error  *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
		ID *int `json:"id"`
	}
	if err := json.Unmarshal(content, &envelope); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", method, ErrAnswer, err)
	}
	if e := envelope.Error; e != nil {
		return nil, &ServerError{e.Code, shortened(e.Message)}
	}
	if envelope.Result == nil {
		return nil, fmt.Errorf("%s: %w: neither a result nor an error", method, ErrAnswer)
	}
	if envelope.ID == nil || *envelope.ID != callID {
		return nil, fmt.Errorf("%s: %w: it is for another call", method, ErrAnswer)
	}
	return envelope.Result, nil
}

// shortened bounds what is kept of a text by the keyserver.
func shortened(s string) string {
	const most = 500
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func (w *wire) capabilities(ctx context.Context) (*capabilities, error) {
	const method = "KeyRepository.Capabilities"
	r, err := call[struct {
		Capabilities *capabilities `json:"CAPABILITIES"`
	}](ctx, w, method, struct{}{}, maxAnswer)
	if err == nil && r.Capabilities == nil {
		err = fmt.Errorf("%s: %w: expected CAPABILITIES", method, ErrAnswer)
	}
	if err != nil {
		return nil, err
	}
	return r.Capabilities, nil
}

// domain returns the one to use of a keyserver's domains: the given one, or the only
// one if that is "".
func (w *wire) domain(ctx context.Context, domain string) (string, error) {
	caps, err := w.capabilities(ctx)
	if err != nil {
		return "", err
	}
	if domain == "" && len(caps.Domains) == 1 {
		domain = caps.Domains[0]
	}
	if !slices.Contains(caps.Domains, domain) {
		return "", fmt.Errorf("%w: the domain is one of %.200q", ErrUnsupported, caps.Domains)
	}
	if err := errors.Join(uid.CheckDomain(domain), uid.CheckMapped(uid.KeyserverLocalpart+"@"+domain)); err != nil {
		return "", fmt.Errorf("%w: domain: %w", ErrAnswer, err)
	}
	return domain, nil
}

// offers returns the first of the names that the keyserver lists.
func (c *capabilities) offers(names ...string) (string, error) {
	for _, name := range names {
		if slices.Contains(c.Methods, name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrUnsupported, names[0])
}

// last returns the chain's last entry and its position.
func (w *wire) last(ctx context.Context, c *capabilities) (entry hashchain.Entry, position uint64, err error) {
	method, err := c.offers("KeyHashchain.FetchLastHashChain", "KeyRepository.FetchLastHashChain")
	if err != nil {
		return entry, 0, err
	}
	r, err := call[struct {
		HCEntry *entryText
		HCPos   *uint64
	}](ctx, w, method, struct{}{}, maxAnswer)
	if err != nil {
		return entry, 0, err
	}
	if r.HCEntry == nil || r.HCPos == nil || *r.HCPos >= chainfile.MaxEntries {
		return entry, 0, fmt.Errorf("%s: %w: expected HCEntry and HCPos", method, ErrAnswer)
	}
	return hashchain.Entry(*r.HCEntry), *r.HCPos, nil
}

// entries returns count entries, at least one, from a position on.
func (w *wire) entries(ctx context.Context, c *capabilities, first, count uint64) ([]hashchain.Entry, error) {
	method, err := c.offers("KeyHashchain.FetchHashChain", "KeyRepository.FetchHashChain")
	if err != nil {
		return nil, err
	}
	content, err := w.post(ctx, method, struct{ StartPosition, EndPosition uint64 }{first, first + count - 1}, maxAnswer+int64(count)*entryOnWire)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	list, content := cutEntries(content)
	r, err := decode[struct {
		HCEntries  entryTexts
		HCFirstPos *uint64
	}](method, content)
	if err != nil {
		return nil, err
	}
	if r.HCEntries != nil && len(r.HCEntries) == 0 {
		r.HCEntries = list
	}
	if r.HCFirstPos == nil || *r.HCFirstPos != first || uint64(len(r.HCEntries)) != count {
		from := "nowhere"
		if r.HCFirstPos != nil {
			from = fmt.Sprint(*r.HCFirstPos)
		}
		return nil, fmt.Errorf("%s: %w: expected %d entries from position %d, got %d from %s", method, ErrAnswer, count, first, len(r.HCEntries), from)
	}
	return r.HCEntries, nil
}

// entryText is an entry as the wire has it.
type entryText hashchain.Entry

// UnmarshalJSON implements json.Unmarshaler.
func (e *entryText) UnmarshalJSON(b []byte) error {
	rest, err := e.read(b)
	if err == nil && len(rest) > 0 {
		err = errEntryText
	}
	return err
}

var errEntryText = fmt.Errorf("%w: expected the base64 of an entry", hashchain.ErrEntry)

// read takes an entry from the beginning of JSON.
func (e *entryText) read(b []byte) (rest []byte, err error) {
	const quoted = hashchain.TextSize + 2
	if len(b) < quoted || b[0] != '"' || b[quoted-1] != '"' {
		return nil, errEntryText
	}
	entry, err := hashchain.Parse(string(b[1 : quoted-1]))
	*e = entryText(entry)
	return b[quoted:], err
}

// cutEntries takes the entries out of an answer to FetchHashChain, and leaves an empty
// list there: encoding/json looks at every byte twice, which for a chain takes as long
// as to search it. An answer in another form than usual is left as it is.
func cutEntries(answer []byte) (list []hashchain.Entry, rest []byte) {
	_, after, _ := bytes.Cut(answer, []byte(`"HCEntries":[`))
	begin := len(answer) - len(after)
	list = make([]hashchain.Entry, 0, len(after)/(hashchain.TextSize+3)+1)
	for len(after) > 0 {
		var (
			e   entryText
			err error
		)
		if after, err = e.read(after); err != nil || len(after) == 0 {
			break
		}
		list = append(list, hashchain.Entry(e))
		if after[0] == ']' {
			return list, slices.Concat(answer[:begin], after)
		}
		if after[0] != ',' {
			break
		}
		after = after[1:]
	}
	return nil, answer
}

// entryTexts is a list of them.
type entryTexts []hashchain.Entry

// UnmarshalJSON implements json.Unmarshaler.
func (l *entryTexts) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) < 2 || b[0] != '[' { // else the JSON is known to be sound
		return errEntryText
	}
	list := make([]hashchain.Entry, 0, len(b)/(hashchain.TextSize+3)+1)
	for b = b[1:]; ; b = b[1:] { // behind the bracket or comma
		b = bytes.TrimLeft(b, " \t\r\n")
		if len(list) == 0 && b[0] == ']' {
			break
		}
		var (
			e   entryText
			err error
		)
		if b, err = e.read(b); err != nil {
			return fmt.Errorf("entry %d of the answer: %w", len(list)+1, err)
		}
		list = append(list, hashchain.Entry(e))
		if b = bytes.TrimLeft(b, " \t\r\n"); b[0] == ']' {
			break
		}
	}
	*l = list
	return nil
}

// reply returns what the key repository has under a UIDIndex.
func (w *wire) reply(ctx context.Context, c *capabilities, index hashchain.Hash) (*uid.Reply, error) {
	method, err := c.offers("KeyRepository.FetchUID")
	if err != nil {
		return nil, err
	}
	return replyOf(ctx, w, method, struct{ UIDIndex string }{canonical.Encode(index[:])})
}

// submit sends a UID message by CreateUID or UpdateUID.
func (w *wire) submit(ctx context.Context, c *capabilities, method string, m *uid.Message, token string) (*uid.Reply, error) {
	method, err := c.offers("KeyRepository." + method)
	if err == nil {
		err = w.checkToken(token)
	}
	if err != nil {
		return nil, err
	}
	return replyOf(ctx, w, method, struct {
		UIDMessage *uid.Message
		Token      string
	}{m, token})
}

func replyOf(ctx context.Context, w *wire, method string, params any) (*uid.Reply, error) {
	r, err := call[struct{ UIDMessageReply json.RawMessage }](ctx, w, method, params, maxAnswer)
	if err != nil {
		return nil, err
	}
	reply, err := uid.ParseReply(r.UIDMessageReply)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: UIDMessageReply: %w", method, ErrAnswer, err)
	}
	return reply, nil
}

// addKeyInits returns the keyserver's signatures.
func (w *wire) addKeyInits(ctx context.Context, c *capabilities, sigKey []byte, inits []*keyinit.KeyInit, tokens []string) ([]string, error) {
	method, err := c.offers("KeyInitRepository.AddKeyInit")
	if err == nil {
		err = w.checkToken(strings.Join(tokens, ""))
	}
	if err != nil {
		return nil, err
	}
	r, err := call[struct{ Signatures []string }](ctx, w, method, struct {
		SigPubKey string
		KeyInits  []*keyinit.KeyInit
		Tokens    []string
	}{canonical.Encode(sigKey), inits, tokens}, maxAnswer)
	if err != nil {
		return nil, err
	}
	if len(r.Signatures) != len(inits) {
		return nil, fmt.Errorf("%s: %w: expected %d signatures, got %d", method, ErrAnswer, len(inits), len(r.Signatures))
	}
	return r.Signatures, nil
}

// keyInit sends a token only if there is one: many keyservers do not know of it.
func (w *wire) keyInit(ctx context.Context, c *capabilities, sigKey []byte, token string) (*keyinit.KeyInit, error) {
	method, err := c.offers("KeyInitRepository.FetchKeyInit")
	if err == nil {
		err = w.checkToken(token)
	}
	if err != nil {
		return nil, err
	}
	hash := uid.SigKeyHash(sigKey)
	r, err := call[struct{ KeyInit string }](ctx, w, method, struct {
		SigKeyHash string
		Token      string `json:",omitempty"`
	}{canonical.Encode(hash[:]), token}, maxAnswer)
	if err != nil {
		return nil, err
	}
	k, err := keyinit.Parse([]byte(r.KeyInit))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: KeyInit: %w", method, ErrAnswer, err)
	}
	return k, nil
}

func (w *wire) countKeyInits(ctx context.Context, c *capabilities, sigKey []byte, nonce uint64, signature string) (keyinit.Count, error) {
	method, err := c.offers("KeyInitRepository.CountKeyInit")
	if err != nil {
		return keyinit.Count{}, err
	}
	r, err := call[struct{ Once, Fallback *uint64 }](ctx, w, method, struct {
		SigPubKey string
		Nonce     uint64
		Signature string
	}{canonical.Encode(sigKey), nonce, signature}, maxAnswer)
	if err != nil {
		return keyinit.Count{}, err
	}
	if r.Once == nil || r.Fallback == nil {
		return keyinit.Count{}, fmt.Errorf("%s: %w: expected Once and Fallback", method, ErrAnswer)
	}
	return keyinit.Count{Once: *r.Once, Fallback: *r.Fallback}, nil
}

func (w *wire) flushKeyInits(ctx context.Context, c *capabilities, sigKey []byte, nonce uint64, signature string) error {
	method, err := c.offers("KeyInitRepository.FlushKeyInit")
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, w, method, struct {
		SigPubKey string
		Nonce     uint64
		Signature string
	}{canonical.Encode(sigKey), nonce, signature}, maxAnswer)
	return err
}
