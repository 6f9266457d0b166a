package vlm

// Side is the width and height in pixels of the pictures that the vision
// encoder takes whole: frames of that size are not scaled again. It is 0 for a
// model that takes no pictures.
func (m *Model) Side() int {
	if !m.Sees() {
		return 0
	}
	return m.cfg.Vision.Image
}

// Tokens is how many tokens a text has.
func (m *Model) Tokens(text string) int { return len(m.tok.Encode(text, true)) }

// Len is how many tokens the session's cache holds: the prompt last answered.
func (s *Session) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.d.len
}
