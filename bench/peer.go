package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"
)

// exitMissing is the exit code of a peer script whose libraries or weights are
// not there; its last line on stderr says what.
const exitMissing = 3

// Peer is a Side that runs a command. The command's last line on stdout is one
// JSON object of numbers: its Values. The command does its own warm-up and
// measures inside, so that what it takes to start is not counted.
func Peer(name string, argv ...string) Side {
	return Side{Name: name, Command: quote(argv), WarmsItself: true, Run: func(ctx context.Context) (Values, error) {
		out, err := output(ctx, argv)
		if err != nil {
			return nil, err
		}
		text := strings.TrimSpace(string(out))
		if i := strings.LastIndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
		v := Values{}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return nil, fmt.Errorf("%s: read its figures: %w", argv[0], err)
		}
		return v, nil
	}}
}

// FFmpeg is a Side that decodes and scales a video with the ffmpeg command, as
// fast as it can: Values frames_per_second and frames.
func FFmpeg(ffmpeg, video string, width, height, threads int) Side {
	argv := []string{ffmpeg, "-nostdin", "-v", "error", "-nostats", "-progress", "pipe:1", "-threads", fmt.Sprint(threads), "-filter_threads", fmt.Sprint(threads),
		// The scaler's flags are those that package ingest sets.
		"-i", video, "-map", "0:v:0", "-an", "-vf", fmt.Sprintf("scale=%d:%d:flags=bilinear+accurate_rnd+full_chroma_int,format=rgb24", width, height), "-f", "null", "-"}
	return Side{Name: "ffmpeg", Command: quote(argv), Run: func(ctx context.Context) (Values, error) {
		began := time.Now()
		out, err := output(ctx, argv)
		if err != nil {
			return nil, err
		}
		took := time.Since(began).Seconds()
		frames := 0
		for _, line := range strings.Split(string(out), "\n") {
			if v, ok := strings.CutPrefix(line, "frame="); ok {
				_, _ = fmt.Sscan(v, &frames) // 0 frames is noticed below
			}
		}
		if frames == 0 {
			return nil, errors.New("ffmpeg: told no number of frames")
		}
		return Values{"frames_per_second": float64(frames) / took, "frames": float64(frames)}, nil
	}}
}

// Start is a Side that starts a command and takes the time until a line for
// which ready is true comes on its standard output, then ends it. It gives Values
// ready_ms.
func Start(name string, ready func(line string) bool, argv ...string) Side {
	return Side{Name: name, Command: quote(argv), Run: func(ctx context.Context) (Values, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.WaitDelay = 5 * time.Second
		w := &lineWatch{ready: ready, found: make(chan time.Time, 1)}
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &stderr
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return nil, missing(argv, err, nil)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case at := <-w.found:
			cancel()
			<-ended //nolint:errcheck // it was just ended: that is what its error says
			return Values{"ready_ms": float64(at.Sub(began)) / float64(time.Millisecond)}, nil
		case err := <-ended:
			select {
			case at := <-w.found:
				return Values{"ready_ms": float64(at.Sub(began)) / float64(time.Millisecond)}, nil
			default:
			}
			if err == nil {
				err = errors.New("ended before it was ready")
			}
			return nil, missing(argv, err, stderr.Bytes())
		}
	}}
}

// lineWatch looks at each whole line that is written to it, until one is found.
type lineWatch struct {
	ready func(string) bool
	found chan time.Time
	part  []byte
	over  bool
}

func (w *lineWatch) Write(p []byte) (int, error) {
	now := time.Now()
	if w.over {
		return len(p), nil
	}
	w.part = append(w.part, p...)
	for {
		line, rest, ok := bytes.Cut(w.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if w.ready(string(line)) {
			w.over, w.part = true, nil
			w.found <- now
			return len(p), nil
		}
		w.part = rest
	}
}

func output(ctx context.Context, argv []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", argv[0], ctx.Err())
		}
		return nil, missing(argv, err, stderr.Bytes())
	}
	return out, nil
}

// missing tells a peer that is not set up from one that failed.
func missing(argv []string, err error, stderr []byte) error {
	why := strings.TrimSpace(string(stderr))
	if i := strings.LastIndexByte(why, '\n'); i >= 0 {
		why = why[i+1:]
	}
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is not there (bench/peers/setup.sh sets the peers up)", ErrMissing, argv[0])
	case errors.As(err, &exit) && exit.ExitCode() == exitMissing:
		return fmt.Errorf("%w: %s", ErrMissing, why)
	}
	return fmt.Errorf("%s: %w: %s", argv[0], err, why)
}

// quote writes a command as a shell takes it.
func quote(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n\"'$&|;<>()*?[]\\`") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}
