package bench

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Lookout is what the benchmark asks of the pipeline. What is nil is named as
// missing in the results. Each func does its whole work before it returns and
// loads models only in its first call, which is a warm-up.
type Lookout struct {
	// Ingest decodes every frame of a video file, scales it to width x height RGB
	// with the given threads, and returns how many.
	Ingest func(ctx context.Context, video string, width, height, threads int) (frames int, err error)
	// Encode puts n frames, one at a time, through the embedded model's encoder
	// and temporal module.
	Encode func(ctx context.Context, n int) error
	// Generate fills a fresh session of the language model in dir with past tokens
	// and decodes n more, greedily.
	Generate func(ctx context.Context, dir string, past, n, threads int) (Generation, error)
	// Describe does the end-to-end job with the model in dir: at each new frame of
	// the video it says the window of the last Window frames in exactly Tokens
	// tokens, until Updates are done. It returns what the updates took, from a
	// window that is full.
	Describe func(ctx context.Context, dir string, job Job) (time.Duration, error)
	// Streams plays the video as so many streams at one frame a second for d, and
	// returns each update's time from capture to last word.
	Streams func(ctx context.Context, video string, streams int, d time.Duration) ([]time.Duration, error)
	// FastForward feeds length of stream, one frame a second of media time, as fast as
	// it can. Every frame enters the stream's memory and session. Then it lets that
	// stream and one in its first minute take turns.
	FastForward func(ctx context.Context, length time.Duration) (Aging, error)
	// Prompts plays the video with n standing prompts as fast as it can.
	Prompts func(ctx context.Context, video string, n int) (PromptCost, error)
	// Agree asks the same questions about the same frames of the video with and
	// without what spares work: the embedded model's pixel gate, or, with the public
	// model in dir, the leaving out of visual tokens.
	Agree func(ctx context.Context, dir, video string) (Agreement, error)
	// Watch plays the video through the whole pipeline once, as a user's stream.
	Watch func(ctx context.Context, video string) error
	// FirstWord plays the video at its own speed, and returns each update's time
	// from capture to first word.
	FirstWord func(ctx context.Context, video string) ([]time.Duration, error)
}

// Generation is what Generate measured.
type Generation struct {
	Prefill, Decode time.Duration // for past tokens, for n tokens
	// ReadBytes is what one decoded token has to read: weights and KV cache.
	ReadBytes int64
}

// Job is the end-to-end job, the same for all sides.
type Job struct {
	Video          string
	Window, Tokens int // frames, generated tokens
	Updates        int
	Threads        int
	// Slide keeps what the cache holds of the frames that stay in the window.
	Slide bool
}

// Aging is what FastForward measured.
type Aging struct {
	// Hours is the median cost of an update in the first minute, and after each
	// full hour.
	Hours []time.Duration
	// Old and Young are the costs of one update each of the old stream and of the
	// young one, with the same frames and next to each other, so that whatever else
	// the machine does meets both.
	Old, Young []time.Duration
	// Early and Late are the bytes resident after the first minute and at the end.
	Early, Late uint64
}

// Agreement is what Agree found.
type Agreement struct {
	Asked, Same int     // questions, and those that got the same answer to the letter
	Spared      float64 // share of the frames not encoded, or of the visual tokens not read
}

// PromptCost is what a frame cost with n standing prompts.
type PromptCost struct {
	Visual time.Duration // encoder, temporal module, and entering the session
	Total  time.Duration // with all prompts answered
}

// Config says what the scenarios work on.
type Config struct {
	// Quick asks for fewer and shorter runs (8 minutes instead of 40).
	Quick bool
	// Threads of every side. It defaults to 2.
	Threads int
	// Clips is the folder of peers/make_clips.py: busy.mp4, static.mp4 (720p H.264).
	Clips string
	// Video is the busy yard that the embedded model watches, 10 fps for FirstWord.
	Video string
	// Models is the folder of peers/make_models.py: the same weights for all sides.
	Models string
	// Peers is the folder of the peer scripts. It defaults to bench/peers.
	Peers string
	// LlamaCPP is the folder of llama.cpp's libraries.
	LlamaCPP string
	// Python is the peers' interpreter, FFmpeg the command. They default to
	// "python3" and "ffmpeg".
	Python, FFmpeg string
	// Start is a command that watches Video, and FirstLine tells when a line of its
	// output holds the first word. Without it the scenario is named as missing.
	Start     []string
	FirstLine func(line string) bool
	// Only names the scenarios to run. It defaults to all.
	Only []string
}

