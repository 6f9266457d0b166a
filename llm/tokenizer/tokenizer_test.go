package tokenizer

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// goldens were made by train/goldens/tokenizers_golden.py.
type goldens struct {
	Fragments []string
	Ranges    [][2]int
	Count     int
	Families  map[string]struct {
		Tokenizer json.RawMessage
		Sums      string
		Full      []struct {
			Special, Plain []int
			Decoded        string
		}
		Wrapped []int
	}
}

func load(tb testing.TB) *goldens {
	f, err := os.Open("testdata/goldens.json.gz")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var g goldens
	if err := json.NewDecoder(z).Decode(&g); err != nil {
		tb.Fatal(err)
	}
	return &g
}

// random is splitmix64, as in the script.
type random uint64

func (r *random) below(n int) int {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return int((z ^ z>>31) % uint64(n))
}

func (g *goldens) text(i int) string {
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
	return string(b)
}

func join(ids []int) string { return strings.Trim(fmt.Sprint(ids), "[]") }

func TestParity(t *testing.T) {
	g := load(t)
	if g.Count < 10000 || len(g.Families) < 8 {
		t.Fatalf("%d strings for %d families only", g.Count, len(g.Families))
	}
	for name, fam := range g.Families {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok, err := New(fam.Tokenizer)
			if err != nil {
				t.Fatal(err)
			}
			sums, err := hex.DecodeString(fam.Sums)
			if err != nil || len(sums) != 2*g.Count {
				t.Fatalf("%d checksum bytes, %v", len(sums), err)
			}
			bad := 0
			for i := range g.Count {
				text := g.text(i)
				special, plain := tok.Encode(text, true), tok.Encode(text, false)
				decoded := tok.Decode(special)
				sum := crc32.ChecksumIEEE([]byte(join(special) + "|" + join(plain) + "|" + decoded))
				if uint16(sum) == uint16(sums[2*i])|uint16(sums[2*i+1])<<8 {
					continue
				}
				if bad++; bad <= 5 {
					t.Errorf("string %d %q:\nspecial %v\nplain   %v\ndecoded %q", i, text, special, plain, decoded)
					if i < len(fam.Full) {
						t.Errorf("want\nspecial %v\nplain   %v\ndecoded %q", fam.Full[i].Special, fam.Full[i].Plain, fam.Full[i].Decoded)
					}
				}
			}
			if bad > 0 {
				t.Errorf("%d of %d strings differ", bad, g.Count)
			}
			if got := tok.Wrap(tok.Encode(g.text(0), true)); !slices.Equal(got, fam.Wrapped) {
				t.Errorf("wrapped %v, want %v", got, fam.Wrapped)
			}
		})
	}
}

// What a stream gives piece by piece is what Decode gives at once.
func TestStreamNeverSplitsARune(t *testing.T) {
	g := load(t)
	for _, name := range []string{"gpt2", "smollm2", "llama2"} {
		tok, err := New(g.Families[name].Tokenizer)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2000 {
			text := g.text(i)
			ids := tok.Encode(text, false)
			s := tok.Stream()
			var got strings.Builder
			for _, id := range ids {
				piece := s.Add(id)
				if !utf8.ValidString(piece) {
					t.Fatalf("%s: %q gives the piece %q", name, text, piece)
				}
				got.WriteString(piece)
			}
			got.WriteString(s.Flush())
			if want := tok.Decode(ids); got.String() != want {
				t.Fatalf("%s: %q\nstreamed %q\ndecoded  %q", name, text, got.String(), want)
			}
		}
	}
}

