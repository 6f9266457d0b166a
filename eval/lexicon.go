package eval

import (
	"strconv"
	"strings"
)

// atomKind is the part a word or a fixed phrase plays in a sentence.
type atomKind int

const (
	aDet     atomKind = iota // a, the, another
	aNum                     // two, 2
	aNo                      // no, zero
	aColor                   // red
	aNoun                    // car, people, somebody
	aPron                    // it, they
	aWear                    // in, wearing: a coat's colour follows
	aWith                    // with: the same, or a box
	aCoat                    // coat
	aVerb                    // an action
	aTowards                 // past, towards, the same way as: behind a verb that moves, somebody follows
	aPasses                  // passes, approaches, follows: somebody follows
	aAux                     // is, has
	aTo                      // to the left
	aFrom                    // from the left
	aBare                    // left, right: a direction or, for left, a verb
	aSide                    // on the left
	aConj                    // and, while, a comma
	aRel                     // who, which
	aFill                    // there, now, in the yard: claims nothing
	aThere                   // there is, you can see
	aScene                   // the gate is open, it is raining, at night
	aEmpty                   // the yard is empty
	aQuiet                   // nothing new
)

type atom struct {
	kind     atomKind
	text     string
	noun     string // aNoun: the kind of thing
	plural   bool
	definite bool // aDet: the
	other    bool // aDet: another
	alone    bool // aNoun: needs no article (somebody)
	n        int  // aNum
	word     string
	action   string // aVerb, aTowards, aPasses
	manner   string // aVerb: walk, drive, ...
	scene    sceneClaim
}

// sceneClaim is something said of the whole picture: {"gate", "open"}.
type sceneClaim struct{ what, value string }

// lexicon maps a phrase (lower-case words, one space between) to its part.
type lexicon struct {
	phrase map[string]atom
	max    int // words in the longest phrase
}

// crates are told apart by what they hold, boxes need no colour.
var plain = map[string]bool{"box": true, "crate of apples": true, "crate of bananas": true, "crate of oranges": true}

// hypernyms may stand for any of their kinds. Such a claim can be true, but it
// is too vague to earn recall.
var hypernyms = map[string][]string{
	"vehicle": {"car", "van", "bicycle"},
	"animal":  {"dog"},
	"crate":   {"crate of apples", "crate of bananas", "crate of oranges"},
	"thing":   nil,
}

// kindWords are the words for each kind: singular, plural.
var kindWords = map[string][][2]string{
	"person":  {{"person", "people"}, {"person", "persons"}, {"pedestrian", "pedestrians"}, {"man", "men"}, {"woman", "women"}},
	"car":     {{"car", "cars"}, {"automobile", "automobiles"}},
	"van":     {{"van", "vans"}, {"delivery van", "delivery vans"}},
	"bicycle": {{"bicycle", "bicycles"}, {"bike", "bikes"}},
	"dog":     {{"dog", "dogs"}},
	"ball":    {{"ball", "balls"}},
	"box":     {{"box", "boxes"}, {"parcel", "parcels"}, {"package", "packages"}, {"carton", "cartons"}},
	"crate of apples": {{"crate of apples", "crates of apples"}, {"box of apples", "boxes of apples"}, {"apple", "apples"},
		{"apple crate", "apple crates"}},
	"crate of bananas": {{"crate of bananas", "crates of bananas"}, {"box of bananas", "boxes of bananas"}, {"banana", "bananas"},
		{"banana crate", "banana crates"}},
	"crate of oranges": {{"crate of oranges", "crates of oranges"}, {"box of oranges", "boxes of oranges"}, {"", "oranges"},
		{"orange crate", "orange crates"}},
	"vehicle": {{"vehicle", "vehicles"}},
	"animal":  {{"animal", "animals"}},
	"crate":   {{"crate", "crates"}, {"crate of fruit", "crates of fruit"}},
	"thing":   {},
}

// colors maps a colour word to the colour of the truth. The later ones are
// never true in the yard: they are known so that they can be wrong.
var colors = map[string]string{
	"red": "red", "blue": "blue", "green": "green", "yellow": "yellow", "white": "white", "black": "black",
	"orange": "orange", "purple": "purple", "violet": "purple", "brown": "brown",
	"grey": "grey", "gray": "grey", "pink": "pink", "silver": "silver", "gold": "gold", "beige": "beige",
}

