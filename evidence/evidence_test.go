package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/event"
)

// picture is a JPEG header and n bytes in all.
func picture(n int) []byte { return append([]byte{0xFF, 0xD8, 0xFF}, bytes.Repeat([]byte{7}, n-3)...) }

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, id string, frame uint64, n int) Snapshot {
	t.Helper()
	shot, err := s.Put("front door", id, event.Evidence{Capture: time.UnixMilli(int64(1000 + frame)), Frame: frame}, picture(n))
	if err != nil {
		t.Fatal(err)
	}
	return shot
}

func TestPutReadAndReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	put(t, s, "e1", 9, 100)
	a := put(t, s, "e1", 5, 50)
	put(t, s, "e1", 5, 60) // once
	put(t, s, "e2", 1, 10)
	tmp := filepath.Join(dir, "front%20door", "e1", ".tmp-1")
	stranger := filepath.Join(dir, "notes.txt")
	for _, p := range []string{tmp, stranger} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*Store{s, open(t, Config{Dir: dir})} {
		shots := s.List("e1")
		if len(shots) != 2 || shots[0].Frame != 5 || shots[1].Frame != 9 || !shots[0].Capture.Equal(time.UnixMilli(1005)) {
			t.Errorf("%+v", shots)
		}
		b, err := s.Read("e1", a.Name)
		if err != nil || !bytes.Equal(b, picture(60)) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if n, events := s.Size(); n != 170 || events != 2 {
			t.Errorf("%d bytes of %d events", n, events)
		}
	}
	if _, err := os.Stat(tmp); err == nil {
		t.Error("what a crash left is still there")
	}
	if _, err := os.Stat(stranger); err != nil {
		t.Error("a stranger's file was removed")
	}
}

func TestRetentionBySize(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, MaxBytes: 350})
	for i := range uint64(3) {
		put(t, s, fmt.Sprint("e", i), i, 100)
	}
	put(t, s, "e0", 10, 40) // e0 is young again
	put(t, s, "e3", 11, 100)
	if s.List("e1") != nil || s.List("e0") == nil || s.List("e2") == nil || s.List("e3") == nil {
		t.Error("not the oldest went")
	}
	if _, err := os.Stat(filepath.Join(dir, "front%20door", "e1")); err == nil {
		t.Error("the folder is still there")
	}
	for i := range uint64(5) { // one long event alone passes the bound
		put(t, s, "long", 20+i, 100)
	}
	if shots := s.List("long"); len(shots) != 3 || shots[0].Frame != 22 {
		t.Errorf("%+v", shots)
	}
	if n, events := s.Size(); n != 300 || events != 1 {
		t.Errorf("%d bytes of %d events", n, events)
	}
	if _, err := s.Put("x", "y", event.Evidence{}, picture(351)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func putClip(t *testing.T, s *Store, id string, n int) Clip {
	t.Helper()
	c, err := s.PutClip("front door", id, time.UnixMilli(5000), "mp4", make([]byte, n))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClips(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	put(t, s, "e1", 1, 100)
	if _, err := s.PutClip("front door", "e1", time.UnixMilli(4000), "webm", []byte("first")); err != nil {
		t.Fatal(err)
	}
	putClip(t, s, "e1", 50) // takes the first one's place
	for _, s := range []*Store{s, open(t, Config{Dir: dir})} {
		f, c, err := s.OpenClip("front door", "e1")
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Stat()
		f.Close()
		if info.Size() != 50 || c.Bytes != 50 || c.Format != "mp4" || !c.Start.Equal(time.UnixMilli(5000)) {
			t.Errorf("%+v, %d bytes", c, info.Size())
		}
		if n, events := s.Size(); n != 150 || events != 1 {
			t.Errorf("%d bytes of %d events", n, events)
		}
		if len(s.List("e1")) != 1 {
			t.Error("the snapshot beside it is gone, or the clip counts as one")
		}
		for _, c := range [][2]string{{"front door", "e2"}, {"back door", "e1"}, {"front door/e1", ".."}} {
			if _, _, err := s.OpenClip(c[0], c[1]); !errors.Is(err, ErrNotFound) {
				t.Errorf("%v: %v", c, err)
			}
		}
	}
	if _, err := s.PutClip("a", "b", time.Time{}, "../x", []byte("x")); !errors.Is(err, ErrNotVideo) {
		t.Error(err)
	}
	if _, err := open(t, Config{Dir: dir, MaxBytes: 1000}).PutClip("a", "b", time.Time{}, "mp4", make([]byte, 1001)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestRetentionCoversClips(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, MaxBytes: 1000, MaxAge: time.Hour})
	putClip(t, s, "e1", 400)
	putClip(t, s, "e2", 400)
	putClip(t, s, "e3", 400) // e1 goes
	if _, _, err := s.OpenClip("front door", "e1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the oldest clip: %v", err)
	}
	if n, events := s.Size(); n != 800 || events != 2 {
		t.Errorf("%d bytes of %d events", n, events)
	}
	put(t, s, "e3", 1, 900) // with its clip too large: the clip goes
	if _, _, err := s.OpenClip("front door", "e3"); !errors.Is(err, ErrNotFound) || len(s.List("e3")) != 1 {
		t.Errorf("%v, %v", err, s.List("e3"))
	}
	if n, events := s.Size(); n != 900 || events != 1 {
		t.Errorf("%d bytes of %d events", n, events)
	}
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	putClip(t, s, "late", 10)
	if n, events := s.Size(); n != 10 || events != 1 {
		t.Errorf("%d bytes of %d events: the old ones are still there", n, events)
	}
	files := 0
	if err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
		}
		return err
	}); err != nil || files != 1 {
		t.Errorf("%d files on disk, %v", files, err)
	}
}

