// Killtest shows that no event is lost, doubled or put out of order on its way
// into Redis: it kills both sides at random, makes the server full, read-only,
// slow and deaf, and then compares what was emitted with what is in Redis.
//
// Its last line is one JSON object; it exits 1 unless lost, doubled and
// out_of_order are 0.
//
// The server keeps its data by appendfsync everysec, the weaker of the two
// usual settings: after a kill it may come back without its newest writes, and
// the outbox must notice and send them again.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
	"github.com/lookout-video/lookout/output/redis"
)

// childEnv makes this program the child that emits events.
const childEnv = "LOOKOUT_KILLTEST_CHILD"

// Config configures a run.
type Config struct {
	For     time.Duration
	Seed    uint64
	Cameras int
	Fsync   string // the server's appendfsync
	Dir     string
	Out     io.Writer // progress
}

// Report is the result. Lost, Doubled and OutOfOrder count both the cameras' own
// streams and the stream of all cameras.
type Report struct {
	Seed       uint64  `json:"seed"`
	Seconds    float64 `json:"seconds"`
	Emitted    int     `json:"emitted"`  // events that Publish returned nil for, and events in doubt that are there
	InRedis    int     `json:"in_redis"` // in the cameras' own streams
	InRedisAll int     `json:"in_redis_all"`
	Lost       int     `json:"lost"`
	Doubled    int     `json:"doubled"`
	OutOfOrder int     `json:"out_of_order"`
	Unknown    int     `json:"unknown"`  // in Redis but never emitted
	InDoubt    int     `json:"in_doubt"` // Publish was cut off by a kill: may or may not be there
	Kills      int     `json:"kills"`
	KilledUs   int     `json:"killed_lookout"`
	KilledSrv  int     `json:"killed_redis"`
	Full       int     `json:"redis_out_of_memory"`
	ReadOnly   int     `json:"redis_read_only"`
	Paused     int     `json:"redis_paused"`
	Stopped    int     `json:"redis_stopped"`
}

// OK tells whether the promise was kept, and that anything was put to the test.
func (r *Report) OK() bool {
	return r.Emitted > 0 && r.Kills > 0 && r.Lost == 0 && r.Doubled == 0 && r.OutOfOrder == 0 && r.Unknown == 0 &&
		r.InRedis == r.Emitted && r.InRedisAll == r.Emitted
}

func main() {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, "killtest child:", err)
			os.Exit(1)
		}
		return
	}
	cfg := Config{Out: os.Stderr}
	flag.DurationVar(&cfg.For, "for", 2*time.Minute, "how long to kill")
	flag.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().UnixNano())%1e9, "of the random faults")
	flag.IntVar(&cfg.Cameras, "cameras", 4, "how many cameras emit")
	flag.StringVar(&cfg.Fsync, "appendfsync", "everysec", "the server's: everysec or always")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "lookout-kill-")
	if err == nil {
		defer os.RemoveAll(dir)
		cfg.Dir = dir
		var r *Report
		if r, err = Run(ctx, cfg); err == nil {
			b, _ := json.Marshal(r)
			fmt.Println(string(b))
			if !r.OK() {
				err = errors.New("the promise was broken")
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "killtest:", err)
		_ = os.RemoveAll(dir)
		os.Exit(1) //nolint:gocritic // what is deferred has been done
	}
}

type tester struct {
	cfg  Config
	rnd  *rand.Rand
	port int
	srv  *redis.Server
	cmd  *exec.Cmd
	rep  Report
	ctx  context.Context
}

// Run runs the whole test.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &tester{cfg: cfg, rnd: rand.New(rand.NewPCG(cfg.Seed, 1)), ctx: ctx, rep: Report{Seed: cfg.Seed}}
	fmt.Fprintf(cfg.Out, "killtest: seed %d, %v, %d cameras, appendfsync %s\n", cfg.Seed, cfg.For, cfg.Cameras, cfg.Fsync)
	if err := t.startServer(); err != nil {
		return nil, err
	}
	defer func() { _ = t.srv.Close() }()
	if err := t.startChild(); err != nil {
		return nil, err
	}
	defer func() { _ = t.cmd.Process.Kill(); _ = t.cmd.Wait() }()

	began := time.Now()
	for time.Since(began) < cfg.For {
		if err := t.sleep(100, 1500); err != nil {
			return nil, err
		}
		if err := t.fault(); err != nil {
			return nil, err
		}
	}
	// All is well again: what waits must arrive.
	if err := t.childReady(); err != nil {
		return nil, err
	}
	if err := t.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil, fmt.Errorf("the child is gone: %w", err)
	}
	if err := t.cmd.Wait(); err != nil {
		return nil, fmt.Errorf("the child could not deliver what waited: %w", err)
	}
	t.rep.Seconds = time.Since(began).Seconds()
	if err := t.compare(); err != nil {
		return nil, err
	}
	return &t.rep, nil
}

