package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/internal/browser"
	"github.com/lookout-video/lookout/media"
)

// startDemo runs `lookout demo` until the test ends and gives the page's address.
func startDemo(t *testing.T) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "lookout.yaml")
	if err := os.WriteFile(conf, []byte("evidence: {alerts: both, after: 2s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := program(t, "demo", "--listen", "127.0.0.1:0", "-c", conf)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if url, ok := strings.CutPrefix(lines.Text(), "The page:"); ok {
				address <- strings.TrimSpace(url)
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		reader.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the demo ended with %v", err)
		}
	})
	select {
	case url := <-address:
		return url
	case <-time.After(30 * time.Second):
		t.Fatal("the demo does not open its page")
		return ""
	}
}

// api is what the program tells by server-sent events, beside the page.
type api struct {
	mu     sync.Mutex
	events []*event.Event
}

// listen follows all streams from their first event on, until the test ends.
func listen(t *testing.T, base string) *api {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/events?after=yard:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	a := &api{}
	var reader sync.WaitGroup
	reader.Go(func() {
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<20)
		name := ""
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = v
			} else if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok && name == "event" {
				ev := new(event.Event)
				if err := json.Unmarshal([]byte(v), ev); err != nil {
					t.Error(err)
				}
				a.mu.Lock()
				a.events = append(a.events, ev)
				a.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); res.Body.Close(); reader.Wait() })
	return a
}

// of lists the stream's events of one type so far.
func (a *api) of(stream, kind string) (out []*event.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ev := range a.events {
		if ev.Data.Stream == stream && ev.Type == kind {
			out = append(out, ev)
		}
	}
	return out
}

// until waits until the program has told what ok looks for.
func (a *api) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the program never tells %s", what)
		}
	}
}

// happenings is what really happens in a clip (assets/demo.json).
type happenings struct {
	Duration float64
	Actors   []struct{ Kind, Color string }
	Frames   []struct {
		T      float64
		Gate   bool `json:"gate_open"`
		Actors []struct {
			Kind    string
			Visible float64
		}
	}
}

func readHappenings(t *testing.T, path string) (h happenings) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// sure gives the answer that is true of all frames from one second before at to
// half a second after it, "" when it changes in that time: nobody is to be held
// to what is just coming in.
func (h happenings) sure(at time.Duration, question string) string {
	answer := ""
	for _, f := range h.Frames {
		d := f.T - at.Seconds()
		if d < -1 || d > 0.5 {
			continue
		}
		yes := question == "is the gate open?" && f.Gate
		for _, a := range f.Actors {
			if question == "is there a "+a.Kind+"?" && a.Visible > 0 {
				if a.Visible < 0.6 {
					return ""
				}
				yes = true
			}
		}
		now := "no"
		if yes {
			now = "yes"
		}
		if answer != "" && answer != now {
			return ""
		}
		answer = now
	}
	return answer
}

// TestBrowserWholeProgram looks at the page of the real program, with the
// embedded model, as a visitor does.
func TestBrowserWholeProgram(t *testing.T) {
	url := startDemo(t)
	told := listen(t, url)
	b := browser.Open(t, url, browser.Options{Camera: cameraFile(t, "../../testdata/yard/test-0016.mp4")})
	b.Until("the video plays", browser.Live)
	// Each caption as it stood when all of it had been said.
	browser.Eval[bool](b, `(() => { window.captioned = {}; setInterval(() => {
		const c = lookout.captions.current, l = document.getElementById('caption');
		if (c?.whole && l.dataset.event === c.id && lookout.stream === 'yard') (captioned[c.id] ??= {})[l.textContent] = true;
	}, 30); return true; })()`)

	t.Run("ask", func(t *testing.T) { askAboutTheDemo(t, b.In(t)) })
	t.Run("past", func(t *testing.T) { askAboutThePast(t, b.In(t)) })
	t.Run("captions", func(t *testing.T) { captionsAreTheEvents(t, b.In(t), told) })
	t.Run("search", func(t *testing.T) { searchFindsWhatWasSeen(t, b.In(t)) })
	t.Run("alert", func(t *testing.T) { alertIsPlayed(t, b.In(t), told) })
	t.Run("streams", func(t *testing.T) { changeStreams(t, b.In(t), told) })
	t.Run("camera", func(t *testing.T) {
		b := b.In(t)
		publishCamera(b, "phone")
		var words []string
		told.until(t, "a description of the camera", func() bool {
			words = nil
			for _, ev := range told.of("phone", event.TypeDescription) {
				words = append(words, ev.Data.Text)
			}
			return strings.Contains(strings.Join(words, " "), "person in a black coat") // the one thing that the clip shows, all through
		})
		b.Until("its words are on the page", `lookout.stream === 'phone' && document.getElementById('caption').textContent.includes('person')`)
		b.Until("its frames are looked at", `(s => s.state === 'live' && s.fps > 4 && s.look_fps > 1)(lookout.streams.find(s => s.name === 'phone'))`)
		t.Logf("the camera is described: %q", words)
	})
}

