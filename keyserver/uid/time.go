package uid

import (
	"fmt"
	"strconv"
	"time"
)

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

// Date writes a time in Unix seconds for people: in UTC, as RFC 3339 has it. What is
// beyond the year 9999 stays a number.
func Date(seconds uint64) string {
	const lastYear = 253402300799
	if seconds > lastYear {
		return strconv.FormatUint(seconds, 10)
	}
	return time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339)
}

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
		return fmt.Errorf("%w: NOTBEFORE %s is not before NOTAFTER %s", ErrExpired, Date(notBefore), Date(notAfter))
	case notAfter <= now:
		return fmt.Errorf("%w: NOTAFTER %s is past, it is %s", ErrExpired, Date(notAfter), Date(now))
	case notAfter-now > longest:
		return fmt.Errorf("%w: NOTAFTER %s is more than %d days after %s", ErrExpired, Date(notAfter), longest/day, Date(now))
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