func (t *tester) sleep(from, to int) error {
	select {
	case <-time.After(time.Duration(from+t.rnd.IntN(to-from)) * time.Millisecond):
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

func (t *tester) startServer() error {
	srv, err := redis.StartServer(t.ctx, filepath.Join(t.cfg.Dir, "redis"), t.port, "--save", "", "--appendonly", "yes",
		"--appendfsync", t.cfg.Fsync, "--maxmemory-policy", "noeviction")
	if err != nil {
		return err
	}
	t.srv = srv
	_, port, _ := net.SplitHostPort(srv.Addr())
	t.port, err = strconv.Atoi(port) // it comes back on the same port
	return err
}

func (t *tester) startChild() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	t.cmd = exec.Command(self)
	t.cmd.Env = append(os.Environ(), childEnv+"="+t.cfg.Dir, "KILLTEST_REDIS="+t.srv.URL(), fmt.Sprint("KILLTEST_CAMERAS=", t.cfg.Cameras))
	t.cmd.Stderr = t.cfg.Out
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	_ = os.Remove(readyPath(t.cfg.Dir))
	return t.cmd.Start()
}

// readyPath is a file that the child makes once it heeds SIGTERM.
func readyPath(dir string) string { return filepath.Join(dir, "ready") }

// childReady waits for a child that the last fault may just have started: a
// SIGTERM before it listens would kill it.
func (t *tester) childReady() error {
	for range 600 {
		if _, err := os.Stat(readyPath(t.cfg.Dir)); err == nil {
			return nil
		}
		if err := t.sleep(50, 51); err != nil {
			return err
		}
	}
	return errors.New("the child is not ready after 30 seconds")
}

// fault does one thing that goes wrong in the field, and mends it.
func (t *tester) fault() error {
	admin, err := redis.Open(redis.Config{URL: t.srv.URL()})
	if err != nil {
		return err
	}
	defer admin.Close()
	do := func(args ...any) error {
		ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second)
		defer cancel()
		if err := admin.Redis().Do(ctx, args...).Err(); err != nil {
			return fmt.Errorf("%v: %w", args, err)
		}
		return nil
	}
	killChild := func() error {
		t.rep.KilledUs++
		_ = t.cmd.Process.Kill()
		_ = t.cmd.Wait()
		return nil
	}
	killServer := func() error {
		t.rep.KilledSrv++
		t.srv.Kill()
		return nil
	}
	switch n := t.rnd.IntN(10); n {
	case 0, 1, 2:
		return errors.Join(killChild(), t.sleep(1, 300), t.startChild())
	case 3, 4, 5:
		return errors.Join(killServer(), t.sleep(1, 1500), t.startServer())
	case 6: // both
		return errors.Join(killServer(), killChild(), t.startChild(), t.sleep(1, 1000), t.startServer())
	case 7:
		t.rep.Full++
		return errors.Join(do("CONFIG", "SET", "maxmemory", "1"), t.sleep(200, 2000), do("CONFIG", "SET", "maxmemory", "0"))
	case 8:
		t.rep.ReadOnly++
		return errors.Join(do("REPLICAOF", "127.0.0.1", "1"), t.sleep(200, 2000), do("REPLICAOF", "NO", "ONE"))
	default:
		if t.rnd.IntN(2) == 0 {
			t.rep.Paused++
			return errors.Join(do("CLIENT", "PAUSE", 200+t.rnd.IntN(1500), "WRITE"), t.sleep(200, 500))
		}
		// Requests pile up in the socket and are worked off after they were given
		// up and sent again.
		t.rep.Stopped++
		return errors.Join(t.srv.Process().Signal(syscall.SIGSTOP), t.sleep(200, 3000), t.srv.Process().Signal(syscall.SIGCONT))
	}
}

type name struct {
	stream string
	seq    uint64
}

