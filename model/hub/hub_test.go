package hub

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const commit = "0123456789abcdef0123456789abcdef01234567"

// fakeHub is a hub and, on another address, the storage it redirects to.
type fakeHub struct {
	t       *testing.T
	api, s3 *httptest.Server
	files   map[string][]byte
	token   string

	mu sync.Mutex
	// fault may answer a request itself. n counts the requests for that path.
	fault    func(w http.ResponseWriter, r *http.Request, n int) bool
	counts   map[string]int
	requests []string // with their Range
}

func newHub(t *testing.T) *fakeHub {
	h := &fakeHub{t: t, counts: map[string]int{}, files: map[string][]byte{
		"config.json": []byte(`{"model_type":"smolvlm"}`), "tokenizer.json": blob(20 << 10), "README.md": []byte("# model"),
		"onnx/vision_encoder.onnx": blob(700 << 10), "onnx/embed_tokens.onnx": blob(300 << 10), "onnx/decoder_model_merged.onnx": blob(1 << 20),
		"onnx/decoder_model_merged_q4.onnx": blob(1000), "model.safetensors": blob(5000), "pictures/a.png": blob(10),
		"empty.txt": {},
	}}
	h.s3 = httptest.NewServer(http.HandlerFunc(h.storage))
	h.api = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.s3.Close)
	t.Cleanup(h.api.Close)
	return h
}

func blob(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b) // never fails
	return b
}

// count notes a request and reports whether the fault answered it.
func (h *fakeHub) count(w http.ResponseWriter, r *http.Request) bool {
	h.mu.Lock()
	n := h.counts[r.URL.Path]
	h.counts[r.URL.Path]++
	h.requests = append(h.requests, r.URL.Path+" "+r.Header.Get("Range"))
	fault := h.fault
	h.mu.Unlock()
	return fault != nil && fault(w, r, n)
}

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	if h.count(w, r) {
		return
	}
	if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	switch {
	case r.URL.Path == "/api/models/owner/name/revision/main":
		fmt.Fprintf(w, `{"sha":%q}`, commit)
	case r.URL.Path == "/api/models/owner/name/tree/"+commit:
		h.tree(w, r)
	case strings.HasPrefix(r.URL.Path, "/owner/name/resolve/"+commit+"/"):
		name := strings.TrimPrefix(r.URL.Path, "/owner/name/resolve/"+commit+"/")
		data, ok := h.files[name]
		if !ok {
			http.NotFound(w, r)
		} else if strings.HasPrefix(name, "onnx/") {
			http.Redirect(w, r, h.s3.URL+"/"+name, http.StatusFound)
		} else {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}
	default:
		http.NotFound(w, r)
	}
}

// tree lists three files a page.
func (h *fakeHub) tree(w http.ResponseWriter, r *http.Request) {
	var names []string
	for n := range h.files {
		names = append(names, n)
	}
	slices.Sort(names)
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	to := min(from+3, len(names))
	list := []map[string]any{{"type": "directory", "path": "onnx", "oid": "x", "size": 0}}
	for _, n := range names[from:to] {
		data := h.files[n]
		e := map[string]any{"type": "file", "path": n, "size": len(data)}
		if strings.HasPrefix(n, "onnx/") {
			sum := sha256.Sum256(data)
			e["oid"], e["lfs"] = "pointer", map[string]any{"oid": hex.EncodeToString(sum[:]), "size": len(data), "pointerSize": 130}
		} else {
			sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...))
			e["oid"] = hex.EncodeToString(sum[:])
		}
		list = append(list, e)
	}
	if to < len(names) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s://%s%s?recursive=true&cursor=%d>; rel="next"`, scheme, r.Host, r.URL.Path, to))
	}
	_ = json.NewEncoder(w).Encode(list) // a client that went away is its own test
}

