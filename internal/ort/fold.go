package ort

import (
	"bytes"
	"encoding/binary"
	"maps"

	"github.com/lookout-video/lookout/internal/ort/kernels"
)

// node is a NodeProto that may be written anew.
type node struct {
	operator
	raw           []byte
	changed, gone bool
	before        []byte // a NodeProto that is to stand in front of it
}

// vertices are the nodes of a graph, with what leads from one to the other.
type vertices struct {
	all    []*node
	by     map[string]*node // that makes a value
	uses   map[string]int   // of a value: by nodes, and as the graph's output
	nested bool             // some use is in a graph within a node
}

// fold puts operators around a product of package kernels into it, where they would
// read and write all of its rows once more, and gives it the norms that it
// can run. It tells how many more nodes are ours then:
//
//	QuantizeLinear, MatMulIntegerToFloat, Add     ->  QuantizeMatMul
//	MatMulNBits, QuickGelu and MatMulNBits, Mul   ->  GatedMatMulNBits
//	LayerNormalization                            ->  the same of package kernels
func (k *knowledge) fold(model []byte) (folded []byte, n int, err error) {
	folded, err = rewrite(model, func(g *vertices) bool {
		if g.nested || k.half {
			return false
		}
		for _, v := range g.all {
			g.foldQuantize(v)
			k.foldBias(g, v)
			if g.foldGate(v) {
				n -= 2 // of the three, one is left
			}
			if v.op == "LayerNormalization" && len(v.domain) == 0 && k.quickensNorm(v.operator) {
				v.domain, v.changed = []byte(kernels.Domain), true
				n++
			}
		}
		return true
	}, nil)
	return folded, n, err
}

// rewrite gives a model whose graph has its nodes as change leaves them, and after
// that, unless it is nil, what then makes of its bytes; model itself where change
// gives false.
func rewrite(model []byte, change func(*vertices) bool, then func(graph []byte) ([]byte, error)) (changed []byte, err error) {
	for rest := model; len(rest) > 0; {
		size, num, _, graph, err := field(rest)
		if err != nil {
			return nil, err
		}
		if num != 7 {
			changed = append(changed, rest[:size]...)
			rest = rest[size:]
			continue
		}
		g, err := readVertices(graph)
		if err != nil {
			return nil, err
		}
		if !change(g) {
			return model, nil
		}
		if graph, err = g.write(graph); err == nil && then != nil {
			graph, err = then(graph)
		}
		if err != nil {
			return nil, err
		}
		changed = appendBytes(changed, 7, graph)
		rest = rest[size:]
	}
	return changed, nil
}

// foldQuantize lets v, a product, make its rows into 8 bits itself.
func (g *vertices) foldQuantize(v *node) {
	if v.op != "MatMulIntegerToFloat" || string(v.domain) != kernels.Domain || len(v.inputs) < 5 {
		return
	}
	q := g.by[v.inputs[0]]
	if q == nil || q.op != "QuantizeLinear" || len(q.domain) > 0 || len(q.inputs) != 3 || q.inputs[1] != v.inputs[2] || q.inputs[2] != v.inputs[4] || g.uses[v.inputs[0]] != 1 {
		return
	}
	v.op, v.inputs[0] = "QuantizeMatMul", q.inputs[0]
	v.changed, q.gone = true, true
}

// foldBias lets a product add what v, an Add, adds to each of its rows.
func (k *knowledge) foldBias(g *vertices, v *node) {
	if v.op != "Add" || len(v.domain) > 0 || len(v.inputs) != 2 || len(v.outputs) != 1 {
		return
	}
	for i, in := range v.inputs {
		p, bias := g.by[in], v.inputs[1-i]
		if p == nil || p.gone || string(p.domain) != kernels.Domain || len(p.inputs) < 2 || len(p.outputs) != 1 || g.uses[in] != 1 {
			continue
		}
		at := 0
		switch p.op {
		case "DynamicQuantizeMatMul":
			at = 4
		case "MatMulIntegerToFloat", "QuantizeMatMul":
			at = 6
		default:
			continue
		}
		t, w := k.weights[bias], k.weights[p.inputs[1]]
		if len(p.inputs) > at || t.kind != codeFloat32 || len(t.dims) != 1 || len(w.dims) != 2 || t.dims[0] != w.dims[1] {
			continue
		}
		for len(p.inputs) < at {
			p.inputs = append(p.inputs, "")
		}
		p.inputs, p.outputs[0] = append(p.inputs, bias), v.outputs[0]
		p.changed, v.gone = true, true
		g.by[v.outputs[0]] = p
		return
	}
}

