package ort

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"github.com/lookout-video/lookout/internal/ort/kernels"

	ortgo "github.com/yalue/onnxruntime_go"
)

// Source is a model: a file, or bytes that are in memory already. A model with
// external data must be a file.
type Source struct {
	// Name names it in errors.
	Name string
	// Path is the file; Data is used when it is empty.
	Path string
	Data []byte
	// Hash identifies the content and is the key of the prepared graph. Empty:
	// a file is told by its size, date and pieces of it, and of Data nothing
	// prepared is kept.
	Hash string

	folder string // of the external data of Data
}

// Options of a Session.
type Options struct {
	// Outputs are the names that runs compute. It defaults to all.
	Outputs []string
	// Threads is how many threads one run uses. It defaults to one for a file
	// under 16 MB, whose operators are too short to share well (the embedded
	// encoder takes 4.8 ms with one thread, 3.4 ms with two on an idle machine
	// and twice that on a busy one), and to all of the Env's for larger ones.
	Threads int
	// HalfCache lets a language model keep keys and values in 16 bits where its file
	// has float32 and this machine gains by it: see the types of Inputs.
	HalfCache bool
	// LastRow is an output, [batch, rows, columns], of which only the last row is read:
	// no others are made where they are a product with weights. See the shape of Outputs.
	LastRow string
	// Stoppable lets Run be stopped in the middle, at the cost of a goroutine for each
	// Binding. Files of 16 MB and more always are.
	Stoppable bool
}

// small is the size in bytes under which one thread is enough, and a run too
// short to be stopped.
const small = 16 << 20

// Session is a loaded graph. Its bindings may run from many goroutines.
type Session struct {
	// Inputs and Outputs are in the graph's order.
	Inputs, Outputs []Info

	env     *Env
	name    string
	threads int
	stops   bool
	halves  bool
	last    string
	team    bool // the threads are the process's team in place of the library's
	s       *ortgo.DynamicAdvancedSession

	mu       sync.Mutex
	bindings map[*Binding]struct{}
	closed   bool
}

// NewSession loads a graph.
func (e *Env) NewSession(src Source, opt Options) (*Session, error) {
	if src.Name == "" {
		src.Name = filepath.Base(src.Path)
	}
	s := &Session{env: e, name: src.Name, bindings: map[*Binding]struct{}{}}
	var err error
	var beside []string // files with weights
	if src.Path != "" {
		s.Inputs, s.Outputs, beside, err = readGraphFile(src.Path)
	} else {
		s.Inputs, s.Outputs, beside, err = readGraph(src.Data)
	}
	if err != nil {
		return nil, fmt.Errorf("ort: read %s: %w", src.Name, err)
	}
	if len(opt.Outputs) > 0 {
		var outs []Info
		for _, n := range opt.Outputs {
			i, err := find(s.Outputs, n)
			if err != nil {
				return nil, fmt.Errorf("ort: %s has no output %q (it has %s)", src.Name, n, names(s.Outputs))
			}
			outs = append(outs, s.Outputs[i])
		}
		s.Outputs = outs
	}
	size := int64(len(src.Data))
	for i := range beside {
		beside[i] = filepath.Join(filepath.Dir(src.Path), beside[i])
	}
	if src.Path != "" {
		for _, path := range append([]string{src.Path}, beside...) {
			if fi, err := os.Stat(path); err == nil {
				size += fi.Size()
			}
		}
	}
	s.threads, s.stops = e.share(size, opt.Threads), opt.Stoppable || size >= small
	s.halves, s.last = opt.HalfCache, opt.LastRow
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	if s.s, err = e.load(src, s, size, beside); err != nil {
		return nil, fmt.Errorf("ort: load %s: %w", src.Name, err)
	}
	e.sessions[s] = struct{}{}
	return s, nil
}

// share is how many threads a run of a graph of this size takes when n are
// asked for, 0 for the default.
func (e *Env) share(size int64, n int) int {
	switch {
	case e.cuda:
		return 1
	case n <= 0 && size < small:
		return 1
	case n <= 0:
		n = e.cfg.Threads
	}
	return min(n, e.cfg.Threads)
}

