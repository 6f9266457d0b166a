// Package fake plays a real clip as a camera for the tests of the outputs, and
// answers as a pipeline does, so that those run without models or FFmpeg.
package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pion/webrtc/v4/pkg/media/ivfreader"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/webrtc"
)

// FPS and Frames are those of the clips in output/webrtc/testdata.
const (
	FPS    = 15
	Frames = 120
)

// Clip is a list of access units.
type Clip struct {
	Codec media.Codec
	Units [][]byte
}

// LoadH264 reads an Annex B file with access unit delimiters.
func LoadH264(path string) (Clip, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Clip{}, err
	}
	c := Clip{Codec: media.H264}
	delimiter := []byte{0, 0, 0, 1, 9}
	for _, au := range bytes.Split(data, delimiter)[1:] {
		c.Units = append(c.Units, append(bytes.Clone(delimiter), au...))
	}
	return c, nil
}

// LoadVP8 reads an IVF file.
func LoadVP8(path string) (Clip, error) {
	f, err := os.Open(path)
	if err != nil {
		return Clip{}, err
	}
	defer f.Close()
	r, _, err := ivfreader.NewWith(f)
	if err != nil {
		return Clip{}, err
	}
	c := Clip{Codec: media.VP8}
	for {
		unit, _, err := r.ParseNextFrame()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return Clip{}, err
		}
		c.Units = append(c.Units, unit)
	}
}

// Key tells whether unit n is a key frame.
func (c Clip) Key(n int) bool {
	u := c.Units[n]
	if c.Codec == media.VP8 {
		return u[0]&1 == 0
	}
	return bytes.Contains(u, []byte{0, 0, 1, 0x65})
}

// Play publishes the clip on tap at its own rate, over and over, until ctx
// ends. Picture n (counted through the loops) has the media time n/FPS. on is
// called after each picture when it is not nil.
func (c Clip) Play(ctx context.Context, tap *media.Tap, on func(n uint64, at media.Timestamp)) {
	begun := time.Now()
	for n := 0; ; n++ {
		d := time.Duration(n) * time.Second / FPS
		select {
		case <-time.After(time.Until(begun.Add(d))):
		case <-ctx.Done():
			return
		}
		at := media.At(begun.Add(d), d)
		i := n % len(c.Units)
		tap.Publish(&media.Packet{Codec: c.Codec, Data: c.Units[i], Key: c.Key(i), At: at, Duration: time.Second / FPS})
		if on != nil {
			on(uint64(n), at)
		}
	}
}

// Backend is a webrtc.Backend with streams that play clips. Its answer to a
// question is always Answer(question).
type Backend struct {
	Bus *event.Bus

	mu       sync.Mutex
	taps     map[string]*media.Tap
	at       map[string]event.Evidence // newest picture
	seq      map[string]uint64
	watching map[string]int
	prompts  map[string]string // by viewer
	labels   map[string][]string
	sinks    map[string]*Sink
}

// New makes a Backend without streams.
func New(bus *event.Bus) *Backend {
	return &Backend{Bus: bus, taps: map[string]*media.Tap{}, at: map[string]event.Evidence{}, seq: map[string]uint64{},
		watching: map[string]int{}, prompts: map[string]string{}, labels: map[string][]string{}, sinks: map[string]*Sink{}}
}

// Add makes tap a stream.
func (b *Backend) Add(stream string, tap *media.Tap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taps[stream] = tap
}

// Start plays clip as stream until ctx ends, and says what words(n) gives at
// picture n, word by word, when that is not empty.
func (b *Backend) Start(ctx context.Context, stream string, clip Clip, words func(n uint64) string) {
	tap := media.NewTap(0)
	b.Add(stream, tap)
	clip.Play(ctx, tap, func(n uint64, at media.Timestamp) {
		e := event.Evidence{Capture: at.Capture.UTC(), MediaMS: at.Media.Milliseconds(), RTP: at.RTP, Frame: n}
		b.mu.Lock()
		b.at[stream] = e
		b.mu.Unlock()
		if words == nil {
			return
		}
		if text := words(n); text != "" {
			b.Say(&event.Event{Type: event.TypeDescription, Data: event.Data{
				Stream: stream, Phase: event.Start, Text: text, Evidence: []event.Evidence{e},
				Prompt: &event.Prompt{ID: "describe", Text: "Describe."},
			}})
		}
	})
	tap.Close()
}

