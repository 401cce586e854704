package session

import "github.com/keytree-bch/keytree/keyserver/canonical"

// ReadContent reads padded contents as those of each kind of message and returns, for
// those that it takes, how they are written.
func ReadContent(padded []byte) map[Kind][]byte {
	written := make(map[Kind][]byte)
	for kind, content := range map[Kind]any{First: new(firstContent), Answer: new(answerContent)} {
		if readContent(padded, content) != nil {
			continue
		}
		b, err := pad(canonical.Marshal(content))
		if err != nil {
			panic(err)
		}
		written[kind] = b
	}
	return written
}