// build makes the session. What the library prepares for it goes to the file
// keep, unless that is empty, and into another beside it.
func (e *Env) build(src Source, level ortgo.GraphOptimizationLevel, keep string, like *Session) (*ortgo.DynamicAdvancedSession, error) {
	o, err := ortgo.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer free(o)
	set := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	threads := like.threads
	if like.team {
		threads = 1
	}
	set(func() error { return o.SetIntraOpNumThreads(threads) })
	set(func() error { return o.SetInterOpNumThreads(1) })
	set(func() error { return o.SetGraphOptimizationLevel(level) })
	set(func() error { return o.SetLogSeverityLevel(ortgo.LoggingLevelFatal) })
	// Threads spin while a run lasts (half again as fast when kernels are small)
	// and stop with it, or they would burn the cores that decoding needs.
	set(func() error { return o.AddSessionConfigEntry("session.intra_op.allow_spinning", "1") })
	set(func() error { return o.AddSessionConfigEntry("session.force_spinning_stop", "1") })
	if keep != "" {
		set(func() error { return o.SetOptimizedModelFilePath(keep) })
		for _, c := range [][2]string{
			{"session.optimized_model_external_initializers_file_name", preparedWeights},
			{"session.optimized_model_external_initializers_min_size_in_bytes", "1024"},
		} {
			set(func() error { return o.AddSessionConfigEntry(c[0], c[1]) })
		}
	}
	if src.folder != "" {
		set(func() error {
			return o.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", src.folder)
		})
	}
	if e.own {
		set(func() error { return kernels.Register(e.library, handle(o), like.team) })
	}
	if err != nil {
		return nil, err
	}
	var s *ortgo.DynamicAdvancedSession
	create := func() error {
		var err error
		if src.Path != "" {
			s, err = ortgo.NewDynamicAdvancedSession(src.Path, nameList(like.Inputs), nameList(like.Outputs), o)
		} else {
			s, err = ortgo.NewDynamicAdvancedSessionWithONNXData(src.Data, nameList(like.Inputs), nameList(like.Outputs), o)
		}
		return err
	}
	if !e.cuda {
		return s, create()
	}
	err = keepSignals(func() error {
		if err := appendCUDA(o, e.gpu); err != nil {
			return err
		}
		return create()
	})
	return s, err
}

// handle is the library's own object behind o, whose one field it is: the
// bindings have no call that makes an operator known.
func handle(o *ortgo.SessionOptions) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(o)) }

// Name is the model's name, for errors.
func (s *Session) Name() string { return s.name }

// Input describes the input called name.
func (s *Session) Input(name string) (Info, error) {
	if i, err := find(s.Inputs, name); err == nil {
		return s.Inputs[i], nil
	}
	return Info{}, fmt.Errorf("ort: %s has no input %q (it has %s)", s.name, name, names(s.Inputs))
}

// Output describes the output called name.
func (s *Session) Output(name string) (Info, error) {
	if i, err := find(s.Outputs, name); err == nil {
		return s.Outputs[i], nil
	}
	return Info{}, fmt.Errorf("ort: %s has no output %q (it has %s)", s.name, name, names(s.Outputs))
}

// Close waits for the run in progress and frees the graph and its bindings.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	left := make([]*Binding, 0, len(s.bindings))
	for b := range s.bindings {
		left = append(left, b)
	}
	s.mu.Unlock()
	for _, b := range left {
		b.Close()
	}
	s.env.mu.Lock()
	delete(s.env.sessions, s)
	s.env.mu.Unlock()
	return s.s.Destroy()
}

func find(list []Info, name string) (int, error) {
	for i := range list {
		if list[i].Name == name {
			return i, nil
		}
	}
	return 0, errGraph
}

func nameList(list []Info) []string {
	n := make([]string, len(list))
	for i := range list {
		n[i] = list[i].Name
	}
	return n
}

func names(list []Info) string {
	n := nameList(list)
	if len(n) > 6 {
		n = append(n[:6:6], "...")
	}
	return strings.Join(n, ", ")
}
