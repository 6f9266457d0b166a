package web

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lookout-video/lookout/output/webrtc"
)

// Config configures a Server.
type Config struct {
	// Listen is the address of the page and its API. It defaults to
	// 127.0.0.1:8080. Any other than a loopback address needs Accounts.
	Listen string
	// Accounts are who may come in. Without any, everybody may do everything.
	Accounts []Account
	// Insecure allows listening off-loopback without Accounts.
	// It defaults to false.
	Insecure bool
	// TLSCert and TLSKey are PEM files. "self" as TLSCert makes a certificate
	// and keeps it in StateDir. They default to none: plain HTTP.
	TLSCert, TLSKey string
	// StateDir keeps the self-made certificate across restarts.
	// It defaults to none: a new one each time.
	StateDir string
	// Origins are further addresses that pages may call from, and names that
	// this server is reached by, as "https://cameras.example.com".
	// They default to none.
	Origins []string
	// SessionsPerMinute and QuestionsPerMinute bound each client address.
	// They default to 120 and 60.
	SessionsPerMinute, QuestionsPerMinute int
	// MaxSubscribers bounds the readers of server-sent events. It defaults to 128.
	MaxSubscribers int
	// Replay is how many past events of a stream a reader gets who does not say
	// what it has. It defaults to 50.
	Replay int
	// Version is shown on the page.
	Version string
	// WebRTC configures playback and publishing.
	WebRTC webrtc.Config
	// Registry holds the metrics that /metrics serves and gets the server's
	// own. It defaults to a new one.
	Registry *prometheus.Registry
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Account is somebody who may come in, by user and password or by token.
type Account struct {
	User string
	// Hash is the bcrypt hash of the password.
	Hash string
	// Token lets a program in by "Authorization: Bearer".
	Token string
	// Allow lists the actions by stream name; "*" is every stream. nil allows
	// everything, also to add, change and remove streams.
	Allow map[string][]webrtc.Action
}

// may tells whether a may do act with stream.
func (a *Account) may(act webrtc.Action, stream string) bool {
	if a.Allow == nil {
		return true
	}
	for _, s := range []string{stream, "*"} {
		for _, x := range a.Allow[s] {
			if x == act {
				return true
			}
		}
	}
	return false
}

func (c *Config) check() error {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:8080"
	}
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&c.SessionsPerMinute, 120)
	def(&c.QuestionsPerMinute, 60)
	def(&c.MaxSubscribers, 128)
	def(&c.Replay, 50)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.WebRTC.Log == nil {
		c.WebRTC.Log = c.Log
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("web: listen address %q: %w; write it as host:port", c.Listen, err)
	}
	if len(c.Accounts) == 0 && !c.Insecure && !isLoopback(host) {
		return fmt.Errorf("web: listening on %s lets everybody in; set web.token or web.users, or web.insecure: true", c.Listen)
	}
	for _, a := range c.Accounts {
		if a.Token == "" && (a.User == "" || a.Hash == "") {
			return fmt.Errorf("web: account %q has neither a token nor a user and a bcrypt hash", a.User)
		}
		if a.Token != "" && len(a.Token) < 8 {
			return fmt.Errorf("web: a token has fewer than 8 characters; make one with `openssl rand -hex 16`")
		}
		if a.Hash != "" && !strings.HasPrefix(a.Hash, "$2") {
			return fmt.Errorf("web: the password of user %q is not a bcrypt hash; make one with `htpasswd -nbB user password`", a.User)
		}
	}
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			return fmt.Errorf("web: origin %q; write it as https://host or https://host:port", o)
		}
	}
	return nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
