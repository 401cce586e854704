package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a flag for a number of bytes, such as 32MB: decimal, as block sizes
// are.
type byteSize int64

// String implements pflag.Value.
func (b *byteSize) String() string { return formatBytes(int64(*b)) }

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "size" }

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	number, unit := strings.ToUpper(s), 1.0
	for suffix, size := range map[string]float64{"KB": 1e3, "MB": 1e6, "GB": 1e9} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = n, size
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(n >= 0 && n*unit <= 1e15) {
		return fmt.Errorf("expected a size such as 32MB, got %q", s)
	}
	*b = byteSize(math.Round(n * unit))
	return nil
}

func formatBytes(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1e9, "GB"}, {1e6, "MB"}, {1e3, "KB"}} {
		if n >= u.size {
			return strconv.FormatFloat(float64(n/(u.size/10))/10, 'f', -1, 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// percent is a flag for a share, such as 0.1%.
type percent float64

// String implements pflag.Value.
func (p *percent) String() string { return formatPercent(float64(*p)) }

// Type implements pflag.Value.
func (p *percent) Type() string { return "percent" }

// Set implements pflag.Value.
func (p *percent) Set(s string) error {
	number, ok := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(n >= 0 && n <= 100) {
		return fmt.Errorf("expected a percentage such as 0.1%%, got %q", s)
	}
	*p = percent(n / 100)
	return nil
}

func formatPercent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1e8)/1e6, 'f', -1, 64) + "%"
}
