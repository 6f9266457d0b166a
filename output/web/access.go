package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"

	"github.com/lookout-video/lookout/output/webrtc"
)

const (
	cookieName  = "lookout"
	cookieLife  = 12 * time.Hour
	maxLogins   = 1024 // remembered at a time
	maxLimiters = 4096
)

// gate decides who comes in.
type gate struct {
	accounts []Account
	secure   bool // TLS
	hosts    []string
	log      func(msg string, args ...any)

	logins, sessions, questions *limiters

	comparing sync.Mutex // held while a password is compared
	compare   func(hash, password []byte) error

	mu      sync.Mutex
	cookies map[string]login      // by SHA-256 of the cookie
	known   map[[32]byte]*Account // passwords seen right: bcrypt is slow on purpose
}

type login struct {
	account *Account
	until   time.Time
}

type accountKey struct{}

// everybody is who comes in where there are no accounts.
var everybody = &Account{}

func newGate(c Config) *gate {
	g := &gate{
		accounts: c.Accounts, secure: c.TLSCert != "", log: c.Log.Warn,
		logins: newLimiters(10), sessions: newLimiters(c.SessionsPerMinute), questions: newLimiters(c.QuestionsPerMinute),
		cookies: map[string]login{}, known: map[[32]byte]*Account{}, compare: bcrypt.CompareHashAndPassword,
	}
	for _, o := range c.Origins {
		if u, err := url.Parse(o); err == nil {
			g.hosts = append(g.hosts, u.Hostname())
		}
	}
	if name, err := os.Hostname(); err == nil {
		g.hosts = append(g.hosts, name)
	}
	return g
}

// hostAllowed refuses names that somebody else's DNS points at this machine:
// without accounts such a page could read everything. Addresses cannot be
// pointed anywhere.
func (g *gate) hostAllowed(host string) bool {
	if len(g.accounts) > 0 {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil || strings.EqualFold(host, "localhost") {
		return true
	}
	return slices.ContainsFunc(g.hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// identify finds the account behind a request; nil is nobody.
func (g *gate) identify(r *http.Request) (*Account, error) {
	if len(g.accounts) == 0 {
		return everybody, nil
	}
	if user, password, ok := r.BasicAuth(); ok {
		return g.password(r, user, password)
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return g.token(r, token)
	}
	if c, err := r.Cookie(cookieName); err == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if l, ok := g.cookies[digest(c.Value)]; ok && time.Now().Before(l.until) {
			return l.account, nil
		}
	}
	return nil, nil
}

func digest(s string) string { h := sha256.Sum256([]byte(s)); return string(h[:]) }

var errLogins = &webrtc.Error{Code: "rate_limited", Message: "too many failed logins; wait a minute"}

func (g *gate) token(r *http.Request, token string) (*Account, error) {
	h := digest(token)
	for i := range g.accounts {
		a := &g.accounts[i]
		if a.Token != "" && subtle.ConstantTimeCompare([]byte(digest(a.Token)), []byte(h)) == 1 {
			return a, nil
		}
	}
	return nil, g.failed(r)
}

func (g *gate) password(r *http.Request, user, password string) (*Account, error) {
	key := sha256.Sum256([]byte(user + "\x00" + password))
	known := func() *Account {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.known[key]
	}
	if a := known(); a != nil {
		return a, nil
	}
	// One at a time: guesses that come together would all find the limit unspent.
	g.comparing.Lock()
	defer g.comparing.Unlock()
	if a := known(); a != nil {
		return a, nil
	}
	if !g.logins.peek(r) {
		return nil, errLogins
	}
	for i := range g.accounts {
		a := &g.accounts[i]
		if a.User != "" && a.User == user && g.compare([]byte(a.Hash), []byte(password)) == nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			if len(g.known) >= maxLogins {
				clear(g.known)
			}
			g.known[key] = a
			return a, nil
		}
	}
	return nil, g.failed(r)
}

// failed counts a wrong secret against the client's address.
func (g *gate) failed(r *http.Request) error {
	if !g.logins.allow(r) {
		return errLogins
	}
	g.log("login refused", "client", clientIP(r))
	return nil
}

// login gives the browser a cookie, so that no secret need be kept by the page
// or stand in an address.
func (g *gate) login(w http.ResponseWriter, r *http.Request, user, password string) (*Account, error) {
	var a *Account
	var err error
	switch {
	case !g.logins.peek(r):
		return nil, errLogins
	case user != "":
		a, err = g.password(r, user, password)
	default:
		a, err = g.token(r, password)
	}
	if a == nil {
		return nil, err
	}
	secret := rand.Text()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for k, l := range g.cookies {
		if now.After(l.until) || len(g.cookies) >= maxLogins {
			delete(g.cookies, k)
		}
	}
	g.cookies[digest(secret)] = login{a, now.Add(cookieLife)}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: secret, Path: "/", MaxAge: int(cookieLife.Seconds()),
		HttpOnly: true, Secure: g.secure, SameSite: http.SameSiteStrictMode})
	return a, nil
}

