package web_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/lookout-video/lookout/output/internal/fake"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/output/webrtc"
)

// video is what the backend has as the clip of the event e1 of each camera.
var video = bytes.Repeat([]byte("0123456789"), 100)

type openClip struct{ *bytes.Reader }

func (openClip) Close() error { return nil }

func (b *backend) Clip(_ context.Context, stream, eventID string) (*web.Clip, error) {
	if _, err := b.Tap(stream); err != nil || eventID != "e1" {
		return nil, fmt.Errorf("clip: %w", webrtc.ErrNotFound)
	}
	return &web.Clip{ReadSeekCloser: openClip{bytes.NewReader(video)}, Start: time.UnixMilli(1780315205250), Format: "mp4"}, nil
}

func TestClip(t *testing.T) {
	const token = "0123456789abcdef"
	h := newHouse(t, web.Config{Accounts: []web.Account{{Token: token}, {User: "door", Token: "door-0123456789abcdef", Allow: map[string][]webrtc.Action{"door": {webrtc.View}}}}})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	bearer := "Authorization: Bearer " + token
	const path = "/api/streams/yard/clips/e1"
	code, head, body := h.req(t, "GET", path, "", bearer)
	if code != 200 || body != string(video) || head.Get("Content-Type") != "video/mp4" || head.Get("Lookout-Start") != "2026-06-01T12:00:05.250Z" {
		t.Errorf("%d, %d bytes, %v", code, len(body), head)
	}
	if code, _, body := h.req(t, "GET", path, "", bearer, "Range: bytes=995-"); code != 206 || body != "56789" { // as a player that seeks
		t.Errorf("a part: %d %q", code, body)
	}
	h.want(t, 404, "GET", "/api/streams/yard/clips/e2", "", bearer)
	h.want(t, 404, "GET", "/api/streams/cellar/clips/e1", "", bearer)
	h.want(t, 404, "GET", path, "", "Authorization: Bearer door-0123456789abcdef") // may not see the yard
}
