// Package event defines what Lookout says to the outside: the versioned Event
// (a CloudEvents 1.0 envelope), its life cycle, the text deltas of an answer
// while it is generated, and the bounded fan-out to sinks and viewers.
package event

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lookout-video/lookout/media"
)

// Phase is a step in an event's life.
type Phase string

// An event starts once, may be updated, and ends once. Point marks an event
// without extent in time (an answer to a question, a status).
const (
	Start  Phase = "start"
	Update Phase = "update"
	End    Phase = "end"
	Point  Phase = "point"
)

// The event types, versioned: a change that breaks readers makes a new one.
const (
	TypeDescription = "video.lookout.description.v1"
	TypeAnswer      = "video.lookout.answer.v1"
	TypeAlert       = "video.lookout.alert.v1"
	TypeLabel       = "video.lookout.label.v1"
	TypeStatus      = "video.lookout.status.v1"
)

// Kind is the short name of an event type: "description" for
// "video.lookout.description.v1". It is empty for a foreign type.
func Kind(typ string) string {
	kind, ok := strings.CutPrefix(typ, "video.lookout.")
	if !ok {
		return ""
	}
	kind, _, _ = strings.Cut(kind, ".")
	return kind
}

// Event is one statement about a stream, in CloudEvents 1.0 JSON form
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
// Schema describes it.
type Event struct {
	SpecVersion     string    `json:"specversion"` // always "1.0"
	ID              string    `json:"id"`          // unique: Data.EventID, a dot, Data.Revision
	Source          string    `json:"source"`      // "/streams/<stream>"
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"` // the stream
	Time            time.Time `json:"time"`              // when the words were complete
	DataContentType string    `json:"datacontenttype"`   // "application/json"
	DataSchema      string    `json:"dataschema"`
	Data            Data      `json:"data"`
}

// New makes an event of one revision of a life, complete but for its Seq,
// which an Emitter gives it. A zero at is filled in by the Emitter too.
func New(typ string, at time.Time, d Data) *Event {
	return &Event{
		SpecVersion:     "1.0",
		ID:              d.EventID + "." + strconv.Itoa(d.Revision),
		Source:          "/streams/" + d.Stream,
		Type:            typ,
		Subject:         d.Stream,
		Time:            at,
		DataContentType: "application/json",
		DataSchema:      SchemaID,
		Data:            d,
	}
}

// NewID makes an event id: 26 characters that sort by the time of their making
// and never collide (48 bits of milliseconds, 80 random bits; a ULID).
func NewID() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails
	return idEncoding.EncodeToString(b[:])
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// Parse reads an event from JSON, as outputs wrote it. It refuses what is not
// an event: sinks and replays can rely on the stream, the ids and the phase.
func Parse(b []byte) (*Event, error) {
	ev := new(Event)
	if err := json.Unmarshal(b, ev); err != nil {
		return nil, fmt.Errorf("event: not an event: %w", err)
	}
	if err := ev.check(); err != nil {
		return nil, fmt.Errorf("event %q: %w", ev.ID, err)
	}
	return ev, nil
}

func (ev *Event) check() error {
	switch d := &ev.Data; {
	case ev.SpecVersion != "1.0":
		return fmt.Errorf("specversion is %q, want \"1.0\"", ev.SpecVersion)
	case Kind(ev.Type) == "":
		return fmt.Errorf("type %q is not one of Lookout's", ev.Type)
	case d.Stream == "" || d.EventID == "":
		return errors.New("data.stream or data.event_id is missing")
	case ev.ID != d.EventID+"."+strconv.Itoa(d.Revision):
		return fmt.Errorf("id is not event_id %q, a dot, revision %d", d.EventID, d.Revision)
	case d.Phase != Start && d.Phase != Update && d.Phase != End && d.Phase != Point:
		return fmt.Errorf("phase is %q, want start, update, end or point", d.Phase)
	}
	return nil
}

