package ort

import "slices"

// lastRow makes a graph give only the last row of the output called name, of [batch,
// rows, columns], where that is a product with weights: of a prompt's logits only
// those are read from which the first word is sampled, and the head is a fifth of a
// small language model's products. It gives model itself where that is not so.
func lastRow(model []byte, name string) ([]byte, error) {
	_, outputs, _, err := readGraph(model)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(outputs, func(o Info) bool { return o.Name == name && len(o.Shape) == 3 }) {
		return model, nil
	}
	known, err := survey(model)
	if err != nil {
		return nil, err
	}
	return rewrite(model, func(g *vertices) bool { return known.cutRows(g, name) }, func(graph []byte) ([]byte, error) {
		graph, err := edit(graph, 12, func(info []byte) ([]byte, error) {
			if one, err := readInfo(info); err != nil || one.Name != name {
				return info, err
			}
			return oneRow(info)
		})
		return appendBytes(graph, 5, lastIndex()), err
	})
}

// lastOf is what the row is called from which the product is made, and lastIndexOf
// the number of that row.
const lastOf, lastIndexOf = "lookout_last_row", "lookout_last_index"

// cutRows puts a Gather in front of the product of which the value is made.
func (k *knowledge) cutRows(g *vertices, value string) bool {
	v := g.by[value]
	for v != nil && v.op == "Cast" && g.uses[value] == 1 {
		value = v.inputs[0]
		v = g.by[value]
	}
	if v == nil || g.uses[value] != 1 || len(v.inputs) < 2 || len(v.outputs) != 1 || len(k.weights[v.inputs[1]].dims) < 2 {
		return false
	}
	switch v.op {
	case "MatMulNBits", "MatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat":
	default:
		return false
	}
	var gather []byte
	gather = appendBytes(gather, 1, []byte(v.inputs[0]))
	gather = appendBytes(gather, 1, []byte(lastIndexOf))
	gather = appendBytes(gather, 2, []byte(lastOf))
	gather = appendBytes(gather, 3, []byte(lastOf))
	gather = appendBytes(gather, 4, []byte("Gather"))
	axis := appendBytes(nil, 1, []byte("axis"))
	axis = appendNumber(axis, 3, 1)
	axis = appendNumber(axis, 20, 2) // of type INT
	v.before = appendBytes(gather, 5, axis)
	v.inputs[0], v.changed = lastOf, true
	return true
}

// lastIndex is a TensorProto: -1, of a rank that keeps the axis.
func lastIndex() (b []byte) {
	b = appendNumber(b, 1, 1) // dims
	b = appendNumber(b, 2, codeInt64)
	b = appendBytes(b, 8, []byte(lastIndexOf))
	return appendBytes(b, 9, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) // raw_data
}

// oneRow gives a ValueInfoProto of [batch, rows, columns] one row.
func oneRow(info []byte) ([]byte, error) {
	return editTensor(info, func(tensor []byte) ([]byte, error) {
		return edit(tensor, 2, func(shape []byte) ([]byte, error) {
			axis := -1
			return edit(shape, 1, func(dim []byte) ([]byte, error) {
				if axis++; axis == 1 {
					dim = appendNumber(nil, 1, 1)
				}
				return dim, nil
			})
		})
	})
}

// editTensor gives a ValueInfoProto with its TypeProto.Tensor as f makes it.
func editTensor(info []byte, f func(tensor []byte) ([]byte, error)) ([]byte, error) {
	return edit(info, 2, func(kind []byte) ([]byte, error) { return edit(kind, 1, f) })
}

// edit gives a message with its fields num, which hold bytes, as f makes them; without
// those of which it makes nil.
func edit(msg []byte, num uint64, f func(b []byte) ([]byte, error)) ([]byte, error) {
	out := []byte{}
	for len(msg) > 0 {
		size, n, _, b, err := field(msg)
		if err != nil {
			return nil, err
		}
		if n == num {
			if b, err = f(b); err != nil {
				return nil, err
			}
			if b != nil {
				out = appendBytes(out, num, b)
			}
		} else {
			out = append(out, msg[:size]...)
		}
		msg = msg[size:]
	}
	return out, nil
}
