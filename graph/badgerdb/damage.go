package badgerdb

import (
	"errors"
	"fmt"
)

// ErrDamaged says that the database holds something else than was written.
var ErrDamaged = errors.New("database damaged")

// Damage is what is wrong with a file of the database.
type Damage struct {
	File    string // name in the database's folder
	Problem string
}

// DamageError names the files of a database that do not hold what was written. It
// is an ErrDamaged.
type DamageError struct {
	Dir   string
	Found []Damage // one at least
}

// Error names the first file, and says how many there are.
func (e *DamageError) Error() string {
	s := fmt.Sprintf("%v: %s: %s: %s", ErrDamaged, e.Dir, e.Found[0].File, e.Found[0].Problem)
	if more := len(e.Found) - 1; more > 0 {
		s += fmt.Sprintf(" (and %d more)", more)
	}
	return s
}

// Unwrap returns ErrDamaged.
func (e *DamageError) Unwrap() error { return ErrDamaged }

// damageError returns a DamageError if something was found.
func damageError(dir string, found []Damage) error {
	if len(found) == 0 {
		return nil
	}
	return &DamageError{dir, found}
}