// Data is the payload shared by all event types; fields that do not apply to
// a type are absent.
type Data struct {
	Stream string `json:"stream"`
	// Seq grows by one with each event of the stream and is never reused, also
	// across restarts: outputs use it to refuse what they already have.
	Seq uint64 `json:"seq"`
	// EventID names the life that Phase belongs to.
	EventID  string `json:"event_id"`
	Revision int    `json:"revision"`
	Phase    Phase  `json:"phase"`
	Text     string `json:"text,omitempty"`
	// Probability is the calibrated probability of "yes", for yes/no questions
	// and alerts.
	Probability *float64   `json:"probability,omitempty"`
	Abstained   bool       `json:"abstained,omitempty"`
	Prompt      *Prompt    `json:"prompt,omitempty"`
	Labels      []Label    `json:"labels,omitempty"`
	Status      *Status    `json:"status,omitempty"`
	Evidence    []Evidence `json:"evidence,omitempty"`
	// Clip is where, below Lookout's address, a short video around an alert's
	// start is: from the moment that all of it has happened, as long as the
	// evidence is kept. It is empty where no clips are made.
	Clip    string   `json:"clip,omitempty"`
	Model   *Model   `json:"model,omitempty"`
	Latency *Latency `json:"latency,omitempty"`
	// Viewer is set on answers to one viewer's own question.
	Viewer string `json:"viewer,omitempty"`
}

// ClipPath is Data.Clip of an alert of the stream.
func ClipPath(stream, eventID string) string {
	return "/api/streams/" + url.PathEscape(stream) + "/clips/" + url.PathEscape(eventID)
}

// Prompt is the standing or ad-hoc request that the event answers.
type Prompt struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// Label is one zero-shot label with its probability and raw cosine.
type Label struct {
	Name        string  `json:"name"`
	Probability float64 `json:"probability"`
	Cosine      float64 `json:"cosine"`
}

// Status tells a change in a stream's health.
type Status struct {
	// State is one of connecting, live, reconnecting, ended, failed, degraded,
	// recovered, out_of_domain, in_domain, lost_events.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Fix tells the operator what to do about it.
	Fix   string `json:"fix,omitempty"`
	Count uint64 `json:"count,omitempty"`
}

// Evidence is a frame that the words rest on.
type Evidence struct {
	Capture time.Time `json:"capture"`
	MediaMS int64     `json:"media_ms"`
	RTP     uint32    `json:"rtp"`
	Frame   uint64    `json:"frame"`
}

// EvidenceAt makes the Evidence of a frame.
func EvidenceAt(at media.Timestamp, frame uint64) Evidence {
	return Evidence{Capture: at.Capture, MediaMS: at.Media.Milliseconds(), RTP: at.RTP, Frame: frame}
}

// Model names the weights that spoke.
type Model struct {
	Name string `json:"name"`
	Hash string `json:"hash"` // "sha256:" and the first 16 hex digits of the manifest
}

// Latency says where the time went, in milliseconds.
type Latency struct {
	DecodeMS     float64 `json:"decode_ms"`      // capture to decoded frame
	EncodeMS     float64 `json:"encode_ms"`      // visual encoder and temporal module
	FirstTokenMS float64 `json:"first_token_ms"` // prompt to first token
	GenerateMS   float64 `json:"generate_ms"`    // prompt to last token
	// GlassToWordMS is from the capture of the newest evidence frame to the
	// first piece of text.
	GlassToWordMS float64 `json:"glass_to_word_ms"`
}

// Delta is a piece of text on its way: the words of an event that is not
// complete yet. The event that follows carries the whole text.
type Delta struct {
	Stream   string   `json:"stream"`
	EventID  string   `json:"event_id"`
	Index    int      `json:"index"` // 0 for the first piece
	Text     string   `json:"text"`
	Done     bool     `json:"done,omitempty"`
	Prompt   *Prompt  `json:"prompt,omitempty"`
	Evidence Evidence `json:"evidence"` // the newest frame it rests on
	Viewer   string   `json:"viewer,omitempty"`
}
