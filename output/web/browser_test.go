package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/internal/browser"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/internal/fake"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/output/webrtc"
)

// live is true on a page whose video plays.
const live = browser.Live

// counter reads, for the next pictures shown, their RTP times and the picture
// numbers in the blocks at the picture's top left.
const counter = `new Promise(done => {
	const v = document.getElementById('video'), c = document.createElement('canvas'), out = [];
	const g = c.getContext('2d', {willReadFrequently: true});
	const frame = (now, meta) => {
		c.width = v.videoWidth; c.height = v.videoHeight;
		g.drawImage(v, 0, 0);
		const scale = v.videoWidth / WIDTH, d = g.getImageData(0, 0, Math.ceil(128 * scale), Math.ceil(16 * scale));
		let n = 0;
		for (let b = 0; b < 8; b++) {
			const x = Math.round((b * 16 + 8) * scale), y = Math.round(8 * scale);
			n = n * 2 + (d.data[(y * d.width + x) * 4 + 1] > 127 ? 1 : 0);
		}
		let sum = 0; const all = g.getImageData(0, 0, v.videoWidth, v.videoHeight).data;
		for (let i = 0; i < all.length; i += 997) sum = (sum * 31 + all[i]) >>> 0;
		out.push({n, rtp: meta.rtpTimestamp, sum});
		if (out.length < 12) v.requestVideoFrameCallback(frame); else done(out);
	};
	v.requestVideoFrameCallback(frame);
})`

type picture struct {
	N   int    `json:"n"`
	RTP uint32 `json:"rtp"`
	Sum uint32 `json:"sum"`
}

// TestBrowserShowsTheScene reads pictures off the screen: they advance, they
// are the clip's, and their RTP time is the one that events carry.
func TestBrowserShowsTheScene(t *testing.T) {
	for _, c := range []struct {
		codec media.Codec
		load  func(string) (fake.Clip, error)
		path  string
	}{{media.H264, fake.LoadH264, "../webrtc/testdata/yard.h264"}, {media.VP8, fake.LoadVP8, "../webrtc/testdata/yard.ivf"}} {
		t.Run(string(c.codec), func(t *testing.T) {
			h := newHouse(t, web.Config{})
			h.play(t, "yard", c.load, c.path, nil)
			b := browser.Open(t, h.url, browser.Options{})
			b.Until("the video plays", live)
			pictures := browser.Eval[[]picture](b, strings.ReplaceAll(counter, "WIDTH", fmt.Sprint(clipWidth)))
			sums := map[uint32]bool{}
			for i, p := range pictures {
				want := int(math.Round(float64(p.RTP)/(media.ClockRate/fake.FPS))) % fake.Frames
				if p.N != want {
					t.Errorf("picture %d on screen has the RTP time of picture %d", p.N, want)
				}
				if i > 0 && p.RTP <= pictures[i-1].RTP {
					t.Errorf("the video does not advance: %v", pictures)
				}
				sums[p.Sum] = true
			}
			if len(sums) < 10 {
				t.Errorf("only %d different pictures of %d", len(sums), len(pictures))
			}
			// As near to the camera as the network: a joiner must not stay as far
			// behind as the key frame it began with.
			behind := h.Newest("yard").Frame
			last := uint64(math.Round(float64(browser.Eval[uint32](b, "lookout.captions.shown")) / (media.ClockRate / fake.FPS)))
			if behind > last+fake.FPS {
				t.Errorf("the picture on screen is %d, the camera is at %d", last, behind)
			}
		})
	}
}

// scene is what the clip shows, second by second.
var scene = map[uint64]string{
	1: "A person in a blue coat stands in the middle.",
	2: "A brown dog comes in from the right.",
	4: "A white bicycle comes in from the right. A person in a black coat comes in from the left.",
	5: "A person in a black coat drops a box.",
	6: "A person in a black coat has stopped.",
}

func words(n uint64) string {
	if n%fake.FPS != 7 {
		return ""
	}
	return scene[n/fake.FPS%(fake.Frames/fake.FPS)]
}

