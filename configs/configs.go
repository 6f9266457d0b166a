// Package configs reads what a user wants of Lookout: defaults, then a YAML
// file, then the environment, then a check that names the line and the fix.
package configs

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/lookout-video/lookout/media"
)

// Example is the commented lookout.yaml: every key with its default.
//
//go:embed lookout.yaml
var Example []byte

// Config is the whole configuration of `lookout run`.
type Config struct {
	// Streams are the videos to watch.
	Streams []Stream `yaml:"streams" json:"streams" doc:"the videos to watch"`
	// Model is a bundle's folder or a name known to `lookout models list`. It defaults to the embedded model.
	Model string `yaml:"model" json:"model" doc:"a model folder, or a name from lookout models list; empty: the embedded model"`
	// Precision picks a file variant of a public model. It defaults to auto.
	Precision string `yaml:"precision" json:"precision" enum:"auto,fp32,fp16,q4,q4f16,int8,uint8,quantized,bnb4" doc:"file variant of a public model"`
	// Reduce is the cosine above which a visual token of a public model's older frames is left out, as the next frame shows the same at its place. 0: all are read. It defaults to 0.9999, the least at which no answer was seen to change.
	Reduce float64 `yaml:"reduce" json:"reduce" doc:"cosine above which a public model leaves out what the next frame shows as well, of the frames before the newest; at 0.9999 no answer was seen to change, 0.98 leaves out most; 0: it reads all"`
	// Device is auto, cpu, cuda or cuda:N. It defaults to auto.
	Device string `yaml:"device" json:"device" doc:"auto, cpu, cuda or cuda:N"`
	// Threads bounds the threads that the models use, and those of all decoders. It defaults to 0: one for each core.
	Threads int `yaml:"threads" json:"threads" doc:"threads of the models, and of all decoders; 0: one for each core"`
	// StateDir keeps what must survive a restart. It defaults to the user's state folder.
	StateDir string `yaml:"state_dir" json:"state_dir" doc:"folder for the outbox, the search index, snapshots and streams added at run time"`

	LLM      LLM      `yaml:"llm" json:"llm" doc:"where the words come from"`
	Web      Web      `yaml:"web" json:"web" doc:"the page, its API and WebRTC"`
	Redis    Redis    `yaml:"redis" json:"redis" doc:"events into Redis Streams"`
	Webhook  Webhook  `yaml:"webhook" json:"webhook" doc:"events to an HTTP endpoint"`
	MQTT     MQTT     `yaml:"mqtt" json:"mqtt" doc:"events to an MQTT broker"`
	Outbox   Outbox   `yaml:"outbox" json:"outbox" doc:"the durable queue in front of each sink"`
	Evidence Evidence `yaml:"evidence" json:"evidence" doc:"pictures and clips of what events rest on"`
	Search   Search   `yaml:"search" json:"search" doc:"the index over past events"`
	Log      Log      `yaml:"log" json:"log" doc:"what is logged, and how"`
}

// Stream is one video and what to look for in it.
type Stream struct {
	Name      string        `yaml:"name" json:"name" doc:"letters, digits, dot, dash and underscore"`
	URL       string        `yaml:"url" json:"url" doc:"a file, rtsp://, http(s)://, or v4l2:/dev/video0"`
	Transport string        `yaml:"transport" json:"transport" enum:"tcp,udp" doc:"of RTSP"`
	Loop      bool          `yaml:"loop" json:"loop" doc:"start a file again at its end"`
	Rate      float64       `yaml:"rate" json:"rate" doc:"frames a second that are looked at; 0: the model's"`
	Decoder   string        `yaml:"decoder" json:"decoder" doc:"cpu, auto, cuda or vaapi"`
	Threads   int           `yaml:"threads" json:"threads" doc:"decoding threads, as far as threads of all allows; at least 1"`
	Timeout   time.Duration `yaml:"timeout" json:"timeout" doc:"silence after which a source counts as lost"`
	Model     string        `yaml:"model" json:"model" doc:"another model than the one above, for this stream"`
	Describe  Describe      `yaml:"describe" json:"describe" doc:"the running description"`
	Questions []Question    `yaml:"questions" json:"questions" doc:"standing questions"`
	Labels    []string      `yaml:"labels" json:"labels" doc:"zero-shot labels; empty: the model's own"`
	Reduce    float64       `yaml:"reduce" json:"reduce" doc:"as the reduce of all, for this stream; 0: as that, 1: it reads all"`
	Gate      float64       `yaml:"gate" json:"gate" doc:"mean change of a pixel (0 to 255) under which a frame is not encoded; 0: off"`
	Sinks     []string      `yaml:"sinks" json:"sinks" doc:"redis, webhook, mqtt; empty: all that are set up"`
}

