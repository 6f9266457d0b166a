package vlm

import (
	"fmt"
	"strings"
	"time"
)

// imageText is what the SmolVLM processor writes for one picture in place of
// the template's <image>.
func imageText(tokens, rows, cols int) string {
	const fake, image = "<fake_token_around_image>", "<image>"
	one := strings.Repeat(image, tokens)
	var b strings.Builder
	for r := range rows {
		for c := range cols {
			fmt.Fprintf(&b, "%s<row_%d_col_%d>%s", fake, r+1, c+1, one)
		}
		b.WriteString("\n")
	}
	if rows > 0 {
		b.WriteString("\n")
	}
	b.WriteString(fake + "<global-img>" + one + fake)
	return b.String()
}

// videoText is what the SmolVLM processor writes in place of <video>, for frames
// of so many tokens each.
func videoText(tokens []int, at []time.Duration) string {
	var b strings.Builder
	last := at[len(at)-1]
	fmt.Fprintf(&b, "You are provided the following series of %s frames from a %s [H:MM:SS] video.\n", inWords(len(at)), clock(last+time.Second))
	for i, t := range at {
		b.WriteString(stamp(t) + imageText(tokens[i], 0, 0))
	}
	b.WriteString("\n\n")
	return b.String()
}

// stamp tells when a frame was taken.
func stamp(at time.Duration) string {
	s := int(at / time.Second)
	return fmt.Sprintf("\nFrame from %02d:%02d:", s/60, s%60)
}

// clock writes a duration as Python does.
func clock(d time.Duration) string {
	s := int(d / time.Second)
	text := fmt.Sprintf("%d:%02d:%02d", s/3600%24, s/60%60, s%60)
	switch days := s / 86400; days {
	case 0:
		return text
	case 1:
		return "1 day, " + text
	default:
		return fmt.Sprintf("%d days, %s", days, text)
	}
}

var (
	small = strings.Fields("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
	tens  = strings.Fields("_ _ twenty thirty forty fifty sixty seventy eighty ninety")
)

// inWords spells a number below 10,000 in English.
func inWords(n int) string {
	switch {
	case n < 20:
		return small[n]
	case n < 100:
		if n%10 == 0 {
			return tens[n/10]
		}
		return tens[n/10] + "-" + small[n%10]
	}
	unit, word, rest := n/100, " hundred", n%100
	join := " and "
	if n >= 1000 {
		unit, word, rest = n/1000, " thousand", n%1000
		if rest >= 100 {
			join = ", "
		}
	}
	text := inWords(unit) + word
	if rest > 0 {
		text += join + inWords(rest)
	}
	return text
}
