package llm

import (
	"math"
	"strings"
)

// doubts holds each sentence back until it is whole, and leaves it out when the
// model was not sure of it: a false alarm costs a listener more than news that
// comes with the next description.
type doubts struct {
	least    float64 // probability that a sentence must have; 0 lets all pass as it comes
	relation float64 // the same of one about two that were named before; 0: as any
	held     string
	log      float64 // log probability of what is held
	before   float64 // and of the sentences before it
	n        int     // sentences left out
}

// hear takes a token, what it adds to the text and the logits that it was picked
// from, and gives what may be told now.
func (d *doubts) hear(part string, id int, logits []float32) string {
	if d.least <= 0 {
		return part
	}
	d.log += logProb(logits, id)
	d.held += part
	if n := len(part); n == 0 || strings.IndexByte(".!?", part[n-1]) < 0 {
		return ""
	}
	return d.end("", false)
}

// end gives the rest, with which the text ends; in a circle it is a sentence
// that was told already.
func (d *doubts) end(part string, circle bool) string {
	text, log, least := d.held+part, d.log, d.least
	if d.relation > 0 && strings.HasPrefix(text, " The ") { // no surer than those that named them
		log, least = log+d.before, d.relation
	}
	if (d.least > 0 && circle || log < math.Log(least)) && strings.TrimSpace(text) != "" {
		text = ""
		d.n++
	}
	d.before += d.log
	d.held, d.log = "", 0
	return text
}

// logProb is the log of the probability that the logits give a token.
func logProb(logits []float32, id int) float64 {
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x - logits[id]))
	}
	return -math.Log(sum)
}
