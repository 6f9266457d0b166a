package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// refusal marks a template's own words in an error of the library, which
// keeps no error but its text.
const refusal = "\x00refused\x00"

// environment is gonja's, with what differs from the reference replaced.
var environment = func() *exec.Environment {
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	for name, f := range map[string]exec.FilterFunction{"tojson": toJSON, "trim": trim} {
		if err := filters.Replace(name, f); err != nil {
			panic(err) // the library has lost a filter: a build with another version of it
		}
	}
	methods := builtins.Methods
	methods.Str = stringMethods(builtins.Methods.Str)
	return &exec.Environment{
		Context: exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables).Update(exec.NewContext(map[string]any{
			"raise_exception": func(_ *exec.Evaluator, params *exec.VarArgs) (any, error) {
				return nil, errors.New(refusal + params.First().String() + refusal)
			},
			"range": pythonRange,
		})),
		Filters:           filters,
		Tests:             builtins.Tests,
		ControlStructures: builtins.ControlStructures,
		Methods:           methods,
	}
}()

// stringMethods strips as Python does: all white space, not only spaces.
func stringMethods(builtin *exec.MethodSet[string]) *exec.MethodSet[string] {
	own := map[string]exec.Method[string]{}
	for _, name := range []string{
		"capitalize", "center", "endswith", "find", "format", "isalnum", "isalpha", "isdigit", "islower", "isspace", "isupper",
		"join", "ljust", "lower", "partition", "removeprefix", "removesuffix", "rfind", "rjust", "rpartition", "rsplit",
		"splitlines", "startswith", "swapcase", "title", "upper", "zfill",
	} {
		if m, ok := builtin.Get(name); ok {
			own[name] = m
		}
	}
	for name, side := range map[string]int{"strip": 0, "lstrip": -1, "rstrip": 1} {
		own[name] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
			is := isSpace
			if len(args.Args) > 0 && !args.Args[0].IsNil() {
				set := args.Args[0].String()
				is = func(r rune) bool { return strings.ContainsRune(set, r) }
			}
			if side <= 0 {
				self = strings.TrimLeftFunc(self, is)
			}
			if side >= 0 {
				self = strings.TrimRightFunc(self, is)
			}
			return self, nil
		}
	}
	own["split"] = split
	own["count"] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		return strings.Count(self, args.First().String()), nil
	}
	own["replace"] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		if len(args.Args) < 2 {
			return nil, errors.New("replace takes what and by what")
		}
		most := -1
		if len(args.Args) > 2 && args.Args[2].IsInteger() {
			most = args.Args[2].Integer()
		}
		return strings.Replace(self, args.Args[0].String(), args.Args[1].String(), most), nil
	}
	return exec.NewMethodSet(own)
}

// list is indexed as Python's is: the library finds no [-1] in a list of one.
type list []any

// GetItem is called by the library for list[key].
func (l list) GetItem(key any) (*exec.Value, bool) {
	i, ok := key.(int)
	if i < 0 {
		i += len(l)
	}
	if !ok || i < 0 || i >= len(l) {
		return exec.AsValue(nil), false
	}
	return exec.AsValue(l[i]), true
}

// split gives a list.
func split(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
	most := -1
	if len(args.Args) > 1 && args.Args[1].IsInteger() {
		most = args.Args[1].Integer()
	}
	var parts []string
	switch {
	case len(args.Args) == 0 || args.Args[0].IsNil():
		parts = strings.FieldsFunc(self, isSpace)
	case args.Args[0].String() == "":
		return nil, errors.New("split by an empty string")
	case most >= 0:
		parts = strings.SplitN(self, args.Args[0].String(), most+1)
	default:
		parts = strings.Split(self, args.Args[0].String())
	}
	out := make(list, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out, nil
}

// isSpace is Python's str.isspace, which counts four separators more.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }

func trim(_ *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	return exec.AsValue(strings.TrimFunc(in.String(), isSpace))
}

// pythonRange gives a list: the library's channel leaves its goroutine behind
// when a loop breaks.
func pythonRange(_ *exec.Evaluator, params *exec.VarArgs) ([]int, error) {
	var n []int
	for _, a := range params.Args {
		if !a.IsInteger() {
			return nil, errors.New("range takes integers")
		}
		n = append(n, a.Integer())
	}
	start, stop, step := 0, 0, 1
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	case 3:
		start, stop, step = n[0], n[1], n[2]
	default:
		return nil, errors.New("range takes one to three integers")
	}
	const most = 1 << 16
	if step == 0 || (stop-start)/step > most {
		return nil, fmt.Errorf("range(%d, %d, %d) is too long", start, stop, step)
	}
	var out []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		out = append(out, i)
	}
	return out, nil
}

