package ort

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lookout-video/lookout/internal/ort/kernels"
)

// quicken changes a prepared graph so that reading tokens costs less: nodes become
// those of package kernels, where own says that this machine can run them, and what
// attention is left to the library loses its scale. With halves, keys and values are
// kept in 16 bits; of the output last, unless it is empty, only the last row is made. On
// a GPU that is all that is done.
func quicken(dir string, gpu, own, halves bool, last string) error {
	path := filepath.Join(dir, preparedGraph)
	model, err := os.ReadFile(path)
	if err == nil && own {
		if model, _, err = ownNodes(model); err == nil && halves {
			model, err = halveCache(model)
		}
	}
	if err == nil && last != "" {
		model, err = lastRow(model, last)
	}
	if err == nil && !gpu {
		err = scaleTables(model, filepath.Join(dir, preparedWeights))
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, model, 0o644)
}

// ownNodes moves nodes that package kernels can run into its domain, and tells
// how many they are.
func ownNodes(model []byte) (changed []byte, n int, err error) {
	known, err := survey(model)
	if err != nil {
		return nil, 0, err
	}
	imported := false
	err = fields(model, func(num, _ uint64, b []byte) error {
		if num == 8 && bytes.Contains(b, []byte(kernels.Domain)) { // the library may name all domains that it knows
			imported = true
		}
		if num != 7 {
			return nil
		}
		return fields(b, func(num, _ uint64, b []byte) error {
			if num != 1 {
				return nil
			}
			node, err := readNode(b)
			if err == nil && string(node.domain) == libraryDomain && known.quickens(node) {
				copy(node.domain, kernels.Domain) // as long as the other
				n++
			}
			return err
		})
	})
	if err != nil {
		return nil, 0, err
	}
	model, norms, err := known.fold(model)
	if n += norms; err != nil || n == 0 || imported {
		return model, n, err
	}
	// One more ModelProto.opset_import: what is repeated may stand anywhere.
	one := append([]byte{0x0a, byte(len(kernels.Domain))}, kernels.Domain...)
	one = append(one, 0x10, 1) // version
	return append(append(model, 0x42, byte(len(one))), one...), n, nil
}

// onlyOurs tells whether package kernels does all that takes long in a graph, as in a
// language model in 4 bits: then no thread of the library's is needed beside its team.
func onlyOurs(model []byte) (bool, error) {
	ours, others := 0, 0
	err := parts(model, func(n operator) {
		switch {
		case string(n.domain) == kernels.Domain && strings.HasSuffix(n.op, "MatMulNBits"):
			ours++
		case n.nested, strings.Contains(n.op, "MatMul"), strings.Contains(n.op, "Gemm"), strings.Contains(n.op, "Conv"), strings.HasSuffix(n.op, "Attention") && string(n.domain) != kernels.Domain:
			others++
		}
	}, func(string, table) {})
	return ours > 0 && others == 0, err
}