func (h *fakeHub) storage(w http.ResponseWriter, r *http.Request) {
	if h.count(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "" {
		h.t.Error("the token was sent to the storage")
	}
	data, ok := h.files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Etag", `"x"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (h *fakeHub) options(t *testing.T) Options {
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HF_ENDPOINT", "")
	t.Setenv("HF_HUB_OFFLINE", "")
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return Options{Dir: t.TempDir(), Endpoint: h.api.URL, Client: &http.Client{Transport: tr}, Backoff: time.Millisecond, Retries: 5, Files: Needed("fp32", false),
		sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func ref(t *testing.T) Ref {
	r, err := ParseRef("owner/name")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// whole compares what lies there with what the hub has.
func (h *fakeHub) whole(t *testing.T, dir string) {
	t.Helper()
	wanted, err := Needed("fp32", false)(slices.Collect(maps.Keys(h.files)))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range h.files {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if slices.Contains(wanted, name) != (err == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
	err = filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(p, part) {
			t.Errorf("%s was left", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := Verify(context.Background(), dir); err != nil {
		t.Error(err)
	}
}

func TestPull(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	var mu sync.Mutex
	done := map[string]int64{}
	o.Progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Done < done[p.File] || p.Done > p.Total {
			t.Errorf("progress of %s went from %d to %d of %d", p.File, done[p.File], p.Done, p.Total)
		}
		done[p.File] = p.Done
	}
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(o.Dir, "owner--name"); dir != want {
		t.Errorf("%s, want %s", dir, want)
	}
	h.whole(t, dir)
	if _, told := done["empty.txt"]; !told || done["onnx/decoder_model_merged.onnx"] != 1<<20 {
		t.Errorf("progress %v", done)
	}
	// What is there is not fetched again.
	h.requests = nil
	if _, err := Pull(t.Context(), ref(t), o); err != nil {
		t.Fatal(err)
	}
	for _, r := range h.requests {
		if !strings.HasPrefix(r, "/api/") {
			t.Errorf("fetched again: %s", r)
		}
	}
	// A file that was changed is.
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type":"smolvln"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Verify(t.Context(), dir); !errors.Is(err, ErrHash) || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("verify of a changed file: %v", err)
	}
	if _, err := Pull(t.Context(), ref(t), o); err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
	// Without a network what is there is given.
	t.Setenv("HF_HUB_OFFLINE", "1")
	h.requests = nil
	if _, err := Pull(t.Context(), ref(t), o); err != nil || len(h.requests) > 0 {
		t.Errorf("offline: %v, %d requests", err, len(h.requests))
	}
	if _, err := Pull(t.Context(), Ref{"owner/other", "main"}, o); !errors.Is(err, ErrOffline) {
		t.Errorf("offline, not there: %v", err)
	}
}

func TestTokenAndMirror(t *testing.T) {
	h := newHub(t)
	h.token = "secret"
	o := h.options(t)
	_, err := Pull(t.Context(), ref(t), o)
	if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "HF_TOKEN") {
		t.Errorf("without a token: %v", err)
	}
	o.Endpoint = ""
	t.Setenv("HF_ENDPOINT", h.api.URL+"/")
	t.Setenv("HF_TOKEN", "wrong-token")
	_, err = Pull(t.Context(), ref(t), o)
	if !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "wrong-token") {
		t.Errorf("with a wrong token: %v", err)
	}
	t.Setenv("HF_TOKEN", "secret")
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
}

func TestFaultsThatPass(t *testing.T) {
	big := "/onnx/decoder_model_merged.onnx"
	drop := func(w http.ResponseWriter, data []byte, from, n int) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(data[from : from+n])
		panic(http.ErrAbortHandler)
	}
	for name, fault := range map[string]func(h *fakeHub) func(http.ResponseWriter, *http.Request, int) bool{
		"drops": func(h *fakeHub) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path != big || n >= 8 { // more often than Retries: headway counts
					return false
				}
				from := 0
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil && n > 0 {
					t.Errorf("request %d has the range %q", n, r.Header.Get("Range"))
				}
				drop(w, h.files[big[1:]], from, 100_000)
				return true
			}
		},
		"429 and 503": func(*fakeHub) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, _ *http.Request, n int) bool {
				if n >= 2 {
					return false
				}
				w.Header().Set("Retry-After", "2")
				w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[n])
				return true
			}
		},
		"connections closed": func(*fakeHub) func(http.ResponseWriter, *http.Request, int) bool {
			return func(_ http.ResponseWriter, _ *http.Request, n int) bool {
				if n == 0 {
					panic(http.ErrAbortHandler)
				}
				return false
			}
		},
		"wrong once": func(h *fakeHub) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path != big || n > 0 {
					return false
				}
				_, _ = w.Write(make([]byte, len(h.files[big[1:]])))
				return true
			}
		},
		"no ranges after a drop": func(h *fakeHub) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path != big {
					return false
				}
				if n == 0 {
					drop(w, h.files[big[1:]], 0, 70_000)
				}
				_, _ = w.Write(h.files[big[1:]])
				return true
			}
		},
		"416 after a drop": func(h *fakeHub) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path == big && n == 0 {
					drop(w, h.files[big[1:]], 0, 70_000)
				}
				if r.URL.Path == big && n == 1 {
					w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
					return true
				}
				return false
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.fault = fault(h)
			o := h.options(t)
			var mu sync.Mutex
			var waits []time.Duration
			o.sleep = func(ctx context.Context, d time.Duration) error {
				mu.Lock()
				defer mu.Unlock()
				waits = append(waits, d)
				return ctx.Err()
			}
			dir, err := Pull(t.Context(), ref(t), o)
			if err != nil {
				t.Fatal(err)
			}
			h.whole(t, dir)
			if name == "429 and 503" && (len(waits) == 0 || slices.Min(waits) < 2*time.Second) {
				t.Errorf("Retry-After was not kept: %v", waits)
			}
		})
	}
}

