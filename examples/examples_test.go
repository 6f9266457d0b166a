// Package examples_test runs the example programs against a real redis-server.
package examples_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/redis/redistest"
)

// cache is where the clients of other languages may have been installed besides
// the usual places: a Python virtual environment and node_modules.
func cache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "/nonexistent"
	}
	return filepath.Join(dir, "lookout", "examples")
}

func goExample(t *testing.T) *exec.Cmd {
	bin := filepath.Join(t.TempDir(), "consumer")
	if out, err := exec.Command("go", "build", "-o", bin, "./go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return exec.Command(bin)
}

func pythonExample(t *testing.T) *exec.Cmd {
	for _, py := range []string{filepath.Join(cache(), "venv", "bin", "python3"), "python3"} {
		if exec.Command(py, "-c", "import redis").Run() == nil {
			return exec.Command(py, "python/consumer.py")
		}
	}
	t.Skip("no python3 with the package redis: pip install redis")
	return nil
}

func javascriptExample(t *testing.T) *exec.Cmd {
	for _, modules := range []string{filepath.Join(cache(), "node_modules"), os.Getenv("NODE_PATH")} {
		env := append(os.Environ(), "NODE_PATH="+modules)
		check := exec.Command("node", "-e", "require('redis')")
		check.Dir, check.Env = "javascript", env
		if check.Run() == nil {
			cmd := exec.Command("node", "javascript/consumer.js")
			cmd.Env = env
			return cmd
		}
	}
	t.Skip("no node with the package redis: npm install redis")
	return nil
}

func TestConsumers(t *testing.T) {
	for name, program := range map[string]func(*testing.T) *exec.Cmd{"go": goExample, "python": pythonExample, "javascript": javascriptExample} {
		t.Run(name, func(t *testing.T) {
			cmd := program(t)
			srv := redistest.Start(t)
			c := redistest.Open(t, redis.Config{URL: srv.URL()})
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			key := c.Config().AllKey()
			var want []string
			put := func(seq uint64) {
				t.Helper()
				ev := event.New(event.TypeDescription, time.UnixMilli(int64(1e12+seq)).UTC(), event.Data{Stream: "yard", Seq: seq, EventID: fmt.Sprint("e", seq), Phase: event.Start, Text: fmt.Sprint("赤い van ", seq)})
				if err := c.Deliver(ctx, []*event.Event{ev}); err != nil {
					t.Fatal(err)
				}
				want = append(want, ev.Data.Text)
			}
			for i := range uint64(5) {
				put(i + 1)
			}
			// A member took two entries and died.
			if err := c.Redis().XGroupCreate(ctx, key, "g", "0").Err(); err != nil {
				t.Fatal(err)
			}
			if err := c.Redis().XReadGroup(ctx, &goredis.XReadGroupArgs{Group: "g", Consumer: "dead", Streams: []string{key, ">"}, Count: 2}).Err(); err != nil {
				t.Fatal(err)
			}
			// Somebody wrote what is no event.
			if err := c.Redis().XAdd(ctx, &goredis.XAddArgs{Stream: key, Values: []string{"json", "{"}}).Err(); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			cmd.Args = append(cmd.Args, "--url", srv.URL(), "--group", "g", "--consumer", "alive", "--claim-after", "200", "--count", "8")
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill() }()
			redistest.Wait(t, "the program to read what was there", func() bool {
				lag, err := c.Lag(ctx, "")
				return err == nil && len(lag) == 1 && lag[0].Lag == 0 && lag[0].Pending == 0 && lag[0].Consumers == 2
			})
			put(6)
			put(7)
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case err := <-done:
				if err != nil {
					t.Fatalf("%v: %s", err, errs.String())
				}
			case <-ctx.Done():
				t.Fatalf("the program does not end: %s %s", out.String(), errs.String())
			}
			got := map[string]int{}
			for line := range strings.Lines(out.String()) {
				f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
				if len(f) != 5 || f[1] != "yard" || f[2] != event.TypeDescription || f[3] != "start" {
					t.Errorf("line %q", line)
					continue
				}
				got[f[4]]++
			}
			for _, text := range want {
				if got[text] != 1 {
					t.Errorf("%q was handled %d times", text, got[text])
				}
			}
			if !strings.Contains(errs.String(), "no event") {
				t.Errorf("it did not tell of the entry that is no event: %s", errs.String())
			}
			if lag, err := c.Lag(ctx, ""); err != nil || lag[0].Pending != 0 || lag[0].Lag != 0 {
				t.Errorf("left: %+v, %v", lag, err)
			}
		})
	}
}
