// Package redis delivers events into Redis Streams, each exactly once and in
// order, and reads them back. Keys, fields, ids and guarantees are a contract:
// see docs/redis.md.
package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Config configures a Client.
type Config struct {
	// URL is the server: redis://[user[:password]@]host[:port][/db], rediss://...
	// for TLS, or unix://[user[:password]@]/path/to.sock[?db=n].
	// It defaults to redis://127.0.0.1:6379.
	URL string
	// Addrs are host:port addresses to use in place of the URL's: of several
	// nodes of a cluster, or of the Sentinels when MasterName is set.
	Addrs []string
	// Cluster says that the server is a Redis Cluster. More than one of Addrs
	// without MasterName implies it.
	Cluster bool
	// MasterName is the primary's name at the Sentinels. It defaults to none.
	MasterName string
	// Username and Password are those of the ACL user; they override the URL's.
	Username, Password string
	// SentinelUsername and SentinelPassword are the Sentinels' own.
	SentinelUsername, SentinelPassword string
	// DB is the database; it overrides the URL's. A cluster has only 0.
	DB int

	// TLS turns TLS on, as do a rediss:// URL and each of the fields below.
	TLS bool
	// CAFile holds the certificates to trust, PEM. It defaults to the system's.
	CAFile string
	// CertFile and KeyFile are this client's certificate and key, PEM.
	CertFile, KeyFile string
	// ServerName is the name that the server's certificate must have. It defaults
	// to the host dialled.
	ServerName string

	// Prefix begins all keys. It defaults to "lookout".
	Prefix string
	// MaxLen bounds each camera's stream, approximately. It defaults to 10,000
	// events; a negative value means no bound.
	MaxLen int64
	// AllMaxLen bounds the stream of all cameras, approximately. It defaults to
	// 100,000 events; a negative value means no bound.
	AllMaxLen int64
	// MaxAge removes events that are older, approximately. It defaults to none.
	MaxAge time.Duration
	// NoAll leaves out the stream of all cameras, which in a cluster is one
	// slot's load.
	NoAll bool
	// Notify publishes the id of the newest event to the channel NoticeChannel
	// of the camera after each batch.
	Notify bool
	// DialTimeout bounds a connection attempt. It defaults to 3 seconds.
	DialTimeout time.Duration
	// Timeout bounds one reply. It defaults to 5 seconds.
	Timeout time.Duration
}

func (c *Config) prefix() string {
	if c.Prefix == "" {
		return "lookout"
	}
	return c.Prefix
}

// A brace in a stream's name would end the hash tag.
var tagSafe = strings.NewReplacer("{", "%7B", "}", "%7D")

// EventsKey is the key of a camera's events, a stream.
func (c Config) EventsKey(stream string) string {
	return c.prefix() + ":{" + tagSafe.Replace(stream) + "}:events"
}

// StateKey is the key of a camera's last state, a hash.
func (c Config) StateKey(stream string) string {
	return c.prefix() + ":{" + tagSafe.Replace(stream) + "}:state"
}

// NoticeChannel is the Pub/Sub channel of a camera.
func (c Config) NoticeChannel(stream string) string {
	return c.prefix() + ":{" + tagSafe.Replace(stream) + "}:notice"
}

// AllKey is the key of the events of all cameras, a stream.
func (c Config) AllKey() string { return c.prefix() + ":events" }

// seenKey is in AllKey's slot: what stands in the braces is all of AllKey.
func (c Config) seenKey() string { return "{" + c.AllKey() + "}:seen" }

// options translates c, and gives the target for messages: no secrets in it.
func (c *Config) options() (*goredis.UniversalOptions, string, error) {
	raw := c.URL
	if raw == "" {
		raw = "redis://127.0.0.1:6379"
	}
	parsed, err := goredis.ParseURL(raw)
	if err != nil {
		// The error may quote the URL, and with it the password.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if u, perr := url.Parse(raw); perr == nil {
			return nil, "", fmt.Errorf("redis: the URL %s: %s; want redis://user:password@host:6379/0, rediss://... or unix:///path",
				u.Redacted(), redact(err.Error(), u))
		}
		return nil, "", errors.New("redis: the URL cannot be read (special characters in a password are written as %XX); want redis://user:password@host:6379/0")
	}
	o := &goredis.UniversalOptions{
		Addrs: []string{parsed.Addr}, DB: parsed.DB, Username: parsed.Username, Password: parsed.Password,
		TLSConfig: parsed.TLSConfig, MasterName: c.MasterName, IsClusterMode: c.Cluster,
		SentinelUsername: c.SentinelUsername, SentinelPassword: c.SentinelPassword,
		ClientName: "lookout", DialTimeout: c.DialTimeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout,
		ContextTimeoutEnabled: true, // else go-redis ignores our contexts
		MaxRetries:            1,    // the outbox does the rest
		DialerRetries:         1,
		PoolSize:              8,
		// A feature of one vendor's service; elsewhere it costs a refused command.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if parsed.Network == "unix" {
		o.Dialer = unixDialer(parsed.Addr, c.DialTimeout)
	}
	if len(c.Addrs) > 0 {
		o.Addrs = c.Addrs
	}
	if c.Username != "" {
		o.Username = c.Username
	}
	if c.Password != "" {
		o.Password = c.Password
	}
	if c.DB != 0 {
		o.DB = c.DB
	}
	if o.DB != 0 && (c.Cluster || len(o.Addrs) > 1 && c.MasterName == "") {
		return nil, "", fmt.Errorf("redis: database %d on a cluster, which has only 0; use a prefix to keep things apart", o.DB)
	}
	if c.Cluster && c.MasterName != "" {
		return nil, "", errors.New("redis: a cluster and a sentinel master at once; give one of them")
	}
	if c.MasterName == "" && (c.SentinelUsername != "" || c.SentinelPassword != "") {
		return nil, "", errors.New("redis: the Sentinels' user or password without sentinel_master")
	}
	if parsed.Network == "unix" && (c.Cluster || c.MasterName != "") {
		return nil, "", errors.New("redis: a unix socket leads to one server only; give host:port for a cluster or Sentinels")
	}
	if c.TLS || c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" || c.ServerName != "" {
		if o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			if len(o.Addrs) == 1 { // several: each host is checked by its own name
				o.TLSConfig.ServerName = hostOf(o.Addrs[0])
			}
		}
	}
	if o.TLSConfig != nil {
		if len(o.Addrs) > 1 {
			o.TLSConfig.ServerName = ""
		}
		if c.ServerName != "" {
			o.TLSConfig.ServerName = c.ServerName
		}
		if err := c.certificates(o.TLSConfig); err != nil {
			return nil, "", err
		}
	}
	target := strings.Join(o.Addrs, ",")
	if c.MasterName != "" {
		target = c.MasterName + " of sentinels " + target
	}
	return o, target, nil
}

func (c *Config) certificates(t *tls.Config) error {
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return fmt.Errorf("redis: read the CA file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("redis: CA file %s holds no PEM certificate", c.CAFile)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("redis: a client certificate needs both cert_file and key_file")
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return fmt.Errorf("redis: client certificate %s: %w", c.CertFile, err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return nil
}

// redact removes u's password from s.
func redact(s string, u *url.URL) string {
	if p, ok := u.User.Password(); ok && p != "" {
		s = strings.ReplaceAll(s, p, "xxxxx")
	}
	return s
}
