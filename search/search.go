// Package search finds past events by words and by what their frames look like,
// in one embedded index that survives a restart.
//
// The events lie in a bbolt file; words and vectors are held in memory and
// compared exactly. At the 50,000 events that are kept by default that is less
// than a tenth of a second a query even when each event holds the words
// (BenchmarkSearch50000), and an approximate index would only add its errors.
package search

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.etcd.io/bbolt"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/internal/boltfile"
)

// Config configures an Index.
type Config struct {
	// Path is the file, made with its folder when missing.
	Path string
	// Model identifies the model that makes the embeddings. An index that was made
	// with another keeps its words and forgets its vectors: they compare with
	// nothing. It defaults to "".
	Model string
	// LookOnly leaves what is in the file as it is: for who only looks, and may
	// name the wrong model. It defaults to false.
	LookOnly bool
	// MaxEvents bounds the index; past it the oldest events go.
	// It defaults to 50,000.
	MaxEvents int
	// MaxAge is how long events are kept, by their own time.
	// It defaults to 30 days.
	MaxAge time.Duration
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Query says what to find. Text, Image or both must be set.
type Query struct {
	// Text is matched word by word against what was said.
	Text string
	// Image is an embedding in the space of the images, usually that of Text: it
	// is compared with the frames that the events rest on.
	Image []float32
	// Stream is the stream to search. It defaults to all.
	Stream string
	// From and To bound the events' time. They default to no bound.
	From, To time.Time
	// K is how many hits to give at most. It defaults to 10.
	K int
}

// Hit is one life of an event that was found.
type Hit struct {
	Event *event.Event // the revision that matched best
	// Score orders the hits: the sum of 1/(60+rank) over both ways of searching.
	Score float64
	// Words is the BM25 score of the text, 0 when no word matches.
	Words float64
	// Cosine is the similarity of the frames, 0 when it was not asked for or the
	// event has no embedding.
	Cosine float64
}

// Index is a search index. Its methods may be called from several goroutines.
type Index struct {
	cfg Config
	db  *bbolt.DB

	mu       sync.RWMutex
	docs     []doc // oldest first
	postings map[string][]posting
	removed  int // documents gone since postings were last cleaned
	words    int // in all documents
	dim      int // of the vectors; 0 before the first
	last     map[string]string
}

type doc struct {
	pos     uint64 // key in the file
	at      time.Time
	stream  string
	eventID string
	words   int
	vec     []float32 // unit length; nil without an embedding
}

type posting struct {
	pos   uint64
	count int
}

var (
	eventsBucket = []byte("events")
	metaBucket   = []byte("meta")
	modelKey     = []byte("model")

	errRecord = errors.New("damaged record")
	// ErrDimension is returned for an embedding that is not of the index's length.
	ErrDimension = errors.New("search: the embedding's length differs from the index's")
)

// Open opens or makes an index. A damaged file is moved aside and logged, and a
// new one begun.
func Open(cfg Config) (*Index, error) {
	if cfg.MaxEvents <= 0 {
		cfg.MaxEvents = 50_000
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 30 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	x := &Index{cfg: cfg}
	db, err := boltfile.Open(cfg.Path, x.load)
	if boltfile.Damaged(err) {
		aside, merr := boltfile.MoveAside(cfg.Path)
		if merr != nil {
			return nil, fmt.Errorf("search: %w; and it could not be moved aside: %w", err, merr)
		}
		cfg.Log.Error("the search index is damaged: it was moved aside and a new one begun", "file", cfg.Path, "moved_to", aside, "error", err)
		db, err = boltfile.Open(cfg.Path, x.load)
	}
	if err != nil {
		return nil, fmt.Errorf("search: open %s: %w", cfg.Path, err)
	}
	x.db = db
	return x, nil
}

// load reads the whole file into memory.
func (x *Index) load(db *bbolt.DB) error {
	x.docs, x.postings, x.last = nil, map[string][]posting{}, map[string]string{}
	x.words, x.dim, x.removed = 0, 0, 0
	return db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(eventsBucket)
		if err != nil {
			return err
		}
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		sameModel := string(meta.Get(modelKey)) == x.cfg.Model
		type change struct{ k, v []byte }
		var changes []change
		err = b.ForEach(func(k, v []byte) error {
			if len(k) != 8 || v == nil {
				return boltfile.DamagedError{What: "a key that is no position"}
			}
			ev, vec, err := decode(v)
			if err != nil {
				changes = append(changes, change{slices.Clone(k), nil})
				return nil //nolint:nilerr // one damaged record costs that record
			}
			if vec != nil && !sameModel {
				vec = nil
				r, err := encode(ev, nil)
				if err != nil {
					return err
				}
				changes = append(changes, change{slices.Clone(k), r})
			}
			x.insert(binary.BigEndian.Uint64(k), ev, vec)
			return nil
		})
		if err != nil || x.cfg.LookOnly {
			return err
		}
		err = meta.Put(modelKey, []byte(x.cfg.Model))
		for _, c := range changes {
			if err == nil && c.v == nil {
				err = b.Delete(c.k)
			} else if err == nil {
				err = b.Put(c.k, c.v)
			}
		}
		return err
	})
}