// Describe says when a stream is described.
type Describe struct {
	Off    bool          `yaml:"off" json:"off" doc:"say nothing of your own accord"`
	Every  time.Duration `yaml:"every" json:"every" doc:"shortest time between two descriptions"`
	Prompt string        `yaml:"prompt" json:"prompt" doc:"what a public model is asked; the embedded one has its own task token"`
	Quiet  time.Duration `yaml:"quiet" json:"quiet" doc:"time without anything new after which a description ends"`
	// Novelty is how much of a frame must be new before something is said. It
	// defaults to 0: the model's own threshold.
	Novelty float64 `yaml:"novelty" json:"novelty" doc:"novelty (0 to 1) at which something is said; 0: the model's; public models have none"`
	// Rearm is the novelty under which the next that reaches Novelty is news again.
	// It defaults to 0: half of Novelty.
	Rearm float64 `yaml:"rearm" json:"rearm" doc:"novelty that it must fall below before one about novelty is news again; 0: half of novelty"`
}

// Question is asked again and again; with Alert, its yes has a life of its own.
type Question struct {
	ID    string        `yaml:"id" json:"id" doc:"short name used in events"`
	Text  string        `yaml:"text" json:"text" doc:"the question"`
	Every time.Duration `yaml:"every" json:"every" doc:"time between two askings"`
	// ZeroShot compares the picture with Text, a thing to be seen as "a red van",
	// instead of asking the language model. It needs an Alert.
	ZeroShot bool   `yaml:"zero_shot" json:"zero_shot" doc:"the text names a thing that the picture is compared with, instead of a question; needs an alert"`
	Alert    *Alert `yaml:"alert" json:"alert,omitempty" doc:"makes an alert of a yes"`
}

// Alert turns the probability of a yes into start, update and end.
type Alert struct {
	On       float64       `yaml:"on" json:"on" doc:"probability at which it starts"`
	Off      float64       `yaml:"off" json:"off" doc:"probability under which it ends"`
	For      time.Duration `yaml:"for" json:"for" doc:"time above on before it starts"`
	CoolDown time.Duration `yaml:"cool_down" json:"cool_down" doc:"time after an end in which it does not start again"`
	Adapt    bool          `yaml:"adapt" json:"adapt" doc:"raise the threshold to what this camera's own frames make ordinary; learns for the first minute"`
}

// LLM says which engine speaks.
type LLM struct {
	Backend     string        `yaml:"backend" json:"backend" enum:"local,openai" doc:"local: the model's own decoder; openai: a remote server"`
	URL         string        `yaml:"url" json:"url" doc:"base address of an OpenAI-compatible server"`
	Model       string        `yaml:"model" json:"model" doc:"the remote model's name"`
	APIKeyEnv   string        `yaml:"api_key_env" json:"api_key_env" doc:"environment variable that holds the key"`
	Timeout     time.Duration `yaml:"timeout" json:"timeout" doc:"of one request"`
	Concurrency int           `yaml:"concurrency" json:"concurrency" doc:"requests at once"`
	Media       string        `yaml:"media" json:"media" enum:"images,video" doc:"how frames are sent: one image_url each, or one video_url (vLLM, SGLang)"`
	Logprobs    bool          `yaml:"logprobs" json:"logprobs" doc:"ask for the first token's alternatives, for the probability of a yes"`
	MaxTokens   int           `yaml:"max_tokens" json:"max_tokens" doc:"longest answer; 0: the model's"`
}

// Web is the HTTP server with the page, the API and WebRTC.
type Web struct {
	Listen   string    `yaml:"listen" json:"listen" doc:"address; off-loopback needs a token or accounts"`
	Token    string    `yaml:"token" json:"token" doc:"access token for everything; better from LOOKOUT_WEB_TOKEN"`
	Accounts []Account `yaml:"accounts" json:"accounts" doc:"who may come in, and do what"`
	Insecure bool      `yaml:"insecure" json:"insecure" doc:"listen off-loopback without either"`
	TLSCert  string    `yaml:"tls_cert" json:"tls_cert" doc:"certificate file, or 'self' for a self-made one"`
	TLSKey   string    `yaml:"tls_key" json:"tls_key" doc:"key file"`
	Origins  []string  `yaml:"origins" json:"origins" doc:"further origins that may use the API"`
	WebRTC   WebRTC    `yaml:"webrtc" json:"webrtc" doc:"how viewers are reached"`
}

