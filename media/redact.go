package media

import (
	"net/url"
	"regexp"
	"strings"
)

// inPath is a secret that some cameras want in the path:
// /user=admin_password=secret_channel=1_stream=0.sdp.
var inPath = regexp.MustCompile(`(?i)((?:pass(?:word|wd)?|pwd|secret|token|key)(?:=|%3d))[^/?]*`)

// RedactURL hides the password and the query values of a source's URL, and what
// looks like a password in its path, for logs, errors and events.
func RedactURL(s string) string {
	head, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	return inPath.ReplaceAllString(redact(s, head, rest), "${1}xxxxx")
}

func redact(s, head, rest string) string {
	u, err := url.Parse(s)
	if err != nil {
		// Not a URL that can be taken apart: drop all that may be secret.
		if i := strings.LastIndexByte(rest, '@'); i >= 0 {
			rest = rest[i+1:]
		}
		rest, _, _ = strings.Cut(rest, "?")
		return head + "://" + rest
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "xxxxx")
	}
	if u.RawQuery != "" {
		u.RawQuery = "xxxxx"
	}
	u.Fragment = ""
	return u.String()
}
