package ingest

import (
	"context"
	"errors"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/media"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg Config) *Reader {
	t.Helper()
	r, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// The patches of testdata/make.py.
var patches = [8][3]int{{255, 255, 255}, {0, 0, 0}, {128, 128, 128}, {200, 30, 40}, {30, 160, 60}, {40, 70, 210}, {230, 200, 40}, {130, 50, 160}}

func TestColours(t *testing.T) {
	// 8-bit rounding of Y, Cb and Cr is worth up to 2 steps of RGB, the encoder's quantiser 2 more.
	const tolerance = 4
	for _, name := range []string{"bt601-limited", "bt601-full", "bt709-limited", "bt709-full"} {
		t.Run(name, func(t *testing.T) {
			r := open(t, Config{Name: name, URL: "testdata/" + name + ".mp4"})
			var f media.Frame
			if err := r.ReadFrame(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
			if f.Width != 128 || f.Height != 64 {
				t.Fatalf("frame is %dx%d, want 128x64", f.Width, f.Height)
			}
			for i, want := range patches {
				at := ((i/4*32+16)*128 + i%4*32 + 16) * 3
				for c := range 3 {
					if got := int(f.Pix[at+c]); got < want[c]-tolerance || got > want[c]+tolerance {
						t.Errorf("patch %d: got %v, want %v", i, f.Pix[at:at+3], want)
						break
					}
				}
			}
		})
	}
}

// counted tells which frame of counting.mp4 f is.
func counted(f *media.Frame) int {
	y := float64(f.Pix[len(f.Pix)/2])*219/255 + 16
	return int((y - 40 + 4) / 8)
}

func readAll(t *testing.T, r *Reader, limit int) (got []int, at []time.Duration) {
	t.Helper()
	var f media.Frame
	for len(got) < limit {
		err := r.ReadFrame(t.Context(), &f)
		if errors.Is(err, io.EOF) {
			return got, at
		}
		if err != nil {
			t.Fatal(err)
		}
		got, at = append(got, counted(&f)), append(at, f.At.Media)
	}
	return got, at
}

func TestReadsEveryFrameOnce(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4"})
	got, at := readAll(t, r, 99)
	if len(got) != 20 {
		t.Fatalf("read %d frames, want 20: %v", len(got), got)
	}
	for i := range got {
		if got[i] != i || at[i] != time.Duration(i)*100*time.Millisecond {
			t.Errorf("frame %d: got number %d at %v", i, got[i], at[i])
		}
	}
	if s := r.Stats(); s.Packets != 20 || s.Decoded != 20 || s.Sampled != 20 || s.DecodeErrors != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestSamplesOnTheMediaClock(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", SampleRate: 4, Width: 32, Height: 18})
	got, _ := readAll(t, r, 99)
	want := []int{0, 2, 5, 7, 10, 12, 15, 17} // 0, .25, .5 s … to the nearest tenth
	if len(got) != len(want) {
		t.Fatalf("got frames %v, want about %v", got, want)
	}
	for i := range want {
		if got[i] < want[i] || got[i] > want[i]+1 {
			t.Errorf("sample %d is frame %d, want %d", i, got[i], want[i])
		}
	}
}

func TestLoopKeepsTheClockGrowing(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", Loop: true})
	got, at := readAll(t, r, 50)
	for i := range got {
		if got[i] != i%20 || at[i] != time.Duration(i)*100*time.Millisecond {
			t.Fatalf("frame %d: got number %d at %v", i, got[i], at[i])
		}
	}
	if r.Stats().Loops != 2 {
		t.Errorf("%d loops, want 2", r.Stats().Loops)
	}
}

func TestLetterboxesWhatDoesNotFit(t *testing.T) {
	r := open(t, Config{URL: "testdata/bt709-limited.mp4", Width: 64, Height: 64})
	var f media.Frame
	if err := r.ReadFrame(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	if top := f.Pix[:3]; top[0] > 2 || top[1] > 2 || top[2] > 2 {
		t.Errorf("top bar is %v, want black", top)
	}
	if white := f.Pix[(24*64+8)*3:][:3]; white[0] < 250 {
		t.Errorf("first patch is %v, want white", white)
	}
}

func TestTapGivesAnnexBBeforeDecoding(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4"})
	sub := r.Tap().Subscribe()
	readAll(t, r, 99)
	for i := range 20 {
		p, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p.Codec != media.H264 || !strings.HasPrefix(string(p.Data), "\x00\x00\x00\x01") && !strings.HasPrefix(string(p.Data), "\x00\x00\x01") {
			t.Fatalf("packet %d is %s and begins with % x", i, p.Codec, p.Data[:4])
		}
		if p.Key != (i%10 == 0) {
			t.Errorf("packet %d: key %v", i, p.Key)
		}
		if p.Key && !strings.Contains(string(p.Data), "\x00\x00\x01\x67") {
			t.Errorf("key packet %d has no parameter sets", i)
		}
		if want := uint32(i * 9000); p.At.RTP != want {
			t.Errorf("packet %d: RTP time %d, want %d", i, p.At.RTP, want)
		}
	}
}

func TestBare(t *testing.T) {
	unit := func(headers ...byte) (b []byte) {
		for _, h := range headers {
			b = append(b, 0, 0, 0, 1, h, 1, 2, 3)
		}
		return b
	}
	for _, c := range []struct {
		codec media.Codec
		unit  []byte
		bare  bool
	}{
		{media.H264, unit(9, 0x67, 0x68, 0x65), false}, // a delimiter, the sets, a picture
		{media.H264, unit(9, 6, 0x65), true},
		{media.H264, unit(0x65, 0x67), true},
		{media.HEVC, unit(35<<1, 32<<1, 33<<1, 34<<1, 19<<1), false},
		{media.HEVC, unit(35<<1, 39<<1, 19<<1), true},
		{media.H264, nil, true},
		{media.H264, []byte{0, 0, 1}, true},
	} {
		if got := bare(c.codec, c.unit); got != c.bare {
			t.Errorf("%s % x: bare %v", c.codec, c.unit, got)
		}
	}
}

func TestBadSources(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	garbage := filepath.Join(t.TempDir(), "garbage.mp4")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not video ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, url string
		want      error
	}{
		{"missing", "testdata/missing.mp4", ErrNotFound},
		{"garbage", garbage, ErrCorrupt},
		{"audio", "testdata/audio.wav", ErrNoVideo},
		{"refused", "rtsp://user:secret@" + closed + "/cam", ErrUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(t.Context(), Config{Name: "yard", URL: c.url})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if !strings.Contains(err.Error(), "yard") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q does not name the stream, or tells the password", err)
			}
		})
	}
}

func TestSilentServerTimesOut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, c := range map[string]struct {
		timeout time.Duration
		want    error
	}{"timeout": {200 * time.Millisecond, ErrTimeout}, "cancel": {time.Minute, context.DeadlineExceeded}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if name == "cancel" {
				ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
			}
			defer cancel()
			_, err := Open(ctx, Config{URL: "rtsp://" + l.Addr().String() + "/cam", ReadTimeout: c.timeout})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestDamagedVideoCostsFramesNotTheStream(t *testing.T) {
	whole, err := os.ReadFile("testdata/counting.mp4")
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewSource(1))
	for i := range 40 {
		b := append([]byte(nil), whole...)
		if i%2 == 0 {
			b = b[:len(b)/4+rnd.Intn(len(b)*3/4)]
		} else {
			for range 20 {
				b[rnd.Intn(len(b))] ^= 1 << rnd.Intn(8)
			}
		}
		path := filepath.Join(t.TempDir(), "damaged.mp4")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(t.Context(), Config{Name: "damaged", URL: path})
		if err != nil {
			continue // a clear refusal is fine; a crash or a hang is not
		}
		var f media.Frame
		for n := 0; err == nil && n < 200; n++ {
			err = r.ReadFrame(t.Context(), &f)
		}
		r.Close()
		if err == nil {
			t.Fatalf("variant %d never ends", i)
		}
	}
}

func TestOpenAndCloseLeakNothing(t *testing.T) {
	whole := packetsOf(t, "counting-hevc.mp4")
	fds := func() int { d, _ := os.ReadDir("/proc/self/fd"); return len(d) }
	rss := func() (kb int) {
		debug.FreeOSMemory() // Go's own garbage is not what is looked for
		b, _ := os.ReadFile("/proc/self/status")
		_, rest, _ := strings.Cut(string(b), "VmRSS:")
		for _, c := range strings.TrimSpace(rest) {
			if c < '0' || c > '9' {
				break
			}
			kb = kb*10 + int(c-'0')
		}
		return kb
	}
	pass := func(n int) {
		for range n {
			r, err := Open(t.Context(), Config{URL: "testdata/counting.mp4", Width: 64, Height: 32})
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, r, 5)
			if _, err := r.Still(0, 32); err != nil {
				t.Fatal(err)
			}
			r.Close()
			tap := media.NewTap(0)
			for _, p := range whole[:2] {
				tap.Publish(p)
			}
			tc := NewTranscoder(TranscodeConfig{}, tap)
			ctx, cancel := context.WithCancel(t.Context())
			sub, done := tc.Tap().Subscribe(), make(chan error, 1)
			go func() { done <- tc.Run(ctx) }()
			if _, err := sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			cancel()
			<-done
			if _, err := Open(t.Context(), Config{URL: "testdata/audio.wav"}); err == nil {
				t.Fatal("audio opened as video")
			}
		}
	}
	pass(300) // fills the allocators' pools and the race detector's shadow
	fd0, rss0 := fds(), rss()
	pass(200)
	if n := fds(); n > fd0 {
		t.Errorf("%d file descriptors before, %d after", fd0, n)
	}
	// One leaked decoder is 100 KB and more; 200 would show as 20 MB.
	if n := rss(); n > rss0+8<<10 {
		t.Errorf("resident memory grew from %d to %d KB over 200 opens", rss0, n)
	}
}
