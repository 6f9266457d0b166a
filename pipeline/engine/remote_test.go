package engine

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
)

// A remote engine is sent the newest pictures, and its words become the same
// events as a local one's.
func TestRemoteEngine(t *testing.T) {
	var mu sync.Mutex
	most := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Model    string
			Messages []struct{ Content json.RawMessage }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Model != "big" {
			t.Errorf("request %+v, %v", body, err)
		}
		n := 0
		for _, m := range body.Messages {
			var parts []struct{ Type string }
			if json.Unmarshal(m.Content, &parts) == nil {
				for _, p := range parts {
					if p.Type == "image_url" {
						n++
					}
				}
			}
		}
		mu.Lock()
		most = max(most, n)
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		for _, word := range []string{"A person", " walks."} {
			fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", word)
		}
		fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	}))
	defer srv.Close()
	c := configs.Default()
	c.LLM.Backend, c.LLM.URL, c.LLM.Model = "openai", srv.URL+"/v1", "big"
	e, deps := openWith(t, c)
	said := &texts{m: map[string][]string{}}
	seq, err := event.OpenSequencer("")
	if err != nil {
		t.Fatal(err)
	}
	deps.Emitter = event.NewEmitter(seq, deps.Bus, said)
	s := configs.DefaultStream()
	s.Name, s.URL = "cam", demo(t)
	deps.Open = func(sc configs.Stream, _ pipeline.ModelInfo, tap *media.Tap, _ func(event.Status)) pipeline.Source {
		src, err := e.OpenSource(t.Context(), sc, tap)
		if err != nil {
			t.Error(err)
		}
		return src
	}
	if err := pipeline.NewStream(s, deps).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(said.m["cam"]) == 0 || said.m["cam"][0] != "start A person walks." {
		t.Errorf("said %q", said.m["cam"])
	}
	if most != publicWindow {
		t.Errorf("%d pictures in a request, want the window's %d", most, publicWindow)
	}
}