// alertIsPlayed opens the alert of the box that is left in the yard: its clip
// plays.
func alertIsPlayed(t *testing.T, b *browser.Tab, told *api) {
	told.until(t, "the alert", func() bool { return len(told.of("yard", event.TypeAlert)) > 0 })
	b.Until("the alert's card", `document.querySelector('#events .event[data-kind=alert]')`)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(500 * time.Millisecond) { // the clip is made some seconds after
		b.Run(browser.Do(`document.querySelector('#events .event[data-kind=alert]').click()`))
		b.Until("its picture or clip", `document.getElementById('frame-clip').readyState > 1 || document.getElementById('frame-clip').error`)
		if browser.Eval[bool](b, `!document.getElementById('frame-clip').error`) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is never a clip")
		}
		b.Run(browser.Do(`document.getElementById('frame').close()`))
	}
	b.Until("it plays", `!document.getElementById('frame-clip').hidden && document.getElementById('frame-clip').currentTime > 0.3`)
	b.Run(browser.Key("\x1b"))
	b.Until("it is closed, and still", `!document.getElementById('frame').open && document.getElementById('frame-clip').paused`)
}

// changeStreams adds, changes and removes a stream on the page.
func changeStreams(t *testing.T, b *browser.Tab, told *api) {
	clip, err := filepath.Abs("../../testdata/yard/test-0016.mp4")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(id, text string) browser.Action {
		return browser.Do(fmt.Sprintf(`document.getElementById(%q).value = %q`, id, text))
	}
	b.Run(browser.Click("#add"), fill("stream-name", "a b"), fill("stream-url", "/nowhere/at-all.mp4"), browser.Click("#stream-save"))
	b.Until("the reason", `document.getElementById('stream-error').textContent.includes('use letters, digits')`)
	b.Run(fill("stream-name", "second"), browser.Click("#stream-save"))
	b.Until("what is wrong with the source", `lookout.stream === 'second' && document.getElementById('veil-text').textContent.includes('check the path')`)
	b.Run(browser.Click("#change"), fill("stream-url", clip), browser.Click("#stream-loop"), browser.Click("#stream-save"))
	b.Until("it plays", `!document.getElementById('stream').open && lookout.stream === 'second' && `+browser.Live)
	told.until(t, "a description of it", func() bool { return len(told.of("second", event.TypeDescription)) > 0 })
	b.Run(browser.Click("#change"), browser.Click("#stream-remove"), browser.Click("#stream-remove"))
	b.Until("it is gone", `!document.getElementById('stream').open && !lookout.streams.some(s => s.name === 'second')`)
}

// passed gives the answer that is true of the ten seconds before at, "" when a
// glimpse decides: a second or more of it is a yes.
func (h happenings) passed(at time.Duration, kind string) string {
	glimpses, whole := 0, 0
	for _, f := range h.Frames {
		if d := f.T - at.Seconds(); d < -11 || d > 0.5 {
			continue
		}
		for _, a := range f.Actors {
			if a.Kind == kind && a.Visible > 0 {
				glimpses++
				if a.Visible == 1 && f.T > at.Seconds()-9 && f.T < at.Seconds()-1 {
					whole++
				}
			}
		}
	}
	switch {
	case glimpses == 0:
		return "no"
	case whole >= 8:
		return "yes"
	}
	return ""
}

// put asks q on the page and gives the answer as the page shows it and as the
// event has it.
func put(t *testing.T, b *browser.Tab, q string) (shown string, d event.Data) {
	t.Helper()
	n := browser.Eval[int](b, `document.querySelectorAll('#thread li').length`)
	b.Run(browser.Type("question", q+"\r"))
	b.Until("an answer to "+q, fmt.Sprintf(`document.querySelectorAll('#thread li').length > %d && document.querySelector('#thread li:first-child .a button, #thread li:first-child .wrong')`, n))
	got := browser.Eval[struct {
		Shown string
		Event *event.Event
	}](b, `(() => { const asked = [...lookout.lives.values()].filter(e => e.type.includes('.answer.') && e.data.viewer === lookout.link.viewer);
		return {shown: document.querySelector('#thread .words').textContent, event: asked.at(-1)}; })()`)
	if d = got.Event.Data; d.Prompt.Text != q || got.Shown != d.Text {
		t.Fatalf("asked %q, the page shows %q, the event says %q to %q", q, got.Shown, d.Text, d.Prompt.Text)
	}
	return got.Shown, d
}