func TestFaultsThatStay(t *testing.T) {
	big := "/onnx/decoder_model_merged.onnx"
	for name, c := range map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request, n int) bool
		want  error
	}{
		"401": {func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(401); return true }, ErrUnauthorized},
		"403": {func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				w.WriteHeader(403)
			}
			return r.URL.Path == big
		}, ErrUnauthorized},
		"404": {func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(404); return true }, ErrNotFound},
		"500": {func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(500); return true }, ErrUnavailable},
		"wrong hash": {func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				_, _ = w.Write(make([]byte, 1<<20))
			}
			return r.URL.Path == big
		}, ErrHash},
		"too long": {func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				_, _ = w.Write(make([]byte, 2<<20))
			}
			return r.URL.Path == big
		}, ErrHash},
		"a redirect in a circle": {func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				http.Redirect(w, r, big, http.StatusFound)
			}
			return r.URL.Path == big
		}, ErrUnavailable},
		"not a hub": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			_, _ = w.Write([]byte("<html>"))
			return true
		}, nil},
		"names outside": {func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if strings.Contains(r.URL.Path, "/tree/") {
				_, _ = w.Write([]byte(`[{"type":"file","path":"../evil.json","size":1,"oid":"x"}]`))
				return true
			}
			return false
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.fault = c.fault
			o := h.options(t)
			o.Files = func(names []string) ([]string, error) { return names, nil }
			_, err := Pull(t.Context(), ref(t), o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			dir := Path(o.Dir, ref(t))
			if err := Verify(t.Context(), dir); err == nil {
				t.Error("a model that is not whole was verified")
			}
			if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(big))); err == nil {
				t.Error("a file that is not right has its name")
			}
		})
	}
}

