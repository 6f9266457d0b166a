package evidence

import (
	"path/filepath"
	"strings"
	"testing"
)

// No stream's or event's name leads out of the folder or to another's file, and
// no file found there is taken for what it is not.
func FuzzNames(f *testing.F) {
	f.Add("front door", "..", "1000-5.jpg")
	f.Add("", ".", "1000.mp4")
	f.Add("a/b", "a%2Fb", "-1.webm")
	f.Fuzz(func(t *testing.T, a, b, file string) {
		if got := safe(a); got == "" || got == "." || got == ".." || strings.ContainsAny(got, "/\\\x00") || filepath.Base(got) != got {
			t.Errorf("%q became %q", a, got)
		}
		if a != b && safe(a) == safe(b) {
			t.Errorf("%q and %q meet at %q", a, b, safe(a))
		}
		shot, isShot := parseName(file)
		clip, isClip := parseClip(file)
		switch {
		case isShot && isClip:
			t.Errorf("%q is a picture and a clip", file)
		case isShot && (shot.Name != file || !strings.HasSuffix(file, ".jpg")):
			t.Errorf("%q is the picture %+v", file, shot)
		case isClip && (clip.Name != file || clip.Format != "mp4" && clip.Format != "webm"):
			t.Errorf("%q is the clip %+v", file, clip)
		}
	})
}
