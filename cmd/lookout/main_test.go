package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lookout-video/lookout/assets"
)

// The tests run the program itself: this test binary, told to be it.
func TestMain(m *testing.M) {
	if os.Getenv("LOOKOUT_BE_MAIN") == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "LOOKOUT_BE_MAIN=1", "XDG_STATE_HOME="+t.TempDir())
	return cmd
}

// run gives what the program printed, and its exit code.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := program(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func demoFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "demo.mp4")
	if err := os.WriteFile(path, assets.Demo, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDemo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	asked := make(chan bool)
	go func() { // somebody asks: the answer is theirs alone, and the demo must not wait for it on its own channel
		ok := false
		for range 60 {
			time.Sleep(100 * time.Millisecond)
			r, err := http.Post("http://"+addr+"/api/streams/yard/ask", "application/json", strings.NewReader(`{"question":"is the gate open?"}`))
			if err != nil {
				continue
			}
			r.Body.Close()
			if ok = r.StatusCode == http.StatusOK; ok {
				break
			}
		}
		asked <- ok
	}()
	out, errs, code := run(t, "demo", "--for", "8s", "--json", "--listen", addr)
	if !<-asked {
		t.Error("the demo answered no question")
	}
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	var s summary
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if dec.More() {
		t.Errorf("more than one object: %s", out)
	}
	if s.Events == 0 || s.RedisEntries != int64(s.Events) || s.DataChannelMessages != uint64(s.Events)-1 || s.Errors != 0 {
		t.Errorf("events %d, in Redis %d, over the data channel %d, errors %d", s.Events, s.RedisEntries, s.DataChannelMessages, s.Errors)
	}
	if s.Words == 0 || s.FramesDecoded == 0 || s.FramesEncoded == 0 || s.VideoPackets == 0 || s.Deltas == 0 || s.StartToFirstWord <= 0 || s.GlassToWord.P95 <= 0 {
		t.Errorf("got %+v", s)
	}
}

func TestDescribe(t *testing.T) {
	out, errs, code := run(t, "describe", "--json", demoFile(t))
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	n, last := 0, -1.0
	for line := range strings.Lines(out) {
		var s spoken
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if s.Kind == "description" && s.Phase != "end" {
			n++
			if s.Text == "" || len(s.Evidence) == 0 || s.T < last {
				t.Errorf("got %+v after %v s", s, last)
			}
			last = s.T
		}
	}
	if n < 10 {
		t.Errorf("%d descriptions of a lively minute", n)
	}
}