func (g *gate) logout(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		g.mu.Lock()
		delete(g.cookies, digest(c.Value))
		g.mu.Unlock()
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, Secure: g.secure, SameSite: http.SameSiteStrictMode})
}

// known wraps a handler so that only those with an account reach it.
func (g *gate) inside(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := g.identify(r)
		if err != nil {
			fail(w, err)
			return
		}
		if a == nil {
			// No Basic challenge: browsers would ask with a window of their own.
			w.Header().Set("WWW-Authenticate", `Bearer realm="lookout"`)
			fail(w, errNobody)
			return
		}
		h(w, r.WithContext(context.WithValue(r.Context(), accountKey{}, a)))
	}
}

var errNobody = &webrtc.Error{Code: "unauthorized", Message: "sign in, or send a token as \"Authorization: Bearer\""}

func accountOf(r *http.Request) *Account {
	if a, ok := r.Context().Value(accountKey{}).(*Account); ok {
		return a
	}
	return &Account{Allow: map[string][]webrtc.Action{}} // nothing
}

// permit is nil when the request's account may do act with stream.
func permit(r *http.Request, act webrtc.Action, stream string) error {
	a := accountOf(r)
	if a.may(act, stream) {
		return nil
	}
	if !a.may(webrtc.View, stream) {
		// Whether there is such a stream is nobody else's business.
		return fmt.Errorf("stream %q: %w", stream, webrtc.ErrNotFound)
	}
	return &webrtc.Error{Code: "forbidden", Message: fmt.Sprintf("no permission to %s stream %s", act, stream)}
}

// permitManage is nil when the account may add, change and remove streams.
func permitManage(r *http.Request) error {
	if accountOf(r).Allow == nil {
		return nil
	}
	return &webrtc.Error{Code: "forbidden", Message: "no permission to change streams"}
}

// limiters bound how often each client address may do something.
type limiters struct {
	perMinute int
	mu        sync.Mutex
	m         map[string]*rate.Limiter
}

func newLimiters(perMinute int) *limiters {
	return &limiters{perMinute: perMinute, m: map[string]*rate.Limiter{}}
}

func (l *limiters) of(r *http.Request) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	ip := clientIP(r)
	x := l.m[ip]
	if x == nil {
		if len(l.m) >= maxLimiters {
			clear(l.m)
		}
		x = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), max(1, l.perMinute/2))
		l.m[ip] = x
	}
	return x
}

func (l *limiters) allow(r *http.Request) bool { return l.of(r).Allow() }
func (l *limiters) peek(r *http.Request) bool  { return l.of(r).Tokens() >= 1 }

// clientIP is the address of the connection; for IPv6 its network, of which
// one client has many addresses.
func clientIP(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	a := ap.Addr().Unmap()
	if a.Is6() && !a.IsLoopback() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

var errRate = &webrtc.Error{Code: "rate_limited", Message: "too many requests from your address; wait a little"}

// status is the HTTP status for an error.
func status(code string) int {
	switch code {
	case "invalid":
		return http.StatusBadRequest
	case "unauthorized":
		return http.StatusUnauthorized
	case "forbidden":
		return http.StatusForbidden
	case "not_found":
		return http.StatusNotFound
	case "exists":
		return http.StatusConflict
	case "precondition_failed":
		return http.StatusPreconditionFailed
	case "precondition_required":
		return http.StatusPreconditionRequired
	case "rate_limited":
		return http.StatusTooManyRequests
	case "busy":
		return http.StatusServiceUnavailable
	case "timeout":
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// isCanceled tells that the client has gone.
func isCanceled(err error) bool { return errors.Is(err, context.Canceled) }
