// Command chartdocs writes the table of a chart's values into its README.md, between the two lines <!-- values --> and <!-- end of values -->.
//
// The words come from values.yaml: a comment that begins with "-- " describes the value below it, and all that lies in it unless it is described by itself. A
// value nobody describes is an error, so that none is forgotten.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	begin = "<!-- values, made by make gen -->\n"
	end   = "<!-- end of values -->\n"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: chartdocs <chart>")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "chartdocs:", err)
		os.Exit(1)
	}
}

func run(chart string) error {
	values, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(values, &doc); err != nil {
		return fmt.Errorf("values.yaml: %w", err)
	}
	rows, err := table(doc.Content[0], "")
	if err != nil {
		return fmt.Errorf("values.yaml: %w", err)
	}
	path := filepath.Join(chart, "README.md")
	readme, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, found := strings.Cut(string(readme), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no lines %q and %q", path, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	text := head + begin + "\n| value | default | meaning |\n|---|---|---|\n" + strings.Join(rows, "") + "\n" + end + tail
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // a page for everybody
}

// table gives the rows for the values of a mapping.
func table(mapping *yaml.Node, prefix string) ([]string, error) {
	var rows []string
	var missing error
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		name := prefix + key.Value
		switch words := description(key.HeadComment); {
		case words != "":
			shown, err := flow(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", name, shown, words))
		case value.Kind == yaml.MappingNode && len(value.Content) > 0:
			inner, err := table(value, name+".")
			rows, missing = append(rows, inner...), errors.Join(missing, err)
		default:
			missing = errors.Join(missing, fmt.Errorf("line %d: %s has no comment that begins with \"# -- \"", key.Line, name))
		}
	}
	return rows, missing
}

// description gives the words of a comment after its "-- ", on one line.
func description(comment string) string {
	var words []string
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if text, ok := strings.CutPrefix(line, "-- "); ok {
			words = []string{text}
		} else if len(words) > 0 && line != "" {
			words = append(words, line)
		}
	}
	return strings.ReplaceAll(strings.Join(words, " "), "|", `\|`)
}

// flow gives a value on one line.
func flow(value *yaml.Node) (string, error) {
	bare := strip(value)
	if bare.Kind != yaml.ScalarNode {
		bare.Style = yaml.FlowStyle
	}
	text, err := yaml.Marshal(bare)
	if err != nil {
		return "", err
	}
	one := strings.Join(strings.Fields(string(text)), " ")
	if len(one) > 160 {
		return "see values.yaml", nil
	}
	return "`" + strings.ReplaceAll(one, "|", `\|`) + "`", nil
}

// strip copies a value without its comments.
func strip(n *yaml.Node) *yaml.Node {
	c := *n
	c.HeadComment, c.LineComment, c.FootComment = "", "", ""
	c.Content = nil
	for _, inner := range n.Content {
		inner = strip(inner)
		if inner.Kind != yaml.ScalarNode {
			inner.Style = yaml.FlowStyle
		}
		c.Content = append(c.Content, inner)
	}
	return &c
}