func TestAskAndClassify(t *testing.T) {
	path := demoFile(t)
	out, errs, code := run(t, "ask", path, "is there a person?", "--json")
	var r reply
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Probability == nil || *r.Probability < 0.5 || r.Answer != "yes" {
		t.Errorf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	out, errs, code = run(t, "classify", path, "--labels", "a person,a red van", "--for", "2s", "--json")
	if code != 0 || strings.Count(out, "\n") < 2 {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	var l labelled
	first, _, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(first), &l); err != nil || len(l.Labels) != 2 || l.Labels[0].Name != "a person" || l.Labels[0].Cosine == 0 {
		t.Errorf("%v: %s", err, first)
	}
}

// A camera never ends, but a question about it does.
func TestAskACamera(t *testing.T) {
	var picture bytes.Buffer
	if err := jpeg.Encode(&picture, image.NewGray(image.Rect(0, 0, 64, 64)), nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary=next")
		for {
			fmt.Fprintf(w, "--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n", picture.Len(), picture.Bytes())
			w.(http.Flusher).Flush()
			select {
			case <-time.After(40 * time.Millisecond):
			case <-done:
				return
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer srv.Close()
	defer close(done)
	out, errs, code := run(t, "ask", srv.URL, "is there a dog?", "--for", "4s", "--json")
	var r reply
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || !r.OutOfDomain || !r.CannotTell {
		t.Errorf("exit code %d, %v: %s%s", code, err, out, errs)
	}
}

// Whatever is wrong, the message names the thing and the fix, and the exit code
// is not 0.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	emptyModel := filepath.Join(dir, "model")
	if err := os.Mkdir(emptyModel, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"missing file":      {[]string{"describe", filepath.Join(dir, "none.mp4")}, 1, []string{"none.mp4", "check the path"}},
		"not a video":       {[]string{"describe", file("text.mp4", []byte("this is no video at all"))}, 1, []string{"text.mp4", "not readable as video"}},
		"audio only":        {[]string{"ask", "../../ingest/testdata/audio.wav", "is there a dog?"}, 1, []string{"audio.wav", "no video stream"}},
		"cut off":           {[]string{"describe", file("cut.mp4", assets.Demo[:2000])}, 1, []string{"cut.mp4", "cut off"}},
		"nobody there":      {[]string{"describe", "rtsp://user:secret@" + closed + "/x"}, 1, []string{closed, "cannot connect"}},
		"empty model":       {[]string{"describe", "--model", emptyModel, demoFile(t)}, 1, []string{emptyModel}},
		"no CUDA":           {[]string{"describe", "--device", "cuda", demoFile(t)}, 1, []string{"cuda"}},
		"bad device":        {[]string{"describe", "--device", "tpu", demoFile(t)}, 2, []string{"tpu", "cuda:N"}},
		"bad configuration": {[]string{"run", "-c", file("bad.yaml", []byte("streams:\n  - {name: a, url: x, rat: 2}\n"))}, 2, []string{"bad.yaml", "rat", "[2:"}},
		"no configuration":  {[]string{"run", "-c", filepath.Join(dir, "none.yaml")}, 2, []string{"none.yaml", "config print"}},
		"unknown flag":      {[]string{"demo", "--fro", "3s"}, 2, []string{"--fro", "--help"}},
		"missing argument":  {[]string{"ask", "x.mp4"}, 2, []string{"--help"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no CUDA" && os.Getenv("LOOKOUT_TEST_CUDA") == "1" {
				t.Skip("this machine has CUDA")
			}
			_, errs, code := run(t, c.args...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, w := range c.want {
				if !strings.Contains(errs, w) {
					t.Errorf("%q is not in: %s", w, errs)
				}
			}
			if strings.Contains(errs, "secret") {
				t.Errorf("a password in: %s", errs)
			}
			if strings.Contains(errs, "panic") || strings.Contains(errs, "goroutine ") {
				t.Errorf("it panicked: %s", errs)
			}
		})
	}
}

// A bit-flipped video costs pictures, not the program.
func TestFlippedBits(t *testing.T) {
	b := bytes.Clone(assets.Demo)
	for i := 50_000; i < len(b)-50_000; i += 9_973 {
		b[i] ^= 0x10
	}
	path := filepath.Join(t.TempDir(), "flipped.mp4")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := run(t, "describe", "--json", path)
	if code != 0 || !strings.Contains(out, `"kind":"description"`) {
		t.Errorf("exit code %d: %.300s%s", code, out, errs)
	}
}

// A file that is not there would never be done.
func TestRunUntilDoneWantsItsFiles(t *testing.T) {
	_, errs, code := run(t, "run", "--until-done", "--listen", "127.0.0.1:0", demoFile(t), "/nowhere/at-all.mp4")
	if code != 2 || !strings.Contains(errs, "stream2") || !strings.Contains(errs, "/nowhere/at-all.mp4") || strings.Contains(errs, "stream1") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

// run ends on SIGTERM with all its parts, and serves meanwhile; a stream that
// cannot be reached does not keep the others.
func TestRunServesAndEnds(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "lookout.yaml")
	yaml := "web: {listen: '127.0.0.1:0'}\nstreams:\n  - {name: good, url: " + demoFile(t) + ", loop: true}\n  - {name: gone, url: /nowhere/at-all.mp4}\n"
	if err := os.WriteFile(conf, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := program(t, "run", "-c", conf)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := make(chan string, 256)
	go func() {
		defer close(lines)
		dec := json.NewDecoder(stderr)
		for {
			var m map[string]any
			if dec.Decode(&m) != nil {
				return
			}
			if a, ok := m["address"].(string); ok {
				lines <- a
			}
		}
	}()
	var base string
	select {
	case base = <-lines:
	case <-time.After(20 * time.Second):
		t.Fatal("the page did not open")
	}
	get := func(path string) string {
		resp, err := http.Get(base + path)
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		s := get("/api/streams")
		if strings.Contains(s, `"live"`) && strings.Contains(s, `"reconnecting"`) && strings.Contains(get("/metrics"), `lookout_words_total{stream="good"}`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("one stream should be live and one away: %s", s)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestHelpTeaches(t *testing.T) {
	walk := func(args []string) {
		out, _, code := run(t, append(args, "--help")...)
		if code != 0 || !strings.Contains(out, "Usage:") {
			t.Errorf("%v: exit code %d: %s", args, code, out)
		}
	}
	for _, c := range newRoot().Commands() {
		walk([]string{c.Name()})
		if c.Example == "" && len(c.Commands()) == 0 && c.Name() != "version" {
			t.Errorf("%s has no example", c.Name())
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, code := run(t, "completion", shell); code != 0 || len(out) < 500 {
			t.Errorf("completion %s: exit code %d, %d bytes", shell, code, len(out))
		}
	}
}

func TestConfigCommands(t *testing.T) {
	out, _, code := run(t, "config", "print")
	if code != 0 || !strings.Contains(out, "streams: []") {
		t.Fatalf("exit code %d: %s", code, out)
	}
	path := filepath.Join(t.TempDir(), "lookout.yaml")
	if err := os.WriteFile(path, []byte(out+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := run(t, "config", "check", path); code != 0 || !strings.Contains(out, "right") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	t.Setenv("LOOKOUT_REDIS_PASSWORD", "hush")
	if out, _, code := run(t, "config", "print", "--effective"); code != 0 || strings.Contains(out, "hush") || !strings.Contains(out, "xxxxx") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if out, _, code := run(t, "config", "print", "--schema"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("exit code %d: %.100s", code, out)
	}
}
