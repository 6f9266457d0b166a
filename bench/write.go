package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Save writes latest.json and one SVG plot a scenario into dir, which is made
// when it is not there. A plot of a scenario that gave nothing is not written.
func (r *Results) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bench: save: %w", err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: save: %w", err)
	}
	if err := replace(filepath.Join(dir, "latest.json"), append(data, '\n')); err != nil {
		return err
	}
	for _, s := range r.Scenarios {
		if svg := s.plot(); svg != nil {
			if err := replace(filepath.Join(dir, s.Name+".svg"), svg); err != nil {
				return err
			}
		}
	}
	return nil
}

// replace writes the file whole or not at all.
func replace(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return fmt.Errorf("bench: save: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("bench: save: %w", err)
	}
	return nil
}

// WriteTable writes the machine, the ratios with their aims, each scenario's
// figures and what is missing.
func (r *Results) WriteTable(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s, %d cores, %.0f GiB, %s, Linux %s, %s, load %.1f\n", m.CPU, m.Cores, float64(m.Memory)/(1<<30), strings.Join(m.Flags, " "), m.Kernel, m.Go, m.Load)
	for _, g := range m.GPUs {
		fmt.Fprintln(w, g)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nratio\tmedian\tmin\tmax\truns\taim\t")
	for _, k := range r.order {
		q := r.Ratios[k]
		if q.Spread == nil {
			fmt.Fprintf(t, "%s\t-\t\t\t0\t%s\tmissing: %s\n", k, q.Aim, q.Missing)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t\n", k, figure(q.Median), figure(q.Min), figure(q.Max), len(q.Runs), q.Aim)
	}
	for _, s := range r.Scenarios {
		fmt.Fprintf(t, "\n%s\tmedian\tmin\tmax\truns\t\t\n", s.Name)
		for _, x := range s.Sides {
			if x.Missing != "" {
				fmt.Fprintf(t, "  %s\t-\t\t\t0\t\tmissing: %s\n", x.Name, x.Missing)
			}
			for _, name := range valueNames(x.Values) {
				v := x.Values[name]
				fmt.Fprintf(t, "  %s %s\t%s\t%s\t%s\t%d\t\t\n", x.Name, name, figure(v.Median), figure(v.Min), figure(v.Max), len(v.Runs))
			}
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%.0f seconds; %d sides missing\n", r.Seconds, len(r.Missing))
	return err
}

// figure rounds to what a reader needs.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e9:
		return strconv.FormatFloat(v, 'g', 4, 64)
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// valueNames sorts names, and points of a curve ("update_ms@12") by number.
func valueNames(v map[string]Spread) []string {
	return slices.SortedFunc(maps.Keys(v), func(a, b string) int {
		an, ax, _ := point(a)
		bn, bx, _ := point(b)
		if c := strings.Compare(an, bn); c != 0 {
			return c
		}
		return int(math.Copysign(1, ax-bx))
	})
}

// point splits a value's name into a curve's name and the place on it.
func point(name string) (curve string, x float64, ok bool) {
	curve, at, found := strings.Cut(name, "@")
	x, err := strconv.ParseFloat(at, 64)
	return curve, x, found && err == nil
}
