package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	ortgo "github.com/yalue/onnxruntime_go"
)

// The CUDA provider installs its own signal handlers when it starts, which
// would take SIGSEGV and SIGPROF from the Go runtime. These keep the handlers
// and put them back.

/*
#include <signal.h>
#include <string.h>

static struct sigaction lookout_saved[65];
static char lookout_have[65];

static void lookout_save_signals(void) {
	for (int i = 1; i < 65; i++)
		lookout_have[i] = sigaction(i, NULL, &lookout_saved[i]) == 0;
}

static void lookout_restore_signals(void) {
	for (int i = 1; i < 65; i++)
		if (lookout_have[i]) sigaction(i, &lookout_saved[i], NULL);
}
*/
import "C"

// parseDevice reads "auto", "cpu", "cuda" or "cuda:N".
func parseDevice(s string) (kind string, gpu int, err error) {
	switch kind, index, numbered := strings.Cut(s, ":"); {
	case s == "":
		return "auto", 0, nil
	case !numbered && (kind == "auto" || kind == "cpu" || kind == "cuda"):
		return kind, 0, nil
	case kind == "cuda":
		if gpu, err := strconv.Atoi(index); err == nil && gpu >= 0 {
			return kind, gpu, nil
		}
	}
	return "", 0, fmt.Errorf("ort: device %q: want auto, cpu, cuda or cuda:N", s)
}

// keepSignals runs f and puts back the signal handlers that f replaced.
// Callers are serialised by their own locks.
func keepSignals(f func() error) error {
	C.lookout_save_signals()
	defer C.lookout_restore_signals()
	return f()
}

// appendCUDA adds the CUDA provider to o.
func appendCUDA(o *ortgo.SessionOptions, gpu int) error {
	c, err := ortgo.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer free(c)
	if err := c.Update(map[string]string{"device_id": strconv.Itoa(gpu)}); err != nil {
		return err
	}
	return o.AppendExecutionProviderCUDA(c)
}

// probeCUDA tells what keeps GPU number gpu from being used, or nil.
func probeCUDA(library string, gpu int) error {
	if _, err := os.Stat("/dev/nvidiactl"); err != nil {
		return errors.New("no NVIDIA driver on this machine (/dev/nvidiactl is missing)")
	}
	if _, err := os.Stat(fmt.Sprintf("/dev/nvidia%d", gpu)); err != nil {
		return fmt.Errorf("no GPU number %d (/dev/nvidia%d is missing)", gpu, gpu)
	}
	provider := filepath.Join(filepath.Dir(library), "libonnxruntime_providers_cuda.so")
	if _, err := os.Stat(provider); err != nil {
		return fmt.Errorf("this ONNX Runtime is built for the CPU only (%s is missing): install the GPU build", provider)
	}
	o, err := ortgo.NewSessionOptions()
	if err != nil {
		return err
	}
	defer free(o)
	if err := keepSignals(func() error { return appendCUDA(o, gpu) }); err != nil {
		return fmt.Errorf("start the CUDA provider: %w", err)
	}
	return nil
}
