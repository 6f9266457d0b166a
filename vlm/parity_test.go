package vlm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/encoder/vision"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/testmodel"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
)

// The goldens were made by train/goldens/models_golden.py. LOOKOUT_PARITY_DIR
// names a folder with others, of any sizes and not necessarily of all
// architectures.

// tolerance is relative to the largest number of the reference.
const tolerance = 1e-3

type array struct {
	At    int
	Shape []int
	Type  string
}

type goldenCase struct {
	Kind, Question string
	Times          []int
	Images         []array
	Pixels         array
	Features       *array
	Logits         array
	InputIDs       []int `json:"input_ids"`
	Greedy         []int
	Texts          []string
	IDs            [][]int
	ImageEmbeds    array `json:"image_embeds"`
	TextEmbeds     array `json:"text_embeds"`
}

type golden struct {
	dir   string
	bin   []byte
	Cases []goldenCase
}

func (g *golden) floats(a array) []float32 {
	n := 1
	for _, d := range a.Shape {
		n *= d
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(g.bin[a.At+4*i:]))
	}
	return out
}

func (g *golden) frame(a array, at int) *media.Frame {
	h, w := a.Shape[0], a.Shape[1]
	return &media.Frame{Width: w, Height: h, Pix: slices.Clone(g.bin[a.At : a.At+3*w*h]), At: media.Timestamp{Media: time.Duration(at) * time.Second}}
}

