package webrtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	pion "github.com/pion/webrtc/v4"

	"github.com/lookout-video/lookout/event"
)

// SubscribeOptions configures Subscribe.
type SubscribeOptions struct {
	// Token is sent as a bearer token. It defaults to none.
	Token string
	// HTTP makes the requests. It defaults to http.DefaultClient.
	HTTP *http.Client
	// After is the Seq of the last event that is known already; what came later
	// is sent first. nil asks for the newest.
	After *uint64
	// OnEvent, OnDelta and OnLost get what the data channels bring, in order,
	// from one goroutine each channel. nil is skipped. They must not wait long.
	OnEvent func(*event.Event)
	OnDelta func(*event.Delta)
	OnLost  func(Message)
	// OnRTP gets the video's RTP packets.
	OnRTP func(*rtp.Packet)
}

// Client is a viewer in Go: it plays a stream by WHEP and hears its words.
type Client struct {
	pc       *pion.PeerConnection
	http     *http.Client
	token    string
	resource string
	control  *pion.DataChannel

	ready, hello, done chan struct{} // control open; events begun; connection over
	helloOnce          sync.Once
	doneOnce           sync.Once

	events, deltas, lost, packets, pictures atomic.Uint64

	mu      sync.Mutex
	codec   string
	ssrc    uint32
	nextID  int64
	waiting map[int64]chan Message
}

// ClientStats counts what a Client got.
type ClientStats struct {
	Events, Deltas uint64 // messages on the data channels
	Lost           uint64 // that the server told of
	Packets        uint64 // RTP packets of video
	Pictures       uint64 // pictures they ended
	Codec          string // MIME type, empty before the first packet
}

// Subscribe plays the stream whose WHEP address is whep (http://host/whep/name)
// until Close or the end of the connection. It returns when the data channels
// are open, or ctx ends.
func Subscribe(ctx context.Context, whep string, o SubscribeOptions) (_ *Client, err error) {
	c := &Client{http: o.HTTP, token: o.Token,
		ready: make(chan struct{}), hello: make(chan struct{}), done: make(chan struct{}), waiting: map[int64]chan Message{}}
	if c.http == nil {
		c.http = http.DefaultClient
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	e := pion.SettingEngine{LoggerFactory: quiet()}
	e.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	e.SetIncludeLoopbackCandidate(true)
	m := &pion.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		return nil, err
	}
	api := pion.NewAPI(pion.WithSettingEngine(e), pion.WithMediaEngine(m))
	if c.pc, err = api.NewPeerConnection(pion.Configuration{}); err != nil {
		return nil, err
	}
	c.pc.OnConnectionStateChange(func(s pion.PeerConnectionState) {
		if s == pion.PeerConnectionStateFailed || s == pion.PeerConnectionStateClosed {
			c.doneOnce.Do(func() { close(c.done) })
		}
	})
	c.pc.OnTrack(func(t *pion.TrackRemote, _ *pion.RTPReceiver) {
		c.mu.Lock()
		c.codec, c.ssrc = t.Codec().MimeType, uint32(t.SSRC())
		c.mu.Unlock()
		for {
			p, _, err := t.ReadRTP()
			if err != nil {
				return
			}
			c.packets.Add(1)
			if p.Marker {
				c.pictures.Add(1)
			}
			if o.OnRTP != nil {
				o.OnRTP(p)
			}
		}
	})
	if _, err := c.pc.AddTransceiverFromKind(pion.RTPCodecTypeVideo, pion.RTPTransceiverInit{Direction: pion.RTPTransceiverDirectionRecvonly}); err != nil {
		return nil, err
	}
	for _, label := range []string{ChannelEvents, ChannelText, ChannelControl} {
		dc, err := c.pc.CreateDataChannel(label, nil)
		if err != nil {
			return nil, err
		}
		dc.OnMessage(func(msg pion.DataChannelMessage) { c.message(msg.Data, o) })
		if label == ChannelControl {
			c.control = dc
			dc.OnOpen(func() { close(c.ready) })
		}
	}
	if o.After != nil {
		whep += "?after=" + strconv.FormatUint(*o.After, 10)
	}
	if err := c.offer(ctx, whep); err != nil {
		return nil, err
	}
	for _, step := range []chan struct{}{c.ready, c.hello} {
		select {
		case <-step:
		case <-c.done:
			return nil, errors.New("webrtc: connection failed")
		case <-ctx.Done():
			return nil, fmt.Errorf("webrtc: not connected: %w", ctx.Err())
		}
	}
	return c, nil
}

