package pipeline

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
)

// publishTo publishes packets at 10 a second with a key frame each second.
func publishTo(tap *media.Tap, from, to, size int) {
	for n := from; n < to; n++ {
		tap.Publish(&media.Packet{Codec: media.H264, Key: n%10 == 0, Data: make([]byte, size), At: media.At(day, time.Duration(n)*100*time.Millisecond)})
	}
}

func ends(packets []*media.Packet) string {
	if len(packets) == 0 {
		return "none"
	}
	return fmt.Sprint(packets[0].At.Media, " to ", packets[len(packets)-1].At.Media)
}

func TestPastHoldsWholeGroupsOfTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tap := &past{length: 5 * time.Second}, media.NewTap(0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() { defer close(done); p.run(ctx, tap) }()
		synctest.Wait()
		publishTo(tap, 3, 30, 10)
		synctest.Wait()
		if got := ends(p.between(ctx, 0, 0)); got != "none" {
			t.Errorf("before the first key frame: %s", got)
		}
		for _, c := range []struct {
			from, to time.Duration
			want     string
		}{
			{0, 2500 * time.Millisecond, "1s to 2.5s"},
			{1900 * time.Millisecond, 2 * time.Second, "1s to 2s"},
			{2 * time.Second, 2900 * time.Millisecond, "2s to 2.9s"},
		} {
			if got := ends(p.between(ctx, c.from, c.to)); got != c.want {
				t.Errorf("%v to %v: %s, want %s", c.from, c.to, got, c.want)
			}
		}
		publishTo(tap, 30, 200, 10)
		synctest.Wait()
		if got := ends(p.packets); got != "14s to 19.9s" {
			t.Errorf("kept %s", got)
		}

		// Who asks for what is yet to come waits for it.
		got := make(chan string, 2)
		go func() { got <- ends(p.between(ctx, 19*time.Second, 21*time.Second)) }()
		go func() { got <- ends(p.between(ctx, 20*time.Second, time.Hour)) }()
		publishTo(tap, 200, 210, 10)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("it did not wait: %s", <-got)
		}
		publishTo(tap, 210, 215, 10)
		if s := <-got; s != "19s to 21s" {
			t.Error(s)
		}
		cancel() // the stream ends
		<-done
		if s := <-got; s != "20s to 21.4s" {
			t.Errorf("at the end: %s", s)
		}
	})
}

func TestPastGivesWhatThereIsToWhoWaitsInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tap := &past{length: 5 * time.Second}, media.NewTap(0)
		go p.run(t.Context(), tap)
		synctest.Wait()
		publishTo(tap, 0, 15, 10)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got := ends(p.between(ctx, 0, time.Hour)); got != "0s to 1.4s" {
			t.Error(got)
		}
		tap.Close()
		synctest.Wait()
		if got := ends(p.between(t.Context(), 0, time.Hour)); got != "0s to 1.4s" {
			t.Errorf("after the end: %s", got)
		}
	})
}

func TestPastIsBoundedInBytes(t *testing.T) {
	p := &past{length: time.Hour}
	for n := range 35 {
		p.add(&media.Packet{Key: n%10 == 0, Data: make([]byte, maxPast/25), At: media.At(day, time.Duration(n)*100*time.Millisecond)})
	}
	if got := ends(p.packets); p.bytes > maxPast || got != "1s to 3.4s" {
		t.Errorf("%d bytes, %s", p.bytes, got)
	}
	// One group that alone is too much goes as a whole: its rest shows nothing.
	huge := &past{length: time.Hour}
	for n := range 30 {
		huge.add(&media.Packet{Key: n == 0, Data: make([]byte, maxPast/20), At: media.At(day, time.Duration(n)*time.Second)})
	}
	if len(huge.packets) != 0 || huge.bytes != 0 {
		t.Errorf("%d packets, %d bytes", len(huge.packets), huge.bytes)
	}
}

func TestAlertsNameTheirClip(t *testing.T) {
	for _, past := range []time.Duration{0, time.Second} {
		w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(8, 10, 30, 10)}})
		w.deps.Past = past
		c := stream("a")
		alert := configs.DefaultAlert()
		c.Questions = []configs.Question{{ID: "van", Text: "red van", Every: 250 * time.Millisecond, Alert: &alert}}
		if err := w.lockstep(c).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		alerts := 0
		for {
			var it event.Item
			select {
			case it = <-w.sub.C():
			default:
			}
			if it == (event.Item{}) {
				break
			}
			if it.Event == nil {
				continue
			}
			d := it.Event.Data
			want := ""
			if it.Event.Type == event.TypeAlert {
				alerts++
				if past > 0 {
					want = "/api/streams/a/clips/" + d.EventID
				}
			}
			if d.Clip != want {
				t.Errorf("clips %v: %s %s names %q, want %q", past > 0, it.Event.Type, d.Phase, d.Clip, want)
			}
		}
		if alerts < 2 {
			t.Errorf("%d alert events", alerts)
		}
	}
}
