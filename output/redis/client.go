package redis

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
)

//go:embed camera.lua
var cameraLua string

//go:embed all.lua
var allLua string

var (
	cameraScript = goredis.NewScript(cameraLua)
	allScript    = goredis.NewScript(allLua)
)

// Client writes events to Redis, as the Sink of an outbox, and reads them back.
// Its methods may be called from several goroutines, Deliver from one at a time.
type Client struct {
	cfg    Config
	rdb    goredis.UniversalClient
	target string // for messages; no secrets in it
	tls    bool

	mu sync.Mutex
	// The newest ids that the server has confirmed, by camera. A server that has
	// less lost what it had taken.
	known, knownAll map[string]id
}

var _ outbox.Sink = (*Client)(nil)

type id struct{ ms, seq string }

func (i id) args() []any {
	if i.ms == "" {
		return []any{"0", "0"}
	}
	return []any{i.ms, i.seq}
}

func parseID(s string) id {
	ms, seq, _ := strings.Cut(s, "-")
	return id{ms, seq}
}

// quiet sends what go-redis would print to standard error to the debug log: its
// callers get the same as errors.
type quiet struct{}

func (quiet) Printf(ctx context.Context, format string, v ...any) {
	slog.DebugContext(ctx, fmt.Sprintf(format, v...))
}

var quieten = sync.OnceFunc(func() { goredis.SetLogger(quiet{}) })

// Open makes a Client. It does not connect: a server that is away is no error
// here, but a configuration that cannot work is.
func Open(cfg Config) (*Client, error) {
	if cfg.MaxLen == 0 {
		cfg.MaxLen = 10_000
	}
	if cfg.AllMaxLen == 0 {
		cfg.AllMaxLen = 100_000
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 3 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	o, target, err := cfg.options()
	if err != nil {
		return nil, err
	}
	quieten()
	return &Client{cfg: cfg, rdb: goredis.NewUniversalClient(o), target: target, tls: o.TLSConfig != nil, known: map[string]id{}, knownAll: map[string]id{}}, nil
}

func unixDialer(path string, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, "unix", path)
	}
}

func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// Config is what the client was opened with, defaults filled in.
func (c *Client) Config() Config { return c.cfg }

// Target names the server for people; no secrets in it.
func (c *Client) Target() string { return c.target }

// Redis is the underlying client, for what this package does not do.
func (c *Client) Redis() goredis.UniversalClient { return c.rdb }

// Close closes the connections.
func (c *Client) Close() error { return c.rdb.Close() }

// Ping asks the server for a sign of life. Its error names what mends it.
func (c *Client) Ping(ctx context.Context) error { return c.explain("ping", c.rdb.Ping(ctx).Err()) }

// Deliver adds events to their camera's stream and to the stream of all
// cameras. An event that is there already is not added again, whoever sends it
// and however often.
func (c *Client) Deliver(ctx context.Context, evs []*event.Event) error {
	if len(evs) == 0 {
		return nil
	}
	fields := make([][]any, len(evs))
	streams := []string{} // in order of appearance
	byStream := map[string][]int{}
	for i, ev := range evs {
		if ev.Data.Stream == "" || ev.Data.Seq == 0 {
			return fmt.Errorf("redis: event %q has no stream or no seq: %w", ev.ID, outbox.ErrRefused)
		}
		f, err := entry(ev)
		if err != nil {
			return fmt.Errorf("redis: event %q: %w: %w", ev.ID, err, outbox.ErrRefused)
		}
		fields[i] = f
		if byStream[ev.Data.Stream] == nil {
			streams = append(streams, ev.Data.Stream)
		}
		byStream[ev.Data.Stream] = append(byStream[ev.Data.Stream], i)
	}

	run := func(script func(*goredis.Script, goredis.Scripter, []string, []any) *goredis.Cmd) ([]*goredis.Cmd, error) {
		pipe := c.rdb.Pipeline()
		cmds := make([]*goredis.Cmd, 0, len(streams)+1)
		for _, s := range streams {
			keys, args := c.cameraArgs(s, evs, fields, byStream[s])
			cmds = append(cmds, script(cameraScript, pipe, keys, args))
		}
		if !c.cfg.NoAll {
			keys, args := c.allArgs(streams, evs, fields)
			cmds = append(cmds, script(allScript, pipe, keys, args))
		}
		_, err := pipe.Exec(ctx)
		for _, cmd := range cmds { // a transport error is on each, a server's only on its own
			if cmd.Err() != nil {
				err = cmd.Err()
				break
			}
		}
		return cmds, err
	}
	cmds, err := run(func(s *goredis.Script, p goredis.Scripter, keys []string, args []any) *goredis.Cmd {
		return s.EvalSha(ctx, p, keys, args...)
	})
	for _, cmd := range cmds {
		if goredis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") { // a new or restarted server
			cmds, err = run(func(s *goredis.Script, p goredis.Scripter, keys []string, args []any) *goredis.Cmd {
				return s.Eval(ctx, p, keys, args...)
			})
			break
		}
	}
	return c.confirm(streams, cmds, err)
}

