package webrtc

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/sdp/v3"
	pion "github.com/pion/webrtc/v4"

	"github.com/lookout-video/lookout/media"
)

// playoutDelay is the header extension that asks a browser to show frames when
// they are decoded. Its own smoothing would hold a joiner as far behind as the
// key frame it began with.
const playoutDelay = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"

// offered is one video format of an offer that we can carry.
type offered struct {
	codec   media.Codec
	pt, rtx uint8 // rtx is 0 when there is none
	fmtp    string
}

// parseOffer lists the H.264 (packetization-mode 1) and VP8 formats of the
// offer's first video section, in its order, and its direction attribute.
func parseOffer(offer string) (formats []offered, err error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(offer); err != nil {
		return nil, fmt.Errorf("%w offer: %v", ErrInvalid, err)
	}
	for _, m := range d.MediaDescriptions {
		if m.MediaName.Media != "video" {
			continue
		}
		names, fmtps, rtx := map[string]string{}, map[string]string{}, map[string]uint8{}
		for _, a := range m.Attributes {
			pt, rest, ok := strings.Cut(a.Value, " ")
			if !ok {
				continue
			}
			switch a.Key {
			case "rtpmap":
				name, _, _ := strings.Cut(rest, "/")
				names[pt] = strings.ToLower(name)
			case "fmtp":
				fmtps[pt] = rest
			}
		}
		for pt, f := range fmtps {
			if apt := param(f, "apt"); apt != "" && names[pt] == "rtx" {
				n, _ := strconv.ParseUint(pt, 10, 7)
				rtx[apt] = uint8(n)
			}
		}
		for _, pt := range m.MediaName.Formats {
			n, err := strconv.ParseUint(pt, 10, 7)
			if err != nil {
				continue
			}
			o := offered{pt: uint8(n), rtx: rtx[pt], fmtp: fmtps[pt]}
			switch names[pt] {
			case "vp8":
				o.codec = media.VP8
			case "h264":
				if param(o.fmtp, "packetization-mode") != "1" {
					continue
				}
				o.codec = media.H264
			default:
				continue
			}
			formats = append(formats, o)
		}
		break
	}
	if len(formats) == 0 {
		return nil, fmt.Errorf("%w offer: no video section with H.264 (packetization-mode 1) or VP8", ErrInvalid)
	}
	return formats, nil
}