func TestBrowserWordsBelongToThePicture(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", words)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	// Watch the caption: at the moment its first word shows, what is on screen?
	browser.Eval[bool](b, `(() => { window.seen = []; let last; new MutationObserver(() => {
		const l = document.getElementById('caption').dataset;
		if (l.event && l.event !== last) { last = l.event; seen.push({rtp: Number(l.rtp), shown: lookout.captions.shown}); }
	}).observe(document.getElementById('caption'), {childList: true, attributes: true, subtree: true}); return true; })()`)
	b.Until("four captions", "seen.length >= 4")
	for _, s := range browser.Eval[[]struct{ RTP, Shown uint32 }](b, "seen") {
		if d := int32(s.Shown - s.RTP); d < -1500 || d > 90000 {
			t.Errorf("words about picture %d while %d is on screen", s.RTP, s.Shown)
		}
	}
	st := browser.Eval[struct{ Exact, Paired int }](b, "lookout.captions.stats")
	if st.Exact == 0 || 2*st.Exact < st.Paired { // a busy machine does not show every picture
		t.Errorf("%d of %d captions found their picture", st.Exact, st.Paired)
	}
	if ms := browser.Eval[float64](b, "lookout.latency"); ms <= 0 || ms > 5000 {
		t.Errorf("glass to word %v ms", ms)
	}
	b.Until("the latency is shown", `document.getElementById('latency').textContent.includes('ms glass to word')`)

	// Words about a picture that has not been shown wait for it.
	now := h.Newest("yard")
	ahead := now
	ahead.RTP += 2 * media.ClockRate
	h.Say(&event.Event{Type: event.TypeDescription, Data: event.Data{Stream: "yard", Phase: event.Start, Text: "Something from the future.", Evidence: []event.Evidence{ahead}}})
	b.Until("the future is shown", `document.getElementById('caption').textContent.includes('future')`)
	if d := int32(browser.Eval[uint32](b, `Number(document.getElementById('caption').dataset.shown)`) - ahead.RTP); d < -1500 {
		t.Errorf("words shown %d ticks before their picture", -d)
	}

	// What the page lists is what the API tells.
	f := h.follow(t, "?stream=yard")
	texts := map[string]bool{}
	for _, x := range f.texts(4) {
		texts[x] = true
	}
	onPage := browser.Eval[[]string](b, `[...document.querySelectorAll('#events .event')].map(e => e.querySelector('p').textContent)`)
	for x := range texts {
		if !strings.Contains(strings.Join(onPage, "\n"), x) {
			t.Errorf("%q is not on the page:\n%s", x, strings.Join(onPage, "\n"))
		}
	}
	b.Until("thumbnails", `[...document.querySelectorAll('#events img')].some(i => i.complete && i.naturalWidth > 0)`)
	// The picture that words rest on, by keyboard.
	b.Run(browser.Key("j"), browser.Key("\r"))
	b.Until("the picture", `document.getElementById('frame').open && document.getElementById('frame-image').naturalWidth > 0`)
}

