package vlm

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lookout-video/lookout/llm"
	"github.com/lookout-video/lookout/llm/chat"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

// Session is one stream's conversation with a public model: its frames and
// its KV cache. It is safe for concurrent use; calls take turns.
//
// These models' prompts begin with a count of the frames, so a new frame
// changes all that follows: the prompt is read anew once a frame, and shared
// by all questions until the next. Options.Slide avoids that.
type Session struct {
	m  *Model
	mu sync.Mutex

	d       *decoder
	read    []int64 // what the cache holds: ids, and a negative number for each visual token
	frames  []frame
	still   *Still
	seen    int64 // visual tokens so far: names them in read
	all     []int // 0, 1, 2 and so on: the rows of a frame that is read whole
	slide   slide
	id      [1]int64 // the token being read
	reducer reducer
	closed  bool
}

type frame struct {
	at     time.Duration
	tokens tensor.View[float32]
	rows   []int // of tokens, that are read; see reducer
	name   int64

	thinned bool // rows are its own
}

// visual gives the tokens that are read of f, and what read calls them.
func (f frame) visual(yield func(int64, []float32) bool) {
	for _, row := range f.rows {
		if !yield(-2-f.name-int64(row), f.tokens.At(row).Data) {
			return
		}
	}
}

// reads tells whether what is called name, of f's part of the prompt, is read.
func (f frame) reads(name int64) bool {
	if name > -2 {
		return true // text
	}
	return f.has(int(-2 - f.name - name))
}

func (f frame) has(row int) bool {
	_, found := slices.BinarySearch(f.rows, row)
	return found
}

// Turn is a question and its answer.
type Turn struct{ Question, Answer string }

// Request asks about the frames in a Session.
type Request struct {
	Question string
	// History is what was said before, for models without pictures.
	History []Turn
	// System is put first where the model's template knows of it.
	System string
	// MaxTokens bounds the answer. It defaults to 128.
	MaxTokens int
	// Exactly lets the answer go on for MaxTokens whatever the model says: to
	// compare with references and to measure. It defaults to false.
	Exactly bool
}

// NewSession begins a conversation.
func (m *Model) NewSession() (*Session, error) {
	s := &Session{m: m, d: m.g.newDecoder()}
	s.Reduce(m.opt.Reduce)
	return s, nil
}

// AppendFrame adds what EncodeFrame gave, [tokens, width], dropping the oldest
// frames when the window, or the model's context, is full. The tokens are the session's from here on.
func (s *Session) AppendFrame(_ context.Context, tokens tensor.View[float32], at media.Timestamp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return llm.ErrClosed
	case !s.m.Sees():
		return ErrBlind
	case len(tokens.Shape) != 2 || tokens.Shape[1] != s.m.g.width:
		return fmt.Errorf("vlm: visual tokens %v, but the language model's width is %d", tokens.Shape, s.m.g.width)
	}
	if len(s.frames) > 0 && s.still == nil {
		s.reducer.thin(s.frames, tokens)
	}
	for len(s.frames) > 0 && (len(s.frames) == s.m.opt.Frames || !s.fits(tokens.Shape[0])) {
		s.reducer.reclaim(s.frames[0])
		s.frames = slices.Delete(s.frames, 0, 1)
	}
	s.still = nil
	s.frames = append(s.frames, s.newFrame(tokens, at.Media))
	return nil
}

func (s *Session) newFrame(tokens tensor.View[float32], at time.Duration) frame {
	n := tokens.Shape[0]
	for i := len(s.all); i < n; i++ {
		s.all = append(s.all, i)
	}
	s.seen += int64(n)
	return frame{at: at, tokens: tokens, rows: s.all[:n:n], name: s.seen - int64(n)}
}

// fits tells whether the context holds n more visual tokens beside those of the
// window, with room for what is written around them, a question and an answer.
func (s *Session) fits(n int) bool {
	const around, question = 32, 256
	n += around
	for _, f := range s.frames {
		n += f.tokens.Shape[0] + around // whole: what is left out does not make the window longer
	}
	return n+min(question, s.m.g.limit/4) <= s.m.g.limit
}

// Show replaces the frames by one picture that EncodeStill looked at.
func (s *Session) Show(st *Still) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return llm.ErrClosed
	}
	s.still, s.frames = st, []frame{s.newFrame(st.Tokens, 0)}
	return nil
}

// Frames is how many are in the window.
func (s *Session) Frames() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.frames)
}

// Reset forgets all frames.
func (s *Session) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames, s.still = nil, nil
}

// Close frees the session.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.d.close()
}