// Account is somebody who may come in.
type Account struct {
	User         string              `yaml:"user" json:"user" doc:"name of a person"`
	PasswordHash string              `yaml:"password_hash" json:"password_hash" doc:"bcrypt, as htpasswd -nbB prints it"`
	TokenEnv     string              `yaml:"token_env" json:"token_env" doc:"environment variable with a program's token, instead"`
	Allow        map[string][]string `yaml:"allow" json:"allow" doc:"view, publish, ask by stream; * is every stream; empty: everything"`
}

// WebRTC says how media reaches viewers.
type WebRTC struct {
	ICEServers    []string `yaml:"ice_servers" json:"ice_servers" doc:"stun:host:port and turn:user:password@host:port"`
	Addresses     []string `yaml:"addresses" json:"addresses" doc:"local addresses that media goes over; empty: those that the page listens on"`
	UDPPort       int      `yaml:"udp_port" json:"udp_port" doc:"one UDP port for all viewers; 0: any"`
	PortMin       uint16   `yaml:"port_min" json:"port_min" doc:"lowest UDP port"`
	PortMax       uint16   `yaml:"port_max" json:"port_max" doc:"highest UDP port"`
	TCPPort       int      `yaml:"tcp_port" json:"tcp_port" doc:"fallback over TCP; 0: off"`
	NATAddresses  []string `yaml:"nat_addresses" json:"nat_addresses" doc:"public addresses of this machine"`
	HideAddresses bool     `yaml:"hide_addresses" json:"hide_addresses" doc:"give viewers mDNS names instead of local addresses"`
	MaxSessions   int      `yaml:"max_sessions" json:"max_sessions" doc:"viewers and publishers at once"`
}

// Redis is where events go.
type Redis struct {
	URL              string        `yaml:"url" json:"url" doc:"redis://, rediss:// ; empty: off"`
	Addrs            []string      `yaml:"addrs" json:"addrs" doc:"nodes of a Cluster, or Sentinels, instead of url"`
	Username         string        `yaml:"username" json:"username" doc:"ACL user"`
	Password         string        `yaml:"password" json:"password" doc:"better from LOOKOUT_REDIS_PASSWORD"`
	DB               int           `yaml:"db" json:"db" doc:"database; a Cluster has only 0"`
	SentinelMaster   string        `yaml:"sentinel_master" json:"sentinel_master" doc:"name of the master that the Sentinels watch"`
	SentinelUsername string        `yaml:"sentinel_username" json:"sentinel_username" doc:"ACL user of the Sentinels themselves"`
	SentinelPassword string        `yaml:"sentinel_password" json:"sentinel_password" doc:"and its password; better from LOOKOUT_REDIS_SENTINEL_PASSWORD"`
	Cluster          bool          `yaml:"cluster" json:"cluster" doc:"the server is a Cluster, also with one address"`
	TLS              bool          `yaml:"tls" json:"tls" doc:"TLS where addrs is used; rediss:// and each file below imply it"`
	CAFile           string        `yaml:"ca_file" json:"ca_file" doc:"certificate authority of the server; empty: the system's"`
	CertFile         string        `yaml:"cert_file" json:"cert_file" doc:"this client's certificate"`
	KeyFile          string        `yaml:"key_file" json:"key_file" doc:"and its key"`
	ServerName       string        `yaml:"server_name" json:"server_name" doc:"name in the server's certificate; empty: the host that is dialled"`
	NoAll            bool          `yaml:"no_all" json:"no_all" doc:"leave out the stream of all cameras"`
	Prefix           string        `yaml:"prefix" json:"prefix" doc:"first part of every key"`
	MaxLen           int64         `yaml:"max_len" json:"max_len" doc:"entries kept of each camera, about"`
	MaxAge           time.Duration `yaml:"max_age" json:"max_age" doc:"age of entries kept, besides max_len"`
	Notify           bool          `yaml:"notify" json:"notify" doc:"publish a Pub/Sub notice of each event"`
}

// Webhook posts events.
type Webhook struct {
	URL       string   `yaml:"url" json:"url" doc:"address that gets each event; empty: off"`
	SecretEnv string   `yaml:"secret_env" json:"secret_env" doc:"environment variable with the key that signs (HMAC-SHA256)"`
	Types     []string `yaml:"types" json:"types" doc:"kinds of events sent: description, answer, alert, label, status; empty: all"`
}