// withoutBodies takes the functions of package kernels' domain out of a model: what
// its operators are made of, for those who do not have them. It gives model itself
// where there are none.
func withoutBodies(model []byte) ([]byte, error) {
	var kept []byte
	rest := model
	for len(rest) > 0 {
		size, num, _, b, err := field(rest)
		if err != nil {
			return nil, err
		}
		body := false
		if num == 25 { // FunctionProto
			err := fields(b, func(num, _ uint64, b []byte) error {
				body = body || num == 10 && string(b) == kernels.Domain
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		if body && kept == nil {
			kept = append(make([]byte, 0, len(model)), model[:len(model)-len(rest)]...)
		} else if !body && kept != nil {
			kept = append(kept, rest[:size]...)
		}
		rest = rest[size:]
	}
	if kept == nil {
		return model, nil
	}
	return kept, nil
}

// libraryDomain is that of the library's operators that are not of ONNX.
const libraryDomain = "com.microsoft"

// knowledge is what is to be known of a graph to tell whether package kernels can
// run a node of it.
type knowledge struct {
	inputs  []Info
	weights map[string]table
	eight   map[string]bool // rows that DynamicQuantizeLinear makes
	rough   bool            // products make their rows into 8 bits
	half    bool            // some weights are in 16 bits: then so may be what flows between nodes, whose types are not written down
}

func survey(model []byte) (*knowledge, error) {
	inputs, _, _, err := readGraph(model)
	if err != nil {
		return nil, err
	}
	k := &knowledge{inputs: inputs, weights: map[string]table{}, eight: map[string]bool{}}
	return k, parts(model, func(n operator) {
		switch n.op {
		case "DynamicQuantizeLinear":
			if len(n.outputs) > 0 {
				k.eight[n.outputs[0]] = true
			}
		case "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger":
			k.rough = true
		}
	}, func(name string, t table) {
		k.weights[name] = t
		k.half = k.half || t.kind == codeFloat16 || t.kind == codeBFloat16
	})
}

// parts calls node and weight for all that a graph has of them.
func parts(model []byte, node func(operator), weight func(string, table)) error {
	return fields(model, func(num, _ uint64, b []byte) error {
		if num != 7 {
			return nil
		}
		return fields(b, func(num, _ uint64, b []byte) error {
			switch num {
			case 1:
				n, err := readNode(b)
				if err == nil {
					node(n)
				}
				return err
			case 5:
				name, t, err := readTable(b)
				if err == nil {
					weight(name, t)
				}
				return err
			}
			return nil
		})
	})
}

// quickens tells whether package kernels can run n, and what it makes of it is
// worth as much.
func (k *knowledge) quickens(n operator) bool {
	switch n.op {
	case "MatMulNBits": // the library makes its rows into 8 bits as well
		block := n.ints["block_size"]
		return len(n.inputs) == 3 && (n.ints["bits"] == 4 || n.ints["bits"] == 8) && n.ints["accuracy_level"] == 4 && // and its zeros are all in the middle
			block > 0 && block%32 == 0 && n.ints["K"]%block == 0 && k.is(n, codeFloat32, 2)
	case "DynamicQuantizeMatMul":
		return k.is(n, codeInt8, 1) && len(k.weights[n.inputs[1]].dims) == 2 && k.is(n, codeFloat32, 2) && k.may(n, codeInt8, 3) && k.may(n, codeFloat32, 4)
	case "MatMulIntegerToFloat":
		return len(n.inputs) > 4 && (k.eight[n.inputs[0]] || k.one(n, codeFloat32, 2) && k.one(n, codeUint8, 4)) && (k.is(n, codeInt8, 1) || k.is(n, codeUint8, 1)) && len(k.weights[n.inputs[1]].dims) == 2 && k.is(n, codeFloat32, 3) &&
			k.may(n, k.weights[n.inputs[1]].kind, 5) && k.may(n, codeFloat32, 6)
	case "GroupQueryAttention":
		return n.isAttention(k.inputs)
	case "MultiHeadAttention": // made in 16 bits, where the products have 8
		return k.rough && n.isMultiHead(k.inputs)
	case "SkipSimplifiedLayerNormalization":
		return len(n.inputs) == 3 && n.floats["epsilon"] != nil && k.is(n, codeFloat32, 2)
	case "QuickGelu", "FastGelu":
		return !k.half && len(n.inputs) == 1 && (n.floats["alpha"] != nil) == (n.op == "QuickGelu")
	case "Gelu":
		return !k.half && len(n.inputs) == 1
	case "BiasGelu":
		return len(n.inputs) == 2 && k.is(n, codeFloat32, 1) && len(k.weights[n.inputs[1]].dims) == 1
	}
	return false
}

// is tells whether input i is a weight of this kind.
func (k *knowledge) is(n operator, kind uint64, i int) bool {
	return i < len(n.inputs) && k.weights[n.inputs[i]].kind == kind
}

// one tells whether input i is a number of this kind.
func (k *knowledge) one(n operator, kind uint64, i int) bool {
	return k.is(n, kind, i) && len(k.weights[n.inputs[i]].dims) == 0
}

// may tells whether input i is not there, or is a weight of this kind.
func (k *knowledge) may(n operator, kind uint64, i int) bool {
	return i >= len(n.inputs) || n.inputs[i] == "" || k.is(n, kind, i)
}

// isMultiHead tells whether n is attention of all rows to all keys, of nothing but
// rows that the graph makes. (Keys from outside may have been split into heads.)
func (n operator) isMultiHead(graph []Info) bool {
	if len(n.inputs) != 3 || len(n.outputs) != 1 || n.ints["unidirectional"] != 0 {
		return false
	}
	for _, in := range n.inputs {
		if _, err := find(graph, in); err == nil || in == "" {
			return false
		}
	}
	return true
}

// isAttention tells whether n is attention as package kernels gives it: rotated,
// of queries, keys and values in one input, over all places before.
func (n operator) isAttention(graph []Info) bool {
	if len(n.inputs) < 9 || n.inputs[1] != "" || n.inputs[2] != "" || strings.Join(n.inputs[9:], "") != "" || len(n.inputs) > 11 {
		return false
	}
	for name, v := range n.ints {
		switch name {
		case "num_heads", "kv_num_heads", "do_rotary":
		default: // another kind of attention, unless it is switched off
			if int64(v) > 0 || v == 0 && name == "local_window_size" {
				return false
			}
		}
	}
	for name, v := range n.floats {
		if name != "scale" && float(v) != 0 {
			return false
		}
	}
	past, err := find(graph, n.inputs[3])
	return err == nil && n.ints["do_rotary"] == 1 && !n.other && len(graph[past].Shape) == 4 && graph[past].code == codeFloat32 && kernels.Width(graph[past].Shape[3])
}

// scaleTables takes the scale out of attention where it can: weights is the file
// beside model, and it changes both. The library multiplies a single row as it is
// where the product is not scaled, but packs the whole matrix anew where it is: and
// GroupQueryAttention scales the product of a query and all keys, by its attribute.
// Queries and keys are turned by the same two tables before. With the root of the
// scale in the tables, the attribute can be 1. For one token behind 512 of a
// SmolLM2-135M attention then takes 106 us a layer in place of 154. The keys in the
// cache are smaller by the root; nothing but the graph reads them.
func scaleTables(model []byte, weights string) error {
	scale, tables, err := unscale(model)
	if err != nil {
		return err
	}
	root := float32(math.Sqrt(float64(scale)))
	for _, t := range tables {
		if t.raw != nil {
			multiply(t.raw, root)
			continue
		}
		if err := multiplyFile(weights, t, root); err != nil {
			return err
		}
	}
	return nil
}

// attention is what the GroupQueryAttention nodes of a graph have in common.
type attention struct {
	scale  float32
	half   int       // columns of a table that turns whole heads
	tables [2]string // cosines and sines
}

// table is a tensor: its bytes in the graph, or where they are in the file of
// weights.
type table struct {
	raw          []byte
	offset, size int64
	kind         uint64
	dims         []int
	columns      int // 0: not a matrix of float32
}

// unscale sets the scale of all attention in model, which it changes, to 1, and
// tells what it was and the tables that can make up for it: none where the graph
// is not of the kind for which that is the same, and then nothing is changed.
func unscale(model []byte) (scale float32, tables []table, err error) {
	inputs, _, _, err := readGraph(model)
	if err != nil {
		return 0, nil, err
	}
	var a *attention
	var scales [][]byte
	others := map[string]bool{} // what other nodes read
	tensors := map[string]table{}
	fits := true
	node := func(n operator) {
		fits = fits && !n.nested
		if n.op != "GroupQueryAttention" || string(n.domain) != libraryDomain {
			for _, in := range n.inputs {
				others[in] = true
			}
			return
		}
		if len(n.inputs) < 9 || n.ints["do_rotary"] != 1 || n.floats["scale"] == nil {
			fits = false
			return
		}
		one := attention{scale: float(n.floats["scale"]), tables: [2]string(n.inputs[7:9])}
		if past, err := find(inputs, n.inputs[3]); err == nil && len(inputs[past].Shape) == 4 {
			one.half = inputs[past].Shape[3] / 2
		}
		if a == nil {
			a = &one
		}
		fits = fits && one == *a && one.half > 0 && one.scale > 0 && one.scale != 1 && one.tables[0] != one.tables[1]
		scales = append(scales, n.floats["scale"])
	}
	err = parts(model, node, func(name string, t table) { tensors[name] = t })
	if err != nil || a == nil || !fits {
		return 0, nil, err
	}
	for _, name := range a.tables {
		t := tensors[name]
		// Heads that are turned in part only would be scaled in part only.
		if others[name] || t.columns != a.half || t.raw == nil && t.size == 0 {
			return 0, nil, nil
		}
		tables = append(tables, t)
	}
	for _, s := range scales {
		binary.LittleEndian.PutUint32(s, math.Float32bits(1))
	}
	return a.scale, tables, nil
}

// operator is a NodeProto.
type operator struct {
	op      string
	domain  []byte
	inputs  []string
	outputs []string
	ints    map[string]uint64 // attributes that are whole numbers
	floats  map[string][]byte // attributes that are float32: their bytes

	attributes map[string][]byte // those that are float32, whole
	other      bool              // has attributes of other types
	nested     bool              // holds a graph of its own
}

func readNode(b []byte) (n operator, err error) {
	err = fields(b, func(num, _ uint64, b []byte) error {
		switch num {
		case 1:
			n.inputs = append(n.inputs, string(b))
		case 2:
			n.outputs = append(n.outputs, string(b))
		case 4:
			n.op = string(b)
		case 7:
			n.domain = b
		case 5:
			return n.readAttribute(b)
		}
		return nil
	})
	return n, err
}

// readAttribute reads an AttributeProto.
func (n *operator) readAttribute(b []byte) error {
	const isFloat, isInt = 1, 2
	var name string
	var number []byte
	var whole, kind uint64
	err := fields(b, func(num, v uint64, b []byte) error {
		switch num {
		case 1:
			name = string(b)
		case 2:
			number = b
		case 3:
			whole = v
		case 6, 11:
			n.nested = true
		case 20:
			kind = v
		}
		return nil
	})
	switch {
	case kind == isInt:
		if n.ints == nil {
			n.ints = map[string]uint64{}
		}
		n.ints[name] = whole
	case kind == isFloat && len(number) == 4:
		if n.floats == nil {
			n.floats, n.attributes = map[string][]byte{}, map[string][]byte{}
		}
		n.floats[name], n.attributes[name] = number, b
	default:
		n.other = true
	}
	return err
}

// readTable reads a TensorProto.
func readTable(b []byte) (name string, t table, err error) {
	err = fields(b, func(num, v uint64, b []byte) error {
		switch num {
		case 1:
			t.dims = append(t.dims, int(v))
		case 2:
			t.kind = v
		case 8:
			name = string(b)
		case 9:
			t.raw = b
		case 13: // StringStringEntryProto
			var key, value string
			err := fields(b, func(num, _ uint64, b []byte) error {
				switch num {
				case 1:
					key = string(b)
				case 2:
					value = string(b)
				}
				return nil
			})
			n, _ := strconv.ParseInt(value, 10, 64)
			switch key {
			case "offset":
				t.offset = n
			case "length":
				t.size = n
			}
			return err
		}
		return nil
	})
	if t.kind == codeFloat32 && len(t.dims) == 2 {
		t.columns = t.dims[1]
	}
	return name, t, err
}

func float(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }

func multiply(floats []byte, by float32) {
	for i := 0; i+4 <= len(floats); i += 4 {
		binary.LittleEndian.PutUint32(floats[i:], math.Float32bits(float(floats[i:])*by))
	}
}

func multiplyFile(path string, t table, by float32) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && (t.offset < 0 || t.size < 0 || t.size > fi.Size()-t.offset) {
		err = fmt.Errorf("%s is cut off", path)
	}
	if err == nil {
		b := make([]byte, t.size)
		if _, err = f.ReadAt(b, t.offset); err == nil {
			multiply(b, by)
			_, err = f.WriteAt(b, t.offset)
		}
	}
	return errors.Join(err, f.Close())
}
