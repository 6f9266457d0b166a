package media

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestRTPTime(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want uint32
	}{
		{0, 0},
		{time.Second, 90000},
		{40 * time.Millisecond, 3600},
		{time.Second / 3, 29999},                   // 333333333 ns
		{47722 * time.Second, 47722*90000 - 1<<32}, // just past the wrap
		{400 * 24 * time.Hour, uint32((400 * 24 * 3600 * 90000) & 0xffffffff)},
	} {
		if got := RTPTime(c.d); got != c.want {
			t.Errorf("RTPTime(%v) = %d, want %d", c.d, got, c.want)
		}
	}
}

func pkt(n int, key bool) *Packet {
	return &Packet{Codec: H264, Key: key, Data: []byte{byte(n)}, At: At(time.Time{}, time.Duration(n)*time.Second)}
}

func read(t *testing.T, s *Sub, want ...byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, w := range want {
		p, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("want packet %d: %v", w, err)
		}
		if p.Data[0] != w {
			t.Fatalf("got packet %d, want %d", p.Data[0], w)
		}
	}
}

func TestTapJoinerStartsAtLastKeyFrame(t *testing.T) {
	tap := NewTap(8)
	for i, key := range []bool{false, true, false, false, true, false} {
		tap.Publish(pkt(i, key))
	}
	s := tap.Subscribe()
	tap.Publish(pkt(6, false))
	read(t, s, 4, 5, 6)
	if s.Dropped() != 0 {
		t.Errorf("dropped %d, want 0", s.Dropped())
	}
	if tap.Codec() != H264 {
		t.Errorf("codec %q", tap.Codec())
	}
}

func TestTapSlowReaderLosesUpToNextKeyFrame(t *testing.T) {
	tap := NewTap(4)
	slow, fast := tap.Subscribe(), tap.Subscribe()
	for i := range 10 {
		tap.Publish(pkt(i, i%3 == 0))
		read(t, fast, byte(i))
	}
	// 0..3 fill the queue; 4 overflows it and is no key frame; 6 is one.
	read(t, slow, 6, 7, 8, 9)
	if got := slow.Dropped(); got != 6 {
		t.Errorf("slow reader dropped %d, want 6", got)
	}
	if got := fast.Dropped(); got != 0 {
		t.Errorf("fast reader dropped %d, want 0", got)
	}
}

func TestTapLongGroupIsNotGivenToJoiners(t *testing.T) {
	tap := NewTap(3)
	tap.Publish(pkt(0, true))
	for i := 1; i < 6; i++ {
		tap.Publish(pkt(i, false))
	}
	s := tap.Subscribe()
	tap.Publish(pkt(6, false))
	tap.Publish(pkt(7, true))
	read(t, s, 7)
}

func TestTapCutMakesReadersWaitForAKeyFrame(t *testing.T) {
	tap := NewTap(8)
	s := tap.Subscribe()
	tap.Publish(pkt(0, true))
	tap.Cut()
	tap.Publish(pkt(1, false))
	late := tap.Subscribe()
	tap.Publish(pkt(2, true))
	read(t, s, 0, 2)
	read(t, late, 2)
	if s.Dropped() != 1 {
		t.Errorf("dropped %d, want 1", s.Dropped())
	}
}

func TestTapClose(t *testing.T) {
	tap := NewTap(4)
	s := tap.Subscribe()
	tap.Publish(pkt(1, true))
	tap.Close()
	tap.Publish(pkt(2, true))
	read(t, s, 1)
	if _, err := s.Next(t.Context()); !errors.Is(err, ErrTapClosed) {
		t.Fatalf("after close: %v, want ErrTapClosed", err)
	}
	if _, err := tap.Subscribe().Next(t.Context()); !errors.Is(err, ErrTapClosed) {
		t.Fatalf("joining a closed tap: %v, want ErrTapClosed", err)
	}
}

func TestSubCloseWakesReader(t *testing.T) {
	tap := NewTap(4)
	s := tap.Subscribe()
	done := make(chan error, 1)
	go func() { _, err := s.Next(context.Background()); done <- err }()
	s.Close()
	select {
	case err := <-done:
		if !errors.Is(err, ErrTapClosed) {
			t.Fatalf("got %v, want ErrTapClosed", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Next still blocks after Close")
	}
	if tap.Readers() != 0 {
		t.Errorf("%d readers left", tap.Readers())
	}
}

func TestTapManyReadersInParallel(t *testing.T) {
	tap := NewTap(2000)
	var wg sync.WaitGroup
	for range 20 {
		s := tap.Subscribe()
		wg.Go(func() {
			defer s.Close()
			for n := 0; ; n++ {
				if _, err := s.Next(t.Context()); err != nil {
					if n != 1000 {
						t.Errorf("read %d packets, want 1000", n)
					}
					return
				}
			}
		})
	}
	for i := range 1000 {
		tap.Publish(pkt(i, i%50 == 0))
	}
	tap.Close()
	wg.Wait()
}
