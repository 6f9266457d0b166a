package configs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestExampleHoldsTheDefaults(t *testing.T) {
	c := Default()
	c.StateDir = "" // the example leaves it out: it depends on the user
	got := Config{}
	if err := Parse(Example, &got); err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(c)
	have, _ := json.Marshal(got)
	// Empty lists and maps written out are the same as none.
	norm := strings.NewReplacer(`[]`, `null`, `{}`, `null`)
	if w, h := norm.Replace(string(want)), norm.Replace(string(have)); w != h {
		t.Errorf("lookout.yaml and Default differ:\n%s\n%s", h, w)
	}
}

// The stream in the example is commented out; it too must be true.
func TestExampleStreamHoldsTheDefaults(t *testing.T) {
	var b bytes.Buffer
	head, _, _ := strings.Cut(string(Example), "\nmodel:")
	for line := range strings.Lines(head) {
		switch {
		case strings.HasPrefix(line, "streams: []"):
			b.WriteString("streams:\n")
		case strings.HasPrefix(line, "#  "):
			b.WriteString(line[1:])
		}
	}
	c := Default()
	if err := Parse(b.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	want := DefaultStream()
	alert := DefaultAlert()
	want.Name, want.URL, want.Labels, want.Sinks = "yard", c.Streams[0].URL, []string{}, []string{}
	want.Questions = []Question{{ID: "apples", Text: "does it contain an apple?", Every: time.Second, Alert: &alert}}
	if !reflect.DeepEqual(c.Streams[0], want) {
		t.Errorf("got  %+v\nwant %+v", c.Streams[0], want)
	}
}

// Every key must be in the example, or nobody finds it.
func TestExampleNamesEveryKey(t *testing.T) {
	var walk func(t reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := f.Tag.Get("yaml")
			if !regexp.MustCompile(`(?m)\b` + key + `:`).Match(Example) {
				t.Errorf("lookout.yaml does not name %s (%s)", key, typ)
			}
			if f.Tag.Get("doc") == "" {
				t.Errorf("%s.%s has no doc", typ, f.Name)
			}
			ft := f.Type
			for ft.Kind() == reflect.Slice || ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct {
				walk(ft)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func TestFiles(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.yml")
	if len(files) < 10 {
		t.Fatalf("found %d files only", len(files))
	}
	schema := compile(t)
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, err := Load(f)
			if strings.HasSuffix(f, ".good.yml") {
				if err != nil {
					t.Fatal(err)
				}
				b, _ := os.ReadFile(f)
				j, err := yaml.YAMLToJSON(b)
				if err != nil || len(bytes.TrimSpace(j)) == 0 || bytes.Equal(bytes.TrimSpace(j), []byte("null")) {
					return
				}
				v, _ := jsonschema.UnmarshalJSON(bytes.NewReader(j))
				if err := schema.Validate(v); err != nil {
					t.Errorf("the schema refuses it: %v", err)
				}
				return
			}
			b, _ := os.ReadFile(f)
			want := regexp.MustCompile(`# want: (.*)`).FindSubmatch(b)[1]
			if err == nil || !strings.Contains(err.Error(), string(want)) || !strings.Contains(err.Error(), f) {
				t.Errorf("got %v\nwant it to hold %q and the file's name", err, want)
			}
		})
	}
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("lookout.json", v); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("lookout.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaRefusesUnknownKeys(t *testing.T) {
	if err := compile(t).Validate(map[string]any{"strems": []any{}}); err == nil {
		t.Error("an unknown key passed")
	}
}

func TestEnvironment(t *testing.T) {
	c := Default()
	c.Streams = []Stream{DefaultStream()}
	err := applyEnv(&c, []string{"LOOKOUT_REDIS_URL=redis://h/1", "LOOKOUT_STREAMS_0_RATE=2.5", "LOOKOUT_STREAMS_0_LABELS=red van, dog", "LOOKOUT_WEB_WEBRTC_UDP_PORT=9000",
		"LOOKOUT_LLM_TIMEOUT=3s", "LOOKOUT_WEB_INSECURE=true", "LOOKOUT_CACHE=/x", "HOME=/root", "LOOKOUT_DEVICE=cpu"})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Streams[0]
	if c.Redis.URL != "redis://h/1" || s.Rate != 2.5 || !reflect.DeepEqual(s.Labels, []string{"red van", "dog"}) || c.Web.WebRTC.UDPPort != 9000 ||
		c.LLM.Timeout != 3*time.Second || !c.Web.Insecure || c.Device != "cpu" {
		t.Errorf("got %+v", c)
	}
	for _, bad := range []string{"LOOKOUT_LLM_TIMEOUT=soon", "LOOKOUT_THREADS=two", "LOOKOUT_WEB_INSECURE=perhaps", "LOOKOUT_WEB_WEBRTC_PORT_MIN=70000"} {
		name, _, _ := strings.Cut(bad, "=")
		if err := applyEnv(&c, []string{bad}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

func TestNoFile(t *testing.T) {
	if _, err := Load("testdata/none.yml"); !errors.Is(err, ErrNoFile) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yml")
	for _, name := range files {
		b, _ := os.ReadFile(name)
		f.Add(b)
	}
	f.Add(Example)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Default()
		if Parse(b, &c) == nil {
			_ = c.Validate()
		}
	})
}

func TestRedactedHoldsNoSecret(t *testing.T) {
	c := Default()
	c.Web.WebRTC.ICEServers = []string{"stun:192.0.2.1:3478", "turn:me:hush@192.0.2.1:3478?transport=udp"}
	c.Redis.URL = "redis://me:hush@192.0.2.1"
	c.LLM.URL = "https://me:hush@192.0.2.1/v1"
	c.Webhook.URL = "https://192.0.2.1/services/hush/hush"
	r := c.Redacted()
	if got := fmt.Sprint(r.Web.WebRTC.ICEServers); got != "[stun:192.0.2.1:3478 turn:xxxxx@192.0.2.1:3478?transport=udp]" {
		t.Errorf("ICE servers %s", got)
	}
	if strings.Contains(fmt.Sprintf("%+v", r), "hush") || !strings.Contains(fmt.Sprintf("%+v", c), "hush") {
		t.Errorf("redacted: %+v", r)
	}
}
