package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtp"

	"github.com/lookout-video/lookout/media"
)

// camera is a real RTSP server that plays counting.mp4 over and over, for the
// user "user" with the password "secret", at /cam.
type camera struct {
	server *gortsplib.Server
	stream atomic.Pointer[gortsplib.ServerStream]
}

func (c *camera) check(conn *gortsplib.ServerConn, req *base.Request) (*base.Response, *gortsplib.ServerStream, error) {
	if !conn.VerifyCredentials(req, "user", "secret") {
		return &base.Response{StatusCode: base.StatusUnauthorized}, nil, liberrors.ErrServerAuth{}
	}
	if !strings.HasPrefix(req.URL.Path, "/cam") {
		return &base.Response{StatusCode: base.StatusNotFound}, nil, nil
	}
	return &base.Response{StatusCode: base.StatusOK}, c.stream.Load(), nil
}

func (c *camera) OnDescribe(ctx *gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return c.check(ctx.Conn, ctx.Request)
}

func (c *camera) OnSetup(ctx *gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return c.check(ctx.Conn, ctx.Request)
}

func (c *camera) OnPlay(*gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// nals splits an Annex B access unit.
func nals(b []byte) (out [][]byte) {
	for _, p := range bytes.Split(b, []byte{0, 0, 1}) {
		if p = bytes.TrimRight(p, "\x00"); len(p) > 0 {
			out = append(out, p)
		}
	}
	return out
}

func unitType(c media.Codec, nal []byte) byte {
	if c == media.HEVC {
		return nal[0] >> 1 & 63
	}
	return nal[0] & 31
}

// isSet tells whether a NAL unit is a parameter set.
func isSet(c media.Codec, nal []byte) bool {
	n := unitType(c, nal)
	return c == media.HEVC && n >= 32 && n <= 34 || c == media.H264 && (n == 7 || n == 8)
}

func freeUDP(t *testing.T) (rtp, rtcp string) {
	t.Helper()
	for port := 20000; port < 60000; port += 2 {
		a, b := net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port + 1}
		ca, err := net.ListenUDP("udp4", &a)
		if err != nil {
			continue
		}
		cb, err := net.ListenUDP("udp4", &b)
		ca.Close()
		if err != nil {
			continue
		}
		cb.Close()
		return a.String(), b.String()
	}
	t.Fatal("no pair of free UDP ports")
	return "", ""
}

// startCamera gives the address of a running camera, at addr or where there is
// room; stop ends it.
func startCamera(t *testing.T, at string) (addr string, stop func()) {
	t.Helper()
	return startCameraThat(t, at, "counting.mp4", false, nil)
}

// startCameraThat is startCamera with a camera that plays another clip, or is
// bare: it sends its parameter sets in the SDP alone. With frozen it has sound,
// which goes on when the picture is frozen.
func startCameraThat(t *testing.T, at, clip string, bare bool, frozen *atomic.Bool) (addr string, stop func()) {
	t.Helper()
	if addr = at; addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		l.Close()
	}
	rtpAt, rtcpAt := freeUDP(t)
	c := &camera{}
	c.server = &gortsplib.Server{Handler: c, RTSPAddress: addr, UDPRTPAddress: rtpAt, UDPRTCPAddress: rtcpAt}
	if err := c.server.Start(); err != nil {
		t.Fatal(err)
	}
	src := open(t, Config{URL: "testdata/" + clip, Loop: true, Live: true})
	sub := src.Tap().Subscribe()
	ctx, cancel := context.WithCancel(context.Background())
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		var f media.Frame
		for src.ReadFrame(ctx, &f) == nil {
			continue
		}
	}()
	first, err := sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sets := map[byte][]byte{}
	for _, n := range nals(first.Data) {
		sets[unitType(first.Codec, n)] = n
	}
	var forma format.Format
	var enc interface {
		Encode(unit [][]byte) ([]*rtp.Packet, error)
	}
	if first.Codec == media.HEVC {
		f := &format.H265{PayloadTyp: 96, VPS: sets[32], SPS: sets[33], PPS: sets[34]}
		forma = f
		enc, err = f.CreateEncoder()
	} else {
		f := &format.H264{PayloadTyp: 96, PacketizationMode: 1, SPS: sets[7], PPS: sets[8]}
		forma = f
		enc, err = f.CreateEncoder()
	}
	if err != nil {
		t.Fatal(err)
	}
	medi := &description.Media{Type: description.MediaTypeVideo, Formats: []format.Format{forma}}
	sound := &description.Media{Type: description.MediaTypeAudio, Formats: []format.Format{&format.G711{PayloadTyp: 0, MULaw: true, SampleRate: 8000, ChannelCount: 1}}}
	desc := &description.Session{Medias: []*description.Media{medi}}
	if frozen != nil {
		desc.Medias = append(desc.Medias, sound)
	}
	stream := &gortsplib.ServerStream{Server: c.server, Desc: desc}
	if err := stream.Initialize(); err != nil {
		t.Fatal(err)
	}
	c.stream.Store(stream)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for p, i := first, 0; ; i++ {
			units := nals(p.Data)
			if bare {
				units = slices.DeleteFunc(units, func(n []byte) bool { return isSet(p.Codec, n) })
			}
			packets, err := enc.Encode(units)
			if err != nil {
				return
			}
			if frozen != nil {
				_ = stream.WritePacketRTP(sound, &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(i), Timestamp: uint32(320 * i), SSRC: 7}, Payload: make([]byte, 320)})
				if frozen.Load() {
					packets = nil
				}
			}
			for _, rp := range packets {
				rp.Timestamp = p.At.RTP
				if stream.WritePacketRTP(medi, rp) != nil {
					return
				}
			}
			if p, err = sub.Next(ctx); err != nil {
				return
			}
		}
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-sent
		<-pumped
		stream.Close()
		c.server.Close()
	}
	t.Cleanup(stop)
	return addr, stop
}

