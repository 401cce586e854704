package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"
)

// report is what a run found.
type report struct {
	Command string `json:"command"`
	Machine string `json:"machine"`
	Rows    []row  `json:"rows"`
}

// row is one figure.
type row struct {
	Group  string  `json:"group"`
	What   string  `json:"what"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"` // of Value
	Ratios []ratio `json:"ratios,omitempty"`
	// AtLeast and AtMost are what Value must be, 0 if nothing is promised. Holds
	// says whether it is, and whether all Ratios are what they must.
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	Holds   bool    `json:"holds"`
}

// ratio says how often the other row's rate the row's is.
type ratio struct {
	To      string  `json:"to"`
	Value   float64 `json:"value"`
	AtLeast float64 `json:"at_least,omitempty"` // 0 if nothing is promised
}

func newReport(args []string) *report {
	return &report{Command: strings.Join(append([]string{"go run ./scripts/bench"}, args...), " "), Machine: machine()}
}

func (r *report) add(rows ...row) {
	for _, row := range rows {
		row.Holds = row.Value >= row.AtLeast && (row.AtMost == 0 || row.Value <= row.AtMost)
		for _, beside := range row.Ratios {
			row.Holds = row.Holds && beside.Value >= beside.AtLeast
		}
		r.Rows = append(r.Rows, row)
	}
}

// writeJSON writes the report for programs.
func (r *report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// writeTable writes the report as a Markdown table.
func (r *report) writeTable(w io.Writer) error {
	cells := [][]string{{"", "", "beside", "must hold"}, nil}
	group := ""
	for _, row := range r.Rows {
		if row.Group != group {
			group = row.Group
			cells = append(cells, []string{"**" + group + "**", "", "", ""})
		}
		var beside, must []string
		if row.AtLeast != 0 {
			must = append(must, fmt.Sprintf("at least %g %s", row.AtLeast, row.Unit))
		}
		if row.AtMost != 0 {
			must = append(must, fmt.Sprintf("at most %g %s", row.AtMost, row.Unit))
		}
		for _, b := range row.Ratios {
			beside = append(beside, fmt.Sprintf("%s × %s", number(b.Value), b.To))
			if b.AtLeast != 0 {
				must = append(must, fmt.Sprintf("at least %g × %s", b.AtLeast, b.To))
			}
		}
		verdict := strings.Join(must, ", ")
		if verdict != "" && row.Holds {
			verdict += ": yes"
		} else if verdict != "" {
			verdict += ": **no**"
		}
		cells = append(cells, []string{row.What, quantity(row.Value, row.Unit), strings.Join(beside, ", "), verdict})
	}

	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n%s\n\n", r.Command, r.Machine)
	for _, line := range cells {
		for i, width := range widths {
			if line == nil { // below the head
				out.WriteString("|" + strings.Repeat("-", width+2))
				continue
			}
			out.WriteString("| " + line[i] + strings.Repeat(" ", width-utf8.RuneCountInString(line[i])+1))
		}
		out.WriteString("|\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func quantity(value float64, unit string) string { return number(value) + " " + unit }

// number writes three digits, or all before the point.
func number(x float64) string {
	switch {
	case x >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case x >= 9.995:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// machine says what the figures are of.
func machine() string {
	name := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo") // elsewhere the name stays unknown
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			name = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s, %s", name, runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// rounds holds what was measured under each name, in the same order of rounds.
type rounds map[string][]float64

func (r rounds) add(name string, value float64) { r[name] = append(r[name], value) }

// median returns the median over the rounds.
func (r rounds) median(name string) float64 { return median(r[name]) }

// ratio returns the median of what name is beside to, round by round.
func (r rounds) ratio(name, to string, atLeast float64) ratio {
	var each []float64
	for i, value := range r[name] {
		each = append(each, value/r[to][i])
	}
	return ratio{To: to, Value: median(each), AtLeast: atLeast}
}

func median(values []float64) float64 {
	sorted := slices.SortedFunc(slices.Values(values), cmp.Compare)
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}
