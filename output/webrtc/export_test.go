package webrtc

import (
	"github.com/pion/rtp"

	"github.com/lookout-video/lookout/media"
)

// The packetisers, for tests that speak RTP themselves.
func Payloader(c media.Codec) rtp.Payloader       { return offered{codec: c}.payloader() }
func Depacketizer(c media.Codec) rtp.Depacketizer { return offered{codec: c}.depacketizer() }
