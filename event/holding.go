package event

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// Holding keeps on disk which alerts hold. A program that is killed cannot tell
// their ends; the next one does, with Left.
type Holding struct {
	path string

	mu sync.Mutex
	on map[string]*Event // by event id: the newest of each
}

// OpenHolding reads the alerts that hold from the file at path, which is made
// when the first begins. A file that cannot be read is an error; the Holding can
// be used even so, and knows of none.
func OpenHolding(path string) (*Holding, error) {
	h := &Holding{path: path, on: map[string]*Event{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	on := map[string]*Event{}
	if err == nil {
		err = json.Unmarshal(b, &on)
	}
	for _, ev := range on {
		if err == nil && ev != nil {
			err = ev.check()
		}
		if ev == nil {
			err = errors.New("an empty entry")
		}
	}
	if err != nil {
		return h, fmt.Errorf("event: which alerts held when the program ended: %w", err)
	}
	h.on = on
	return h, nil
}

// Left gives an end for each alert that holds, oldest first: that of a program
// that was killed. It is abstained: when the alert was over nobody saw.
func (h *Holding) Left() []*Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ends []*Event
	for _, ev := range h.on {
		d := ev.Data
		d.Seq, d.Revision, d.Phase, d.Abstained, d.Probability, d.Latency = 0, d.Revision+1, End, true, nil, nil
		ends = append(ends, New(TypeAlert, ev.Time, d))
	}
	slices.SortFunc(ends, func(a, b *Event) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	for _, ev := range ends {
		ev.Time = time.Time{} // the Emitter's: it ends now
	}
	return ends
}

// Begins notes alerts that begin: it belongs before the outboxes, so that an
// alert whose beginning went out is known here.
func (h *Holding) Begins() Publisher { return notes{h, false} }

// Ends forgets alerts that have ended: it belongs behind the outboxes, so that
// one that is forgotten here has had its end.
func (h *Holding) Ends() Publisher { return notes{h, true} }

type notes struct {
	*Holding
	ends bool
}

// Publish writes the file when an alert begins, changes or ends.
func (n notes) Publish(_ context.Context, ev *Event) error {
	if ev.Type != TypeAlert || n.ends != (ev.Data.Phase == End) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ends {
		delete(n.on, ev.Data.EventID)
	} else {
		n.on[ev.Data.EventID] = ev
	}
	if err := writeFile(n.path, n.on); err != nil {
		return fmt.Errorf("note which alerts hold: %w", err)
	}
	return nil
}
