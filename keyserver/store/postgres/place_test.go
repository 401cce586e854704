package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestParse: a password is refused where others can read it, and no error repeats one.
func TestParse(t *testing.T) {
	t.Setenv("PGPASSWORD", "secret")
	for _, bad := range []string{
		"", "localhost", "mysql://u@h/d", "host=h password=secret",
		"postgres://u:secret@h/d", "postgres://u:@h/d", "postgres://u@h/d?password=secret", "postgres://u@h/d?sslpassword=secret",
		"postgres://u:sec/ret@h/d:secret", "postgres://u:secret%zz@h/d", "postgres://u@h:secret/d",
		"postgres://u@h/d?search_path=a,b", "postgres://u@h/d?search_path=A", "postgres://u@h/d?connect_timeout=x", "postgres://u@h/d?%zz",
	} {
		_, err := Parse(bad)
		if !errors.Is(err, ErrURL) {
			t.Errorf("%q: got %v, want %v", bad, err, ErrURL)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats a secret: %v", bad, err)
		}
	}
	p, err := Parse("postgresql://u@h1:1,h2:2/d?search_path=keys")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.String(), "postgres://h1:1,h2:2/d (schema keys)"; got != want {
		t.Errorf("it is called %q, want %q", got, want)
	}
	if text := fmt.Sprintf("%v %+v", p, p.String()); strings.Contains(text, "secret") {
		t.Errorf("its name has a secret: %s", text)
	}
	if got := p.config.ConnConfig.Password; got != "secret" {
		t.Errorf("the password is %q", got)
	}
}
