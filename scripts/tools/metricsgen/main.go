// Command metricsgen makes the documentation of the metrics and a Grafana dashboard from the
// file that specifies both.
//
// It is run by go generate from the room that has the file. What never belongs here: a choice
// about a metric.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// specification is the file: the metrics, and the rows of the dashboard.
type specification struct {
	Metrics []struct {
		Name, Type, Help, Part string
		Labels                 map[string]string
	}
	Dashboard []struct {
		Row    string
		Panels []panel
	}
}

type panel struct {
	Title   string
	Kind    string // of Grafana's; timeseries by default
	Unit    string
	Queries []struct{ Expr, Legend string }
}

func main() {
	spec := flag.String("spec", "", "YAML file with the metrics and the dashboard")
	table := flag.String("table", "", "Markdown file to write")
	dashboard := flag.String("dashboard", "", "JSON file to write")
	flag.Parse()
	if *spec == "" || *table == "" || *dashboard == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: metricsgen -spec FILE.yaml -table FILE.md -dashboard FILE.json")
		os.Exit(2)
	}
	if err := generate(*spec, *table, *dashboard); err != nil {
		fmt.Fprintln(os.Stderr, "metricsgen:", err)
		os.Exit(1)
	}
}

func generate(spec, table, dashboard string) error {
	text, err := os.ReadFile(spec)
	if err != nil {
		return err
	}
	var s specification
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return fmt.Errorf("%s: %w", spec, err)
	}
	if err := os.WriteFile(table, s.markdown(), 0o644); err != nil {
		return err
	}
	board, err := json.MarshalIndent(s.grafana(), "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(dashboard, append(board, '\n'), 0o644)
}

// markdown returns a table of the metrics.
func (s *specification) markdown() []byte {
	var out bytes.Buffer
	out.WriteString("<!-- Made by go generate from metrics.yaml. -->\n# Metrics\n\n" +
		"`keytree serve --metrics-listen` has these at `/metrics`, in Prometheus' text format, with those of the Go runtime and the process.\n\n" +
		"| metric | type | labels | what |\n|---|---|---|---|\n")
	for _, m := range s.Metrics {
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(m.Labels)) {
			labels = append(labels, fmt.Sprintf("`%s`: %s", name, m.Labels[name]))
		}
		what := m.Help
		if m.Part != "" {
			what += " (" + m.Part + ")"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, strings.Join(labels, "; "), what)
	}
	return out.Bytes()
}

// The grid of a Grafana dashboard: how wide it is, and how large a panel here.
const (
	gridWidth   = 24
	panelWidth  = 8
	panelHeight = 8
)

type object = map[string]any

// grafana returns a dashboard that can be imported: it asks which Prometheus to use.
func (s *specification) grafana() object {
	source := object{"type": "prometheus", "uid": "${datasource}"}
	panels, y := []object{}, 0
	for _, row := range s.Dashboard {
		panels = append(panels, object{"id": len(panels) + 1, "type": "row", "title": row.Row, "gridPos": object{"x": 0, "y": y, "w": gridWidth, "h": 1}, "panels": []object{}})
		y++
		for i, p := range row.Panels {
			x := i * panelWidth % gridWidth
			if i > 0 && x == 0 {
				y += panelHeight
			}
			panels = append(panels, object{
				"id": len(panels) + 1, "type": kindOr(p.Kind), "title": p.Title, "datasource": source, "targets": p.targets(),
				"gridPos":     object{"x": x, "y": y, "w": panelWidth, "h": panelHeight},
				"fieldConfig": object{"defaults": object{"unit": unitOr(p.Unit)}, "overrides": []object{}},
			})
		}
		y += panelHeight
	}
	return object{
		"title": "keytree", "uid": "keytree", "schemaVersion": 39, "version": 1, "editable": true, "refresh": "30s",
		"time": object{"from": "now-6h", "to": "now"}, "panels": panels,
		"templating": object{"list": []object{{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}}},
	}
}

func (p panel) targets() (list []object) {
	for i, q := range p.Queries {
		list = append(list, object{"refId": string(rune('A' + i)), "expr": q.Expr, "legendFormat": q.Legend})
	}
	return list
}

func kindOr(kind string) string {
	if kind == "" {
		return "timeseries"
	}
	return kind
}

func unitOr(unit string) string {
	if unit == "" {
		return "short"
	}
	return unit
}
