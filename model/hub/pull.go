package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// manifest is written last, beside the files: a folder without it is not whole.
const manifest = ".hub.json"

// part is the suffix of a file on its way.
const part = ".part"

// File is one file of a pulled model.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// SHA256 is of the content; Git is the blob's id, for files the hub keeps
	// outside of its large file storage. One of the two is set by the hub.
	SHA256 string `json:"sha256,omitempty"`
	Git    string `json:"git,omitempty"`
}

type record struct {
	Repo, Revision, Commit string
	Files                  []File
}

// Pull brings a model into o.Dir and returns its folder. What is there already
// and right is kept; with HF_HUB_OFFLINE set a model that was pulled whole is
// checked and given.
func Pull(ctx context.Context, ref Ref, o Options) (dir string, err error) {
	if err := o.defaults(); err != nil {
		return "", err
	}
	dir = Path(o.Dir, ref)
	defer func() {
		if err != nil {
			err = fmt.Errorf("pull %s: %w", ref, err)
		}
	}()
	if offline() {
		if have, err := load(dir); err != nil || have.Revision != ref.Revision && have.Commit != ref.Revision {
			return "", fmt.Errorf("%w: HF_HUB_OFFLINE is set, and %s has not been pulled: unset it, or pull once with a network", ErrOffline, ref)
		}
		return dir, Verify(ctx, dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	rec, err := list(ctx, ref, &o)
	if err != nil {
		return "", err
	}
	todo, bytes, err := missing(ctx, dir, rec.Files, &o)
	if err != nil {
		return "", err
	}
	free, err := o.free(dir)
	if err != nil {
		return "", fmt.Errorf("look at the disk: %w", err)
	}
	const margin = 64 << 20 // so that the machine can go on
	if bytes > 0 && uint64(bytes)+margin > free {
		return "", fmt.Errorf("%w: %d MB to download, %d MB free at %s: make room, or choose another folder or a smaller precision", ErrNoSpace, bytes>>20, free>>20, o.Dir)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(o.Parallel)
	for _, f := range todo {
		group.Go(func() error { return fetch(gctx, dir, rec, f, &o) })
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	return dir, save(dir, rec)
}

// Verify checks every file of a pulled model against the hashes that the hub
// gave, and names all that are wrong.
func Verify(ctx context.Context, dir string) error {
	rec, err := load(dir)
	if err != nil {
		return fmt.Errorf("hub: %s was not pulled whole (%w): pull it again", dir, err)
	}
	var bad []error
	for _, f := range rec.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := check(filepath.Join(dir, filepath.FromSlash(f.Name)), f); err != nil {
			bad = append(bad, err)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("verify %s: %w: pull it again", rec.Repo, errors.Join(bad...))
	}
	return nil
}

func load(dir string) (*record, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifest))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", manifest, err)
	}
	for _, f := range r.Files {
		if !local(f.Name) {
			return nil, fmt.Errorf("%s names %q", manifest, f.Name)
		}
	}
	return &r, nil
}

func save(dir string, r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, manifest+part)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return full(err)
	}
	return os.Rename(tmp, filepath.Join(dir, manifest))
}

// local reports whether a name from outside stays within the model's folder.
func local(name string) bool {
	return name != manifest && filepath.IsLocal(filepath.FromSlash(name)) && !strings.Contains(name, "\\")
}

// entry is a file in the hub's tree listing.
type entry struct {
	Type, Path, OID string
	Size            int64
	LFS             *struct {
		OID  string
		Size int64
	}
}

