// Package evidence keeps the pictures and clips that events rest on: files on
// disk that people can look at with any program, found by event id, bounded by
// size and age.
package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lookout-video/lookout/event"
)

// Config configures a Store.
type Config struct {
	// Dir is the folder, made when missing. Lookout owns what is in it.
	Dir string
	// MaxBytes bounds all pictures and clips together; past it the oldest
	// events' go. It defaults to 1 GiB.
	MaxBytes int64
	// MaxAge is how long they are kept. It defaults to 7 days.
	MaxAge time.Duration
}

var (
	// ErrNotFound is returned by Read and OpenClip for what is not or no longer there.
	ErrNotFound = errors.New("evidence: no such picture or clip")
	// ErrNotJPEG is returned by Put for bytes that are no JPEG file.
	ErrNotJPEG = errors.New("evidence: not a JPEG picture")
	// ErrNotVideo is returned by PutClip for a format that is neither mp4 nor webm.
	ErrNotVideo = errors.New("evidence: not an mp4 or webm clip")
	// ErrTooLarge is returned by Put and PutClip for what is larger than
	// Config.MaxBytes.
	ErrTooLarge = errors.New("evidence: larger than all that may be kept; raise evidence.max_bytes")
)

// Snapshot is one picture of an event.
type Snapshot struct {
	Name    string    // of the file, within the event's folder
	Capture time.Time // when the picture was taken, to the millisecond
	Frame   uint64
	Bytes   int64
}

// Clip is the video around the start of an event.
type Clip struct {
	Name   string    // of the file, within the event's folder
	Start  time.Time // capture of its first picture, to the millisecond
	Format string    // mp4 or webm
	Bytes  int64
}

// Store is the pictures and clips of many events:
//
//	<dir>/<stream>/<event id>/<capture, Unix milliseconds>-<frame>.jpg
//	<dir>/<stream>/<event id>/<capture of its first picture>.mp4 (or .webm)
type Store struct {
	cfg Config
	now func() time.Time

	mu     sync.Mutex
	events map[string]*entry // by safe event id
	order  []*entry          // oldest first
	bytes  int64
}

type entry struct {
	id, dir string
	at      time.Time // of the newest file's writing
	shots   []Snapshot
	clip    *Clip // nil: none
}

