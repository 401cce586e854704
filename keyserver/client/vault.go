package client

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// ErrPassphrase says that a passphrase does not open an identity's file, or is too
// short for a new one.
var ErrPassphrase = errors.New("wrong passphrase")

// minPassphrase is how many bytes a passphrase must have.
const minPassphrase = 8

// Argon2id as RFC 9106 §4 recommends it for less than 2 GiB of memory.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
)

// Bounds of what a file may demand.
const (
	maxArgonTime   = 64
	maxArgonMemory = 1 << 20 // KiB
)

// vaultHeader is the part of a vault that is not secret. It is authenticated with
// the rest.
type vaultHeader struct {
	Identity string `json:"identity"`
	KDF      string `json:"kdf"`
	Time     uint32 `json:"time"`
	Memory   uint32 `json:"memory_kib"`
	Threads  uint8  `json:"threads"`
	Salt     []byte `json:"salt"`
	Cipher   string `json:"cipher"`
	Nonce    []byte `json:"nonce"`
}

// vaultFile is identities/HASH.json.
type vaultFile struct {
	vaultHeader
	Sealed []byte `json:"sealed"`
}

const (
	kdfName    = "argon2id"
	cipherName = "xchacha20poly1305"
)

// vault encrypts a file under a key that comes of a passphrase.
type vault struct {
	path   string
	header vaultHeader
	key    []byte
}

// CheckPassphrase returns ErrPassphrase unless keys can be encrypted under a new passphrase: it
// has at least 8 bytes.
func CheckPassphrase(passphrase []byte) error {
	if len(passphrase) < minPassphrase {
		return fmt.Errorf("%w: expected at least %d bytes", ErrPassphrase, minPassphrase)
	}
	return nil
}

// newVault derives the key of a new file, which is not written yet. memory is in KiB.
func newVault(path, identity string, passphrase []byte, memory uint32) (*vault, error) {
	if err := CheckPassphrase(passphrase); err != nil {
		return nil, err
	}
	v := &vault{path: path, header: vaultHeader{
		Identity: identity, KDF: kdfName, Time: argonTime, Memory: memory, Threads: argonThreads,
		Salt: make([]byte, 16), Cipher: cipherName,
	}}
	rand.Read(v.header.Salt) // never fails
	v.derive(passphrase)
	return v, nil
}

func (v *vault) derive(passphrase []byte) {
	h := &v.header
	v.key = argon2.IDKey(passphrase, h.Salt, h.Time, h.Memory, h.Threads, chacha20poly1305.KeySize)
}

// openVault decrypts a file into a value. fs.ErrNotExist if there is none.
func openVault(path string, passphrase []byte, into any) (*vault, error) {
	var f vaultFile
	if err := readJSON(path, &f); err != nil {
		return nil, err
	}
	h := &f.vaultHeader
	if h.KDF != kdfName || h.Cipher != cipherName || h.Time == 0 || h.Time > maxArgonTime || h.Threads == 0 ||
		h.Memory > maxArgonMemory || len(h.Nonce) != chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("%w: %s: not an identity that this keytree wrote", ErrDamaged, path)
	}
	v := &vault{path: path, header: *h}
	v.derive(passphrase)
	return v, v.decrypt(f.Sealed, into)
}

// decrypt reads what was encrypted under the vault's header.
func (v *vault) decrypt(sealed []byte, into any) error {
	box, err := chacha20poly1305.NewX(v.key)
	if err != nil {
		return err
	}
	content, err := box.Open(nil, v.header.Nonce, sealed, v.associated())
	if err != nil {
		return fmt.Errorf("%w for %s", ErrPassphrase, v.header.Identity)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%w: %s", ErrDamaged, v.path) // without what is in it
	}
	return nil
}

// read reads the file again, as another process may have left it.
func (v *vault) read(into any) error {
	var f vaultFile
	if err := readJSON(v.path, &f); err != nil {
		return err
	}
	nonce := f.Nonce
	if f.Nonce = v.header.Nonce; !reflect.DeepEqual(f.vaultHeader, v.header) || len(nonce) != chacha20poly1305.NonceSizeX {
		return fmt.Errorf("%w for %s: the file is another one than before", ErrPassphrase, v.header.Identity)
	}
	v.header.Nonce = nonce
	return v.decrypt(f.Sealed, into)
}

// associated is what is authenticated besides the content.
func (v *vault) associated() []byte {
	b, err := json.Marshal(v.header)
	if err != nil {
		panic(err) // strings, numbers and bytes
	}
	return b
}

// write replaces the file.
func (v *vault) write(value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	box, err := chacha20poly1305.NewX(v.key)
	if err != nil {
		return err
	}
	v.header.Nonce = make([]byte, box.NonceSize()) // a new one each time
	rand.Read(v.header.Nonce)
	sealed := box.Seal(nil, v.header.Nonce, content, v.associated())
	return writeJSON(v.path, vaultFile{v.header, sealed})
}
