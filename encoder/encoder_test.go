package encoder

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/internal/testmodel"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) *Encoder {
	t.Helper()
	e, err := Open(testmodel.Bundle(t), testmodel.Env(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func picture(e *Encoder, n int) *media.Frame { return testmodel.Picture(n, e.width, e.height) }

func furthest(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i]-b[i])))
	}
	return d
}

func TestBatchesGiveWhatSingleFramesGive(t *testing.T) {
	e := open(t)
	var frames []*media.Frame
	for n := range MaxBatch + 3 { // one run and a part
		frames = append(frames, picture(e, n))
	}
	all, one := e.NewOutput(len(frames)), e.NewOutput(1)
	if err := e.Encode(t.Context(), frames, all); err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		if err := e.Encode(t.Context(), []*media.Frame{f}, one); err != nil {
			t.Fatal(err)
		}
		for name, d := range map[string]float64{
			"tokens": furthest(all.Tokens.At(i).Data, one.Tokens.Data), "patches": furthest(all.PatchEmbed.At(i).Data, one.PatchEmbed.Data),
			"image": furthest(all.Image.At(i).Data, one.Image.Data), "distance": math.Abs(float64(all.Distance[i]-one.Distance[0])) / (1 + math.Abs(float64(one.Distance[0]))),
		} {
			// A quantised graph picks its scale over the whole batch.
			if d > 0.05 {
				t.Errorf("frame %d: %s differ by %g", i, name, d)
			}
		}
		if n := dot(one.Image.Data, one.Image.Data); math.Abs(n-1) > 1e-3 {
			t.Errorf("image embedding of length² %g", n)
		}
		if p := one.PatchEmbed.At(0).At(7).Data; math.Abs(dot(p, p)-1) > 1e-3 {
			t.Errorf("patch embedding of length² %g", dot(p, p))
		}
	}
	if furthest(all.Tokens.At(0).Data, all.Tokens.At(1).Data) < 0.01 {
		t.Error("two pictures gave the same tokens")
	}
}

func TestEncoderGoldens(t *testing.T) {
	b := testmodel.Bundle(t)
	g, e := testmodel.Golden(t, b), open(t)
	for n, want := range g.Encoder {
		o := e.NewOutput(1)
		if err := e.Encode(t.Context(), []*media.Frame{picture(e, n)}, o); err != nil {
			t.Fatal(err)
		}
		testmodel.Near(t, "image embedding", o.Image.Data, want.Image)
		testmodel.Near(t, "distance", o.Distance, []float32{want.Distance})
		for i, p := range g.Patches {
			testmodel.Near(t, "tokens", o.Tokens.At(0).At(p).Data, want.Tokens[i])
			testmodel.Near(t, "patch embedding", o.PatchEmbed.At(0).At(p).Data, want.Patch[i])
		}
	}
}

func TestTextGoldens(t *testing.T) {
	g, x := testmodel.Golden(t, testmodel.Bundle(t)), openText(t)
	for _, want := range g.Text {
		got, err := x.Embed(t.Context(), []string{want.Text})
		if err != nil {
			t.Fatal(err)
		}
		testmodel.Near(t, want.Text, got[0], want.Embed)
	}
}

func TestOnlyWhatIsWantedIsCopied(t *testing.T) {
	e := open(t)
	o := &Output{Image: tensor.Make[float32](1, e.embed)}
	if err := e.Encode(t.Context(), []*media.Frame{picture(e, 1)}, o); err != nil {
		t.Fatal(err)
	}
	if o.Image.Data[0] == 0 || o.Tokens.Data != nil {
		t.Error("image not filled, or tokens filled")
	}
	o.Tokens = tensor.Make[float32](1, 5)
	if err := e.Encode(t.Context(), []*media.Frame{picture(e, 1)}, o); err == nil || !strings.Contains(err.Error(), "room for 5 floats of tokens") {
		t.Errorf("too little room: %v", err)
	}
}

func TestEncodeRefusesAnotherSize(t *testing.T) {
	e := open(t)
	f := &media.Frame{}
	f.Reset(64, 64)
	if err := e.Encode(t.Context(), []*media.Frame{picture(e, 0), f}, e.NewOutput(2)); !errors.Is(err, ErrSize) || !strings.Contains(err.Error(), "frame 1 is 64x64") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Encode(ctx, []*media.Frame{picture(e, 0)}, e.NewOutput(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestEncodeFromManyGoroutines(t *testing.T) {
	e := open(t)
	want := e.NewOutput(1)
	if err := e.Encode(t.Context(), []*media.Frame{picture(e, 3)}, want); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			f, o := picture(e, 3*(k%2)), e.NewOutput(1)
			for range 3 {
				if err := e.Encode(t.Context(), []*media.Frame{f}, o); err != nil {
					t.Error(err)
				}
				if d := furthest(o.Tokens.Data, want.Tokens.Data); k%2 == 1 && d > 1e-4 || k%2 == 0 && d < 1e-4 {
					t.Errorf("goroutine %d: tokens differ by %g", k, d)
				}
			}
		})
	}
	wg.Wait()
}

