package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/lookout-video/lookout/internal/testmodel"
)

// localHub serves a model of random weights as a hub does, as owner/tiny. Faults
// are for the tests of model/hub.
type localHub struct {
	files map[string][]byte

	mu sync.Mutex
	// held files stop half way until the channel is closed or the client goes.
	held   map[string]chan struct{}
	ranges []string // of the files that were asked for from some byte on
}

func newLocalHub(t *testing.T, archive string) *localHub {
	t.Helper()
	h := &localHub{files: map[string][]byte{}, held: map[string]chan struct{}{}}
	root := os.DirFS(testmodel.Unpack(t, archive))
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			h.files[name], err = fs.ReadFile(root, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	t.Setenv("HF_ENDPOINT", srv.URL)
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HF_HUB_OFFLINE", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	return h
}

// hold stops a file half way, and gives what lets it go on.
func (h *localHub) hold(name string) (release func()) {
	c := make(chan struct{})
	h.mu.Lock()
	h.held[name] = c
	h.mu.Unlock()
	return sync.OnceFunc(func() {
		h.mu.Lock()
		delete(h.held, name)
		h.mu.Unlock()
		close(c)
	})
}

func (h *localHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const api, commit = "/api/models/owner/tiny/", "0123456789abcdef0123456789abcdef01234567"
	name, isFile := strings.CutPrefix(r.URL.Path, "/owner/tiny/resolve/"+commit+"/")
	data, known := h.files[name]
	switch {
	case r.URL.Path == api+"revision/main":
		fmt.Fprintf(w, `{"sha":%q}`, commit)
	case r.URL.Path == api+"tree/"+commit:
		var list []map[string]any
		for name, data := range h.files {
			sum := sha256.Sum256(data)
			list = append(list, map[string]any{"type": "file", "path": name, "size": len(data), "lfs": map[string]any{"oid": hex.EncodeToString(sum[:]), "size": len(data)}})
		}
		_ = json.NewEncoder(w).Encode(list) // a client that went away sees to itself
	case isFile && known:
		h.mu.Lock()
		held := h.held[name]
		if from := r.Header.Get("Range"); from != "" {
			h.ranges = append(h.ranges, name+" "+from)
		}
		h.mu.Unlock()
		if held == nil {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-held:
			_, _ = w.Write(data[len(data)/2:])
		case <-r.Context().Done():
		}
	default:
		http.NotFound(w, r)
	}
}

// display is what a terminal of that size would show after raw, scrolled-off
// lines included, and where the cursor is then. It knows the little that
// progress bars need, and fails at anything else.
func display(t *testing.T, raw []byte, cols, height int) (lines []string, column int) {
	t.Helper()
	cells, row, col, top := [][]rune{nil}, 0, 0, 0
	down := func() {
		if row++; row == len(cells) {
			cells = append(cells, nil)
		}
		top = max(top, row-height+1)
	}
	escape := regexp.MustCompile(`^\x1b\[(\d*)([A-Za-z])`)
	for len(raw) > 0 {
		if m := escape.FindSubmatch(raw); m != nil {
			n, _ := strconv.Atoi(string(m[1])) // none is 0
			switch {
			case m[2][0] == 'A':
				row = max(top, row-max(n, 1))
			case m[2][0] == 'J' && n == 0:
				cells = cells[:row+1]
				cells[row] = cells[row][:min(col, len(cells[row]))]
			default:
				t.Fatalf("the terminal was told %q", m[0])
			}
			raw = raw[len(m[0]):]
			continue
		}
		if raw[0] == 0x1b || !utf8.FullRune(raw) {
			break // not all of it has come
		}
		r, n := utf8.DecodeRune(raw)
		raw = raw[n:]
		switch {
		case r == '\r':
			col = 0
		case r == '\n':
			down()
		case r < ' ' || r == utf8.RuneError:
			t.Fatalf("the terminal was sent %U", r)
		default:
			if col == cols {
				down()
				col = 0
			}
			for len(cells[row]) <= col {
				cells[row] = append(cells[row], ' ')
			}
			cells[row][col] = r
			col++
		}
	}
	for _, c := range cells {
		lines = append(lines, strings.TrimRight(string(c), " "))
	}
	return lines, col
}

// inTerminal is the program in a pseudo-terminal of its own.
type inTerminal struct {
	t            *testing.T
	cmd          *exec.Cmd
	ours         *os.File
	cols, height int
	raw          []byte
}

func startInTerminal(t *testing.T, cols, height int, args ...string) *inTerminal {
	t.Helper()
	theirs, ours := terminal(t)
	if err := unix.IoctlSetWinsize(int(theirs.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(cols)}); err != nil {
		t.Fatal(err)
	}
	p := &inTerminal{t: t, cmd: program(t, args...), ours: ours, cols: cols, height: height}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs, theirs, theirs
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // does nothing after Wait
	if err := ours.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return p
}

// until reads what the program shows until ok is content.
func (p *inTerminal) until(ok func(lines []string) bool) {
	p.t.Helper()
	buf := make([]byte, 4096)
	for {
		if lines, _ := display(p.t, p.raw, p.cols, p.height); ok(lines) {
			return
		}
		n, err := p.ours.Read(buf)
		if err != nil {
			p.t.Fatalf("%v after %q", err, p.raw)
		}
		p.raw = append(p.raw, buf[:n]...)
	}
}

// end waits for the program's end, and gives what is left on the terminal.
func (p *inTerminal) end() (lines []string, code int) {
	p.t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := p.ours.Read(buf)
		p.raw = append(p.raw, buf[:n]...)
		if os.IsTimeout(err) {
			p.t.Fatalf("it does not end: %q", p.raw)
		}
		if err != nil {
			break // nobody has the terminal open any more
		}
	}
	_ = p.cmd.Wait() // the exit code says it
	lines, column := display(p.t, p.raw, p.cols, p.height)
	if last := lines[len(lines)-1]; column != 0 || last != "" {
		p.t.Errorf("the cursor is left in column %d of %q", column, last)
	}
	for _, l := range lines {
		if utf8.RuneCountInString(l) > p.cols {
			p.t.Errorf("%q is wider than the terminal", l)
		}
	}
	return lines[:len(lines)-1], p.cmd.ProcessState.ExitCode()
}

