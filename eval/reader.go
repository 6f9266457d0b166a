package eval

import (
	"errors"
	"fmt"
	"strings"
)

// pred is one thing said of somebody: a claim.
type pred struct {
	action string // an event kind, moving, standing, fallen, carrying, past, towards, follow, along; "" says only that it is there
	manner string
	to     string // left, right
	side   string // left, middle, right
	other  named  // of past, towards, follow, along: whom
}

// named is what a noun says.
type named struct{ kind, color string }

// entity is somebody spoken of, with all that is said of it.
type entity struct {
	kind, color string
	preds       []pred
	group       *group // of those counted together
}

// group is a counted mention: "two red cars".
type group struct {
	n     int
	exact bool
}

// reading is all that a text claims.
type reading struct {
	entities []*entity
	scene    []sceneClaim
	absent   []named  // "there is no van"
	empty    int      // sentences that say nobody is there
	quiet    int      // sentences that say nothing is new
	bad      []string // sentences that could not be read, each with its reason
}

// read takes a text apart. A sentence with one word that it does not know, a
// hedge, or two ways that exclude each other is bad as a whole: it claims
// something, and nobody can hold it to anything.
func (l *lexicon) read(text string) *reading {
	r := &reading{}
	for _, s := range words(text) {
		before := *r
		before.entities = append([]*entity(nil), r.entities...)
		saved := make([][]pred, len(r.entities))
		for i, e := range r.entities {
			saved[i] = e.preds[:len(e.preds):len(e.preds)]
		}
		if err := l.sentence(r, s); err != nil {
			*r = before
			for i, e := range r.entities {
				e.preds = saved[i]
			}
			r.bad = append(r.bad, fmt.Sprintf("%q: %v", strings.Join(s, " "), err))
		}
	}
	for _, e := range r.entities {
		if len(e.preds) == 0 {
			e.preds = []pred{{}}
		}
		e.preds = distinct(e.preds)
	}
	return r
}

// maxEntities bounds what one text may name.
const maxEntities = 100

// parser walks over one sentence.
type parser struct {
	r     *reading
	atoms []atom
	i     int

	subject []*entity // whom the next words are about
	named   []*entity // whom the last noun named
	open    *pred     // what the next words tell more of; nil before the verb
	there   bool      // the clause began with "there is"
}

func (p *parser) peek(k int) atomKind {
	if p.i+k >= len(p.atoms) {
		return -1
	}
	return p.atoms[p.i+k].kind
}

func (l *lexicon) sentence(r *reading, s []string) error {
	atoms, unknown := l.atoms(s)
	if unknown != "" {
		return fmt.Errorf("%q is no word that can be checked", unknown)
	}
	p := &parser{r: r, atoms: atoms}
	said := len(r.scene) + len(r.absent)
	var joined bool // right after "and"
	for p.i < len(p.atoms) {
		a := p.atoms[p.i]
		switch a.kind {
		case aEmpty, aQuiet:
			// Alone, but for filling words: "nobody is there in the yard".
			for k, b := range p.atoms {
				if k != p.i && b.kind != aFill {
					return errors.New("says that nothing is there, and more")
				}
			}
			if a.kind == aEmpty {
				r.empty++
			} else {
				r.quiet++
			}
			return nil
		case aScene:
			p.i++
			r.scene = append(r.scene, a.scene)
		case aThere:
			p.i++
			p.there = true
			p.flush()
			p.subject = nil
			if p.peek(0) == aNo {
				if err := p.absent(); err != nil {
					return err
				}
				break
			}
			if !p.nounAhead() {
				return errors.New("names nothing")
			}
		case aDet, aNum, aColor, aNoun, aPron:
			if len(p.subject) > 0 && !joined {
				return fmt.Errorf("%q stands where nothing can be named", a.text)
			}
			es, err := p.noun()
			if err != nil {
				return err
			}
			if k := p.peek(0); p.open != nil && p.open.other.kind != "" && (k < 0 || k == aConj) { // "past a car and a van"
				return errors.New("is said of more than one")
			}
			if joined && p.open == nil { // "a car and a van drive"
				p.subject = append(p.subject[:len(p.subject):len(p.subject)], es...)
			} else {
				p.there = p.there && p.subject == nil
				p.flush()
				p.subject = es
			}
			p.named = es
		case aNo:
			return errors.New("denies something within a claim")
		case aConj:
			p.i++
			if p.peek(0) == aConj && p.atoms[p.i].text != a.text { // ", and"
				p.i++
			}
			if p.i == len(p.atoms) || p.i == 1 {
				return errors.New("is cut off")
			}
			joined = true
			continue
		case aRel:
			p.i++
			if len(p.subject) == 0 {
				return errors.New("has nobody to speak of")
			}
		case aFill:
			p.i++
		default:
			if err := p.predicate(joined); err != nil {
				return err
			}
		}
		joined = false
	}
	p.flush()
	if len(p.subject)+len(r.scene)+len(r.absent) == said {
		return errors.New("says nothing")
	}
	return nil
}

