package vlm

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/ort/kernels"
	"github.com/lookout-video/lookout/internal/testmodel"
)

// realModel is what `make smollm2` writes.
func realModel(t *testing.T) *golden {
	t.Helper()
	return unpack(t, testmodel.SmolLM2(t))
}

// SmolLM2-135M-Instruct says through Lookout what it says through transformers.
func TestParityRealWeights(t *testing.T) {
	g := realModel(t)
	m, err := Open(g.dir, environment(t), Options{Precision: "fp32"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, c := range g.Cases {
		t.Run(c.Question, func(t *testing.T) {
			parity(t, g, m, c)
			t.Logf("%q", m.tok.Decode(c.Greedy))
		})
	}
}

// The int4 file may be at most 3 % more surprised by a text than the fp32 one, and no
// more so for what a prepared graph changes: its products, and a cache in 16 bits.
func TestParityRealPerplexity(t *testing.T) {
	g := realModel(t)
	data, err := os.ReadFile(filepath.Join(g.dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var reference struct {
		Perplexity float64
		Tokens     int
	}
	if err := json.Unmarshal(data, &reference); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/perplexity.txt")
	if err != nil {
		t.Fatal(err)
	}
	measured := map[string]float64{}
	for _, how := range []string{"fp32", "q4", "prepared"} {
		cfg, precision := ort.Config{Device: "cpu", Threads: 2}, how
		if how == "prepared" {
			cfg.CacheDir, precision = t.TempDir(), "q4"
		}
		env, err := ort.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Open(g.dir, env, Options{Precision: precision})
		if err != nil {
			t.Fatal(err)
		}
		if m.g.half != (how == "prepared" && kernels.Supported()) {
			t.Errorf("%s: the cache has 16 bits: %v", how, m.g.half)
		}
		ids := m.tok.Encode(string(text), true)
		if len(ids) != reference.Tokens {
			t.Errorf("%d tokens, the reference has %d", len(ids), reference.Tokens)
		}
		measured[how] = perplexity(t, m, ids)
		if err := errors.Join(m.Close(), env.Close()); err != nil {
			t.Fatal(err)
		}
	}
	full, small, quick := measured["fp32"], measured["q4"], measured["prepared"]
	t.Logf("%d tokens: transformers %.4f, fp32 %.4f, int4 %.4f (%.2f %% more), prepared %.4f", reference.Tokens, reference.Perplexity, full, small, 100*(small/full-1), quick)
	if math.Abs(full/reference.Perplexity-1) > 1e-3 {
		t.Errorf("fp32 %.4f, transformers %.4f", full, reference.Perplexity)
	}
	if small > 1.03*full {
		t.Errorf("int4 %.4f, fp32 %.4f: more than 3 %% worse", small, full)
	}
	if math.Abs(quick/small-1) > 0.005 {
		t.Errorf("int4 prepared %.4f, unprepared %.4f", quick, small)
	}
}

func perplexity(t *testing.T, m *Model, ids []int) float64 {
	t.Helper()
	d := m.g.newDecoder()
	defer d.close()
	var sum float64
	step := chunk
	if out, _ := has(m.g.next.Outputs, "logits"); dim(out, 1, chunk) == 1 {
		step = 1 // a run gives those of its last token only
	}
	for from := 0; from < len(ids)-1; from += step {
		part := ids[from:min(from+step, len(ids)-1)]
		raw := make([]int64, len(part))
		for i, id := range part {
			raw[i] = int64(id)
		}
		embeds, err := m.embeddings(t.Context(), raw)
		if err == nil {
			err = d.read(t.Context(), embeds, nil, len(raw))
		}
		if err != nil {
			t.Fatal(err)
		}
		rows := d.logits // one token has no others
		if len(part) > 1 {
			rows = d.all
		}
		for i := range part {
			row := rows[i*m.g.vocab : (i+1)*m.g.vocab]
			var total float64
			for _, x := range row {
				total += math.Exp(float64(x))
			}
			sum += math.Log(total) - float64(row[ids[from+i+1]])
		}
	}
	return math.Exp(sum / float64(len(ids)-1))
}

// Real weights in 4 bits say in one run with others what they say alone. The
// library rounds otherwise for one row than for several, so that one answer or
// another may tip where two tokens are about as likely; never all of them.
func TestRealWeightsInLanes(t *testing.T) {
	g := realModel(t)
	m, err := Open(g.dir, environment(t), Options{Precision: "q4"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	questions := []string{"What is the capital of France?", "Name a colour.", "Say hello."}
	var alone [3]string
	var sessions [3]*Session
	for i, q := range questions {
		if sessions[i], err = m.NewSession(); err != nil {
			t.Fatal(err)
		}
		defer sessions[i].Close()
		say(t, sessions[i], q, 8) // read anew; asked again only the prompt's last token is
		alone[i] = say(t, sessions[i], q, 8)
	}
	if m.lanes == nil {
		t.Fatal("no lanes")
	}
	if begun, _, _, _ := m.lanes.State(); begun {
		t.Fatal("a lane for a session that spoke alone")
	}
	defer m.lanes.Speak()() // somebody speaks all the time
	var wg sync.WaitGroup
	var same atomic.Int32
	for i, q := range questions {
		wg.Go(func() {
			var b strings.Builder
			for p, err := range sessions[i].Generate(t.Context(), Request{Question: q, MaxTokens: 8, Exactly: true}) {
				if err != nil {
					t.Error(err)
				}
				b.WriteString(p.Text)
			}
			t.Logf("%q among others, %q alone", b.String(), alone[i])
			if b.String() == alone[i] {
				same.Add(1)
			}
		})
	}
	wg.Wait()
	if begun, fit, active, _ := m.lanes.State(); same.Load() == 0 || !fit || !begun || active != 0 {
		t.Errorf("%d answers as alone; lanes: fit %v, used %v, %d active", same.Load(), fit, begun, active)
	}
}