// compare holds what was emitted against what is in Redis.
func (t *tester) compare() error {
	r := &t.rep
	r.Kills = r.KilledUs + r.KilledSrv
	meant, sure := map[name]bool{}, map[name]bool{}
	for i := range t.cfg.Cameras {
		f, err := os.Open(journalPath(t.cfg.Dir, camera(i)))
		if err != nil {
			return err
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			what, num, ok := strings.Cut(sc.Text(), " ")
			seq, err := strconv.ParseUint(num, 10, 64)
			if !ok || err != nil {
				continue // cut off by a kill
			}
			meant[name{camera(i), seq}] = true
			if what == "done" {
				sure[name{camera(i), seq}] = true
			}
		}
		_ = f.Close()
	}
	r.InDoubt = len(meant) - len(sure)

	c, err := redis.Open(redis.Config{URL: t.srv.URL()})
	if err != nil {
		return err
	}
	defer c.Close()
	inAny := map[name]bool{}
	count := func(key string) (int, error) {
		last, seen := map[string]uint64{}, map[name]bool{}
		n := 0
		for e, err := range c.Replay(t.ctx, redis.ReplayOptions{Key: key}) {
			if err != nil {
				return 0, err
			}
			n++
			d := e.Event.Data
			m := name{d.Stream, d.Seq}
			switch {
			case seen[m]:
				r.Doubled++
			case d.Seq <= last[d.Stream]:
				r.OutOfOrder++
			}
			if !meant[m] {
				r.Unknown++
			}
			seen[m], inAny[m], last[d.Stream] = true, true, max(d.Seq, last[d.Stream])
		}
		for m := range sure {
			if !seen[m] && (key == c.Config().AllKey() || key == c.Config().EventsKey(m.stream)) {
				r.Lost++
			}
		}
		return n, nil
	}
	for i := range t.cfg.Cameras {
		n, err := count(c.Config().EventsKey(camera(i)))
		if err != nil {
			return err
		}
		r.InRedis += n
	}
	if r.InRedisAll, err = count(c.Config().AllKey()); err != nil {
		return err
	}
	r.Emitted = len(sure)
	for m := range meant {
		if !sure[m] && inAny[m] {
			r.Emitted++
		}
	}
	return nil
}

func camera(i int) string                { return fmt.Sprint("cam", i) }
func journalPath(dir, cam string) string { return filepath.Join(dir, cam+".journal") }

// journal notes, safe on disk, what is about to be published and what was.
type journal struct {
	f   *os.File
	out *outbox.Outbox
}

func (j journal) note(what string, seq uint64) error {
	// The newline in front ends a line that a kill cut off.
	if _, err := fmt.Fprintf(j.f, "\n%s %d\n", what, seq); err != nil {
		return err
	}
	return j.f.Sync()
}

func (j journal) Publish(ctx context.Context, ev *event.Event) error {
	if err := j.note("will", ev.Data.Seq); err != nil {
		return err
	}
	if err := j.out.Publish(ctx, ev); err != nil {
		return err
	}
	return j.note("done", ev.Data.Seq)
}

// child emits events from several cameras until SIGTERM, then delivers what
// waits.
func child() error {
	dir, url := os.Getenv(childEnv), os.Getenv("KILLTEST_REDIS")
	cameras, _ := strconv.Atoi(os.Getenv("KILLTEST_CAMERAS"))
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := os.WriteFile(readyPath(dir), nil, 0o600); err != nil {
		return err
	}
	client, err := redis.Open(redis.Config{URL: url, MaxLen: -1, AllMaxLen: -1, Timeout: time.Second, DialTimeout: time.Second})
	if err != nil {
		return err
	}
	box, err := outbox.Open(outbox.Config{Path: filepath.Join(dir, "outbox.db"), MaxEvents: 1e7, MaxBytes: 1 << 40,
		Linger: 5 * time.Second, Timeout: 3 * time.Second, MaxBackoff: time.Second}, client)
	if err != nil {
		return err
	}
	defer box.Close()
	if aside := box.Stats().MovedAside; aside != "" {
		return fmt.Errorf("a kill damaged the outbox: %s", aside)
	}
	seq, err := event.OpenSequencer(filepath.Join(dir, "seq.json"))
	if err != nil {
		return err
	}
	defer seq.Close()
	run, end := context.WithCancel(context.Background())
	defer end()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() { _ = box.Run(run) })

	emitters, errs := sync.WaitGroup{}, make(chan error, cameras)
	for i := range cameras {
		f, err := os.OpenFile(journalPath(dir, camera(i)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		e := event.NewEmitter(seq, nil, journal{f, box})
		emitters.Go(func() {
			for ctx.Err() == nil {
				ev := event.New(event.TypeDescription, time.Time{}, event.Data{Stream: camera(i), EventID: event.NewID(),
					Phase: event.Start, Text: strings.Repeat("a red van. ", 1+rand.IntN(30))})
				if err := e.Emit(context.Background(), ev); err != nil {
					errs <- err
					return
				}
				select {
				case <-time.After(time.Duration(rand.IntN(60)) * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	emitters.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	flush, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return box.Flush(flush)
}
