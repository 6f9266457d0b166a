package eval

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// The rules of what may be said and when, held by training too
// (train/yard/language.py), and how near to an edge both sides count as right.
const (
	recent = 2.0 // seconds that an event stays what its actor does in a description
	change = 1.0 // seconds that an event is news

	edge       = 0.35    // seconds around a change of state, or the end of a window
	mustSee    = 0.65    // from this share seen on, an actor must be spoken of
	maySee     = 0.35    // from this share on, it may be
	ahead      = 1.0 / 3 // of the picture's width: farther apart nobody follows another
	edgeOfSide = 0.025   // of the picture's width, around the lines between left, middle and right
)

// expectation is what an actor does at a moment: what a description must say.
type expectation struct{ action, to string }

// actorAt is what is true of one actor at a moment.
type actorAt struct {
	actorName
	visible float64
	must    bool // must be spoken of
	may     bool // may be spoken of
	near    []actorTruth
	sides   []string
	events  []int // indices of the clip's events in the window, edges included
	expect  []expectation
}

// moment is what is true at a time.
type moment struct {
	c      *clip
	t      float64
	actors []*actorAt
	near   []frame
	events []int // all of the clip's events in the window, edges included
}

// at gathers what is true at t, with the events of the last window seconds.
func (c *clip) at(t, window float64) *moment {
	m := &moment{c: c, t: t}
	now := -1
	for i, f := range c.Frames {
		if math.Abs(f.T-t) <= edge {
			m.near = append(m.near, f)
		}
		if now < 0 || math.Abs(f.T-t) < math.Abs(c.Frames[now].T-t) {
			now = i
		}
	}
	if now >= 0 && len(m.near) == 0 {
		m.near = c.Frames[now : now+1]
	}
	for i, e := range c.Events {
		if e.T > t-window-edge && e.T <= t+edge {
			m.events = append(m.events, i)
		}
	}
	for _, name := range c.Actors {
		a := &actorAt{actorName: name}
		held := false
		if now >= 0 {
			for _, x := range c.Frames[now].Actors {
				if x.ID == name.ID {
					a.visible, held = *x.Visible, x.Held
				}
			}
		}
		for _, f := range m.near {
			for _, x := range f.Actors {
				if x.ID == name.ID {
					a.near = append(a.near, x)
					held = held || x.Held
					a.sides = append(a.sides, c.sides(x)...)
				}
			}
		}
		a.may = a.visible >= maySee
		a.must = a.visible >= mustSee && !held
		for _, i := range m.events {
			if c.Events[i].Actor == name.ID && !isScene(c.Events[i].Kind) {
				a.events = append(a.events, i)
			}
		}
		a.expect = c.expect(a, t)
		m.actors = append(m.actors, a)
	}
	return m
}

func isScene(kind string) bool {
	return strings.HasPrefix(kind, "gate_") || strings.HasPrefix(kind, "lights_")
}

// sides are those that an actor may be said to be on.
func (c *clip) sides(x actorTruth) []string {
	if x.Held {
		return nil
	}
	out := []string{x.Side}
	if len(x.Box) == 4 {
		mid := (x.Box[0] + x.Box[2]) / 2 / c.Width
		if math.Abs(mid-1.0/3) <= edgeOfSide {
			out = append(out, "left", "middle")
		}
		if math.Abs(mid-2.0/3) <= edgeOfSide {
			out = append(out, "middle", "right")
		}
	}
	return out
}

