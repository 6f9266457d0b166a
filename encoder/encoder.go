// Package encoder turns pictures into visual tokens, and places pictures,
// parts of pictures and words in one space so that they can be compared.
package encoder

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

// MaxBatch is the most frames that one run takes; Encode splits larger calls.
const MaxBatch = 8

// ErrSize is returned for a frame that is not of the encoder's size.
var ErrSize = errors.New("encoder: frame has the wrong size")

// Output is where Encode puts its results. The slices are the caller's and
// must have room for the frames; a view without Data is not filled. N is the
// number of frames, P of patches.
type Output struct {
	// Tokens is [N, P, dim].
	Tokens tensor.View[float32]
	// PatchEmbed is [N, P, embed], unit length for each patch.
	PatchEmbed tensor.View[float32]
	// Image is [N, embed], unit length.
	Image tensor.View[float32]
	// Distance is [N]: how unlike the training pictures, to be compared with
	// the manifest's domain.threshold.
	Distance []float32
}

// NewOutput makes an Output with room for n frames of everything.
func (e *Encoder) NewOutput(n int) *Output {
	return &Output{
		Tokens: tensor.Make[float32](n, e.patches, e.dim), PatchEmbed: tensor.Make[float32](n, e.patches, e.embed),
		Image: tensor.Make[float32](n, e.embed), Distance: make([]float32, n),
	}
}

// Encoder is the visual encoder. It may be used from many goroutines, which
// take turns.
type Encoder struct {
	width, height       int
	gridW, gridH        int
	patches, dim, embed int

	s    *ort.Session
	turn chan struct{}
	// One slice behind each input and output; a batch of n uses its front.
	pixels                        []uint8
	tokens, patch, image, distant []float32
	batch                         [MaxBatch + 1]*ort.Binding // by number of frames, made when first used
	over                          [maxOver]over
	runs                          uint64
}

// over is the binding of a single frame over its own pixels, so that they are
// not copied. Frames go round, a few a stream: each is bound once.
type over struct {
	pix  []uint8 // held, so that nobody else gets this memory while it is bound
	b    *ort.Binding
	last uint64 // run
}

// The graph is bound to the memory of up to maxOver frames, and to another's in
// place of one that was not seen for forget runs. Frames beyond that are copied:
// binding them at each run would cost more.
const (
	maxOver = 256 // of some 85 streams
	forget  = 8 * maxOver
)

// Open loads the bundle's encoder.
func Open(b *model.Bundle, env *ort.Env) (*Encoder, error) {
	m := &b.Manifest
	e := &Encoder{
		width: m.Image.Width, height: m.Image.Height, patches: m.Encoder.Patches, dim: m.Encoder.Dim, embed: m.Encoder.Embed,
		turn: make(chan struct{}, 1),
	}
	e.gridW, e.gridH = m.Encoder.GridWidth, m.Encoder.GridHeight
	e.pixels = make([]uint8, MaxBatch*e.width*e.height*3)
	e.tokens = make([]float32, MaxBatch*e.patches*e.dim)
	e.patch = make([]float32, MaxBatch*e.patches*e.embed)
	e.image = make([]float32, MaxBatch*e.embed)
	e.distant = make([]float32, MaxBatch)
	var err error
	if e.s, err = env.Load(b, "encoder.onnx", ort.Options{Outputs: []string{"tokens", "image_embed", "patch_embed", "distance"}}); err != nil {
		return nil, fmt.Errorf("encoder: %s: %w", b.Name, err)
	}
	// A first run shows whether the graph fits the manifest.
	first, err := e.binding(1)
	if err == nil {
		err = first.Step(context.Background())
	}
	if err != nil {
		e.s.Close()
		return nil, fmt.Errorf("encoder: %s: the graph does not fit the manifest: %w", b.Name, err)
	}
	return e, nil
}

// Size is the width and height of the frames that Encode takes, in pixels.
func (e *Encoder) Size() (w, h int) { return e.width, e.height }

// Grid is the number of patches across and down.
func (e *Encoder) Grid() (w, h int) { return e.gridW, e.gridH }

func (e *Encoder) binding(n int) (*ort.Binding, error) {
	if e.batch[n] != nil {
		return e.batch[n], nil
	}
	b, err := e.bind(n, e.pixels)
	if err == nil {
		e.batch[n] = b
	}
	return b, err
}

