package openai

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
)

// maxEvent bounds one event of a stream.
const maxEvent = 1 << 20

var errTooLong = errors.New("an event of the stream is too long")

// events reads server-sent events and gives each one's data. Comments and
// other fields are skipped. An event that the end cuts off is not given.
func events(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		in := bufio.NewReaderSize(r, 32<<10)
		var data []byte
		has := false
		for {
			line, err := readLine(in)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, err)
				}
				return
			}
			if len(line) == 0 { // the end of an event
				if has && !yield(data, nil) {
					return
				}
				data, has = data[:0], false
				continue
			}
			name, value, _ := bytes.Cut(line, []byte(":"))
			if string(name) != "data" {
				continue
			}
			if has {
				data = append(data, '\n')
			}
			data, has = append(data, bytes.TrimPrefix(value, []byte(" "))...), true
			if len(data) > maxEvent {
				yield(nil, errTooLong)
				return
			}
		}
	}
}

// readLine reads a line ended by LF or CR LF, without its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		case len(line) > maxEvent:
			return nil, errTooLong
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) {
				return nil, io.EOF
			}
			return nil, fmt.Errorf("read the stream: %w", err)
		}
	}
}
