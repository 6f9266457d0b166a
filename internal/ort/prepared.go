package ort

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lookout-video/lookout/internal/ort/kernels"

	ortgo "github.com/yalue/onnxruntime_go"
)

// Before it runs a graph the library rewrites it. That is done once a machine:
// the result is kept as a folder of the graph and, in a file beside it, its
// weights, which are mapped and not copied: loading costs a third of what it
// would, and processes share the memory. The weights as the CPU's kernels pack
// them could be kept too, for little more; but the library then maps them where
// they happen to lie in the file, and kernels that want them at multiples of 64
// bytes crash (ONNX Runtime 1.24.4, save_external_prepacked_constant_initializers).
const (
	preparedGraph   = "graph.onnx"
	preparedWeights = "weights"
	// unfinished is how folders are called that are being written.
	unfinished = "prepare-"
)

// load builds the session, from the graph prepared for this machine if there
// is one or one can be made, else from the source.
func (e *Env) load(src Source, s *Session, size int64, beside []string) (*ortgo.DynamicAdvancedSession, error) {
	keep := e.place(src, s, beside)
	if keep != "" {
		if built, err := e.kept(keep, s); err == nil {
			now := time.Now()
			_ = os.Chtimes(keep, now, now) // tells prune that it is in use
			return built, nil
		}
		os.RemoveAll(keep) // damaged, if it is there
	}
	src, err := apart(src)
	if err == nil && e.own && src.Path == "" {
		src.Data, err = withoutBodies(src.Data)
	}
	if err != nil {
		return nil, err
	}
	if keep != "" {
		err := e.prepare(src, s, keep, size)
		built, missing := e.kept(keep, s)
		if err = cmp.Or(err, missing); err != nil {
			e.cfg.Logger.Warn("cannot keep a prepared graph: the next start is as slow, and answers may be slower", "model", src.Name, "err", err)
		}
		if missing == nil {
			return built, nil
		}
	}
	return e.unkept(src, s)
}

// unkept builds the session from the source, of which nothing prepared is kept.
func (e *Env) unkept(src Source, s *Session) (*ortgo.DynamicAdvancedSession, error) {
	if s.last != "" && src.Path == "" {
		var err error
		if src.Data, err = lastRow(src.Data, s.last); err != nil {
			return nil, err
		}
		_, outputs, _, err := readGraph(src.Data)
		if err != nil {
			return nil, err
		}
		adopt(s.Outputs, outputs)
	}
	return e.build(src, ortgo.GraphOptimizationLevelEnableAll, "", s)
}

// place is the folder of the graph prepared from src, empty when none can be told
// from others.
func (e *Env) place(src Source, s *Session, beside []string) string {
	if e.cfg.CacheDir == "" {
		return ""
	}
	id := src.Hash
	if id == "" && src.Path != "" {
		var err error
		if id, err = fingerprint(append([]string{src.Path}, beside...)); err != nil {
			return "" // loading it tells why
		}
	}
	if id == "" {
		return ""
	}
	if s.halves {
		id += " halves"
	}
	if s.last != "" {
		id += " last " + s.last
	}
	return filepath.Join(e.cfg.CacheDir, preparedName(id, e.Version(), e.Device()))
}

