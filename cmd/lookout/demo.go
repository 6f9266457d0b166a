package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/assets"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/webrtc"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
	"github.com/lookout-video/lookout/pipeline/server"
)

// started is when the program did, for start_to_first_word_ms.
var started = time.Now()

// summary is what `lookout demo --json` prints.
type summary struct {
	Events              int         `json:"events"`
	RedisEntries        int64       `json:"redis_entries"`
	DataChannelMessages uint64      `json:"datachannel_messages"` // events that the loopback subscriber got
	Deltas              uint64      `json:"datachannel_deltas"`
	VideoPackets        uint64      `json:"video_packets"` // that it got
	FramesDecoded       uint64      `json:"frames_decoded"`
	FramesLooked        uint64      `json:"frames_looked"`
	FramesEncoded       uint64      `json:"frames_encoded"`
	Words               uint64      `json:"words"`
	Errors              uint64      `json:"errors"`
	GlassToWord         percentiles `json:"glass_to_word_ms"`
	StartToFirstWord    float64     `json:"start_to_first_word_ms"`
	Seconds             float64     `json:"seconds"`
	Model               string      `json:"model"`
	Device              string      `json:"device"`
	others              int         // events for other viewers alone: the answers to what they asked
}

type percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
}

func demoCommand(g *global) *cobra.Command {
	var lasts time.Duration
	var asJSON bool
	var redisURL, listen, source string
	c := &cobra.Command{
		Use:   "demo",
		Short: "The whole of it on the bundled video: page, words, Redis",
		Long: `Plays the bundled minute of the simulated yard as if it were a camera, serves the
page and prints what is said. Everything is embedded; Redis is a private
redis-server child that ends with the program, unless --redis names another.`,
		Example: `  lookout demo
  lookout demo --for 30s --json
  lookout demo --source rtsp://user:pass@camera/stream`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd, g, lasts, asJSON, redisURL, listen, source)
		},
	}
	c.Flags().DurationVar(&lasts, "for", 0, "end after this `time`; 0: when stopped")
	c.Flags().BoolVar(&asJSON, "json", false, "print the summary as one JSON object, and nothing else")
	c.Flags().StringVar(&redisURL, "redis", "", "`URL` of a Redis; a private one when not given")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "`address` of the page; another port is taken when this one is not free")
	c.Flags().StringVar(&source, "source", "", "watch this file, `URL` or device instead of the bundled video")
	return c
}

// demoQuestions are the standing questions of the demo.
func demoQuestions() []configs.Question {
	alert := configs.DefaultAlert()
	return []configs.Question{
		{ID: "box-left", Text: "did somebody leave a box?", Every: time.Second, Alert: &alert},
		{ID: "gate", Text: "is the gate open?", Every: 2 * time.Second},
	}
}

func demo(cmd *cobra.Command, g *global, lasts time.Duration, asJSON bool, redisURL, listen, source string) (err error) {
	conf, err := g.load()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lookout-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	conf.StateDir, conf.Web.Listen = filepath.Join(dir, "state"), listen
	if g.level == "" {
		conf.Log.Level = "warn" // the table tells the rest
	}
	log := logger(conf.Log)
	st := configs.DefaultStream()
	st.Name, st.URL, st.Loop, st.Questions = "yard", source, true, demoQuestions()
	if source == "" {
		st.URL = filepath.Join(dir, "demo.mp4")
		if err := os.WriteFile(st.URL, assets.Demo, 0o600); err != nil {
			return err
		}
	}
	conf.Streams = []configs.Stream{st}

	// The private Redis outlives the streams, so that the last events get there.
	redisCtx, stopRedis := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer stopRedis()
	if redisURL == "" {
		r, err := redis.StartPrivate(redisCtx, filepath.Join(dir, "redis"))
		if err != nil {
			return err
		}
		defer r.Close()
		redisURL = r.URL()
	}
	conf.Redis.URL = redisURL
	// A prefix of its own: a Redis that is not private may hold earlier demos.
	conf.Redis.Prefix = "lookout-demo-" + event.NewID()

	e, err := engine.Open(conf, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	s, err := server.New(server.Options{Config: conf, Models: e.Models, Open: e.Opener(log), Sources: e, Load: e.Load, Log: log, Version: version()})
	if errors.Is(err, syscall.EADDRINUSE) && !cmd.Flags().Changed("listen") {
		conf.Web.Listen = "127.0.0.1:0"
		s, err = server.New(server.Options{Config: conf, Models: e.Models, Open: e.Opener(log), Sources: e, Load: e.Load, Log: log, Version: version()})
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	out := cmd.OutOrStdout()
	if !asJSON {
		fmt.Fprintf(out, "The page:  %s\nRedis:     redis-cli -u %s XREAD BLOCK 0 STREAMS %s '$'\n           lookout events tail --redis %s --prefix %s\nStop with Ctrl-C.\n\n",
			s.URL(), redisURL, server.RedisConfig(conf.Redis).EventsKey("yard"), redisURL, conf.Redis.Prefix)
	}
	counted := newCounter(s.Bus(), out, asJSON)
	var wg sync.WaitGroup
	wg.Go(func() { counted.run() })
	serving := make(chan error, 1)
	go func() { serving <- s.Run(ctx) }()

	var zero uint64
	sub, err := webrtc.Subscribe(ctx, s.URL()+"/whep/yard", webrtc.SubscribeOptions{After: &zero})
	if err != nil {
		cancel()
		err = errors.Join(err, <-serving)
		counted.close()
		wg.Wait()
		return err
	}
	defer sub.Close()
	began := time.Now()
	var timer <-chan time.Time
	if lasts > 0 {
		timer = time.After(lasts)
	}
	select {
	case <-cmd.Context().Done():
	case <-timer:
	case err := <-serving:
		counted.close()
		wg.Wait()
		return err
	}
	// The streams end first: their last events still reach everybody.
	s.Manager().Stop()
	sum := summary{Seconds: time.Since(began).Seconds(), Model: e.Models.Info.Name, Device: e.Runtime.Device()}
	counted.close()
	wg.Wait()
	sum.Events, sum.others = counted.events, counted.events-counted.shared
	if err := settle(ctx, s, sub, conf, counted.shared, &sum); err != nil && cmd.Context().Err() == nil {
		cancel()
		return errors.Join(err, <-serving)
	}
	fill(&sum, s.Manager().All())
	sub.Close()
	cancel()
	if err := <-serving; err != nil {
		return err
	}
	return sum.print(out, asJSON)
}

// settle waits until Redis has every event, and the data channel the shared ones.
func settle(ctx context.Context, s *server.Server, sub *webrtc.Client, conf configs.Config, shared int, sum *summary) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		return fmt.Errorf("waiting for Redis to take the events: %w", err)
	}
	rc := server.RedisConfig(conf.Redis)
	client, err := redis.Open(rc)
	if err != nil {
		return err
	}
	defer client.Close()
	if sum.RedisEntries, err = client.Redis().XLen(ctx, rc.EventsKey("yard")).Result(); err != nil {
		return fmt.Errorf("count the entries in Redis: %w", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st := sub.Stats()
		sum.DataChannelMessages, sum.Deltas, sum.VideoPackets = st.Events, st.Deltas, st.Packets
		if st.Events >= uint64(shared) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the loopback subscriber has %d of %d events", st.Events, shared)
		}
	}
}

