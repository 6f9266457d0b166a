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
	}, func(graph []byte) ([]byte, error) { return inHalves(graph, cache) })
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

// inHalves makes the graph's inputs and outputs called names float16 where they are
// float32.
func inHalves(graph []byte, names map[string]bool) (_ []byte, err error) {
	for _, num := range []uint64{11, 12} {
		graph, err = edit(graph, num, func(info []byte) ([]byte, error) {
			if one, err := readInfo(info); err != nil || !names[one.Name] {
				return info, err
			}
			return editTensor(info, func(tensor []byte) ([]byte, error) {
				if rest, ok := bytes.CutPrefix(tensor, []byte{1 << 3, codeFloat32}); ok { // elem_type, which is the first field
					tensor = append([]byte{1 << 3, codeFloat16}, rest...)
				}
				return tensor, nil
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return graph, nil
}