// Open reads the index of what the folder holds and removes what is too old.
func Open(cfg Config) (*Store, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 7 * 24 * time.Hour
	}
	s := &Store{cfg: cfg, now: time.Now, events: map[string]*entry{}}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("evidence: make the folder: %w", err)
	}
	err := filepath.WalkDir(cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(cfg.Dir, path)
		parts := strings.Split(rel, string(filepath.Separator))
		if strings.HasPrefix(d.Name(), ".tmp-") {
			return os.Remove(path) // left by a crash
		}
		shot, isShot := parseName(d.Name())
		clip, isClip := parseClip(d.Name())
		if len(parts) != 3 || !isShot && !isClip {
			return nil // not ours
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := s.entry(parts[1], filepath.Dir(path), info.ModTime())
		if isShot {
			shot.Bytes = info.Size()
			s.add(e, shot)
		} else {
			clip.Bytes = info.Size()
			s.setClip(e, clip)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("evidence: read the folder: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortStableFunc(s.order, func(a, b *entry) int { return a.at.Compare(b.at) })
	return s, s.prune(nil)
}

func (s *Store) entry(id, dir string, at time.Time) *entry {
	e := s.events[id]
	if e == nil {
		e = &entry{id: id, dir: dir}
		s.events[id] = e
		s.order = append(s.order, e)
	}
	if at.After(e.at) {
		e.at = at
	}
	return e
}

// newest is entry for what is written now: it goes last.
func (s *Store) newest(id, dir string) *entry {
	e := s.entry(id, dir, s.now())
	if i := slices.Index(s.order, e); i < len(s.order)-1 {
		s.order = append(slices.Delete(s.order, i, i+1), e)
	}
	return e
}

func (s *Store) setClip(e *entry, c Clip) {
	if e.clip != nil {
		s.bytes -= e.clip.Bytes
	}
	e.clip = &c
	s.bytes += c.Bytes
}

func (s *Store) add(e *entry, shot Snapshot) {
	if i := slices.IndexFunc(e.shots, func(o Snapshot) bool { return o.Name == shot.Name }); i >= 0 {
		s.bytes -= e.shots[i].Bytes
		e.shots[i] = shot
	} else {
		e.shots = append(e.shots, shot)
	}
	s.bytes += shot.Bytes
}

// safe makes a file name of any string: two strings never give the same one.
func safe(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() == 0 {
		return "%"
	}
	return b.String()
}

func fileName(at time.Time, frame uint64) string {
	return strconv.FormatInt(at.UnixMilli(), 10) + "-" + strconv.FormatUint(frame, 10) + ".jpg"
}

func parseName(name string) (Snapshot, bool) {
	base, ok := strings.CutSuffix(name, ".jpg")
	i := strings.LastIndexByte(base, '-')
	if !ok || i <= 0 {
		return Snapshot{}, false
	}
	ms, err1 := strconv.ParseInt(base[:i], 10, 64)
	frame, err2 := strconv.ParseUint(base[i+1:], 10, 64)
	return Snapshot{Name: name, Capture: time.UnixMilli(ms).UTC(), Frame: frame}, err1 == nil && err2 == nil
}

func parseClip(name string) (Clip, bool) {
	base, format, _ := strings.Cut(name, ".")
	ms, err := strconv.ParseInt(base, 10, 64)
	return Clip{Name: name, Start: time.UnixMilli(ms).UTC(), Format: format}, err == nil && (format == "mp4" || format == "webm")
}

// Put keeps the picture of one frame that the event rests on, and removes what
// has become too much or too old. A reader never sees half a picture. The same
// frame of an event is kept once.
func (s *Store) Put(stream, eventID string, frame event.Evidence, jpeg []byte) (Snapshot, error) {
	if !bytes.HasPrefix(jpeg, []byte{0xFF, 0xD8, 0xFF}) {
		return Snapshot{}, ErrNotJPEG
	}
	if int64(len(jpeg)) > s.cfg.MaxBytes {
		return Snapshot{}, ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shot, _ := parseName(fileName(frame.Capture, frame.Frame))
	shot.Bytes = int64(len(jpeg))
	dir := filepath.Join(s.cfg.Dir, safe(stream), safe(eventID))
	if err := writeFile(dir, shot.Name, jpeg); err != nil {
		return Snapshot{}, fmt.Errorf("evidence: keep a picture of event %s of stream %q: %w", eventID, stream, err)
	}
	e := s.newest(safe(eventID), dir)
	s.add(e, shot)
	return shot, s.prune(e)
}

// PutClip keeps the clip of an event, which has one at most: a second takes
// the first one's place. start is the capture time of its first picture, format
// mp4 or webm. It removes what has become too much or too old.
func (s *Store) PutClip(stream, eventID string, start time.Time, format string, video []byte) (Clip, error) {
	clip, ok := parseClip(strconv.FormatInt(start.UnixMilli(), 10) + "." + format)
	if !ok || len(video) == 0 {
		return Clip{}, ErrNotVideo
	}
	if clip.Bytes = int64(len(video)); clip.Bytes > s.cfg.MaxBytes {
		return Clip{}, ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.cfg.Dir, safe(stream), safe(eventID))
	if err := writeFile(dir, clip.Name, video); err != nil {
		return Clip{}, fmt.Errorf("evidence: keep the clip of event %s of stream %q: %w", eventID, stream, err)
	}
	e := s.newest(safe(eventID), dir)
	if e.clip != nil && e.clip.Name != clip.Name {
		_ = os.Remove(filepath.Join(dir, e.clip.Name))
	}
	s.setClip(e, clip)
	return clip, s.prune(e)
}

// writeFile is atomic but not fsynced: a picture is worth less than the wait.
func writeFile(dir, name string, b []byte) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// prune removes the oldest events' files until the bounds hold. keep loses its
// oldest pictures only, and only when it alone is too large; then its clip.
func (s *Store) prune(keep *entry) error {
	old := s.now().Add(-s.cfg.MaxAge)
	var errs []error
	for len(s.order) > 0 {
		e := s.order[0]
		if e == keep || s.bytes <= s.cfg.MaxBytes && !e.at.Before(old) {
			break
		}
		errs = append(errs, os.RemoveAll(e.dir))
		_ = os.Remove(filepath.Dir(e.dir)) // the stream's folder, when it is empty now
		for _, shot := range e.shots {
			s.bytes -= shot.Bytes
		}
		if e.clip != nil {
			s.bytes -= e.clip.Bytes
		}
		delete(s.events, e.id)
		s.order = s.order[1:]
	}
	for keep != nil && s.bytes > s.cfg.MaxBytes && len(keep.shots) > 1 {
		errs = append(errs, os.Remove(filepath.Join(keep.dir, keep.shots[0].Name)))
		s.bytes -= keep.shots[0].Bytes
		keep.shots = keep.shots[1:]
	}
	if keep != nil && keep.clip != nil && s.bytes > s.cfg.MaxBytes && len(keep.shots) > 0 {
		errs = append(errs, os.Remove(filepath.Join(keep.dir, keep.clip.Name)))
		s.bytes -= keep.clip.Bytes
		keep.clip = nil
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("evidence: remove old files: %w", err)
	}
	return nil
}

// List gives the pictures of an event, in the order of their capture; none when
// there are none.
func (s *Store) List(eventID string) []Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.events[safe(eventID)]
	if e == nil {
		return nil
	}
	shots := slices.Clone(e.shots)
	slices.SortStableFunc(shots, func(a, b Snapshot) int { return a.Capture.Compare(b.Capture) })
	return shots
}

// Read gives the JPEG bytes of one picture of an event; name is a Snapshot's.
func (s *Store) Read(eventID, name string) ([]byte, error) {
	s.mu.Lock()
	e := s.events[safe(eventID)]
	known := e != nil && slices.ContainsFunc(e.shots, func(o Snapshot) bool { return o.Name == name })
	s.mu.Unlock()
	if !known {
		return nil, ErrNotFound
	}
	b, err := os.ReadFile(filepath.Join(e.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return b, nil
}

// OpenClip opens the clip of an event of the stream. It returns ErrNotFound when
// there is none, as before all of it has happened. The caller closes the file.
func (s *Store) OpenClip(stream, eventID string) (*os.File, Clip, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // or it could be removed before it is open
	e := s.events[safe(eventID)]
	if e == nil || e.clip == nil || e.dir != filepath.Join(s.cfg.Dir, safe(stream), safe(eventID)) {
		return nil, Clip{}, ErrNotFound
	}
	f, err := os.Open(filepath.Join(e.dir, e.clip.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Clip{}, ErrNotFound
	}
	if err != nil {
		return nil, Clip{}, fmt.Errorf("evidence: %w", err)
	}
	return f, *e.clip, nil
}

// Size is how many bytes and events are kept.
func (s *Store) Size() (bytes int64, events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, len(s.events)
}
