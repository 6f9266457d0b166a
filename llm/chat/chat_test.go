package chat

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/llm/tokenizer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func read(tb testing.TB, path string, to any) {
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(to); err != nil {
		tb.Fatal(err)
	}
}

type random uint64

func (r *random) below(n int) int {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return int((z ^ z>>31) % uint64(n))
}

// texts are the strings of the tokenizer's goldens.
type texts struct {
	Fragments []string
	Ranges    [][2]int
}

func (g *texts) text(i int) string {
	r := random(i)
	var b []byte
	for range 1 + r.below(8) {
		switch kind := r.below(10); {
		case kind < 7:
			b = append(b, g.Fragments[r.below(len(g.Fragments))]...)
		case kind < 9:
			span := g.Ranges[r.below(len(g.Ranges))]
			for range 1 + r.below(6) {
				b = utf8.AppendRune(b, rune(span[0]+r.below(span[1]-span[0]+1)))
			}
		case i%4 == 0:
			for range 1 + r.below(5) {
				b = append(b, byte(0x80+r.below(128)))
			}
		default:
			b = append(b, byte(0x20+r.below(95)))
		}
	}
	return tokenizer.Valid(string(b))
}

func (g *texts) conversation(i int, parts bool) []Message {
	turns := []Message{{Role: "user", Text: g.text(i)}}
	shape := i / 16 % 4
	if shape == 1 || shape == 3 {
		turns = append(turns, Message{Role: "assistant", Text: g.text(i + 1)}, Message{Role: "user", Text: g.text(i + 2)})
	}
	if shape == 2 || shape == 3 {
		turns = append([]Message{{Role: "system", Text: g.text(i + 3)}}, turns...)
	}
	if !parts {
		return turns
	}
	for k := range turns {
		m := &turns[k]
		m.Parts = []Part{}
		if m.Role == "user" {
			for range i % 3 {
				m.Parts = append(m.Parts, Part{Type: "image"})
			}
			for range i / 3 % 2 {
				m.Parts = append(m.Parts, Part{Type: "video"})
			}
		}
		m.Parts = append(m.Parts, Part{Type: "text", Text: m.Text})
		m.Text = ""
	}
	return turns
}

// The goldens were made by train/goldens/chat_golden.py.
func TestParity(t *testing.T) {
	var strs texts
	read(t, "../tokenizer/testdata/goldens.json.gz", &strs)
	var g struct {
		Templates map[string]string
		Parts     []string
		Names     []string
		Date      string
		Count     int
		Sums      string
		Full      map[string]string
	}
	read(t, "testdata/goldens.json.gz", &g)
	if g.Count < 10000 || len(g.Names) < 8 {
		t.Fatalf("%d conversations of %d templates only", g.Count, len(g.Names))
	}
	sums, err := hex.DecodeString(g.Sums)
	if err != nil {
		t.Fatal(err)
	}
	now, err := time.Parse("02 Jan 2006", g.Date)
	if err != nil {
		t.Fatal(err)
	}
	for n, name := range g.Names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpl, err := New(g.Templates[name], "<s>", "</s>")
			if err != nil {
				t.Fatal(err)
			}
			bad, refusals := 0, 0
			for i := n; i < g.Count; i += len(g.Names) {
				got, err := tpl.Render(strs.conversation(i, slices.Contains(g.Parts, name)), Options{Generate: i%2 == 0, Now: func() time.Time { return now }})
				var refused *RefusedError
				if errors.As(err, &refused) {
					got = "refused: " + refused.Reason
					refusals++
				} else if err != nil {
					got = "error: " + err.Error()
				}
				if uint16(crc32.ChecksumIEEE([]byte(got))) == uint16(sums[2*i])|uint16(sums[2*i+1])<<8 {
					continue
				}
				if bad++; bad <= 2 {
					t.Errorf("conversation %d:\n%q\nwant\n%q", i, got, g.Full[strconv.Itoa(i)])
				}
			}
			if bad > 0 {
				t.Errorf("%d conversations differ", bad)
			}
			if (name == "mistral" || name == "gemma") && refusals == 0 {
				t.Error("no conversation was refused")
			}
		})
	}
}

func TestLoad(t *testing.T) {
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const source = `{{ bos_token }}{{ messages[0].content }}{{ eos_token }}`
	quoted, _ := json.Marshal(source)
	for name, files := range map[string]map[string]string{
		"jinja file":        {"chat_template.jinja": source, "tokenizer_config.json": `{"bos_token":"<s>","eos_token":{"content":"</s>"}}`},
		"json file":         {"chat_template.json": `{"chat_template":` + string(quoted) + `}`, "tokenizer_config.json": `{"bos_token":"<s>","eos_token":"</s>"}`},
		"config":            {"tokenizer_config.json": `{"bos_token":"<s>","eos_token":"</s>","chat_template":` + string(quoted) + `}`},
		"several in config": {"tokenizer_config.json": `{"bos_token":"<s>","eos_token":"</s>","chat_template":[{"name":"rag","template":"x"},{"name":"default","template":` + string(quoted) + `}]}`},
	} {
		dir := t.TempDir()
		for f, text := range files {
			write(dir, f, text)
		}
		tpl, err := Load(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := tpl.Render([]Message{{Role: "user", Text: "hi"}}, Options{}); err != nil || got != "<s>hi</s>" {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNoTemplate) {
		t.Errorf("an empty folder: %v", err)
	}
	dir := t.TempDir()
	write(dir, "tokenizer_config.json", "{")
	if _, err := Load(dir); err == nil || errors.Is(err, ErrNoTemplate) {
		t.Errorf("broken json: %v", err)
	}
}

func TestBadTemplates(t *testing.T) {
	for _, source := range []string{"{% for %}", "{{ ", "{% endif %}", "{{ messages | nosuch }}"} {
		tpl, err := New(source, "", "")
		if err == nil {
			_, err = tpl.Render(nil, Options{})
		}
		if err == nil {
			t.Errorf("%q was rendered", source)
		}
	}
	tpl, err := New("{% for i in range(100000000) %}x{% endfor %}", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpl.Render(nil, Options{}); err == nil {
		t.Error("an endless range was rendered")
	}
}

// Templates come from outside: a broken one is an error, never a crash.
func FuzzNew(f *testing.F) {
	for _, source := range []string{
		"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'a' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] | trim}}{% endfor %}{% if add_generation_prompt %}{{ 'b' }}{% endif %}",
		"{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}{%- break -%}{%- endfor -%}{{ ns.n }}{{ raise_exception('no') }}",
		"{% macro say(x) %}{{ x.upper() }}{% endmacro %}{{ say(bos_token) }}{{ strftime_now('%Y') }}{{ messages | tojson }}",
		"{% if", "{{ messages[9].content }}", "{{ 1 // 0 }}",
	} {
		f.Add(source, "hello")
	}
	f.Fuzz(func(t *testing.T, source, question string) {
		if len(source) > 1<<12 {
			return
		}
		tpl, err := New(source, "<s>", "</s>")
		if err != nil {
			return
		}
		_, _ = tpl.Render([]Message{{Role: "user", Text: question}}, Options{Generate: true, Now: func() time.Time { return time.Unix(0, 0) }})
	})
}