// MQTT publishes events.
type MQTT struct {
	URL         string `yaml:"url" json:"url" doc:"mqtt:// or mqtts:// broker; empty: off"`
	Topic       string `yaml:"topic" json:"topic" doc:"first part of the topic; the stream's name follows"`
	Username    string `yaml:"username" json:"username" doc:"of the broker"`
	PasswordEnv string `yaml:"password_env" json:"password_env" doc:"environment variable with the password"`
	CAFile      string `yaml:"ca_file" json:"ca_file" doc:"certificate authority of mqtts://; empty: the system's"`
	CertFile    string `yaml:"cert_file" json:"cert_file" doc:"this client's certificate"`
	KeyFile     string `yaml:"key_file" json:"key_file" doc:"and its key"`
	Retain      bool   `yaml:"retain" json:"retain" doc:"the broker keeps the newest event of each topic"`
}

// Outbox bounds what waits for a sink that is away.
type Outbox struct {
	MaxEvents int   `yaml:"max_events" json:"max_events" doc:"events kept for each sink; the oldest go first"`
	MaxBytes  int64 `yaml:"max_bytes" json:"max_bytes" doc:"bytes kept for each sink"`
}

// Evidence says what is kept on disk of what events rest on.
type Evidence struct {
	Off      bool          `yaml:"off" json:"off" doc:"keep none"`
	Alerts   string        `yaml:"alerts" json:"alerts" enum:"snapshot,clip,both" doc:"what is kept of an alert; of other events it is a snapshot"`
	Before   time.Duration `yaml:"before" json:"before" doc:"how long before an alert its clip begins; it begins at a key frame"`
	After    time.Duration `yaml:"after" json:"after" doc:"how long after an alert's start its clip ends"`
	MaxBytes int64         `yaml:"max_bytes" json:"max_bytes" doc:"size of all snapshots and clips; the oldest go first"`
	MaxAge   time.Duration `yaml:"max_age" json:"max_age" doc:"age of the oldest"`
}

// The values of Evidence.Alerts.
const (
	KeepSnapshot = "snapshot"
	KeepClip     = "clip"
	KeepBoth     = "both"
)

// Search bounds the index.
type Search struct {
	Off       bool          `yaml:"off" json:"off" doc:"index nothing"`
	MaxEvents int           `yaml:"max_events" json:"max_events" doc:"events kept"`
	MaxAge    time.Duration `yaml:"max_age" json:"max_age" doc:"age of the oldest"`
}

// Log is about the program's own messages.
type Log struct {
	Level  string `yaml:"level" json:"level" enum:"debug,info,warn,error" doc:"least level shown"`
	Format string `yaml:"format" json:"format" enum:"auto,text,json" doc:"auto: text on a terminal, else JSON"`
}

// Default is the configuration without a file: the embedded model, no stream.
func Default() Config {
	return Config{
		Precision: "auto",
		Reduce:    0.9999,
		Device:    "auto",
		StateDir:  defaultStateDir(),
		LLM:       LLM{Backend: "local", Timeout: 30 * time.Second, Concurrency: 2, Media: "images"},
		Web:       Web{Listen: "127.0.0.1:8080", WebRTC: WebRTC{MaxSessions: 128}},
		Redis:     Redis{Prefix: "lookout", MaxLen: 100_000},
		MQTT:      MQTT{Topic: "lookout"},
		Outbox:    Outbox{MaxEvents: 100_000, MaxBytes: 256 << 20},
		Evidence:  Evidence{Alerts: KeepSnapshot, Before: 5 * time.Second, After: 5 * time.Second, MaxBytes: 1 << 30, MaxAge: 7 * 24 * time.Hour},
		Search:    Search{MaxEvents: 100_000, MaxAge: 30 * 24 * time.Hour},
		Log:       Log{Level: "info", Format: "auto"},
	}
}

// Push is the URL of a stream whose packets are published to Lookout (WHIP)
// instead of fetched by it.
const Push = "push:"

// DefaultStream is a stream without its name and address.
func DefaultStream() Stream {
	return Stream{
		Transport: "tcp",
		Decoder:   "cpu",
		Threads:   1,
		Timeout:   10 * time.Second,
		Describe:  Describe{Every: time.Second, Quiet: 5 * time.Second},
		Gate:      0.35,
	}
}

// DefaultAlert is an alert as it is when only `alert: {}` is written.
func DefaultAlert() Alert {
	return Alert{On: 0.8, Off: 0.5, For: 500 * time.Millisecond, CoolDown: 5 * time.Second}
}

