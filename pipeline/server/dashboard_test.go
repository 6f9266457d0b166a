package server

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/webrtc"
)

// dashboard is what is tested of deploy/grafana.json.
type dashboard struct {
	Templating struct {
		List []struct{ Type, Query string }
	}
	Panels []struct {
		ID      int
		Title   string
		Targets []struct{ Expr, LegendFormat string }
	}
}

// exposed gives the labels of each metric of a running server.
func exposed(t *testing.T, s *Server) map[string]map[string]bool {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]bool{}
	for _, f := range families {
		labels := map[string]bool{}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels[l.GetName()] = true
			}
			for range m.GetSummary().GetQuantile() {
				labels["quantile"] = true
			}
		}
		out[f.GetName()] = labels
	}
	return out
}

var (
	labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// TestDashboard holds each query of the dashboard against what a running server
// with a viewer, a reader of its server-sent events, and a group in Redis gives
// to Prometheus.
func TestDashboard(t *testing.T) {
	r, err := redis.StartPrivate(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, b, c, _ := start(t, func(c *configs.Config) { c.Redis.URL = r.URL() })
	client, err := redis.Open(RedisConfig(c.Redis))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Redis().XGroupCreateMkStream(t.Context(), client.Config().AllKey(), "readers", "0").Err(); err != nil {
		t.Fatal(err)
	}
	sink, err := b.Publish(t.Context(), "phone", "vp8")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	viewer, err := webrtc.Subscribe(t.Context(), s.URL()+"/whep/yard", webrtc.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Close()
	sn := s.manager.All()[0]
	waitFor(t, "words and something skipped", func() bool {
		return len(sn.Snapshot().GlassToWord) > 0 && len(sn.Snapshot().Skipped) > 0 && exposed(t, s)["lookout_web_viewers"] != nil
	})
	known := exposed(t, s)
	// This one alone has no value until a browser publishes.
	known["lookout_web_publishers"] = map[string]bool{"stream": true}
	if len(known["lookout_redis_group_lag"]) != 2 {
		t.Errorf("the group's lag: %v", known["lookout_redis_group_lag"])
	}

	file, err := os.ReadFile("../../deploy/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(file, &d); err != nil {
		t.Fatal(err)
	}
	used, ids := map[string]bool{}, map[int]bool{}
	check := func(where, expr string, labels ...string) {
		t.Helper()
		e, err := metricsql.Parse(expr)
		if err != nil {
			t.Errorf("%s: %s: %v", where, expr, err)
			return
		}
		var names []string
		metricsql.VisitAll(e, func(e metricsql.Expr) {
			switch e := e.(type) {
			case *metricsql.MetricExpr:
				for _, group := range e.LabelFilterss {
					for _, l := range group {
						if l.Label == "__name__" {
							names = append(names, l.Value)
						} else {
							labels = append(labels, l.Label)
						}
					}
				}
			case *metricsql.AggrFuncExpr:
				labels = append(labels, e.Modifier.Args...)
			}
		})
		if len(names) == 0 {
			t.Errorf("%s: %s names no metric", where, expr)
		}
		for _, name := range names {
			used[name] = true
			if known[name] == nil {
				t.Errorf("%s: there is no metric %s", where, name)
				continue
			}
			for _, l := range labels {
				if !known[name][l] {
					t.Errorf("%s: %s has no label %s, but %v", where, name, l, slices.Sorted(maps.Keys(known[name])))
				}
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			m := labelValues.FindStringSubmatch(v.Query)
			if m == nil {
				t.Errorf("variable: %s", v.Query)
				continue
			}
			check("variable", m[1], m[2])
		}
	}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			var labels []string
			for _, m := range legendLabel.FindAllStringSubmatch(q.LegendFormat, -1) {
				labels = append(labels, m[1])
			}
			check(p.Title, q.Expr, labels...)
		}
	}
	for name := range known {
		if strings.HasPrefix(name, "lookout_") && !used[name] && name != "lookout_web_sessions_total" {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}
