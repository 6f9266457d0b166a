package pipeline

// trigger decides by novelty, with hysteresis, whether there is something to
// say. A novelty that reaches on is news, once: only when it has fallen below
// off is the next one news again. One that lies as far above on as off lies
// below it is news each time: that is no flutter, there something goes on.
type trigger struct {
	on, off float32
	spent   bool // what reached on was taken up, and the novelty not below off since
	news    bool // there is something to say
}

// rearmShare is off as a share of on, where the stream names none. Of the yard's
// frames all in which something moves or happens then lie above the band, so
// nothing is told later than without; and of what is asked of its idle clips,
// where noise lies about the threshold, three in eight fall away.
const rearmShare = 0.5

// newTrigger takes a stream's thresholds; 0 stands for the model's, and for
// rearmShare. A model without a measure of novelty always has news.
func newTrigger(on, off float64, m *Models) trigger {
	if m.NewMemory == nil || m.Info.SpeakAt <= 0 {
		return trigger{}
	}
	g := trigger{on: float32(on), off: float32(off)}
	if g.on <= 0 {
		g.on = m.Info.SpeakAt
	}
	if g.off <= 0 {
		g.off = rearmShare * g.on
	}
	g.off = min(g.off, g.on)
	return g
}

// see takes in the novelty of one frame.
func (g *trigger) see(novelty float32) {
	if novelty < g.off {
		g.spent = false
	}
	if novelty >= g.on && !g.spent || novelty*g.off >= g.on*g.on {
		g.news, g.spent = true, true
	}
}

// take tells whether there is something to say, which then counts as said.
func (g *trigger) take() bool {
	news := g.news
	g.news = false
	return news
}
