package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// clips show the same twenty frames in each codec.
var clips = map[media.Codec]string{
	media.H264: "counting.mp4", media.HEVC: "counting-hevc.mp4", media.VP8: "counting-vp8.webm", media.VP9: "counting-vp9.webm",
	media.AV1: "counting-av1.mp4", media.MPEG4: "counting-mpeg4.mp4", media.MPEG2: "counting-mpeg2.ts", media.MJPEG: "counting-mjpeg.avi",
}

// inOrder fails unless got counts from first on.
func inOrder(t *testing.T, got []int, first, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("got %d frames, want %d: %v", len(got), n, got)
	}
	for i := range got {
		if got[i] != first+i {
			t.Fatalf("frame %d is number %d: %v", i, got[i], got)
		}
	}
}

func TestCodecs(t *testing.T) {
	for codec, clip := range clips {
		t.Run(string(codec), func(t *testing.T) {
			r := open(t, Config{URL: "testdata/" + clip})
			got, at := readAll(t, r, 99)
			inOrder(t, got, 0, 20)
			for i := 1; i < len(at); i++ {
				if at[i] <= at[i-1] {
					t.Errorf("media time goes from %v to %v", at[i-1], at[i])
				}
			}
			info := r.Info()
			if d := info.Duration; d < 1900*time.Millisecond || d > 2100*time.Millisecond {
				t.Errorf("length %v, want about 2 s", d)
			}
			info.Duration = 0
			if info != (Info{Codec: codec, Width: 128, Height: 64, Decoder: "cpu"}) {
				t.Errorf("info %+v", info)
			}
			// The packets stand alone: another Reader makes the same of them.
			all, last := packetsOf(t, clip), 0
			if len(all) != 20 {
				t.Fatalf("%d packets, want 20", len(all))
			}
			tap := media.NewTap(0)
			for i, p := range all {
				tap.Publish(p)
				if p.Key {
					last = i
				}
			}
			again, _ := readAll(t, open(t, Config{Packets: tap, ReadTimeout: time.Second}), 20-last)
			inOrder(t, again, last, 20-last)
		})
	}
}

func TestBFramesComeOutInOrder(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting-bframes.mp4"})
	got, at := readAll(t, r, 99)
	inOrder(t, got, 0, 20)
	for i := range at {
		if want := time.Duration(i) * 100 * time.Millisecond; at[i]-at[0] != want {
			t.Errorf("frame %d is at %v, want %v after the first", i, at[i], want)
		}
	}
	if !r.Info().Reorders {
		t.Error("Info does not tell of the B-frames")
	}
}

func TestThreadsShareAPicture(t *testing.T) {
	got, _ := readAll(t, open(t, Config{URL: "testdata/counting.mp4", Threads: 4}), 99)
	inOrder(t, got, 0, 20)
}

