package eval

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// cast describes one actor of a scene made for a test: it is so all the time.
type cast struct {
	kind, color, state, direction, side string
	visible                             float64
	held, carrying                      bool
	box                                 []float64
}

// scene makes a clip of six seconds in which nothing changes but the events.
func scene(t testing.TB, actors []cast, events ...happening) *clip {
	t.Helper()
	c := &clip{Format: 1, Video: "x.mp4", Split: "test", Duration: 6, SampleFPS: 4, Width: 640,
		Scene: &sceneTruth{Place: "yard", Light: "night", Weather: "rain", HasGate: true}, Events: events}
	for i, a := range actors {
		c.Actors = append(c.Actors, actorName{i, a.kind, a.color})
	}
	open, off := true, false
	for k := range 24 {
		f := frame{T: float64(k) / 4, Gate: &open, Lamps: &off}
		for i, a := range actors {
			v := a.visible
			if v == 0 {
				v = 1
			}
			f.Actors = append(f.Actors, actorTruth{ID: i, Visible: &v, State: a.state, Direction: a.direction, Side: a.side, Held: a.held, Carrying: a.carrying, Box: a.box})
		}
		c.Frames = append(c.Frames, f)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	return c
}

const ( // the yard of the tests, by id
	redWalker  = iota // walks to the right with a box
	redVan            // has stood on the left since long
	blueCar           // came in from the left a second ago
	blueWalker        // dropped a box a second ago, walks to the left
	box               // that one, in the middle
	dog               // black, turned back a second ago, now to the left
	apples            // on the right
	green             // fallen, since long
	ball              // half seen: may be told or not
	whiteCar          // hidden
)

func yard(t testing.TB) *clip {
	return scene(t, []cast{
		{kind: "person", color: "red", state: "moving", direction: "right", side: "middle", carrying: true},
		{kind: "van", color: "red", state: "stopped", side: "left"},
		{kind: "car", color: "blue", state: "moving", direction: "right", side: "left"},
		{kind: "person", color: "blue", state: "moving", direction: "left", side: "middle"},
		{kind: "box", color: "brown", state: "stopped", side: "middle"},
		{kind: "dog", color: "black", state: "moving", direction: "left", side: "right"},
		{kind: "crate of apples", color: "red", state: "stopped", side: "right"},
		{kind: "person", color: "green", state: "fallen", side: "right"},
		{kind: "ball", color: "yellow", state: "stopped", side: "left", visible: 0.5},
		{kind: "car", color: "white", state: "stopped", side: "right", visible: 0.2},
	},
		happening{2.0, "stop", redVan, ""}, happening{4.0, "enter", blueCar, "right"}, happening{4.0, "drop", blueWalker, "left"},
		happening{4.0, "turn_back", dog, "left"}, happening{4.5, "gate_open", -1, ""})
}

// All of these are said at 5 seconds. Each must be wholly true, and earn the recall named.
func TestTrueSentences(t *testing.T) {
	for text, said := range map[string][]int{
		"A person in a red coat walks to the right.":                              {redWalker},
		"A person in a red coat is walking to the right with a box.":              {redWalker},
		"A person in red walks right and carries a box.":                          {redWalker},
		"A person wearing a red jacket is moving from left to right.":             {redWalker},
		"A man in a red coat walks towards the right, carrying a box.":            {redWalker},
		"There is a person in a red coat walking to the right.":                   {redWalker},
		"A red van is on the left.":                                               {redVan},
		"A red van stands on the left.":                                           {redVan},
		"A red van is parked on the left side.":                                   {redVan},
		"There is a red van on the left.":                                         {redVan},
		"A red van stands still.":                                                 {redVan},
		"A red van is not moving.":                                                {redVan},
		"A blue car comes in from the left.":                                      {blueCar},
		"A blue car enters from the left.":                                        {blueCar},
		"A blue car has entered the picture on the left.":                         {blueCar},
		"A blue car comes in from the left and drives to the right.":              {blueCar},
		"A blue car comes in from the left. It drives to the right.":              {blueCar},
		"A blue car comes in from the left. The car drives to the right.":         {blueCar},
		"A person in a blue coat drops a box.":                                    {blueWalker},
		"A person in a blue coat puts a box down and walks to the left.":          {blueWalker},
		"A box stands in the middle.":                                             {box},
		"A brown box is in the middle.":                                           {box},
		"A black dog turns back and runs to the left.":                            {dog},
		"A black dog has turned back to the left.":                                {dog},
		"A crate of apples is on the right.":                                      {apples},
		"A person in a green coat lies on the ground.":                            {green},
		"A person in a red coat walks to the right and a red van is on the left.": {redWalker, redVan},
		"A person in a red coat walks to the right while a red van stands still.": {redWalker, redVan},
		"It is night and a red van is on the left.":                               {redVan},
		"A person in a red coat walks to the right in the rain.":                  {redWalker},
		"A red van is on the left; a box is in the middle.":                       {redVan, box},

		// True, and too vague for recall.
		"A person is there.":                         nil,
		"A person walks to the right.":               nil, // which?
		"A van is on the left.":                      nil, // no colour
		"There is a red van.":                        nil, // no action
		"A person in a red coat is moving.":          nil, // no direction
		"A blue car drives to the right.":            nil, // true, but it has just come in
		"A person in a blue coat walks to the left.": nil, // true, but has just dropped a box
		"A black dog turns back.":                    nil, // where to?
		"A red vehicle is on the left.":              nil,
		"There is a crate on the right.":             nil,
		"There are three people.":                    nil,
		"A yellow ball is on the left.":              nil, // half seen: allowed, not asked for
		"The gate is open.":                          nil,
		"The gate opens.":                            nil,
		"The lights are off.":                        nil,
		"It is raining.":                             nil,
		"There is no bicycle.":                       nil,
		"There is no blue van in the picture.":       nil,
	} {
		c := yard(t)
		v := c.at(5, recent).judge(newLexicon(nil).read(text))
		if len(v.wrong) > 0 {
			t.Errorf("%q is true, found false: %s", text, strings.Join(v.wrong, "; "))
		}
		got := slices.Sorted(maps.Keys(v.said))
		slices.Sort(said)
		if !slices.Equal(got, said) {
			t.Errorf("%q recalls %v, want %v", text, got, said)
		}
	}
}

// Each of these holds at least one false claim, and as many as are named.
func TestFalseSentences(t *testing.T) {
	for _, x := range []struct {
		text  string
		wrong int
	}{
		// One thing wrong.
		{"A blue van is on the left.", 1},
		{"A red car is on the left.", 1},
		{"A red van is on the right.", 1},
		{"A red van is in the middle.", 1},
		{"A red van drives to the left.", 1},
		{"A red van has stopped.", 1}, // three seconds ago
		{"A person in a red coat walks to the left.", 1},
		{"A person in a red coat stands in the middle.", 1},
		{"A person in a red coat runs to the right.", 1},
		{"A person in a red coat drops a box.", 1},
		{"A person in a red coat picks up a box.", 1},
		{"A person in a yellow coat walks to the right.", 1},
		{"A person in a blue coat walks to the left with a box.", 1},
		{"A person in a blue coat picks up a box.", 1},
		{"A person in a green coat falls.", 1}, // long ago
		{"A person in a green coat gets up.", 1},
		{"A person in a green coat walks to the right.", 1},
		{"A blue car comes in from the right.", 1},
		{"A blue car enters to the left.", 1},
		{"A blue car leaves to the right.", 1},
		{"A blue car has left.", 1},
		{"A blue car stops.", 1},
		{"A black dog runs to the right.", 1},
		{"A black dog turns back and runs to the right.", 1},
		{"A white dog turns back to the left.", 1},
		{"A red box is in the middle.", 1},
		{"A crate of bananas is on the right.", 1},
		{"An orange is on the right.", 1},
		{"A white car is on the right.", 1}, // hidden
		{"A bicycle is there.", 1},
		{"A van walks to the left.", 1},
		{"The gate is closed.", 1},
		{"The gate closes.", 1},
		{"The lights go on.", 1},
		{"The lights are on.", 1},
		{"It is day.", 1},
		{"It is snowing.", 1},
		{"A red van is on the street.", 1},
		{"The yard is empty.", 1},
		{"Nobody is there.", 1},
		{"There is nothing in the yard.", 1},
		{"There is no van.", 1},
		{"There are no people in the picture.", 1},

		// Counts.
		{"Two red vans are on the left.", 2},
		{"Two people are there.", 2}, // there are three
		{"There are four people.", 4},
		{"One person is there.", 1},
		{"There are two vans.", 2},
		{"There are cars.", 1}, // one is seen
		{"Apples are on the right.", 1},
		{"A red van is on the left. Another red van is on the left.", 1},

		// Twice of the same.
		{"A red van is on the left. A red van is on the left.", 1},
		{"A red van is on the left and a red van is on the left.", 1},
		{"A red van is on the left. A red van is on the left. A red van is on the left.", 2},
		{"A person in a red coat walks to the right. A person walks to the right.", 1},

		// Both ways.
		{"A red van is on the left and on the right.", 1},
		{"A red van is on the left and in the middle.", 1},
		{"A red van on the left is on the right.", 1},
		{"A person in a red coat walks to the left and to the right.", 1},
		{"A person in a red coat walks to the right. The person in a red coat walks to the left.", 1},
		{"A person in a red coat walks to the right. The person walks to the left. The person stands in the middle.", 2},
		{"A person in a red coat walks to the right and stands in the middle.", 1},
		{"A red van stands on the left and drives to the right and drives to the left.", 2},
		{"A blue car comes in from the left and comes in from the right.", 1},
		{"A person in a red and blue coat walks to the right.", 1},
		{"A red blue van is on the left.", 1},
		{"A red person in a blue coat drops a box.", 1},

		// All colours, all sides.
		{"A red van is on the left. A blue van is on the left. A green van is on the left. A white van is on the left.", 3},
		{"A red van, a blue van and a green van are on the left.", 2},

		// Hedges, denials, what can't be checked.
		{"Maybe a red van is on the left.", 1},
		{"A red van is probably on the left.", 1},
		{"A red or blue van is on the left.", 1},
		{"A red van or a blue van is on the left.", 1},
		{"A person in a red coat walks to the left or to the right.", 1},
		{"Either a red van is on the left or it is not.", 1},
		{"A red van might be on the left.", 1},
		{"There seems to be a red van on the left.", 1},
		{"A red van is not on the left.", 1},
		{"A red van isn't on the left.", 1},
		{"A person in a red coat does not walk to the right.", 1},
		{"A person in a red coat walks to the right without a box.", 1},
		{"No red van is on the right.", 1},
		{"A red van is somewhere.", 1},
		{"A red van is on the left or the right side.", 1},
		{"A reddish van is on the left.", 1},
		{"A red truck is on the left.", 1},
		{"A red van is on the left, waiting for its driver.", 1},
		{"A person in a red coat happily walks to the right.", 1},
		{"A person in a red coat walks quickly to the right.", 1},
		{"A person in a red coat, blue coat walks to the right.", 1},
		{"A person in a red coat walks to the right (or left).", 1},
		{"A red van is on the left/right.", 1},
		{"Something happens.", 1},
		{"The scene is lively.", 1},
		{"A cat sits there.", 1},
		{"Ein roter Transporter steht links.", 1},
		{"A red van is to the left of the box.", 1},
		{"The red van was on the right.", 1},
		{"A person in a red coat walks to the right and.", 1},
		{"walks to the right", 1},
		{"in the yard", 1},
		{"on the left", 1},
		{"It walks to the right.", 1},
		{"A person in a red coat walks a dog to the right.", 1},
		{"A person in a red coat walks to the right a blue car.", 1},
		{"Nobody walks to the right.", 1},
		{"There is no van and a red van is on the left.", 1},
		{"A red van is on the left \u0440.", 1},
		{"A black dog turns to the left.", 1}, // not the same as turning back
		{"A red van is gone.", 1},
	} {
		c := yard(t)
		v := c.at(5, recent).judge(newLexicon(nil).read(x.text))
		if len(v.wrong) != x.wrong {
			t.Errorf("%q: %d false claims (%s), want %d", x.text, len(v.wrong), strings.Join(v.wrong, "; "), x.wrong)
		}
		if v.claims < len(v.wrong) {
			t.Errorf("%q: %d claims of which %d are false", x.text, v.claims, len(v.wrong))
		}
	}
}

// What is said of two of them is true of their boxes and ways, or false.
func TestRelations(t *testing.T) {
	c := scene(t, []cast{
		{kind: "person", color: "red", state: "moving", direction: "right", side: "left", box: []float64{100, 100, 140, 200}},
		{kind: "van", color: "green", state: "stopped", side: "left", box: []float64{80, 100, 160, 200}},                       // beside the person
		{kind: "person", color: "blue", state: "stopped", side: "middle", box: []float64{220, 100, 260, 200}},                  // ahead of them
		{kind: "dog", color: "black", state: "moving", direction: "right", side: "middle", box: []float64{280, 150, 330, 200}}, // farther ahead, the same way
		{kind: "car", color: "white", state: "moving", direction: "left", side: "right", box: []float64{560, 100, 640, 160}},   // far away
		{kind: "ball", color: "yellow", state: "stopped", side: "left", box: []float64{20, 180, 40, 200}},                      // behind
		{kind: "box", color: "brown", state: "stopped", side: "left", held: true, box: []float64{130, 150, 150, 170}},          // in the person's hands
		{kind: "bicycle", color: "red", state: "stopped", side: "middle", visible: 0.2, box: []float64{200, 150, 230, 200}},    // hidden
	})
	for _, x := range []struct {
		text          string
		claims, wrong int
	}{
		{"The person in a red coat walks past the green van.", 1, 0},
		{"A person in a red coat is walking past a green van.", 1, 0},
		{"The person in a red coat passes the green van.", 1, 0},
		{"The person in a red coat is passing the van.", 1, 0},
		{"A person in a red coat walks to the right past the green van.", 2, 0},
		{"A person in a red coat walks to the right and approaches the person in a blue coat.", 2, 0},
		{"A person in a red coat walks towards the person in a blue coat.", 1, 0},
		{"The person in a red coat walks towards the white car.", 1, 0}, // far away, and coming
		{"The person in a red coat approaches the white car.", 1, 0},
		{"A person in a red coat follows the dog.", 1, 0},
		{"A person in a red coat walks the same way as the dog.", 1, 0},
		{"The dog is running in the same direction as the person in a red coat.", 1, 0},
		{"A person in a red coat walks to the right the same way as a black dog.", 2, 0},
		{"The person in a red coat is following a black dog.", 1, 0},
		{"A person in a red coat walks towards the right. The person in a red coat follows the black dog.", 2, 0},

		{"The green van passes the person in a red coat.", 1, 1}, // it stands
		{"The person in a red coat walks past the red van.", 1, 1},
		{"The person in a red coat walks past the green car.", 1, 1},
		{"The person in a blue coat walks past the green van.", 1, 1},
		{"The person in a red coat runs past the green van.", 1, 1},
		{"The person in a red coat walks to the left past the green van.", 2, 1},
		{"The green van drives past the dog.", 1, 1},
		{"The person in a red coat walks past the person in a blue coat.", 1, 1}, // not yet
		{"The person in a red coat walks past the dog.", 1, 1},
		{"The person in a red coat walks towards the green van.", 1, 1},   // beside it
		{"The person in a red coat walks towards the yellow ball.", 1, 1}, // behind
		{"The person in a red coat walks towards the black dog.", 1, 1},   // after it
		{"The white car follows the black dog.", 1, 1},                    // the other way
		{"The person in a red coat follows the person in a blue coat.", 1, 1},
		{"The dog follows the person in a red coat.", 1, 1},
		{"The dog runs the same way as the white car.", 1, 1},
		{"The dog runs the same way as the green van.", 1, 1}, // it stands
		{"The green van drives the same way as the dog.", 1, 1},
		{"The person in a red coat walks the same way.", 1, 1},
		{"The person in a blue coat stands the same way as the dog.", 1, 1},
		{"The dog runs towards the person in a red coat.", 1, 1},
		{"The person in a red coat walks towards the box.", 1, 1},     // carries it
		{"The person in a red coat walks towards the bicycle.", 1, 1}, // hidden
		{"The person in a red coat follows.", 1, 1},
		{"The person in a red coat stands past the van.", 1, 1},
		{"The person in a red coat walks past the van the dog.", 1, 1},
		{"The person in a red coat walks past the van and the dog.", 1, 1},
		{"The person in a red coat walks past the van and the dog runs to the right.", 2, 0},
		{"The person in a red coat passes the green van towards the dog.", 2, 1},
		{"The person in a red coat walks past people.", 1, 1},
	} {
		v := c.at(3, recent).judge(newLexicon(nil).read(x.text))
		if v.claims != x.claims || len(v.wrong) != x.wrong {
			t.Errorf("%q: %d of %d claims false (%s), want %d of %d", x.text, len(v.wrong), v.claims, strings.Join(v.wrong, "; "), x.wrong, x.claims)
		}
	}
	if v := c.at(3, recent).judge(newLexicon(nil).read("A dog runs to the right. The dog passes the ball. A person in a red coat walks towards the white car.")); fmt.Sprint(v.related) != "[false true]" {
		t.Errorf("of two claims that relate two the second is true: %v", v.related)
	}
	if v := yard(t).at(5, recent).judge(newLexicon(nil).read("The person in a red coat walks past the red van.")); len(v.wrong) > 0 {
		t.Errorf("no box is labelled, yet it is held against the text: %v", v.wrong)
	}
	bare := scene(t, []cast{{kind: "dog", color: "black", state: "moving", box: []float64{400, 0, 440, 40}}, {kind: "van", color: "red", state: "stopped", box: []float64{300, 0, 380, 40}}})
	if v := bare.at(3, recent).judge(newLexicon(nil).read("The dog runs towards the red van.")); len(v.wrong) > 0 {
		t.Errorf("the dog's way is not labelled, yet it is held against the text: %v", v.wrong)
	}
	if v := c.at(3, recent).judge(newLexicon(nil).read("The person in a red coat walks past the green van.")); len(v.said) > 0 {
		t.Errorf("a relation says where nobody is, and which way nobody goes, but earns recall of %v", v.said)
	}
}

// A sentence with something false in it must not earn recall by its other half.
func TestFalseClaimsEarnNoRecall(t *testing.T) {
	for _, text := range []string{
		"A red van is on the left and drives to the right.",
		"A red van is on the left. It is on the right.",
		"A red van is on the left or a dog runs.",
		"A red van on the left has stopped.",
		"Two red vans are on the left.",
		"A blue or red van is on the left.",
		"A van is on the left. A van is on the left.",
	} {
		if v := yard(t).at(5, recent).judge(newLexicon(nil).read(text)); v.said[redVan] {
			t.Errorf("%q earns recall", text)
		}
	}
}

// Neither padding with denials nor saying the same thing again makes the share
// of false claims smaller.
func TestPaddingCountsNothing(t *testing.T) {
	l := newLexicon(nil)
	m := yard(t).at(5, recent)
	base := m.judge(l.read("A red van is on the right. A box is in the middle."))
	for _, pad := range []string{
		" There is no bicycle. There is no crate of bananas. There are no green cars.",
		" The box is in the middle. It is in the middle. The box is there.",
	} {
		v := m.judge(l.read("A red van is on the right. A box is in the middle." + pad))
		if v.claims != base.claims || len(v.wrong) != len(base.wrong) {
			t.Errorf("%q: %d of %d false, want %d of %d", pad, len(v.wrong), v.claims, len(base.wrong), base.claims)
		}
	}
	if v := m.judge(l.read("It is night. It is night. The gate is open. It is night.")); v.claims != 2 {
		t.Errorf("the scene said four times counts %d claims, want 2", v.claims)
	}
}

// Of two people in red coats, each sentence is meant for the one it is true of.
func TestSentencesFindTheirActors(t *testing.T) {
	two := []cast{
		{kind: "person", color: "red", state: "moving", direction: "left", side: "left"},
		{kind: "person", color: "red", state: "moving", direction: "right", side: "right"},
	}
	for _, x := range []struct {
		text  string
		wrong int
		said  []int
	}{
		{"A person in a red coat walks to the right. A person in a red coat walks to the left.", 0, []int{0, 1}},
		{"A person in a red coat walks to the left. Another person in a red coat walks to the right.", 0, []int{0, 1}},
		{"A person in a red coat walks to the right.", 0, []int{1}},
		{"A person in a red coat walks to the right. The person walks to the left.", 1, nil},
		{"A person in a red coat walks to the right. A person in a red coat walks to the right.", 1, []int{1}},
		{"Two people in red coats are there.", 0, nil},
		{"Two people in red coats walk to the left.", 2, nil},
		{"Two people walk. One person walks to the left.", 1, nil},
		{"A person in a red coat walks to the left. A person in a red coat walks to the right. A person in a red coat stands on the left.", 1, []int{0, 1}},
		{"A person in a red coat and a person in a red coat are moving.", 0, nil},
		{"A person in a red coat on the left walks to the left and a person in a red coat on the right walks to the right.", 0, []int{0, 1}},
		{"A person in a red coat on the right walks to the left.", 1, nil},
	} {
		v := scene(t, two).at(5, recent).judge(newLexicon(nil).read(x.text))
		if got := slices.Sorted(maps.Keys(v.said)); len(v.wrong) != x.wrong || !slices.Equal(got, x.said) {
			t.Errorf("%q: false %d (%v), recalled %v; want %d, %v", x.text, len(v.wrong), v.wrong, got, x.wrong, x.said)
		}
	}
}

// An event is told for two seconds in a description and for one as news, give
// or take a third of a second.
func TestEdgesOfTime(t *testing.T) {
	c := scene(t, []cast{{kind: "van", color: "red", state: "stopped", side: "left"}}, happening{2, "stop", 0, ""})
	l := newLexicon(nil)
	for _, x := range []struct {
		t, window float64
		text      string
		ok, said  bool
	}{
		{1.5, recent, "A red van has stopped.", false, false},
		{1.75, recent, "A red van has stopped.", true, true}, // either, at the edge
		{1.75, recent, "A red van is on the left.", true, true},
		{2.0, recent, "A red van has stopped.", true, true},
		{3.0, recent, "A red van has stopped.", true, true},
		{3.0, recent, "A red van is on the left.", true, false}, // true, but it is not what happened
		{3.75, recent, "A red van has stopped.", true, true},
		{3.75, recent, "A red van is on the left.", true, true},
		{4.25, recent, "A red van has stopped.", true, true},
		{4.5, recent, "A red van has stopped.", false, false},
		{4.5, recent, "A red van is on the left.", true, true},
		{3.0, change, "A red van has stopped.", true, true},
		{3.25, change, "A red van has stopped.", true, true},
		{3.5, change, "A red van has stopped.", false, false},
	} {
		v := c.at(x.t, x.window).judge(l.read(x.text))
		if ok := len(v.wrong) == 0; ok != x.ok || x.window == recent && v.said[0] != x.said {
			t.Errorf("at %v of %v s, %q: true %v, recalled %v; want %v, %v", x.t, x.window, x.text, ok, v.said[0], x.ok, x.said)
		}
	}
}

// Of two events the last one is what must be told; where it stopped counts too.
func TestLastEventCounts(t *testing.T) {
	c := scene(t, []cast{
		{kind: "van", color: "red", state: "stopped", side: "left"},
		{kind: "car", color: "blue", state: "stopped", side: "left", visible: 0.2},
	}, happening{3.6, "enter", 0, "right"}, happening{4.3, "stop", 0, "right"}, happening{4.3, "stop", 1, ""})
	l := newLexicon(nil)
	for _, x := range []struct {
		text  string
		wrong int
		said  bool
	}{
		{"A red van has stopped.", 0, true},
		{"A red van has stopped on the left.", 0, true},
		{"A red van has stopped on the right.", 1, false},
		{"A red van comes in from the left.", 0, false},
		{"A red van comes in from the left and stops.", 0, true},
		{"A blue car has stopped.", 1, false}, // hidden
	} {
		v := c.at(5, recent).judge(l.read(x.text))
		if len(v.wrong) != x.wrong || v.said[0] != x.said {
			t.Errorf("%q: false %v, recalled %v; want %d, %v", x.text, v.wrong, v.said[0], x.wrong, x.said)
		}
	}
}

// A sentence true of two is meant for the one that must be told.
func TestRecallBreaksTies(t *testing.T) {
	half := cast{kind: "van", color: "red", state: "stopped", side: "left", visible: 0.5}
	whole := half
	whole.visible = 1
	for at := range 3 {
		actors := []cast{half, half, half}
		actors[at] = whole
		v := scene(t, actors).at(5, recent).judge(newLexicon(nil).read("A red van is on the left."))
		if !v.said[at] || len(v.wrong) != 0 {
			t.Errorf("whole one at %d: recalled %v, false %v", at, v.said, v.wrong)
		}
	}
}

func TestProbability(t *testing.T) {
	for _, x := range []struct {
		a    Answer
		want float64
	}{
		{Answer{Text: "yes", HasYes: true, YesProb: 0.7}, 0.7},
		{Answer{HasYes: true, YesProb: 1.2}, 1},
		{Answer{Text: "Yes, it is."}, 1},
		{Answer{Text: "no"}, 0},
		{Answer{Text: "perhaps"}, 0.5},
		{Answer{}, 0.5},
		{Answer{Text: "yes", CannotTell: true}, 0.5},
	} {
		if got := x.a.probability(); got != x.want {
			t.Errorf("%+v: %v, want %v", x.a, got, x.want)
		}
	}
}

// What left a second ago may be told, what is in somebody's arms stands nowhere.
func TestGoneAndHeld(t *testing.T) {
	c := scene(t, []cast{
		{kind: "van", color: "red", state: "stopped", side: "right", visible: 0.01},
		{kind: "person", color: "blue", state: "moving", direction: "left", side: "left", carrying: true},
		{kind: "box", color: "brown", state: "stopped", side: "left", held: true},
	}, happening{4.2, "leave", 0, "right"})
	l := newLexicon(nil)
	for text, wrong := range map[string]int{
		"A red van leaves to the right.":      0,
		"A red van has left to the right.":    0,
		"A red van leaves to the left.":       1,
		"A red van is on the right.":          1,
		"A box is on the left.":               1,
		"A box stands still.":                 1,
		"There is a box.":                     0,
		"A person in a blue coat has a box.":  1, // not a word of the table: strict
		"A person in a blue coat holds a box": 0,
	} {
		v := c.at(5, recent).judge(l.read(text))
		if len(v.wrong) != wrong {
			t.Errorf("%q: %v, want %d false", text, v.wrong, wrong)
		}
		if v.said[2] {
			t.Errorf("%q recalls a box that is carried", text)
		}
	}
}

// A label that is not there is neither asked for nor held against anybody.
func TestMissingLabels(t *testing.T) {
	c := scene(t, []cast{{kind: "horse", state: "moving"}, {kind: "person"}})
	c.Scene = nil
	for i := range c.Frames {
		c.Frames[i].Gate = nil
	}
	v := c.at(5, recent).judge(newLexicon([]string{"horse"}).read("A brown horse walks to the left. A person in a red coat stands on the left. It is night. The gate is open."))
	if len(v.wrong) != 0 || !v.said[0] || !v.said[1] {
		t.Errorf("false %v, recalled %v", v.wrong, v.said)
	}
}

func TestAnswers(t *testing.T) {
	l := newLexicon(nil)
	for _, x := range []struct {
		kind, truth, said string
		right             bool
	}{
		{"color", "red", "red", true},
		{"color", "red", "It is red.", true},
		{"color", "red", "the van is red", true},
		{"color", "red", "blue", false},
		{"color", "red", "red or blue", false},
		{"color", "red", "red and blue", false},
		{"color", "red", "red. blue.", false},
		{"color", "blue", "red blue", false},
		{"color", "red", "not red", false},
		{"color", "red", "reddish", false},
		{"color", "red", "", false},
		{"direction", "to the left", "to the left", true},
		{"direction", "to the left", "left", true},
		{"direction", "to the left", "it is moving to the left", true},
		{"direction", "to the left", "to the right", false},
		{"direction", "to the left", "from the left", false},
		{"direction", "to the left", "left or right", false},
		{"direction", "to the left", "to the left and to the right", false},
		{"direction", "to the left", "nowhere", false},
		{"direction", "it is not moving", "it is not moving", true},
		{"direction", "it is not moving", "nowhere", true},
		{"direction", "nowhere", "it is not moving", true},
		{"direction", "nowhere", "to the left", false},
		{"count", "two", "two", true},
		{"count", "two", "2", true},
		{"count", "two", "there are two cars", true},
		{"count", "two", "three", false},
		{"count", "two", "two or three", false},
		{"count", "two", "at least two", false},
		{"count", "two", "some", false},
		{"count", "none", "none", true},
		{"count", "none", "0", true},
		{"count", "none", "one", false},
		{"", "a bus stop", "A bus stop.", true},
		{"", "a bus stop", "a stop", false},
	} {
		if got := l.rightAnswer(question{A: x.truth, Kind: x.kind}, x.said); got != x.right {
			t.Errorf("%s: %q for %q: right %v, want %v", x.kind, x.said, x.truth, got, x.right)
		}
	}
}

func TestQuestionsAtAnEdge(t *testing.T) {
	c := scene(t, []cast{
		{kind: "van", color: "red", state: "moving", direction: "left", side: "left"},
		{kind: "ball", color: "blue", state: "stopped", side: "left", visible: 0.5},
		{kind: "car", color: "white", state: "stopped", side: "left", visible: 0.2},
	}, happening{2, "start", 0, "left"}, happening{2, "drop", 0, ""}, happening{2, "gate_open", -1, ""})
	l := newLexicon(nil)
	for _, x := range []struct {
		t    float64
		kind string
		q    string
		at   bool
	}{
		{5, "contains", "is there a red van?", false},
		{5, "contains", "is there a ball?", true},
		{5, "contains", "is there a blue ball?", true},
		{5, "contains", "is there a green ball?", false},
		{5, "contains", "is there a white car?", false},
		{5, "count", "how many balls are there?", true},
		{5, "count", "how many vans do you see?", false},
		{2.25, "stopped", "has the van stopped?", true},
		{3, "stopped", "has the van stopped?", false},
		{4, "stopped", "has the van stopped?", true},
		{2.25, "gate", "is the gate open?", true},
		{3, "gate", "is the gate open?", false},
		{3, "drop", "did somebody drop a box?", false},
		{5.75, "drop", "did somebody drop a box?", true},
		{3, "color", "what colour is the ball?", true},
		{3, "direction", "which way is the van going?", false},
		{3, "scene", "is it raining?", false},
	} {
		if got := c.atEdge(l, question{T: x.t, Kind: x.kind, Q: x.q}); got != x.at {
			t.Errorf("%q at %v: at an edge %v, want %v", x.q, x.t, got, x.at)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"A red van is on the left.", "Two people in red coats and a dog walk to the left, carrying a box; it stops", "there is no van", ", and", "an orange", "a person with a"} {
		f.Add(s)
	}
	l := newLexicon(nil)
	m := yard(f).at(5, recent)
	f.Fuzz(func(t *testing.T, text string) {
		r := l.read(text)
		v := m.judge(r)
		if len(v.wrong) > v.claims {
			t.Fatalf("%d of %d claims false", len(v.wrong), v.claims)
		}
		// Never silently ignored: a text with a sentence says something.
		n := len(r.entities) + len(r.scene) + len(r.absent) + r.empty + r.quiet + len(r.bad)
		if n == 0 && len(words(text)) > 0 {
			t.Fatalf("%q was read as nothing", text)
		}
	})
}
