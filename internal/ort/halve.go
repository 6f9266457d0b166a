package ort

import (
	"bytes"

	"github.com/lookout-video/lookout/internal/ort/kernels"
)

// halveCache makes a graph keep keys and values in 16 bits, where package kernels
// attends to all of them and nothing else reads them: half to read for each token
// behind a long past. It gives model itself where that is not so.
func halveCache(model []byte) ([]byte, error) {
	var cache map[string]bool
	return rewrite(model, func(g *vertices) bool {
		cache = g.halve()
		return len(cache) > 0
	}, func(graph []byte) ([]byte, error) { return graph, retype(graph, cache, codeFloat32, codeFloat16) })
}

// halve changes all attention, and gives the names of what becomes 16 bits: none
// where some of it cannot be changed.
func (g *vertices) halve() map[string]bool {
	cache := map[string]bool{}
	var all []*node
	for _, v := range g.all {
		if v.op != "GroupQueryAttention" {
			continue
		}
		if g.nested || string(v.domain) != kernels.Domain || len(v.inputs) < 5 || len(v.outputs) != 3 {
			return nil
		}
		for _, name := range []string{v.inputs[3], v.inputs[4], v.outputs[1], v.outputs[2]} {
			if g.uses[name] != 1 || cache[name] {
				return nil
			}
			cache[name] = true
		}
		all = append(all, v)
	}
	for _, v := range all {
		v.op, v.changed = "GroupQueryHalfCache", true
	}
	return cache
}

// retype changes the element type of the graph's inputs and outputs called names,
// in place: both types take one byte.
func retype(graph []byte, names map[string]bool, from, to byte) error {
	return fields(graph, func(num, _ uint64, b []byte) error {
		if num != 11 && num != 12 {
			return nil
		}
		info, err := readInfo(b)
		if err != nil || !names[info.Name] {
			return err
		}
		return fields(b, func(num, _ uint64, b []byte) error {
			if num != 2 { // TypeProto
				return nil
			}
			return fields(b, func(num, _ uint64, b []byte) error {
				if num == 1 && bytes.HasPrefix(b, []byte{1 << 3, from}) { // tensor_type, of which the first field is elem_type
					b[1] = to
				}
				return nil
			})
		})
	})
}