// foldGate makes one of two products of the same rows that v, a Mul, multiplies: one
// of them by way of a gate. It tells whether it could.
func (g *vertices) foldGate(v *node) bool {
	if v.op != "Mul" || len(v.domain) > 0 || len(v.inputs) != 2 || len(v.outputs) != 1 {
		return false
	}
	own := func(value, op string) *node {
		n := g.by[value]
		if n == nil || n.gone || n.op != op || string(n.domain) != kernels.Domain || len(n.outputs) != 1 || g.uses[value] != 1 {
			return nil
		}
		return n
	}
	for i, in := range v.inputs {
		act, other := own(in, "QuickGelu"), own(v.inputs[1-i], "MatMulNBits")
		if act == nil || other == nil {
			continue
		}
		gate := own(act.inputs[0], "MatMulNBits")
		if gate == nil || gate == other || gate.inputs[0] != other.inputs[0] || !maps.Equal(gate.ints, other.ints) || gate.ints["N"]%16 != 0 {
			continue
		}
		gate.op, gate.inputs, gate.outputs[0] = "GatedMatMulNBits", append(gate.inputs, other.inputs[1:]...), v.outputs[0]
		gate.raw = appendBytes(bytes.Clone(gate.raw), 5, act.attributes["alpha"])
		gate.changed, act.gone, other.gone, v.gone = true, true, true, true
		g.by[v.outputs[0]] = gate
		return true
	}
	return false
}

// quickensNorm tells whether package kernels can run n: over the last axis.
func (k *knowledge) quickensNorm(n operator) bool {
	axis, there := n.ints["axis"]
	return len(n.inputs) == 3 && len(n.outputs) == 1 && (!there || int64(axis) == -1) && n.floats["epsilon"] != nil &&
		k.is(n, codeFloat32, 1) && len(k.weights[n.inputs[1]].dims) == 1 && k.is(n, codeFloat32, 2) && len(k.weights[n.inputs[2]].dims) == 1
}

func readVertices(graph []byte) (*vertices, error) {
	g := &vertices{by: map[string]*node{}, uses: map[string]int{}}
	return g, fields(graph, func(num, _ uint64, b []byte) error {
		switch num {
		case 1:
			op, err := readNode(b)
			if err != nil {
				return err
			}
			v := &node{operator: op, raw: b}
			g.all = append(g.all, v)
			g.nested = g.nested || op.nested
			for _, in := range op.inputs {
				g.uses[in]++
			}
			for _, out := range op.outputs {
				g.by[out] = v
			}
		case 12: // an output, of which the first field is the name
			return fields(b, func(num, _ uint64, b []byte) error {
				if num == 1 {
					g.uses[string(b)]++
				}
				return nil
			})
		}
		return nil
	})
}

// write gives the graph with its nodes as they are now.
func (g *vertices) write(graph []byte) ([]byte, error) {
	out, next := make([]byte, 0, len(graph)), 0
	for len(graph) > 0 {
		size, num, _, _, err := field(graph)
		if err != nil {
			return nil, err
		}
		if num != 1 {
			out = append(out, graph[:size]...)
		} else {
			v := g.all[next]
			next++
			if v.before != nil {
				out = appendBytes(out, 1, v.before)
			}
			switch {
			case v.gone:
			case v.changed:
				b, err := v.write()
				if err != nil {
					return nil, err
				}
				out = appendBytes(out, 1, b)
			default:
				out = append(out, graph[:size]...)
			}
		}
		graph = graph[size:]
	}
	return out, nil
}

// write gives the NodeProto with other inputs, outputs, operator and domain; its
// name and attributes stay.
func (v *node) write() (b []byte, err error) {
	for _, in := range v.inputs {
		b = appendBytes(b, 1, []byte(in))
	}
	for _, out := range v.outputs {
		b = appendBytes(b, 2, []byte(out))
	}
	b = appendBytes(b, 4, []byte(v.op))
	b = appendBytes(b, 7, v.domain)
	for rest := v.raw; len(rest) > 0; {
		size, num, _, _, err := field(rest)
		if err != nil {
			return nil, err
		}
		if num != 1 && num != 2 && num != 4 && num != 7 {
			b = append(b, rest[:size]...)
		}
		rest = rest[size:]
	}
	return b, nil
}

// appendBytes appends a field of a protobuf message that holds bytes.
func appendBytes(msg []byte, num uint64, b []byte) []byte {
	msg = binary.AppendUvarint(msg, num<<3|2)
	msg = binary.AppendUvarint(msg, uint64(len(b)))
	return append(msg, b...)
}

// appendNumber appends a field that holds a whole number.
func appendNumber(msg []byte, num, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(msg, num<<3), v)
}