// bind makes the binding of n frames that lie in pixels one behind the other.
func (e *Encoder) bind(n int, pixels []uint8) (*ort.Binding, error) {
	b, err := e.s.NewBinding()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		ort.Bind(b, "pixels", tensor.View[uint8]{Shape: tensor.Shape{n, e.height, e.width, 3}, Data: pixels}),
		ort.Bind(b, "tokens", tensor.View[float32]{Shape: tensor.Shape{n, e.patches, e.dim}, Data: e.tokens}),
		ort.Bind(b, "patch_embed", tensor.View[float32]{Shape: tensor.Shape{n, e.patches, e.embed}, Data: e.patch}),
		ort.Bind(b, "image_embed", tensor.View[float32]{Shape: tensor.Shape{n, e.embed}, Data: e.image}),
		ort.Bind(b, "distance", tensor.View[float32]{Shape: tensor.Shape{n}, Data: e.distant}),
	)
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// gather gives the binding of a run over frames. A single one is read where it
// is; several are copied behind each other, as the graph takes one input.
func (e *Encoder) gather(frames []*media.Frame) (*ort.Binding, error) {
	if e.runs++; len(frames) == 1 {
		if b, err := e.direct(frames[0].Pix); b != nil || err != nil {
			return b, err
		}
	}
	b, err := e.binding(len(frames))
	if err != nil {
		return nil, err
	}
	for i, f := range frames {
		copy(e.pixels[i*len(f.Pix):], f.Pix)
	}
	return b, nil
}

// direct gives the binding over one frame's pixels, nil when there are too many
// other frames about.
func (e *Encoder) direct(pix []uint8) (*ort.Binding, error) {
	oldest := &e.over[0]
	for i := range e.over {
		o := &e.over[i]
		if o.b != nil && unsafe.SliceData(o.pix) == unsafe.SliceData(pix) {
			o.last = e.runs
			return o.b, nil
		}
		if o.last < oldest.last {
			oldest = o
		}
	}
	if oldest.b != nil {
		if e.runs-oldest.last < forget {
			return nil, nil
		}
		if err := oldest.b.Close(); err != nil {
			return nil, err
		}
		*oldest = over{}
	}
	b, err := e.bind(1, pix)
	if err != nil {
		return nil, err
	}
	*oldest = over{pix, b, e.runs}
	return b, nil
}

// Encode fills dst for frames, which must be RGB of the encoder's size. Their
// pixels may change again when it returns; a frame that comes back in the same
// memory is not copied.
func (e *Encoder) Encode(ctx context.Context, frames []*media.Frame, dst *Output) error {
	size := e.width * e.height * 3
	for i, f := range frames {
		if f.Width != e.width || f.Height != e.height || len(f.Pix) != size {
			return fmt.Errorf("%w: frame %d is %dx%d with %d bytes, want %dx%d RGB", ErrSize, i, f.Width, f.Height, len(f.Pix), e.width, e.height)
		}
	}
	if err := dst.room(len(frames), e); err != nil {
		return err
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return fmt.Errorf("encoder: %w", ctx.Err())
	}
	for at := 0; at < len(frames); at += MaxBatch {
		n := min(MaxBatch, len(frames)-at)
		b, err := e.gather(frames[at : at+n])
		if err != nil {
			return fmt.Errorf("encoder: %w", err)
		}
		if err := b.Run(ctx); err != nil {
			return fmt.Errorf("encoder: %w", err)
		}
		put(dst.Tokens.Data, e.tokens, at, n, e.patches*e.dim)
		put(dst.PatchEmbed.Data, e.patch, at, n, e.patches*e.embed)
		put(dst.Image.Data, e.image, at, n, e.embed)
		put(dst.Distance, e.distant, at, n, 1)
	}
	return nil
}

// put copies n rows of src to dst from row at on, unless dst is not wanted.
func put(dst, src []float32, at, n, row int) {
	if dst != nil {
		copy(dst[at*row:], src[:n*row])
	}
}

func (o *Output) room(n int, e *Encoder) error {
	for _, v := range []struct {
		name string
		data []float32
		row  int
	}{{"tokens", o.Tokens.Data, e.patches * e.dim}, {"patch embeddings", o.PatchEmbed.Data, e.patches * e.embed}, {"image embeddings", o.Image.Data, e.embed}, {"distances", o.Distance, 1}} {
		if v.data != nil && len(v.data) < n*v.row {
			return fmt.Errorf("encoder: room for %d floats of %s, %d frames need %d", len(v.data), v.name, n, n*v.row)
		}
	}
	return nil
}

// Close frees the graph.
func (e *Encoder) Close() error { return e.s.Close() }
