package configs

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// NameRule is what a stream or question may be called: it becomes a Redis key,
// a URL path and a file name.
var NameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

var (
	deviceRule  = regexp.MustCompile(`^(auto|cpu|cuda(:\d+)?)$`)
	decoderRule = regexp.MustCompile(`^(|auto|cpu|(cuda|vaapi)(:.+)?)$`)
)

// Validate tells all that is wrong, each with its key and the fix.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	oneOf := func(key, v string, list ...string) {
		if !slices.Contains(list, v) {
			bad(key, "%q is not one of %s", v, strings.Join(list, ", "))
		}
	}
	oneOf("precision", c.Precision, "auto", "fp32", "fp16", "q4", "q4f16", "int8", "uint8", "quantized", "bnb4")
	if c.Reduce < 0 || c.Reduce > 1 {
		bad("reduce", "%v is no cosine between 0 and 1", c.Reduce)
	}
	if !deviceRule.MatchString(c.Device) {
		bad("device", "%q is not auto, cpu, cuda or cuda:N", c.Device)
	}
	if c.Threads < 0 {
		bad("threads", "must not be negative; 0 takes one for each core")
	}
	if c.StateDir == "" {
		bad("state_dir", "must name a folder")
	}
	seen := map[string]bool{}
	sinks := map[string]bool{"redis": c.Redis.URL != "" || len(c.Redis.Addrs) > 0, "webhook": c.Webhook.URL != "", "mqtt": c.MQTT.URL != ""}
	for i := range c.Streams {
		s := &c.Streams[i]
		if seen[s.Name] {
			bad(fmt.Sprintf("streams[%d].name", i), "%q is the name of an earlier stream; each needs its own", s.Name)
		}
		seen[s.Name] = true
		if err := s.Validate(); err != nil {
			bad(fmt.Sprintf("streams[%d]", i), "%v", err)
		}
		for _, k := range s.Sinks {
			if there, known := sinks[k]; known && !there {
				bad(fmt.Sprintf("streams[%d].sinks", i), "%s is not set up: give %s.url, or leave it out", k, k)
			}
		}
	}
	oneOf("llm.backend", c.LLM.Backend, "local", "openai")
	oneOf("llm.media", c.LLM.Media, "images", "video")
	if c.LLM.Backend == "openai" {
		if u, err := url.Parse(c.LLM.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			bad("llm.url", "must be the http(s) address of an OpenAI-compatible server, as http://127.0.0.1:8000/v1")
		}
		if c.LLM.Model == "" {
			bad("llm.model", "must name the remote model")
		}
	}
	if c.LLM.Concurrency < 1 {
		bad("llm.concurrency", "must be at least 1")
	}
	if c.Web.Listen != "" {
		host, _, err := net.SplitHostPort(c.Web.Listen)
		if err != nil {
			bad("web.listen", "%q is not host:port", c.Web.Listen)
		} else if !loopback(host) && c.Web.Token == "" && len(c.Web.Accounts) == 0 && !c.Web.Insecure {
			bad("web.listen", "%s can be reached from outside: set web.token (LOOKOUT_WEB_TOKEN) or web.accounts, or web.insecure: true if that is meant", c.Web.Listen)
		}
	}
	if (c.Web.TLSCert == "") != (c.Web.TLSKey == "") && c.Web.TLSCert != "self" {
		bad("web.tls_key", "tls_cert and tls_key come together; tls_cert: self makes both")
	}
	for i, a := range c.Web.Accounts {
		key := fmt.Sprintf("web.accounts[%d]", i)
		switch {
		case a.TokenEnv != "" && os.Getenv(a.TokenEnv) == "":
			bad(key+".token_env", "the variable %s is not set", a.TokenEnv)
		case a.TokenEnv == "" && (a.User == "" || !strings.HasPrefix(a.PasswordHash, "$2")):
			bad(key, "needs token_env, or user and password_hash (bcrypt, as `htpasswd -nbB user password` prints after the colon)")
		}
		for stream, acts := range a.Allow {
			for _, act := range acts {
				oneOf(key+".allow."+stream, act, "view", "publish", "ask")
			}
		}
	}
	if c.Web.WebRTC.PortMin > c.Web.WebRTC.PortMax {
		bad("web.webrtc.port_min", "must not be above port_max")
	}
	if c.Redis.URL != "" {
		if u, err := url.Parse(c.Redis.URL); err != nil || u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix" {
			bad("redis.url", "must begin with redis://, rediss:// or unix://")
		}
		if len(c.Redis.Addrs) > 0 {
			bad("redis.addrs", "give url or addrs, not both")
		}
	}
	switch r := c.Redis; {
	case r.Cluster && r.SentinelMaster != "":
		bad("redis.cluster", "give cluster or sentinel_master, not both")
	case r.SentinelMaster == "" && (r.SentinelUsername != "" || r.SentinelPassword != ""):
		bad("redis.sentinel_master", "missing; sentinel_username and sentinel_password are for Sentinels")
	case r.DB != 0 && (r.Cluster || len(r.Addrs) > 1 && r.SentinelMaster == ""):
		bad("redis.db", "a Cluster has only database 0; use prefix to keep things apart")
	case (r.CertFile == "") != (r.KeyFile == ""):
		bad("redis.key_file", "cert_file and key_file come together")
	}
	if c.Webhook.URL != "" {
		if u, err := url.Parse(c.Webhook.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			bad("webhook.url", "must be an http(s) address")
		}
	}
	for i, typ := range c.Webhook.Types {
		oneOf(fmt.Sprintf("webhook.types[%d]", i), typ, "description", "answer", "alert", "label", "status")
	}
	if c.Webhook.SecretEnv != "" && os.Getenv(c.Webhook.SecretEnv) == "" {
		bad("webhook.secret_env", "the variable %s is not set", c.Webhook.SecretEnv)
	}
	oneOf("evidence.alerts", c.Evidence.Alerts, KeepSnapshot, KeepClip, KeepBoth)
	for key, d := range map[string]time.Duration{"evidence.before": c.Evidence.Before, "evidence.after": c.Evidence.After} {
		if d < 0 || d > time.Minute {
			bad(key, "must lie between 0 and 1m: the stream's packets are kept in memory for so long")
		}
	}
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "auto", "text", "json")
	return errors.Join(errs...)
}