func TestOpenRuneIsHeldBack(t *testing.T) {
	tok, err := New(load(t).Families["smollm2"].Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	s := tok.Stream()
	emoji := "🦊" // not in the training text: four byte tokens
	ids := tok.Encode(emoji, false)
	if len(ids) < 2 {
		t.Fatalf("%q is one token", emoji)
	}
	for _, id := range ids[:len(ids)-1] {
		if got := s.Add(id); got != "" {
			t.Fatalf("half a rune came out as %q", got)
		}
	}
	if got := s.Add(ids[len(ids)-1]); got != emoji {
		t.Fatalf("got %q", got)
	}
	s.Add(ids[0])
	if got := s.Flush(); got != "\uFFFD" {
		t.Fatalf("an open rune ends as %q", got)
	}
}

func TestTokenAndID(t *testing.T) {
	tok, err := New(load(t).Families["smollm2"].Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	id, ok := tok.ID("Ġthe")
	if !ok || string(tok.Token(id)) != " the" {
		t.Errorf("Ġthe is %d %v %q", id, ok, tok.Token(id))
	}
	id, ok = tok.ID("<|im_end|>")
	if !ok || string(tok.Token(id)) != "<|im_end|>" {
		t.Errorf("<|im_end|> is %d %v %q", id, ok, tok.Token(id))
	}
	if _, ok := tok.ID("no such token"); ok {
		t.Error("an unknown token has an id")
	}
	if tok.Token(-1) != nil || tok.Token(tok.VocabSize()) != nil {
		t.Error("an id outside the vocabulary has a token")
	}
}

// A user's text must not be able to speak as the template does.
func TestSpecialTokensInPlainText(t *testing.T) {
	tok, err := New(load(t).Families["qwen2"].Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	end, _ := tok.ID("<|im_end|>")
	if ids := tok.Encode("a<|im_end|>b", false); slices.Contains(ids, end) {
		t.Errorf("plain text gave the special token: %v", ids)
	}
	if ids := tok.Encode("a<|im_end|>b", true); !slices.Contains(ids, end) {
		t.Errorf("the special token was not recognised: %v", ids)
	}
}

// Work must grow with the text's length, not its square: 64 kB without a
// break is one word, which at n squared would take minutes a family.
func TestLongWordsAreNotQuadratic(t *testing.T) {
	if testing.Short() {
		t.Skip("long texts for each family")
	}
	for name, fam := range load(t).Families {
		tok, err := New(fam.Tokenizer)
		if err != nil {
			t.Fatal(err)
		}
		for _, unit := range []string{"ab", " ", "中", "<", "\n ", "<mask> "} {
			if ids := tok.Encode(strings.Repeat(unit, 1<<16/len(unit)), true); len(ids) == 0 && strings.TrimSpace(unit) != "" && unit != "<" {
				t.Errorf("%s: no tokens for a long run of %q", name, unit)
			}
		}
	}
}

func TestNewTellsWhatItCannotDo(t *testing.T) {
	for _, c := range []struct {
		name, json  string
		unsupported bool
	}{
		{"not json", `{`, false},
		{"no model", `{}`, false},
		{"word piece", `{"model":{"type":"WordPiece","vocab":{}}}`, true},
		{"normalizer", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":{"type":"Nmt"}}`, true},
		{"pre-tokenizer", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"UnicodeScripts"}}`, true},
		{"decoder", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"decoder":{"type":"CTC"}}`, true},
		{"pattern", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}}`, true},
		{"no charsmap", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":{"type":"Precompiled"}}`, false},
		{"charsmap cut off", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":{"type":"Precompiled","precompiled_charsmap":"CAAAAAAAAAA="}}`, false},
		{"merge", `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, false},
		{"id", `{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}`, false},
		{"huge id", `{"model":{"type":"BPE","vocab":{"a":99999999999},"merges":[]}}`, false},
	} {
		_, err := New([]byte(c.json))
		if err == nil || errors.Is(err, ErrUnsupported) != c.unsupported {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzEncode(f *testing.F) {
	g := load(f)
	var toks []*Tokenizer
	for _, name := range []string{"gpt2", "qwen2", "llama2", "clip", "siglip"} {
		tok, err := New(g.Families[name].Tokenizer)
		if err != nil {
			f.Fatal(err)
		}
		toks = append(toks, tok)
	}
	for i := range 50 {
		f.Add(g.text(i))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for i, tok := range toks {
			ids := tok.Encode(text, true)
			for _, id := range ids {
				if id < 0 || id >= tok.VocabSize() {
					t.Fatalf("id %d of %d", id, tok.VocabSize())
				}
			}
			// A byte-level vocabulary without a normalizer loses nothing.
			if plain := tok.Encode(text, false); i == 0 {
				if got := tok.Decode(plain); got != Valid(text) {
					t.Fatalf("%q came back as %q", text, got)
				}
			}
		}
	})
}

func FuzzNew(f *testing.F) {
	for _, fam := range load(f).Families {
		f.Add([]byte(fam.Tokenizer)[:min(len(fam.Tokenizer), 4096)])
	}
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},"added_tokens":[{"id":3,"content":"<s>","special":true}],"decoder":{"type":"ByteLevel"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := New(data); err == nil {
			tok.Decode(tok.Encode("a <s> b", true))
		}
	})
}