// param is one value of an fmtp line.
func param(fmtp, key string) string {
	for part := range strings.SplitSeq(fmtp, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		if strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// spsProfile is the profile_idc and constraint flags of the first sequence
// parameter set in an Annex B access unit.
func spsProfile(au []byte) (profile, constraints byte, ok bool) {
	for {
		i := bytes.Index(au, []byte{0, 0, 1})
		if i < 0 || len(au) < i+6 {
			return 0, 0, false
		}
		au = au[i+3:]
		if au[0]&0x1f == 7 {
			return au[1], au[2], true
		}
	}
}

// choose picks the format that suits packets like first. Decoders read the
// profile from the stream itself, so a viewer that lists only a smaller one is
// still given the video rather than sent away.
func choose(formats []offered, first *media.Packet) (offered, error) {
	var best offered
	score := 0
	profile, constraints, _ := spsProfile(first.Data)
	for _, f := range formats {
		if f.codec != first.Codec {
			continue
		}
		s := 1
		if id, err := hex.DecodeString(param(f.fmtp, "profile-level-id")); err == nil && len(id) == 3 && id[0] == profile {
			s = 2
			if id[1]&0xe0 == constraints&0xe0 {
				s = 3
			}
		}
		if s > score {
			best, score = f, s
		}
	}
	if score == 0 {
		return best, fmt.Errorf("%w offer: the stream is %s and the offer does not take it", ErrInvalid, first.Codec)
	}
	return best, nil
}

func (o offered) capability() pion.RTPCodecCapability {
	c := pion.RTPCodecCapability{ClockRate: media.ClockRate, SDPFmtpLine: o.fmtp, RTCPFeedback: []pion.RTCPFeedback{
		{Type: "nack"}, {Type: "nack", Parameter: "pli"}, {Type: "ccm", Parameter: "fir"},
	}}
	c.MimeType = pion.MimeTypeVP8
	if o.codec == media.H264 {
		c.MimeType = pion.MimeTypeH264
	}
	return c
}

func (o offered) payloader() rtp.Payloader {
	if o.codec == media.H264 {
		return &codecs.H264Payloader{}
	}
	return &codecs.VP8Payloader{EnablePictureID: true}
}

func (o offered) depacketizer() rtp.Depacketizer {
	if o.codec == media.H264 {
		return &codecs.H264Packet{}
	}
	return &codecs.VP8Packet{}
}

// connect makes a connection that speaks just this one video format.
func (n *network) connect(o offered) (*pion.PeerConnection, error) {
	m := &pion.MediaEngine{}
	if err := m.RegisterCodec(pion.RTPCodecParameters{RTPCodecCapability: o.capability(), PayloadType: pion.PayloadType(o.pt)}, pion.RTPCodecTypeVideo); err != nil {
		return nil, err
	}
	if o.rtx != 0 {
		rtx := pion.RTPCodecCapability{MimeType: pion.MimeTypeRTX, ClockRate: media.ClockRate, SDPFmtpLine: fmt.Sprintf("apt=%d", o.pt)}
		if err := m.RegisterCodec(pion.RTPCodecParameters{RTPCodecCapability: rtx, PayloadType: pion.PayloadType(o.rtx)}, pion.RTPCodecTypeVideo); err != nil {
			return nil, err
		}
	}
	if err := m.RegisterHeaderExtension(pion.RTPHeaderExtensionCapability{URI: playoutDelay}, pion.RTPCodecTypeVideo); err != nil {
		return nil, err
	}
	i := &interceptor.Registry{}
	if err := pion.ConfigureNack(m, i); err != nil {
		return nil, err
	}
	if err := pion.ConfigureRTCPReports(i); err != nil {
		return nil, err
	}
	if err := pion.ConfigureTWCCSender(m, i); err != nil {
		return nil, err
	}
	api := pion.NewAPI(pion.WithMediaEngine(m), pion.WithInterceptorRegistry(i), pion.WithSettingEngine(n.engine))
	return api.NewPeerConnection(pion.Configuration{ICEServers: n.servers})
}

// fragment is the body of a PATCH (RFC 8840): candidates to add, or the
// credentials of a new ICE session.
type fragment struct {
	ufrag, pwd string
	candidates []pion.ICECandidateInit
}

func parseFragment(body string) (f fragment, err error) {
	if len(body) > 32<<10 {
		return f, fmt.Errorf("%w fragment: longer than 32 KB", ErrInvalid)
	}
	var mid *string
	index := uint16(0)
	first := true
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.TrimRight(line, "\r")
		switch {
		case line == "":
		case len(line) < 2 || line[1] != '=':
			return f, fmt.Errorf("%w fragment: line %.40q", ErrInvalid, line)
		case strings.HasPrefix(line, "m="):
			if !first {
				index++
			}
			first, mid = false, nil
		case strings.HasPrefix(line, "a=mid:"):
			v := line[len("a=mid:"):]
			mid = &v
		case strings.HasPrefix(line, "a=ice-ufrag:"):
			f.ufrag = line[len("a=ice-ufrag:"):]
		case strings.HasPrefix(line, "a=ice-pwd:"):
			f.pwd = line[len("a=ice-pwd:"):]
		case strings.HasPrefix(line, "a=candidate:"):
			if len(f.candidates) == 64 {
				return f, fmt.Errorf("%w fragment: more than 64 candidates", ErrInvalid)
			}
			i := index
			f.candidates = append(f.candidates, pion.ICECandidateInit{Candidate: line[2:], SDPMid: mid, SDPMLineIndex: &i})
		}
	}
	return f, nil
}

// offer is old with f's credentials and none of its candidates.
func (f fragment) offer(old string) (string, error) {
	for _, c := range []struct {
		text   string
		atMost int
		least  int
	}{{f.ufrag, 256, 4}, {f.pwd, 256, 22}} { // RFC 8839
		if len(c.text) < c.least || len(c.text) > c.atMost || strings.Trim(c.text, iceChars) != "" {
			return "", fmt.Errorf("%w fragment: ice-ufrag or ice-pwd are missing or none", ErrInvalid)
		}
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(old); err != nil {
		return "", fmt.Errorf("webrtc: offer again: %w", err)
	}
	d.Origin.SessionVersion++
	renew := func(in []sdp.Attribute) (out []sdp.Attribute) {
		for _, a := range in {
			switch a.Key {
			case "candidate", "end-of-candidates":
				continue
			case "ice-ufrag":
				a.Value = f.ufrag
			case "ice-pwd":
				a.Value = f.pwd
			}
			out = append(out, a)
		}
		return out
	}
	d.Attributes = renew(d.Attributes)
	for _, m := range d.MediaDescriptions {
		m.Attributes = renew(m.Attributes)
	}
	b, err := d.Marshal()
	return string(b), err
}

const iceChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// fragmentOf is what of an answer tells its ICE session. All sections are
// bundled, so that of the first one holds for all.
func fragmentOf(answer string) (string, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(answer); err != nil || len(d.MediaDescriptions) == 0 {
		return "", fmt.Errorf("webrtc: own answer: %v", err)
	}
	m := d.MediaDescriptions[0]
	var b strings.Builder
	fmt.Fprintf(&b, "m=%s\r\n", m.MediaName.String())
	for _, a := range append(d.Attributes, m.Attributes...) {
		switch a.Key {
		case "mid", "ice-ufrag", "ice-pwd", "candidate":
			fmt.Fprintf(&b, "a=%s:%s\r\n", a.Key, a.Value)
		case "end-of-candidates":
			b.WriteString("a=end-of-candidates\r\n")
		}
	}
	return b.String(), nil
}