// askAboutThePast asks about the last ten seconds: once for what was there and
// is gone, once for what was not.
func askAboutThePast(t *testing.T, b *browser.Tab) {
	truth := readHappenings(t, "../../assets/demo.json")
	b.Run(browser.Do(`document.getElementById('since').value = '10000'`))
	defer b.Run(browser.Do(`document.getElementById('since').value = '0'`))
	for _, want := range []string{"yes", "no"} {
		kind := ""
		var asked int64 // the picture on screen, in ms, as events have it
		var at time.Duration
		for end := time.Now().Add(80 * time.Second); kind == ""; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it is never certain that the answer is %s", want)
			}
			asked = browser.Eval[int64](b, `Math.round(lookout.captions.shown / 90)`)
			at = time.Duration(asked) * time.Millisecond % time.Duration(truth.Duration*float64(time.Second))
			if at < 12*time.Second { // the last ten seconds begin in the round before
				continue
			}
			for _, k := range []string{"van", "dog", "car", "bicycle", "person"} {
				// Neither now nor while the question is on its way.
				if truth.passed(at, k) == want && truth.sure(at+time.Second, "is there a "+k+"?") == "no" && truth.sure(at+2500*time.Millisecond, "is there a "+k+"?") == "no" {
					kind = k
				}
			}
		}
		shown, d := put(t, b, "is there a "+kind+"?")
		e := d.Evidence[len(d.Evidence)-1]
		t.Logf("%v: a %s in the last 10 s? %s, seen %d ms before", at, kind, shown, asked-e.MediaMS)
		if !strings.HasPrefix(strings.ToLower(shown), want) {
			t.Errorf("at %v a %s in the last 10 s: %q, want %q", at, kind, shown, want)
		}
		if back := asked - e.MediaMS; want == "yes" && (back < 500 || back > 11000) {
			t.Errorf("the answer rests on a picture of %d ms before", back)
		}
	}
}

// askAboutTheDemo asks until each answer, a yes and a no, was heard once at a
// time when the truth is certain.
func askAboutTheDemo(t *testing.T, b *browser.Tab) {
	truth := readHappenings(t, "../../assets/demo.json")
	questions := []string{"is the gate open?", "is there a person?", "is there a dog?"}
	checked, heard := 0, map[string]int{}
	deadline := time.Now().Add(90 * time.Second)
	for i := 0; checked < 6 || heard["yes"] == 0 || heard["no"] == 0; i++ {
		if time.Now().After(deadline) {
			t.Fatalf("only %d questions had a certain answer: %v", checked, heard)
		}
		q := questions[i%len(questions)]
		shown, d := put(t, b, q)
		at := time.Duration(d.Evidence[len(d.Evidence)-1].MediaMS) * time.Millisecond
		at %= time.Duration(truth.Duration * float64(time.Second)) // it plays over and over
		want := truth.sure(at, q)
		t.Logf("%v: %s %s (in truth %q)", at, q, shown, want)
		if want == "" {
			continue
		}
		checked++
		heard[want]++
		if !strings.HasPrefix(strings.ToLower(shown), want) {
			t.Errorf("at %v %q was answered with %q", at, q, shown)
		}
		// The badge is the probability of the event.
		if d.Probability == nil || (*d.Probability >= 0.5) != (want == "yes") {
			t.Errorf("at %v %q has the probability %v", at, q, d.Probability)
		}
	}
}

// searchFindsWhatWasSeen looks for the crate that stands in the yard all the
// time.
func searchFindsWhatWasSeen(t *testing.T, b *browser.Tab) {
	b.Run(browser.Type("query", "crate of oranges\r"))
	b.Until("what was found", `document.getElementById('events-title').textContent.startsWith('Found') && document.getElementById('events').children.length > 0`)
	if first := browser.Eval[string](b, `document.getElementById('events').children[0].textContent`); !strings.Contains(first, "crate of oranges") {
		t.Errorf("the first that is found reads %q", first)
	}
	b.Run(browser.Do(`document.getElementById('query').value = ''; document.getElementById('query').dispatchEvent(new Event('input'))`))
	b.Until("the time line again", `document.getElementById('events-title').textContent === 'Timeline'`)
}

