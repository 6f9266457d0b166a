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

SIMD static void layer(const float *x, const float *gamma, const float *beta, float epsilon, size_t n, float *y) {
	reals sum = zeros(), squares = zeros();
	for (size_t i = 0; i < n; i += lanes) sum = add(sum, load_some(x + i, n - i));
	const reals mean = all(total_of(sum) / n);
	for (size_t i = 0; i < n; i += lanes) {
		reals v = pick(n - i, sub(load_some(x + i, n - i), mean), zeros());
		squares = mul_add(v, v, squares);
	}
	const reals by = all(1 / sqrtf(total_of(squares) / n + epsilon));
	for (size_t i = 0; i < n; i += lanes) {
		reals v = mul(sub(load_some(x + i, n - i), mean), by);
		store_some(y + i, n - i, mul_add(v, load_some(gamma + i, n - i), load_some(beta + i, n - i)));
	}
}

// The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26): what is missing to 1 is a polynomial times e^-x^2.
SIMD static void normal(const float *x, const float *bias, size_t n, float *y) {
	for (size_t i = 0; i < n; i += lanes) {
		reals v = load_some(x + i, n - i);
		if (bias) v = add(v, load_some(bias + i, n - i));
		const reals z = mul(magnitude(v), all(0.70710678f)), t = over(all(1), mul_add(z, all(0.3275911f), all(1)));
		reals p = all(1.061405429f);
		p = mul_add(p, t, all(-1.453152027f));
		p = mul_add(p, t, all(1.421413741f));
		p = mul_add(p, t, all(-0.284496736f));
		p = mul_add(p, t, all(0.254829592f));
		const reals beyond = mul(mul(mul(p, t), power(sub(zeros(), mul(z, z)))), all(0.5f)); // the share beyond |v|
		store_some(y + i, n - i, mul(v, where_below(v, beyond, sub(all(1), beyond))));
	}
}

// sigmoid gives v / (1 + e^-at).
INLINE reals sigmoid(reals v, reals at) {
	reals e = power(sub(zeros(), magnitude(at))); // of what is not positive
	return mul(v, over(where_below(at, e, all(1)), add(all(1), e)));
}

SIMD static void gelu(const float *x, float alpha, float cube, size_t n, float *y) {
	for (size_t i = 0; i < n; i += lanes) {
		reals v = load_some(x + i, n - i);
		store_some(y + i, n - i, sigmoid(v, mul(v, mul_add(mul(v, v), all(alpha * cube), all(alpha)))));
	}
}

SIMD static void gate(const float *x, const float *other, float alpha, size_t n, float *y) {
	for (size_t i = 0; i < n; i += lanes) {
		reals v = load_some(x + i, n - i);
		store_some(y + i, n - i, mul(sigmoid(v, mul(v, all(alpha))), load_some(other + i, n - i)));
	}
}

const rows_kernels NAMED(lookout_rows) = {norm, layer, normal, gelu, gate};

#endif
