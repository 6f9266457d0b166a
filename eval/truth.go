package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// ErrNoClips is returned by Run for a folder without a single truth file.
var ErrNoClips = errors.New("eval: no truth files (NAME.json beside NAME.mp4)")

// clip is one truth file (docs/eval.md, "Labelling a clip"). All times are
// seconds from the clip's start.
type clip struct {
	Format    int         `json:"format"`
	Video     string      `json:"video"`
	Seed      int64       `json:"seed"`
	Split     string      `json:"split"`
	Duration  float64     `json:"duration"`
	SampleFPS float64     `json:"sample_fps"`
	Width     float64     `json:"width"` // of the picture that boxes are in
	Scene     *sceneTruth `json:"scene"`
	Actors    []actorName `json:"actors"`
	Events    []happening `json:"events"`
	Frames    []frame     `json:"frames"`
	Ask       []question  `json:"ask"`
	Describe  []float64   `json:"describe_at"`
	Unseen    []string    `json:"unseen"` // "green van": pairs that training never held
	Source    string      `json:"source"` // where the pictures are from, for people

	path string
}

type sceneTruth struct {
	Place   string `json:"place"`
	Light   string `json:"light"`
	Weather string `json:"weather"`
	HasGate bool   `json:"has_gate"`
}

type actorName struct {
	ID    int    `json:"id"`
	Kind  string `json:"kind"`
	Color string `json:"color"`
}

type happening struct {
	T         float64 `json:"t"`
	Kind      string  `json:"kind"`
	Actor     int     `json:"actor"`     // -1: the scene's
	Direction string  `json:"direction"` // of the motion at, or right after, the event
}

type frame struct {
	T      float64      `json:"t"`
	Gate   *bool        `json:"gate_open"`
	Lamps  *bool        `json:"lamps_on"`
	Actors []actorTruth `json:"actors"`
}

type actorTruth struct {
	ID        int       `json:"id"`
	Kind      string    `json:"kind"`
	Color     string    `json:"color"`
	Box       []float64 `json:"box"`
	Visible   *float64  `json:"visible"`
	State     string    `json:"state"`
	Direction string    `json:"direction"`
	Side      string    `json:"side"`
	VX        float64   `json:"vx"`
	Held      bool      `json:"held"`
	Carrying  bool      `json:"carrying"`
}

type question struct {
	T    float64 `json:"t"`
	Q    string  `json:"q"`
	A    string  `json:"a"`
	Kind string  `json:"kind"`
}

// cannotTell is the answer to what can't be seen, as truth files spell it.
const cannotTell = "<|cannot_tell|>"

var (
	splits     = []string{"test", "unseen", "idle", "ood"}
	eventKinds = []string{"enter", "leave", "stop", "start", "turn_back", "drop", "pick_up", "fall", "get_up",
		"gate_open", "gate_close", "lights_on", "lights_off"}
	askKinds = []string{"contains", "color", "direction", "count", "gate", "stopped", "moving", "drop", "pick_up", "fallen", "scene"}
	// heldOut are the colour and kind pairs that the embedded model's training never held.
	heldOut = []string{"green van", "purple car", "yellow bicycle", "orange person", "blue van", "white person", "red bicycle", "black car"}
)

// load reads every truth file of dir, sorted by name.
func load(dir string) ([]*clip, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("eval: list %s: %w", dir, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%w in %s", ErrNoClips, dir)
	}
	sort.Strings(names)
	clips := make([]*clip, 0, len(names))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("eval: read truth: %w", err)
		}
		c, err := parseClip(data)
		if err != nil {
			return nil, fmt.Errorf("eval: truth file %s: %w", name, err)
		}
		c.path = filepath.Join(dir, c.Video)
		if _, err := os.Stat(c.path); err != nil {
			return nil, fmt.Errorf("eval: truth file %s: its video is missing: %w", name, err)
		}
		clips = append(clips, c)
	}
	return clips, nil
}

// parseClip decodes and checks one truth file. A field it does not know is an
// error: a misspelt label must not pass for an absent one.
func parseClip(data []byte) (*clip, error) {
	c := &clip{Split: "test", SampleFPS: 4, Width: 640}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		var se *json.SyntaxError
		if errors.As(err, &se) {
			return nil, fmt.Errorf("line %d: %w", 1+bytes.Count(data[:min(int(se.Offset), len(data))], []byte("\n")), err)
		}
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return c, c.check()
}