const tiny = "../../vlm/testdata/smolvlm-a.tar.gz"

// A name from the hub works at first try: it is pulled, verified, and answers.
func TestModelsPullAndUse(t *testing.T) {
	h := newLocalHub(t, tiny)
	out, errs, code := run(t, "models", "pull", "owner/tiny")
	dir := strings.TrimSpace(out)
	if code != 0 || filepath.Base(dir) != "owner--tiny" || strings.Count(out, "\n") != 1 {
		t.Fatalf("exit code %d: %q%s", code, out, errs)
	}
	// Elsewhere than on a terminal: a line a file, and nothing that moves a cursor.
	for _, name := range []string{"config.json", "onnx/decoder_model_merged.onnx"} {
		if want := fmt.Sprintf("%s: %d bytes\n", name, len(h.files[name])); strings.Count(errs, want) != 1 {
			t.Errorf("%q is not once in %q", want, errs)
		}
	}
	if strings.ContainsAny(errs, "\x1b\r") {
		t.Errorf("a bar where there is no terminal: %q", errs)
	}
	if out, errs, code := run(t, "models", "verify", "owner/tiny"); code != 0 || !strings.Contains(out, "as it was pulled") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	if out, errs, code := run(t, "models", "show", "owner/tiny"); code != 0 || !strings.Contains(out, "smolvlm") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	out, errs, code = run(t, "ask", "--model", "owner/tiny", demoFile(t), "is it open?", "--json")
	var r reply
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Answer == "" {
		t.Errorf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	// What is there only in another precision is not taken for it.
	for _, args := range [][]string{{"models", "pull", "owner/tiny"}, {"describe", "--model", "owner/tiny", demoFile(t)}} {
		_, errs, code := run(t, append(args, "--precision", "q4")...)
		if code != 1 || !strings.Contains(errs, "q4") || !strings.Contains(errs, "there is fp32") {
			t.Errorf("%v: exit code %d: %s", args, code, errs)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "onnx", "embed_tokens.onnx"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := run(t, "models", "verify", "owner/tiny"); code != 1 || !strings.Contains(errs, "embed_tokens.onnx") || !strings.Contains(errs, "pull it again") {
		t.Errorf("a broken file: exit code %d: %s", code, errs)
	}
}

// The list names what there is to pull, with what it costs, and what is here.
func TestModelsList(t *testing.T) {
	newLocalHub(t, tiny)
	list := func() (here []string) {
		t.Helper()
		out, errs, code := run(t, "models", "list", "--json")
		var rows []struct {
			Name, Repo, Layout, License string
			Size                        int `json:"download_mb"`
			Memory                      int `json:"memory_mb"`
			Here                        bool
		}
		if err := json.Unmarshal([]byte(out), &rows); err != nil || code != 0 || len(rows) < 5 {
			t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
		}
		for _, r := range rows {
			if r.Here {
				here = append(here, r.Name)
			}
			if r.Name == "" || r.Repo == "" || r.Layout == "" || !r.Here && (r.License == "" || r.Size == 0 || r.Memory < r.Size/3) {
				t.Errorf("%+v", r)
			}
		}
		return here
	}
	if here := list(); len(here) > 0 {
		t.Errorf("%v here before anything was pulled", here)
	}
	if _, errs, code := run(t, "models", "pull", "owner/tiny"); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	if here := list(); len(here) != 1 || here[0] != "owner/tiny" {
		t.Errorf("%v here", here)
	}
	if out, _, code := run(t, "models", "list"); code != 0 || !regexp.MustCompile(`(?m)^owner/tiny +smolvlm +yes$`).MatchString(out) {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// On a terminal what takes a while has a bar, and each file is told of once.
func TestModelsPullDrawsBars(t *testing.T) {
	const held = "onnx/decoder_model_merged.onnx"
	for _, c := range []struct {
		cols, height int
		half         string // how the bar of the file that takes a while looks half way; empty: there is no room for bars
	}{
		{100, 40, `(?m)^ +(49|50) % +onnx/decoder_model_merged\.onnx +[0-9.]+ KiB / [0-9.]+ KiB \[=+>-+\]$`},
		{24, 40, `(?m)^ +(49|50) % +onnx/decoder_mod`},
		{100, 6, ""},
	} {
		t.Run(fmt.Sprintf("%dx%d", c.cols, c.height), func(t *testing.T) {
			h := newLocalHub(t, tiny)
			release := h.hold(held)
			defer release()
			p := startInTerminal(t, c.cols, c.height, "models", "pull", "owner/tiny")
			if c.half != "" {
				half := regexp.MustCompile(c.half)
				p.until(func(lines []string) bool { return half.MatchString(strings.Join(lines, "\n")) })
			}
			release()
			lines, code := p.end()
			text := strings.Join(lines, "\n")
			t.Logf("\n%s", text)
			if code != 0 {
				t.Fatalf("exit code %d", code)
			}
			if c.half == "" && bytes.ContainsRune(p.raw, 0x1b) {
				t.Errorf("bars where there is no room for them: %q", p.raw)
			}
			for name := range h.files {
				start := regexp.QuoteMeta(name[:min(len(name), 14)]) // narrow terminals show no more
				bars := len(regexp.MustCompile(`(?m)^ *100 % +`+start).FindAllString(text, -1))
				told := len(regexp.MustCompile(`(?m)^`+start).FindAllString(text, -1))
				if want := map[bool]int{true: 1}[name != "golden.bin"]; bars+told != want { // which is nothing that a model needs
					t.Errorf("%d bars and %d lines of %s, want %d", bars, told, name, want)
				}
				if name == held && (bars == 1) != (c.half != "") {
					t.Errorf("%d bars of %s", bars, name)
				}
			}
			// Nothing of what was drawn before is left, and the folder comes last.
			if left := regexp.MustCompile(`(?m)^ *\d\d? %.*$`).FindString(text); left != "" {
				t.Errorf("%q is left", left)
			}
			if dir := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "lookout", "models", "owner--tiny"); !strings.HasSuffix(strings.Join(lines, ""), dir) {
				t.Errorf("the folder is not told last")
			}
		})
	}
}

// Ctrl-C leaves the terminal as it was, and the next pull goes on where it was.
func TestModelsPullInterrupted(t *testing.T) {
	const held = "onnx/decoder_model_merged.onnx"
	h := newLocalHub(t, tiny)
	release := h.hold(held)
	defer release()
	p := startInTerminal(t, 100, 40, "models", "pull", "owner/tiny")
	before, err := unix.IoctlGetTermios(int(p.ours.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "lookout", "models", "owner--tiny", filepath.FromSlash(held)+".part")
	half := regexp.MustCompile(`(?m)^ +(49|50) % +onnx/decoder_model_merged\.onnx `)
	p.until(func(lines []string) bool { return half.MatchString(strings.Join(lines, "\n")) })
	if _, err := p.ours.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	lines, code := p.end()
	t.Logf("\n%s", strings.Join(lines, "\n"))
	if code != exitSignal {
		t.Errorf("exit code %d, want %d", code, exitSignal)
	}
	if n := len(half.FindAllString(strings.Join(lines, "\n"), -1)); n != 1 {
		t.Errorf("%d bars of the file that was interrupted", n)
	}
	for _, l := range lines { // no ^C, and no piece of what was drawn before
		if !regexp.MustCompile(`^ *\d+ % +[a-z].*\]$|^[a-z_./]+: \d+ bytes$`).MatchString(l) {
			t.Errorf("%q is neither a bar nor a line", l)
		}
	}
	after, err := unix.IoctlGetTermios(int(p.ours.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal's settings are %+v, were %+v, %v", after, before, err)
	}
	st, err := os.Stat(part)
	if err != nil || st.Size() != int64(len(h.files[held])/2) {
		t.Fatalf("what was brought is not kept: %v, %v", st, err)
	}
	release()
	if _, errs, code := run(t, "models", "pull", "owner/tiny"); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	h.mu.Lock()
	if want := fmt.Sprintf("%s bytes=%d-", held, st.Size()); len(h.ranges) != 1 || h.ranges[0] != want {
		t.Errorf("asked for %q, want %q", h.ranges, want)
	}
	h.mu.Unlock()
	if _, errs, code := run(t, "models", "verify", "owner/tiny"); code != 0 {
		t.Errorf("exit code %d: %s", code, errs)
	}
}