func TestBrowserAsks(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	b.Run(browser.Key("a"))
	b.Until("the field has the focus", `document.activeElement.id === 'question'`)
	b.Run(browser.Do(`document.getElementById('question').value = ''`)) // chromedp types the letter, too, though its key was taken
	b.Run(browser.Type("question", "is there a <b>box</b>?\r"))
	want, _ := json.Marshal(fake.Answer("is there a <b>box</b>?"))
	b.Until("the answer", fmt.Sprintf(`document.querySelector('#thread .words')?.textContent === %s`, want))
	b.Until("its probability", `document.querySelector('#thread .badge')?.textContent === 'yes 93%'`)
	b.Until("it is in the timeline", `document.querySelector('#events .event[data-kind=answer]')`)
	if n := browser.Eval[int](b, `document.querySelectorAll('#thread b, #events b').length`); n != 0 {
		t.Error("a question became markup")
	}
	b.Run(browser.Do(`document.getElementById('own').open = true`), browser.Type("own-text", "What do the dogs do?\r"))
	eventually(t, "the own prompt", func() bool { return h.Prompt(browser.Eval[string](b, "lookout.link.viewer")) == "What do the dogs do?" })
	b.Run(browser.Type("label", "a red van\r"))
	b.Until("labels are set", `fetch('/healthz').then(() => true)`)
	eventually(t, "the label arrives", func() bool { return h.LabelsOf("yard") == "a red van" })
	h.set("yard", func(s *web.StreamInfo) {
		s.Labels, s.Scores = []string{"a red van"}, []event.Label{{Name: "a red van", Probability: 0.71}}
	})
	b.Until("its bar", `document.querySelector('#bars .value')?.textContent === '71%'`)
	theme := browser.Eval[string](b, `document.documentElement.dataset.theme`)
	b.Run(browser.Do(`document.activeElement.blur()`), browser.Key("t"))
	if browser.Eval[string](b, `document.documentElement.dataset.theme`) == theme {
		t.Error("the theme does not change")
	}
	b.Run(browser.Key("?"))
	b.Until("the help", `document.getElementById('keys').open`)
	unnamed := browser.Eval[[]string](b, `[...document.querySelectorAll('button, input, select, video, nav, section')].filter(e => !e.closest('[hidden]') &&
		!(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() || e.title || e.closest('label'))).filter(e => !e.matches('section.left')).map(e => e.outerHTML.slice(0, 80))`)
	if len(unnamed) > 0 {
		t.Errorf("without a name for screen readers: %v", unnamed)
	}
}

func TestBrowserPublishes(t *testing.T) {
	h := newHouse(t, web.Config{})
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("there is no stream", `document.getElementById('veil-text').textContent.startsWith('No stream yet')`)
	b.Run(chromedp.Click(chromedp.ID("camera")), chromedp.WaitVisible(chromedp.ID("publish-name")), chromedp.SetValue(chromedp.ID("publish-name"), "phone"), chromedp.Click(chromedp.CSS("#publish-form button")))
	var sink *fake.Sink
	eventually(t, "a publication", func() bool { sink = h.Sink("phone"); return sink != nil })
	eventually(t, "packets", func() bool { p, _ := sink.Packets(); return len(p) > 30 })
	packets, _ := sink.Packets()
	if !packets[0].Key {
		t.Error("the first packet is no key frame")
	}
	for i, p := range packets {
		if i > 0 && p.At.Media <= packets[i-1].At.Media {
			t.Fatalf("time goes back at packet %d", i)
		}
	}
	// The proof that they can be decoded: the same page plays them back.
	b.Until("the own camera plays", `lookout.stream === 'phone' && `+live)
	b.Run(chromedp.Click(chromedp.ID("camera")))
	eventually(t, "the publication ends", func() bool { _, closed := sink.Packets(); return closed })
}

