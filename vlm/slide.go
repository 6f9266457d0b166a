package vlm

import (
	"slices"

	"github.com/lookout-video/lookout/model"
)

// slide is what a sliding window has in its cache: the prompt's head as it was
// read first, and the blocks of the frames behind it.
type slide struct {
	head   []int
	system string // that is in the head
	blocks []block
}

// block is a frame's part of the prompt: its time and its visual tokens.
type block struct {
	frame int64 // its name
	n     int   // tokens
	holes int   // places of tokens left out
}

// CanSlide tells whether Open takes Options.Slide for the model in dir.
func CanSlide(dir string) bool {
	layout, err := model.Detect(dir)
	if err != nil || layout != model.SmolVLM {
		return false
	}
	cfg, err := readConfig(dir)
	if err != nil || cfg.ModelType == "idefics3" { // which is shown pictures, not a film
		return false
	}
	_, err = newRope(cfg.Text, cfg.Text.HeadDim)
	return err == nil
}

// slid writes the prompt, ids, as the cache can go on from it: with the head
// that was read when the window had filled, whose length of the video is then
// out of date, and without the blocks of frames that left the window, which are
// cut out of the cache, as are the tokens that frames have lost since. Before the
// window is full, or where the prompt's parts cannot be told apart, it is ids.
func (s *Session) slid(ids []int, system string) []int {
	head, blocks, ok := s.parts(ids)
	full := ok && len(s.frames) == s.m.opt.Frames
	if !full {
		s.slide = slide{}
		return ids
	}
	old := s.slide
	s.slide = slide{head, system, blocks}
	if old.head == nil || old.system != system {
		return ids
	}
	left := slices.IndexFunc(old.blocks, func(b block) bool { return b.frame == blocks[0].frame })
	if left < 0 {
		return ids // all are new
	}
	end := len(old.head)
	var gone, down []int // positions, and by how many places what is behind moves
	moved := 0
	for i, b := range old.blocks {
		if s.d.len < end+b.n || len(s.read) < end+b.n {
			return ids // a reading failed before it got so far
		}
		for p := end; p < end+b.n; p++ {
			if i >= left && s.frames[i-left].reads(s.read[p]) {
				continue
			}
			if i < left || !s.m.g.placed { // else its place stays, empty
				moved++
			}
			gone, down = append(gone, p), append(down, moved)
		}
		if i < left {
			moved += b.holes
			down[len(down)-1] = moved
		}
		end += b.n
	}
	if len(gone) > 0 {
		s.cutTo(end) // the question
		s.d.forget(gone, down, s.m.rope)
		for _, p := range slices.Backward(gone) {
			s.read = slices.Delete(s.read, p, p+1)
		}
	}
	s.slide.head = old.head
	return append(slices.Clone(old.head), ids[len(head):]...)
}

// cutTo takes all but the first n tokens out of the cache.
func (s *Session) cutTo(n int) {
	s.d.cut(n)
	s.read = s.read[:min(n, len(s.read))]
}

// parts finds the head and the frames' blocks in a prompt. It tells no when
// the tokenizer joins what is at their ends.
func (s *Session) parts(ids []int) (head []int, blocks []block, ok bool) {
	if len(s.frames) == 0 || !s.asVideo() {
		return nil, nil, false
	}
	// Each block ends with the token that closes the picture, and the next begins
	// behind it with the line break before its time.
	visual := s.visualToken()
	at := 0
	for i, f := range s.frames {
		first := slices.Index(ids[at:], visual)
		if first < 0 {
			return nil, nil, false
		}
		end := at + first
		for end < len(ids) && ids[end] == visual {
			end++
		}
		if end == len(ids) {
			return nil, nil, false
		}
		end++ // <fake_token_around_image>
		if i == 0 {
			// The head ends where the first block begins, which is written alike.
			text := s.m.tok.Encode(stamp(f.at)+imageText(len(f.rows), 0, 0), true)
			begin := end - len(text)
			if begin < 0 || !slices.Equal(ids[begin:end], text) {
				return nil, nil, false
			}
			head, at = ids[:begin], begin
		}
		blocks = append(blocks, block{frame: f.name, n: end - at})
		if s.m.g.placed {
			blocks[i].holes = f.tokens.Shape[0] - len(f.rows)
		}
		at = end
	}
	return head, blocks, true
}