// toJSON writes as the reference's json.dumps does: a space after each colon
// and comma, no escapes but JSON's own. The keys of messages come in the order
// the reference has them; others are sorted.
func toJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := -1
	if v := params.GetKeywordArgument("indent", nil); v != nil && v.IsInteger() {
		indent = v.Integer()
	} else if len(params.Args) > 0 && params.Args[0].IsInteger() {
		indent = params.Args[0].Integer()
	}
	var b strings.Builder
	if err := writeJSON(&b, plain(in), indent, 0); err != nil {
		return exec.AsValue(err)
	}
	return exec.AsSafeValue(b.String())
}

// plain unwraps the library's values.
func plain(v *exec.Value) any {
	x := v.Interface()
	switch x := x.(type) {
	case *exec.Value:
		return plain(x)
	case *exec.Dict:
		m := map[string]any{}
		for _, p := range x.Pairs {
			m[p.Key.String()] = plain(p.Value)
		}
		return m
	case exec.ValuesList:
		var l []any
		for _, e := range x {
			l = append(l, plain(e))
		}
		return l
	}
	return x
}

var firstKeys = []string{"role", "content", "type", "text"}

func writeJSON(b *strings.Builder, x any, indent, depth int) error {
	if v, ok := x.(*exec.Value); ok {
		x = plain(v)
	}
	open := func(c byte, n int, item func(i int) error, end byte) error {
		b.WriteByte(c)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
				if indent < 0 {
					b.WriteByte(' ')
				}
			}
			if indent >= 0 {
				b.WriteString("\n" + strings.Repeat(" ", indent*(depth+1)))
			}
			if err := item(i); err != nil {
				return err
			}
		}
		if indent >= 0 && n > 0 {
			b.WriteString("\n" + strings.Repeat(" ", indent*depth))
		}
		b.WriteByte(end)
		return nil
	}
	switch x := x.(type) {
	case string:
		return writeString(b, x)
	case float64:
		s := strconv.FormatFloat(x, 'g', -1, 64)
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		b.WriteString(s)
	case map[string]any:
		keys := make([]string, 0, len(x))
		for k := range x {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(a, b string) int {
			ia, ib := slices.Index(firstKeys, a), slices.Index(firstKeys, b)
			if ia >= 0 && ib >= 0 {
				return ia - ib
			}
			if (ia >= 0) != (ib >= 0) {
				return ib - ia
			}
			return strings.Compare(a, b)
		})
		return open('{', len(keys), func(i int) error {
			if err := writeString(b, keys[i]); err != nil {
				return err
			}
			b.WriteString(": ")
			return writeJSON(b, x[keys[i]], indent, depth+1)
		}, '}')
	case list:
		return writeJSON(b, []any(x), indent, depth)
	case []any:
		return open('[', len(x), func(i int) error { return writeJSON(b, x[i], indent, depth+1) }, ']')
	default:
		data, err := json.Marshal(x)
		if err != nil {
			return err
		}
		b.Write(data)
	}
	return nil
}

func writeString(b *strings.Builder, s string) error {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < 0x20:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return nil
}

// strftime knows the directives that chat templates use.
func strftime(t time.Time, format string) string {
	layouts := map[byte]string{
		'd': "02", 'm': "01", 'Y': "2006", 'y': "06", 'b': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday",
		'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i] == '%' {
			b.WriteByte('%')
		} else if l, ok := layouts[format[i]]; ok {
			b.WriteString(t.Format(l))
		} else {
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}
