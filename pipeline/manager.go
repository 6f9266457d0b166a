package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
)

// Manager runs many streams. One stream's failure is its own. Streams that are
// added, changed or removed at run time are kept in a file and come back.
type Manager struct {
	deps *Deps
	path string // of the kept streams; "" keeps nothing

	// configs holds each running stream's configuration; it is read while events
	// are published, when mu may be held by who starts a stream.
	configs sync.Map

	mu      sync.Mutex
	order   []string
	running map[string]*run
	kept    kept
	ctx     context.Context
	wg      sync.WaitGroup
	changed chan struct{}
	started chan struct{} // closed by Run
}

type run struct {
	s      *Stream
	cancel context.CancelFunc
	done   chan struct{}
}

// kept is what run-time changes made of the configured streams.
type kept struct {
	Streams []configs.Stream `json:"streams"` // added or changed
	Removed []string         `json:"removed"`
}

// NewManager makes a Manager. stateDir keeps what is changed at run time; an
// empty one keeps nothing.
func NewManager(deps *Deps, stateDir string) *Manager {
	m := &Manager{deps: deps, running: map[string]*run{}, changed: make(chan struct{}, 1), started: make(chan struct{})}
	if stateDir != "" {
		m.path = filepath.Join(stateDir, "streams.json")
	}
	return m
}

// Run runs the configured streams, as changed at run time earlier, until ctx
// ends. With untilDone it also ends when every stream has.
func (m *Manager) Run(ctx context.Context, streams []configs.Stream, untilDone bool) error {
	if err := m.load(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); m.wg.Wait() }()
	streams = m.merged(streams)
	m.warm(streams...)
	m.mu.Lock()
	m.ctx = ctx
	for _, c := range streams {
		m.start(c)
	}
	m.mu.Unlock()
	close(m.started)
	m.note() // there may be none to wait for
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
			m.mu.Lock()
			n := 0
			for _, r := range m.running {
				select {
				case <-r.done:
				default:
					n++
				}
			}
			m.mu.Unlock()
			if untilDone && n == 0 {
				return nil
			}
		}
	}
}

// note lets Run look whether all streams have ended.
func (m *Manager) note() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Started is closed once Run has started the configured streams. Before that
// they are not there.
func (m *Manager) Started() <-chan struct{} { return m.started }

// merged lays the kept changes over the configured streams.
func (m *Manager) merged(streams []configs.Stream) []configs.Stream {
	var out []configs.Stream
	for _, c := range streams {
		if !slices.Contains(m.kept.Removed, c.Name) {
			out = append(out, c)
		}
	}
	for _, c := range m.kept.Streams {
		if i := slices.IndexFunc(out, func(o configs.Stream) bool { return o.Name == c.Name }); i >= 0 {
			out[i] = c
		} else {
			out = append(out, c)
		}
	}
	return out
}

// start runs a stream; m.mu is held.
func (m *Manager) start(c configs.Stream) *Stream {
	ctx, cancel := context.WithCancel(m.ctx)
	m.configs.Store(c.Name, c)
	r := &run{s: NewStream(c, m.deps), cancel: cancel, done: make(chan struct{})}
	if _, ok := m.running[c.Name]; !ok {
		m.order = append(m.order, c.Name)
	}
	m.running[c.Name] = r
	m.wg.Go(func() {
		defer func() {
			cancel()
			close(r.done)
			m.note()
		}()
		if err := r.s.Run(ctx); err != nil {
			m.deps.Log.Error("a stream failed; the others go on", "stream", c.Name, "error", err)
			r.s.onStatus(event.Status{State: "failed", Reason: err.Error(), Fix: "run `lookout doctor`"})
		}
	})
	return r.s
}

// warm loads the models of streams that have their own, which takes long: before
// mu is held, for which all who ask after streams wait. NewStream tells of errors.
func (m *Manager) warm(streams ...configs.Stream) {
	for _, c := range streams {
		if c.Model != "" && m.deps.Pick != nil {
			_, _ = m.deps.Pick(c.Model)
		}
	}
}