// manners are the kinds that each way of moving can be said of; a kind that is
// not listed anywhere (a user's own) may move in any way.
var manners = map[string][]string{
	"walk":  {"person", "dog"},
	"run":   {"dog"},
	"drive": {"car", "van"},
	"ride":  {"bicycle"},
	"roll":  {"ball"},
}

var yardKinds = map[string]bool{"person": true, "car": true, "van": true, "bicycle": true, "dog": true, "ball": true, "box": true,
	"crate of apples": true, "crate of bananas": true, "crate of oranges": true}

// canMove tells whether a thing of the kind can be said to move in this manner.
func canMove(kind, manner string) bool {
	if manner == "" || !yardKinds[kind] {
		return true
	}
	return oneOf(kind, manners[manner]...)
}

var numbers = []string{"", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}

// places are where things may be said to be: neutral words for what the camera sees.
var places = []string{"yard", "picture", "scene", "frame", "image", "view"}

// newLexicon knows the yard's words and the given further kinds.
func newLexicon(kinds []string) *lexicon {
	l := &lexicon{phrase: map[string]atom{}}
	for kind, words := range kindWords {
		for _, w := range words {
			l.add(atom{kind: aNoun, noun: kind}, w[0])
			l.add(atom{kind: aNoun, noun: kind, plural: true}, w[1])
		}
	}
	for _, k := range kinds {
		k = strings.ToLower(k)
		if _, known := kindWords[k]; !known {
			l.add(atom{kind: aNoun, noun: k}, k)
			l.add(atom{kind: aNoun, noun: k, plural: true}, k+"s")
		}
	}
	l.add(atom{kind: aNoun, noun: "person", alone: true}, "somebody", "someone")
	for w, c := range colors {
		l.add(atom{kind: aColor, word: c}, w)
	}
	l.add(atom{kind: aDet}, "a", "an")
	l.add(atom{kind: aDet, definite: true}, "the", "this", "that")
	l.add(atom{kind: aDet, other: true}, "another", "the other", "a second", "one more")
	l.add(atom{kind: aPron}, "it", "he", "she", "they")
	for n := 1; n < len(numbers); n++ {
		l.add(atom{kind: aNum, n: n}, numbers[n], strconv.Itoa(n))
	}
	l.add(atom{kind: aNo}, "no", "zero", "0")
	l.add(atom{kind: aWear}, "in", "wearing", "dressed in")
	l.add(atom{kind: aWith}, "with")
	l.add(atom{kind: aCoat}, "coat", "coats", "jacket", "jackets")
	l.add(atom{kind: aAux}, "is", "are", "has", "have", "has been", "have been", "is now", "are now", "has just", "have just")
	l.add(atom{kind: aConj}, "and", ",", "while", "then", "and then")
	l.add(atom{kind: aRel}, "who", "which")
	l.add(atom{kind: aThere}, "there is", "there are", "you can see", "i see", "i can see", "we see", "we can see",
		"the picture shows", "the camera sees", "the camera shows")
	l.add(atom{kind: aFill}, "there", "here", "now", "currently")
	l.verbs()
	l.ways()
	l.scenes()
	return l
}

func (l *lexicon) add(a atom, phrases ...string) {
	for _, p := range phrases {
		if p == "" {
			continue
		}
		a.text = p
		l.phrase[p] = a
		l.max = max(l.max, 1+strings.Count(p, " "))
	}
}

// forms adds a verb: its base, third person, -ing form, and past forms.
func (l *lexicon) forms(action, manner string, phrases ...string) {
	l.add(atom{kind: aVerb, action: action, manner: manner}, phrases...)
}