func TestRTSP(t *testing.T) {
	addr, _ := startCamera(t, "")
	for _, transport := range []string{"tcp", "udp"} {
		t.Run(transport, func(t *testing.T) {
			r := open(t, Config{Name: "yard", URL: "rtsp://user:secret@" + addr + "/cam", RTSPTransport: transport, Width: 64, Height: 32, ReadTimeout: 5 * time.Second})
			got, at := readAll(t, r, 15)
			if len(got) < 15 {
				t.Fatalf("got %d frames", len(got))
			}
			for i := 1; i < len(got); i++ {
				if got[i] != (got[i-1]+1)%20 {
					t.Errorf("frame %d follows %d", got[i], got[i-1])
				}
				if at[i] <= at[i-1] {
					t.Errorf("media time goes from %v to %v", at[i-1], at[i])
				}
			}
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		_, err := Open(t.Context(), Config{Name: "yard", URL: "rtsp://user:wr0ng@" + addr + "/cam"})
		if !errors.Is(err, ErrAuth) || strings.Contains(err.Error(), "wr0ng") {
			t.Fatalf("got %v, want ErrAuth without the password", err)
		}
	})
	t.Run("wrong path", func(t *testing.T) {
		if _, err := Open(t.Context(), Config{URL: "rtsp://user:secret@" + addr + "/nothing"}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("got %v, want ErrNotFound", err)
		}
	})
}

// TestSoundDoesNotKeepAFrozenPictureAlive: a camera whose picture has stopped
// is lost, though its sound goes on.
func TestSoundDoesNotKeepAFrozenPictureAlive(t *testing.T) {
	var frozen atomic.Bool
	addr, _ := startCameraThat(t, "", "counting.mp4", false, &frozen)
	r := open(t, Config{Name: "yard", URL: "rtsp://user:secret@" + addr + "/cam", ReadTimeout: time.Second})
	if got, _ := readAll(t, r, 5); len(got) < 5 {
		t.Fatalf("got %d frames", len(got))
	}
	frozen.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	var f media.Frame
	for {
		if err := r.ReadFrame(ctx, &f); err != nil {
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("got %v, want ErrTimeout", err)
			}
			return
		}
	}
}

// TestParameterSetsInTheSDPAlone: viewers get them all the same, once before each
// key frame.
func TestParameterSetsInTheSDPAlone(t *testing.T) {
	for clip, sets := range map[string]int{"counting.mp4": 2, "counting-hevc.mp4": 3} {
		for _, bare := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, in the SDP alone: %v", clip, bare), func(t *testing.T) {
				addr, _ := startCameraThat(t, "", clip, bare, nil)
				r := open(t, Config{Name: "yard", URL: "rtsp://user:secret@" + addr + "/cam", ReadTimeout: 5 * time.Second})
				sub := r.Tap().Subscribe()
				defer sub.Close()
				if got, _ := readAll(t, r, 25); len(got) < 25 {
					t.Fatalf("got %d frames", len(got))
				}
				p, err := sub.Next(t.Context())
				if err != nil || !p.Key {
					t.Fatalf("first packet %+v, %v", p, err)
				}
				n, picture := 0, false
				for _, u := range nals(p.Data) {
					if isSet(p.Codec, u) {
						n++
						if picture {
							t.Error("a parameter set behind the picture")
						}
					}
					c := unitType(p.Codec, u)
					picture = picture || p.Codec == media.H264 && c == 5 || p.Codec == media.HEVC && c < 32
				}
				if n != sets || !picture {
					t.Errorf("a key frame with %d parameter sets, want %d; picture %v", n, sets, picture)
				}
			})
		}
	}
}

func TestRTSPServerThatVanishes(t *testing.T) {
	addr, stop := startCamera(t, "")
	r := open(t, Config{Name: "yard", URL: "rtsp://user:secret@" + addr + "/cam", ReadTimeout: 2 * time.Second})
	readAll(t, r, 3)
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var f media.Frame
	for {
		err := r.ReadFrame(ctx, &f)
		if err == nil {
			continue // what was under way still comes
		}
		if ctx.Err() != nil {
			t.Fatal("ReadFrame did not notice that the server is gone")
		}
		return
	}
}
