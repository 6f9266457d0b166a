// Package tensor describes dense arrays that stages hand to each other: a
// shape over a Go slice, row-major, without cgo and without copying.
package tensor

import (
	"fmt"
	"slices"
	"strings"
)

// Element is what a View can hold.
type Element interface {
	~float32 | ~uint8 | ~int32 | ~int64 | ~uint16
}

// Shape is the extent of each axis, outermost first.
type Shape []int

// Len is the number of elements: the product of the extents, 1 for a scalar.
func (s Shape) Len() int {
	n := 1
	for _, d := range s {
		n *= d
	}
	return n
}

// Equal reports whether s and t have the same extents.
func (s Shape) Equal(t Shape) bool { return slices.Equal(s, t) }

func (s Shape) String() string {
	return "[" + strings.Trim(strings.ReplaceAll(fmt.Sprint([]int(s)), " ", "x"), "[]") + "]"
}

// View is a shape over a slice that somebody else owns.
type View[T Element] struct {
	Shape Shape
	Data  []T
}

// Of makes a View, or an error when the slice does not hold exactly the shape.
func Of[T Element](data []T, shape ...int) (View[T], error) {
	v := View[T]{Shape: shape, Data: data}
	if v.Shape.Len() != len(data) {
		return View[T]{}, fmt.Errorf("tensor: shape %v needs %d elements, slice has %d", v.Shape, v.Shape.Len(), len(data))
	}
	return v, nil
}

// Make allocates a View of zeros.
func Make[T Element](shape ...int) View[T] {
	s := Shape(shape)
	return View[T]{Shape: s, Data: make([]T, s.Len())}
}

// At is the sub-view at index i of the outermost axis. It shares v's data.
func (v View[T]) At(i int) View[T] {
	sub := v.Shape[1:]
	n := sub.Len()
	return View[T]{Shape: sub, Data: v.Data[i*n : (i+1)*n : (i+1)*n]}
}
