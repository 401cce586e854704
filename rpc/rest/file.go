package rest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"
)

// File is what is the same for as long as the program runs. It may be used concurrently.
type File struct {
	kind string // its Content-Type
	etag string
	text []byte
}

// NewFile returns a file of a Content-Type. The text must not change any more.
func NewFile(kind string, text []byte) File {
	sum := sha256.Sum256(text)
	return File{kind, fmt.Sprintf(`W/"%x"`, sum[:16]), text}
}

// Answer sends the file, or says that the client has it. Caches are to ask each time.
func (f File) Answer(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", f.etag)
	r = r.Clone(r.Context())
	r.Header.Del("Range") // a part would be more to explain than the whole
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.text))
}