func fill(sum *summary, streams []*pipeline.Stream) {
	for _, s := range streams {
		sn := s.Snapshot()
		sum.FramesDecoded += sn.Counters.Decoded
		sum.FramesLooked += sn.Looked
		sum.FramesEncoded += sn.Encoded
		sum.Words += sn.Words
		sum.Errors += sn.Errors
		sum.GlassToWord = percentiles{pipeline.Percentile(sn.GlassToWord, 0.5), pipeline.Percentile(sn.GlassToWord, 0.95)}
		if !sn.FirstWord.IsZero() {
			sum.StartToFirstWord = float64(sn.FirstWord.Sub(started).Microseconds()) / 1000
		}
	}
}

func (s summary) print(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	asked := ""
	if s.others > 0 {
		asked = fmt.Sprintf(" (and %d to whom asked alone)", s.others)
	}
	_, err := fmt.Fprintf(w, "\n%d events in %.0f s, %d in Redis, %d over the data channel%s; %d words about %d frames (%d encoded)\nglass to word %.0f ms (p50), %.0f ms (p95); start to first word %.0f ms; %d errors\n",
		s.Events, s.Seconds, s.RedisEntries, s.DataChannelMessages, asked, s.Words, s.FramesLooked, s.FramesEncoded, s.GlassToWord.P50, s.GlassToWord.P95, s.StartToFirstWord, s.Errors)
	return err
}

// counter counts the events and prints what is said.
type counter struct {
	sub    *event.Subscription
	out    io.Writer
	silent bool
	colour bool
	events int
	shared int // of them those that every viewer gets: the answer to one viewer's question is that one's alone
}

func newCounter(bus *event.Bus, out io.Writer, silent bool) *counter {
	return &counter{sub: bus.Subscribe(event.SubOptions{Queue: 4096}), out: out, silent: silent, colour: isTerminal(out) && os.Getenv("NO_COLOR") == ""}
}

func (c *counter) close() { c.sub.Close() }

// paint are the terminal's colours by type of event.
var paint = map[string]string{event.TypeAlert: "\033[31;1m", event.TypeAnswer: "\033[36m", event.TypeStatus: "\033[2m", event.TypeDescription: ""}

func (c *counter) run() {
	for it := range c.sub.C() {
		if it.Event == nil {
			continue
		}
		ev := it.Event
		c.events++
		if ev.Data.Viewer == "" {
			c.shared++
		}
		if c.silent || ev.Type == event.TypeLabel || ev.Type == event.TypeDescription && ev.Data.Phase == event.End {
			continue
		}
		text, kind := ev.Data.Text, "sees"
		switch {
		case ev.Type == event.TypeStatus:
			kind, text = "status", ev.Data.Status.State+" "+ev.Data.Status.Reason
		case ev.Type == event.TypeAlert:
			kind, text = "alert "+string(ev.Data.Phase), ev.Data.Prompt.Text+" "+text
		case ev.Type == event.TypeAnswer:
			kind, text = "answer", ev.Data.Prompt.Text+" "+text
		case ev.Data.Prompt != nil && ev.Data.Prompt.ID == pipeline.PromptChanges:
			kind = "new"
		}
		on, off := "", ""
		if c.colour {
			on, off = paint[ev.Type], "\033[0m"
		}
		fmt.Fprintf(c.out, "%s%s  %-12s %s%s\n", on, ev.Time.Local().Format("15:04:05.0"), kind, text, off)
	}
}
