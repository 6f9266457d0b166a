package ingest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/asticode/go-astiav"
)

// decoder turns packets into pictures, on the CPU or on a device.
type decoder struct {
	ctx    *astiav.CodecContext
	where  string             // "cpu" or the device's kind
	device astiav.PixelFormat // of pictures in the device's memory
	strict bool               // decoding on the CPU instead is an error
	ahead  bool               // pictures are decoded before they are asked for (see ahead): nobody waits for the newest
	late   bool               // and some packets are taken in before the first picture comes
	note   string             // why auto fell back to the CPU
	shadow *astiav.Frame      // a picture brought from the device
}

var kinds = map[string]astiav.HardwareDeviceType{"cuda": astiav.HardwareDeviceTypeCUDA, "vaapi": astiav.HardwareDeviceTypeVAAPI}

func (d *decoder) open(cfg *Config, st *stream) error {
	kind, _, _ := strings.Cut(cfg.Decoder, ":")
	var why []string
	switch kind {
	case "", "cpu":
	case "auto":
		for _, kind := range []string{"cuda", "vaapi"} {
			err := d.openOn(cfg, st, kind, "")
			if err == nil {
				return nil
			}
			why = append(why, err.Error())
		}
	case "cuda", "vaapi":
		_, name, _ := strings.Cut(cfg.Decoder, ":")
		if err := d.openOn(cfg, st, kind, name); err != nil {
			return fmt.Errorf("%w: %w", ErrNoHardware, err)
		}
		d.strict = true
		return nil
	default:
		return fmt.Errorf("%w: %q; write cpu, auto, cuda, cuda:N, vaapi or vaapi:/dev/dri/renderD128", ErrNoHardware, cfg.Decoder)
	}
	d.where, d.device, d.strict = "cpu", astiav.PixelFormatNone, false
	d.note = strings.Join(why, "; ")
	codec := astiav.FindDecoder(st.id)
	if codec == nil {
		return ErrUnsupportedCodec
	}
	return d.start(cfg, st, codec, nil)
}

// openOn opens the decoder on a device: the first of its kind when name is
// empty.
func (d *decoder) openOn(cfg *Config, st *stream, kind, name string) error {
	for _, codec := range []*astiav.Codec{astiav.FindDecoder(st.id), astiav.FindDecoderByName(string(st.codec))} {
		if codec == nil {
			continue
		}
		for _, hc := range codec.HardwareConfigs() {
			if hc.HardwareDeviceType() != kinds[kind] || !hc.MethodFlags().Has(astiav.CodecHardwareConfigMethodFlagHwDeviceCtx) {
				continue
			}
			if err := checkHardware(kind, name); err != nil {
				return err
			}
			dev, err := astiav.CreateHardwareDeviceContext(kinds[kind], name, nil, 0)
			if err != nil {
				return fmt.Errorf("%s does not start (%w); check the driver with %s", kind, err, map[string]string{"cuda": "nvidia-smi", "vaapi": "vainfo"}[kind])
			}
			defer dev.Free() // the decoder holds its own reference
			if err := d.start(cfg, st, codec, dev); err != nil {
				return err
			}
			d.where, d.device, d.shadow = kind, hc.PixelFormat(), astiav.AllocFrame()
			return nil
		}
	}
	return fmt.Errorf("%s cannot decode %s in this build of FFmpeg", kind, st.codec)
}

func (d *decoder) start(cfg *Config, st *stream, codec *astiav.Codec, dev *astiav.HardwareDeviceContext) error {
	d.ctx = astiav.AllocCodecContext(codec)
	if st.par != nil {
		if err := st.par.ToCodecContext(d.ctx); err != nil {
			return err
		}
	}
	threads := cfg.Threads
	d.ahead = threads > 1 && !cfg.Live && !st.live && dev == nil // a device has few pictures to decode into
	if d.ahead {
		threads-- // one scales
		d.late = threads > 1
		d.ctx.SetThreadType(astiav.ThreadTypeFrame)
	} else {
		d.ctx.SetFlags(d.ctx.Flags().Add(astiav.CodecContextFlagLowDelay))
		d.ctx.SetThreadType(astiav.ThreadTypeSlice) // frame threads add a frame of delay each
	}
	if dev != nil {
		threads = 1
		d.ctx.SetHardwareDeviceContext(dev)
	}
	d.ctx.SetThreadCount(threads)
	if err := d.ctx.Open(codec, nil); err != nil {
		d.ctx.Free()
		d.ctx = nil
		return err
	}
	return nil
}

// local gives f itself, or its copy in memory when it lies on the device.
func (d *decoder) local(f *astiav.Frame) (*astiav.Frame, error) {
	if d.shadow == nil {
		return f, nil
	}
	if f.PixelFormat() != d.device { // the device refused the stream's profile
		if d.strict {
			return nil, fmt.Errorf("%w: %s cannot decode this profile of the codec; use decoder: auto or cpu", ErrNoHardware, d.where)
		}
		if d.note == "" {
			d.note = d.where + " cannot decode this profile of the codec"
			d.where = "cpu"
		}
		return f, nil
	}
	d.shadow.Unref()
	if err := f.TransferHardwareData(d.shadow); err != nil {
		return nil, fmt.Errorf("bring a picture from %s: %w", d.where, err)
	}
	d.shadow.SetColorSpace(f.ColorSpace())
	d.shadow.SetColorRange(f.ColorRange())
	d.shadow.SetSampleAspectRatio(f.SampleAspectRatio())
	return d.shadow, nil
}

func (d *decoder) close() {
	if d.ctx != nil {
		d.ctx.Free()
		d.ctx = nil
	}
	if d.shadow != nil {
		d.shadow.Free()
		d.shadow = nil
	}
}

// checkHardware names what is missing; FFmpeg would say "unknown error".
func checkHardware(kind, name string) error {
	switch kind {
	case "cuda":
		if _, err := os.Stat("/dev/nvidiactl"); err != nil {
			return errors.New("cuda: no NVIDIA device (/dev/nvidiactl is missing; in a container: run it with --gpus all)")
		}
		for _, lib := range []string{"libcuda.so.1", "libnvcuvid.so.1"} {
			if !findLibrary(lib) {
				return fmt.Errorf("cuda: %s is missing; install NVIDIA's driver (in a container: NVIDIA_DRIVER_CAPABILITIES=compute,video,utility)", lib)
			}
		}
	case "vaapi":
		if name == "" {
			nodes, _ := filepath.Glob("/dev/dri/renderD*")
			if len(nodes) == 0 {
				return errors.New("vaapi: no GPU (no /dev/dri/renderD*; in a container: run it with --device /dev/dri)")
			}
			name = nodes[0]
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("vaapi: %w (add the user to the group render)", err)
		}
		return f.Close()
	}
	return nil
}

func findLibrary(name string) bool {
	dirs := append(filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")), "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
		"/usr/lib64", "/usr/lib", "/usr/local/nvidia/lib64", "/usr/local/cuda/compat", "/usr/lib/wsl/lib", "/usr/local/lib")
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}
