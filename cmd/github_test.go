package cmd

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

// github is what GitHub reads of the repository.
const github = ".github"

// TestWorkflow finds that CI runs .ci/run, may do nothing but read, and takes each action in one exact version.
func TestWorkflow(t *testing.T) {
	var workflow struct {
		Permissions map[string]string
		Jobs        map[string]struct {
			Timeout int `yaml:"timeout-minutes"`
			Steps   []struct{ Uses, Run string }
		}
	}
	readYAML(t, "workflows/ci.yml", &workflow)
	if p := workflow.Permissions; len(p) != 1 || p["contents"] != "read" {
		t.Errorf("permissions %v, expected to read contents and nothing else", p)
	}
	exact := regexp.MustCompile(`^[\w-]+/[\w-]+@v\d+\.\d+\.\d+$`)
	runs := 0
	for name, job := range workflow.Jobs {
		if job.Timeout == 0 {
			t.Errorf("job %s: expected timeout-minutes", name)
		}
		for _, step := range job.Steps {
			if step.Uses != "" && !exact.MatchString(step.Uses) {
				t.Errorf("job %s uses %s, expected an action with an exact version", name, step.Uses)
			}
			if step.Run == ".ci/run" {
				runs++
			}
		}
	}
	if runs != 1 {
		t.Errorf(".ci/run is run %d times, expected once", runs)
	}
}

// TestIssueForms finds that each form has what GitHub wants of one. GitHub does not offer a form that lacks
// something, and tells nobody.
func TestIssueForms(t *testing.T) {
	var config struct {
		Links []struct{ Name, URL, About string } `yaml:"contact_links"`
	}
	readYAML(t, "ISSUE_TEMPLATE/config.yml", &config)
	if len(config.Links) != 1 || config.Links[0].Name == "" || config.Links[0].About == "" ||
		!strings.HasSuffix(config.Links[0].URL, "/security/advisories/new") {
		t.Errorf("links %+v, expected one to a new advisory", config.Links)
	}
	for _, name := range []string{"bug.yml", "feature.yml"} {
		var form struct {
			Name, Description string
			Body              []struct {
				Type, ID   string
				Attributes struct{ Label, Value string }
			}
		}
		readYAML(t, "ISSUE_TEMPLATE/"+name, &form)
		if form.Name == "" || form.Description == "" || len(form.Body) == 0 {
			t.Errorf("%s: expected name, description and body", name)
		}
		var ids []string
		for _, field := range form.Body {
			switch field.Type {
			case "markdown":
				if field.Attributes.Value == "" {
					t.Errorf("%s: expected a value of its markdown", name)
				}
			case "input", "textarea", "checkboxes":
				if field.Attributes.Label == "" || field.ID == "" || slices.Contains(ids, field.ID) {
					t.Errorf("%s: %+v: expected a label and an id of its own", name, field)
				}
				ids = append(ids, field.ID)
			default:
				t.Errorf("%s: GitHub knows no field of type %q", name, field.Type)
			}
		}
	}
}

// TestGuideLinks finds that what the documents for contributors link to in the repository is there.
func TestGuideLinks(t *testing.T) {
	top := os.DirFS("..")
	guides, err := fs.Glob(top, github+"/*.md")
	if err != nil || len(guides) != 3 {
		t.Fatalf("documents %q, %v, expected three", guides, err)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, guide := range guides {
		text, err := fs.ReadFile(top, guide)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := fs.Stat(top, path.Join(path.Dir(guide), found[1])); err != nil {
				t.Errorf("%s links to %s: %v", guide, found[1], err)
			}
		}
	}
}

// readYAML reads a file that GitHub reads.
func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(path.Join("..", github, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
