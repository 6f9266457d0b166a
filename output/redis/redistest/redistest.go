// Package redistest runs real redis-servers for tests.
package redistest

import (
	"errors"
	"testing"
	"time"

	"github.com/lookout-video/lookout/output/redis"
)

// Start runs a server for the length of the test; without args it keeps
// nothing on disk. The test is skipped where there is no redis-server.
func Start(t testing.TB, args ...string) *redis.Server {
	t.Helper()
	if len(args) == 0 {
		args = []string{"--save", "", "--appendonly", "no"}
	}
	return StartIn(t, t.TempDir(), 0, args...)
}

// StartIn is Start in a folder and on a port of the caller's choice (0: a free
// one), for a server that comes back after Kill.
func StartIn(t testing.TB, dir string, port int, args ...string) *redis.Server {
	t.Helper()
	s, err := redis.StartServer(t.Context(), dir, port, args...)
	if errors.Is(err, redis.ErrNoServer) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Open makes a client of s.
func Open(t testing.TB, cfg redis.Config) *redis.Client {
	t.Helper()
	c, err := redis.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Wait polls until ok, for at most 20 seconds.
func Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited 20 s for: %s", what)
		}
	}
}