func TestBrowserManagesStreams(t *testing.T) {
	h := newHouse(t, web.Config{})
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("there is no stream", `document.getElementById('veil-text').textContent.startsWith('No stream yet')`)
	config := func(name string) string { h.mu.Lock(); defer h.mu.Unlock(); return h.configs[name] }
	const shut = `!document.getElementById('stream').open`
	// By keyboard alone. chromedp types the letter, too, though its key was taken.
	open := func(key, focus string) {
		t.Helper()
		b.Run(browser.Key(key))
		b.Until("the form", fmt.Sprintf(`document.getElementById('stream').open && document.activeElement.id === %q`, focus))
		b.Run(browser.Do(`document.activeElement.value = document.activeElement.defaultValue = document.activeElement.value.replace(/[ne]$/, '')`))
	}
	open("n", "stream-name")
	b.Run(browser.Type("stream-name", "gate"), browser.Type("stream-url", "rtsp://cam/1"), browser.Type("stream-prompt", "Who comes?\r"))
	b.Until("it is shown", shut+` && lookout.stream === 'gate'`)
	if got, want := config("gate"), `{"describe":{"prompt":"Who comes?"},"loop":false,"name":"gate","url":"rtsp://cam/1"}`; got != want {
		t.Errorf("added with %s, want %s", got, want)
	}
	// What the server refuses is said in the form, which stays.
	b.Run(browser.Click("#add"), browser.Type("stream-name", "gate"), browser.Type("stream-url", "x\r"))
	b.Until("the refusal", `document.getElementById('stream').open && document.getElementById('stream-error').textContent === 'stream gate: exists already'`)
	b.Shot("stream-form")
	b.Run(browser.Key("\x1b"))
	b.Until("escape closes it", shut)

	open("e", "stream-url")
	b.Run(browser.Click("#stream-loop"), browser.Click("#stream-save"))
	b.Until("it is saved", shut)
	if got := config("gate"); got != `{"loop":true}` { // not the address, whose password is not shown
		t.Errorf("changed with %s", got)
	}
	b.Run(browser.Click("#change"), browser.Click("#stream-remove"))
	b.Until("it asks again", `document.getElementById('stream-remove').textContent.startsWith('Press again')`)
	if config("gate") == "" {
		t.Fatal("removed at the first press")
	}
	b.Run(browser.Click("#stream-remove"))
	b.Until("it is gone", shut+` && lookout.stream === null`)

	const token = "only-to-look-on"
	guarded := newHouse(t, web.Config{Accounts: []web.Account{{Token: token, Allow: map[string][]webrtc.Action{"*": {webrtc.View}}}}})
	guarded.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b = browser.Open(t, guarded.url, browser.Options{})
	b.Until("the page asks", `document.getElementById('signin').open`)
	b.Run(browser.Type("signin-password", token+"\r"))
	b.Until("the video plays", live)
	if shown := browser.Eval[[]string](b, `['add', 'change', 'camera', 'ask'].filter(i => !document.getElementById(i).hidden)`); len(shown) > 0 {
		t.Errorf("who may only look on is offered %v", shown)
	}
	b.Run(browser.Key("n"), browser.Key("e"))
	if browser.Eval[bool](b, `document.getElementById('stream').open`) {
		t.Error("a key opens the form")
	}
}

func TestBrowserGridOfStreams(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", words)
	h.play(t, "gate", fake.LoadVP8, "../webrtc/testdata/yard.ivf", nil)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	say(h.backend, "gate", "The gate is closed.")
	b.Run(browser.Key("g"))
	b.Until("pictures and words of all side by side", `document.querySelector('main').offsetParent === null && document.getElementById('grid').ariaPressed === 'true' &&
		[...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth > 0 && i.clientWidth > 300).length === 2 &&
		[...document.querySelectorAll('.tile small')].some(e => e.textContent === 'The gate is closed.')`)
	b.Shot("grid")
	b.Run(browser.Click(".tile:nth-child(2)"))
	b.Until("one of them large", `lookout.stream === 'gate' && document.querySelector('main').offsetParent !== null && document.activeElement.id === 'stage' && `+live)
	// Footage that the model does not know is marked.
	h.Say(&event.Event{Type: event.TypeStatus, Data: event.Data{Stream: "gate", Phase: event.Point, Status: &event.Status{State: "out_of_domain", Reason: "never seen such a thing"}}})
	b.Until("it is marked", `!document.getElementById('strange').hidden && document.getElementById('strange').title.includes('never seen')`)
	h.Say(&event.Event{Type: event.TypeStatus, Data: event.Data{Stream: "gate", Phase: event.Point, Status: &event.Status{State: "in_domain"}}})
	b.Until("and no more", `document.getElementById('strange').hidden`)
}