// Generate answers req. The session is taken until the iteration ends.
func (s *Session) Generate(ctx context.Context, req Request) iter.Seq2[llm.Piece, error] {
	return func(yield func(llm.Piece, error) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.answer(ctx, req, func(p llm.Piece) bool { return yield(p, nil) }); err != nil {
			yield(llm.Piece{}, fmt.Errorf("vlm: answer: %w", err))
		}
	}
}

func (s *Session) answer(ctx context.Context, req Request, give func(llm.Piece) bool) error {
	if s.closed {
		return llm.ErrClosed
	}
	if req.MaxTokens <= 0 {
		req.MaxTokens = 128
	}
	if err := s.prompt(ctx, req); err != nil {
		return err
	}
	start := len(s.read)
	defer func() { // the next question shares the prompt, not this answer
		s.d.cut(start)
		s.read = s.read[:min(start, len(s.read))]
	}()
	text := s.m.tok.Stream()
	a := s.m.lanes.enter(s.d)
	defer s.m.lanes.leave(a)
	for n := 1; ; n++ {
		id, err := s.d.greedy()
		if err != nil {
			return err
		}
		p := llm.Piece{First: n == 1, Tokens: n}
		if n == 1 {
			p.YesProb, p.HasYes = s.m.yesProb(id, s.d.logits)
		}
		if slices.Contains(s.m.ends, id) && !req.Exactly {
			p.Tokens--
			p.Text, p.Stop = text.Flush(), llm.StopEnd
			give(p)
			return nil
		}
		p.Text = text.Add(id)
		if n == req.MaxTokens || start+n-1 == s.m.g.limit {
			p.Text += text.Flush()
			p.Stop = llm.StopLength
		}
		if !give(p) || p.Stop != "" {
			return nil
		}
		if a != nil {
			s.d.logits, err = a.Step(ctx, id)
		} else {
			err = s.next(ctx, id)
		}
		if err != nil {
			return err
		}
	}
}

// next reads one token of the answer.
func (s *Session) next(ctx context.Context, id int) error {
	s.id[0] = int64(id)
	return s.d.next1(ctx, nil, s.id[:], int64(s.d.len+s.d.holes))
}

// prompt reads what the cache does not hold yet of the frames and question.
func (s *Session) prompt(ctx context.Context, req Request) error {
	ids, err := s.ids(req)
	if err != nil {
		return err
	}
	if s.m.rope != nil {
		ids = s.slid(ids, req.System)
	}
	// Each place of a visual token takes its row and its name.
	var visual [][]float32
	var called []int64
	for _, f := range s.frames {
		for name, token := range f.visual {
			visual, called = append(visual, token), append(called, name)
		}
	}
	if newline := s.videoEnd(); newline != nil {
		visual, called = append(visual, newline), append(called, -1)
	}
	rows := make([][]float32, len(ids))
	names := make([]int64, len(ids))
	places := 0
	for i, id := range ids {
		names[i] = int64(id)
		if len(visual) == 0 || id != s.visualToken() {
			continue
		}
		if places < len(visual) {
			rows[i], names[i] = visual[places], called[places]
		}
		places++
	}
	if len(visual) > 0 && places != len(visual) {
		return fmt.Errorf("the prompt has %d places for %d visual tokens", places, len(visual))
	}
	same := common(s.read, names[:len(names)-1])
	s.d.cut(same)
	s.read = s.read[:same]
	s.d.reserve(len(ids) + min(req.MaxTokens, mostReserved))
	begins := same == 0 && s.m.g.first == nil // some exports read one token at a time once they hold any
	if begins {
		same = s.m.prefix.adopt(s.d, names)
		s.read = append(s.read, names[:same]...)
	}
	raw := make([]int64, 0, len(ids)-same)
	for _, id := range ids[same:] {
		raw = append(raw, int64(id))
	}
	var embeds []float32
	if !s.m.g.ids {
		if embeds, err = s.m.embeddings(ctx, raw); err != nil {
			return err
		}
		for i, r := range rows[same:] {
			if r != nil {
				copy(embeds[i*s.m.g.width:], r)
			}
		}
	}
	at := s.places(names)
	s.d.holes = int(at[len(at)-1]) + 1 - len(at)
	if err := s.d.readAt(ctx, embeds, raw, at[same:]); err != nil {
		s.read = s.read[:min(s.d.len, len(s.read))]
		s.d.cut(len(s.read))
		return err
	}
	s.read = append(s.read, names[same:]...)
	if begins {
		s.m.prefix.learn(s.d, s.read)
	}
	return nil
}

