package eval

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const small = `{"format":1,"video":"a.mp4","duration":3,"actors":[{"id":0,"kind":"car","color":"red"}],
 "events":[{"t":1,"kind":"stop","actor":0}],
 "frames":[{"t":0,"actors":[{"id":0,"state":"moving","direction":"left","side":"left"}]},{"t":1,"actors":[]}],
 "ask":[{"t":1,"q":"is there a car?","a":"yes"}],"describe_at":[1]}`

func TestSmallClip(t *testing.T) {
	c, err := parseClip([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	a := c.Frames[0].Actors[0]
	if c.Split != "test" || c.SampleFPS != 4 || c.Width != 640 || a.Kind != "car" || a.Color != "red" || *a.Visible != 1 {
		t.Errorf("defaults are wrong: %+v, %+v", c, a)
	}
}

func TestBadClips(t *testing.T) {
	for _, x := range []struct{ old, new, want string }{
		{`"format":1`, `"format":2`, "format is 2"},
		{`"format":1,`, ``, "format is 0"},
		{`"a.mp4"`, `"../a.mp4"`, "file name in the same folder"},
		{`"a.mp4"`, `""`, "file name"},
		{`"duration":3`, `"duration":0`, "duration is 0"},
		{`"duration":3`, `"duration":3,"split":"train"`, `split "train"`},
		{`"duration":3`, `"duration":3,"desribe_at":[1]`, `unknown field "desribe_at"`},
		{`"duration":3`, `"duration":"3"`, "cannot unmarshal string"},
		{`"kind":"stop"`, `"kind":"stops"`, `events[0]: kind "stops"`},
		{`"kind":"stop","actor":0`, `"kind":"stop","actor":7`, "events[0]: actor 7"},
		{`"events":[{"t":1`, `"events":[{"t":9`, "events[0]: time 9 is outside"},
		{`"state":"moving"`, `"state":"flying"`, `frames[0].actors[0]: state "flying"`},
		{`"direction":"left"`, `"direction":"up"`, `direction "up"`},
		{`"side":"left"`, `"side":"top"`, `side "top"`},
		{`"side":"left"`, `"side":"left","visible":1.5`, "visible 1.5"},
		{`"side":"left"`, `"side":"left","box":[1,2]`, "box has 2 numbers"},
		{`"side":"left"`, `"side":"left","color":"blue"`, "is a blue car here and a red car among"},
		{`{"t":1,"actors":[]}`, `{"t":0,"actors":[]}`, "frames[1]: time 0"},
		{`{"t":1,"actors":[]}`, `{"t":1,"actors":[{"id":4}]}`, "frames[1].actors[0]: id 4"},
		{`"actors":[{"id":0,"kind":"car","color":"red"}]`, `"actors":[{"id":0,"kind":"car"},{"id":0,"kind":"van"}]`, "used twice"},
		{`"a":"yes"`, `"a":""`, "ask[0]: needs"},
		{`"a":"yes"`, `"a":"yes","kind":"colour"`, `ask[0]: kind "colour"`},
		{`"describe_at":[1]`, `"describe_at":[4]`, "describe_at[0]: time 4"},
		{`"describe_at":[1]}`, `"describe_at":[1]} {}`, "more than one JSON value"},
		{`"describe_at":[1]}`, `"describe_at":[1]`, "unexpected EOF"},
		{`"events":[`, `"events":[[`, "line 3"},
	} {
		text := strings.Replace(small, x.old, x.new, 1)
		if text == small {
			t.Fatalf("%q is not in the clip", x.old)
		}
		if _, err := parseClip([]byte(text)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %q", x.new, err, x.want)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", small)
	if _, err := load(dir); err == nil || !strings.Contains(err.Error(), "a.json: its video is missing") {
		t.Errorf("got %v, want the missing video", err)
	}
	write("a.mp4", "")
	write("b.json", "{")
	if _, err := load(dir); err == nil || !strings.Contains(err.Error(), "b.json") {
		t.Errorf("got %v, want the bad file", err)
	}
	write("b.json", strings.Replace(small, "a.mp4", "b.mp4", 1))
	write("b.mp4", "")
	clips, err := load(dir)
	if err != nil || len(clips) != 2 || clips[1].path != filepath.Join(dir, "b.mp4") {
		t.Errorf("got %d clips, %v", len(clips), err)
	}
}

func FuzzParseClip(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(`{"format":1,"video":"a.mp4","split":"ood","duration":2}`))
	l := newLexicon(nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseClip(data)
		if err != nil {
			return
		}
		for _, at := range append(c.Describe, 0, c.Duration) {
			c.at(at, recent).judge(l.read("A red car drives to the left. The gate is open."))
		}
		for _, q := range c.Ask {
			c.atEdge(l, q)
		}
	})
}

// The documentation's clip is one that is read.
func TestDocumentedClip(t *testing.T) {
	doc, err := os.ReadFile("../docs/eval.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(doc), "```json\n")
	text, _, _ = strings.Cut(text, "```")
	if c, err := parseClip([]byte(text)); !ok || err != nil || len(c.Describe) == 0 {
		t.Errorf("%v in the documentation's clip: %s", err, text)
	}
}
