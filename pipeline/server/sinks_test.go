package server

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	broker "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
)

// received is the numbers of the yard's events that a sink has got, in order.
type received struct {
	mu   sync.Mutex
	seqs []uint64
}

func (r *received) add(payload []byte) {
	ev, err := event.Parse(payload)
	if err != nil {
		return // the broker's own figures
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seqs = append(r.seqs, ev.Data.Seq)
}

func (r *received) all() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seqs)
}

// A webhook that hangs holds back neither Redis nor MQTT, and gets everything,
// in order, when it is back.
func TestABrokenSinkHoldsBackNoOther(t *testing.T) {
	r, err := redis.StartPrivate(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var posted, published received
	mend := make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-mend:
			b, _ := io.ReadAll(req.Body)
			posted.add(b)
		case <-req.Context().Done():
		}
	}))
	defer hook.Close()
	mq := broker.New(&broker.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	tcp := listeners.NewTCP(listeners.Config{ID: "t", Address: "127.0.0.1:0"})
	for _, err := range []error{
		mq.AddHook(new(auth.AllowHook), nil),
		mq.Subscribe("lookout/#", 1, func(_ *broker.Client, _ packets.Subscription, pk packets.Packet) { published.add(pk.Payload) }),
		mq.AddListener(tcp), mq.Serve(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	defer mq.Close()
	s, _, c, _ := start(t, func(c *configs.Config) {
		c.Redis.URL, c.Webhook.URL, c.MQTT.URL = r.URL(), hook.URL, "mqtt://"+tcp.Address()
	})
	waitFor(t, "some events", func() bool { return s.manager.All()[0].Snapshot().Events >= 8 })
	s.Manager().Stop()
	said := s.manager.All()[0].Snapshot().Seq
	client, err := redis.Open(RedisConfig(c.Redis))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	inRedis := func() (seqs []uint64) {
		for e, err := range client.Replay(t.Context(), redis.ReplayOptions{Stream: "yard"}) {
			if err != nil {
				t.Fatal(err)
			}
			seqs = append(seqs, e.Event.Data.Seq)
		}
		return seqs
	}
	var want []uint64
	for n := uint64(1); n <= said; n++ {
		want = append(want, n)
	}
	waitFor(t, "Redis and MQTT to have everything", func() bool {
		return slices.Equal(inRedis(), want) && slices.Equal(published.all(), want)
	})
	if n := len(posted.all()); n != 0 {
		t.Errorf("the webhook that hangs got %d", n)
	}
	for _, b := range s.boxes {
		if st := b.Stats(); b.name == "webhook" && st.Pending != int(said) || b.name != "webhook" && st.Pending != 0 {
			t.Errorf("%s: %d wait", b.name, st.Pending)
		}
	}
	close(mend)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := slices.Compact(posted.all()); !slices.Equal(got, want) {
		t.Errorf("the webhook got %v, want %v", got, want)
	}
}
