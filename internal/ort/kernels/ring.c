#include "ring.h"

#if defined(__x86_64__)

#include <math.h>

#include "simd.h"

// Each slot of the ring is read as it lies, some kilobytes at a time: place by place it would be as many short pieces far apart
// as there are slots, for which the hardware does not read ahead. What is read again for each slot, queries, scores and sums of
// so many places, stays in the first cache.
enum {
	most = 16,   // places that go through the ring together
	room = 8192, // their scores
};

static int stride(const ring *r) { return (r->slots + lanes) / lanes * lanes; } // of a head's scores: the new frame's, the slots'

static int together(const ring *r) {
	const int fit = room / (r->heads * stride(r));
	return fit < most ? fit : most;
}

static size_t plan(ring *r) { return r->parts = together(r) ? (r->places + together(r) - 1) / together(r) : 0; }

// score gives what a query has with a key of an age.
INLINE float score(const float *q, const float *key, const float *of_age, int n) {
	reals sum = zeros();
	for (int i = 0; i < n; i += lanes) sum = mul_add(load_some(q + i, n - i), add(load_some(key + i, n - i), load_some(of_age + i, n - i)), sum);
	return total_of(sum);
}

SIMD static void attend(const ring *r, size_t part) {
	const size_t d = (size_t)r->heads * r->width, batch = part / r->parts, first = part % r->parts * together(r);
	const size_t at = (batch * r->places + first) * d, n = r->places - first < (size_t)together(r) ? r->places - first : (size_t)together(r);
	const int step = stride(r), width = r->width;
	const float scale = 1 / sqrtf(width), *q = r->q + at;
	float scores[room]; // [n][heads][step]
	int used = 0;
	const float *values[lookout_ring_longest];
	for (int s = -1; s < r->slots; s++) { // first the new frame
		const int64_t age = s < 0 ? 0 : r->age[batch * r->slots + s];
		if (s >= 0 && (age < 1 || age > r->slots)) continue;
		const size_t slot = ((batch * r->slots + s) * r->places + first) * d;
		const float *keys = s < 0 ? r->k + at : r->keys + slot, *of_age = r->key + age * d;
		for (size_t p = 0; p < n; p++)
			for (int h = 0; h < r->heads; h++)
				scores[(p * r->heads + h) * step + used] = score(q + p * d + h * width, keys + p * d + h * width, of_age + h * width, width) * scale + r->bias[h * (r->slots + 1) + age];
		values[used++] = s < 0 ? r->v + at : r->values + slot;
	}
	for (size_t i = 0; i < n * r->heads; i++) {
		float *weights = scores + i * step;
		reals top = all(-INFINITY), sum = zeros();
		for (int j = 0; j < used; j += lanes) top = higher(top, pick(used - j, load(weights + j), all(-INFINITY)));
		const reals largest = all(highest(top));
		for (int j = 0; j < used; j += lanes) {
			reals e = pick(used - j, power(sub(load(weights + j), largest)), zeros());
			store(weights + j, e);
			sum = add(sum, e);
		}
		const reals by = all(1 / total_of(sum));
		for (int j = 0; j < used; j += lanes) store(weights + j, mul(load(weights + j), by));
	}
	for (int s = 0; s < used; s++)
		for (size_t p = 0; p < n; p++)
			for (int h = 0; h < r->heads; h++) {
				const reals weight = all(scores[(p * r->heads + h) * step + s]);
				const float *v = values[s] + p * d + h * width;
				float *y = r->out + at + p * d + h * width;
				for (int c = 0; c < width; c += lanes) {
					const reals more = load_some(v + c, width - c);
					store_some(y + c, width - c, s ? mul_add(more, weight, load_some(y + c, width - c)) : mul(more, weight));
				}
			}
}

const ring_kernels NAMED(lookout_ring) = {plan, attend};

#endif
