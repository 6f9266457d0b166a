// Package hub downloads a public model's files from a model hub, whole or not
// at all: what is interrupted goes on where it stopped, and nothing is used
// before its hash is right.
package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lookout-video/lookout/model"
)

// DefaultEndpoint is used when neither Options nor HF_ENDPOINT names another.
const DefaultEndpoint = "https://huggingface.co"

// Errors that callers tell apart. Each comes wrapped with the model's name and
// what to do.
var (
	// ErrNotFound: no such repository, revision or file.
	ErrNotFound = errors.New("hub: not found")
	// ErrUnauthorized: a private or gated model, or a bad token.
	ErrUnauthorized = errors.New("hub: not allowed")
	// ErrOffline: HF_HUB_OFFLINE is set.
	ErrOffline = errors.New("hub: offline")
	// ErrNoSpace: the disk is too full for the files.
	ErrNoSpace = errors.New("hub: not enough disk space")
	// ErrHash: a file is not what the hub says it is.
	ErrHash = errors.New("hub: wrong hash")
	// ErrUnavailable: the hub kept failing.
	ErrUnavailable = errors.New("hub: unavailable")
)

// Ref names a model: OWNER/NAME at a revision, or a short name of Registry.
type Ref struct {
	Repo     string
	Revision string
}

var repoForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ParseRef reads NAME, or OWNER/NAME, each with an optional @REVISION.
func ParseRef(s string) (Ref, error) {
	name, rev, _ := strings.Cut(s, "@")
	if e, ok := Lookup(name); ok {
		name = e.Repo
	}
	if rev == "" {
		rev = "main"
	}
	if !repoForm.MatchString(name) || strings.Contains(name, "..") || strings.ContainsAny(rev, "?#%\\ ") || strings.Contains(rev, "..") {
		return Ref{}, fmt.Errorf("hub: %q is no model: want one of %s, or OWNER/NAME[@REVISION]", s, strings.Join(Names(), ", "))
	}
	return Ref{name, rev}, nil
}

func (r Ref) String() string { return r.Repo + "@" + r.Revision }

// Options of Pull. The zero value is ready to use.
type Options struct {
	// Dir is where models lie, each in OWNER--NAME. It is required.
	Dir string
	// Endpoint is the hub, or a mirror of it.
	// It defaults to $HF_ENDPOINT, then DefaultEndpoint.
	Endpoint string
	// Token is sent to the endpoint only, never to the storage it redirects to.
	// It defaults to $HF_TOKEN.
	Token string
	// Files chooses which of a repository's files come.
	// It defaults to Needed("", false).
	Files func(names []string) ([]string, error)
	// Parallel is how many files come at once. It defaults to 4.
	Parallel int
	// Retries is how often one request is tried again after a fault that may
	// pass. It defaults to 5.
	Retries int
	// Backoff is the first wait between tries; it doubles.
	// It defaults to 1 second.
	Backoff time.Duration
	// Stall is how long a transfer may stand still. It defaults to 30 seconds.
	Stall time.Duration
	// Progress is told of each file as it grows. It may be called from several
	// goroutines at once.
	Progress func(Progress)
	// Client makes the requests. It defaults to one that bounds connecting.
	Client *http.Client

	free  func(dir string) (uint64, error)
	sleep func(ctx context.Context, d time.Duration) error
}

// Progress is how far one file is.
type Progress struct {
	File        string
	Done, Total int64
	// Kept is what was there already.
	Kept int64
}

// graphFile reads a graph's name, its precision and its external data.
var graphFile = regexp.MustCompile(`^(?:onnx/)?(vision_encoder|embed_tokens|decoder_model_merged|decoder_with_past_model|decoder_model|vision_model|text_model|model)(?:_(fp16|q4|q4f16|int8|uint8|quantized|bnb4))?\.onnx(?:_data(?:_\d+)?)?$`)

// Needed chooses what running a model needs: JSON, templates, licence, and each
// graph in one precision. "" or "auto" takes of those that are there what Lookout
// runs best (model.Prefer): q4 on a CPU, fp16 on a GPU, fp32 without them.
// Another precision is an error where a graph lacks it.
func Needed(precision string, gpu bool) func([]string) ([]string, error) {
	return func(names []string) ([]string, error) {
		have := map[string][]string{} // precisions by graph
		for _, n := range names {
			if m := graphFile.FindStringSubmatch(n); m != nil {
				have[m[1]] = append(have[m[1]], cmp.Or(m[2], "fp32"))
			}
		}
		// One decoder is enough, under the first of these names.
		if len(have["decoder_model_merged"]) > 0 {
			delete(have, "decoder_with_past_model")
			delete(have, "decoder_model")
		}
		if len(have["decoder_model_merged"])+len(have["decoder_with_past_model"])+len(have["text_model"]) > 0 {
			delete(have, "model")
		}
		pick := map[string]string{}
		for graph, all := range have {
			pick[graph] = precision
			if precision == "" || precision == "auto" {
				pick[graph] = model.Prefer(all, gpu)
			} else if !slices.Contains(all, precision) {
				slices.Sort(all)
				return nil, fmt.Errorf("%w: %s has no precision %s; there is %s", ErrNotFound, graph, precision, strings.Join(slices.Compact(all), ", "))
			}
		}
		var wanted []string
		for _, n := range names {
			m := graphFile.FindStringSubmatch(n)
			switch {
			case m != nil && pick[m[1]] == cmp.Or(m[2], "fp32"), m == nil && isText(n):
				wanted = append(wanted, n)
			}
		}
		return wanted, nil
	}
}

// isText tells whether a file beside the graphs is one that a model needs.
func isText(name string) bool {
	dir, base := path.Split(name)
	return dir == "" && (slices.Contains([]string{".json", ".jinja", ".txt", ".md"}, path.Ext(base)) || strings.HasPrefix(base, "LICENSE"))
}

// Path is the folder of a model under dir.
func Path(dir string, ref Ref) string {
	return filepath.Join(dir, strings.ReplaceAll(ref.Repo, "/", "--"))
}

func (o *Options) defaults() error {
	if o.Dir == "" {
		return errors.New("hub: no folder to put models in")
	}
	if o.Endpoint == "" {
		o.Endpoint = os.Getenv("HF_ENDPOINT")
	}
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	if o.Token == "" {
		o.Token = os.Getenv("HF_TOKEN")
	}
	if o.Files == nil {
		o.Files = Needed("", false)
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.Retries <= 0 {
		o.Retries = 5
	}
	if o.Backoff <= 0 {
		o.Backoff = time.Second
	}
	if o.Stall <= 0 {
		o.Stall = 30 * time.Second
	}
	if o.Client == nil {
		o.Client = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: 30 * time.Second, TLSHandshakeTimeout: 15 * time.Second, MaxIdleConnsPerHost: o.Parallel,
		}}
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.free == nil {
		o.free = freeSpace
	}
	if o.sleep == nil {
		o.sleep = sleep
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// offline reads the hub's usual switch.
func offline() bool {
	switch strings.ToLower(os.Getenv("HF_HUB_OFFLINE")) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}