// An interrupted pull goes on where it stopped.
func TestResume(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	o.Parallel = 1
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(p Progress) {
		if p.File == "onnx/decoder_model_merged.onnx" && p.Done > 0 {
			cancel()
		}
	}
	h.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.URL.Path != "/onnx/decoder_model_merged.onnx" {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(1<<20))
		_, _ = w.Write(h.files["onnx/decoder_model_merged.onnx"][:500_000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	if _, err := Pull(ctx, ref(t), o); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	h.fault, h.requests, o.Progress = nil, nil, nil
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
	if !slices.ContainsFunc(h.requests, func(r string) bool {
		from := 0
		_, err := fmt.Sscanf(r, "/onnx/decoder_model_merged.onnx bytes=%d-", &from)
		return err == nil && from > 0
	}) {
		t.Errorf("it began anew: %q", h.requests)
	}
}

// Whatever an interrupted pull left behind, the next one makes it whole.
func TestPartsLeftBehind(t *testing.T) {
	const big = "onnx/decoder_model_merged.onnx"
	right := newHub(t).files[big]
	for name, c := range map[string]struct {
		part     []byte
		requests []string
	}{
		"whole":           {right, nil}, // it ended before the rename
		"longer":          {append(bytes.Clone(right), 1, 2, 3), []string{""}},
		"of another file": {make([]byte, 1000), []string{"bytes=1000-", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			o := h.options(t)
			told := int64(0)
			o.Parallel = 1
			o.Progress = func(p Progress) {
				if p.File == big {
					told = p.Done
				}
			}
			tmp := filepath.Join(Path(o.Dir, ref(t)), big+part)
			if err := os.MkdirAll(filepath.Dir(tmp), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(tmp, c.part, 0o644); err != nil {
				t.Fatal(err)
			}
			dir, err := Pull(t.Context(), ref(t), o)
			if err != nil {
				t.Fatal(err)
			}
			h.whole(t, dir)
			var asked []string
			for _, r := range h.requests {
				if from, ok := strings.CutPrefix(r, "/"+big+" "); ok {
					asked = append(asked, from)
				}
			}
			if !slices.Equal(asked, c.requests) || told != int64(len(right)) {
				t.Errorf("asked for %q, want %q; told of %d bytes", asked, c.requests, told)
			}
		})
	}
}

// Several files come at once, but no more than Parallel.
func TestParallel(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	o.Parallel = 2
	var mu sync.Mutex
	now, most := 0, 0
	met := make(chan struct{})
	h.fault = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.HasPrefix(r.URL.Path, "/api/") || strings.HasPrefix(r.URL.Path, "/onnx/") {
			return false // a file is counted where it is asked for first
		}
		mu.Lock()
		now++
		if most = max(most, now); now == 2 && most == 2 {
			select {
			case <-met:
			default:
				close(met)
			}
		}
		mu.Unlock()
		select { // the first waits for the second
		case <-met:
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
		mu.Lock()
		now-- // before the last byte: the client is still at it
		mu.Unlock()
		return false
	}
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
	if most != 2 {
		t.Errorf("%d files at once, want 2", most)
	}
}

// A revision is asked for by its name and kept by its commit.
func TestRevision(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	h.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.URL.EscapedPath() != "/api/models/owner/name/revision/refs%2Fpr%2F1" {
			return false
		}
		fmt.Fprintf(w, `{"sha":%q}`, commit)
		return true
	}
	r, err := ParseRef("owner/name@refs/pr/1")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := Pull(t.Context(), r, o)
	if err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
	t.Setenv("HF_HUB_OFFLINE", "1")
	for revision, want := range map[string]error{"refs/pr/1": nil, commit: nil, "main": ErrOffline} {
		if _, err := Pull(t.Context(), Ref{"owner/name", revision}, o); !errors.Is(err, want) {
			t.Errorf("offline, %s: %v", revision, err)
		}
	}
}

// What the server asks to wait is waited, within reason; else the waits double.
func TestWaits(t *testing.T) {
	for after, want := range map[string][]time.Duration{
		"":      {1 * time.Second, 2 * time.Second, 4 * time.Second},
		"soon":  {1 * time.Second, 2 * time.Second, 4 * time.Second},
		"-3":    {1 * time.Second, 2 * time.Second, 4 * time.Second},
		"3":     {3 * time.Second, 3 * time.Second, 4 * time.Second},
		"86400": {5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		"date":  {5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
	} {
		t.Run(after, func(t *testing.T) {
			h := newHub(t)
			o := h.options(t)
			o.Backoff, o.Retries = time.Second, 3
			var waits []time.Duration
			o.sleep = func(ctx context.Context, d time.Duration) error {
				waits = append(waits, d)
				return ctx.Err()
			}
			h.fault = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				if after == "date" {
					w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
				} else if after != "" {
					w.Header().Set("Retry-After", after)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			if _, err := Pull(t.Context(), ref(t), o); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "4 tries") {
				t.Errorf("%v", err)
			}
			if !slices.Equal(waits, want) {
				t.Errorf("waits %v, want %v", waits, want)
			}
		})
	}
}

// The real clock waits as long as it is told, and not after it is called off.
func TestSleep(t *testing.T) {
	if err := sleep(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Nothing leads away from the hub that was named, but for its storage.
func TestLedElsewhere(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	o.Token = "secret" // the storage complains of one
	h.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.Contains(r.URL.Path, "/tree/") {
			w.Header().Set("Link", fmt.Sprintf(`<%s/more>; rel="next"`, h.s3.URL))
			_, _ = w.Write([]byte("[]"))
			return true
		}
		if r.URL.Path == "/more" {
			t.Error("the listing was followed elsewhere")
		}
		return false
	}
	if _, err := Pull(t.Context(), ref(t), o); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("a listing that goes on elsewhere: %v", err)
	}
	tls := httptest.NewTLSServer(http.HandlerFunc(h.serve))
	defer tls.Close()
	o.Endpoint, o.Client, h.fault = tls.URL, tls.Client(), nil
	if _, err := Pull(t.Context(), ref(t), o); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "plain http") {
		t.Errorf("a redirect from https to http: %v", err)
	}
	tls.Client().CloseIdleConnections()
}

// A transfer that stands still is given up and tried again.
func TestStall(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	o.Stall = 50 * time.Millisecond
	h.fault = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path != "/onnx/embed_tokens.onnx" || n > 0 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(300<<10))
		_, _ = w.Write(h.files["onnx/embed_tokens.onnx"][:1000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
}

func TestFullDiskIsSeenBefore(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	o.free = func(string) (uint64, error) { return 64<<20 + 1000, nil }
	_, err := Pull(t.Context(), ref(t), o)
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("%v", err)
	}
	for _, r := range h.requests {
		if !strings.HasPrefix(r, "/api/") {
			t.Errorf("it began to download: %s", r)
		}
	}
}

// Somebody else fills the disk meanwhile: a real one, of one megabyte.
func TestFullDiskWhileDownloading(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(o.Dir, 0); err != nil {
			t.Error(err)
		}
	})
	o.free = func(string) (uint64, error) { return 1 << 40, nil }
	if _, err := Pull(t.Context(), ref(t), o); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("%v", err)
	}
	if err := unix.Mount("", o.Dir, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	h.whole(t, dir)
}

func TestPrecision(t *testing.T) {
	h := newHub(t)
	o := h.options(t)
	o.Files = nil
	dir, err := Pull(t.Context(), ref(t), o)
	if err != nil {
		t.Fatal(err)
	}
	// q4 of the decoder, fp32 of what has no other.
	for name, there := range map[string]bool{"decoder_model_merged_q4": true, "decoder_model_merged": false, "embed_tokens": true} {
		if _, err := os.Stat(filepath.Join(dir, "onnx", name+".onnx")); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.Files = Needed("int8", false)
	if _, err := Pull(t.Context(), ref(t), o); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "there is fp32") {
		t.Errorf("a precision that is not there: %v", err)
	}
}

// What comes without a word about precision is what suits the device, each
// graph once.
func TestNeeded(t *testing.T) {
	vlm := []string{"config.json", "a/config.json", "chat_template.jinja", "model.safetensors", "onnx/vision_encoder.onnx", "onnx/vision_encoder_fp16.onnx", "onnx/vision_encoder_q4.onnx",
		"onnx/embed_tokens.onnx", "onnx/embed_tokens_fp16.onnx", "onnx/decoder_model_merged_q4.onnx", "onnx/decoder_model_merged_q4.onnx_data", "onnx/decoder_model_merged_q4f16.onnx",
		"onnx/decoder_model_merged_fp16.onnx", "onnx/decoder_model_merged_fp16.onnx_data", "onnx/decoder_model_merged_fp16.onnx_data_1", "onnx/decoder_model.onnx", "onnx/decoder_with_past_model.onnx"}
	split := []string{"onnx/decoder_model_int8.onnx", "onnx/decoder_with_past_model_int8.onnx", "onnx/embed_tokens_int8.onnx"}
	for _, c := range []struct {
		names     []string
		precision string
		gpu       bool
		want      string
	}{
		{vlm, "", false, "config.json chat_template.jinja onnx/vision_encoder_q4.onnx onnx/embed_tokens.onnx onnx/decoder_model_merged_q4.onnx onnx/decoder_model_merged_q4.onnx_data"},
		{vlm, "auto", true, "config.json chat_template.jinja onnx/vision_encoder_fp16.onnx onnx/embed_tokens_fp16.onnx onnx/decoder_model_merged_fp16.onnx onnx/decoder_model_merged_fp16.onnx_data onnx/decoder_model_merged_fp16.onnx_data_1"},
		{vlm, "q4f16", false, "error"},
		{split, "", false, "onnx/decoder_model_int8.onnx onnx/decoder_with_past_model_int8.onnx onnx/embed_tokens_int8.onnx"},
		{[]string{"model.onnx", "model.onnx_data", "onnx/model_fp16.onnx"}, "", false, "model.onnx model.onnx_data"},
	} {
		got, err := Needed(c.precision, c.gpu)(c.names)
		if text := strings.Join(got, " "); err == nil && text != c.want || err != nil && c.want != "error" {
			t.Errorf("%q, gpu %v: %s, %v", c.precision, c.gpu, text, err)
		}
	}
}

func TestParseRef(t *testing.T) {
	for in, want := range map[string]Ref{
		"owner/name":       {"owner/name", "main"},
		"owner/name@v1.0":  {"owner/name", "v1.0"},
		"smolvlm2-256m":    {"HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "main"},
		"smolvlm2-256m@ab": {"HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "ab"},
	} {
		if got, err := ParseRef(in); err != nil || got != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "nosuch", "a/b/c", "../x", "a/..", "a/b@../c", "a/b@x?y", "a b/c", "a/b@x y"} {
		if got, err := ParseRef(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`[{"type":"file","path":"config.json","size":2,"oid":"ab"},{"type":"file","path":"onnx/model_q4.onnx","size":9,"oid":"cd","lfs":{"oid":"ef","size":7}}]`))
	f.Add([]byte(`[{"type":"file","path":"../config.json","size":2},{"type":"directory","path":"onnx"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var all []entry
		if json.Unmarshal(data, &all) != nil {
			return
		}
		for _, wanted := range []func([]string) ([]string, error){Needed("", false), Needed("", true), Needed("q4", false), func(n []string) ([]string, error) { return n, nil }} {
			files, err := choose(all, wanted)
			if err != nil {
				continue
			}
			for _, file := range files {
				if p := filepath.Join("/models/a", filepath.FromSlash(file.Name)); !strings.HasPrefix(p, "/models/a/") || file.Size < 0 {
					t.Fatalf("%+v goes to %s", file, p)
				}
			}
		}
	})
}

func FuzzParseRef(f *testing.F) {
	f.Add("owner/name@main")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRef(s); err == nil {
			if p := Path("/models", r); filepath.Dir(p) != "/models" {
				t.Fatalf("%q goes to %s", s, p)
			}
		}
	})
}