// confirm notes what the server says it has.
func (c *Client) confirm(streams []string, cmds []*goredis.Cmd, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range cmds {
		if e := cmd.Err(); e != nil && strings.HasPrefix(e.Error(), "REWIND") {
			clear(c.known)
			clear(c.knownAll)
			return fmt.Errorf("redis at %s: %w: %w", c.target, e, outbox.ErrRewind)
		}
	}
	if err != nil {
		return c.explain("add events", err)
	}
	for i, s := range streams {
		reply, err := cmds[i].Slice()
		if err != nil || len(reply) != 2 {
			return c.strange(cmds[i])
		}
		c.known[s] = parseID(fmt.Sprint(reply[1]))
	}
	if c.cfg.NoAll {
		return nil
	}
	reply, err := cmds[len(streams)].Slice()
	if err != nil || len(reply) != 1+len(streams) {
		return c.strange(cmds[len(streams)])
	}
	for i, s := range streams {
		c.knownAll[s] = parseID(fmt.Sprint(reply[1+i]))
	}
	return nil
}

func (c *Client) strange(cmd *goredis.Cmd) error {
	return fmt.Errorf("redis at %s: a script answered %v: is this a Redis?", c.target, cmd.Val())
}

func bound(n int64) string { return strconv.FormatInt(max(n, 0), 10) }

func (c *Client) minID() string {
	if c.cfg.MaxAge <= 0 {
		return "0"
	}
	return TimeID(time.Now().Add(-c.cfg.MaxAge))
}

func (c *Client) cameraArgs(stream string, evs []*event.Event, fields [][]any, which []int) ([]string, []any) {
	c.mu.Lock()
	args := c.known[stream].args()
	c.mu.Unlock()
	notice := ""
	if c.cfg.Notify {
		notice = c.cfg.NoticeChannel(stream)
	}
	state := state{}
	for _, i := range which {
		state.add(evs[i])
	}
	args = append(args, bound(c.cfg.MaxLen), c.minID(), notice, len(state.args))
	args = append(args, state.args...)
	for _, i := range which {
		args = append(args, ms(evs[i]), evs[i].Data.Seq, len(fields[i]))
		args = append(args, fields[i]...)
	}
	return []string{c.cfg.EventsKey(stream), c.cfg.StateKey(stream)}, args
}

func (c *Client) allArgs(streams []string, evs []*event.Event, fields [][]any) ([]string, []any) {
	args := []any{bound(c.cfg.AllMaxLen), c.minID(), len(streams)}
	c.mu.Lock()
	for _, s := range streams {
		args = append(append(args, s), c.knownAll[s].args()...)
	}
	c.mu.Unlock()
	for i, ev := range evs {
		args = append(args, ev.Data.Stream, ms(ev), ev.Data.Seq, len(fields[i]))
		args = append(args, fields[i]...)
	}
	return []string{c.cfg.AllKey(), c.cfg.seenKey()}, args
}

// ms is the time part of an event's id in its camera's stream.
func ms(ev *event.Event) int64 { return max(ev.Time.UnixMilli(), 0) }

// TimeID is the smallest id of an entry added at t: for Replay's bounds.
func TimeID(t time.Time) string { return strconv.FormatInt(max(t.UnixMilli(), 0), 10) + "-0" }