// A record is the length of the vector (uint32), the vector (float32), both
// little endian, and the event as JSON.
func encode(ev *event.Event, vec []float32) ([]byte, error) {
	js, err := json.Marshal(ev)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 4+4*len(vec)+len(js))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(vec)))
	for _, f := range vec {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return append(b, js...), nil
}

func decode(b []byte) (*event.Event, []float32, error) {
	if len(b) < 4 {
		return nil, nil, errRecord
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if 4*n > uint64(len(b)) {
		return nil, nil, errRecord
	}
	var vec []float32
	for i := range n {
		vec = append(vec, math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
	}
	ev, err := event.Parse(b[4*n:])
	return ev, vec, err
}

// Add puts an event into the index: what was said, what was asked, which labels
// were seen, and, when image is given, what its frames look like (an embedding
// of the newest; it is copied). Status events, and events that repeat what the
// same life has said already, are left out.
func (x *Index) Add(ev *event.Event, image []float32) error {
	if ev.Type == event.TypeStatus {
		return nil
	}
	vec, err := unit(image)
	if err != nil {
		return err
	}
	r, err := encode(ev, vec)
	if err != nil {
		return fmt.Errorf("search: event %s: %w", ev.ID, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if vec != nil && x.dim != 0 && len(vec) != x.dim {
		return fmt.Errorf("%w: %d, want %d", ErrDimension, len(vec), x.dim)
	}
	text := textOf(ev)
	if text == "" && vec == nil || ev.Data.Revision > 0 && x.last[ev.Data.EventID] == text {
		return nil
	}
	var pos uint64
	err = boltfile.Guard(func() error {
		return x.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(eventsBucket)
			for range x.surplus(ev.Time) {
				k, _ := b.Cursor().First()
				if k == nil {
					break
				}
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			if pos, err = b.NextSequence(); err != nil {
				return err
			}
			return b.Put(binary.BigEndian.AppendUint64(nil, pos), r)
		})
	})
	if err != nil {
		return fmt.Errorf("search: keep event %s of stream %q: %w", ev.ID, ev.Data.Stream, err)
	}
	x.remove(x.surplus(ev.Time))
	x.insert(pos, ev, vec)
	return nil
}

// surplus counts the oldest documents that must go before one of time now comes.
func (x *Index) surplus(now time.Time) int {
	n := max(len(x.docs)+1-x.cfg.MaxEvents, 0)
	for n < len(x.docs) && now.Sub(x.docs[n].at) > x.cfg.MaxAge {
		n++
	}
	return n
}

func (x *Index) insert(pos uint64, ev *event.Event, vec []float32) {
	text := textOf(ev)
	words := tokenize(text)
	terms := withPairs(words)
	for i, t := range terms {
		if slices.Contains(terms[:i], t) {
			continue
		}
		count := 0
		for _, u := range terms[i:] {
			if u == t {
				count++
			}
		}
		x.postings[t] = append(x.postings[t], posting{pos, count})
	}
	if vec != nil {
		x.dim = len(vec)
	}
	x.words += len(words)
	x.last[ev.Data.EventID] = text
	x.docs = append(x.docs, doc{pos, ev.Time, ev.Data.Stream, ev.Data.EventID, len(words), vec})
}

// remove takes out the n oldest documents.
func (x *Index) remove(n int) {
	if n == 0 {
		return
	}
	for _, d := range x.docs[:n] {
		x.words -= d.words
		if !slices.ContainsFunc(x.docs[n:min(n+64, len(x.docs))], func(o doc) bool { return o.eventID == d.eventID }) {
			delete(x.last, d.eventID)
		}
	}
	clear(x.docs[:n])
	x.docs = x.docs[n:]
	// Postings of removed documents are passed over; clean them when they are many.
	if x.removed += n; x.removed <= len(x.docs)/2 {
		return
	}
	x.removed = 0
	x.docs = slices.Clone(x.docs)
	first := uint64(math.MaxUint64)
	if len(x.docs) > 0 {
		first = x.docs[0].pos
	}
	for t, ps := range x.postings {
		i, _ := slices.BinarySearchFunc(ps, first, func(p posting, pos uint64) int { return cmp.Compare(p.pos, pos) })
		if i == len(ps) {
			delete(x.postings, t)
		} else {
			x.postings[t] = slices.Clone(ps[i:])
		}
	}
}

func unit(v []float32) ([]float32, error) {
	if len(v) == 0 {
		return nil, nil
	}
	var sum float64
	for _, f := range v {
		sum += float64(f) * float64(f)
	}
	if sum == 0 || math.IsNaN(sum) || math.IsInf(sum, 0) {
		return nil, errors.New("search: an embedding without direction")
	}
	out := make([]float32, len(v))
	for i, f := range v {
		out[i] = float32(float64(f) / math.Sqrt(sum))
	}
	return out, nil
}

// textOf is what an event can be found by.
func textOf(ev *event.Event) string {
	d := &ev.Data
	parts := []string{d.Text}
	if d.Prompt != nil && ev.Type != event.TypeDescription {
		parts = append(parts, d.Prompt.Text)
	}
	for _, l := range d.Labels {
		if l.Probability >= 0.3 {
			parts = append(parts, l.Name)
		}
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

var stop = map[string]bool{"a": true, "an": true, "the": true, "is": true, "are": true, "there": true, "of": true, "in": true, "on": true, "at": true, "to": true, "and": true, "it": true}

// tokenize gives the words of s, in lower case, without a plural's s.
func tokenize(s string) []string {
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r)
	})
	kept := words[:0]
	for _, w := range words {
		if stop[w] {
			continue
		}
		if len(w) > 3 && strings.HasSuffix(w, "s") && !strings.HasSuffix(w, "ss") && !strings.HasSuffix(w, "us") {
			w = w[:len(w)-1]
		}
		kept = append(kept, w)
	}
	return kept
}

// withPairs adds each two neighbouring words as one term, so that "red van" finds
// the red van before the blue van beside red lights.
func withPairs(words []string) []string {
	terms := slices.Clone(words)
	for i := 1; i < len(words); i++ {
		terms = append(terms, words[i-1]+" "+words[i])
	}
	return terms
}

type found struct {
	i             int // in docs
	words, cosine float64
	score         float64
}

// Search gives the best hits, best first; each life of an event at most once.
func (x *Index) Search(q Query) ([]Hit, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	best, err := x.rank(q)
	if err != nil {
		return nil, err
	}
	return x.hits(best)
}

func (x *Index) rank(q Query) ([]*found, error) {
	if q.K <= 0 {
		q.K = 10
	}
	vec, err := unit(q.Image)
	if err != nil {
		return nil, err
	}
	if vec != nil && x.dim != 0 && len(vec) != x.dim {
		return nil, fmt.Errorf("%w: %d, want %d", ErrDimension, len(vec), x.dim)
	}
	wanted := func(i int) bool {
		d := &x.docs[i]
		return (q.Stream == "" || d.stream == q.Stream) && (q.From.IsZero() || !d.at.Before(q.From)) && (q.To.IsZero() || !d.at.After(q.To))
	}
	all := map[int]*found{}
	get := func(i int) *found {
		if all[i] == nil {
			all[i] = &found{i: i}
		}
		return all[i]
	}
	// Each way of searching ranks lives, not revisions: a long life would push all
	// else out of a short list. Equal scores keep the newer first.
	fuse := func(list []found, value func(found) float64) {
		slices.SortFunc(list, func(a, b found) int { return cmp.Or(cmp.Compare(value(b), value(a)), cmp.Compare(b.i, a.i)) })
		seen := map[string]bool{}
		for _, f := range list {
			if id := x.docs[f.i].eventID; !seen[id] {
				seen[id] = true
				g := get(f.i)
				g.score += 1 / float64(60+len(seen))
				g.words, g.cosine = max(g.words, f.words), max(g.cosine, f.cosine)
			}
			if len(seen) == 10*q.K {
				break
			}
		}
	}
	fuse(x.byWords(withPairs(tokenize(q.Text)), wanted), func(f found) float64 { return f.words })
	if vec != nil {
		var list []found
		for i := range x.docs {
			if x.docs[i].vec != nil && wanted(i) {
				list = append(list, found{i: i, cosine: dot(vec, x.docs[i].vec)})
			}
		}
		fuse(list, func(f found) float64 { return f.cosine })
	}
	// The two ways may have found different revisions of a life: join them.
	lives := map[string]*found{}
	for _, f := range all {
		id := x.docs[f.i].eventID
		g := lives[id]
		if g == nil {
			lives[id] = f
			continue
		}
		if f.words > g.words {
			g.i = f.i
		}
		g.score += f.score
		g.words, g.cosine = max(g.words, f.words), max(g.cosine, f.cosine)
	}
	best := make([]*found, 0, len(lives))
	for _, f := range lives {
		best = append(best, f)
	}
	slices.SortFunc(best, func(a, b *found) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(b.i, a.i)) })
	return best[:min(q.K, len(best))], nil
}

