package ingest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// writeClip makes a clip of packets and gives its path.
func writeClip(t *testing.T, packets []*media.Packet, rotation int) (path string, start media.Timestamp) {
	t.Helper()
	data, format, start, err := Clip(packets, rotation)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "clip."+format)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, start
}

// A clip of every codec that a camera may send is read again: each frame is
// there, at its time.
func TestClipPlays(t *testing.T) {
	clips := map[string]string{"reordered": "counting-bframes.mp4"}
	for codec, clip := range map[media.Codec]string{
		media.H264: "counting.mp4", media.HEVC: "counting-hevc.mp4", media.VP8: "counting-vp8.webm", media.VP9: "counting-vp9.webm",
		media.AV1: "counting-av1.mp4", media.MPEG4: "counting-mpeg4.mp4", media.MPEG2: "counting-mpeg2.ts", media.MJPEG: "counting-mjpeg.avi",
	} {
		clips[string(codec)] = clip
	}
	for name, clip := range clips {
		t.Run(name, func(t *testing.T) {
			all := packetsOf(t, clip)
			want, wantAt := readAll(t, open(t, Config{URL: "testdata/" + clip}), 99)
			path, start := writeClip(t, all, 0)
			if start != all[0].At {
				t.Errorf("starts at %v, want %v", start, all[0].At)
			}
			got, at := readAll(t, open(t, Config{URL: path}), 99)
			if len(got) != len(want) {
				t.Fatalf("%d frames, want %d: %v", len(got), len(want), got)
			}
			for i := range got {
				if d := (at[i] - at[0]) - (wantAt[i] - wantAt[0]); got[i] != want[i] || d > time.Millisecond || d < -time.Millisecond {
					t.Errorf("frame %d is number %d at %v, want %d at %v", i, got[i], at[i]-at[0], want[i], wantAt[i]-wantAt[0])
				}
			}
		})
	}
}

// A clip begins at a key frame, and what cannot be shown is left out.
func TestClipBeginsAtAKeyFrame(t *testing.T) {
	all := packetsOf(t, "counting.mp4") // key frames at 0 and 10
	path, start := writeClip(t, all[3:], 0)
	if start != all[10].At {
		t.Errorf("starts at %v, want %v", start, all[10].At)
	}
	got, at := readAll(t, open(t, Config{URL: path}), 99)
	inOrder(t, got, 10, 10)
	if at[0] != 0 || at[9] != 900*time.Millisecond {
		t.Errorf("times from %v to %v", at[0], at[9])
	}
	if _, _, _, err := Clip(all[1:9], 0); !errors.Is(err, ErrNoKeyFrame) {
		t.Errorf("without a key frame: %v", err)
	}
	if _, _, _, err := Clip(nil, 0); !errors.Is(err, ErrNoKeyFrame) {
		t.Errorf("of nothing: %v", err)
	}
	if _, _, _, err := Clip([]*media.Packet{{Codec: "theora", Key: true, Data: []byte{1}}}, 0); err == nil {
		t.Error("a codec that is not known made a clip")
	}
	damaged := *all[0]
	damaged.Data = bytes.Repeat([]byte{7}, 100)
	if _, _, _, err := Clip([]*media.Packet{&damaged}, 0); err == nil {
		t.Error("a damaged key frame made a clip")
	}
}

func TestClipKeepsTheRotation(t *testing.T) {
	for _, c := range []struct {
		clip     string
		rotation int
	}{{"rotated-90.mp4", 90}, {"rotated-180.mp4", 180}, {"rotated-270.mp4", 270}} {
		r := open(t, Config{URL: "testdata/" + c.clip})
		path, _ := writeClip(t, packetsOf(t, c.clip), r.Info().Rotation)
		if got := open(t, Config{URL: path}).Info().Rotation; got != r.Info().Rotation || got != c.rotation {
			t.Errorf("%s: turned by %d, want %d", c.clip, got, c.rotation)
		}
	}
}

// The index of an MP4 is in front: a player shows it before all is there.
func TestClipHasItsIndexInFront(t *testing.T) {
	data, _, _, err := Clip(packetsOf(t, "counting.mp4"), 0)
	if err != nil {
		t.Fatal(err)
	}
	moov, mdat := bytes.Index(data, []byte("moov")), bytes.Index(data, []byte("mdat"))
	if moov < 0 || moov > mdat {
		t.Errorf("moov at %d, mdat at %d", moov, mdat)
	}
}

// Times that stand still or go back, as bad cameras send them, make a clip all
// the same.
func TestClipOfStrangeTimes(t *testing.T) {
	all := packetsOf(t, "counting.mp4")[:10]
	ms := []int{0, 100, 100, 100, 90, 300, 250, 250, 600, 600}
	var packets []*media.Packet
	for i, p := range all {
		q := *p
		q.At.Media = time.Duration(ms[i]) * time.Millisecond
		packets = append(packets, &q)
	}
	for _, c := range clipTimes(packets) {
		if c.dts > c.pts {
			t.Errorf("decoded at %d, shown at %d", c.dts, c.pts)
		}
	}
	path, _ := writeClip(t, packets, 0)
	if got, _ := readAll(t, open(t, Config{URL: path}), 99); len(got) != 10 {
		t.Errorf("%d frames of 10", len(got))
	}
}