func (c *clip) check() error {
	switch {
	case c.Format != 1:
		return fmt.Errorf("format is %d, this version reads format 1", c.Format)
	case c.Video == "" || c.Video != filepath.Base(c.Video) || c.Video == "." || c.Video == "..":
		return fmt.Errorf("video %q must be a file name in the same folder", c.Video)
	case !slices.Contains(splits, c.Split):
		return fmt.Errorf("split %q is none of %s", c.Split, strings.Join(splits, ", "))
	case !(c.Duration > 0 && c.Duration <= 86400):
		return fmt.Errorf("duration is %v seconds, want more than 0", c.Duration)
	case !(c.SampleFPS > 0) || !(c.Width > 0):
		return errors.New("sample_fps and width must be more than 0")
	}
	names := map[int]actorName{}
	for _, a := range c.Actors {
		if _, twice := names[a.ID]; twice || a.ID < 0 || a.Kind == "" {
			return fmt.Errorf("actors: id %d is negative, used twice or without a kind", a.ID)
		}
		names[a.ID] = a
	}
	inside := func(t float64) bool { return t >= 0 && t <= c.Duration }
	for i, e := range c.Events {
		_, known := names[e.Actor]
		scenes := strings.HasPrefix(e.Kind, "gate_") || strings.HasPrefix(e.Kind, "lights_")
		switch {
		case !inside(e.T):
			return fmt.Errorf("events[%d]: time %v is outside the clip", i, e.T)
		case !slices.Contains(eventKinds, e.Kind):
			return fmt.Errorf("events[%d]: kind %q is none of %s", i, e.Kind, strings.Join(eventKinds, ", "))
		case !scenes && !known:
			return fmt.Errorf("events[%d]: actor %d is not among the actors", i, e.Actor)
		case !oneOf(e.Direction, "", "left", "right"):
			return fmt.Errorf("events[%d]: direction %q is neither left nor right", i, e.Direction)
		}
	}
	sort.SliceStable(c.Events, func(i, j int) bool { return c.Events[i].T < c.Events[j].T })
	last := -1.0
	for i := range c.Frames {
		f := &c.Frames[i]
		if !inside(f.T) || f.T <= last {
			return fmt.Errorf("frames[%d]: time %v is outside the clip or not after the one before", i, f.T)
		}
		last = f.T
		for j := range f.Actors {
			if err := f.Actors[j].check(names); err != nil {
				return fmt.Errorf("frames[%d].actors[%d]: %w", i, j, err)
			}
		}
	}
	for i, q := range c.Ask {
		switch {
		case !inside(q.T):
			return fmt.Errorf("ask[%d]: time %v is outside the clip", i, q.T)
		case q.Q == "" || q.A == "":
			return fmt.Errorf("ask[%d]: needs a question and an answer", i)
		case q.Kind != "" && !slices.Contains(askKinds, q.Kind):
			return fmt.Errorf("ask[%d]: kind %q is none of %s", i, q.Kind, strings.Join(askKinds, ", "))
		}
	}
	for i, t := range c.Describe {
		if !inside(t) {
			return fmt.Errorf("describe_at[%d]: time %v is outside the clip", i, t)
		}
	}
	if len(c.Describe) > 0 && len(c.Frames) == 0 {
		return errors.New("describe_at needs frames: nothing says what is true then")
	}
	return nil
}

// check fills in the name's kind and colour, and 1 for a visibility not given.
func (a *actorTruth) check(names map[int]actorName) error {
	n, ok := names[a.ID]
	if !ok {
		return fmt.Errorf("id %d is not among the actors", a.ID)
	}
	if a.Kind == "" {
		a.Kind = n.Kind
	}
	if a.Color == "" {
		a.Color = n.Color
	}
	if a.Visible == nil {
		one := 1.0
		a.Visible = &one
	}
	switch {
	case a.Kind != n.Kind || a.Color != n.Color:
		return fmt.Errorf("id %d is a %s %s here and a %s %s among the actors", a.ID, a.Color, a.Kind, n.Color, n.Kind)
	case !(*a.Visible >= 0 && *a.Visible <= 1):
		return fmt.Errorf("visible %v is not between 0 and 1", *a.Visible)
	case !oneOf(a.State, "", "moving", "stopped", "fallen"):
		return fmt.Errorf("state %q is none of moving, stopped, fallen", a.State)
	case !oneOf(a.Direction, "", "left", "right"):
		return fmt.Errorf("direction %q is neither left nor right", a.Direction)
	case !oneOf(a.Side, "", "left", "middle", "right"):
		return fmt.Errorf("side %q is none of left, middle, right", a.Side)
	case len(a.Box) != 0 && len(a.Box) != 4:
		return fmt.Errorf("box has %d numbers, want x0, y0, x1, y1", len(a.Box))
	}
	return nil
}

func oneOf(s string, list ...string) bool { return slices.Contains(list, s) }

// label names an actor as the unseen list does: "green van".
func (a actorName) label() string { return a.Color + " " + a.Kind }
