#include "rows.h"

#if defined(__x86_64__)

#include <math.h>

#include "simd.h"

SIMD static void norm(const float *x, const float *skip, const float *gamma, float epsilon, size_t n, float *sum, float *y) {
	reals squares = zeros();
	for (size_t i = 0; i < n; i += lanes) {
		reals v = add(load_some(x + i, n - i), load_some(skip + i, n - i));
		if (sum) store_some(sum + i, n - i, v);
		store_some(y + i, n - i, v);
		squares = mul_add(v, v, squares);
	}
	reals by = all(1 / sqrtf(total_of(squares) / n + epsilon));
	for (size_t i = 0; i < n; i += lanes) {
		reals v = mul(load_some(y + i, n - i), by);
		store_some(y + i, n - i, mul(v, load_some(gamma + i, n - i)));
	}
}

SIMD static void gelu(const float *x, float alpha, float cube, size_t n, float *y) {
	for (size_t i = 0; i < n; i += lanes) {
		reals v = load_some(x + i, n - i);
		reals at = mul(v, mul_add(mul(v, v), all(alpha * cube), all(alpha)));
		reals e = power(sub(zeros(), magnitude(at))); // of what is not positive
		v = mul(v, over(where_below(at, e, all(1)), add(all(1), e)));
		store_some(y + i, n - i, v);
	}
}

const rows_kernels NAMED(lookout_rows) = {norm, gelu};

#endif