func (l *lexicon) verbs() {
	for _, v := range []struct{ manner, forms string }{
		{"walk", "walk walks walking"}, {"run", "run runs running"}, {"drive", "drive drives driving"},
		{"ride", "ride rides riding"}, {"roll", "roll rolls rolling"},
		{"", "move moves moving"}, {"", "go goes going"}, {"", "travel travels travelling traveling"}, {"", "head heads heading"},
	} {
		f := strings.Fields(v.forms)
		l.forms("moving", v.manner, f...)
		// "starts to walk", "begins walking"
		for _, s := range []string{"start", "starts", "starting", "started", "begin", "begins", "began", "begun"} {
			l.forms("start", v.manner, s+" to "+f[0], s+" "+f[2])
		}
	}
	l.forms("start", "", "start", "starts", "starting", "started", "move off", "moves off", "moving off", "moved off",
		"set off", "sets off", "setting off")
	l.forms("enter", "", "enter", "enters", "entering", "entered", "come in", "comes in", "coming in", "came in",
		"arrive", "arrives", "arriving", "arrived", "appear", "appears", "appearing", "appeared", "comes into view", "come into view", "coming into view")
	l.forms("leave", "", "leave", "leaves", "leaving", "has left", "have left", "go away", "goes away", "going away",
		"disappear", "disappears", "disappearing", "disappeared")
	for action, verbs := range map[string]string{
		"past": "pass passes passing passed", "towards": "approach approaches approaching", "follow": "follow follows following",
	} {
		l.add(atom{kind: aPasses, action: action}, strings.Fields(verbs)...)
	}
	l.add(atom{kind: aTowards, action: "past"}, "past")
	l.add(atom{kind: aTowards, action: "towards"}, "towards", "toward")
	l.add(atom{kind: aTowards, action: "along"}, "the same way as", "in the same direction as")
	for _, p := range places {
		l.forms("enter", "", "enter the "+p, "enters the "+p, "entering the "+p, "entered the "+p, "comes into the "+p, "come into the "+p, "coming into the "+p)
		l.forms("leave", "", "leave the "+p, "leaves the "+p, "leaving the "+p, "has left the "+p, "have left the "+p)
	}
	l.forms("stop", "", "stop", "stops", "stopping", "stopped", "stops moving", "stopped moving", "comes to a stop", "come to a stop", "coming to a stop",
		"halt", "halts", "halting", "halted", "comes to a halt", "come to a halt")
	for _, t := range []string{"turn", "turns", "turning", "turned"} {
		l.forms("turn_back", "", t+" back", t+" around", t+" round")
	}
	l.forms("fall", "", "fall", "falls", "falling", "fell", "fallen", "fall down", "falls down", "falling down", "fell down", "fallen down",
		"falls over", "fall over", "falling over", "fell over", "fallen over")
	l.forms("get_up", "", "get up", "gets up", "getting up", "got up", "gets up again", "gets back up", "stands up", "stand up", "standing up", "stands up again",
		"stand up again", "stood up", "stood up again")
	l.forms("fallen", "", "lies on the ground", "lie on the ground", "lying on the ground", "lies on the floor", "lying on the floor", "is on the ground", "are on the ground")
	l.forms("standing", "", "stand", "stands", "standing", "stands still", "stand still", "standing still", "is still", "are still", "does not move", "do not move",
		"is not moving", "are not moving", "isn't moving", "aren't moving", "is parked", "are parked", "parked", "is stopped", "are stopped", "is stationary", "are stationary")
	for _, det := range []string{"a ", "the ", "its ", "his ", "her ", "their "} {
		for _, w := range kindWords["box"] {
			b := det + w[0]
			for _, v := range []string{"drop", "drops", "dropping", "dropped", "put down", "puts down", "putting down", "set down", "sets down", "setting down",
				"lay down", "lays down"} {
				l.forms("drop", "", v+" "+b)
				if v, ok := strings.CutSuffix(v, " down"); ok {
					l.forms("drop", "", v+" "+b+" down", v+" "+b+" on the ground")
				}
			}
			l.forms("drop", "", "leaves "+b, "leaves "+b+" behind", "has left "+b, "has left "+b+" behind")
			for _, v := range []string{"pick", "picks", "picking", "picked", "take", "takes", "taking", "took", "taken", "lift", "lifts", "lifting", "lifted"} {
				l.forms("pick_up", "", v+" up "+b, v+" "+b+" up")
			}
			for _, v := range []string{"carry", "carries", "carrying", "hold", "holds", "holding", "with"} {
				l.forms("carrying", "", v+" "+b)
			}
		}
	}
}

