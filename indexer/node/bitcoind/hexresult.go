package bitcoind

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// resultStart is the beginning of a result that is a string. Inside of another
// string the quotes would be escaped.
var resultStart = regexp.MustCompile(`"result"\s*:\s*"`)

// maxAfter is what may follow the result, in bytes.
const maxAfter = 4 << 10

// errNoHex says that a result was read to its end, for nothing.
var errNoHex = errors.New("its result is no hex")

// hexInto reads an answer whose result is a hex string, such as a block: as it
// arrives, so that neither the answer nor its hex is ever in memory as a whole.
func hexInto(out *[]byte, limit int) reader {
	return func(r *bufio.Reader) error {
		before, err := r.Peek(maxBefore)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at := resultStart.FindIndex(before)
		if at == nil {
			// An error, or nonsense, which this tells.
			if err := into(new(string))(r); err != nil {
				return err
			}
			return errors.New("its result does not begin where it should")
		}
		envelope := bytes.Clone(before[:at[1]])
		if _, err := r.Discard(at[1]); err != nil {
			return err
		}
		raw, noHex := readHex(r, limit)
		if noHex != nil && !errors.Is(noHex, errNoHex) {
			return noHex
		}
		after, err := io.ReadAll(io.LimitReader(r, maxAfter+1))
		if err != nil {
			return err
		}
		if len(after) > maxAfter {
			return fmt.Errorf("%w: something follows the answer", errNotRPC)
		}
		// What is left has to be an answer with an empty result.
		rest, err := parseAnswer(append(append(envelope, '"'), after...))
		if err != nil {
			return err
		}
		if string(rest) != `""` {
			return errors.New("more than one result")
		}
		*out = raw
		return noHex
	}
}

// readHex decodes hex up to a quote, at most limit bytes. It reads on to the quote
// when it returns errNoHex.
func readHex(r *bufio.Reader, limit int) (out []byte, err error) {
	length := 0
	for {
		chunk, errRead := r.ReadSlice('"')
		ends := errRead == nil
		if errors.Is(errRead, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if errRead != nil && !errors.Is(errRead, bufio.ErrBufferFull) {
			return nil, errRead
		}
		if ends {
			chunk = chunk[:len(chunk)-1]
		}
		if length += len(chunk) / 2; length > limit {
			return nil, fmt.Errorf("%w, %d bytes", errTooLong, limit)
		}
		if err == nil {
			// A full buffer has an even size, so that no digit pair is torn.
			if out, err = hex.AppendDecode(out, chunk); err != nil {
				err = fmt.Errorf("%w: %w", errNoHex, err)
			}
		}
		if ends {
			return out, err
		}
	}
}