// goldens finds those of image/text pairs, or all others, by name.
func goldens(t *testing.T, pairs bool) map[string]string {
	t.Helper()
	dir := os.Getenv("LOOKOUT_PARITY_DIR")
	if dir == "" {
		dir = "testdata"
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	// A model too large to pack lies there unpacked.
	folders, err := filepath.Glob(filepath.Join(dir, "*", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files)+len(folders) == 0 {
		t.Fatalf("no goldens in %q (a path from the root is the same in each package)", dir)
	}
	out := map[string]string{}
	for _, f := range append(files, folders...) {
		f = strings.TrimSuffix(f, string(filepath.Separator)+"golden.json")
		name := strings.TrimSuffix(filepath.Base(f), ".tar.gz")
		if pairs == (strings.HasPrefix(name, "clip-") || strings.HasPrefix(name, "siglip-")) {
			out[name] = f
		}
	}
	if len(out) == 0 {
		t.Skipf("none of this kind in %s", dir)
	}
	return out
}

func unpack(t testing.TB, archive string) *golden {
	t.Helper()
	dir := archive
	if st, err := os.Stat(archive); err != nil || !st.IsDir() {
		dir = testmodel.Unpack(t, archive)
	}
	g := &golden{dir: dir}
	var err error
	if g.bin, err = os.ReadFile(filepath.Join(dir, "golden.bin")); err == nil {
		var data []byte
		if data, err = os.ReadFile(filepath.Join(dir, "golden.json")); err == nil {
			err = json.Unmarshal(data, g)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) == 0 {
		t.Fatal("no cases")
	}
	return g
}

func environment(t testing.TB) *ort.Env {
	t.Helper()
	e, err := ort.Open(ort.Config{Device: "cpu", Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// near compares and returns the largest difference over the largest number.
func near(t *testing.T, what string, got, want []float32, limit float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d numbers, want %d", what, len(got), len(want))
		return
	}
	worst, most := 0.0, 0.0
	for i := range want {
		worst = max(worst, math.Abs(float64(got[i]-want[i])))
		most = max(most, math.Abs(float64(want[i])))
		if got[i] != got[i] {
			worst = math.Inf(1)
		}
	}
	t.Logf("%s: largest difference %.2g of %.3g", what, worst, most)
	if worst > limit*most {
		t.Errorf("%s: largest difference %.3g, largest number %.3g: more than %g", what, worst, most, limit)
	}
}

// levels compares pixels and tells how many of 255 levels they differ at most.
func levels(t *testing.T, c *vision.Config, got, want []float32, limit float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("pixels: %d numbers, want %d", len(got), len(want))
		return
	}
	worst := 0.0
	for i := range want {
		worst = max(worst, math.Abs(float64(got[i]-want[i])))
	}
	worst *= 255 * slices.Max(c.Std)
	t.Logf("pixels: largest difference %.3f levels", worst)
	if worst > limit {
		t.Errorf("pixels: largest difference %.3f of 255 levels", worst)
	}
}

func TestParityGenerate(t *testing.T) {
	env := environment(t)
	for name, archive := range goldens(t, false) {
		t.Run(name, func(t *testing.T) {
			g := unpack(t, archive)
			m, err := Open(g.dir, env, Options{Frames: 64, Precision: "fp32"})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for _, c := range g.Cases {
				t.Run(c.Kind, func(t *testing.T) { parity(t, g, m, c) })
			}
		})
	}
}

func parity(t *testing.T, g *golden, m *Model, c goldenCase) {
	ctx := context.Background()
	s, err := m.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var pixels, features []float32
	video := c.Kind == "video"
	pre := &m.still
	if video {
		pre = &m.video
	}
	tiled := c.Kind == "still" && m.Layout != model.Llava // of "frames", each is one tile
	for i, a := range c.Images {
		if tiled {
			f := g.frame(a, 0)
			tiles, _, _, err := m.stillTiles(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, tile := range tiles {
				pixels = pre.Pixels(pixels, tile)
			}
			st, err := m.EncodeStill(ctx, f)
			if err != nil {
				t.Fatal(err)
			}
			features = append(features, st.Tokens.Data...)
			if err := s.Show(st); err != nil {
				t.Fatal(err)
			}
			continue
		}
		at := 0
		if video {
			at = c.Times[i]
		}
		f := g.frame(a, at)
		tile, err := m.frameTile(f)
		if err != nil {
			t.Fatal(err)
		}
		pixels = pre.Pixels(pixels, tile)
		v, err := m.EncodeFrame(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		features = append(features, v.Data...)
		if err := s.AppendFrame(ctx, v, f.At); err != nil {
			t.Fatal(err)
		}
	}
	if c.Features != nil {
		features = append(features, s.videoEnd()...)
		levels(t, pre, pixels, g.floats(c.Pixels), 0.01)
		near(t, "features", features, g.floats(*c.Features), tolerance)
	}
	ids, err := s.ids(Request{Question: c.Question})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ids, c.InputIDs) {
		t.Fatalf("prompt\n%v\nwant\n%v\n%q\nwant\n%q", ids, c.InputIDs, m.tok.Decode(ids), m.tok.Decode(c.InputIDs))
	}
	if len(c.Greedy) < 64 {
		t.Fatalf("the golden has %d tokens only", len(c.Greedy))
	}
	// Twice: the second time the prompt is in the cache.
	for range 2 {
		s.mu.Lock()
		if err := s.prompt(ctx, Request{Question: c.Question}); err != nil {
			t.Fatal(err)
		}
		limit := tolerance
		if m.g.half {
			limit = 5e-3 // the reference's cache is not rounded when it reads a prompt
		}
		near(t, "logits", s.d.logits, g.floats(c.Logits), limit)
		var got []int
		for {
			id, err := s.d.greedy()
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, id); len(got) == len(c.Greedy) {
				break
			}
			if err := s.next(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
		s.d.cut(len(s.read))
		s.mu.Unlock()
		if !slices.Equal(got, c.Greedy) {
			t.Fatalf("greedy\n%v\nwant\n%v", got, c.Greedy)
		}
	}
	// And through the front door.
	var text strings.Builder
	for p, err := range s.Generate(ctx, Request{Question: c.Question, MaxTokens: len(c.Greedy), Exactly: true}) {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(p.Text)
	}
	if want := m.tok.Decode(c.Greedy); text.String() != want {
		t.Errorf("text %q, want %q", text.String(), want)
	}
}

func TestParityPair(t *testing.T) {
	env := environment(t)
	for name, archive := range goldens(t, true) {
		t.Run(name, func(t *testing.T) {
			g := unpack(t, archive)
			p, err := OpenPair(g.dir, env, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			c, ctx := g.Cases[0], context.Background()
			f := g.frame(c.Images[0], 0)
			m, err := p.prepare(f)
			if err != nil {
				t.Fatal(err)
			}
			levels(t, &p.pre, p.pre.Pixels(nil, m), g.floats(c.Pixels), 0.01)
			image, err := p.EmbedImage(ctx, f)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "image", image, g.floats(c.ImageEmbeds), tolerance)
			for i, text := range c.Texts {
				ids := p.ids(text)
				for k, id := range ids {
					if int(id) != c.IDs[i][k] {
						t.Fatalf("ids of %q: %v, want %v", text, ids, c.IDs[i])
					}
				}
			}
			texts, err := p.EmbedText(ctx, c.Texts)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "texts", slices.Concat(texts...), g.floats(c.TextEmbeds), tolerance)
			var logits []float32
			for _, l := range p.Logits(image, texts) {
				logits = append(logits, float32(l))
			}
			near(t, "logits", logits, g.floats(c.Logits), tolerance)
		})
	}
}