func (l *lexicon) ways() {
	for _, d := range []string{"left", "right"} {
		l.add(atom{kind: aTo, word: d}, "to the "+d, "towards the "+d, "toward the "+d, "to the "+d+" side", d+"wards", "back to the "+d, "off to the "+d)
		l.add(atom{kind: aFrom, word: d}, "from the "+d, "from the "+d+" side")
		l.add(atom{kind: aSide, word: d}, "on the "+d, "on the "+d+" side", "at the "+d, "on the "+d+" hand side", "in the "+d+" part")
		l.add(atom{kind: aBare, word: d}, d)
	}
	l.add(atom{kind: aFrom, word: "left right"}, "from left to right", "from the left to the right")
	l.add(atom{kind: aFrom, word: "right left"}, "from right to left", "from the right to the left")
	l.add(atom{kind: aSide, word: "middle"}, "in the middle", "in the center", "in the centre", "at the center", "at the centre", "near the middle")
	for _, p := range places {
		l.add(atom{kind: aFill}, "in the "+p, "in this "+p, "of the "+p)
	}
	l.add(atom{kind: aFill}, "in view")
}

func (l *lexicon) scenes() {
	say := func(what, value string, phrases ...string) {
		l.add(atom{kind: aScene, scene: sceneClaim{what, value}}, phrases...)
	}
	say("place", "street", "on the street", "in the street")
	say("place", "loading dock", "at the loading dock", "on the loading dock", "in the loading dock")
	say("light", "night", "it is night", "at night")
	say("light", "day", "it is day", "by day", "it is daytime")
	say("light", "dusk", "it is dusk", "at dusk")
	say("weather", "rain", "it is raining", "it rains", "in the rain", "rain is falling", "rain falls")
	say("weather", "snow", "it is snowing", "it snows", "in the snow", "snow is falling", "snow falls")
	say("weather", "fog", "it is foggy", "in the fog")
	say("gate", "open", "the gate is open")
	say("gate", "closed", "the gate is closed", "the gate is shut", "the gate is not open")
	say("event", "gate_open", "the gate opens", "the gate is opening", "the gate has opened", "a gate opens")
	say("event", "gate_close", "the gate closes", "the gate is closing", "the gate has closed", "the gate shuts", "a gate closes")
	for _, w := range []string{"the lights", "the lamps", "lights", "lamps"} {
		say("lamps", "on", w+" are on")
		say("lamps", "off", w+" are off")
		for _, v := range []string{"go", "come", "turn", "have gone", "have come", "are switched", "are turned"} {
			say("event", "lights_on", w+" "+v+" on")
			say("event", "lights_off", w+" "+v+" off", w+" "+v+" out")
		}
	}
	var empty []string
	for _, p := range append([]string{"street", "loading dock"}, places...) {
		empty = append(empty, "the "+p+" is empty", "there is nothing in the "+p, "there is nobody in the "+p)
	}
	l.add(atom{kind: aEmpty}, append(empty, "nobody is there", "no one is there", "nobody is here", "nothing is there", "there is nothing", "there is nobody",
		"there is no one", "nobody", "nothing", "nothing is seen")...)
	l.add(atom{kind: aQuiet}, "nothing new", "nothing changes", "nothing has changed", "nothing changed", "nothing happens", "nothing is happening",
		"nothing has happened", "nothing happened", "no change", "no changes", "nothing to report")
}

// words splits a text into sentences of lower-case words; commas are words.
// What is neither becomes a word that no phrase holds.
func words(text string) (sentences [][]string) {
	var cur []string
	var w strings.Builder
	word := func() {
		if w.Len() > 0 {
			cur = append(cur, w.String())
			w.Reset()
		}
	}
	end := func() {
		word()
		if len(cur) > 0 {
			sentences = append(sentences, cur)
			cur = nil
		}
	}
	for _, r := range strings.ToLower(text) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '\'':
			w.WriteRune(r)
		case r == '’':
			w.WriteByte('\'')
		case r == ' ' || r == '\t':
			word()
		case r == '.' || r == '!' || r == '?' || r == ';' || r == '\n' || r == '\r':
			end()
		default: // also the comma
			word()
			cur = append(cur, string(r))
		}
	}
	end()
	return sentences
}

// atoms reads one sentence into parts, the longest phrase first. It returns the
// first word that is in no phrase.
func (l *lexicon) atoms(sentence []string) (out []atom, unknown string) {
	for i := 0; i < len(sentence); {
		n := min(l.max, len(sentence)-i)
		for ; n > 0; n-- {
			if a, ok := l.phrase[strings.Join(sentence[i:i+n], " ")]; ok {
				out = append(out, a)
				break
			}
		}
		if n == 0 {
			return out, sentence[i]
		}
		i += n
	}
	return out, ""
}
