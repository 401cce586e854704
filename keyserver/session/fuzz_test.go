package session_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/session"
)

// FuzzParse looks for messages that Parse takes though they do not have the sizes of
// one, and for crashes behind it.
func FuzzParse(f *testing.F) {
	header := append([]byte("KTS1\x01"), make([]byte, 64)...)
	f.Add(append(bytes.Clone(header), make([]byte, 96+4096+64)...))
	header[4] = 2
	f.Add(append(header, make([]byte, 4096+64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := session.Parse(b)
		if err != nil {
			if !errors.Is(err, canonical.ErrMalformed) {
				t.Error(err)
			}
			return
		}
		if len(b) > session.MaxMessage || !bytes.Equal(m.For[:], b[5:37]) || byte(m.Kind) != b[4] {
			t.Errorf("took %d bytes as %v", len(b), m.Kind)
		}
		inbox := session.Inbox{KeyInits: newBox()}
		if _, _, err := inbox.Open(t.Context(), m, now); err == nil {
			t.Error("opened")
		}
	})
}

// FuzzContent looks for contents, as somebody could have encrypted them, that are
// taken though they are not in the form in which they are written.
func FuzzContent(f *testing.F) {
	for kind, content := range map[session.Kind]string{
		session.Answer: `{"MESSAGE":"","MIXADDRESS":"","NYMADDRESS":""}`,
		session.First:  `{"MESSAGE":"","MIXADDRESS":"a@b","NYMADDRESS":"","RECIPIENT":"a@b.example","UIDMESSAGES":[]}`,
	} {
		b := append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...)
		if session.ReadContent(padded(b))[kind] == nil {
			f.Fatalf("%s is not taken", content)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for kind, again := range session.ReadContent(padded(b)) {
			if !bytes.Equal(again, padded(b)) {
				t.Errorf("kind %d: %q was taken, and is written %q", kind, b, again)
			}
		}
	})
}

// padded fills up with zeros.
func padded(b []byte) []byte {
	p := make([]byte, max(1, (len(b)+4095)/4096)*4096)
	copy(p, b)
	return p
}