// TestBrowserOnAPhone: all fits, what matters has its colour in dark and light,
// and nothing comes from elsewhere.
func TestBrowserOnAPhone(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", words)
	h.play(t, "gate", fake.LoadVP8, "../webrtc/testdata/yard.ivf", nil)
	h.set("yard", func(s *web.StreamInfo) {
		s.GlassToWordMS, s.Skipped, s.Degraded = 412, map[string]uint64{"sampled": 5210, "still": 1430, "busy": 12}, "half the frames"
		s.Labels = []string{"a person with a rather long description that does not fit into one line of a phone"}
	})
	h.set("gate", func(s *web.StreamInfo) {
		s.State, s.Reason, s.Fix = "reconnecting", "ingest: gate: open rtsp://user:xxxxx@192.0.2.1/averyveryverylongpathwithoutanyspaceinit: cannot connect", "check host and port"
	})
	b := browser.Open(t, h.url, browser.Options{Width: 390, Height: 844})
	b.Until("the video plays", live)
	p := 0.88
	h.Say(&event.Event{Type: event.TypeAlert, Data: event.Data{Stream: "yard", Phase: event.Start, Text: "A box was left on the ground.", Probability: &p, Prompt: &event.Prompt{ID: "box", Text: "Is something left behind?"}}})
	b.Until("an alert and words", `document.querySelector('#events .event[data-kind=alert]') && document.querySelector('#events .event[data-kind=description]')`)
	const fits = `document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll('main .card, #stage, header')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)`
	for range 2 { // dark and light
		if !browser.Eval[bool](b, fits) {
			t.Errorf("the page is %d pixels wide", browser.Eval[int](b, `document.documentElement.scrollWidth`))
		}
		colours := browser.Eval[[]string](b, `(() => { const probe = document.createElement('i'); document.body.append(probe); probe.style.color = 'var(--alert)';
			const c = [getComputedStyle(probe).color, getComputedStyle(document.querySelector('.event[data-kind=alert] .kind')).color, getComputedStyle(document.querySelector('.event[data-kind=description] .kind')).color]; probe.remove(); return c; })()`)
		if colours[0] != colours[1] || colours[1] == colours[2] {
			t.Errorf("an alert looks like this: %v", colours)
		}
		b.Run(browser.Do(`document.activeElement.blur()`), browser.Key("t"))
	}
	health := browser.Eval[string](b, `document.getElementById('stats').textContent + document.getElementById('skips').textContent`)
	for _, want := range []string{"15 fps", "4.0 a second", "412 ms", "640×360", "5,210 sampled", "12 busy", "half the frames"} {
		if !strings.Contains(health, want) {
			t.Errorf("no %q in the health %q", want, health)
		}
	}
	b.Run(browser.Do(`document.querySelector('.tile:nth-child(2)').click()`))
	b.Until("why there is no video", `document.getElementById('skips').textContent.includes('check host and port')`)
	if !browser.Eval[bool](b, fits) {
		t.Error("a long reason does not fit")
	}
	if foreign := browser.Eval[[]string](b, `performance.getEntriesByType('resource').map(r => r.name).filter(u => new URL(u).origin !== location.origin)`); len(foreign) > 0 {
		t.Errorf("loaded from elsewhere: %v", foreign)
	}
}

// TestBrowserOverTCP plays in a browser whose network blocks UDP.
func TestBrowserOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	h := newHouse(t, web.Config{WebRTC: webrtc.Config{TCPPort: port}})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b := browser.Open(t, h.url, browser.Options{NoUDP: true})
	b.Until("the video plays", live)
	say(h.backend, "yard", "over TCP")
	b.Until("words", `document.querySelectorAll('#events .event').length === 1`)
	way := browser.Eval[string](b, `lookout.link.pc.getStats().then(r => { const all = [...r.values()], pair = all.find(s => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded');
		const to = all.find(s => s.id === pair.remoteCandidateId); return to.protocol + ' ' + to.port; })`)
	if way != fmt.Sprint("tcp ", port) {
		t.Errorf("the way is %s", way)
	}
}

// TestBrowserHeals kills the server under the page and starts it again.
func TestBrowserHeals(t *testing.T) {
	bus := event.NewBus(200)
	be := newBackend(bus)
	be.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	h := open(t, web.Config{Listen: addr}, be, bus)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	say(be, "yard", "before")
	b.Until("an event", `document.querySelectorAll('#events .event').length === 1`)
	h.stop()
	b.Until("the page notices", `document.getElementById('link').dataset.state === 'off'`)
	say(be, "yard", "meanwhile")
	open(t, web.Config{Listen: addr}, be, bus)
	b.Until("the video plays again", `document.getElementById('link').dataset.state === 'live' && `+live)
	say(be, "yard", "after")
	b.Until("no event is missed or doubled", `document.querySelectorAll('#events .event').length === 3`)
	got := browser.Eval[[]string](b, `[...document.querySelectorAll('#events .event')].map(e => e.querySelector('p').textContent)`)
	if fmt.Sprint(got) != "[after meanwhile before]" {
		t.Errorf("events %v", got)
	}
}