func (x *Index) hits(best []*found) ([]Hit, error) {
	hits := make([]Hit, 0, len(best))
	err := boltfile.Guard(func() error {
		return x.db.View(func(tx *bbolt.Tx) error {
			for _, f := range best {
				ev, _, err := decode(tx.Bucket(eventsBucket).Get(binary.BigEndian.AppendUint64(nil, x.docs[f.i].pos)))
				if err != nil {
					return err
				}
				hits = append(hits, Hit{Event: ev, Score: f.score, Words: f.words, Cosine: f.cosine})
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("search: read an event: %w", err)
	}
	return hits, nil
}

func dot(a, b []float32) float64 {
	var s float32
	for i, f := range a {
		s += f * b[i]
	}
	return float64(s)
}

// byWords scores the documents that hold any of the terms by BM25.
func (x *Index) byWords(terms []string, wanted func(int) bool) []found {
	if len(x.docs) == 0 {
		return nil
	}
	const k1, b = 1.2, 0.75
	first := x.docs[0].pos
	mean := float64(x.words)/float64(len(x.docs)) + 1e-9
	scores := map[int]float64{}
	for j, t := range terms {
		if slices.Contains(terms[:j], t) {
			continue
		}
		ps := x.postings[t]
		from, _ := slices.BinarySearchFunc(ps, first, func(p posting, pos uint64) int { return cmp.Compare(p.pos, pos) })
		ps = ps[from:]
		idf := math.Log(1 + (float64(len(x.docs)-len(ps))+0.5)/(float64(len(ps))+0.5))
		for _, p := range ps {
			i, ok := slices.BinarySearchFunc(x.docs, p.pos, func(d doc, pos uint64) int { return cmp.Compare(d.pos, pos) })
			if !ok || !wanted(i) {
				continue
			}
			n := float64(p.count)
			scores[i] += idf * n * (k1 + 1) / (n + k1*(1-b+b*float64(x.docs[i].words)/mean))
		}
	}
	list := make([]found, 0, len(scores))
	for i, s := range scores {
		list = append(list, found{i: i, words: s})
	}
	return list
}

// Len is how many events the index holds.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.docs)
}

// Close closes the file.
func (x *Index) Close() error { return x.db.Close() }
