package explorer

import (
	"encoding/json"
	"fmt"
	"html/template"
	"strings"

	"github.com/dustin/go-humanize"
)

// functions are what the pages' files may call.
func functions() template.FuncMap {
	return template.FuncMap{
		"picture": Picture,
		"count":   count,
		"plural":  plural,
		"bytes":   func(n uint64) string { return humanize.IBytes(n) },
		"json":    func(v any) (string, error) { text, err := json.Marshal(v); return string(text), err },
		"follows": func(l live) bool { return l.All || len(l.Addresses)+len(l.IDs) > 0 },
		"at": func(at *uint32) string {
			if at == nil {
				return ""
			}
			return fmt.Sprintf("?at=%d", *at)
		},
	}
}

// count writes a number, or a height that is not nil, so that it is read easily.
func count(n any) string {
	if height, ok := n.(*uint32); ok {
		n = *height
	}
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

// plural writes a number of things.
func plural(n uint32, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + more
}