// What changes in the timeline moves to where its newest time belongs.
func TestBrowserTimelineIsInOrder(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	alert := func(revision int, phase event.Phase) {
		h.Say(&event.Event{Type: event.TypeAlert, Data: event.Data{Stream: "yard", EventID: "box", Revision: revision, Phase: phase, Text: "A box was left.", Prompt: &event.Prompt{ID: "box", Text: "is a box left?"}}})
	}
	alert(0, event.Start)
	say(h.backend, "yard", "A dog runs.")
	b.Until("both", `document.querySelectorAll('#events .event').length === 2`)
	b.Run(browser.Do(`document.querySelector('#events .event[data-kind=alert]').focus()`))
	alert(1, event.End)
	b.Until("it is over, newest, and keeps the focus", `document.querySelector('#events .event').textContent.includes('ended') && document.activeElement === document.querySelector('#events .event')`)
	for range 2 { // as events come, and as the list is drawn anew
		if got := browser.Eval[[]string](b, `[...document.querySelectorAll('#events .event')].map(e => e.querySelector('p:last-child').textContent)`); fmt.Sprint(got) != "[A box was left. A dog runs.]" {
			t.Errorf("events %v", got)
		}
		if got := browser.Eval[string](b, `document.querySelector('#events time').textContent`); !strings.Contains(got, " – ") {
			t.Errorf("from when to when: %q", got)
		}
		b.Run(browser.Do(`document.querySelector('#filters [data-show=all]').click()`))
	}
}

// What a search found stays as it is while the stream goes on.
func TestBrowserSearches(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	say(h.backend, "yard", "A dog runs.")
	say(h.backend, "yard", "A red van stops.")
	shown := `[...document.querySelectorAll('#events .event')].map(e => e.querySelector('p:last-child').textContent).join(' ')`
	b.Until("both", shown+` === 'A red van stops. A dog runs.'`)
	h.mu.Lock()
	h.past = []*event.Event{{ID: "1", Time: time.Now(), Type: event.TypeDescription, Data: event.Data{Stream: "yard", EventID: "dog", Text: "A dog runs."}}}
	h.mu.Unlock()
	b.Run(browser.Do(`document.getElementById('query').value = 'dog'; document.getElementById('search').requestSubmit()`))
	b.Until("what was found", shown+` === 'A dog runs.'`)
	say(h.backend, "yard", "The van leaves.")
	b.Until("the event is there", `lookout.lives.size === 3`)
	if got := browser.Eval[string](b, shown); got != "A dog runs." {
		t.Errorf("found: %s", got)
	}
	b.Run(browser.Do(`const q = document.getElementById('query'); q.value = ''; q.dispatchEvent(new Event('input'))`))
	b.Until("the timeline again", shown+` === 'The van leaves. A red van stops. A dog runs.'`)
}