// Validate checks one stream.
func (s *Stream) Validate() error {
	switch {
	case !NameRule.MatchString(s.Name):
		return fmt.Errorf("name: %q will not do; use letters, digits, dot, dash and underscore", s.Name)
	case s.URL == "":
		return fmt.Errorf("%s: url: missing; a file, rtsp://, http(s):// or v4l2:/dev/video0", s.Name)
	case s.Transport != "tcp" && s.Transport != "udp":
		return fmt.Errorf("%s: transport: %q is neither tcp nor udp", s.Name, s.Transport)
	case s.Rate < 0 || s.Rate > 120:
		return fmt.Errorf("%s: rate: must lie between 0 and 120", s.Name)
	case s.Gate < 0 || s.Gate > 255:
		return fmt.Errorf("%s: gate: must lie between 0 and 255", s.Name)
	case s.Reduce < 0 || s.Reduce > 1:
		return fmt.Errorf("%s: reduce: %v is no cosine between 0 and 1", s.Name, s.Reduce)
	case s.Describe.Novelty < 0 || s.Describe.Novelty > 1:
		return fmt.Errorf("%s: describe.novelty: must lie between 0 and 1", s.Name)
	case s.Describe.Rearm < 0 || s.Describe.Rearm > 1 || s.Describe.Novelty > 0 && s.Describe.Rearm > s.Describe.Novelty:
		return fmt.Errorf("%s: describe.rearm: must lie between 0 and describe.novelty", s.Name)
	case s.Describe.Every <= 0:
		return fmt.Errorf("%s: describe.every: must be above 0; describe.off: true says nothing", s.Name)
	}
	ids := map[string]bool{}
	for i := range s.Questions {
		q := &s.Questions[i]
		if q.ID == "" {
			q.ID = fmt.Sprintf("q%d", i+1)
		}
		switch {
		case !NameRule.MatchString(q.ID):
			return fmt.Errorf("%s: questions[%d].id: %q will not do; use letters, digits, dot, dash and underscore", s.Name, i, q.ID)
		case ids[q.ID]:
			return fmt.Errorf("%s: questions[%d].id: %q is taken by an earlier question", s.Name, i, q.ID)
		case strings.TrimSpace(q.Text) == "":
			return fmt.Errorf("%s: questions[%d].text: is empty", s.Name, i)
		case q.Every <= 0:
			return fmt.Errorf("%s: questions[%d].every: must be above 0", s.Name, i)
		}
		if q.ZeroShot && q.Alert == nil {
			return fmt.Errorf("%s: questions[%d].zero_shot: needs an alert (alert: {}); without one, write the text into labels", s.Name, i)
		}
		ids[q.ID] = true
		if a := q.Alert; a != nil && (a.On <= 0 || a.On > 1 || a.Off < 0 || a.Off > a.On) {
			return fmt.Errorf("%s: questions[%d].alert: 0 <= off <= on <= 1 must hold, and on be above 0", s.Name, i)
		}
	}
	if !decoderRule.MatchString(s.Decoder) {
		return fmt.Errorf("%s: decoder: %q is not cpu, auto, cuda, cuda:N, vaapi or vaapi:/dev/dri/renderD128", s.Name, s.Decoder)
	}
	for _, k := range s.Sinks {
		if k != "redis" && k != "webhook" && k != "mqtt" {
			return fmt.Errorf("%s: sinks: %q is not redis, webhook or mqtt", s.Name, k)
		}
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
