package ingest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"

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
	if addr = at; addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		l.Close()
	}
	rtp, rtcp := freeUDP(t)
	c := &camera{}
	c.server = &gortsplib.Server{Handler: c, RTSPAddress: addr, UDPRTPAddress: rtp, UDPRTCPAddress: rtcp}
	if err := c.server.Start(); err != nil {
		t.Fatal(err)
	}
	forma := &format.H264{PayloadTyp: 96, PacketizationMode: 1}
	src := open(t, Config{URL: "testdata/counting.mp4", Loop: true, Live: true})
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
	for _, n := range nals(first.Data) {
		switch n[0] & 31 {
		case 7:
			forma.SPS = n
		case 8:
			forma.PPS = n
		}
	}
	medi := &description.Media{Type: description.MediaTypeVideo, Formats: []format.Format{forma}}
	stream := &gortsplib.ServerStream{Server: c.server, Desc: &description.Session{Medias: []*description.Media{medi}}}
	if err := stream.Initialize(); err != nil {
		t.Fatal(err)
	}
	c.stream.Store(stream)
	enc, err := forma.CreateEncoder()
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for p := first; ; {
			packets, err := enc.Encode(nals(p.Data))
			if err != nil {
				return
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
