package web

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/webrtc"
)

// sessionInfo is what the page needs to know about who looks at it.
type sessionInfo struct {
	User       string             `json:"user,omitempty"`
	Accounts   bool               `json:"accounts"` // there is something to sign out of
	Manage     bool               `json:"manage"`   // may add, change and remove streams
	Publish    bool               `json:"publish"`  // may publish a stream of a new name
	Version    string             `json:"version,omitempty"`
	ICEServers []webrtc.ICEServer `json:"ice_servers"`
}

func (s *Server) sessionInfo(a *Account) sessionInfo {
	ice := s.rtc.ICEServers()
	if ice == nil {
		ice = []webrtc.ICEServer{}
	}
	return sessionInfo{User: a.User, Accounts: len(s.cfg.Accounts) > 0, Manage: a.Allow == nil,
		Publish: a.Allow == nil || slices.Contains(a.Allow["*"], webrtc.Publish), Version: s.cfg.Version, ICEServers: ice}
}

func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, s.sessionInfo(accountOf(r)))
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var in struct {
		User     string `json:"user"`
		Password string `json:"password"` // the token when there is no user
	}
	if err := body(r, &in); err != nil {
		fail(w, err)
		return
	}
	a, err := s.gate.login(w, r, in.User, in.Password)
	if err == nil && a == nil {
		err = &webrtc.Error{Code: "unauthorized", Message: "wrong user, password or token"}
	}
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, s.sessionInfo(a))
}

// streamView is a stream with what the asking account may do with it.
type streamView struct {
	StreamInfo
	Can []webrtc.Action `json:"can"`
}

// visible lists the streams that the request's account may see.
func (s *Server) visible(r *http.Request) []streamView {
	a, out := accountOf(r), []streamView{}
	viewers := s.rtc.Stats().Viewers
	for _, info := range s.backend.Streams() {
		if !a.may(webrtc.View, info.Name) {
			continue
		}
		v := streamView{StreamInfo: info}
		v.Viewers = viewers[info.Name]
		for _, act := range []webrtc.Action{webrtc.View, webrtc.Publish, webrtc.Ask} {
			if a.may(act, info.Name) {
				v.Can = append(v.Can, act)
			}
		}
		out = append(out, v)
	}
	return out
}

func (s *Server) streams(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, map[string]any{"streams": s.visible(r)})
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	for _, v := range s.visible(r) {
		if v.Name == r.PathValue("stream") {
			reply(w, http.StatusOK, v)
			return
		}
	}
	fail(w, fmt.Errorf("stream %q: %w", r.PathValue("stream"), webrtc.ErrNotFound))
}

// config reads a stream's configuration; its keys are the backend's to check.
func config(r *http.Request) (json.RawMessage, error) {
	var in map[string]any
	if err := body(r, &in); err != nil {
		return nil, err
	}
	return json.Marshal(in)
}

func (s *Server) addStream(w http.ResponseWriter, r *http.Request) {
	in, err := config(r)
	if err == nil {
		err = permitManage(r)
	}
	if err != nil {
		fail(w, err)
		return
	}
	info, err := s.backend.AddStream(r.Context(), in)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/api/streams/"+info.Name)
	reply(w, http.StatusCreated, info)
}

func (s *Server) changeStream(w http.ResponseWriter, r *http.Request) {
	in, err := config(r)
	if err == nil {
		err = permitManage(r)
	}
	if err != nil {
		fail(w, err)
		return
	}
	info, err := s.backend.ChangeStream(r.Context(), r.PathValue("stream"), in)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, info)
}

func (s *Server) removeStream(w http.ResponseWriter, r *http.Request) {
	err := permitManage(r)
	if err == nil {
		err = s.backend.RemoveStream(r.Context(), r.PathValue("stream"))
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) labels(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Labels []string `json:"labels"`
	}
	stream := r.PathValue("stream")
	err := permit(r, webrtc.Ask, stream)
	if err == nil {
		err = body(r, &in)
	}
	if err == nil {
		in.Labels, err = webrtc.CheckLabels(in.Labels)
	}
	if err == nil {
		err = s.backend.SetLabels(r.Context(), stream, in.Labels)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, in)
}