// TestBrowserAmongManyViewers watches while twenty others do and one of them
// stands still.
func TestBrowserAmongManyViewers(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the video plays", live)
	block := make(chan struct{})
	var events [20]atomic.Int64
	clients := make([]*webrtc.Client, 20)
	for i := range clients {
		o := webrtc.SubscribeOptions{OnEvent: func(*event.Event) { events[i].Add(1) }}
		if i == 0 {
			o.OnDelta = func(*event.Delta) { <-block } // reads nothing from here on
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		c, err := webrtc.Subscribe(ctx, h.url+"/whep/yard", o)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	defer close(block) // before the clients close
	for n := range 100 {
		say(h.backend, "yard", fmt.Sprint("sentence number ", n))
	}
	b.Until("the browser has all", `lookout.link.after.yard === 100`)
	for i := range clients {
		if i > 0 {
			eventually(t, fmt.Sprintf("viewer %d has all", i), func() bool { return events[i].Load() == 100 })
			eventually(t, fmt.Sprintf("viewer %d sees", i), func() bool { return clients[i].Stats().Pictures > 20 })
		}
	}
	t0 := browser.Eval[float64](b, `document.getElementById('video').currentTime`)
	b.Until("the browser's video goes on", fmt.Sprintf(`document.getElementById('video').currentTime > %f + 1`, t0))
}

func TestBrowserSignsIn(t *testing.T) {
	h := newHouse(t, web.Config{Accounts: []web.Account{{Token: "let-me-in-please"}}})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	b := browser.Open(t, h.url, browser.Options{})
	b.Until("the page asks", `document.getElementById('signin').open`)
	b.Run(browser.Type("signin-password", "wrong\r"))
	b.Until("a refusal", `document.getElementById('signin-error').textContent.startsWith('wrong')`)
	b.Run(browser.Do(`document.getElementById('signin-password').value = ''`), browser.Type("signin-password", "let-me-in-please\r"))
	b.Until("the video plays", live)
	if browser.Eval[bool](b, `document.cookie !== '' || location.href.includes('let-me')`) {
		t.Error("the page can read the secret")
	}
}

// TestBrowserSignsInAgain: a server that was started again knows no cookie. Who
// signs in again sees and hears all, and which alerts hold.
func TestBrowserSignsInAgain(t *testing.T) {
	bus := event.NewBus(200)
	be := newBackend(bus)
	be.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	be.play(t, "gate", fake.LoadVP8, "../webrtc/testdata/yard.ivf", nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := web.Config{Listen: l.Addr().String(), Accounts: []web.Account{{Token: "let-me-in-please"}}}
	l.Close()
	h := open(t, cfg, be, bus)
	b := browser.Open(t, h.url+"/#yard", browser.Options{})
	signIn := func() {
		b.Until("the page asks", `document.getElementById('signin').open`)
		b.Run(browser.Type("signin-password", "let-me-in-please\r"))
		b.Until("the video plays", `document.getElementById('link').dataset.state === 'live' && `+live)
	}
	signIn()
	alert := func(id string, revision int, phase event.Phase) {
		be.Say(&event.Event{Type: event.TypeAlert, Data: event.Data{Stream: "gate", EventID: id, Revision: revision, Phase: phase, Text: "yes", Prompt: &event.Prompt{ID: "q", Text: "is it open?"}}})
	}
	const alarms = `[...document.querySelectorAll('.tile.alarm b')].map(e => e.textContent).join()`
	h.stop()
	alert("first", 0, event.Start)
	open(t, cfg, be, bus)
	signIn()
	b.Until("the alert that began meanwhile", alarms+` === 'gate'`)
	say(be, "yard", "a dog runs")
	b.Until("words", `document.querySelectorAll('#events .event').length >= 1`)
	alert("second", 0, event.Start)
	alert("first", 1, event.End)
	say(be, "gate", "one is over")
	b.Until("both", `lookout.link.after.gate === 4`)
	if got := browser.Eval[string](b, alarms); got != "gate" {
		t.Errorf("of two alerts one holds, and the tiles in alarm are %q", got)
	}
	alert("second", 1, event.End)
	b.Until("no alarm", alarms+` === ''`)
}

// clipWidth is the width of the clips in pixels.
const clipWidth = 640

// TestBrowserPictures makes the pictures of the documentation.
func TestBrowserPictures(t *testing.T) {
	if os.Getenv("LOOKOUT_SCREENSHOTS") == "" {
		t.Skip("makes pictures only: set LOOKOUT_SCREENSHOTS to a folder")
	}
	h := newHouse(t, web.Config{Version: "0.1"})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", words)
	h.play(t, "gate", fake.LoadVP8, "../webrtc/testdata/yard.ivf", nil)
	h.play(t, "loading dock", fake.LoadVP8, "../webrtc/testdata/yard.ivf", nil)
	h.set("yard", func(s *web.StreamInfo) {
		s.Title, s.GlassToWordMS = "Yard", 412
		s.Skipped = map[string]uint64{"sampled": 5210, "still": 1430, "busy": 12}
		s.Labels = []string{"a person", "a bicycle", "a dog", "a red van"}
		s.Scores = []event.Label{{Name: "a person", Probability: 0.93}, {Name: "a bicycle", Probability: 0.64}, {Name: "a dog", Probability: 0.31}, {Name: "a red van", Probability: 0.02}}
		s.Alerts = []event.Prompt{{ID: "box", Text: "Is something left behind?"}}
	})
	say(h.backend, "gate", "The gate is closed.")
	say(h.backend, "loading dock", "A van stands at the dock.")
	b := browser.Open(t, h.url, browser.Options{Width: 1440, Height: 900})
	b.Until("the video plays", live)
	b.Until("words", `document.querySelectorAll('#events .event').length >= 3`)
	b.Run(browser.Type("question", "is somebody carrying a box?\r"))
	b.Until("an answer", `document.querySelector('#thread .badge')`)
	p := 0.88
	h.Say(&event.Event{Type: event.TypeAlert, Data: event.Data{Stream: "yard", Phase: event.Start, Text: "A box was left on the ground.", Probability: &p, Prompt: &event.Prompt{ID: "box", Text: "Is something left behind?"}}})
	b.Until("a whole caption", `document.getElementById('caption').textContent.includes('drops a box')`)
	pictures(b, "page")
}

// TestBrowserPicturesOf makes pictures of the page at LOOKOUT_URL, a running
// Lookout.
func TestBrowserPicturesOf(t *testing.T) {
	url := os.Getenv("LOOKOUT_URL")
	if url == "" || os.Getenv("LOOKOUT_SCREENSHOTS") == "" {
		t.Skip("makes pictures only: set LOOKOUT_URL and LOOKOUT_SCREENSHOTS")
	}
	b := browser.Open(t, url, browser.Options{Width: 1440, Height: 900})
	b.Until("the video plays", live)
	b.Until("words", `document.querySelectorAll('#events .event').length >= 4`)
	if q := os.Getenv("LOOKOUT_QUESTION"); q != "" {
		b.Run(browser.Type("question", q+"\r"))
		b.Until("an answer", `document.querySelector('#thread .a button, #thread .wrong')`)
	}
	pictures(b, "demo")
}

// pictures takes the page in dark, light and on a phone, and its dialogs.
func pictures(b *browser.Tab, name string) {
	const caption = `document.getElementById('caption').textContent.length > 3 && !document.getElementById('caption-box').classList.contains('quiet')`
	theme := func(t string) browser.Action {
		return browser.Do(`document.activeElement.blur(); if (document.documentElement.dataset.theme !== '` + t + `') document.getElementById('theme').click()`)
	}
	for _, t := range []string{"dark", "light"} {
		b.Run(theme(t))
		b.Until("a caption", caption)
		b.Run(chromedp.Sleep(900 * time.Millisecond))
		b.Shot(name + "-" + t)
	}
	b.Run(theme("dark"), browser.Key("?"), chromedp.Sleep(200*time.Millisecond))
	b.Shot(name + "-keys")
	b.Run(browser.Do(`document.getElementById('keys').close(); document.querySelector('#events .event[data-kind=description]').click()`), chromedp.Sleep(500*time.Millisecond))
	b.Shot(name + "-frame")
	if browser.Eval[bool](b, `!document.getElementById('grid').hidden`) {
		b.Run(browser.Do(`document.getElementById('frame').close()`), browser.Key("g"), chromedp.Sleep(2500*time.Millisecond))
		b.Shot(name + "-grid")
		b.Run(browser.Key("g"))
	}
	b.Run(browser.Do(`document.getElementById('frame').close()`), chromedp.EmulateViewport(390, 844, chromedp.EmulateScale(2), chromedp.EmulateMobile, chromedp.EmulatePortrait))
	b.Until("a caption on the phone", caption)
	b.Run(chromedp.Sleep(900 * time.Millisecond))
	b.Shot(name + "-phone")
}
