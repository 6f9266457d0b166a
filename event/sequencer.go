package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// reserve is how many numbers one write to disk sets aside. A crash skips at
// most so many; a clean Close skips none.
const reserve = 256

// Sequencer numbers the events of each stream: 1, 2, 3 and so on, never back
// and never twice, also across restarts and crashes. It sets numbers aside on
// disk before it gives them out, so it costs one small write every 256 events.
type Sequencer struct {
	path string // "" when nothing is kept

	mu       sync.Mutex
	last     map[string]uint64 // given out
	reserved map[string]uint64 // on disk; last never passes it
}

// OpenSequencer reads the numbers that were given out from the file at path,
// which it makes with its folder when it is missing. An empty path keeps
// nothing: good for a run whose outputs end with it.
//
// A file that is no list of numbers is an error and not a reason to begin at 1
// again: outputs would take what is new for what they already have.
func OpenSequencer(path string) (*Sequencer, error) {
	s := &Sequencer{path: path, last: map[string]uint64{}, reserved: map[string]uint64{}}
	if path == "" {
		return s, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("event: folder for sequence numbers: %w", err)
		}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("event: read sequence numbers: %w", err)
	}
	if err := json.Unmarshal(b, &s.reserved); err != nil || s.reserved == nil {
		return nil, fmt.Errorf("event: %s does not hold sequence numbers (%v); restore it, or write one "+
			`"stream":number pair for each camera with a number above the newest seq that your outputs have`, path, err)
	}
	for stream, n := range s.reserved {
		s.last[stream] = n
	}
	return s, nil
}

// Next gives the next number of stream. An error means that the number could
// not be set aside on disk: it must not be used.
func (s *Sequencer) Next(stream string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.last[stream] + 1
	if s.path != "" && n > s.reserved[stream] {
		old, had := s.reserved[stream]
		s.reserved[stream] = n + reserve - 1
		if err := writeFile(s.path, s.reserved); err != nil {
			if s.reserved[stream] = old; !had {
				delete(s.reserved, stream)
			}
			return 0, fmt.Errorf("event: set aside sequence numbers for stream %q: %w", stream, err)
		}
	}
	s.last[stream] = n
	return n, nil
}

// Close gives back the numbers that were set aside and not used.
func (s *Sequencer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return nil
	}
	if err := writeFile(s.path, s.last); err != nil {
		return fmt.Errorf("event: write sequence numbers: %w", err)
	}
	for stream, n := range s.last {
		s.reserved[stream] = n
	}
	return nil
}

// writeFile replaces the file at path by v as JSON, at once and for good: a
// crash leaves the old or the new content.
func writeFile(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
