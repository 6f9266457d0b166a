package tensor

import "testing"

func TestOfRefusesAWrongLength(t *testing.T) {
	if _, err := Of(make([]float32, 5), 2, 3); err == nil {
		t.Fatal("5 elements taken for a shape of 6")
	}
	v, err := Of([]float32{0, 1, 2, 3, 4, 5}, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	row := v.At(1)
	if !row.Shape.Equal(Shape{3}) || row.Data[0] != 3 || cap(row.Data) != 3 {
		t.Errorf("At(1) = %v %v", row.Shape, row.Data)
	}
	row.Data[0] = 9
	if v.Data[3] != 9 {
		t.Error("At copied")
	}
	if got := v.Shape.String(); got != "[2x3]" {
		t.Errorf("String() = %q", got)
	}
	if got := (Shape{}).Len(); got != 1 {
		t.Errorf("scalar has length %d", got)
	}
}