// Add starts a stream and keeps it.
func (m *Manager) Add(c configs.Stream) error {
	if err := c.Validate(); err != nil {
		return err
	}
	m.warm(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil || m.ctx.Err() != nil {
		return ErrEnded
	}
	if _, ok := m.running[c.Name]; ok {
		return fmt.Errorf("%s: %w", c.Name, ErrExists)
	}
	if err := m.save(m.kept.with(c)); err != nil {
		return err
	}
	m.start(c)
	return nil
}

// Change starts the stream anew with c, and keeps it so.
func (m *Manager) Change(c configs.Stream) error {
	if err := c.Validate(); err != nil {
		return err
	}
	m.mu.Lock()
	r, ok := m.running[c.Name]
	if !ok || m.ctx.Err() != nil {
		m.mu.Unlock()
		return fmt.Errorf("%s: %w", c.Name, ErrNotFound)
	}
	if err := m.save(m.kept.with(c)); err != nil {
		m.mu.Unlock()
		return err
	}
	m.mu.Unlock()
	m.warm(c)
	r.cancel()
	<-r.done // the old one frees its source first: many cameras serve one client
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[c.Name] == r && m.ctx.Err() == nil {
		m.start(c)
	}
	return nil
}

// Remove stops a stream and forgets it.
func (m *Manager) Remove(name string) error {
	m.mu.Lock()
	r, ok := m.running[name]
	if !ok {
		m.mu.Unlock()
		return fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	if err := m.save(m.kept.without(name)); err != nil {
		m.mu.Unlock()
		return err // it would come back
	}
	delete(m.running, name)
	defer m.configs.Delete(name) // its last events still ask
	m.order = slices.DeleteFunc(m.order, func(n string) bool { return n == name })
	m.mu.Unlock()
	r.cancel()
	<-r.done
	return nil
}

func (k kept) with(c configs.Stream) kept {
	k = kept{slices.Clone(k.Streams), slices.DeleteFunc(slices.Clone(k.Removed), func(n string) bool { return n == c.Name })}
	k.Streams = append(slices.DeleteFunc(k.Streams, func(o configs.Stream) bool { return o.Name == c.Name }), c)
	return k
}

func (k kept) without(name string) kept {
	k = kept{slices.DeleteFunc(slices.Clone(k.Streams), func(c configs.Stream) bool { return c.Name == name }), slices.Clone(k.Removed)}
	if !slices.Contains(k.Removed, name) {
		k.Removed = append(k.Removed, name)
	}
	return k
}

// Stop ends all streams and waits for them. They stay listed, with their
// figures; nothing is forgotten.
func (m *Manager) Stop() {
	m.mu.Lock()
	var all []*run
	for _, r := range m.running {
		r.cancel()
		all = append(all, r)
	}
	m.mu.Unlock()
	for _, r := range all {
		<-r.done
	}
}

// Get gives a running stream.
func (m *Manager) Get(name string) (*Stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.running[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return r.s, nil
}

// Config gives a stream's configuration, also one that was added or changed at
// run time. It never waits.
func (m *Manager) Config(name string) (configs.Stream, bool) {
	c, ok := m.configs.Load(name)
	if !ok {
		return configs.Stream{}, false
	}
	return c.(configs.Stream), true
}

// All gives the streams in the order they were started.
func (m *Manager) All() []*Stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Stream, 0, len(m.order))
	for _, n := range m.order {
		if r, ok := m.running[n]; ok {
			out = append(out, r.s)
		}
	}
	return out
}

func (m *Manager) load() error {
	if m.path == "" {
		return nil
	}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m.kept)
	}
	if err != nil {
		return fmt.Errorf("pipeline: %s: %w; mend it, or remove it to forget the streams added at run time", m.path, err)
	}
	return nil
}

// save makes k what is kept, on disk first: what cannot be kept is not done.
func (m *Manager) save(k kept) error {
	if m.path != "" {
		b, err := json.MarshalIndent(k, "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
			return fmt.Errorf("pipeline: keep streams: %w", err)
		}
		if err := replace(m.path, b); err != nil {
			return fmt.Errorf("pipeline: keep streams: %w", err)
		}
	}
	m.kept = k
	return nil
}

// replace writes the file in one step: a crash, also of the machine, leaves the
// old or the new. It holds camera passwords: it is for the owner only.
func replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