// flush ends the open predicate.
func (p *parser) flush() {
	if p.open != nil {
		for _, e := range p.subject {
			e.preds = append(e.preds, *p.open)
		}
	}
	p.open = nil
}

// start opens a predicate.
func (p *parser) start(action, manner string) {
	p.flush()
	if p.there && len(p.subject) > 1 { // "there is a van and a car driving": the car
		p.subject = p.named
	}
	p.open = &pred{action: action, manner: manner}
}

func (p *parser) nounAhead() bool {
	switch p.peek(0) {
	case aDet, aNum, aColor, aNoun, aPron:
		return true
	}
	return false
}

// predicate reads a verb, or what tells more of the last one.
func (p *parser) predicate(joined bool) error {
	a := p.atoms[p.i]
	p.i++
	if len(p.subject) == 0 {
		return fmt.Errorf("says %q of nobody", a.text)
	}
	switch a.kind {
	case aAux:
		switch p.peek(0) {
		case aVerb, aPasses:
			return nil
		case aSide, aFill, aScene: // "is on the left"
			p.start("", "")
			return nil
		}
		return fmt.Errorf("%q is not followed by anything that can be checked", a.text)
	case aVerb:
		p.start(a.action, a.manner)
		return nil
	case aTowards:
		if p.open == nil || oneOf(p.open.action, "", "standing", "fallen") {
			return fmt.Errorf("%q has no verb that moves", a.text)
		}
		if p.open.action == "moving" && p.open.to == "" && p.open.side == "" { // "walks past the car": one claim
			p.open.action = a.action
		} else {
			p.start(a.action, p.open.manner)
		}
		return p.whom(a.text)
	case aPasses:
		p.start(a.action, "")
		return p.whom(a.text)
	case aBare: // "drives left", or "left" as the past of leave
		if p.open == nil && a.word == "left" {
			p.start("leave", "")
			return nil
		}
		return p.way(a.text, a.word)
	case aTo:
		return p.way(a.text, a.word)
	case aFrom:
		return p.way(a.text, map[string]string{"left": "right", "right": "left", "left right": "right", "right left": "left"}[a.word])
	case aSide:
		if p.open != nil {
			return set(&p.open.side, a.word)
		}
		if joined { // "a van and on the left"
			return fmt.Errorf("%q is said of nobody", a.text)
		}
		for _, e := range p.named { // "a van on the left"
			e.preds = append(e.preds, pred{side: a.word})
		}
		return nil
	}
	return fmt.Errorf("%q stands where it can't be read", a.text)
}

// way adds a direction to the open verb.
func (p *parser) way(text, to string) error {
	if p.open == nil || oneOf(p.open.action, "", "standing", "fallen") {
		return fmt.Errorf("%q has no verb that moves", text)
	}
	return set(&p.open.to, to)
}

