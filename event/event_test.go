package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/lookout-video/lookout/media"
)

func compile(t *testing.T) (event, delta *jsonschema.Schema) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	for id, b := range map[string][]byte{SchemaID: Schema(), DeltaSchemaID: DeltaSchema()} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(id, doc); err != nil {
			t.Fatal(err)
		}
	}
	return c.MustCompile(SchemaID), c.MustCompile(DeltaSchemaID)
}

func instance(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// full is an event with every field set.
func full() *Event {
	p := 0.75
	ev := New(TypeAlert, noon, Data{
		Stream: "front door", Seq: 7, EventID: NewID(), Revision: 2, Phase: Update, Text: "yes",
		Probability: &p, Abstained: true, Prompt: &Prompt{"q1", "is there a red van?"},
		Labels:   []Label{{"van", 0.9, 0.31}},
		Status:   &Status{State: "degraded", Reason: "load", Fix: "fewer streams", Count: 3},
		Evidence: []Evidence{EvidenceAt(media.At(noon, 90*time.Minute), 12)},
		Model:    &Model{"lookout", "sha256:0123456789abcdef"},
		Latency:  &Latency{1, 2, 3, 4, 5}, Viewer: "v1",
	})
	return ev
}

func TestRealEventsFitTheSchema(t *testing.T) {
	schema, delta := compile(t)
	evs := []*Event{full()}
	o := Observation{At: media.At(noon, 0), Time: noon, Text: "a red van stops", Evidence: []Evidence{{Capture: noon}}}
	n := NewNarration(NarrationConfig{Stream: "yard"})
	evs = append(evs, n.Observe(o)...)
	o.Empty, o.Text = true, "nobody is there"
	evs = append(evs, n.Observe(o)...)
	a := NewAlert(AlertConfig{Stream: "yard", Prompt: Prompt{"1", "is it open?"}, MinDuration: -1})
	evs = append(evs, a.Observe(Score{At: o.At, Time: noon, Value: 1})...)
	evs = append(evs, a.Close(o.At)...)
	evs = append(evs, New(TypeStatus, noon, Data{Stream: "yard", EventID: "s", Phase: Point, Status: &Status{State: "live"}}))
	if len(evs) != 7 {
		t.Fatalf("%d events", len(evs))
	}
	for i, ev := range evs {
		ev.Data.Seq = uint64(i + 1)
		if err := schema.Validate(instance(t, ev)); err != nil {
			t.Errorf("%s %s: %v", ev.Type, ev.Data.Phase, err)
		}
		b, _ := json.Marshal(ev)
		back, err := Parse(b)
		if err != nil {
			t.Errorf("Parse: %v", err)
		} else if b2, _ := json.Marshal(back); !bytes.Equal(b, b2) {
			t.Errorf("read back as\n%s, want\n%s", b2, b)
		}
	}
	d := &Delta{Stream: "yard", EventID: "e", Text: "a", Prompt: &Prompt{"p", "q"}, Evidence: Evidence{Capture: noon}}
	if err := delta.Validate(instance(t, d)); err != nil {
		t.Error(err)
	}
}

// TestSchemaKnowsEachField guards against a field that is added in Go only.
func TestSchemaKnowsEachField(t *testing.T) {
	var schema struct {
		Properties map[string]any
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	known := func(where string, props map[string]any, v any) {
		for name := range v.(map[string]any) {
			if props[name] == nil {
				t.Errorf("the schema does not know %s %q", where, name)
			}
		}
	}
	ev := instance(t, full()).(map[string]any)
	data := ev["data"].(map[string]any)
	known("event", schema.Properties, ev)
	known("data", schema.Defs["data"].Properties, data)
	for _, name := range []string{"prompt", "status", "model", "latency"} {
		known(name, schema.Defs[name].Properties, data[name])
	}
	known("label", schema.Defs["label"].Properties, data["labels"].([]any)[0])
	known("evidence", schema.Defs["evidence"].Properties, data["evidence"].([]any)[0])
}

func TestSchemaAndParseRefuse(t *testing.T) {
	schema, _ := compile(t)
	for name, c := range map[string]struct {
		change func(*Event)
		parse  bool // Parse refuses too
	}{
		"no seq":        {func(e *Event) { e.Data.Seq = 0 }, false},
		"no stream":     {func(e *Event) { e.Data.Stream = "" }, true},
		"foreign type":  {func(e *Event) { e.Type = "com.example.x" }, true},
		"no prompt":     {func(e *Event) { e.Data.Prompt = nil }, false},
		"point alert":   {func(e *Event) { e.Data.Phase = Point }, false},
		"no phase":      {func(e *Event) { e.Data.Phase = "" }, true},
		"probability 2": {func(e *Event) { p := 2.0; e.Data.Probability = &p }, false},
		"id":            {func(e *Event) { e.ID = "x" }, true},
		"version":       {func(e *Event) { e.SpecVersion = "2.0" }, true},
		"state":         {func(e *Event) { e.Data.Status.State = "fine" }, false},
	} {
		ev := full()
		c.change(ev)
		if schema.Validate(instance(t, ev)) == nil {
			t.Errorf("%s: the schema takes it", name)
		}
		b, _ := json.Marshal(ev)
		if _, err := Parse(b); (err != nil) != c.parse {
			t.Errorf("%s: Parse: %v", name, err)
		}
	}
}

func TestNewIDSortsAndDiffers(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewID()
		if len(id) != 26 || seen[id] || strings.ToLower(id) != id {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

func FuzzParse(f *testing.F) {
	b, _ := json.Marshal(full())
	f.Add(b)
	f.Add([]byte(`{"specversion":"1.0"}`))
	f.Add([]byte(`{"specversion":"1.0","id":"a.0","type":"video.lookout.status.v1","data":{"stream":"s","event_id":"a","phase":"point","seq":18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := Parse(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(ev)
		if err != nil {
			if ev.Time.Year() > 9999 || ev.Time.Year() < 0 {
				return
			}
			t.Skip(err) // times that RFC 3339 cannot write back
		}
		if _, err := Parse(out); err != nil {
			t.Fatalf("%s was read, and written as %s: %v", b, out, err)
		}
	})
}
