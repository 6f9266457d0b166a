package main

import (
	"os"
	"time"

	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// newBars draws on the terminal that standard error is.
func newBars(options ...mpb.ContainerOption) *mpb.Progress {
	w := cupwriter.New(fromLineStart{os.Stderr}, false)
	w.SetTermFd(int(os.Stderr.Fd()))
	return mpb.New(append(options, mpb.WithConsoleWriter(w))...)
}

// fromLineStart begins each picture in the first column: what the terminal
// echoes, as it does Ctrl-C, has moved the cursor.
type fromLineStart struct{ f *os.File }

func (w fromLineStart) Write(b []byte) (int, error) {
	n, err := w.f.Write(append([]byte{'\r'}, b...))
	return max(n-1, 0), err
}

// bar shows how far a file is worked through, on a terminal only.
type bar struct {
	p *mpb.Progress
	b *mpb.Bar
}

// newBar makes a bar for a source of the given length; none for live sources.
func newBar(length time.Duration) *bar {
	if length <= 0 || !isTerminal(os.Stderr) {
		return &bar{}
	}
	p := newBars(mpb.WithWidth(40))
	return &bar{p, p.AddBar(length.Milliseconds(), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Percentage(decor.WCSyncSpace)), mpb.AppendDecorators(decor.AverageETA(decor.ET_STYLE_MMSS)))}
}

func (b *bar) at(d time.Duration) {
	if b.b != nil {
		b.b.SetCurrent(d.Milliseconds())
	}
}

// write prints above the bar.
func (b *bar) write(line []byte) (int, error) {
	if b.p != nil {
		return b.p.Write(line)
	}
	return os.Stdout.Write(line)
}

func (b *bar) done() {
	if b.b != nil {
		b.b.Abort(true)
		b.p.Wait()
	}
}
