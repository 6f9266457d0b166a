package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
)

// TestEventsCommands uses a demo that runs, as its output tells to.
func TestEventsCommands(t *testing.T) {
	r, err := redis.StartPrivate(t.Context(), t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	defer r.Close()
	demo := program(t, "demo", "--redis", r.URL(), "--listen", "127.0.0.1:0")
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var troubles bytes.Buffer
	demo.Stderr = &troubles
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = demo.Process.Kill(); _ = demo.Wait() }()
	lines := bufio.NewScanner(out)
	var tail []string // the command that the demo tells
	said := 0
	for said < 4 && lines.Scan() {
		if s := lines.Text(); strings.Contains(s, "lookout events tail") {
			tail = strings.Fields(s)[1:]
		} else if page, ok := strings.CutPrefix(s, "The page:  http://"); ok {
			t.Setenv("LOOKOUT_WEB_LISTEN", page) // whom search asks
		} else if regexp.MustCompile(`^\d\d:`).MatchString(s) {
			said++
		}
	}
	if len(tail) == 0 || said < 4 {
		_ = demo.Wait()
		t.Fatalf("the demo said %d things and told %q how to follow them: %s", said, tail, troubles.String())
	}
	go func() {
		for lines.Scan() { // or the demo would wait for us
		}
	}()
	where := tail[2:]
	command := func(args ...string) (string, string) {
		t.Helper()
		out, errs, code := run(t, append(append([]string{"events"}, args...), where...)...)
		if code != 0 {
			t.Errorf("%v: exit code %d: %s", args, code, errs)
		}
		return out, errs
	}

	replayed, _ := command("replay", "--json", "--since", "1h")
	n := 0
	for line := range strings.Lines(replayed) {
		if _, err := event.Parse([]byte(line)); err != nil {
			t.Error(err)
		}
		n++
	}
	if n < 4 {
		t.Errorf("replayed %d events", n)
	}
	if plain, _ := command("replay", "--stream", "yard"); !strings.Contains(plain, "yard") || strings.Contains(plain, "{") {
		t.Errorf("replayed %.300s", plain)
	}

	// tail begins with the last events and goes on.
	follow := program(t, append(tail, "-n", "2", "--json")...)
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = follow.Process.Kill() })
	defer stuck.Stop()
	var seqs []uint64
	sc := bufio.NewScanner(pipe)
	sc.Buffer(nil, 1<<20)
	for len(seqs) < 4 && sc.Scan() {
		ev, err := event.Parse(sc.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, ev.Data.Seq)
	}
	for i := 1; i < len(seqs); i++ {
		if seqs[i] != seqs[0]+uint64(i) {
			t.Errorf("tail has a gap: %v", seqs)
		}
	}
	_ = follow.Process.Signal(syscall.SIGINT)
	if err := follow.Wait(); err != nil {
		t.Errorf("tail, ended by Ctrl-C: %v", err)
	}

	if none, _ := command("lag"); !strings.Contains(none, "no consumer group") {
		t.Errorf("lag says %q", none)
	}
	client, err := redis.Open(redis.Config{URL: r.URL(), Prefix: where[len(where)-1]})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Redis().XGroupCreate(t.Context(), client.Config().AllKey(), "readers", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if lag, _ := command("lag"); !strings.Contains(lag, "readers") || !strings.Contains(lag, "PENDING") {
		t.Errorf("lag says %q", lag)
	}
	lagJSON, _ := command("lag", "--json")
	var groups []redis.GroupLag
	if err := json.Unmarshal([]byte(lagJSON), &groups); err != nil || len(groups) != 1 || groups[0].Lag < 4 {
		t.Errorf("lag says %s, %v", lagJSON, err)
	}

	// Who looks in the wrong place is told.
	if _, errs, _ := run(t, "events", "replay", "--redis", r.URL()); !strings.Contains(errs, "no events in lookout:events") {
		t.Errorf("an empty place: %q", errs)
	}
	if _, errs, code := run(t, "events", "replay"); code != 2 || !strings.Contains(errs, "--redis URL") {
		t.Errorf("no place at all: %d %q", code, errs)
	}

	found := ""
	for end := time.Now().Add(30 * time.Second); found == "" && time.Now().Before(end); {
		found, _, _ = run(t, "events", "search", "a person or a crate", "-k", "2", "--json")
	}
	var hit struct{ Event event.Event }
	if err := json.NewDecoder(strings.NewReader(found)).Decode(&hit); err != nil || hit.Event.Data.Stream != "yard" {
		t.Errorf("search found %.300s, %v", found, err)
	}

	if schema, _, _ := run(t, "events", "schema"); !json.Valid([]byte(schema)) || !strings.Contains(schema, event.SchemaID) {
		t.Error("the schema is none")
	}
	_ = demo.Process.Signal(os.Interrupt)
}
