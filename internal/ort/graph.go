package ort

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Info describes one input or output of a graph.
type Info struct {
	Name string
	// Type is an ONNX element type's name: "float32", "int64", "uint8" ...
	Type string
	// Shape has -1 for an axis that each run may choose.
	Shape []int
	code  uint64 // TensorProto.DataType
}

func (i Info) String() string {
	s := make([]string, len(i.Shape))
	for k, d := range i.Shape {
		if s[k] = fmt.Sprint(d); d < 0 {
			s[k] = "?"
		}
	}
	return i.Type + "[" + strings.Join(s, "x") + "]"
}

// accepts reports whether a tensor of this shape may be bound here.
func (i Info) accepts(shape []int) bool {
	if len(shape) != len(i.Shape) {
		return false
	}
	for k, d := range i.Shape {
		if d >= 0 && d != shape[k] {
			return false
		}
	}
	return true
}

// Numbers of TensorProto.DataType that can be bound.
const (
	codeFloat32  = 1
	codeUint8    = 2
	codeInt8     = 3
	codeUint16   = 4
	codeInt32    = 6
	codeInt64    = 7
	codeBool     = 9
	codeFloat16  = 10
	codeBFloat16 = 16
)

var typeNames = map[uint64]string{
	codeFloat32: "float32", codeUint8: "uint8", codeInt8: "int8", codeUint16: "uint16", 5: "int16", codeInt32: "int32", codeInt64: "int64",
	8: "string", codeBool: "bool", codeFloat16: "float16", 11: "float64", codeBFloat16: "bfloat16",
}

var errGraph = errors.New("not an ONNX graph")

// readGraph lists a model's inputs and outputs, and the files beside it that hold
// weights. The library itself can tell the former only of a session built for
// the purpose, which doubles the start.
func readGraph(model []byte) (inputs, outputs []Info, beside []string, err error) {
	var graph []byte
	err = fields(model, func(num uint64, v uint64, b []byte) error {
		if num == 7 && b != nil { // ModelProto.graph
			graph = b
		}
		return nil
	})
	if err == nil && graph == nil {
		err = errGraph
	}
	if err != nil {
		return nil, nil, nil, err
	}
	weights := map[string]bool{}
	err = fields(graph, func(num uint64, _ uint64, b []byte) error {
		switch num {
		case 5: // initializer: before IR version 4 it is listed as an input too
			return fields(b, func(num, _ uint64, b []byte) error {
				switch num {
				case 8:
					weights[string(b)] = true
				case 13: // external_data: a key and a value
					if file, err := readLocation(b); err != nil {
						return err
					} else if file != "" && !slices.Contains(beside, file) {
						beside = append(beside, file)
					}
				}
				return nil
			})
		case 11, 12:
			info, err := readInfo(b)
			if err != nil {
				return err
			}
			if num == 11 {
				inputs = append(inputs, info)
			} else {
				outputs = append(outputs, info)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, nil, err
	}
	real := inputs[:0]
	for _, in := range inputs {
		if !weights[in.Name] {
			real = append(real, in)
		}
	}
	if len(real) == 0 || len(outputs) == 0 {
		return nil, nil, nil, errGraph
	}
	return real, outputs, beside, nil
}

// readLocation reads a StringStringEntryProto: the file that it names.
func readLocation(b []byte) (file string, err error) {
	var key, value string
	err = fields(b, func(num, _ uint64, b []byte) error {
		if num == 1 {
			key = string(b)
		} else if num == 2 {
			value = string(b)
		}
		return nil
	})
	if key != "location" {
		value = ""
	}
	return value, err
}

// readInfo reads a ValueInfoProto of a tensor.
func readInfo(b []byte) (Info, error) {
	var info Info
	err := fields(b, func(num, _ uint64, b []byte) error {
		switch num {
		case 1:
			info.Name = string(b)
		case 2: // TypeProto
			return fields(b, func(num, _ uint64, b []byte) error {
				if num != 1 { // tensor_type
					return nil
				}
				return fields(b, func(num, v uint64, b []byte) error {
					switch num {
					case 1:
						info.code = v
					case 2: // TensorShapeProto
						return fields(b, func(num, _ uint64, b []byte) error {
							dim := -1
							err := fields(b, func(num, v uint64, _ []byte) error {
								if num == 1 && int64(v) >= 0 {
									dim = int(v)
								}
								return nil
							})
							info.Shape = append(info.Shape, dim)
							return err
						})
					}
					return nil
				})
			})
		}
		return nil
	})
	if info.Type = typeNames[info.code]; info.Type == "" {
		info.Type = fmt.Sprintf("type %d", info.code)
	}
	return info, err
}

// fields walks one protobuf message.
func fields(msg []byte, f func(num, v uint64, b []byte) error) error {
	for len(msg) > 0 {
		size, num, v, b, err := field(msg)
		if err == nil {
			err = f(num, v, b)
		}
		if err != nil {
			return err
		}
		msg = msg[size:]
	}
	return nil
}

// field reads the first of a message's fields, which takes size bytes. b is nil for
// numbers, but for those of four bytes.
func field(msg []byte) (size int, num, v uint64, b []byte, err error) {
	key, at := binary.Uvarint(msg)
	if at <= 0 {
		return 0, 0, 0, nil, errGraph
	}
	end := at
	switch key & 7 {
	case 0:
		var n int
		if v, n = binary.Uvarint(msg[at:]); n <= 0 {
			return 0, 0, 0, nil, errGraph
		}
		end += n
	case 1:
		end += 8
	case 5:
		end += 4
	case 2:
		length, n := binary.Uvarint(msg[at:])
		if at += n; n <= 0 || length > uint64(len(msg)-at) {
			return 0, 0, 0, nil, errGraph
		}
		end = at + int(length)
	default:
		return 0, 0, 0, nil, errGraph
	}
	if end > len(msg) {
		return 0, 0, 0, nil, errGraph
	}
	if key&7 == 5 || key&7 == 2 {
		b = msg[at:end:end]
	}
	return end, key >> 3, v, b, nil
}

// readGraphFile does not read the weights: pages that are skipped stay on disk.
func readGraphFile(path string) (inputs, outputs []Info, beside []string, err error) {
	err = mapped(path, func(model []byte) error {
		inputs, outputs, beside, err = readGraph(model)
		return err
	})
	return inputs, outputs, beside, err
}

// mapped calls f with a file's bytes, which are its only while it runs.
func mapped(path string, f func([]byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 || fi.IsDir() {
		return errGraph
	}
	m, err := syscall.Mmap(int(file.Fd()), 0, int(fi.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Munmap(m) }()
	return f(m)
}