// The picture is the one of TestColours, turned by the track header's matrix.
func TestRotation(t *testing.T) {
	for angle, where := range map[int]func(x, y int) (int, int){ // of the coded picture's pixel, 128x64
		90:  func(x, y int) (int, int) { return 63 - y, x },
		180: func(x, y int) (int, int) { return 127 - x, 63 - y },
		270: func(x, y int) (int, int) { return y, 127 - x },
	} {
		t.Run(fmt.Sprint(angle), func(t *testing.T) {
			r := open(t, Config{URL: fmt.Sprintf("testdata/rotated-%d.mp4", angle)})
			var f media.Frame
			if err := r.ReadFrame(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
			w, h := 128, 64
			if angle != 180 {
				w, h = 64, 128
			}
			if info := r.Info(); f.Width != w || f.Height != h || info.Width != w || info.Rotation != angle {
				t.Fatalf("frame is %dx%d, want %dx%d; info %+v", f.Width, f.Height, w, h, info)
			}
			still, err := r.Still(0, 0)
			if err != nil {
				t.Fatal(err)
			}
			img, err := jpeg.Decode(bytes.NewReader(still))
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range patches {
				x, y := where(i%4*32+16, i/4*32+16)
				if got := f.Pix[(y*w+x)*3:][:3]; !near(want, int(got[0]), int(got[1]), int(got[2]), 4) {
					t.Errorf("patch %d: got %v, want %v", i, got, want)
				}
				if r, g, b, _ := img.At(x, y).RGBA(); !near(want, int(r>>8), int(g>>8), int(b>>8), 10) {
					t.Errorf("patch %d of the still: got %v, want %v", i, img.At(x, y), want)
				}
			}
		})
	}
}

func near(want [3]int, r, g, b, tolerance int) bool {
	for i, got := range []int{r, g, b} {
		if d := got - want[i]; d > tolerance || d < -tolerance {
			return false
		}
	}
	return true
}

func TestHTTP(t *testing.T) {
	files := http.FileServer(http.Dir("testdata"))
	mux := http.NewServeMux()
	mux.Handle("/", files)
	mux.HandleFunc("/locked/", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "user" || p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="camera"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		http.StripPrefix("/locked/", files).ServeHTTP(w, r)
	})
	// A live playlist: the second segment appears once the first was fetched.
	var polls atomic.Int32
	mux.HandleFunc("/live.m3u8", func(w http.ResponseWriter, r *http.Request) {
		all, err := os.ReadFile("testdata/hls.m3u8")
		if err != nil {
			t.Error(err)
		}
		if polls.Add(1) == 1 {
			all, _, _ = bytes.Cut(all, []byte("#EXTINF:1.000000,\nhls1"))
		}
		w.Write(all)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"progressive":    {path: "/counting.mp4"},
		"transport":      {path: "/hls0.ts"},
		"HLS":            {path: "/hls.m3u8"},
		"live HLS":       {path: "/live.m3u8"},
		"password":       {path: "/locked/counting.mp4"},
		"wrong path":     {path: "/missing.mp4", want: ErrNotFound},
		"wrong password": {path: "/locked/counting.mp4", want: ErrAuth},
	} {
		t.Run(name, func(t *testing.T) {
			url := srv.URL + c.path
			switch name {
			case "password":
				url = strings.Replace(url, "://", "://user:secret@", 1)
			case "wrong password":
				url = strings.Replace(url, "://", "://user:wr0ng@", 1)
			}
			r, err := Open(t.Context(), Config{Name: "yard", URL: url, ReadTimeout: 5 * time.Second})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "wr0ng") {
					t.Errorf("%q tells the password", err)
				}
				return
			}
			defer r.Close()
			want := 20
			if name == "transport" {
				want = 10
			}
			if silent := r.guard.limit >= 30*time.Second; silent != strings.Contains(name, "HLS") {
				t.Errorf("silence of %v is allowed", r.guard.limit)
			}
			got, _ := readAll(t, r, 99)
			inOrder(t, got, 0, want)
		})
	}
}

// mjpegCamera serves pictures whose luma tells their number, as cheap cameras
// do, and hangs up after each n.
func mjpegCamera(t *testing.T, n int) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := multipart.NewWriter(w)
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary="+m.Boundary())
		img := image.NewGray(image.Rect(0, 0, 64, 48))
		for i := range n {
			for p := range img.Pix {
				img.Pix[p] = uint8(10 * (i % 25))
			}
			var b bytes.Buffer
			if err := jpeg.Encode(&b, img, nil); err != nil {
				t.Error(err)
			}
			part, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {"image/jpeg"}, "Content-Length": {fmt.Sprint(b.Len())}})
			if err != nil {
				return // the reader has gone
			}
			if _, err := part.Write(b.Bytes()); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(10 * time.Millisecond): // a camera's pace
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestMJPEGOverHTTP(t *testing.T) {
	srv := mjpegCamera(t, 25)
	var states []State
	s := Supervise(Config{Name: "yard", URL: srv.URL + "/video.mjpg", ReadTimeout: 5 * time.Second, MinWait: time.Millisecond, OnStatus: func(st Status) { states = append(states, st.State) }})
	defer s.Close()
	var f media.Frame
	last := time.Duration(-1)
	began := time.Now()
	for n := range 60 { // over two hang-ups
		if err := s.ReadFrame(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		if want := 10 * (n % 25); math.Abs(float64(int(f.Pix[0])-want)) > 3 {
			t.Fatalf("picture %d has luma %d, want %d", n, f.Pix[0], want)
		}
		if f.At.Media <= last {
			t.Fatalf("media time goes from %v to %v", last, f.At.Media)
		}
		last = f.At.Media
	}
	// The camera sends a hundred pictures a second. They carry no times, and are no
	// 25 a second.
	if d := last - time.Since(began); d > 500*time.Millisecond {
		t.Errorf("media time runs %v ahead of the camera", d)
	}
	if s.Info().Codec != media.MJPEG || s.Stats().Reconnects != 2 {
		t.Errorf("info %+v, stats %+v, states %v", s.Info(), s.Stats(), states)
	}
}

func TestListIsOneStream(t *testing.T) {
	r := open(t, Config{URLs: []string{"testdata/counting.mp4", "testdata/counting-hevc.mp4"}, Loop: true})
	got, at := readAll(t, r, 60)
	for i := range got {
		if got[i] != i%20 || i > 0 && at[i] <= at[i-1] {
			t.Fatalf("frame %d: number %d at %v", i, got[i], at[i])
		}
	}
	if s := r.Stats(); s.Loops != 1 {
		t.Errorf("%d loops, want 1", s.Loops)
	}
	once, _ := readAll(t, open(t, Config{URLs: []string{"testdata/counting.mp4", "testdata/counting.mp4"}}), 99)
	if len(once) != 40 {
		t.Errorf("a list without Loop gives %d frames, want 40", len(once))
	}
}

func TestMissingCamera(t *testing.T) {
	_, err := Open(t.Context(), Config{Name: "yard", URL: "v4l2:/dev/video99?size=640x480"})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "/dev/video") || !strings.Contains(err.Error(), "no such camera") {
		t.Fatalf("got %v, want ErrNotFound that names the device", err)
	}
}

