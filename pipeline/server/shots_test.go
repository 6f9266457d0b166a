package server

import "testing"

func TestShotsAreBounded(t *testing.T) {
	var s shots
	for i := range uint64(maxShots + 10) {
		s.add(shotKey{"a", i}, shotPlace{"e", "n"})
		s.add(shotKey{"a", i}, shotPlace{"e", "newer"})
	}
	if _, ok := s.get(shotKey{"a", 9}); ok || len(s.place) != maxShots {
		t.Errorf("%d kept, the oldest among them: %v", len(s.place), ok)
	}
	if p, ok := s.get(shotKey{"a", maxShots + 9}); !ok || p.name != "newer" {
		t.Errorf("the newest: %v %v", p, ok)
	}
}
