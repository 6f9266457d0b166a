package server

import "sync"

// maxShots is how many snapshots are found by their frame: those of the events
// that a page still shows.
const maxShots = 4096

type shotKey struct {
	stream string
	frame  uint64
}

type shotPlace struct{ event, name string }

// shots tells in which snapshot on disk a frame is kept, once the source has
// let go of it.
type shots struct {
	mu    sync.Mutex
	place map[shotKey]shotPlace
	order []shotKey // a ring once it is full
	next  int
}

func (s *shots) add(k shotKey, p shotPlace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.place == nil {
		s.place = map[shotKey]shotPlace{}
	}
	if _, ok := s.place[k]; !ok {
		if len(s.order) < maxShots {
			s.order = append(s.order, k)
		} else {
			delete(s.place, s.order[s.next])
			s.order[s.next] = k
			s.next = (s.next + 1) % maxShots
		}
	}
	s.place[k] = p
}

func (s *shots) get(k shotKey) (shotPlace, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.place[k]
	return p, ok
}