func TestWrongCodec(t *testing.T) {
	_, err := Open(t.Context(), Config{Name: "yard", URL: "testdata/counting-ffv1.mkv"})
	if !errors.Is(err, ErrUnsupportedCodec) || !strings.Contains(err.Error(), "ffv1") {
		t.Fatalf("got %v, want ErrUnsupportedCodec that names ffv1", err)
	}
}

func TestHardwareThatIsMissing(t *testing.T) {
	for kind, node := range map[string]string{"cuda": "/dev/nvidiactl", "vaapi": "/dev/dri"} {
		if _, err := os.Stat(node); err == nil {
			t.Skipf("this machine has %s", node)
		}
		_, err := Open(t.Context(), Config{Name: "yard", URL: "testdata/counting.mp4", Decoder: kind})
		if !errors.Is(err, ErrNoHardware) || !strings.Contains(err.Error(), node) {
			t.Errorf("%s: got %v, want ErrNoHardware that names %s", kind, err, node)
		}
	}
	if _, err := Open(t.Context(), Config{URL: "testdata/counting.mp4", Decoder: "gpu"}); !errors.Is(err, ErrNoHardware) {
		t.Errorf("got %v, want ErrNoHardware", err)
	}
	var notes []string
	s := Supervise(Config{URL: "testdata/counting.mp4", Decoder: "auto", OnStatus: func(st Status) {
		if st.Note != "" {
			notes = append(notes, st.Note)
		}
	}})
	defer s.Close()
	var f media.Frame
	for range 2 { // also after a reconnect it says so once
		if err := s.ReadFrame(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		s.lose(io.EOF)
		s.state = Reconnecting
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "/dev/nvidiactl") || s.Info().Decoder != "cpu" {
		t.Errorf("notes %q, info %+v", notes, s.Info())
	}
}

// packetsOf gives the clip's packets.
func packetsOf(t *testing.T, clip string) (all []*media.Packet) {
	t.Helper()
	tap := media.NewTap(0)
	sub := tap.Subscribe()
	readAll(t, open(t, Config{URL: "testdata/" + clip, Tap: tap}), 99)
	tap.Close()
	for {
		p, err := sub.Next(t.Context())
		if errors.Is(err, media.ErrTapClosed) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestPublisher(t *testing.T) {
	whole := packetsOf(t, "counting.mp4")
	tap := media.NewTap(0)
	s := Supervise(Config{Name: "phone", Packets: tap, ReadTimeout: 200 * time.Millisecond, MinWait: time.Millisecond, MaxWait: 10 * time.Millisecond})
	defer s.Close()
	if s.Tap() != tap {
		t.Error("viewers get another tap than the publisher's")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var f media.Frame
	last := media.Timestamp{Media: -1}
	for round := range 3 { // the publisher comes again and starts its clock at 0
		if round > 0 {
			tap.Cut()
		}
		for i, p := range whole {
			tap.Publish(p)
			if err := s.ReadFrame(ctx, &f); err != nil {
				t.Fatal(err)
			}
			if counted(&f) != i || f.At.Media <= last.Media {
				t.Fatalf("round %d, frame %d: number %d at %v after %v", round, i, counted(&f), f.At.Media, last.Media)
			}
			if !f.At.Capture.Equal(p.At.Capture) {
				t.Fatalf("captured at %v, want %v", f.At.Capture, p.At.Capture)
			}
			last = f.At
		}
	}
	tap.Close()
	if err := s.ReadFrame(ctx, &f); !errors.Is(err, io.EOF) {
		t.Fatalf("after the publisher's end: %v, want EOF", err)
	}
}

func TestSilentPublisherTimesOut(t *testing.T) {
	if _, err := Open(t.Context(), Config{Packets: media.NewTap(0), ReadTimeout: 20 * time.Millisecond}); !errors.Is(err, ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
}

// TestSilentPublisherIsNotReadAgain: the last pictures of one who fell silent do
// not come as new ones at the next try.
func TestSilentPublisherIsNotReadAgain(t *testing.T) {
	tap := media.NewTap(0)
	s := Supervise(Config{Packets: tap, ReadTimeout: 100 * time.Millisecond, MinWait: time.Millisecond, MaxWait: 10 * time.Millisecond})
	defer s.Close()
	var f media.Frame
	whole := packetsOf(t, "counting.mp4")
	for _, p := range whole {
		tap.Publish(p)
		if err := s.ReadFrame(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if err := s.ReadFrame(ctx, &f); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read picture %d again, %v", counted(&f), err)
	}
	tap.Publish(whole[0])
	if err := s.ReadFrame(t.Context(), &f); err != nil || counted(&f) != 0 {
		t.Errorf("when it came back: picture %d, %v", counted(&f), err)
	}
}

func TestPublisherThatChangesItsCodec(t *testing.T) {
	tap := media.NewTap(0)
	s := Supervise(Config{Packets: tap, MinWait: time.Millisecond, MaxWait: time.Millisecond})
	defer s.Close()
	var f media.Frame
	for _, clip := range []string{"counting.mp4", "counting-vp8.webm"} {
		for i, p := range packetsOf(t, clip) {
			tap.Publish(p)
			if err := s.ReadFrame(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
			if counted(&f) != i || s.Info().Codec != p.Codec {
				t.Fatalf("%s: frame %d is number %d, info %+v", clip, i, counted(&f), s.Info())
			}
		}
	}
}

func TestWatchdogOnPacketsThatCannotBeDecoded(t *testing.T) {
	tap := media.NewTap(0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			tap.Publish(&media.Packet{Codec: media.H264, Key: true, Data: []byte("\x00\x00\x00\x01\x65 no picture"), At: media.At(time.Now(), time.Duration(i)*time.Millisecond)})
			time.Sleep(time.Millisecond)
		}
	}()
	defer func() { cancel(); <-done }()
	r := open(t, Config{Name: "yard", Packets: tap, StallTimeout: 100 * time.Millisecond})
	if err := r.ReadFrame(t.Context(), &media.Frame{}); !errors.Is(err, ErrStalled) {
		t.Fatalf("got %v, want ErrStalled", err)
	}
	if s := r.Stats(); s.DecodeErrors == 0 || s.Decoded != 0 {
		t.Errorf("stats %+v", s)
	}
}

// One stream of rubbish leaves the others as they are.
func TestCorruptStreamBesideOthers(t *testing.T) {
	whole, err := os.ReadFile("testdata/counting.mp4")
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(whole)
	at := bytes.Index(bad, []byte("mdat")) + 300
	for i := at; i < len(bad)-1000; i += 7 {
		bad[i] ^= 0x55
	}
	path := filepath.Join(t.TempDir(), "bad.mp4")
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		s := Supervise(Config{URL: path, Loop: true, MinWait: time.Millisecond, MaxWait: 10 * time.Millisecond})
		defer s.Close()
		var f media.Frame
		for s.ReadFrame(ctx, &f) == nil {
			continue
		}
		if s.Stats().DecodeErrors == 0 {
			t.Errorf("no error was counted: %+v", s.Stats())
		}
	})
	for range 2 {
		r := open(t, Config{URL: "testdata/counting.mp4", Loop: true, Live: true})
		got, _ := readAll(t, r, 10)
		inOrder(t, got, 0, 10)
	}
	cancel()
	wg.Wait()
}

func TestFileWithoutOnePictureIsCorrupt(t *testing.T) {
	whole, err := os.ReadFile("testdata/counting.mp4")
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("mdat")) + 4
	end := bytes.Index(whole, []byte("moov")) - 4
	if end < at {
		end = len(whole)
	}
	for i := at; i < end; i++ {
		whole[i] = 0xff
	}
	path := filepath.Join(t.TempDir(), "empty.mp4")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, loop := range []bool{false, true} {
		r, err := Open(t.Context(), Config{Name: "yard", URL: path, Loop: loop})
		if err == nil {
			err = r.ReadFrame(t.Context(), &media.Frame{})
			r.Close()
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("loop %v: got %v, want ErrCorrupt", loop, err)
		}
	}
}

func TestSampleRateMayChange(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", Loop: true, SampleRate: 1})
	got, _ := readAll(t, r, 2)
	if got[0] != 0 || got[1] < 9 || got[1] > 11 {
		t.Fatalf("one frame a second gives %v", got)
	}
	r.SetSampleRate(10)
	got, _ = readAll(t, r, 5)
	for i := 1; i < len(got); i++ {
		if got[i] != (got[i-1]+1)%20 {
			t.Errorf("every frame gives %v", got)
		}
	}
	s := r.Stats()
	if s.Decoded != s.Sampled+s.NotDue || s.Sampled != 7 || s.Bytes == 0 || s.FPS < 9 || s.FPS > 11 {
		t.Errorf("stats %+v", s)
	}
}

func TestStills(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", Stills: 4})
	if _, err := r.Still(0, 0); !errors.Is(err, ErrNoStill) {
		t.Errorf("before the first frame: %v, want ErrNoStill", err)
	}
	readAll(t, r, 10)
	for seq, want := range map[uint64]int{7: 6, 10: 9, 0: 9, 6: -1, 11: -1} { // the first frame has the number 1
		b, err := r.Still(seq, 64)
		if want < 0 {
			if !errors.Is(err, ErrNoStill) {
				t.Errorf("still %d: %v, want ErrNoStill", seq, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		img, err := jpeg.Decode(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if img.Bounds().Dx() != 64 || img.Bounds().Dy() != 32 {
			t.Errorf("still is %v, want 64x32", img.Bounds())
		}
		y := float64(color.GrayModel.Convert(img.At(32, 16)).(color.Gray).Y)*219/255 + 16
		if got := int((y - 40 + 4) / 8); got != want {
			t.Errorf("still %d shows frame %d, want %d", seq, got, want)
		}
	}
	if b, err := r.Still(0, 5000); err != nil {
		t.Error(err)
	} else if c, err := jpeg.DecodeConfig(bytes.NewReader(b)); err != nil || c.Width != 128 {
		t.Errorf("a still is enlarged to %d (%v)", c.Width, err)
	}
	r.Close()
	if _, err := r.Still(0, 0); !errors.Is(err, ErrNoStill) {
		t.Errorf("after Close: %v, want ErrNoStill", err)
	}
}

func TestStillsBesideReading(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", Loop: true, Stills: 3})
	readAll(t, r, 1)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 50 {
				if _, err := r.Still(0, 32+16*(i+n%2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readAll(t, r, 300)
	wg.Wait()
}

func TestClock(t *testing.T) {
	var c clock
	c.start(&stream{par: &astiav.CodecParameters{}, base: astiav.NewRational(1, 1000), rate: 25}, time.Minute)
	c.shown = -1
	var no int64 = astiav.NoPtsValue
	for i, p := range []struct {
		pts, dts int64
		want     time.Duration // after the minute
	}{
		{5000, no, 0},
		{5040, no, 40 * time.Millisecond},
		{no, 5080, 80 * time.Millisecond},
		{no, no, 120 * time.Millisecond},
		{5120, no, 120 * time.Millisecond},                                     // B-frames go back a little
		{100, no, 160 * time.Millisecond},                                      // the camera has set its clock back
		{140, no, 200 * time.Millisecond},                                      //
		{100 + 3600*1000, no, 240 * time.Millisecond},                          // and forward by an hour
		{math.MaxInt64 / 2, no, 280 * time.Millisecond},                        // nonsense
		{math.MaxInt64/2 + 40, no, 280*time.Millisecond + 40*time.Millisecond}, //
	} {
		if got := c.packet(p.pts, p.dts) - time.Minute; got != p.want {
			t.Errorf("packet %d: %v, want %v", i, got, p.want)
		}
	}
}

// Cameras send packets without timestamps before the first that has one: it comes
// behind them.
func TestClockBeginsWithoutTimestamps(t *testing.T) {
	for _, offset := range []time.Duration{0, time.Minute} {
		var c clock
		c.start(&stream{par: &astiav.CodecParameters{}, base: astiav.NewRational(1, 1000), rate: 10}, offset)
		c.last = max(offset-100*time.Millisecond, 0)
		var no int64 = astiav.NoPtsValue
		last := time.Duration(-1)
		for i, pts := range []int64{no, no, 7000, 7100, no, 7300} {
			at := c.packet(pts, no)
			if at <= last || last >= 0 && at-last > 200*time.Millisecond {
				t.Errorf("from %v: packet %d at %v follows one at %v", offset, i, at, last)
			}
			last = at
		}
	}
}
