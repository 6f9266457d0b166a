package vlm

import "math"

// toHalf rounds to the nearest float16, ties to even.
func toHalf(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b>>16) & 0x8000
	exp, frac := int(b>>23&0xFF)-127+15, b&0x7FFFFF
	switch {
	case b>>23&0xFF == 0xFF:
		if frac != 0 {
			return sign | 0x7E00
		}
		return sign | 0x7C00
	case exp >= 31:
		return sign | 0x7C00
	case exp <= 0:
		if exp < -10 {
			return sign
		}
		frac |= 0x800000
		shift := uint(14 - exp)
		half := frac >> shift
		if rest, mid := frac&(1<<shift-1), uint32(1)<<(shift-1); rest > mid || rest == mid && half&1 == 1 {
			half++
		}
		return sign | uint16(half)
	}
	half := uint32(exp)<<10 | frac>>13
	if rest := frac & 0x1FFF; rest > 0x1000 || rest == 0x1000 && half&1 == 1 {
		half++ // may carry into the exponent, which is right
	}
	return sign | uint16(half)
}

func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp, frac := uint32(h>>10&0x1F), uint32(h&0x3FF)
	switch exp {
	case 0:
		x := float32(frac) / (1 << 24)
		if sign != 0 {
			x = -x
		}
		return x
	case 31:
		return math.Float32frombits(sign | 0x7F800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
