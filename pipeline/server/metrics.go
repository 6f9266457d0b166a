package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lookout-video/lookout/pipeline"
)

// metrics gives the streams' and outboxes' figures to Prometheus at each scrape.
type metrics struct{ s *Server }

var (
	perStream = []string{"stream"}

	descDecoded   = prometheus.NewDesc("lookout_frames_decoded_total", "Frames that were decoded.", perStream, nil)
	descUndecoded = prometheus.NewDesc("lookout_frames_undecoded_total", "Frames of a still scene that were known to be as those before.", perStream, nil)
	descErrors    = prometheus.NewDesc("lookout_decode_errors_total", "Packets that the decoder refused.", perStream, nil)
	descReconnect = prometheus.NewDesc("lookout_reconnects_total", "Times that a lost source came back.", perStream, nil)
	descLooked    = prometheus.NewDesc("lookout_frames_looked_total", "Frames that were looked at.", perStream, nil)
	descEncoded   = prometheus.NewDesc("lookout_frames_encoded_total", "Frames that went through the visual encoder.", perStream, nil)
	descSkipped   = prometheus.NewDesc("lookout_skipped_total", "Frames and utterances that nothing was spent on.", []string{"stream", "reason"}, nil)
	descVisual    = prometheus.NewDesc("lookout_visual_tokens_total", "Visual tokens of a public model with reduce, of frames before the newest: kept in the window, or merged with the next frame's.", []string{"stream", "fate"}, nil)
	descWords     = prometheus.NewDesc("lookout_words_total", "Words said.", perStream, nil)
	descEvents    = prometheus.NewDesc("lookout_events_total", "Events published.", perStream, nil)
	descFailures  = prometheus.NewDesc("lookout_errors_total", "Frames that a failure cost, and events that are not durable.", perStream, nil)
	descGlass     = prometheus.NewDesc("lookout_glass_to_word_seconds", "From capture to the first word, of the newest answers.", perStream, nil)
	descLive      = prometheus.NewDesc("lookout_stream_live", "1 while the source gives pictures.", perStream, nil)
	descDegraded  = prometheus.NewDesc("lookout_stream_degraded", "1 while the stream gives way under load.", perStream, nil)

	perSink       = []string{"sink"}
	descPending   = prometheus.NewDesc("lookout_outbox_pending", "Events that wait for a sink.", perSink, nil)
	descOldest    = prometheus.NewDesc("lookout_outbox_oldest_seconds", "How long the oldest of them has waited.", perSink, nil)
	descDelivered = prometheus.NewDesc("lookout_outbox_delivered_total", "Events that a sink took.", perSink, nil)
	descLost      = prometheus.NewDesc("lookout_outbox_lost_total", "Events that a full outbox dropped, or that a sink refused.", perSink, nil)

	perGroup         = []string{"stream", "group"}
	descGroupLag     = prometheus.NewDesc("lookout_redis_group_lag", "Events that a consumer group has not been handed yet; stream * is that of all cameras.", perGroup, nil)
	descGroupPending = prometheus.NewDesc("lookout_redis_group_pending", "Events that a consumer group was handed and has not acknowledged.", perGroup, nil)
)

// lagTimeout bounds what a scrape waits for Redis.
const lagTimeout = time.Second

// Describe sends nothing: the set of streams changes at run time.
func (metrics) Describe(chan<- *prometheus.Desc) {}

func (m metrics) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, s := range m.s.manager.All() {
		sn := s.Snapshot()
		count(descDecoded, sn.Counters.Decoded, sn.Name)
		count(descUndecoded, sn.Counters.Undecoded, sn.Name)
		count(descErrors, sn.Counters.DecodeErrors, sn.Name)
		count(descReconnect, sn.Counters.Reconnects, sn.Name)
		count(descLooked, sn.Looked, sn.Name)
		count(descEncoded, sn.Encoded, sn.Name)
		count(descWords, sn.Words, sn.Name)
		count(descEvents, sn.Events, sn.Name)
		count(descFailures, sn.Errors, sn.Name)
		for reason, n := range sn.Skipped {
			count(descSkipped, n, sn.Name, reason)
		}
		if v := sn.Visual; v != (pipeline.VisualTokens{}) {
			count(descVisual, v.Kept, sn.Name, "kept")
			count(descVisual, v.Merged, sn.Name, "merged")
		}
		gauge(descLive, truth(sn.Status.State == "live"), sn.Name)
		gauge(descDegraded, truth(sn.Degraded != ""), sn.Name)
		if n := len(sn.GlassToWord); n > 0 {
			sum := 0.0
			for _, v := range sn.GlassToWord {
				sum += v / 1000
			}
			out <- prometheus.MustNewConstSummary(descGlass, uint64(n), sum, map[float64]float64{
				0.5: pipeline.Percentile(sn.GlassToWord, 0.5) / 1000, 0.95: pipeline.Percentile(sn.GlassToWord, 0.95) / 1000}, sn.Name)
		}
	}
	for _, b := range m.s.boxes {
		st := b.Stats()
		gauge(descPending, float64(st.Pending), b.name)
		gauge(descOldest, st.OldestAge.Seconds(), b.name)
		count(descDelivered, st.Delivered, b.name)
		count(descLost, st.Lost+st.Refused, b.name)
	}
	if m.s.redis != nil {
		m.collectLag(gauge)
	}
}

// collectLag asks Redis how far the readers are behind. A Redis that is away
// shows in the outbox.
func (m metrics) collectLag(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), lagTimeout)
	defer cancel()
	streams := []string{"*"}
	for _, s := range m.s.manager.All() {
		streams = append(streams, s.Config().Name)
	}
	for _, name := range streams {
		stream := name
		if name == "*" {
			stream = ""
		}
		groups, err := m.s.redis.Lag(ctx, stream)
		if err != nil {
			return
		}
		for _, g := range groups {
			if g.Lag >= 0 { // else the server cannot tell
				gauge(descGroupLag, float64(g.Lag), name, g.Group)
			}
			gauge(descGroupPending, float64(g.Pending), name, g.Group)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
