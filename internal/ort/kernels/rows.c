#include "rows.h"

#if defined(__x86_64__)

#include <math.h>

#include "simd.h"

AVX512 void lookout_norm(const float *x, const float *skip, const float *gamma, float epsilon, size_t n, float *sum, float *y) {
	__m512 squares = _mm512_setzero_ps();
	for (size_t i = 0; i < n; i += lanes) {
		__mmask16 there = first_lanes(n - i);
		__m512 v = _mm512_add_ps(_mm512_maskz_loadu_ps(there, x + i), _mm512_maskz_loadu_ps(there, skip + i));
		if (sum) _mm512_mask_storeu_ps(sum + i, there, v);
		_mm512_mask_storeu_ps(y + i, there, v);
		squares = _mm512_fmadd_ps(v, v, squares);
	}
	__m512 by = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / n + epsilon));
	for (size_t i = 0; i < n; i += lanes) {
		__mmask16 there = first_lanes(n - i);
		__m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(there, y + i), by);
		_mm512_mask_storeu_ps(y + i, there, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(there, gamma + i)));
	}
}

AVX512 void lookout_gelu(const float *x, float alpha, float cube, size_t n, float *y) {
	for (size_t i = 0; i < n; i += lanes) {
		__mmask16 there = first_lanes(n - i);
		__m512 v = _mm512_maskz_loadu_ps(there, x + i);
		__m512 at = _mm512_mul_ps(v, _mm512_fmadd_ps(_mm512_mul_ps(v, v), _mm512_set1_ps(alpha * cube), _mm512_set1_ps(alpha)));
		__m512 e = power(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(at))); // of what is not positive
		__mmask16 negative = _mm512_cmp_ps_mask(at, _mm512_setzero_ps(), _CMP_LT_OQ);
		__m512 above = _mm512_mask_blend_ps(negative, _mm512_set1_ps(1), e);
		v = _mm512_mul_ps(v, _mm512_div_ps(above, _mm512_add_ps(_mm512_set1_ps(1), e)));
		_mm512_mask_storeu_ps(y + i, there, v);
	}
}

#else // no node is changed where it is not supported

void lookout_norm(const float *x, const float *skip, const float *gamma, float epsilon, size_t n, float *sum, float *y) {
	(void)x, (void)skip, (void)gamma, (void)epsilon, (void)n, (void)sum, (void)y;
}
void lookout_gelu(const float *x, float alpha, float cube, size_t n, float *y) { (void)x, (void)alpha, (void)cube, (void)n, (void)y; }
#endif
