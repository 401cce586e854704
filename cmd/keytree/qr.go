package main

import (
	"bytes"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/mdp/qrterminal/v3"
	"golang.org/x/term"
)

// maxQR is how many bytes fit into the largest QR code, at its lowest level.
const maxQR = 2953

// qrCode draws a text for a terminal.
func qrCode(text string) string {
	var b bytes.Buffer
	qrterminal.GenerateHalfBlock(text, qrterminal.M, &b)
	return b.String()
}

// fittingQR draws a text if standard error is a terminal on which the drawing fits; else "".
func (a *app) fittingQR(text string) string {
	f, ok := a.stderr.(*os.File)
	if !ok || len(text) > maxQR || !term.IsTerminal(int(f.Fd())) {
		return ""
	}
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return ""
	}
	var b bytes.Buffer
	qrterminal.GenerateHalfBlock(text, qrterminal.L, &b) // the lowest level makes the smallest
	if !fits(b.String(), columns, rows) {
		return ""
	}
	return b.String()
}

// fits reports whether a drawing fits on a terminal, with a line left for the prompt.
func fits(drawing string, columns, rows int) bool {
	lines := strings.Split(strings.TrimRight(drawing, "\n"), "\n")
	return len(lines) < rows && utf8.RuneCountInString(lines[0]) <= columns
}
