package web

import "net/http"

// For fuzzing without a network.
var (
	Position      = position
	ParsePosition = parsePosition
)

// Handler is what the server does with requests.
func (s *Server) Handler() http.Handler { return s.http.Handler }
