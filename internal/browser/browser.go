// Package browser lets tests look at the page in a real, headless Chromium. It
// is imported by tests only.
package browser

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Tab is the page in a Chromium of its own.
type Tab struct {
	t   *testing.T
	ctx context.Context
}

// Action is something done to the page.
type Action = chromedp.Action[chromedp.Void]

// Options configures Open.
type Options struct {
	// Width and Height of the window in pixels. They default to 1280 x 800.
	Width, Height int
	// Camera is a .y4m or .mjpeg file that the fake camera plays over and over.
	// It defaults to Chromium's test pattern.
	Camera string
	// NoUDP leaves WebRTC nothing but TCP, as behind some firewalls.
	// It defaults to false.
	NoUDP bool
}

// Open opens url in a new browser that ends with the test. What the page throws
// fails the test.
func Open(t *testing.T, url string, o Options) *Tab {
	t.Helper()
	if o.Width == 0 {
		o.Width, o.Height = 1280, 800
	}
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("no Chromium: run `make deps`")
	}
	opts := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoFirstRun, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WindowSize(o.Width, o.Height), chromedp.WSURLReadTimeout(60 * time.Second),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("mute-audio", true),
		chromedp.Flag("use-fake-device-for-media-stream", true), chromedp.Flag("use-fake-ui-for-media-stream", true),
	}
	if o.Camera != "" {
		opts = append(opts, chromedp.Flag("use-file-for-fake-video-capture", o.Camera))
	}
	if o.NoUDP {
		opts = append(opts, chromedp.Flag("webrtc-ip-handling-policy", "disable_non_proxied_udp"))
	}
	actx, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, done := chromedp.NewContext(actx)
	t.Cleanup(func() {
		cctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_ = chromedp.Cancel(cctx)
		done()
		stop()
	})
	b := &Tab{t, ctx}
	var readers sync.WaitGroup
	cctx, quiet := context.WithCancel(ctx)
	messages := chromedp.Console(cctx)
	t.Cleanup(func() { quiet(); readers.Wait() })
	readers.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.IsException() {
				t.Errorf("page: %s", m.Text)
			} else if m.Type == chromedp.ConsoleError {
				t.Logf("console: %s %s", m.Text, m.URL)
			}
		}
	})
	b.Run(chromedp.EmulateViewport(int64(o.Width), int64(o.Height)), chromedp.Navigate(url))
	return b
}

// Run does actions, one after the other.
func (b *Tab) Run(actions ...Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 90*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// Do runs js and does not look at its result.
func Do(js string) Action { return chromedp.Evaluate[chromedp.Void](js) }

// Type types keys into the field with that id.
func Type(id, keys string) Action { return chromedp.SendKeys(chromedp.ID(id), keys) }

// Click clicks on the element that the selector finds.
func Click(css string) Action { return chromedp.Click(chromedp.CSS(css)) }

// Key presses one key.
func Key(key string) Action { return chromedp.KeyEvent(key) }

// Eval runs js, which may be a promise, and reads its result into a T.
func Eval[T any](b *Tab, js string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%v\n%.300s", err, js)
	}
	return out
}

// Until waits until js is truthy, for at most forty seconds.
func (b *Tab) Until(what, js string) {
	b.t.Helper()
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if Eval[bool](b, "!!("+js+")") {
			return
		}
		if time.Now().After(end) {
			b.Shot("failed-" + strings.ReplaceAll(b.t.Name(), "/", "-"))
			b.t.Fatalf("never: %s\n%s", what, Eval[string](b, state))
		}
	}
}

// state tells what the page shows and what comes in.
const state = `(async () => {
	const text = id => document.getElementById(id).textContent, v = document.getElementById('video');
	const stats = await window.lookout?.link?.pc?.getStats();
	const video = [...stats?.values() ?? []].find(s => s.type === 'inbound-rtp' && s.kind === 'video');
	return JSON.stringify({stream: window.lookout?.stream, link: document.getElementById('link').title, veil: text('veil-text'), time: v.currentTime, paused: v.paused, source: !!v.srcObject,
		caption: text('caption'), events: document.getElementById('events').children.length,
		video: video && {packets: video.packetsReceived, lost: video.packetsLost, decoded: video.framesDecoded, keys: video.keyFramesDecoded, plis: video.pliCount}});
})()`

// In is b in a subtest.
func (b *Tab) In(t *testing.T) *Tab { return &Tab{t, b.ctx} }

// Shot writes a screenshot when LOOKOUT_SCREENSHOTS names a folder.
func (b *Tab) Shot(name string) {
	dir := os.Getenv("LOOKOUT_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Error(err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Error(err)
	}
}

// Live is true on a page whose video plays.
const Live = `document.getElementById('live').dataset.state === 'live' && document.getElementById('video').currentTime > 0.5`