func TestRetentionByAge(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, MaxAge: time.Hour})
	put(t, s, "old", 1, 10)
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	put(t, s, "new", 2, 10)
	if s.List("old") != nil || s.List("new") == nil {
		t.Error("the old one is still there")
	}
	shot := put(t, s, "older", 3, 10)
	if err := os.Chtimes(filepath.Join(dir, "front%20door", "older", shot.Name), time.Time{}, time.Now().Add(-3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s = open(t, Config{Dir: dir, MaxAge: time.Hour}); s.List("older") != nil || s.List("new") == nil {
		t.Error("the old one outlived a restart")
	}
}

func TestNamesStayInside(t *testing.T) {
	root := t.TempDir()
	s := open(t, Config{Dir: filepath.Join(root, "in")})
	names := []string{"..", "../..", "/etc/passwd", "", ".", "a/b", "a%2Fb", "a\x00b", "%", "日本", "a b"}
	for _, n := range names {
		if _, err := s.Put(n, n, event.Evidence{Capture: time.UnixMilli(1)}, picture(9)); err != nil {
			t.Errorf("%q: %v", n, err)
		}
		if len(s.List(n)) != 1 {
			t.Errorf("%q is not found", n)
		}
	}
	if _, events := s.Size(); events != len(names) {
		t.Errorf("%d events of %d: two names met", events, len(names))
	}
	if es, _ := os.ReadDir(root); len(es) != 1 {
		t.Errorf("outside: %v", es)
	}
	for _, name := range []string{"../x", "", "..", "/etc/passwd", "1-0.jpg/../../x"} {
		if _, err := s.Read("..", name); !errors.Is(err, ErrNotFound) {
			t.Errorf("Read %q: %v", name, err)
		}
	}
	if _, err := s.Put("a", "b", event.Evidence{}, []byte("GIF89a")); !errors.Is(err, ErrNotJPEG) {
		t.Error(err)
	}
	if got := safe(strings.Repeat("x", 10)); got != "xxxxxxxxxx" {
		t.Error(got)
	}
}
