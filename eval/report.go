package eval

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// Report holds the scores, in the order of docs/eval.md.
type Report struct {
	EventRecall         Score // of descriptions: what, colour, action, direction
	FalseClaims         Score // of all claims
	Temporal            Score
	TemporalReset       Score
	TemporalShuffled    Score
	YesNoAUROC          Score
	YesNoECE            Score
	ZeroShotUnseen      Score
	IdleChatter         Score
	OODFlagged          Score
	OODFalse            Score
	FramesPerSecond     Score // decoded and encoded, wall clock
	DescriptionMsP50    Score // milliseconds
	clips, left, silent int
	unreadable          int
	details             []detail
	compared            []row
}

type detail struct {
	name  string
	score Score
}

type row struct {
	key, aim string
	score    Score
}

func (r *Report) rows() []row {
	return []row{
		{"event_recall", ">= 0.95", r.EventRecall},
		{"false_claims", "<= 0.02", r.FalseClaims},
		{"temporal", ">= 0.97", r.Temporal},
		{"temporal_reset", "near chance", r.TemporalReset},
		{"temporal_shuffled", "near chance", r.TemporalShuffled},
		{"yesno_auroc", ">= 0.99", r.YesNoAUROC},
		{"yesno_ece", "<= 0.03", r.YesNoECE},
		{"zeroshot_unseen", ">= 0.90", r.ZeroShotUnseen},
		{"idle_chatter", "<= 0.01", r.IdleChatter},
		{"ood_flagged", ">= 0.95", r.OODFlagged},
		{"ood_false", "<= 0.02", r.OODFalse},
		{"frames_per_second", ">= 100", r.FramesPerSecond},
		{"description_ms_p50", "<= 150", r.DescriptionMsP50},
	}
}

// MarshalJSON writes one object, a key a score, each {value, n, low, high}; value
// and interval are null where the clips held nothing to count. Figures are
// rounded to six digits. With Options.Against there are six more.
func (r *Report) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, row := range append(r.rows(), r.compared...) {
		if i > 0 {
			b.WriteByte(',')
		}
		v := struct {
			Value *float64 `json:"value"`
			N     int      `json:"n"`
			Low   *float64 `json:"low"`
			High  *float64 `json:"high"`
		}{number(row.score.Value), row.score.N, number(row.score.Low), number(row.score.High)}
		data, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", row.key, data)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	v = math.Round(v*1e6) / 1e6
	return &v
}

// WriteTable writes the scores, their intervals and aims, and what they are made of.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "score\tvalue\t95 % interval\tn\taim\t")
	for _, row := range r.rows() {
		fmt.Fprintf(t, "%s\t%s\t%s to %s\t%d\t%s\t\n", row.key, show(row.score.Value), show(row.score.Low), show(row.score.High), row.score.N, row.aim)
	}
	fmt.Fprintln(t, "\t\t\t\t\t\nmade of\t\t\t\t\t")
	for _, d := range r.details {
		fmt.Fprintf(t, "  %s\t%s\t%s to %s\t%d\t\t\n", d.name, show(d.score.Value), show(d.score.Low), show(d.score.High), d.score.N)
	}
	if r.compared != nil {
		fmt.Fprintln(t, "\t\t\t\t\t\nagainst what was said before\t\t\t\t\t")
	}
	for _, row := range r.compared {
		fmt.Fprintf(t, "  %s\t%s\t%s to %s\t%d\t\t\n", row.key, show(row.score.Value), show(row.score.Low), show(row.score.High), row.score.N)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d clips; %d sentences could not be read (each counts as a false claim); %d open questions were not answered; %d questions too near an edge were left out\n",
		r.clips, r.unreadable, r.silent, r.left)
	return err
}

func show(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

func (s *scorer) report() *Report {
	r := &Report{
		EventRecall: s.recall.proportion(), FalseClaims: s.wrong.proportion(),
		Temporal: s.time[Normal].proportion(), TemporalReset: s.time[Reset].proportion(), TemporalShuffled: s.time[Shuffled].proportion(),
		ZeroShotUnseen: s.zero.proportion(), IdleChatter: s.chatter.proportion(),
		OODFlagged: s.flagged.proportion(), OODFalse: s.mistaken.proportion(),
		compared: s.against.rows(), clips: len(s.clips), left: s.edges, silent: s.abstained, unreadable: s.unreadable,
	}
	r.YesNoAUROC, r.YesNoECE = yesScores(s.yes)
	r.FramesPerSecond, r.DescriptionMsP50 = speedScores(s.times)
	for i, name := range []string{"descriptions", "changes", "answers to open questions"} {
		r.details = append(r.details, detail{"false claims in " + name, s.wrongIn[i].proportion()})
		if i == 0 {
			r.details = append(r.details, detail{"  of which relate two", s.related.proportion()})
		}
	}
	for _, mode := range []Mode{Normal, Reset, Shuffled} {
		for _, it := range []item{itemWay, itemStop, itemBox} {
			if t := s.timeOf[mode][it]; t != nil {
				r.details = append(r.details, detail{fmt.Sprintf("%s, %s", it, mode), t.proportion()})
			}
		}
	}
	right := tally{}
	for _, y := range s.yes {
		right.add(y.clip, y.p != 0.5 && (y.p > 0.5) == y.yes)
	}
	r.details = append(r.details,
		detail{"yes/no questions right", right.proportion()},
		detail{"open questions right", s.open.proportion()},
		detail{"events told by the narration", s.news.proportion()})
	return r
}