// Say sends ev's words as deltas and then ev itself, filling in the envelope.
func (b *Backend) Say(ev *event.Event) {
	d := &ev.Data
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq[d.Stream]++
	d.Seq = b.seq[d.Stream]
	if d.EventID == "" {
		d.EventID = fmt.Sprintf("%s-%d", d.Stream, d.Seq)
	}
	if len(d.Evidence) == 0 {
		d.Evidence = []event.Evidence{b.at[d.Stream]}
	}
	newest := d.Evidence[len(d.Evidence)-1]
	if d.Latency == nil {
		d.Latency = &event.Latency{GlassToWordMS: float64(time.Since(newest.Capture).Milliseconds())}
	}
	d.Model = &event.Model{Name: "fake", Hash: "sha256:0123456789abcdef"}
	if d.Text != "" && ev.Type != event.TypeStatus {
		for i, w := range strings.SplitAfter(d.Text, " ") {
			b.Bus.PublishDelta(&event.Delta{Stream: d.Stream, EventID: d.EventID, Index: i, Text: w, Prompt: d.Prompt, Evidence: newest, Viewer: d.Viewer})
		}
		b.Bus.PublishDelta(&event.Delta{Stream: d.Stream, EventID: d.EventID, Index: strings.Count(d.Text, " ") + 1, Done: true, Prompt: d.Prompt, Evidence: newest, Viewer: d.Viewer})
	}
	ev.SpecVersion, ev.Source, ev.Subject = "1.0", "/streams/"+d.Stream, d.Stream
	ev.ID = fmt.Sprintf("%s.%d", d.EventID, d.Revision)
	ev.Time = time.Now().UTC()
	ev.DataContentType, ev.DataSchema = "application/json", "https://lookout.video/schema/event/v1"
	b.Bus.Publish(ev)
}

// Tap is the stream's tap.
func (b *Backend) Tap(stream string) (*media.Tap, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.taps[stream]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("stream %s: %w", stream, webrtc.ErrNotFound)
}

// Newest is the newest picture of the stream.
func (b *Backend) Newest(stream string) event.Evidence {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at[stream]
}

// Watching is how many watch the stream.
func (b *Backend) Watching(stream string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.watching[stream]
}

// Browser implements webrtc.Backend.
func (b *Backend) Browser(_ context.Context, stream string) (*media.Tap, func(), error) {
	t, err := b.Tap(stream)
	if err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watching[stream]++
	return t, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.watching[stream]--
	}, nil
}

// Answer is what Ask says to question.
func Answer(question string) string { return "Yes, I saw it: " + question }

// Ask implements webrtc.Backend.
func (b *Backend) Ask(ctx context.Context, q webrtc.Question) (*event.Event, error) {
	if _, err := b.Tap(q.Stream); err != nil {
		return nil, err
	}
	if q.Text == "wait" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	p := 0.93
	ev := &event.Event{Type: event.TypeAnswer, Data: event.Data{
		Stream: q.Stream, Phase: event.Point, Text: Answer(q.Text), Probability: &p, Viewer: q.Viewer,
		Prompt: &event.Prompt{ID: q.ID, Text: q.Text},
	}}
	b.Say(ev)
	return ev, nil
}

// SetPrompt implements webrtc.Backend.
func (b *Backend) SetPrompt(_ context.Context, stream, viewer, text string) error {
	if _, err := b.Tap(stream); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.prompts[viewer] = text; text == "" {
		delete(b.prompts, viewer)
	}
	return nil
}

// Prompt is what viewer has set.
func (b *Backend) Prompt(viewer string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.prompts[viewer]
}

// SetLabels implements webrtc.Backend.
func (b *Backend) SetLabels(_ context.Context, stream string, labels []string) error {
	if _, err := b.Tap(stream); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.labels[stream] = labels
	return nil
}

// LabelsOf are the stream's labels, comma-separated.
func (b *Backend) LabelsOf(stream string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.labels[stream], ",")
}

// Sink keeps what is published and plays it as a stream.
type Sink struct {
	tap *media.Tap

	mu      sync.Mutex
	packets []*media.Packet
	closed  bool
}

// Write implements webrtc.PushSink.
func (s *Sink) Write(p *media.Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = append(s.packets, p)
	s.tap.Publish(p)
	return nil
}

// Close implements webrtc.PushSink.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Packets are those written so far, and whether the sink has been closed.
func (s *Sink) Packets() ([]*media.Packet, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*media.Packet(nil), s.packets...), s.closed
}

// Publish implements webrtc.Backend.
func (b *Backend) Publish(_ context.Context, stream string, _ media.Codec) (webrtc.PushSink, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.sinks[stream]
	if old != nil {
		if _, closed := old.Packets(); !closed {
			return nil, fmt.Errorf("stream %s: somebody publishes it: %w", stream, webrtc.ErrExists)
		}
	} else if b.taps[stream] != nil {
		return nil, fmt.Errorf("stream %s: not a published camera: %w", stream, webrtc.ErrExists)
	}
	s := &Sink{tap: media.NewTap(0)}
	b.taps[stream], b.sinks[stream] = s.tap, s
	return s, nil
}

// Published are the streams that somebody publishes now.
func (b *Backend) Published() map[string]*Sink {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]*Sink{}
	for name, s := range b.sinks {
		if _, closed := s.Packets(); !closed {
			out[name] = s
		}
	}
	return out
}

// Sink is the newest publication of stream, or nil.
func (b *Backend) Sink(stream string) *Sink {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sinks[stream]
}

var _ webrtc.Backend = (*Backend)(nil)