// most is how many bytes may be kept: no more than a quarter of what the disk would
// have free without them.
func (e *Env) most() (int64, error) {
	_, kept, err := entries(e.cfg.CacheDir)
	if err != nil {
		return 0, err
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(e.cfg.CacheDir, &disk); err != nil {
		return 0, err
	}
	return min(e.cfg.CacheBytes, (int64(disk.Bavail)*disk.Bsize+kept)/4), nil
}

// prepare has the library rewrite the graph and puts what it made into the folder
// keep, in one step: what is there is whole.
func (e *Env) prepare(src Source, s *Session, keep string, size int64) error {
	if err := os.MkdirAll(e.cfg.CacheDir, 0o755); err != nil {
		return err
	}
	most, err := e.most()
	if err != nil {
		return err
	}
	if size > most/2 { // no room for others
		return fmt.Errorf("it has %d MB, and %s room for %d MB", size>>20, e.cfg.CacheDir, most/2>>20)
	}
	if err := prune(e.cfg.CacheDir, most-size, keep); err != nil {
		return err
	}
	if size >= small {
		e.cfg.Logger.Info("preparing a graph for this machine, once: the next start is quicker", "model", src.Name, "mb", size>>20)
	}
	tmp, err := os.MkdirTemp(e.cfg.CacheDir, unfinished)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	built, err := e.build(src, ortgo.GraphOptimizationLevelEnableAll, filepath.Join(tmp, preparedGraph), s)
	if err != nil {
		return err
	}
	free(built)
	if err := quicken(tmp, e.cuda, e.own, s.halves, s.last); err != nil {
		return err
	}
	for _, name := range []string{preparedGraph, preparedWeights} {
		if err := settle(filepath.Join(tmp, name)); err != nil && !os.IsNotExist(err) { // a small graph has no weights beside it
			return err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, keep); err != nil {
		if _, there := os.Stat(keep); there != nil { // else another process was faster
			return err
		}
	}
	return prune(e.cfg.CacheDir, most, keep)
}

// kept builds the session from the folder of a prepared graph.
func (e *Env) kept(keep string, s *Session) (_ *ortgo.DynamicAdvancedSession, err error) {
	defer func() { s.team = s.team && err == nil }() // what is built in its place has the library's threads
	path := filepath.Join(keep, preparedGraph)
	if e.own && s.threads > 1 && s.threads == e.cfg.Threads {
		model, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		ours, err := onlyOurs(model)
		if err != nil {
			return nil, err
		}
		s.team = ours && kernels.StartTeam(s.threads)
	}
	built, err := e.build(Source{Path: path}, ortgo.GraphOptimizationLevelDisableAll, "", s)
	if err != nil || !s.halves && s.last == "" {
		return built, err
	}
	inputs, outputs, _, err := readGraphFile(path)
	if err != nil {
		free(built)
		return nil, err
	}
	adopt(s.Inputs, inputs)
	adopt(s.Outputs, outputs)
	return built, nil
}

// adopt gives values the types and shapes that they have in the prepared graph.
func adopt(list, prepared []Info) {
	for i, v := range list {
		if at, err := find(prepared, v.Name); err == nil {
			list[i] = prepared[at]
		}
	}
}

// settle waits until a file is on the disk: a crash after the rename must not
// leave one of zeros.
func settle(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// entry is a prepared graph's folder, and all else that lies beside them.
type entry struct {
	path string
	used time.Time
	size int64
}

// entries lists what is kept, and its size.
func entries(dir string) (all []entry, total int64, err error) {
	list, err := os.ReadDir(dir)
	for _, d := range list {
		info, err := d.Info()
		if err != nil {
			continue // gone: another process prunes too
		}
		one := entry{path: filepath.Join(dir, d.Name()), used: info.ModTime(), size: info.Size()}
		files, _ := os.ReadDir(one.path) // none in what is a file
		for _, f := range files {
			if info, err := f.Info(); err == nil {
				one.size += info.Size()
			}
		}
		all, total = append(all, one), total+one.size
	}
	return all, total, err
}

// prune deletes the graphs that were not loaded for longest until no more than
// limit bytes are left, and what a crash left unfinished. It spares keep, and what
// another process writes.
func prune(dir string, limit int64, keep string) error {
	all, total, err := entries(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b entry) int { return a.used.Compare(b.used) })
	for _, one := range all {
		written := strings.HasPrefix(filepath.Base(one.path), unfinished)
		switch {
		case written && time.Since(one.used) < time.Hour, one.path == keep:
			continue
		case !written && total <= limit:
			continue
		}
		if err := os.RemoveAll(one.path); err != nil {
			return err
		}
		total -= one.size
	}
	return nil
}

// fingerprint tells one model from another without reading all of a large one,
// which would take as long as what is kept saves: by each file's size, date, and
// pieces from all over it. Two trainings of one model differ everywhere.
func fingerprint(paths []string) (string, error) {
	h := sha256.New()
	for _, p := range paths {
		if err := sample(h, p); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func sample(h hash.Hash, path string) error {
	const pieces, piece = 16, 64 << 10
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	fmt.Fprintln(h, size)
	if size <= pieces*piece {
		_, err := io.Copy(h, f)
		return err
	}
	fmt.Fprintln(h, fi.ModTime().UnixNano())
	for i := range int64(pieces) {
		if _, err := io.Copy(h, io.NewSectionReader(f, i*(size-piece)/(pieces-1), piece)); err != nil {
			return err
		}
	}
	return nil
}

// preparedName is the name of a graph prepared by this library on this kind of
// machine: layouts chosen for one CPU are wrong for another.
func preparedName(id, version, device string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{"14", id, version, device, cpuID()}, "\n")))
	return hex.EncodeToString(sum[:12])
}

// cpuID is the model and the instruction sets of the first CPU.
var cpuID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	first, _, _ := strings.Cut(string(b), "\n\n")
	var id []string
	for line := range strings.Lines(first) {
		for _, key := range []string{"model name", "flags", "Features", "CPU part"} {
			if strings.HasPrefix(line, key) {
				id = append(id, line)
			}
		}
	}
	return strings.Join(id, "")
})