// Scenarios gives all comparisons, each with its peers, and the ratios made of them.
func Scenarios(l Lookout, c Config) ([]Scenario, []Ratio) {
	if c.Threads <= 0 {
		c.Threads = 2
	}
	c.Peers, c.Python, c.FFmpeg = or(c.Peers, "bench/peers"), or(c.Python, "python3"), or(c.FFmpeg, "ffmpeg")
	runs, tokens, updates, hours, play := 5, 64, 20, 24, 20*time.Second
	if c.Quick {
		runs, tokens, updates, hours, play = 3, 32, 3, 1, 5*time.Second
	}
	busy, static := filepath.Join(c.Clips, "busy.mp4"), filepath.Join(c.Clips, "static.mp4")
	lm, vlm := filepath.Join(c.Models, "smollm2-135m"), filepath.Join(c.Models, "smolvlm2-256m")
	script := func(name, file string, args ...string) Side {
		return Peer(name, append([]string{c.Python, filepath.Join(c.Peers, file)}, args...)...)
	}
	threads := fmt.Sprint(c.Threads)
	const past = 512

	all := []Scenario{
		{Name: "decode-only", Text: "720p H.264 decoded and scaled to 256x144, frames a second", Runs: runs, Sides: []Side{
			ours("lookout", l.Ingest != nil, "lookout bench --only decode-only", func(ctx context.Context) (Values, error) {
				began := time.Now()
				n, err := l.Ingest(ctx, busy, 256, 144, c.Threads)
				return Values{"frames_per_second": float64(n) / time.Since(began).Seconds(), "frames": float64(n)}, err
			}),
			FFmpeg(c.FFmpeg, busy, 256, 144, c.Threads),
			script("pyav", "ingest_pyav.py", "--video", busy, "--width", "256", "--height", "144", "--threads", threads),
		}},
		{Name: "encode-only", Text: "embedded model: frames through encoder and temporal module a second", Runs: runs, Sides: []Side{
			ours("lookout", l.Encode != nil, "lookout bench --only encode-only", func(ctx context.Context) (Values, error) {
				n := 10 * updates
				began, cpu := time.Now(), CPUTime()
				err := l.Encode(ctx, n)
				return Values{"frames_per_second": float64(n) / time.Since(began).Seconds(), "cpu_ms": ms(CPUTime()-cpu) / float64(n)}, err
			}),
		}},
		{Name: "language-model", Text: "SmolLM2-135M sizes, int4: tokens decoded a second after 512", Runs: runs, Sides: []Side{
			ours("lookout", l.Generate != nil, "lookout bench --only language-model", func(ctx context.Context) (Values, error) {
				g, err := l.Generate(ctx, lm, past, tokens, c.Threads)
				if err != nil {
					return nil, err
				}
				rate := float64(tokens) / g.Decode.Seconds()
				return Values{"decode_tokens_per_second": rate, "prefill_tokens_per_second": past / g.Prefill.Seconds(), "read_bytes_per_second": rate * float64(g.ReadBytes)}, nil
			}),
			script("llamacpp", "lm_llamacpp.py", "--model", lm+".gguf", "--libraries", c.LlamaCPP, "--past", fmt.Sprint(past), "--tokens", fmt.Sprint(tokens), "--threads", threads),
			script("genai", "lm_genai.py", "--model", lm, "--past", fmt.Sprint(past), "--tokens", fmt.Sprint(tokens), "--threads", threads),
			{Name: "copy", Command: fmt.Sprintf("copy 256 MiB with %d threads, bytes read and written", c.Threads), Run: func(ctx context.Context) (Values, error) {
				return Values{"bytes_per_second": CopyBandwidth(ctx, c.Threads, 256<<20, time.Second)}, nil
			}},
		}},
		{Name: "end-to-end", Text: "SmolVLM2-256M sizes: the last 4 frames described with 24 tokens, updates a second", Runs: 3, Sides: func() []Side {
			job := Job{Video: busy, Window: 4, Tokens: 24, Updates: updates, Threads: c.Threads}
			say := func(name, dir string, slide bool) Side {
				how := "the window read anew"
				if slide {
					how = "sliding"
				}
				side := ours(name, l.Describe != nil, fmt.Sprintf("lookout bench --only end-to-end (%s, %s)", filepath.Base(dir), how), func(ctx context.Context) (Values, error) {
					job := job
					job.Slide = slide
					took, err := l.Describe(ctx, dir, job)
					return Values{"updates_per_second": float64(job.Updates) / took.Seconds()}, err
				})
				side.WarmsItself = true // fills the window and speaks once before the clock runs
				return side
			}
			few := max(2, updates/5) // the reference takes seconds an update
			sides := []Side{say("lookout-fp32", vlm+"-onnx-fp32", true), say("lookout-best", vlm+"-onnx-best128", true)}
			if !c.Quick { // what the streaming is worth: no ratio needs it
				sides = append(sides, say("lookout-fp32-anew", vlm+"-onnx-fp32", false))
			}
			return append(sides,
				script("transformers", "e2e_transformers.py", "--model", vlm, "--video", busy, "--window", "4", "--tokens", "24", "--updates", fmt.Sprint(few), "--threads", threads))
		}()},
		{Name: "streams", Text: "embedded model: 95 % of updates from capture to last word, by streams at 1 frame a second", Warm: -1, Runs: 1, Sides: []Side{
			ours("lookout", l.Streams != nil, "lookout bench --only streams", func(ctx context.Context) (Values, error) {
				v := Values{"streams": 0}
				for n := 1; n <= 256; n *= 2 {
					took, err := l.Streams(ctx, c.Video, n, play)
					if err != nil {
						return nil, err
					}
					p95 := ms(percentile(took, 0.95))
					v[fmt.Sprintf("latency_p95_ms@%d", n)] = p95
					// Fewer updates than frames is saturation too, however quick each is.
					if p95 > 2000 || float64(len(took)) < 0.8*float64(n)*play.Seconds() {
						break
					}
					v["streams"] = float64(n)
				}
				return v, nil
			}),
		}},
		{Name: "fast-forward", Text: fmt.Sprintf("embedded model: cost of an update over %d h of stream, ms", hours), Warm: -1, Runs: 1, Sides: []Side{
			ours("lookout", l.FastForward != nil, fmt.Sprintf("lookout bench --only fast-forward (%d h)", hours), func(ctx context.Context) (Values, error) {
				length := time.Duration(hours) * time.Hour
				a, err := l.FastForward(ctx, length)
				if err != nil {
					return nil, err
				}
				return aging(a, length)
			}),
		}},
		{Name: "prompts", Text: "embedded model: visual part of a frame with 1, 4 and 16 standing prompts, ms", Runs: 5 * runs, Sides: func() (sides []Side) {
			for _, n := range []int{1, 4, 16} {
				sides = append(sides, ours(fmt.Sprint(n), l.Prompts != nil, fmt.Sprintf("lookout bench --only prompts (%d)", n), func(ctx context.Context) (Values, error) {
					p, err := l.Prompts(ctx, c.Video, n)
					return Values{"visual_ms": ms(p.Visual), "total_ms": ms(p.Total)}, err
				}))
			}
			return sides
		}()},
		{Name: "static-busy", Text: "embedded model: CPU seconds for the same length of a static and a busy scene", Runs: runs, Sides: func() (sides []Side) {
			for _, x := range [][2]string{{"static", static}, {"busy", busy}} {
				sides = append(sides, ours(x[0], l.Watch != nil, "lookout bench --only static-busy ("+x[0]+")", func(ctx context.Context) (Values, error) {
					before := CPUTime()
					err := l.Watch(ctx, x[1])
					return Values{"cpu_seconds": (CPUTime() - before).Seconds()}, err
				}))
			}
			return sides
		}()},
		{Name: "first-word", Text: "embedded model, 10 fps: from capture to first word, ms", Warm: -1, Runs: (runs + 1) / 2, Sides: []Side{
			ours("lookout", l.FirstWord != nil, "lookout bench --only first-word", func(ctx context.Context) (Values, error) {
				took, err := l.FirstWord(ctx, c.Video)
				if err == nil && len(took) == 0 {
					err = fmt.Errorf("bench: no word came of %s", c.Video)
				}
				return Values{"p95_ms": ms(percentile(took, 0.95)), "p50_ms": ms(percentile(took, 0.5)), "updates": float64(len(took))}, err
			}),
		}},
		{Name: "start", Text: "embedded model: from the start of the process to the first word, ms", Runs: runs, Sides: []Side{
			func() Side {
				if len(c.Start) == 0 || c.FirstLine == nil {
					return ours("lookout", false, "lookout run", nil)
				}
				return Start("lookout", c.FirstLine, c.Start...)
			}(),
		}},
	}
	if !c.Quick {
		sides := []Side{}
		for _, x := range [][3]string{{"embedded-gate", "", c.Video}, {"public-reduce", vlm + "-onnx-best128", c.Video}} {
			sides = append(sides, ours(x[0], l.Agree != nil, "lookout bench --only reduction ("+x[0]+")", func(ctx context.Context) (Values, error) {
				a, err := l.Agree(ctx, x[1], x[2])
				return Values{"agreement": float64(a.Same) / float64(max(1, a.Asked)), "asked": float64(a.Asked), "spared": a.Spared}, err
			}))
		}
		all = append(all, Scenario{Name: "reduction", Text: "share of answers that are the same with less work", Warm: -1, Runs: 1, Sides: sides})
	}
	ratios := allRatios()
	if c.Quick { // not what the key says: the report must tell
		for i := range ratios {
			if ratios[i].Scenario == "fast-forward" {
				ratios[i].Aim += fmt.Sprintf(" (quick: %d h)", hours)
			}
		}
	}
	if len(c.Only) > 0 {
		all = slices.DeleteFunc(all, func(s Scenario) bool { return !slices.Contains(c.Only, s.Name) })
		ratios = slices.DeleteFunc(ratios, func(r Ratio) bool { return !slices.Contains(c.Only, r.Scenario) })
	}
	return all, ratios
}

