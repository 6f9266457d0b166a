package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/lookout-video/lookout/output/redis"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, "killtest child:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestTenSeconds(t *testing.T) {
	r, err := Run(t.Context(), Config{For: 10 * time.Second, Seed: 7, Cameras: 3, Fsync: "everysec", Dir: t.TempDir(), Out: os.Stderr})
	if errors.Is(err, redis.ErrNoServer) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(r)
	t.Log(string(b))
	if !r.OK() {
		t.Errorf("the promise was broken: %s", b)
	}
}