// list asks for the revision's commit and the files that are wanted, page by
// page.
func list(ctx context.Context, ref Ref, o *Options) (*record, error) {
	r := &record{Repo: ref.Repo, Revision: ref.Revision}
	var info struct{ SHA string }
	api := o.Endpoint + "/api/models/" + ref.Repo
	if _, err := getJSON(ctx, o, api+"/revision/"+url.PathEscape(ref.Revision), &info); err != nil {
		return nil, err
	}
	// From here on one commit, whatever is pushed meanwhile.
	if r.Commit = info.SHA; r.Commit == "" {
		r.Commit = ref.Revision
	}
	next := api + "/tree/" + url.PathEscape(r.Commit) + "?recursive=true"
	var all []entry
	for pages := 0; next != ""; pages++ {
		if pages == 1000 {
			return nil, fmt.Errorf("%w: the listing has no end", ErrUnavailable)
		}
		var page []entry
		link, err := getJSON(ctx, o, next, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		next = link
	}
	var err error
	if r.Files, err = choose(all, o.Files); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(r.Files, func(f File) bool { return strings.HasSuffix(f.Name, ".onnx") }) {
		return nil, fmt.Errorf("%w: %s has no ONNX files: choose a repository with an onnx folder", ErrNotFound, ref)
	}
	return r, nil
}

// choose gives the files of a listing that are wanted. Names and sizes come
// from outside: one that would leave the model's folder is an error.
func choose(all []entry, wanted func([]string) ([]string, error)) ([]File, error) {
	var names []string
	for _, e := range all {
		if e.Type == "file" {
			names = append(names, e.Path)
		}
	}
	names, err := wanted(names)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range all {
		if e.Type != "file" || !slices.Contains(names, e.Path) {
			continue
		}
		f := File{Name: e.Path, Size: e.Size, Git: e.OID}
		if e.LFS != nil {
			f.Git, f.SHA256, f.Size = "", strings.TrimPrefix(e.LFS.OID, "sha256:"), e.LFS.Size
		}
		if !local(f.Name) || f.Size < 0 {
			return nil, fmt.Errorf("hub: the repository lists a file %q of %d bytes", f.Name, f.Size)
		}
		files = append(files, f)
	}
	return files, nil
}

var nextLink = func(h string) string {
	for _, l := range strings.Split(h, ",") {
		target, rel, ok := strings.Cut(l, ";")
		if ok && strings.Contains(rel, `rel="next"`) {
			return strings.Trim(strings.TrimSpace(target), "<>")
		}
	}
	return ""
}

// getJSON reads a page of the API and gives the link to the next.
func getJSON(ctx context.Context, o *Options, address string, to any) (string, error) {
	link := ""
	err := retry(ctx, o, func() error {
		resp, err := get(ctx, o, address, "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := status(resp); err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
		if err != nil {
			return passing{fmt.Errorf("%w: %w", ErrUnavailable, err), 0}
		}
		if err := json.Unmarshal(data, to); err != nil {
			return fmt.Errorf("hub: %s answered no JSON (is it a hub?): %w", o.Endpoint, err)
		}
		link = nextLink(resp.Header.Get("Link"))
		if link != "" {
			base, err := url.Parse(address)
			if err != nil {
				return err
			}
			u, err := base.Parse(link)
			if err != nil || u.Host != base.Host {
				return fmt.Errorf("hub: the listing goes on elsewhere: %q", link)
			}
			link = u.String()
		}
		return nil
	})
	return link, err
}

// get sends one request. The token goes to the endpoint's host only.
func get(ctx context.Context, o *Options, address, ranged string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+o.Token)
	}
	if ranged != "" {
		req.Header.Set("Range", ranged)
	}
	req.Header.Set("Accept-Encoding", "identity") // sizes and ranges are of the file itself
	client := *o.Client
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("too many redirects")
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("redirected from https to plain http")
		}
		if req.URL.Host != via[0].URL.Host { // another port is another host, too
			req.Header.Del("Authorization")
		}
		return nil
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, passing{fmt.Errorf("%w: %w", ErrUnavailable, err), 0}
	}
	return resp, nil
}

// passing is a fault that may pass, after a wait that the server asked for.
type passing struct {
	error
	after time.Duration
}

func (p passing) Unwrap() error { return p.error }

// status turns an answer into an error, or nil.
func status(resp *http.Response) error {
	switch c := resp.StatusCode; {
	case c == http.StatusOK || c == http.StatusPartialContent:
		return nil
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		return fmt.Errorf("%w (%s): the model is private or gated, or does not exist: accept its terms on its page, and set HF_TOKEN to a token that may read it", ErrUnauthorized, resp.Status)
	case c == http.StatusNotFound:
		return fmt.Errorf("%w (%s): check the name and the revision", ErrNotFound, resp.Status)
	case c == http.StatusTooManyRequests || c == http.StatusRequestTimeout || c >= 500:
		after := time.Duration(0)
		if h := resp.Header.Get("Retry-After"); h != "" {
			if s, err := strconv.Atoi(h); err == nil {
				after = time.Duration(s) * time.Second
			} else if at, err := http.ParseTime(h); err == nil {
				after = time.Until(at)
			}
		}
		return passing{fmt.Errorf("%w: %s", ErrUnavailable, resp.Status), after}
	}
	return fmt.Errorf("hub: unexpected answer %s", resp.Status)
}

