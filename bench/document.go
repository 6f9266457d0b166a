package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Load reads what Save wrote.
func Load(path string) (*Results, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("bench: load: %w", err)
	}
	r := new(Results)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("bench: load %s: %w", path, err)
	}
	return r, nil
}

// Document puts the results into a Markdown file: the ratios in place of what
// stands between the lines <!-- ratios --> and <!-- end -->, all figures between
// <!-- figures --> and <!-- end -->. The plots that the file shows as
// pictures/bench-SCENARIO.svg are drawn anew. Results of some scenarios only are
// refused: they would take the others' figures away.
func (r *Results) Document(path string) error {
	for _, q := range allRatios() {
		if _, ran := r.Ratios[q.Key]; !ran {
			return fmt.Errorf("bench: document: the results hold no %s: run all scenarios", q.Key)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("bench: document: %w", err)
	}
	doc := string(data)
	for _, part := range []struct{ name, text string }{{"ratios", r.ratioTable()}, {"figures", r.figureTable()}} {
		begin := "<!-- " + part.name + " -->\n"
		before, rest, found := strings.Cut(doc, begin)
		_, after, ended := strings.Cut(rest, "<!-- end -->\n")
		if !found || !ended {
			return fmt.Errorf("bench: document: %s has no lines %q and %q", path, strings.TrimSpace(begin), "<!-- end -->")
		}
		doc = before + begin + part.text + "<!-- end -->\n" + after
	}
	if err := replace(path, []byte(doc)); err != nil {
		return err
	}
	for _, s := range r.Scenarios {
		picture := "pictures/bench-" + s.Name + ".svg"
		if svg := s.plot(); svg != nil && strings.Contains(doc, picture) {
			if err := replace(filepath.Join(filepath.Dir(path), filepath.FromSlash(picture)), svg); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Results) ratioTable() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "Run of %s, %.0f seconds; %s, %d cores, load before it %.1f.\n\n", r.Started.Format("2 January 2006, 15:04 MST"), r.Seconds, m.CPU, m.Cores, m.Load)
	b.WriteString("| figure | median | least to largest | aim | |\n|---|---|---|---|---|\n")
	for _, q := range allRatios() {
		v := r.Ratios[q.Key]
		name := fmt.Sprintf("%s (`%s`)", q.Text, q.Key)
		if v.Spread == nil {
			fmt.Fprintf(&b, "| %s | | | %s | not measured: %s |\n", name, v.Aim, v.Missing)
			continue
		}
		verdict := "**missed**"
		if reached(v.Median, v.Aim) {
			verdict = "reached"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, figure(v.Median), v.between(), v.Aim, verdict)
	}
	return b.String()
}

func (r *Results) figureTable() string {
	var b strings.Builder
	b.WriteString("| scenario | side | figure | median | least to largest |\n|---|---|---|---|---|\n")
	for _, s := range r.Scenarios {
		for _, x := range s.Sides {
			if x.Missing != "" {
				fmt.Fprintf(&b, "| %s | %s | missing: %s | | |\n", s.Name, x.Name, strings.ReplaceAll(x.Missing, "\n", " "))
			}
			for _, name := range valueNames(x.Values) {
				v := x.Values[name]
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.Name, x.Name, name, figure(v.Median), v.between())
			}
		}
	}
	return b.String()
}

func (s Spread) between() string {
	if len(s.Runs) == 1 {
		return "one run"
	}
	return figure(s.Min) + " to " + figure(s.Max)
}

// reached compares with an aim such as ">= 3" or "<= 1.05 (quick: 1 h)".
func reached(v float64, aim string) bool {
	f := strings.Fields(aim)
	if len(f) < 2 || !slices.Contains([]string{">=", "<="}, f[0]) {
		return false
	}
	limit, err := strconv.ParseFloat(f[1], 64)
	return err == nil && (f[0] == ">=") == (v >= limit) || v == limit
}