// allRatios are those that are made of the scenarios.
func allRatios() []Ratio {
	return []Ratio{
		{"e2e_vs_transformers_same", "end-to-end", "lookout-fp32.updates_per_second", "transformers.updates_per_second", ">= 3", "end to end, SmolVLM2-256M size, fp32, sliding window / transformers + PyAV"},
		{"e2e_vs_transformers_best", "end-to-end", "lookout-best.updates_per_second", "transformers.updates_per_second", ">= 8", "the same, vision int8, decoder int4 / transformers + PyAV fp32"},
		{"decode_vs_llamacpp", "language-model", "lookout.decode_tokens_per_second", "llamacpp.decode_tokens_per_second", ">= 2", "decode, SmolLM2-135M size, int4, 512 past / llama.cpp"},
		{"decode_vs_genai", "language-model", "lookout.decode_tokens_per_second", "genai.decode_tokens_per_second", ">= 1.1", "the same / onnxruntime-genai"},
		{"bandwidth_share", "language-model", "lookout.read_bytes_per_second", "copy.bytes_per_second", ">= 0.6", "bytes read while decoding / copy bandwidth"},
		{"ingest_vs_ffmpeg", "decode-only", "lookout.frames_per_second", "ffmpeg.frames_per_second", ">= 0.95", "720p H.264 to 256x144 / ffmpeg command"},
		{"ingest_vs_pyav", "decode-only", "lookout.frames_per_second", "pyav.frames_per_second", ">= 1.2", "the same / PyAV"},
		{"update_24h_vs_first", "fast-forward", "lookout.old_vs_young", "", "<= 1.05", "update of an old stream / of a young one"},
		{"memory_growth_24h", "fast-forward", "lookout.memory_growth", "", "<= 0.02", "growth of resident memory"},
		{"prompts16_vs_1_visual", "prompts", "16.visual_ms", "1.visual_ms", "<= 1.05", "visual part, 16 standing prompts / 1"},
		{"static_vs_busy_cpu", "static-busy", "static.cpu_seconds", "busy.cpu_seconds", "<= 0.1", "CPU time, static / busy scene"},
		{"first_word_p95_ms", "first-word", "lookout.p95_ms", "", "<= 250", "capture to first word, 10 fps, p95, ms"},
		{"start_to_first_word_ms", "start", "lookout.ready_ms", "", "<= 1000", "start of the process to first word, ms"},
	}
}