// ask answers with the event, or, to who accepts text/event-stream, with the
// deltas and then the event.
func (s *Server) ask(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Question string `json:"question"`
		SinceMS  int64  `json:"since_ms"`
	}
	stream := r.PathValue("stream")
	err := permit(r, webrtc.Ask, stream)
	if err == nil {
		err = body(r, &in)
	}
	if err == nil {
		in.Question, err = webrtc.CheckText("question", in.Question)
	}
	since := time.Duration(in.SinceMS) * time.Millisecond
	if err == nil && (in.SinceMS < 0 || since > webrtc.MaxSince) {
		err = fmt.Errorf("%w since_ms: need 0 to %d", webrtc.ErrInvalid, webrtc.MaxSince.Milliseconds())
	}
	if err == nil && !s.gate.questions.allow(r) {
		err = errRate
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	id := rand.Text()
	q := webrtc.Question{ID: "ask-" + id[:12], Viewer: "http-" + id, Stream: stream, Text: in.Question, Since: since}
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		ev, err := s.backend.Ask(ctx, q)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		reply(w, http.StatusOK, ev)
		return
	}
	sub := s.bus.Subscribe(event.SubOptions{Stream: stream})
	defer sub.Close()
	type answer struct {
		ev  *event.Event
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		ev, err := s.backend.Ask(ctx, q)
		answered <- answer{ev, err}
	}()
	out := newSSE(w)
	delta := func(it event.Item) {
		if it.Delta != nil && it.Delta.Viewer == q.Viewer {
			out.send("delta", "", it.Delta)
		}
	}
	for c := sub.C(); ; {
		select {
		case it, ok := <-c:
			if !ok {
				c = nil
				continue
			}
			delta(it)
		case a := <-answered:
			for range len(sub.C()) { // what came before the answer
				delta(<-sub.C())
			}
			if a.err != nil {
				if webrtc.Fault(a.err).Code == "internal" {
					s.log.Error("question failed", "stream", stream, "error", a.err)
				}
				out.send("error", "", webrtc.Fault(a.err))
				return
			}
			out.send("event", "", a.ev)
			return
		}
	}
}

func (s *Server) still(w http.ResponseWriter, r *http.Request) {
	stream := r.PathValue("stream")
	if err := permit(r, webrtc.View, stream); err != nil {
		fail(w, err)
		return
	}
	name, ok := strings.CutSuffix(r.PathValue("frame"), ".jpg")
	var frame uint64
	err := fmt.Errorf("%w frame: write it as 123.jpg or latest.jpg", webrtc.ErrInvalid)
	if ok && name != "latest" {
		if n, perr := strconv.ParseUint(name, 10, 64); perr == nil {
			frame, err = n, nil
		}
	} else if ok {
		err = nil
	}
	width := 0
	if q := r.URL.Query().Get("width"); err == nil && q != "" {
		if width, err = strconv.Atoi(q); err != nil || width < 16 || width > 4096 {
			err = fmt.Errorf("%w width: need 16 to 4096", webrtc.ErrInvalid)
		}
	}
	if err != nil {
		fail(w, err)
		return
	}
	jpg, err := s.backend.Still(r.Context(), stream, frame, width)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	if name == "latest" {
		w.Header().Set("Cache-Control", "no-store")
	} else {
		w.Header().Set("Cache-Control", "private, max-age=86400, immutable")
	}
	_, _ = w.Write(jpg)
}