// whom reads past whom the open verb goes.
func (p *parser) whom(text string) error {
	if p.open.other.kind != "" {
		return fmt.Errorf("%q stands where nobody else can be named", text)
	}
	if p.peek(0) == aDet {
		p.i++
	}
	color, kind, plural, err := p.what()
	if err != nil {
		return fmt.Errorf("after %q: %w", text, err)
	}
	if plural {
		return fmt.Errorf("%q is said of more than one", text)
	}
	p.open.other = named{kind, color}
	return nil
}

// set fills a field that may be said once.
func set(field *string, v string) error {
	if *field != "" && *field != v {
		return fmt.Errorf("says both %s and %s", *field, v)
	}
	*field = v
	return nil
}

// absent reads "no red van" after "there is".
func (p *parser) absent() error {
	p.i++
	color, kind, _, err := p.what()
	if err != nil {
		return err
	}
	for ; p.i < len(p.atoms); p.i++ {
		if p.atoms[p.i].kind != aFill {
			return errors.New("denies more than can be checked")
		}
	}
	p.r.absent = append(p.r.absent, named{kind, color})
	return nil
}

// what reads [colour] kind [in a colour coat].
func (p *parser) what() (color, kind string, plural bool, err error) {
	if p.peek(0) == aColor {
		color = p.atoms[p.i].word
		p.i++
	}
	switch {
	case p.peek(0) == aNoun:
		kind, plural = p.atoms[p.i].noun, p.atoms[p.i].plural
		p.i++
	case color == "orange": // the fruit
		color, kind = "", "crate of oranges"
	default:
		return "", "", false, errors.New("names nothing that can be checked")
	}
	if k := p.peek(0); k == aWear || k == aWith {
		at := p.i
		p.i++
		if p.peek(0) == aDet {
			p.i++
		}
		if p.peek(0) != aColor {
			return "", "", false, fmt.Errorf("%q is not followed by a colour", p.atoms[at].text)
		}
		c := p.atoms[p.i].word
		p.i++
		coat := p.peek(0) == aCoat
		if coat {
			p.i++
		}
		if kind != "person" || k == aWith && !coat {
			return "", "", false, errors.New("only people wear coats")
		}
		if color != "" && color != c {
			return "", "", false, fmt.Errorf("says both %s and %s", color, c)
		}
		color = c
	}
	return color, kind, plural, nil
}

// noun reads whom or what a clause is about, and finds it among those spoken of
// before when "the" or a pronoun points back.
func (p *parser) noun() ([]*entity, error) {
	a := p.atoms[p.i]
	if a.kind == aPron {
		p.i++
		if len(p.r.entities) == 0 {
			return nil, fmt.Errorf("%q points at nobody", a.text)
		}
		last := p.r.entities[len(p.r.entities)-1]
		if a.text == "they" {
			var all []*entity
			for _, e := range p.r.entities {
				if e.group == last.group {
					all = append(all, e)
				}
			}
			return all, nil
		}
		return []*entity{last}, nil
	}
	g := &group{n: 1}
	var definite, other bool
	if a.kind == aDet {
		definite, other = a.definite, a.other
		p.i++
	}
	if p.peek(0) == aNum {
		g.n, g.exact = p.atoms[p.i].n, true
		p.i++
	}
	color, kind, plural, err := p.what()
	if err != nil {
		return nil, err
	}
	if plural && !g.exact {
		g.n = 2 // at least
	}
	if definite && !other {
		var back []*entity
		for i := len(p.r.entities) - 1; i >= 0; i-- {
			e := p.r.entities[i]
			if e.kind == kind && (color == "" || e.color == color) && (len(back) == 0 || e.group == back[0].group && plural) {
				back = append(back, e)
			}
		}
		if len(back) > 0 && (!plural || len(back) >= g.n) {
			return back, nil
		}
	}
	if len(p.r.entities)+g.n > maxEntities {
		return nil, errors.New("names more than can be counted")
	}
	out := make([]*entity, g.n)
	for i := range out {
		out[i] = &entity{kind: kind, color: color, group: g}
	}
	p.r.entities = append(p.r.entities, out...)
	return out, nil
}