// captionsAreTheEvents compares what stood over the video, and what the time
// line lists, with what the API tells.
func captionsAreTheEvents(t *testing.T, b *browser.Tab, told *api) {
	b.Until("five captions", `Object.keys(captioned).length >= 5`)
	captions := browser.Eval[map[string]map[string]bool](b, `captioned`)
	texts := map[string][]string{}
	told.until(t, "as much as the page shows", func() bool {
		clear(texts)
		for _, ev := range told.of("yard", event.TypeDescription) {
			texts[ev.Data.EventID] = append(texts[ev.Data.EventID], ev.Data.Text)
		}
		for id := range captions {
			if texts[id] == nil {
				return false
			}
		}
		return true
	})
	for id, shown := range captions {
		for text := range shown {
			if !slices.Contains(texts[id], text) {
				t.Errorf("the page shows %q, the API tells %q", text, texts[id])
			}
		}
	}
	// Both go on meanwhile, so each side is asked for what the other had.
	list := `Object.fromEntries([...document.querySelectorAll('#events .event[data-kind=description]')].map(e => [e.dataset.event, e.querySelector('p').textContent]))`
	before := told.of("yard", event.TypeDescription)
	b.Until("the page has them all", fmt.Sprintf(`lookout.link.after.yard >= %d`, before[len(before)-1].Data.Seq))
	listed := browser.Eval[map[string]string](b, list)
	for _, ev := range before {
		if ev.Data.Text == "" {
			continue
		}
		if _, ok := listed[ev.Data.EventID]; !ok {
			t.Errorf("the page does not list %q", ev.Data.Text)
		}
	}
	for id, text := range listed {
		told.until(t, fmt.Sprintf("%q", text), func() bool {
			return slices.ContainsFunc(told.of("yard", event.TypeDescription), func(ev *event.Event) bool { return ev.Data.EventID == id && ev.Data.Text == text })
		})
	}
}

// TestBrowserStrangeCamera publishes what the model does not know: Chromium's
// own test pattern.
func TestBrowserStrangeCamera(t *testing.T) {
	url := startDemo(t)
	told := listen(t, url)
	b := browser.Open(t, url, browser.Options{})
	b.Until("the video plays", browser.Live)
	publishCamera(b, "pattern")
	told.until(t, "that the pattern is out of its domain", func() bool {
		return slices.ContainsFunc(told.of("pattern", event.TypeStatus), func(ev *event.Event) bool { return ev.Data.Status.State == "out_of_domain" })
	})
	b.Until("the page says so in words", `[...document.querySelectorAll('#events .event[data-kind=status] p')].some(p => p.textContent.includes('does not know footage like this'))`)
	b.Until("and marks the video", `!document.getElementById('strange').hidden`)
	if said := told.of("pattern", event.TypeDescription); len(said) > 0 {
		t.Errorf("the pattern is described: %q", said[0].Data.Text)
	}
	// Nor is a question answered with something made up.
	b.Run(browser.Type("question", "is there a person?\r"))
	b.Until("an honest answer", `document.querySelector('#thread .a.unsure .words')?.textContent === 'I cannot tell.'`)
	b.Run(browser.Click("#camera"))
	b.Until("the camera is let go", `document.getElementById('camera').textContent.includes('Use my camera')`)
}

// publishCamera makes the browser's camera a stream, as a visitor does.
func publishCamera(b *browser.Tab, name string) {
	b.Run(browser.Click("#camera"), browser.Do(`document.getElementById('publish-name').value = ''`), browser.Type("publish-name", name+"\r"))
	b.Until("the own camera plays", fmt.Sprintf(`lookout.stream === %q && %s`, name, browser.Live))
}

// cameraFile makes a file for Chromium's fake camera of a clip.
func cameraFile(t *testing.T, clip string) string {
	t.Helper()
	r, err := ingest.Open(t.Context(), ingest.Config{Name: "camera", URL: clip})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := filepath.Join(t.TempDir(), "camera.y4m")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	var f media.Frame
	for n := 0; ; n++ {
		err := r.ReadFrame(t.Context(), &f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			fmt.Fprintf(w, "YUV4MPEG2 W%d H%d F12:1 Ip A1:1 C420jpeg\n", f.Width, f.Height)
		}
		fmt.Fprint(w, "FRAME\n")
		_, _ = w.Write(yuv420(&f))
	}
	if err := errors.Join(w.Flush(), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// yuv420 gives f as cameras do: BT.601, 16 to 235, a colour for each four pixels.
func yuv420(f *media.Frame) []byte {
	w, h := f.Width, f.Height
	out := make([]byte, w*h*3/2)
	cb, cr := out[w*h:w*h*5/4], out[w*h*5/4:]
	for y := range h {
		for x := range w {
			p := f.Pix[(y*w+x)*3:]
			r, g, b := int(p[0]), int(p[1]), int(p[2])
			out[y*w+x] = byte((66*r+129*g+25*b+128)>>8 + 16)
			if x%2 == 0 && y%2 == 0 {
				cb[y/2*(w/2)+x/2] = byte((-38*r-74*g+112*b+128)>>8 + 128)
				cr[y/2*(w/2)+x/2] = byte((112*r-94*g-18*b+128)>>8 + 128)
			}
		}
	}
	return out
}
