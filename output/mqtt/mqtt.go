// Package mqtt delivers events to an MQTT 3.1.1 broker, for home automation and
// industrial systems that listen there.
package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
)

// Config configures a Publisher.
type Config struct {
	// URL is the broker: tcp://[user[:password]@]host[:port], or mqtt://, and ssl://
	// or mqtts:// for TLS, ws:// and wss:// for websockets.
	URL string
	// Username and Password override the URL's.
	Username, Password string
	// ClientID must be the broker's only one of that name. It defaults to
	// "lookout-" and the host's name.
	ClientID string
	// Topic begins all topics. It defaults to "lookout".
	Topic string
	// Retain keeps the newest event of each topic at the broker for those who
	// subscribe later.
	Retain bool
	// CAFile holds the certificates to trust, PEM. It defaults to the system's.
	CAFile string
	// CertFile and KeyFile are this client's certificate and key, PEM.
	CertFile, KeyFile string
	// Timeout bounds a connection attempt. It defaults to 5 seconds.
	Timeout time.Duration
}

// Publisher publishes events as JSON, QoS 1, to <topic>/<stream>/<kind>. It is
// the Sink of an outbox, which does the retries; a repetition after a broken
// connection is told by the event's id.
type Publisher struct {
	cfg    Config
	opts   *paho.ClientOptions
	target string

	mu     sync.Mutex
	client paho.Client // nil when not connected
}

var _ outbox.Sink = (*Publisher)(nil)

// Open makes a Publisher. It does not connect.
func Open(cfg Config) (*Publisher, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("mqtt: the URL must be tcp://user:password@host:1883, or ssl:// for TLS")
	}
	port := "1883"
	switch u.Scheme {
	case "tcp", "mqtt":
		u.Scheme = "tcp"
	case "ssl", "tls", "mqtts":
		u.Scheme, port = "ssl", "8883"
	case "ws", "wss":
		port = ""
	default:
		return nil, fmt.Errorf("mqtt: URL scheme %q; want tcp, ssl, ws or wss", u.Scheme)
	}
	if u.Port() == "" && port != "" {
		u.Host += ":" + port
	}
	if cfg.Topic == "" {
		cfg.Topic = "lookout"
	}
	if strings.ContainsAny(cfg.Topic, "+#\x00") {
		return nil, fmt.Errorf("mqtt: topic %q holds a wildcard", cfg.Topic)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.ClientID == "" {
		host, _ := os.Hostname()
		cfg.ClientID = "lookout-" + host
	}
	o := paho.NewClientOptions()
	o.SetClientID(cfg.ClientID)
	o.SetCleanSession(true) // the outbox remembers, so the broker need not
	o.SetAutoReconnect(false)
	o.SetConnectTimeout(cfg.Timeout)
	o.SetWriteTimeout(cfg.Timeout)
	o.SetKeepAlive(20 * time.Second)
	o.SetUsername(u.User.Username())
	if pw, ok := u.User.Password(); ok {
		o.SetPassword(pw)
	}
	if cfg.Username != "" {
		o.SetUsername(cfg.Username)
	}
	if cfg.Password != "" {
		o.SetPassword(cfg.Password)
	}
	u.User = nil
	o.AddBroker(u.String())
	if u.Scheme == "ssl" || u.Scheme == "wss" {
		t, err := cfg.tls(u.Hostname())
		if err != nil {
			return nil, err
		}
		o.SetTLSConfig(t)
	}
	return &Publisher{cfg: cfg, opts: o, target: u.String()}, nil
}

func (c *Config) tls(host string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("mqtt: read the CA file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("mqtt: CA file %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" || c.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("mqtt: client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

// topicSafe takes the characters out of a stream's name that mean something in
// a topic.
var topicSafe = strings.NewReplacer("/", "_", "+", "_", "#", "_", "\x00", "_")

// TopicOf is where ev is published.
func (p *Publisher) TopicOf(ev *event.Event) string {
	return p.cfg.Topic + "/" + topicSafe.Replace(ev.Data.Stream) + "/" + event.Kind(ev.Type)
}

// Deliver publishes evs in order and waits until the broker has confirmed them.
func (p *Publisher) Deliver(ctx context.Context, evs []*event.Event) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	tokens := make([]paho.Token, 0, len(evs))
	for _, ev := range evs {
		js, err := json.Marshal(ev)
		if err != nil {
			return fmt.Errorf("mqtt %s: event %s: %w: %w", p.target, ev.ID, err, outbox.ErrRefused)
		}
		tokens = append(tokens, c.Publish(p.TopicOf(ev), 1, p.cfg.Retain, js))
	}
	for i, t := range tokens {
		if err := wait(ctx, t); err != nil {
			p.drop(c)
			return &outbox.PartialError{Taken: i, Err: fmt.Errorf("mqtt %s: event %s was not confirmed: %w", p.target, evs[i].ID, err)}
		}
	}
	return nil
}

func wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connect gives the connection, a new one when the last is gone: a broken one is
// given up whole, or what it still holds would overtake what the outbox sends.
func (p *Publisher) connect(ctx context.Context) (paho.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		if p.client.IsConnectionOpen() {
			return p.client, nil
		}
		p.client.Disconnect(0)
		p.client = nil
	}
	c := paho.NewClient(p.opts)
	if err := wait(ctx, c.Connect()); err != nil {
		c.Disconnect(0)
		return nil, fmt.Errorf("mqtt %s: connect: %w%s", p.target, err, fix(err))
	}
	p.client = c
	return c, nil
}

func fix(err error) string {
	var ua x509.UnknownAuthorityError
	switch s := err.Error(); {
	case errors.As(err, &ua):
		return ": set ca_file"
	case strings.Contains(s, "refused: Bad user name or password"), strings.Contains(s, "not Authorized"), strings.Contains(s, "not authorized"):
		return ": check username and password"
	case strings.Contains(s, "connection refused"):
		return ": start the broker, or check the address"
	case strings.Contains(s, "identifier rejected"):
		return ": choose another client_id"
	}
	return ""
}

func (p *Publisher) drop(c paho.Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Disconnect(0)
	if p.client == c {
		p.client = nil
	}
}

// Close disconnects.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		p.client.Disconnect(250)
		p.client = nil
	}
	return nil
}