// UnmarshalYAML starts from the defaults, so that a file names only what differs.
func (s *Stream) UnmarshalYAML(unmarshal func(any) error) error {
	v := plainStream(DefaultStream())
	if err := unmarshal(&v); err != nil {
		return err
	}
	*s = Stream(v)
	return nil
}

// UnmarshalYAML starts from the defaults.
func (q *Question) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Question
	v := plain{Every: time.Second}
	if err := unmarshal(&v); err != nil {
		return err
	}
	*q = Question(v)
	return nil
}

// UnmarshalYAML starts from the defaults.
func (a *Alert) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Alert
	v := plain(DefaultAlert())
	if err := unmarshal(&v); err != nil {
		return err
	}
	*a = Alert(v)
	return nil
}

func defaultStateDir() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "lookout")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "lookout-state"
	}
	return filepath.Join(home, ".local", "state", "lookout")
}

// ErrNoFile is returned by Load when the named file is not there.
var ErrNoFile = errors.New("no such configuration file; `lookout config print` shows one to start from")

// Load reads the file at path (none when path is empty), lays the environment
// over it and checks the whole.
func Load(path string) (Config, error) {
	c := Default()
	if path != "" {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return c, fmt.Errorf("configs: %s: %w", path, ErrNoFile)
		} else if err != nil {
			return c, fmt.Errorf("configs: read %s: %w", path, err)
		}
		if err := Parse(b, &c); err != nil {
			return c, fmt.Errorf("configs: %s: %w", path, err)
		}
	}
	if err := applyEnv(&c, os.Environ()); err != nil {
		return c, fmt.Errorf("configs: %w", err)
	}
	if err := c.Validate(); err != nil {
		if path != "" {
			return c, fmt.Errorf("configs: %s: %w", path, err)
		}
		return c, fmt.Errorf("configs: %w", err)
	}
	return c, nil
}

// Parse lays a YAML text over c. Keys that are not known, and keys written
// twice, are errors with their line.
func Parse(b []byte, c *Config) error {
	var any any
	if yaml.Unmarshal(b, &any) == nil && any == nil {
		return nil // an empty document would wipe the defaults
	}
	if err := yaml.UnmarshalWithOptions(b, c, yaml.Strict()); err != nil {
		return errors.New(yaml.FormatError(err, false, true))
	}
	return nil
}

// Redacted is a copy without the secrets, for people and logs.
func (c Config) Redacted() Config {
	hide := func(s *string) {
		if *s != "" {
			*s = "xxxxx"
		}
	}
	hide(&c.Web.Token)
	hide(&c.Redis.Password)
	hide(&c.Redis.SentinelPassword)
	c.Web.WebRTC.ICEServers = slices.Clone(c.Web.WebRTC.ICEServers)
	for i, u := range c.Web.WebRTC.ICEServers { // turn:user:password@host
		if at := strings.LastIndex(u, "@"); at >= 0 {
			scheme, _, _ := strings.Cut(u, ":")
			c.Web.WebRTC.ICEServers[i] = scheme + ":xxxxx" + u[at:]
		}
	}
	c.Redis.URL = media.RedactURL(c.Redis.URL)
	c.LLM.URL = media.RedactURL(c.LLM.URL)
	if u, err := url.Parse(c.Webhook.URL); err == nil && strings.Trim(u.Path, "/") != "" {
		u.Path, u.RawPath = "/xxxxx", "" // of chat services it is the secret
		c.Webhook.URL = u.String()
	}
	c.Webhook.URL = media.RedactURL(c.Webhook.URL)
	c.MQTT.URL = media.RedactURL(c.MQTT.URL)
	c.Web.Accounts = slices.Clone(c.Web.Accounts)
	for i := range c.Web.Accounts {
		hide(&c.Web.Accounts[i].PasswordHash)
	}
	c.Streams = slices.Clone(c.Streams)
	for i := range c.Streams {
		c.Streams[i].URL = media.RedactURL(c.Streams[i].URL)
	}
	return c
}

// ParseStream lays JSON or YAML keys of one stream over base, strictly.
func ParseStream(b []byte, base Stream) (Stream, error) {
	if err := yaml.UnmarshalWithOptions(b, (*plainStream)(&base), yaml.Strict()); err != nil {
		return base, errors.New(yaml.FormatError(err, false, true))
	}
	return base, nil
}

// plainStream is Stream without the method that starts from the defaults.
type plainStream Stream
