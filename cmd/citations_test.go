package cmd

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestCitations finds that comments and documents cite only what a reader can open:
// documents that the repository has, with the sections that they are cited for.
func TestCitations(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	for _, wrong := range miscited(t, os.DirFS("..")) {
		t.Error(wrong)
	}
}

func TestMiscitedFindsWhatIsNotThere(t *testing.T) {
	for text, want := range map[string]bool{
		"the rules (a/RULES.md §1)":                 false,
		"the rules (RULES.md\n// §1, §2 and §1)":    false,
		"the rules (../a/RULES.md, \"The second\")": false,
		"RFC 6962 §2.1.1":                           false,
		"https://example.org/made/UP.md":            false,
		"the rules (a/RULES.md §3)":                 true,
		"the rules (a/RULES.md §1 to §3)":           true,
		"the rules (a/RULES.md, \"The third\")":     true,
		"the rules (a/MADE-UP.md §1)":               true,
		"the rules (MADE-UP.md)":                    true,
		"the rules (made-up-rules §1)":              true,
	} {
		top := fstest.MapFS{
			"a/RULES.md": {Data: []byte("# Rules\n\n## 1. The first\n\n## 2. The second\n\nAs in §1.\n")},
			"a/a.go":     {Data: []byte("// " + text + "\npackage a\n")},
		}
		if got := miscited(t, top); want != (len(got) > 0) {
			t.Errorf("%q: got %q, want it found: %v", text, got, want)
		}
	}
	top := fstest.MapFS{
		"RULES.md": {Data: []byte("# Rules\n\n## 1. The first\n\nAs in §2, [here](#2-the-second), [there](a/MADE-UP.md), [there](made/up.go).\n")},
		"a.proto":  {Data: []byte("// As RULES.md\n  // §2 says.\n")},
	}
	if got := miscited(t, top); len(got) != 6 { // the document is a citation, and a link
		t.Errorf("got %q, want six: two sections, an anchor, a document twice, a file", got)
	}
}

// document is what can be cited of a document.
type document struct{ numbers, titles, anchors []string }

// readDocument reads the headings of a document, and makes their anchors as GitHub does.
func readDocument(top fs.FS, name string) (d document, ok bool) {
	heading, dropped := regexp.MustCompile(`(?m)^#+ ((?:(\d+)\. )?(.+))$`), regexp.MustCompile(`[^\w-]`)
	text, err := fs.ReadFile(top, name)
	for _, h := range heading.FindAllStringSubmatch(string(text), -1) {
		d.numbers, d.titles = append(d.numbers, h[2]), append(d.titles, h[3])
		anchor := strings.ReplaceAll(strings.ToLower(h[1]), " ", "-")
		d.anchors = append(d.anchors, "#"+dropped.ReplaceAllString(anchor, ""))
	}
	return d, err == nil
}

// miscited lists what the files of a repository cite and it does not have. A path is taken
// from the folder of who cites it, or from the top.
func miscited(t *testing.T, top fs.FS) (wrong []string) {
	t.Helper()
	// cited is an RFC or a document, with the sections or the heading that it is cited for.
	cited := regexp.MustCompile(`(?:RFC \d+|([\w./-]+\.md)(#[\w-]+)?)((?:(?:,| to| and)? ?§[\d.]+)*)(?:, "([^"]+)")?`)
	section, link := regexp.MustCompile(`§(\d+)`), regexp.MustCompile(`\]\(([^)#]*)(#[^)]+)?\)`)
	err := fs.WalkDir(top, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if name != "." && (entry.Name() == "testdata" || entry.Name() == "node_modules" || entry.Name()[0] == '.') {
				return fs.SkipDir
			}
			return err
		}
		text, err := prose(top, name)
		if err != nil {
			return err
		}
		bad := func(what string) { wrong = append(wrong, name+" cites "+what+": there is none") }
		for _, c := range cited.FindAllStringSubmatch(text, -1) {
			file, anchor, sections, title := c[1], c[2], c[3], c[4]
			if file == "" || strings.HasPrefix(file, "//") { // an RFC, a URL
				continue
			}
			d, ok := readDocument(top, path.Join(path.Dir(name), file))
			if !ok {
				d, ok = readDocument(top, path.Clean(file))
			}
			if !ok {
				bad(file)
				continue
			}
			for _, s := range section.FindAllStringSubmatch(sections, -1) {
				if !slices.Contains(d.numbers, s[1]) {
					bad(file + " " + s[0])
				}
			}
			if title != "" && !slices.Contains(d.titles, title) {
				bad(file + ", " + title)
			}
			if anchor != "" && !slices.Contains(d.anchors, anchor) {
				bad(file + anchor)
			}
		}
		own, _ := readDocument(top, name)
		for _, s := range section.FindAllStringSubmatch(cited.ReplaceAllString(text, ""), -1) {
			if path.Ext(name) != ".md" || !slices.Contains(own.numbers, s[1]) {
				bad(s[0] + " of a document that it does not name")
			}
		}
		if path.Ext(name) != ".md" {
			return nil
		}
		for _, l := range link.FindAllStringSubmatch(text, -1) {
			to, anchor := l[1], l[2]
			if to == "" && !slices.Contains(own.anchors, anchor) {
				bad(anchor)
			}
			if _, err := fs.Stat(top, path.Join(path.Dir(name), to)); err != nil && !strings.Contains(to, "://") {
				bad(to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return wrong
}

// prose returns the text of a document, or of a file's comments, on one line; "" if the file
// has neither.
func prose(top fs.FS, name string) (string, error) {
	extension := path.Ext(name)
	if !slices.Contains([]string{".go", ".md", ".proto", ".sh", ".yaml"}, extension) {
		return "", nil
	}
	content, err := fs.ReadFile(top, name)
	if err != nil {
		return "", err
	}
	text := string(content)
	switch extension {
	case ".go":
		parsed, err := parser.ParseFile(token.NewFileSet(), name, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return "", err
		}
		text = ""
		for _, comment := range parsed.Comments {
			text += comment.Text() + "\n"
		}
	case ".proto", ".sh", ".yaml":
		text = regexp.MustCompile(`(?m)^\s*(?://|#)`).ReplaceAllString(text, "") // what is before a comment
	}
	return strings.Join(strings.Fields(text), " "), nil
}
