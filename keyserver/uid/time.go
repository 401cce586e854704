package uid

import "fmt"

// Durations in seconds.
const (
	day = 24 * 60 * 60
	// Rollover is how long after NOTAFTER an identity can still be updated; its
	// name stays taken for twice as long.
	Rollover = 365 * day
	// MaxValidity is how far ahead NOTAFTER may be: a year, the longest there is,
	// and a day for clocks that differ.
	MaxValidity = 366*day + day
)

// CheckTime returns ErrExpired unless a message may be accepted at a time, in Unix
// seconds.
func (c *Content) CheckTime(now uint64) error {
	return CheckPeriod(c.NotBefore, c.NotAfter, now, MaxValidity)
}

// CheckPeriod returns ErrExpired unless notBefore < notAfter and notAfter is after
// now, by longest seconds at most.
func CheckPeriod(notBefore, notAfter, now, longest uint64) error {
	switch {
	case notBefore >= notAfter:
		return fmt.Errorf("%w: NOTBEFORE %d is not before NOTAFTER %d", ErrExpired, notBefore, notAfter)
	case notAfter <= now:
		return fmt.Errorf("%w: NOTAFTER %d is past, it is %d", ErrExpired, notAfter, now)
	case notAfter-now > longest:
		return fmt.Errorf("%w: NOTAFTER %d is more than %d days after %d", ErrExpired, notAfter, longest/day, now)
	}
	return nil
}

// What may be done with an identity whose last message has a NOTAFTER, at a time,
// both in Unix seconds (keyserver/WIRE.md §11).

// Trusted reports whether a client may rely on it.
func Trusted(notAfter, now uint64) bool { return now <= notAfter }

// Updatable reports whether the keyserver lets it be updated.
func Updatable(notAfter, now uint64) bool { return now <= notAfter || now-notAfter <= Rollover }

// Taken reports whether nobody else may have the name.
func Taken(notAfter, now uint64) bool { return now <= notAfter || now-notAfter <= 2*Rollover }
