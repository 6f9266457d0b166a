package redis_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/output/outbox"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/redis/redistest"
)

// A key that takes nothing, and a server that answers too late, reorder and
// double nothing: neither in the camera that it happens to nor in the others.
func TestOneCamerasTroubleReordersNothing(t *testing.T) {
	srv := redistest.Start(t)
	c, err := redis.Open(redis.Config{URL: srv.URL(), Timeout: 150 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	box, err := outbox.Open(outbox.Config{Path: filepath.Join(t.TempDir(), "box.db"), Batch: 7, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	admin := redistest.Open(t, redis.Config{URL: srv.URL()})
	do := func(args ...any) {
		t.Helper()
		if err := admin.Redis().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(args, err)
		}
	}
	bad := c.Config().EventsKey("bad")
	do("SET", bad, "somebody else's")
	go func() { _ = box.Run(t.Context()) }()
	put := func(from, to uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			for _, cam := range []string{"good", "bad"} {
				if err := box.Publish(t.Context(), desc(cam, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	put(1, 20)
	// The batch comes again and again; what the others took of it stays single.
	redistest.Wait(t, "some tries", func() bool { return box.Stats().Retries > 5 })
	if got := seqs(t, c, c.Config().EventsKey("good")); !strings.HasPrefix(got, "good1 good2 good3") || strings.Contains(got, "good1 good1") {
		t.Errorf("the other camera has %q", got)
	}
	do("DEL", bad)
	tries := box.Stats().Retries
	// Each write now waits longer than the client does: the request arrives, the
	// answer does not.
	do("CLIENT", "PAUSE", 3000, "WRITE")
	put(21, 40)
	redistest.Wait(t, "answers that come too late", func() bool { return box.Stats().Retries > tries })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := box.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, cam := range []string{"good", "bad"} {
		var want []string
		for i := 1; i <= 40; i++ {
			want = append(want, fmt.Sprint(cam, i))
		}
		if got := seqs(t, admin, c.Config().EventsKey(cam)); got != strings.Join(want, " ") {
			t.Errorf("%s has %q", cam, got)
		}
		all = append(all, want...)
	}
	inAll := strings.Fields(seqs(t, admin, c.Config().AllKey()))
	if len(inAll) != len(all) {
		t.Errorf("the stream of all has %d of %d", len(inAll), len(all))
	}
	next := map[string]int{"good": 1, "bad": 1}
	for _, e := range inAll {
		cam := strings.TrimRight(e, "0123456789")
		if e != fmt.Sprint(cam, next[cam]) {
			t.Errorf("the stream of all has %s where %s%d belongs", e, cam, next[cam])
			break
		}
		next[cam]++
	}
}
