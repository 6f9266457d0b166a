// Package assets holds the video that `lookout demo` plays.
package assets

import _ "embed"

// Demo is a minute of the simulated yard, H.264 in MP4. What happens in it is
// written down in demo.json.
//
//go:embed demo.mp4
var Demo []byte