func number(f float64) string { return strconv.FormatFloat(f, 'f', 4, 64) }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// entry is the fields and values of an event's entry: what people and scripts
// look at as flat text, absent when it does not apply, and all of it as JSON.
func entry(ev *event.Event) ([]any, error) {
	js, err := json.Marshal(ev)
	if err != nil {
		return nil, err
	}
	d := &ev.Data
	var f []any
	add := func(name, value string) {
		if value != "" {
			f = append(f, name, value)
		}
	}
	add("time", stamp(ev.Time))
	add("stream", d.Stream)
	add("kind", event.Kind(ev.Type))
	add("phase", string(d.Phase))
	add("text", d.Text)
	if d.Prompt != nil {
		add("prompt_id", d.Prompt.ID)
		add("prompt", d.Prompt.Text)
	}
	if d.Probability != nil {
		add("probability", number(*d.Probability))
	}
	if d.Abstained {
		add("abstained", "1")
	}
	if len(d.Labels) > 0 {
		add("label", d.Labels[0].Name)
		var all []string
		for _, l := range d.Labels {
			all = append(all, l.Name+"="+number(l.Probability))
		}
		add("labels", strings.Join(all, ","))
	}
	if s := d.Status; s != nil {
		add("state", s.State)
		add("reason", s.Reason)
		add("fix", s.Fix)
		if s.Count > 0 {
			add("count", strconv.FormatUint(s.Count, 10))
		}
	}
	if n := len(d.Evidence); n > 0 {
		newest := d.Evidence[n-1]
		add("capture", stamp(newest.Capture))
		add("media_ms", strconv.FormatInt(newest.MediaMS, 10))
		add("rtp", strconv.FormatUint(uint64(newest.RTP), 10))
	}
	add("clip", d.Clip)
	if d.Latency != nil && d.Latency.GlassToWordMS > 0 {
		add("glass_to_word_ms", strconv.FormatFloat(d.Latency.GlassToWordMS, 'f', 0, 64))
	}
	if d.Model != nil {
		add("model", d.Model.Name+"@"+d.Model.Hash)
	}
	add("viewer", d.Viewer)
	add("seq", strconv.FormatUint(d.Seq, 10))
	add("event_id", d.EventID)
	add("revision", strconv.Itoa(d.Revision))
	add("json", string(js))
	return f, nil
}

// state collects what a batch changes in a camera's last state: the newest
// value of each field.
type state struct {
	args []any
	at   map[string]int
}

func (s *state) set(name, value string) {
	if s.at == nil {
		s.at = map[string]int{}
	}
	if i, ok := s.at[name]; ok {
		s.args[i] = value
		return
	}
	s.args = append(s.args, name, value)
	s.at[name] = len(s.args) - 1
}

func (s *state) add(ev *event.Event) {
	d := &ev.Data
	s.set("time", stamp(ev.Time))
	s.set("seq", strconv.FormatUint(d.Seq, 10))
	switch ev.Type {
	case event.TypeDescription:
		s.set("text", d.Text)
		s.set("text_time", stamp(ev.Time))
		s.set("text_phase", string(d.Phase))
	case event.TypeAlert:
		if d.Prompt == nil {
			return
		}
		on := "on"
		if d.Phase == event.End {
			on = "off"
		}
		s.set("alert:"+d.Prompt.ID, on)
		s.set("alert_time:"+d.Prompt.ID, stamp(ev.Time))
	case event.TypeLabel:
		if len(d.Labels) > 0 {
			s.set("label", d.Labels[0].Name)
			s.set("label_probability", number(d.Labels[0].Probability))
		}
	case event.TypeStatus:
		if d.Status != nil {
			s.set("status", d.Status.State)
			s.set("status_reason", d.Status.Reason)
			s.set("status_time", stamp(ev.Time))
		}
	}
}

// State is a camera's last state, as docs/redis.md tells; empty when there is none.
func (c *Client) State(ctx context.Context, stream string) (map[string]string, error) {
	m, err := c.rdb.HGetAll(ctx, c.cfg.StateKey(stream)).Result()
	return m, c.explain("read the state of stream "+strconv.Quote(stream), err)
}