// retry calls f until it succeeds, fails for good, or has failed too often in
// a row. A call that made headway (progressed) counts as the first again.
func retry(ctx context.Context, o *Options, f func() error) error {
	wait := o.Backoff
	for try := 0; ; try++ {
		err := f()
		var p passing
		if err == nil || !errors.As(err, &p) {
			return err
		}
		var moved progressed
		if errors.As(err, &moved) {
			try, wait = 0, o.Backoff
		}
		if try >= o.Retries {
			return fmt.Errorf("%w (%d tries)", err, try+1)
		}
		const longest = 5 * time.Minute
		pause := min(max(wait, p.after), longest)
		wait = min(2*wait, time.Minute)
		if err := o.sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// progressed marks an interrupted transfer that had brought something.
type progressed struct{ error }

func (p progressed) Unwrap() error { return p.error }

// missing gives the files that are not there whole, and how many bytes they
// will take.
func missing(ctx context.Context, dir string, files []File, o *Options) ([]File, int64, error) {
	var todo []File
	var bytes int64
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		p := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := check(p, f); err == nil {
			o.Progress(Progress{f.Name, f.Size, f.Size, f.Size})
			continue
		}
		bytes += f.Size
		if st, err := os.Stat(p + part); err == nil {
			bytes -= min(st.Size(), f.Size)
		}
		todo = append(todo, f)
	}
	return todo, bytes, nil
}

// hasher makes the hash that f names.
func hasher(f File) (hash.Hash, string) {
	if f.SHA256 != "" {
		return sha256.New(), f.SHA256
	}
	h := sha1.New() // git's, for small files: an id, not a defence
	fmt.Fprintf(h, "blob %d\x00", f.Size)
	return h, f.Git
}

// check compares a file with its size and hash.
func check(path string, f File) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if st.Size() != f.Size {
		return fmt.Errorf("%w: %s has %d bytes, not %d", ErrHash, f.Name, st.Size(), f.Size)
	}
	h, want := hasher(f)
	if _, err := io.Copy(h, in); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); want != "" && got != want {
		return fmt.Errorf("%w: %s is %s, not %s", ErrHash, f.Name, got, want)
	}
	return nil
}

// fetch brings one file: into a .part file that grows across interruptions,
// checked, then renamed.
func fetch(ctx context.Context, dir string, rec *record, f File, o *Options) error {
	final := filepath.Join(dir, filepath.FromSlash(f.Name))
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return full(err)
	}
	segments := strings.Split(f.Name, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	address := o.Endpoint + "/" + rec.Repo + "/resolve/" + url.PathEscape(rec.Commit) + "/" + strings.Join(segments, "/")
	tmp := final + part
	again := false // a wrong hash is tried once more from the beginning
	for {
		if err := retry(ctx, o, func() error { return transfer(ctx, address, tmp, f, o) }); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		err := check(tmp, f)
		if err == nil {
			return os.Rename(tmp, final)
		}
		if !errors.Is(err, ErrHash) {
			return err
		}
		if rm := os.Remove(tmp); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			return rm
		}
		if again {
			return fmt.Errorf("%w: twice: the mirror or a proxy changes files, or the disk is broken", err)
		}
		again = true
	}
}

// transfer appends to tmp what is still missing of f.
func transfer(ctx context.Context, address, tmp string, f File, o *Options) error {
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return full(err)
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have > f.Size {
		if have, err = 0, out.Truncate(0); err != nil {
			return err
		}
	}
	if have == f.Size { // ended between the last byte and the rename, or empty
		o.Progress(Progress{f.Name, have, f.Size, have})
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ranged := ""
	if have > 0 {
		ranged = fmt.Sprintf("bytes=%d-", have)
	}
	resp, err := get(ctx, o, address, ranged)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		if err := out.Truncate(0); err != nil {
			return err
		}
		return passing{fmt.Errorf("%w: %s", ErrUnavailable, resp.Status), 0}
	case resp.StatusCode == http.StatusPartialContent:
		if from, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)); !ok {
			return passing{fmt.Errorf("%w: asked for bytes from %d, got %q", ErrUnavailable, have, from), 0}
		}
	case resp.StatusCode == http.StatusOK:
		have = 0 // this server gives no ranges
		if err := out.Truncate(0); err != nil {
			return err
		}
	default:
		return status(resp)
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return err
	}
	stalled := errors.New("the transfer stands still")
	timer := time.AfterFunc(o.Stall, func() { cancel(stalled) })
	defer timer.Stop()
	kept, done := have, have
	buf := make([]byte, 256<<10)
	for {
		n, rerr := resp.Body.Read(buf)
		if done+int64(n) > f.Size {
			return fmt.Errorf("%w: %s is longer than the %d bytes that were listed", ErrHash, f.Name, f.Size)
		}
		if n > 0 {
			timer.Reset(o.Stall)
			if _, err := out.Write(buf[:n]); err != nil {
				return full(err)
			}
			done += int64(n)
			o.Progress(Progress{f.Name, done, f.Size, kept})
		}
		if errors.Is(rerr, io.EOF) && done == f.Size {
			if err := out.Sync(); err != nil { // before the rename that makes it count
				return full(err)
			}
			return out.Close()
		}
		if rerr != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, stalled) {
				return cause
			} else if cause != nil {
				rerr = cause
			}
			err := fmt.Errorf("%w: after %d of %d bytes: %w", ErrUnavailable, done, f.Size, rerr)
			if done > have {
				err = progressed{err}
			}
			return passing{err, 0}
		}
	}
}

// full names the disk when it is what failed.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w: make room, then pull again: it goes on where it stopped", ErrNoSpace, err)
	}
	return err
}
