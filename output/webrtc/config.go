package webrtc

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	pion "github.com/pion/webrtc/v4"
)

// Config configures a Server.
type Config struct {
	// Addresses are the local IP addresses that media goes over, for example
	// "127.0.0.1" alone for viewers on this machine only.
	// It defaults to all but loopback.
	Addresses []string
	// UDPPort is the one UDP port that all sessions share.
	// It defaults to 0: a port for each session.
	UDPPort int
	// UDPPortMin and UDPPortMax bound the ports of sessions when UDPPort is 0.
	// They default to any.
	UDPPortMin, UDPPortMax uint16
	// TCPPort is a port for viewers whose network blocks UDP.
	// It defaults to 0: no TCP.
	TCPPort int
	// NATAddresses are this machine's public addresses when it stands behind a
	// one-to-one NAT. It defaults to none.
	NATAddresses []string
	// HideAddresses gives viewers names of multicast DNS instead of local
	// addresses. It cannot be used with UDPPort or NATAddresses.
	// It defaults to false.
	HideAddresses bool
	// ICEServers are STUN and TURN servers, for the server and its viewers.
	// It defaults to none.
	ICEServers []ICEServer

	// MaxSessions bounds viewers and publishers together. It defaults to 128.
	MaxSessions int
	// Replay is how many past events of a stream a viewer gets who does not say
	// what it has. It defaults to 50.
	Replay int
	// Queue is how many events, and how many deltas, wait for a slow viewer
	// before it loses some. It defaults to 512.
	Queue int
	// QuestionsPerMinute bounds each viewer. It defaults to 30.
	QuestionsPerMinute int
	// ConnectTimeout ends a session that does not connect. It defaults to 15
	// seconds.
	ConnectTimeout time.Duration
	// AskTimeout bounds the wait for an answer. It defaults to 60 seconds.
	AskTimeout time.Duration

	// Log defaults to slog.Default().
	Log *slog.Logger
}

// ICEServer is a STUN or TURN server.
type ICEServer struct {
	URLs       []string `json:"urls"` // stun:host:port, turn:host:port?transport=udp
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
}

func (c *Config) setDefaults() {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&c.MaxSessions, 128)
	def(&c.Replay, 50)
	def(&c.Queue, 512)
	def(&c.QuestionsPerMinute, 30)
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = 15 * time.Second
	}
	if c.AskTimeout <= 0 {
		c.AskTimeout = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// network is what all sessions share: the engine's settings and the sockets
// behind them.
type network struct {
	engine  pion.SettingEngine
	servers []pion.ICEServer
	closers []func() error
}

func (n *network) close() {
	for _, c := range n.closers {
		_ = c()
	}
}

// quiet keeps pion's own log off, unless its PION_LOG_* variables ask for it.
func quiet() logging.LoggerFactory {
	f := logging.NewDefaultLoggerFactory()
	f.DefaultLogLevel = logging.LogLevelDisabled
	return f
}

func newNetwork(c Config) (_ *network, err error) {
	n := &network{}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	e := &n.engine
	log := quiet()
	e.LoggerFactory = log
	e.SetICETimeouts(5*time.Second, 10*time.Second, 2*time.Second)
	e.SetSCTPMaxMessageSize(64 << 10)

	var only []net.IP
	loopback := false
	for _, a := range c.Addresses {
		ip := net.ParseIP(a)
		if ip == nil {
			return nil, fmt.Errorf("webrtc: address %q is not an IP address", a)
		}
		only = append(only, ip)
		loopback = loopback || ip.IsLoopback()
	}
	keep := func(ip net.IP) bool {
		for _, o := range only {
			if o.Equal(ip) {
				return true
			}
		}
		return len(only) == 0
	}
	e.SetIPFilter(keep)
	e.SetIncludeLoopbackCandidate(loopback)

	// Looking up others' multicast names needs the network that loopback-only
	// servers stay away from, and their packets tell the address anyway.
	e.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	if c.HideAddresses {
		if c.UDPPort != 0 || len(c.NATAddresses) > 0 {
			return nil, fmt.Errorf("webrtc: hidden addresses cannot be used with one UDP port or a NAT address; unset one of them")
		}
		e.SetICEMulticastDNSMode(ice.MulticastDNSModeQueryAndGather)
	}
	if len(c.NATAddresses) > 0 {
		err := e.SetICEAddressRewriteRules(pion.ICEAddressRewriteRule{
			External: c.NATAddresses, AsCandidateType: pion.ICECandidateTypeHost, Mode: pion.ICEAddressRewriteAppend,
		})
		if err != nil {
			return nil, fmt.Errorf("webrtc: NAT addresses %v: %w", c.NATAddresses, err)
		}
	}

	types := []pion.NetworkType{pion.NetworkTypeUDP4, pion.NetworkTypeUDP6}
	switch {
	case c.UDPPort > 0:
		opts := []ice.UDPMuxFromPortOption{ice.UDPMuxFromPortWithIPFilter(keep), ice.UDPMuxFromPortWithLogger(log.NewLogger("ice"))}
		if loopback {
			opts = append(opts, ice.UDPMuxFromPortWithLoopback())
		}
		mux, err := ice.NewMultiUDPMuxFromPort(c.UDPPort, opts...)
		if err != nil {
			return nil, fmt.Errorf("webrtc: listen on UDP port %d: %w; choose a free one with webrtc.udp_port", c.UDPPort, err)
		}
		n.closers = append(n.closers, mux.Close)
		e.SetICEUDPMux(mux)
	case c.UDPPortMin > 0 || c.UDPPortMax > 0:
		if err := e.SetEphemeralUDPPortRange(c.UDPPortMin, c.UDPPortMax); err != nil {
			return nil, fmt.Errorf("webrtc: UDP ports %d to %d: %w", c.UDPPortMin, c.UDPPortMax, err)
		}
	}
	if c.TCPPort > 0 {
		addr := &net.TCPAddr{Port: c.TCPPort}
		if len(only) == 1 {
			addr.IP = only[0]
		}
		l, err := net.ListenTCP("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("webrtc: listen on TCP port %d: %w; choose a free one with webrtc.tcp_port", c.TCPPort, err)
		}
		mux := pion.NewICETCPMux(log.NewLogger("ice"), l, 64)
		n.closers = append(n.closers, mux.Close, l.Close)
		e.SetICETCPMux(mux)
		types = append(types, pion.NetworkTypeTCP4, pion.NetworkTypeTCP6)
	}
	e.SetNetworkTypes(types)

	for _, s := range c.ICEServers {
		for _, u := range s.URLs {
			scheme, _, _ := strings.Cut(u, ":")
			switch {
			case !slices.Contains([]string{"stun", "stuns", "turn", "turns"}, scheme):
				return nil, fmt.Errorf("webrtc: ICE server %q; write it as stun:host:port or turn:host:port", u)
			case scheme[0] == 't' && (s.Username == "" || s.Credential == ""):
				return nil, fmt.Errorf("webrtc: ICE server %s needs a user and a password", u)
			}
		}
		n.servers = append(n.servers, pion.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	return n, nil
}