// places gives the place of each token of a prompt, as read calls them. Where the graph
// is told of places, what is behind left out tokens stays where it would be with them:
// models tell by a visual token's place where in the picture it is.
func (s *Session) places(names []int64) []int64 {
	at := make([]int64, len(names))
	holes, frames, next := 0, s.frames, 0 // next: the row that would come
	for i, name := range names {
		behind := 0
		if name <= -2 && len(frames) > 0 && s.m.g.placed {
			f := &frames[0]
			row := int(-2 - f.name - name)
			holes += row - next
			if next = row + 1; row == f.rows[len(f.rows)-1] {
				behind, frames, next = f.tokens.Shape[0]-next, frames[1:], 0
			}
		}
		at[i] = int64(i + holes)
		holes += behind
	}
	return at
}

// asVideo reports whether frames go into the template's <video>.
func (s *Session) asVideo() bool {
	return s.still == nil && s.m.films()
}

func (s *Session) visualToken() int {
	if s.asVideo() && s.m.Layout == model.LlavaOneVision {
		return s.m.cfg.VideoTokenIdx
	}
	return s.m.cfg.ImageTokenID
}

// videoEnd is the embedding that LLaVA-OneVision puts after a video's last
// frame, nil for others.
func (s *Session) videoEnd() []float32 {
	if s.m.Layout != model.LlavaOneVision || !s.asVideo() || len(s.frames) == 0 {
		return nil
	}
	if n := s.m.newline.Load(); n != nil {
		return *n
	}
	return nil
}

// ids writes the prompt as the reference's processor does.
func (s *Session) ids(req Request) ([]int, error) {
	question := s.m.plain(req.Question)
	var messages []chat.Message
	if system := s.m.plain(req.System); system != "" {
		messages = append(messages, chat.Message{Role: "system", Text: system})
		if s.m.Sees() {
			messages[0] = chat.Message{Role: "system", Parts: []chat.Part{{Type: "text", Text: system}}}
		}
	}
	if !s.m.Sees() {
		for _, t := range req.History {
			messages = append(messages, chat.Message{Role: "user", Text: s.m.plain(t.Question)}, chat.Message{Role: "assistant", Text: s.m.plain(t.Answer)})
		}
		messages = append(messages, chat.Message{Role: "user", Text: question})
		text, err := s.m.chat.Render(messages, chat.Options{Generate: true})
		return s.m.tok.Encode(text, true), err
	}
	var parts []chat.Part
	if s.asVideo() && len(s.frames) > 0 {
		parts = append(parts, chat.Part{Type: "video"})
	} else {
		for range s.frames {
			parts = append(parts, chat.Part{Type: "image"})
		}
	}
	messages = append(messages, chat.Message{Role: "user", Parts: append(parts, chat.Part{Type: "text", Text: question})})
	text, err := s.m.chat.Render(messages, chat.Options{Generate: true})
	if err != nil {
		return nil, err
	}
	return s.m.tok.Wrap(s.m.tok.Encode(s.fill(text), true)), nil
}

// fill puts in place of <image> and <video> what the processor writes there.
func (s *Session) fill(text string) string {
	if len(s.frames) == 0 {
		return text
	}
	const image, video = "<image>", "<video>"
	smol := s.m.Layout == model.SmolVLM
	if s.asVideo() {
		if smol {
			at, tokens := make([]time.Duration, len(s.frames)), make([]int, len(s.frames))
			for i, f := range s.frames {
				at[i], tokens[i] = f.at, len(f.rows)
			}
			return strings.Replace(text, video, videoText(tokens, at), 1)
		}
		n := 0
		for _, f := range s.frames {
			n += len(f.rows)
		}
		if s.videoEnd() != nil {
			n++
		}
		return strings.Replace(text, video, strings.Repeat(video, n), 1)
	}
	parts := strings.SplitN(text, image, len(s.frames)+1)
	var b strings.Builder
	for i, p := range parts {
		b.WriteString(p)
		switch {
		case i >= len(s.frames) || i == len(parts)-1:
		case smol && s.still != nil:
			b.WriteString(imageText(s.m.perTile, s.still.rows, s.still.cols))
		case smol:
			b.WriteString(imageText(len(s.frames[i].rows), 0, 0))
		default:
			b.WriteString(strings.Repeat(image, len(s.frames[i].rows)))
		}
	}
	return b.String()
}

// plain takes special tokens out of a user's text: it must not speak as the
// template does.
func (m *Model) plain(text string) string {
	for {
		clean := text
		for _, id := range m.tok.Encode(text, true) {
			if m.tok.Special(id) {
				clean = strings.ReplaceAll(clean, string(m.tok.Token(id)), "")
			}
		}
		if clean == text {
			return text
		}
		text = clean
	}
}