// ours is a Side of Lookout, named as missing where the pipeline does not offer it.
func ours(name string, there bool, command string, run func(ctx context.Context) (Values, error)) Side {
	if !there {
		run = func(context.Context) (Values, error) {
			return nil, fmt.Errorf("%w: this build does not offer it", ErrMissing)
		}
	}
	return Side{Name: name, Command: command, Run: run}
}

// aging takes the medians of what FastForward measured, and the ratio pair by
// pair.
func aging(a Aging, length time.Duration) (Values, error) {
	if len(a.Young) == 0 || len(a.Old) != len(a.Young) || a.Early == 0 {
		return nil, fmt.Errorf("bench: %d updates of an old stream and %d of a young one are no pairs", len(a.Old), len(a.Young))
	}
	pairs := make([]float64, len(a.Old))
	for i, d := range a.Old {
		pairs[i] = float64(d) / float64(a.Young[i])
	}
	v := Values{"young_ms": ms(percentile(a.Young, 0.5)), "old_ms": ms(percentile(a.Old, 0.5)), "old_vs_young": spread(pairs).Median, "hours": length.Hours(),
		"rss_first_bytes": float64(a.Early), "rss_last_bytes": float64(a.Late), "memory_growth": float64(a.Late)/float64(a.Early) - 1}
	for h, d := range a.Hours {
		v[fmt.Sprintf("update_ms@%d", h)] = ms(d)
	}
	return v, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// percentile is the nearest rank's: an observed value.
func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[max(0, int(math.Ceil(p*float64(len(s))))-1)]
}

func or(s, otherwise string) string {
	if strings.TrimSpace(s) == "" {
		return otherwise
	}
	return s
}
