package ort

import (
	"context"
	"errors"
	"unsafe"

	"github.com/lookout-video/lookout/internal/ort/kernels"

	ortgo "github.com/yalue/onnxruntime_go"
)

// The bindings can stop a run, and can run an IoBinding, but not both: their call for
// the former makes lists of all inputs and outputs in each run.

/*
#include <onnxruntime_c_api.h>

static OrtStatus *lookout_run(const OrtApi *api, void *session, void *options, void *binding) {
	return api->RunWithBinding(session, options, binding);
}

static const char *lookout_why(const OrtApi *api, OrtStatus *failed) { return api->GetErrorMessage(failed); }

static void lookout_release(const OrtApi *api, OrtStatus *failed) { api->ReleaseStatus(failed); }
*/
import "C"

// stopper runs what a context may stop, and allocates nothing for it. It has a goroutine
// that waits for the context's end while a run lasts.
type stopper struct {
	api                       *C.OrtApi
	session, options, binding unsafe.Pointer
	opts                      *ortgo.RunOptions

	begin chan context.Context
	end   chan struct{} // of the run
	told  chan bool     // whether it was told to stop
	gone  chan struct{}
}

func (b *Binding) newStopper() (*stopper, error) {
	api := (*C.OrtApi)(kernels.API(b.s.env.library))
	if api == nil {
		return nil, errors.New("the library is of another version")
	}
	opts, err := ortgo.NewRunOptions()
	if err != nil {
		return nil, err
	}
	// What the library made is the first field of what the bindings have of it.
	t := &stopper{
		api: api, session: **(**unsafe.Pointer)(unsafe.Pointer(b.s.s)), options: *(*unsafe.Pointer)(unsafe.Pointer(opts)),
		binding: *(*unsafe.Pointer)(unsafe.Pointer(b.io)), opts: opts,
		begin: make(chan context.Context), end: make(chan struct{}), told: make(chan bool), gone: make(chan struct{}),
	}
	go t.watch()
	return t, nil
}

func (t *stopper) watch() {
	defer close(t.gone)
	for ctx := range t.begin {
		select {
		case <-ctx.Done():
			_ = t.opts.Terminate() // fails on nil only
			<-t.end
			t.told <- true
		case <-t.end:
			t.told <- false
		}
	}
}

// run is stopped when ctx ends, and gives its error then.
func (t *stopper) run(ctx context.Context) error {
	t.begin <- ctx
	failed := C.lookout_run(t.api, t.session, t.options, t.binding)
	t.end <- struct{}{}
	stopped := <-t.told
	var err error
	if failed != nil {
		err = errors.New(C.GoString(C.lookout_why(t.api, failed)))
		C.lookout_release(t.api, failed)
	}
	if stopped {
		if again := t.opts.UnsetTerminate(); again != nil {
			return again
		}
		if err != nil {
			return ctx.Err()
		}
	}
	return err
}

// close must not be called in a run.
func (t *stopper) close() {
	close(t.begin)
	<-t.gone
	free(t.opts)
}