func TestEncodeDoesNotAllocate(t *testing.T) {
	e := open(t)
	frames, o := []*media.Frame{picture(e, 0)}, e.NewOutput(1)
	if n := testing.AllocsPerRun(5, func() {
		if err := e.Encode(t.Context(), frames, o); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// A single frame is not copied: the graph reads it where it is, each time anew.
// That holds for so many frames; more are copied, and give the same.
func TestSingleFramesAreReadWhereTheyAre(t *testing.T) {
	e := open(t)
	see := func(f *media.Frame) []float32 {
		t.Helper()
		o := &Output{Image: tensor.Make[float32](1, e.embed)}
		if err := e.Encode(t.Context(), []*media.Frame{f}, o); err != nil {
			t.Fatal(err)
		}
		return o.Image.Data
	}
	copied := func() bool { return slices.Max(e.pixels) > 0 }
	f, other := picture(e, 1), picture(e, 2)
	first := see(f)
	copy(f.Pix, other.Pix)
	if second := see(f); furthest(first, second) == 0 || furthest(second, see(other)) != 0 {
		t.Error("the frame's new pixels were not read")
	}
	frames := []*media.Frame{f, other}
	for len(frames) < maxOver {
		frames = append(frames, picture(e, 1))
		see(frames[len(frames)-1])
	}
	if copied() {
		t.Error("a single frame was copied")
	}
	many := picture(e, 1)
	if furthest(first, see(many)) != 0 || !copied() {
		t.Error("one frame too many gives something else, or was bound")
	}
	clear(e.pixels)
	e.runs += forget // as if the others had not been seen for long
	if furthest(first, see(many)) != 0 || copied() {
		t.Error("the place of a frame that is gone was not taken")
	}
	bound := 0
	for _, o := range e.over {
		if o.b != nil {
			bound++
		}
	}
	if bound != maxOver {
		t.Errorf("%d frames are bound, want %d", bound, maxOver)
	}
}

// What a single frame costs beside the run: nothing where it is bound, and the
// copy where it is one of several.
func BenchmarkCopyOfAFrame(b *testing.B) {
	e := open(b)
	f := picture(e, 1)
	for b.Loop() {
		copy(e.pixels, f.Pix)
	}
}

func openText(t testing.TB) *Text {
	t.Helper()
	x, err := OpenText(testmodel.Bundle(t), testmodel.Env(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func TestTextDoesNotDependOnItsNeighbours(t *testing.T) {
	x := openText(t)
	texts := []string{"a red car", "a person in a blue coat walking a dog to the left", "a box", strings.Repeat("a long text ", 50)}
	all, err := x.Embed(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range texts {
		one, err := x.Embed(t.Context(), []string{s})
		if err != nil {
			t.Fatal(err)
		}
		if d := furthest(all[i], one[0]); d > 0.02 {
			t.Errorf("%.20q differs by %g in company", s, d)
		}
		if n := dot(one[0], one[0]); math.Abs(n-1) > 1e-3 {
			t.Errorf("%.20q has length² %g", s, n)
		}
	}
	if none, err := x.Embed(t.Context(), nil); none != nil || err != nil {
		t.Error(none, err)
	}
	if _, err := x.Embed(t.Context(), []string{"a", " "}); err == nil || !strings.Contains(err.Error(), "text 1 is empty") {
		t.Error(err)
	}
	if _, err := x.Labels(t.Context(), []string{""}); err == nil {
		t.Error("an empty label was taken")
	}
}

// A bundle whose decoder was swapped has two vocabularies: the text tower reads
// its own, and pads with that one's token.
func TestTextTowerWithWordsOfItsOwn(t *testing.T) {
	b, dir := testmodel.Bundle(t), t.TempDir()
	m := b.Manifest
	m.Files = maps.Clone(m.Files)
	keep := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m.Files[name] = model.File{SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), Size: int64(len(data))}
	}
	for name := range b.Manifest.Files {
		data, err := b.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "tokenizer.json" {
			keep("text_tokenizer.json", data)
			data = []byte("{}")
		}
		keep(name, data)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	swapped, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	swapped.Manifest.Tokens.Pad = m.Decoder.Vocab + 7 // the decoder's; the text tower has no such token
	env := testmodel.Env(t)
	x, err := OpenText(swapped, env)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	plain, err := OpenText(b, env)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	texts := []string{"a person in a red coat", "a van"} // the second is padded
	got, err := x.Embed(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	want, err := plain.Embed(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if d := furthest(got[i], want[i]); d > 1e-5 {
			t.Errorf("%q differs by %g", texts[i], d)
		}
	}
}

func TestLabelsAreMeansOverTemplates(t *testing.T) {
	x := openText(t)
	x.clip.Templates = []string{"{}", "a photo of {}"}
	l, err := x.Labels(t.Context(), []string{"a van", " a dog "})
	if err != nil {
		t.Fatal(err)
	}
	e, err := x.Embed(t.Context(), []string{"a dog", "a photo of a dog"})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]float32, len(e[0]))
	for i := range want {
		want[i] = e[0][i] + e[1][i]
	}
	normalize(want)
	if d := furthest(l.Embedding(1), want); d > 0.02 {
		t.Errorf("differs by %g", d)
	}
}

func TestClassify(t *testing.T) {
	l := &Labels{Names: []string{"a", "b", "c"}, embeds: [][]float32{{1, 0}, {0, 1}, {0.6, 0.8}}}
	l.clip.LogitScale, l.clip.LogitBias = 10, -5
	got := l.Classify([]float32{0.6, 0.8}, nil)
	cosines, sum := []float64{0.6, 0.8, 1}, 0.0
	for i, s := range got {
		sum += s.Share
		if s.Label != l.Names[i] || math.Abs(s.Cosine-cosines[i]) > 1e-6 || math.Abs(s.Probability-1/(1+math.Exp(5-10*cosines[i]))) > 1e-6 {
			t.Errorf("%+v", s)
		}
		if math.Abs(s.Share/got[2].Share-math.Exp(10*(cosines[i]-1))) > 1e-6 {
			t.Errorf("share %+v", s)
		}
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("shares sum to %v", sum)
	}
	if n := testing.AllocsPerRun(10, func() { got = l.Classify([]float32{0.6, 0.8}, got) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// A label needs to fit one patch only.
	patches, err := tensor.Of([]float32{1, 0, 0.6, 0.8}, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	got = l.ClassifyPatches(patches, got)
	for i, c := range []float64{1, 0.8, 1} {
		if math.Abs(got[i].Cosine-c) > 1e-6 || math.Abs(got[i].Probability-1/(1+math.Exp(5-10*c))) > 1e-6 {
			t.Errorf("by patches %+v, want cosine %v", got[i], c)
		}
	}
}

func TestRegion(t *testing.T) {
	heat := make([]float32, 16*9)
	set := func(v float32, at ...[2]int) {
		for _, p := range at {
			heat[p[1]*16+p[0]] = v
		}
	}
	set(0.8, [2]int{4, 3}, [2]int{5, 3}, [2]int{5, 4}) // the thing
	set(0.9, [2]int{4, 4})
	set(0.85, [2]int{12, 4}) // another, that does not touch it
	set(0.3, [2]int{6, 4})   // beside it, but cold
	got := region(heat, 16, 9)
	want := [4]float32{4. / 16, 3. / 9, 6. / 16, 5. / 9}
	if math.Abs(got.Score-0.9) > 1e-6 || furthest(got.Box[:], want[:]) > 1e-6 {
		t.Errorf("%+v, want %v", got, want)
	}
	clear(heat)
	if got := region(heat, 16, 9); got.Box != [4]float32{0, 0, 1, 1} {
		t.Errorf("a picture without a difference: %+v", got)
	}
}

func TestLocate(t *testing.T) {
	e := open(t)
	patches, text := tensor.Make[float32](e.patches, e.embed), make([]float32, e.embed)
	text[3] = 1
	for i := range e.patches {
		k := 0
		if x, y := i%e.gridW, i/e.gridW; x == 2 && y >= 1 && y <= 2 {
			k = 3
		}
		patches.At(i).Data[k] = 1
	}
	got, err := e.Locate(patches, text)
	if err != nil {
		t.Fatal(err)
	}
	w, h := float32(e.gridW), float32(e.gridH)
	if want := [4]float32{2 / w, 1 / h, 3 / w, 3 / h}; got.Score != 1 || furthest(got.Box[:], want[:]) > 1e-6 {
		t.Errorf("%+v, want %v", got, want)
	}
	heat, err := e.Heat(patches, text, nil)
	if err != nil || slices.Index(heat, 1) != e.gridW+2 {
		t.Error(err, slices.Index(heat, 1))
	}
	if _, err := e.Locate(patches, text[:3]); err == nil {
		t.Error("a text of 3 was taken")
	}
}

func TestGraphThatDoesNotFitTheManifest(t *testing.T) {
	b, env := testmodel.Bundle(t), testmodel.Env(t)
	b.Manifest.Encoder.Embed++
	if _, err := Open(b, env); err == nil || !strings.Contains(err.Error(), "encoder.onnx") || !strings.Contains(err.Error(), "does not fit the manifest") {
		t.Error(err)
	}
	if _, err := OpenText(b, env); err == nil || !strings.Contains(err.Error(), "text.onnx") || !strings.Contains(err.Error(), "does not fit the manifest") {
		t.Error(err)
	}
}

func TestMemoryIsFlat(t *testing.T) {
	b, env := testmodel.Bundle(t), testmodel.Env(t)
	testmodel.Flat(t, 15, 24<<10, func() {
		e, err := Open(b, env)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Encode(t.Context(), []*media.Frame{picture(e, 1)}, e.NewOutput(1)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
