package redis

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/lookout-video/lookout/event"
)

// Entry is one event as it stands in a stream of Redis.
type Entry struct {
	Key   string // the stream key
	ID    string // the entry's id
	Event *event.Event
}

func entryOf(key string, m goredis.XMessage) (Entry, error) {
	e := Entry{Key: key, ID: m.ID}
	js, _ := m.Values["json"].(string)
	ev, err := event.Parse([]byte(js))
	if err != nil {
		return e, fmt.Errorf("redis: entry %s of %s: %w", m.ID, key, err)
	}
	e.Event = ev
	return e, nil
}

// ErrEntry is wrapped by errors about a single entry that is no event: the
// reading goes on behind it.
var ErrEntry = errors.New("not an event")

// ReplayOptions says what Replay reads.
type ReplayOptions struct {
	// Stream is the camera. It defaults to all of them.
	Stream string
	// Key is the stream key to read in place of Stream's.
	Key string
	// From and To are the first and last id; TimeID makes them of times. They
	// default to all.
	From, To string
}

func (c *Client) key(stream, key string) string {
	switch {
	case key != "":
		return key
	case stream != "":
		return c.cfg.EventsKey(stream)
	}
	return c.cfg.AllKey()
}

// Replay gives past events, oldest first. An entry that is no event comes as an
// error that wraps ErrEntry; any other error ends the iteration.
func (c *Client) Replay(ctx context.Context, o ReplayOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		key, from, to := c.key(o.Stream, o.Key), o.From, o.To
		if from == "" {
			from = "-"
		}
		if to == "" {
			to = "+"
		}
		for {
			ms, err := c.rdb.XRangeN(ctx, key, from, to, 500).Result()
			if err != nil {
				yield(Entry{Key: key}, c.explain("read "+key, err))
				return
			}
			for _, m := range ms {
				if !yield(wrapEntry(entryOf(key, m))) {
					return
				}
			}
			if len(ms) < 500 {
				return
			}
			from = "(" + ms[len(ms)-1].ID
		}
	}
}

func wrapEntry(e Entry, err error) (Entry, error) {
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return e, err
}

// TailOptions says what Tail follows.
type TailOptions struct {
	// Stream is the camera. It defaults to all of them.
	Stream string
	// After is the id after which to begin: "0" for all that is kept.
	// It defaults to what comes from now on.
	After string
	// Last is how many past events come first, when After is empty.
	Last int64
}

// Tail gives events as they come until ctx ends. A server that is away comes as
// an error; a reader that goes on is served again when the server is back,
// without a gap as long as the stream keeps what came in between.
func (c *Client) Tail(ctx context.Context, o TailOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		key, after := c.key(o.Stream, ""), o.After
		wait := 100 * time.Millisecond
		for ctx.Err() == nil {
			var err error
			if after == "" { // "$" anew for each read would leave gaps
				after, err = c.begin(ctx, key, o.Last)
			}
			var res []goredis.XStream
			if err == nil {
				// Short blocks, because a read is not interrupted when ctx ends.
				res, err = c.rdb.XRead(ctx, &goredis.XReadArgs{Streams: []string{key, after}, Count: 500, Block: 500 * time.Millisecond}).Result()
			}
			switch {
			case errors.Is(err, goredis.Nil):
				continue
			case ctx.Err() != nil:
				return
			case err != nil:
				if !yield(Entry{Key: key}, c.explain("follow "+key, err)) {
					return
				}
				select {
				case <-time.After(wait):
				case <-ctx.Done():
				}
				wait = min(2*wait, 5*time.Second)
				continue
			}
			wait = 100 * time.Millisecond
			for _, s := range res {
				for _, m := range s.Messages {
					after = m.ID
					if !yield(wrapEntry(entryOf(key, m))) {
						return
					}
				}
			}
		}
	}
}

// begin gives the id after which the last n entries come, and all later ones.
func (c *Client) begin(ctx context.Context, key string, n int64) (string, error) {
	if n <= 0 {
		return c.lastID(ctx, key)
	}
	ms, err := c.rdb.XRevRangeN(ctx, key, "+", "-", n+1).Result()
	if err != nil || int64(len(ms)) <= n {
		return "0", err
	}
	return ms[n].ID, nil
}

func (c *Client) lastID(ctx context.Context, key string) (string, error) {
	info, err := c.rdb.XInfoStream(ctx, key).Result()
	if err != nil {
		if strings.Contains(err.Error(), "no such key") {
			return "0", nil
		}
		return "", err
	}
	return info.LastGeneratedID, nil
}

// GroupLag is how far a consumer group is behind.
type GroupLag struct {
	Group     string `json:"group"`
	Consumers int64  `json:"consumers"`
	Pending   int64  `json:"pending"` // handed out and not acknowledged
	Lag       int64  `json:"lag"`     // not handed out yet; -1 when the server cannot tell
	Last      string `json:"last"`    // the id handed out last
}

// Lag tells how far the consumer groups of a camera's stream are behind, or of
// the stream of all cameras when stream is empty.
func (c *Client) Lag(ctx context.Context, stream string) ([]GroupLag, error) {
	key := c.key(stream, "")
	groups, err := c.rdb.XInfoGroups(ctx, key).Result()
	if err != nil {
		if strings.Contains(err.Error(), "no such key") {
			return nil, nil
		}
		return nil, c.explain("read the groups of "+strconv.Quote(key), err)
	}
	var out []GroupLag
	for _, g := range groups {
		out = append(out, GroupLag{Group: g.Name, Consumers: g.Consumers, Pending: g.Pending, Lag: g.Lag, Last: g.LastDeliveredID})
	}
	return out, nil
}
