// Package chat renders a conversation into the text that a model was trained
// on, by the chat template that the model's own files bring.
//
// Templates are Jinja, rendered by gonja in the way the reference library
// renders them: white space around blocks trimmed, Python's string methods,
// its JSON, raise_exception, strftime_now, break and continue. One construct is
// beyond gonja's parser: a conditional expression inside brackets. New says so.
package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// ErrNoTemplate is returned by Load when the folder has no chat template.
var ErrNoTemplate = errors.New("chat: the model has no chat template")

// RefusedError is what a template says of a conversation that it cannot write.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "chat: template refused: " + e.Reason }

// Part is one piece of a message that mixes media.
type Part struct {
	// Type is "text", "image" or "video".
	Type string
	// Text is only for "text".
	Text string
}

// Message is one turn. Language models' templates read Text; templates of
// models that see read Parts.
type Message struct {
	Role  string
	Text  string
	Parts []Part
}

// Options of one rendering.
type Options struct {
	// Generate ends the text where the model's answer begins.
	Generate bool
	// Extra are further variables of the template.
	Extra map[string]any
	// Now is the time that strftime_now tells. It defaults to time.Now.
	Now func() time.Time
}

// Template is a compiled chat template. It is safe for concurrent use.
type Template struct {
	t        *exec.Template
	bos, eos string
}

// New compiles a template. bos and eos are what bos_token and eos_token spell.
func New(source, bos, eos string) (t *Template, err error) {
	defer catch(&err)
	const name = "/chat"
	loader, err := loaders.NewMemoryLoader(map[string]string{name: source})
	if err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	c := config.New()
	c.TrimBlocks, c.LeftStripBlocks = true, true
	tpl, err := exec.NewTemplate(name, c, loader, environment)
	if err != nil {
		return nil, fmt.Errorf("chat: compile the template: %w", err)
	}
	return &Template{tpl, bos, eos}, nil
}

// Load finds the template among a model's files: chat_template.jinja,
// chat_template.json, or the entry in tokenizer_config.json.
func Load(dir string) (*Template, error) {
	var tc struct {
		ChatTemplate json.RawMessage `json:"chat_template"`
		BOS          json.RawMessage `json:"bos_token"`
		EOS          json.RawMessage `json:"eos_token"`
	}
	if err := readJSON(filepath.Join(dir, "tokenizer_config.json"), &tc); err != nil {
		return nil, err
	}
	source := ""
	data, err := os.ReadFile(filepath.Join(dir, "chat_template.jinja"))
	if err == nil {
		source = string(data)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("chat: %w", err)
	}
	if source == "" {
		var f struct {
			ChatTemplate json.RawMessage `json:"chat_template"`
		}
		if err := readJSON(filepath.Join(dir, "chat_template.json"), &f); err != nil {
			return nil, err
		}
		if source = named(f.ChatTemplate); source == "" {
			source = named(tc.ChatTemplate)
		}
	}
	if source == "" {
		return nil, fmt.Errorf("%w (%s)", ErrNoTemplate, dir)
	}
	return New(source, spelled(tc.BOS), spelled(tc.EOS))
}

func readJSON(path string, to any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		return fmt.Errorf("chat: %s: %w", filepath.Base(path), err)
	}
	return nil
}

// named reads a template, or the one called default of several.
func named(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var list []struct{ Name, Template string }
	if json.Unmarshal(raw, &list) == nil {
		for _, t := range list {
			if t.Name == "default" {
				return t.Template
			}
		}
	}
	return ""
}

// spelled reads a token: its text, or an object with it.
func spelled(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var o struct{ Content string }
	_ = json.Unmarshal(raw, &o) // null: no token
	return o.Content
}

// Render writes the conversation. A template that refuses it (roles that do
// not alternate, say) gives a RefusedError.
func (t *Template) Render(messages []Message, opt Options) (text string, err error) {
	defer catch(&err)
	now := opt.Now
	if now == nil {
		now = time.Now
	}
	turns := make(list, len(messages))
	for i, m := range messages {
		turns[i] = m.value()
	}
	vars := map[string]any{
		"messages": turns, "add_generation_prompt": opt.Generate, "bos_token": t.bos, "eos_token": t.eos,
		"tools": nil, "documents": nil,
		"strftime_now": func(format string) string { return strftime(now(), format) },
	}
	for k, v := range opt.Extra {
		vars[k] = v
	}
	text, err = t.t.ExecuteToString(exec.NewContext(vars))
	if err != nil {
		var refused *RefusedError
		if errors.As(err, &refused) {
			return "", refused
		}
		// The library joins errors as text.
		if _, reason, ok := strings.Cut(err.Error(), refusal); ok {
			reason, _, _ = strings.Cut(reason, refusal)
			return "", &RefusedError{reason}
		}
		return "", fmt.Errorf("chat: render: %w", err)
	}
	return text, nil
}

func (m Message) value() any {
	if m.Parts == nil {
		return map[string]any{"role": m.Role, "content": m.Text}
	}
	parts := make(list, len(m.Parts))
	for i, p := range m.Parts {
		part := map[string]any{"type": p.Type}
		if p.Type == "text" {
			part["text"] = p.Text
		}
		parts[i] = part
	}
	return map[string]any{"role": m.Role, "content": parts}
}

// catch turns a panic of the template library into an error: templates come
// from outside.
func catch(err *error) {
	if e := recover(); e != nil {
		*err = fmt.Errorf("chat: template: %v", e)
	}
}
