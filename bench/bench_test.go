package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counting gives the values in turn, and writes down who ran.
func counting(log *[]string, name string, values ...float64) Side {
	i := 0
	return Side{Name: name, Command: "run " + name,
		Open: func(context.Context) error { *log = append(*log, "open "+name); return nil },
		Run: func(context.Context) (Values, error) {
			*log = append(*log, name)
			v := values[i%len(values)]
			i++
			return Values{"speed": v}, nil
		},
		Close: func() error { *log = append(*log, "close "+name); return nil },
	}
}

func TestSidesRunInTurn(t *testing.T) {
	var log []string
	s := Scenario{Name: "s", Text: "speed", Warm: 1, Runs: 3, Sides: []Side{
		counting(&log, "a", 1000, 10, 40, 20), // the first is the warm-up
		counting(&log, "b", 5, 10, 20),
	}}
	s.Sides[1].WarmsItself = true
	r, err := Run(context.Background(), []Scenario{s}, []Ratio{{Key: "a_vs_b", Scenario: "s", Num: "a.speed", Den: "b.speed", Aim: ">= 1"},
		{Key: "a_alone", Scenario: "s", Num: "a.speed"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(log, " "), "open a open b a a b a b a b close a close b"; got != want {
		t.Errorf("ran %q, want %q", got, want)
	}
	q := r.Ratios["a_vs_b"] // pairs: 2, 4, 1
	if q.Spread == nil || q.Median != 2 || q.Min != 1 || q.Max != 4 || len(q.Runs) != 3 || !slices.Equal(q.Commands, []string{"run a", "run b"}) {
		t.Errorf("ratio is %+v", q)
	}
	if q := r.Ratios["a_alone"]; q.Spread == nil || q.Median != 20 {
		t.Errorf("the figure itself is %+v", q)
	}
	if v := r.Scenarios[0].Sides[0].Values["speed"]; v.Median != 20 || v.Min != 10 || v.Max != 40 {
		t.Errorf("a's speed is %+v", v)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	var log []string
	noOpen, noRun := counting(&log, "no-open", 1), counting(&log, "no-run", 1)
	noOpen.Open = func(context.Context) error { return fmt.Errorf("%w: no weights", ErrMissing) }
	runs := 0
	noRun.Run = func(context.Context) (Values, error) {
		if runs++; runs == 3 { // works at first
			return nil, errors.New("out of memory")
		}
		return Values{"speed": 1}, nil
	}
	s := Scenario{Name: "s", Sides: []Side{counting(&log, "a", 7), noOpen, noRun}}
	r, err := Run(context.Background(), []Scenario{s}, []Ratio{
		{Key: "x", Scenario: "s", Num: "a.speed", Den: "no-open.speed"},
		{Key: "y", Scenario: "s", Num: "a.speed", Den: "no-run.speed"},
		{Key: "z", Scenario: "s", Num: "a.speed", Den: "a.other"},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"no-open in s: no weights", "no-run in s: out of memory"}
	if !slices.Equal(r.Missing, want) {
		t.Errorf("missing is %q, want %q", r.Missing, want)
	}
	for key, why := range map[string]string{"x": "no-open: no weights", "y": "no-run: out of memory", "z": "a gave no other"} {
		if q := r.Ratios[key]; q.Spread != nil || q.Missing != why {
			t.Errorf("%s is %+v, want missing %q", key, q, why)
		}
	}
	if a := r.Scenarios[0].Sides[0]; a.Values["speed"].Median != 7 || len(a.Values["speed"].Runs) != 3 {
		t.Errorf("the side that works gave %+v", a)
	}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil || !strings.Contains(b.String(), "missing: no-open: no weights") {
		t.Errorf("%v: the table does not name what is missing:\n%s", err, b.String())
	}
}

func TestRunStopsAndTimesOut(t *testing.T) {
	closed := 0
	slow := Side{Name: "slow", Run: func(ctx context.Context) (Values, error) { <-ctx.Done(); return nil, ctx.Err() },
		Close: func() error { closed++; return nil }}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Run(ctx, []Scenario{{Name: "s", Sides: []Side{slow}}}, nil, Options{Progress: func(string, string, int, int) { cancel() }})
	if !errors.Is(err, context.Canceled) || closed != 1 {
		t.Errorf("got %v, closed %d times", err, closed)
	}
	r, err := Run(context.Background(), []Scenario{{Name: "s", Sides: []Side{slow}}}, nil, Options{RunTimeout: time.Millisecond})
	if err != nil || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "deadline exceeded") {
		t.Errorf("got %v, %v: want the side named with its time-out", r, err)
	}
	if _, err := Run(context.Background(), nil, []Ratio{{Key: "k", Scenario: "s", Num: "a.b"}}, Options{}); err == nil {
		t.Error("a ratio of nothing passed")
	}
}

func TestPeer(t *testing.T) {
	ctx := context.Background()
	v, err := Peer("p", "sh", "-c", `echo loading; echo '{"frames_per_second": 12.5}'`).Run(ctx)
	if err != nil || v["frames_per_second"] != 12.5 {
		t.Errorf("got %v, %v", v, err)
	}
	for _, x := range []struct {
		argv    []string
		missing bool
		want    string
	}{
		{[]string{"sh", "-c", "echo trace >&2; echo 'no module named av' >&2; exit 3"}, true, "no module named av"},
		{[]string{"/nowhere/python"}, true, "setup.sh"},
		{[]string{"sh", "-c", "echo broken >&2; exit 1"}, false, "broken"},
		{[]string{"sh", "-c", "echo fast"}, false, "figures"},
	} {
		_, err := Peer("p", x.argv...).Run(ctx)
		if err == nil || errors.Is(err, ErrMissing) != x.missing || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: got %v, want %q, missing %v", x.argv, err, x.want, x.missing)
		}
	}
	if got, want := quote([]string{"a", "b c", "it's", ""}), `a 'b c' 'it'\''s' ''`; got != want {
		t.Errorf("quoted %s, want %s", got, want)
	}
}

func TestFFmpegCountsItsFrames(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "ffmpeg")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\nprintf 'frame=10\\nprogress=continue\\nframe=250\\nprogress=end\\n'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	v, err := FFmpeg(fake, "x.mp4", 256, 144, 2).Run(context.Background())
	if err != nil || v["frames"] != 250 || v["frames_per_second"] <= 0 {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestStart(t *testing.T) {
	ready := func(line string) bool { return strings.HasPrefix(line, "word:") }
	v, err := Start("s", ready, "sh", "-c", "printf 'loading\\nwor'; printf 'd: a van\\n'; exec sleep 60").Run(context.Background())
	if err != nil || v["ready_ms"] <= 0 || v["ready_ms"] > 30000 {
		t.Errorf("got %v, %v", v, err)
	}
	if _, err := Start("s", ready, "sh", "-c", "echo loading").Run(context.Background()); err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Errorf("got %v, want that it ended too early", err)
	}
	if _, err := Start("s", ready, "/nowhere/lookout").Run(context.Background()); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
}

func TestAging(t *testing.T) {
	d := func(ms ...int) (out []time.Duration) {
		for _, x := range ms {
			out = append(out, time.Duration(x)*time.Millisecond)
		}
		return out
	}
	// The machine was slow for one pair: that is no aging.
	v, err := aging(Aging{Hours: d(20, 21, 22), Old: d(22, 90, 22), Young: d(20, 80, 20), Early: 1000, Late: 1010}, 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if v["old_vs_young"] != 1.1 || v["young_ms"] != 20 || v["old_ms"] != 22 || v["update_ms@1"] != 21 || v["hours"] != 2 || v["memory_growth"] < 0.0099 || v["memory_growth"] > 0.0101 {
		t.Errorf("got %v", v)
	}
	if _, err := aging(Aging{Old: d(1), Early: 1000}, time.Hour); err == nil {
		t.Error("no pairs passed for a figure")
	}
}

// Without a pipeline and peers every scenario still reports, and says what it lacks.
func TestScenariosWithoutAnything(t *testing.T) {
	s, q := Scenarios(Lookout{}, Config{Quick: true, Python: "/nowhere/python", FFmpeg: "/nowhere/ffmpeg", Only: []string{
		"decode-only", "encode-only", "end-to-end", "streams", "fast-forward", "prompts", "static-busy", "first-word", "start"}})
	r, err := Run(context.Background(), s, q, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Scenarios {
		for _, side := range x.Sides {
			if side.Missing == "" {
				t.Errorf("%s of %s gave %v out of nothing", side.Name, x.Name, side.Values)
			}
		}
	}
	if len(s) != 9 {
		t.Errorf("%d scenarios", len(s))
	}
}

func TestRatiosAreThoseOfTheReport(t *testing.T) {
	s, q := Scenarios(Lookout{}, Config{})
	if err := check(s, q); err != nil {
		t.Error(err)
	}
	var got []string
	for _, x := range q {
		got = append(got, x.Key)
	}
	want := []string{"e2e_vs_transformers_same", "e2e_vs_transformers_best", "decode_vs_llamacpp", "decode_vs_genai", "bandwidth_share", "ingest_vs_ffmpeg",
		"ingest_vs_pyav", "update_24h_vs_first", "memory_growth_24h", "prompts16_vs_1_visual", "static_vs_busy_cpu", "first_word_p95_ms", "start_to_first_word_ms"}
	if !slices.Equal(got, want) {
		t.Errorf("ratios are %q, want %q", got, want)
	}
	// Each script that a side runs is in the folder.
	for _, x := range s {
		for _, side := range x.Sides {
			for _, w := range strings.Fields(side.Command) {
				if strings.HasSuffix(w, ".py") {
					if _, err := os.Stat(filepath.Join("peers", filepath.Base(w))); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
}

func TestSave(t *testing.T) {
	s := []Scenario{
		{Name: "bars", Text: "a <b> & c", Sides: []Side{
			{Name: "a", Command: "a", Run: func(context.Context) (Values, error) { return Values{"x": 3}, nil }},
			{Name: "b & c", Command: "b", Run: func(context.Context) (Values, error) { return nil, errors.New("broken") }},
		}},
		{Name: "curve", Text: "growth", Sides: []Side{{Name: "a", Command: "a", Run: func(context.Context) (Values, error) {
			return Values{"ms@10": 5, "ms@1": 4, "ms@2.5": 4.5, "last": 9}, nil
		}}}},
		{Name: "nothing", Sides: []Side{{Name: "a", Run: func(context.Context) (Values, error) { return nil, errors.New("broken") }}}},
	}
	r, err := Run(context.Background(), s, []Ratio{{Key: "k", Scenario: "bars", Num: "a.x"}, {Key: "m", Scenario: "bars", Num: "b & c.x"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "results")
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "latest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine struct{ Cores int }
		Missing []string
		Ratios  map[string]struct {
			Runs             []float64
			Median, Min, Max *float64
			Commands         []string
			Missing          string
		}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if k := got.Ratios["k"]; k.Median == nil || *k.Median != 3 || len(k.Runs) != 3 || len(k.Commands) != 1 {
		t.Errorf("k is %+v in %s", k, data)
	}
	if m := got.Ratios["m"]; m.Median != nil || m.Missing != "b & c: broken" {
		t.Errorf("m is %+v", m)
	}
	if got.Machine.Cores < 1 || len(got.Missing) != 2 {
		t.Errorf("machine %+v, missing %q", got.Machine, got.Missing)
	}
	for _, name := range []string{"bars.svg", "curve.svg"} {
		svg, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, svg)
			}
		}
	}
	curve, err := os.ReadFile(filepath.Join(dir, "curve.svg"))
	if err != nil || strings.Count(string(curve), "<circle") != 3 || !strings.Contains(string(curve), `text-anchor="middle">10</text>`) {
		t.Errorf("%v: the curve has not its three points: %s", err, curve)
	}
	if _, err := os.Stat(filepath.Join(dir, "nothing.svg")); err == nil {
		t.Error("nothing was drawn")
	}
}

func TestMeasures(t *testing.T) {
	before := CPUTime()
	x := 0
	for CPUTime()-before < 5*time.Millisecond {
		x++
	}
	if m := Describe(); m.Cores < 1 || m.Go == "" || RSS() < 1<<20 && m.System == "linux/amd64" {
		t.Errorf("this machine is %+v with %d bytes resident", m, RSS())
	}
	if b := CopyBandwidth(context.Background(), 2, 1<<20, time.Millisecond); b <= 0 {
		t.Errorf("copied %v bytes a second", b)
	}
	for v, want := range map[float64]float64{0: 0, 0.3: 0.5, 1: 1, 2.2: 2.5, 7: 10, 130: 200} {
		if got := nice(v); got != want {
			t.Errorf("nice(%v) is %v, want %v", v, got, want)
		}
	}
	d := []time.Duration{5, 1, 4, 2, 3}
	if percentile(d, 0.5) != 3 || percentile(d, 0.95) != 5 || percentile(nil, 0.5) != 0 {
		t.Errorf("percentiles are %v, %v", percentile(d, 0.5), percentile(d, 0.95))
	}
}

// What stands in the file is replaced: the tables between their lines, whole,
// and the plots that it shows. Results that were saved give the same again.
func TestDocument(t *testing.T) {
	dir := t.TempDir()
	one := func(v float64) Values { return Values{"updates_per_second": v} }
	side := func(name string, v float64) Side {
		return Side{Name: name, Run: func(context.Context) (Values, error) { return one(v), nil }}
	}
	s := Scenario{Name: "end-to-end", Text: "updates a second", Runs: 3, Sides: []Side{side("lookout-fp32", 6), side("lookout-best", 7), side("transformers", 1),
		{Name: "slow", Run: func(context.Context) (Values, error) { return nil, errors.New("no\nweights") }}}}
	ratios := slices.DeleteFunc(allRatios(), func(r Ratio) bool { return r.Scenario != s.Name })
	r, err := Run(t.Context(), []Scenario{s}, ratios, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Document("bench.md"); err == nil || !strings.Contains(err.Error(), "hold no decode_vs_llamacpp") {
		t.Errorf("results of one scenario: %v", err)
	}
	for _, q := range allRatios() {
		if _, ran := r.Ratios[q.Key]; !ran {
			r.Ratios[q.Key] = RatioResult{Aim: q.Aim, Missing: "no machine"}
		}
	}
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	doc, old := filepath.Join(dir, "bench.md"), "# Figures\n\n<!-- ratios -->\nstale\n<!-- end -->\nwhy\n\n![](pictures/bench-end-to-end.svg)\n\n<!-- figures -->\n<!-- end -->\nlast\n"
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "pictures"), 0o755), os.WriteFile(doc, []byte(old), 0o644)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		again, err := Load(filepath.Join(dir, "latest.json"))
		if err == nil {
			err = again.Document(doc)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"# Figures\n\n<!-- ratios -->\nRun of ", "(`e2e_vs_transformers_same`) | 6.000 | 6.000 to 6.000 | >= 3 | reached |\n",
			"(`e2e_vs_transformers_best`) | 7.000 | 7.000 to 7.000 | >= 8 | **missed** |\n",
			"(`start_to_first_word_ms`) | | | <= 1000 | not measured: no machine |\n<!-- end -->\nwhy\n", "| end-to-end | transformers | updates_per_second | 1.000 | 1.000 to 1.000 |\n",
			"| end-to-end | slow | missing: no weights | | |\n<!-- end -->\nlast\n"} {
			if !strings.Contains(string(got), want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if strings.Contains(string(got), "stale") {
			t.Error("the old table is still there")
		}
	}
	drawn, err := os.ReadFile(filepath.Join(dir, "pictures", "bench-end-to-end.svg"))
	saved, _ := os.ReadFile(filepath.Join(dir, "end-to-end.svg"))
	if err != nil || !bytes.Equal(drawn, saved) {
		t.Errorf("the plot is not the one that was saved: %v", err)
	}
	if err := os.WriteFile(doc, []byte("no lines"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Document(doc); err == nil || !strings.Contains(err.Error(), "<!-- ratios -->") {
		t.Errorf("a file without the lines: %v", err)
	}
}