// clip serves the video around an alert's start, whole or in parts.
func (s *Server) clip(w http.ResponseWriter, r *http.Request) {
	stream := r.PathValue("stream")
	err := permit(r, webrtc.View, stream)
	var c *Clip
	if err == nil {
		c, err = s.backend.Clip(r.Context(), stream, r.PathValue("event"))
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer c.Close()
	w.Header().Set("Content-Type", "video/"+c.Format)
	w.Header().Set("Cache-Control", "private, max-age=86400, immutable")
	w.Header().Set("Lookout-Start", c.Start.UTC().Format("2006-01-02T15:04:05.000Z"))
	http.ServeContent(w, r, "", time.Time{}, c)
}

func (s *Server) search(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	text, err := webrtc.CheckText("query", q.Get("q"))
	k := 20
	if n := q.Get("k"); err == nil && n != "" {
		if k, err = strconv.Atoi(n); err != nil || k < 1 || k > 100 {
			err = fmt.Errorf("%w k: need 1 to 100", webrtc.ErrInvalid)
		}
	}
	stream := q.Get("stream")
	if err == nil && stream != "" {
		err = permit(r, webrtc.View, stream)
	}
	if err != nil {
		fail(w, err)
		return
	}
	// An account that may not see all streams must not lose hits to those.
	a := accountOf(r)
	ask := k
	if a.Allow != nil && stream == "" {
		ask = min(100, 4*k)
	}
	hits, err := s.backend.Search(r.Context(), text, stream, ask)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	out := []Hit{}
	for _, h := range hits {
		if len(out) < k && a.may(webrtc.View, h.Event.Data.Stream) && h.Event.Data.Viewer == "" {
			out = append(out, h)
		}
	}
	reply(w, http.StatusOK, map[string]any{"hits": out})
}

// sdpBody reads an offer.
func sdpBody(r *http.Request) (string, error) {
	if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(ct) != "application/sdp" {
		return "", fmt.Errorf("%w offer: send it as application/sdp", webrtc.ErrInvalid)
	}
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func (s *Server) whep(w http.ResponseWriter, r *http.Request) {
	stream := r.PathValue("stream")
	a := accountOf(r)
	in := webrtc.PlayRequest{Stream: stream, Allowed: a.may}
	err := permit(r, webrtc.View, stream)
	if err == nil && !s.gate.sessions.allow(r) {
		err = errRate
	}
	if err == nil {
		in.Offer, err = sdpBody(r)
	}
	if q := r.URL.Query().Get("after"); err == nil && q != "" {
		n, perr := strconv.ParseUint(q, 10, 64)
		if perr != nil {
			err = fmt.Errorf("%w after: need the seq of an event", webrtc.ErrInvalid)
		}
		in.After = &n
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	answer, err := s.rtc.Play(r.Context(), in)
	s.answer(w, r, "/whep/", answer, err)
}

func (s *Server) whip(w http.ResponseWriter, r *http.Request) {
	stream := r.PathValue("stream")
	err := permitPublish(r, stream)
	if err == nil && !s.gate.sessions.allow(r) {
		err = errRate
	}
	offer := ""
	if err == nil {
		offer, err = sdpBody(r)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	answer, err := s.rtc.Publish(r.Context(), stream, offer)
	s.answer(w, r, "/whip/", answer, err)
}

// permitPublish also holds for streams that the account may not see.
func permitPublish(r *http.Request, stream string) error {
	if accountOf(r).may(webrtc.Publish, stream) {
		return nil
	}
	return &webrtc.Error{Code: "forbidden", Message: "no permission to publish stream " + stream}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, path string, a webrtc.Answer, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/sdp")
	h.Set("Location", path+r.PathValue("stream")+"/"+a.Session)
	h.Set("ETag", a.ETag)
	h.Set("Accept-Patch", "application/trickle-ice-sdpfrag")
	for _, srv := range s.rtc.ICEServers() {
		for _, u := range srv.URLs {
			link := fmt.Sprintf("<%s>; rel=\"ice-server\"", u)
			if srv.Username != "" {
				link += fmt.Sprintf("; username=%q; credential=%q; credential-type=\"password\"", srv.Username, srv.Credential)
			}
			h.Add("Link", link)
		}
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, a.SDP)
}

// owned checks that the session in the path is one of the stream and kind in
// the path, and that the account may still use it.
func (s *Server) owned(r *http.Request) (string, error) {
	id, stream := r.PathValue("session"), r.PathValue("stream")
	publishes := strings.HasPrefix(r.URL.Path, "/whip/")
	err := permit(r, webrtc.View, stream)
	if publishes {
		err = permitPublish(r, stream)
	}
	if err != nil {
		return "", err
	}
	if st, pub, err := s.rtc.Owner(id); err != nil || st != stream || pub != publishes {
		return "", fmt.Errorf("session: %w", webrtc.ErrNotFound)
	}
	return id, nil
}

// patch adds ICE candidates to a session or restarts its ICE (RFC 9725).
func (s *Server) patch(w http.ResponseWriter, r *http.Request) {
	id, err := s.owned(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(ct) != "application/trickle-ice-sdpfrag" {
		reply(w, http.StatusUnsupportedMediaType, map[string]any{"error": webrtc.Error{Code: "invalid", Message: "send application/trickle-ice-sdpfrag"}})
		return
	}
	b, err := io.ReadAll(r.Body)
	var a webrtc.Answer
	if err == nil {
		a, err = s.rtc.Patch(r.Context(), id, r.Header.Get("If-Match"), string(b))
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if a.SDP == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/trickle-ice-sdpfrag")
	w.Header().Set("ETag", a.ETag)
	_, _ = io.WriteString(w, a.SDP)
}

func (s *Server) endSession(w http.ResponseWriter, r *http.Request) {
	id, err := s.owned(r)
	if err == nil {
		err = s.rtc.End(r.Context(), id)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}
