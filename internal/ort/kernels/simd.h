// What the kernels for x86-64 share: see package kernels.
#ifndef LOOKOUT_SIMD_H
#define LOOKOUT_SIMD_H

#include <immintrin.h>
#include <stddef.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")))
#define INLINE static inline __attribute__((always_inline)) AVX512

enum { lanes = 16 }; // float32 in a register

// first_lanes has the first n lanes, or all.
INLINE __mmask16 first_lanes(size_t n) { return n >= lanes ? 0xffff : (__mmask16)((1u << n) - 1); }

// power is e^x for x <= 0, to 2 units in the last place: 2^n times a polynomial
// (Cephes, expf).
INLINE __m512 power(__m512 x) {
	x = _mm512_max_ps(x, _mm512_set1_ps(-87));
	__m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	x = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
	x = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), x);
	__m512 p = _mm512_set1_ps(1.9875691500e-4f);
	p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(1.3981999507e-3f));
	p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(8.3334519073e-3f));
	p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(4.1665795894e-2f));
	p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(1.6666665459e-1f));
	p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(5.0000001201e-1f));
	p = _mm512_fmadd_ps(p, _mm512_mul_ps(x, x), _mm512_add_ps(x, _mm512_set1_ps(1)));
	return _mm512_scalef_ps(p, n);
}

#endif