// expect tells what a must be said to do: the last event of the last two
// seconds, else its state; both where it is too near an edge to tell.
func (c *clip) expect(a *actorAt, t float64) (out []expectation) {
	add := func(x expectation) {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	sure := -1.0 // time of the last event that is surely within
	for _, i := range a.events {
		if e := c.Events[i]; e.Kind != "leave" && e.T > t-recent+edge && e.T <= t-edge && e.T >= edge {
			sure = e.T
		}
	}
	for _, i := range a.events {
		e := c.Events[i]
		if e.Kind == "leave" || e.T <= t-recent-edge {
			continue
		}
		if sure < 0 || e.T >= sure-edge { // the last sure one, those too close to it to say which, and later ones
			x := expectation{action: e.Kind}
			if oneOf(e.Kind, "enter", "start", "turn_back") {
				x.to = e.Direction
			}
			add(x)
		}
	}
	if sure < 0 {
		for _, x := range a.near {
			switch {
			case x.State == "moving":
				add(expectation{"moving", x.Direction})
			case x.State == "stopped":
				add(expectation{action: "standing"})
			case x.State == "fallen":
				add(expectation{action: "fallen"})
			}
		}
	}
	return out
}

// matches tells whether e can be meant to be a.
func (e *entity) matches(a *actorAt, anyColor bool) bool {
	if e.kind != a.Kind && e.kind != "thing" && !slices.Contains(hypernyms[e.kind], a.Kind) {
		return false
	}
	return anyColor || e.color == "" || a.Color == "" || e.color == a.Color
}

// holds tells whether p is true of a, and which event it tells.
func (m *moment) holds(p pred, a *actorAt) (ok bool, event int) {
	side := func() bool {
		return p.side == "" || slices.Contains(a.sides, p.side) || slices.Contains(a.sides, "")
	}
	if !canMove(a.Kind, p.manner) {
		return false, -1
	}
	switch p.action {
	case "":
		return a.may && side(), -1
	case "carrying", "moving", "standing", "fallen":
		if !a.may || !side() {
			return false, -1
		}
		for _, x := range a.near {
			if x.Held {
				continue
			}
			switch {
			case p.action == "carrying" && x.Carrying,
				p.action == "standing" && oneOf(x.State, "stopped", ""),
				p.action == "fallen" && oneOf(x.State, "fallen", ""),
				p.action == "moving" && oneOf(x.State, "moving", "") && (p.to == "" || oneOf(x.Direction, p.to, "")):
				return true, -1
			}
		}
		return false, -1
	case "past", "towards", "follow", "along":
		return a.may && side() && m.relate(p, a), -1
	}
	if !a.may && p.action != "leave" {
		return false, -1
	}
	for _, i := range a.events {
		e := m.c.Events[i]
		if e.Kind != p.action {
			continue
		}
		to := p.heading()
		if to == "" || oneOf(e.Direction, to, "") || !oneOf(p.action, "enter", "leave", "start", "turn_back") && a.heads(to) {
			if oneOf(p.action, "enter", "leave") || side() {
				return true, i
			}
		}
	}
	return false, -1
}

// relate tells whether a moves past, towards, after or along with anybody that
// p's noun can mean. Where boxes or ways are not labelled, it is not held against anybody.
func (m *moment) relate(p pred, a *actorAt) bool {
	e := &entity{kind: p.other.kind, color: p.other.color}
	for _, b := range m.actors {
		if b == a || !b.may || !e.matches(b, false) {
			continue
		}
		for _, f := range m.near {
			x, y := f.actor(a.ID), f.actor(b.ID)
			if x == nil || y == nil || y.Held || !oneOf(x.State, "moving", "") {
				continue
			}
			if len(x.Box) == 0 || len(y.Box) == 0 || x.Direction == "" || m.c.relation(p.action, x, y) {
				return true
			}
		}
	}
	return false
}

func (f frame) actor(id int) *actorTruth {
	if i := slices.IndexFunc(f.Actors, func(x actorTruth) bool { return x.ID == id }); i >= 0 {
		return &f.Actors[i]
	}
	return nil
}

// relation tells it of one frame.
func (c *clip) relation(how string, a, b *actorTruth) bool {
	gap, past := b.Box[0]-a.Box[2], a.Box[0]-b.Box[2] // how far a has to go until it is beside b, and how far it has come since
	if a.Direction == "left" {
		gap, past = past, gap
	}
	gap, past = gap/c.Width, past/c.Width
	along := b.State == "moving" && b.Direction == a.Direction
	switch how {
	case "past":
		return !along && max(gap, past) < edgeOfSide
	case "towards":
		return !along && gap > -edgeOfSide
	case "along":
		return along
	}
	return along && gap > -edgeOfSide && gap < ahead
}

// heading is the way that a claim tells: "enters on the left" goes right.
func (p pred) heading() string {
	if p.to == "" && p.side != "" {
		switch p.action {
		case "leave":
			return p.side
		case "enter":
			return map[string]string{"left": "right", "right": "left", "middle": "nowhere"}[p.side]
		}
	}
	return p.to
}

func (a *actorAt) heads(to string) bool {
	return slices.ContainsFunc(a.near, func(x actorTruth) bool { return x.Direction == to })
}

// tells says whether e earns recall of a: what it is, its colour, what it does
// and which way, and nothing false.
func (m *moment) tells(e *entity, a *actorAt, anyColor bool) bool {
	if e.kind != a.Kind || !anyColor && a.Color != "" && !plain[a.Kind] && e.color != a.Color {
		return false
	}
	for _, p := range e.preds {
		if ok, _ := m.holds(p, a); !ok {
			return false
		}
	}
	if len(a.expect) == 0 {
		return true
	}
	for _, x := range a.expect {
		did := slices.ContainsFunc(e.preds, func(p pred) bool {
			return p.action == x.action || x.action == "standing" && p.action == "" && p.side != ""
		})
		way := x.to == "" || slices.ContainsFunc(e.preds, func(p pred) bool { return p.heading() == x.to })
		if did && way {
			return true
		}
	}
	return false
}

// verdict is what the judge finds in one text.
type verdict struct {
	claims  int
	wrong   []string     // one reason for each false claim
	related []bool       // of each claim that relates two: whether it is true
	told    map[int]bool // events told
	of      []*actorAt   // of each entity: whom it was found to speak of
	said    map[int]bool // actors recalled
}

// pair finds for each entity the actor it speaks of: the assignment with the
// most true claims, and among those the one with the most recall.
func (m *moment) pair(es []*entity, anyColor bool) []*actorAt {
	worth := make([][]int, len(es))
	for i, e := range es {
		worth[i] = make([]int, len(m.actors))
		for j, a := range m.actors {
			if !e.matches(a, anyColor) {
				continue
			}
			w := 1
			for _, p := range e.preds {
				if ok, _ := m.holds(p, a); ok {
					w += 1000
				}
			}
			if e.matches(a, false) {
				w += 300
			}
			if a.must && m.tells(e, a, anyColor) {
				w += 10
			}
			worth[i][j] = w
		}
	}
	out := make([]*actorAt, len(es))
	for i, j := range assign(worth) {
		if j >= 0 && worth[i][j] > 0 {
			out[i] = m.actors[j]
		}
	}
	return out
}

// judge holds a text against the moment.
func (m *moment) judge(r *reading) *verdict {
	v := &verdict{told: map[int]bool{}, said: map[int]bool{}}
	wrong := func(format string, args ...any) { v.wrong = append(v.wrong, fmt.Sprintf(format, args...)) }
	for _, why := range r.bad {
		v.claims++
		wrong("%s", why)
	}
	v.of = m.pair(r.entities, false)
	for i, e := range r.entities {
		a, counted := v.of[i], e.group == nil || m.counted(r, e)
		for _, p := range e.preds {
			v.claims++
			before := len(v.wrong)
			switch {
			case a == nil:
				wrong("%s: there is none, or not so many", e.say(p))
			case !counted:
				wrong("%s: not %d of them", e.say(p), e.group.n)
			default:
				if ok, event := m.holds(p, a); !ok {
					wrong("%s: not so", e.say(p))
				} else if event >= 0 {
					v.told[event] = true
				}
			}
			if p.other.kind != "" {
				v.related = append(v.related, len(v.wrong) == before)
			}
		}
		if a != nil && counted && a.must && m.tells(e, a, false) {
			v.said[a.ID] = true
		}
	}
	for _, s := range distinct(r.scene) {
		ok, known, event := m.scene(s)
		if !known {
			continue
		}
		v.claims++
		if !ok {
			wrong("%s %s: not so", s.what, s.value)
		} else if event >= 0 {
			v.told[event] = true
		}
	}
	someone := slices.ContainsFunc(m.actors, func(a *actorAt) bool { return a.must })
	if r.empty > 0 {
		v.claims++
		if someone {
			wrong("nobody is there: not so")
		}
	}
	// Denials are endless, so a true one is worth nothing; a false one is a false claim.
	for _, d := range distinct(r.absent) {
		e := &entity{kind: d.kind, color: d.color}
		if slices.ContainsFunc(m.actors, func(a *actorAt) bool { return a.must && e.matches(a, false) }) {
			v.claims++
			wrong("no %s: not so", strings.TrimSpace(d.color+" "+d.kind))
		}
	}
	return v
}

// counted tells whether a number said is the number there is: of those that all
// of what is said is true of.
func (m *moment) counted(r *reading, e *entity) bool {
	if !e.group.exact {
		return true
	}
	low, high := 0, 0
	for _, a := range m.actors {
		if !e.matches(a, false) {
			continue
		}
		all := true
		for _, p := range e.preds {
			ok, _ := m.holds(p, a)
			all = all && ok
		}
		if all && (a.may || slices.ContainsFunc(e.preds, func(p pred) bool { return p.action == "leave" })) {
			high++
			if a.must {
				low++
			}
		}
	}
	return low <= e.group.n && e.group.n <= high
}

// scene checks a claim about the whole picture; known is false when the truth
// does not hold it.
func (m *moment) scene(s sceneClaim) (ok, known bool, event int) {
	field := func(v string) (bool, bool, int) { return v == s.value, v != "", -1 }
	labelled := m.c.Scene != nil
	flag := func(get func(frame) *bool, yes string) (ok, known bool, event int) {
		for _, f := range m.near {
			if b := get(f); b != nil {
				known = true
				ok = ok || *b == (s.value == yes)
			}
		}
		return ok, known || labelled, -1
	}
	switch s.what {
	case "place", "light", "weather":
		if !labelled {
			return false, false, -1
		}
		switch s.what {
		case "place":
			return field(m.c.Scene.Place)
		case "light":
			return field(m.c.Scene.Light)
		}
		return field(m.c.Scene.Weather)
	case "gate":
		return flag(func(f frame) *bool { return f.Gate }, "open")
	case "lamps":
		return flag(func(f frame) *bool { return f.Lamps }, "on")
	}
	for _, i := range m.events {
		if m.c.Events[i].Kind == s.value {
			return true, true, i
		}
	}
	return false, true, -1
}

// tellable are the events of the window that a change narration may tell.
func (m *moment) tellable() (out []int) {
	for _, i := range m.events {
		e := m.c.Events[i]
		if isScene(e.Kind) || e.Kind == "leave" {
			out = append(out, i)
			continue
		}
		for _, a := range m.actors {
			if a.ID == e.Actor && a.may {
				out = append(out, i)
			}
		}
	}
	return out
}

// say spells a claim for the log.
func (e *entity) say(p pred) string {
	words := []string{e.color, e.kind, p.manner, p.action}
	if p.to != "" {
		words = append(words, "to the "+p.to)
	}
	if p.side != "" {
		words = append(words, "on side "+p.side)
	}
	words = append(words, p.other.color, p.other.kind)
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")
}

// distinct drops repetitions, and "is there" beside anything that says more.
func distinct[T comparable](list []T) []T {
	var zero T
	var out []T
	for _, x := range list {
		if (x != zero || len(list) == 1) && !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	if len(out) == 0 && len(list) > 0 {
		out = append(out, list[0])
	}
	return out
}

// assign gives each row its column (or -1) so that the sum of worth is largest
// (the Hungarian method, on costs padded to a square).
func assign(worth [][]int) []int {
	rows, cols := len(worth), 0
	if rows > 0 {
		cols = len(worth[0])
	}
	n := max(rows, cols)
	cost := func(i, j int) int {
		if i < rows && j < cols {
			return -worth[i][j]
		}
		return 0
	}
	u, v := make([]int, n+1), make([]int, n+1)
	match, way := make([]int, n+1), make([]int, n+1) // match[column] = row, both from 1
	for i := 1; i <= n; i++ {
		match[0] = i
		least, used := make([]int, n+1), make([]bool, n+1)
		for j := range least {
			least[j] = math.MaxInt
		}
		j0 := 0
		for match[j0] != 0 {
			used[j0] = true
			i0, delta, j1 := match[j0], math.MaxInt, 0
			for j := 1; j <= n; j++ {
				if used[j] {
					continue
				}
				if c := cost(i0-1, j-1) - u[i0] - v[j]; c < least[j] {
					least[j], way[j] = c, j0
				}
				if least[j] < delta {
					delta, j1 = least[j], j
				}
			}
			for j := 0; j <= n; j++ {
				if used[j] {
					u[match[j]] += delta
					v[j] -= delta
				} else if least[j] != math.MaxInt {
					least[j] -= delta
				}
			}
			j0 = j1
		}
		for j0 != 0 {
			match[j0] = match[way[j0]]
			j0 = way[j0]
		}
	}
	out := make([]int, rows)
	for i := range out {
		out[i] = -1
	}
	for j := 1; j <= n; j++ {
		if i := match[j] - 1; i < rows && j-1 < cols {
			out[i] = j - 1
		}
	}
	return out
}