func (c *Client) offer(ctx context.Context, whep string) error {
	offer, err := c.pc.CreateOffer(nil)
	if err != nil {
		return err
	}
	gathered := pion.GatheringCompletePromise(c.pc)
	if err := c.pc.SetLocalDescription(offer); err != nil {
		return err
	}
	select {
	case <-gathered:
	case <-ctx.Done():
		return ctx.Err()
	}
	res, err := c.do(ctx, http.MethodPost, whep, "application/sdp", c.pc.LocalDescription().SDP)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 256<<10))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("webrtc: POST %s: %s: %.200s", whep, res.Status, body)
	}
	base, err := url.Parse(whep)
	if err != nil {
		return err
	}
	at, err := base.Parse(res.Header.Get("Location"))
	if err != nil {
		return fmt.Errorf("webrtc: session address: %w", err)
	}
	c.resource = at.String()
	return c.pc.SetRemoteDescription(pion.SessionDescription{Type: pion.SDPTypeAnswer, SDP: string(body)})
}

func (c *Client) do(ctx context.Context, method, u, contentType, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.http.Do(req)
}

func (c *Client) message(data []byte, o SubscribeOptions) {
	var m Message
	if json.Unmarshal(data, &m) != nil {
		return
	}
	switch m.Type {
	case "hello":
		c.helloOnce.Do(func() { close(c.hello) })
	case "event":
		c.events.Add(1)
		if o.OnEvent != nil {
			o.OnEvent(m.Event)
		}
	case "delta":
		c.deltas.Add(1)
		if o.OnDelta != nil {
			o.OnDelta(m.Delta)
		}
	case "lost":
		c.lost.Add(m.Events + m.Deltas)
		if o.OnLost != nil {
			o.OnLost(m)
		}
	case "reply":
		c.mu.Lock()
		w := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if w != nil {
			w <- m
		}
	}
}

// Do sends a request on the control channel and waits for its reply. A reply
// that says why the request failed is returned as an *Error. r.ID is set by Do.
func (c *Client) Do(ctx context.Context, r Request) (Message, error) {
	w := make(chan Message, 1)
	c.mu.Lock()
	c.nextID++
	r.ID = c.nextID
	c.waiting[r.ID] = w
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
	}()
	b, err := json.Marshal(r)
	if err != nil {
		return Message{}, err
	}
	if err := c.control.SendText(string(b)); err != nil {
		return Message{}, fmt.Errorf("webrtc: %s: %w", r.Op, err)
	}
	select {
	case m := <-w:
		if m.Error != nil {
			return m, m.Error
		}
		return m, nil
	case <-c.done:
		return Message{}, fmt.Errorf("webrtc: %s: connection lost", r.Op)
	case <-ctx.Done():
		return Message{}, fmt.Errorf("webrtc: %s: %w", r.Op, ctx.Err())
	}
}

// Stats counts what has come so far.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ClientStats{Events: c.events.Load(), Deltas: c.deltas.Load(), Lost: c.lost.Load(),
		Packets: c.packets.Load(), Pictures: c.pictures.Load(), Codec: c.codec}
}

// RequestKeyFrame says that pictures were lost: the server starts over at the
// last key frame.
func (c *Client) RequestKeyFrame() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: c.ssrc}})
}

// Done is closed when the connection is over.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close leaves the stream and waits for the end of the connection.
func (c *Client) Close() error {
	c.doneOnce.Do(func() { close(c.done) })
	if c.resource != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if res, err := c.do(ctx, http.MethodDelete, c.resource, "", ""); err == nil {
			res.Body.Close()
		}
	}
	if c.pc == nil {
		return nil
	}
	return c.pc.GracefulClose()
}
