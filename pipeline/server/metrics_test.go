package server

import (
	"testing"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/internal/testmodel"
)

// What becomes of a public model's visual tokens shows in the metrics of the
// stream that leaves some out, and of no other.
func TestVisualTokensAreCounted(t *testing.T) {
	s, _, _, _ := start(t, func(c *configs.Config) {
		c.Model = testmodel.Unpack(t, "../../vlm/testdata/smolvlm-a.tar.gz")
		c.Streams[0].Gate, c.Streams[0].Rate = 0, 10
		all := c.Streams[0]
		all.Name, all.Reduce = "all", 1
		c.Streams[0].Reduce = 0.5
		c.Streams = append(c.Streams, all)
	})
	tokens := func() map[string]float64 {
		families, err := s.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			if f.GetName() != "lookout_visual_tokens_total" {
				continue
			}
			for _, m := range f.Metric {
				key := ""
				for _, l := range m.Label { // sorted by name: fate, stream
					key += l.GetValue() + " "
				}
				out[key] = m.Counter.GetValue()
			}
		}
		return out
	}
	reduced, other := s.manager.All()[0], s.manager.All()[1]
	waitFor(t, "frames on both", func() bool { return reduced.Snapshot().Visual.Merged > 0 && other.Snapshot().Looked > 1 })
	got := tokens()
	name := reduced.Config().Name
	if len(got) != 2 || got["kept "+name+" "] == 0 || got["merged "+name+" "] == 0 {
		t.Errorf("counted %v", got)
	}
	if v := other.Snapshot().Visual; v.Merged != 0 {
		t.Errorf("a stream that reads all counted %+v", v)
	}
}
