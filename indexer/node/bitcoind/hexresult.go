package bitcoind

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// resultStart is the beginning of a result that is a string. Inside of another
// string the quotes would be escaped.
var resultStart = regexp.MustCompile(`"result"\s*:\s*"`)

const (
	// maxBefore is where the result begins at the latest, in bytes: only "jsonrpc",
	// "error": null and "id" can be in front of it.
	maxBefore = 1 << 10
	// maxAfter is what may follow the result.
	maxAfter = 4 << 10
)

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
		raw, err := readHex(r, limit)
		if err != nil {
			return err
		}
		after, err := io.ReadAll(io.LimitReader(r, maxAfter+1))
		if err != nil {
			return err
		}
		if len(after) > maxAfter {
			return errTooLong
		}
		// What is left has to be an answer with an empty result.
		var answer struct {
			Result *string
			Error  *rpcError
		}
		if err := json.Unmarshal(append(append(envelope, '"'), after...), &answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return answer.Error
		}
		if answer.Result == nil || *answer.Result != "" {
			return errors.New("more than one result")
		}
		*out = raw
		return nil
	}
}

// readHex decodes hex up to a quote, at most limit bytes.
func readHex(r *bufio.Reader, limit int) ([]byte, error) {
	var out []byte
	for {
		chunk, err := r.ReadSlice('"')
		ends := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if ends {
			chunk = chunk[:len(chunk)-1]
		}
		// A full buffer has an even size, so that no digit pair is torn.
		if len(out)+len(chunk)/2 > limit {
			return nil, fmt.Errorf("%w, %d bytes", errTooLong, limit)
		}
		if out, err = hex.AppendDecode(out, chunk); err != nil {
			return nil, fmt.Errorf("its result is no hex: %w", err)
		}
		if ends {
			return out, nil
		}
	}
}
