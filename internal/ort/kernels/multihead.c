#include "multihead.h"

#if defined(__x86_64__)

#include <string.h>

#include "simd.h"

// Numbers become whole ones of 12 or 11 bits and a sign, of which the hardware multiplies
// and adds twice as many at a time as of float32. Queries and keys have a scale a row, values one
// a column of a block, and what a score weighs is a whole number of 14 bits, so that the largest sums there
// can be just fit into 32 bits.
enum {
	block = 64,   // keys whose scores are made together
	tile = 6,     // rows that go through the keys together: with `across` registers of each, all that there are
	across = lanes / 4,
	span = across * lanes, // columns
	most = 64,    // parts
	rough = 2047, // values: times 2^whole, times block
	whole = 14,
};

// fine is for queries and keys: its square times the width.
static int fine(const multihead *m) { return m->width <= 128 ? 4095 : 2047; }

// wide is the width with zeros behind it, up to whole pairs of registers.
static int wide(const multihead *m) { return (m->width + 31) & ~31; }

static size_t up(size_t n) { return (n + 63) & ~(size_t)63; }

// of_block is the size of what a head's keys and values of a block are packed into: keys [wide/2][block][2], their
// scales, values [block/2][wide][2], scales of their columns.
static size_t of_block(const multihead *m) { return 4 * ((size_t)wide(m) * (block + 1) + block); }

// of_part is the size of what a part needs for a tile: scores, sums, weights, queries.
static size_t of_part(const multihead *m) { return up(tile * 6 * ((size_t)m->blocks * block + wide(m))); }

typedef struct {
	int16_t *keys, *values;
	float *key, *value; // scales
} packed;

static packed packed_of(const multihead *m, int head, int b) {
	char *at = m->scratch + ((size_t)head * m->blocks + b) * of_block(m);
	packed p = {.keys = (int16_t *)at};
	p.values = p.keys + block * wide(m);
	p.key = (float *)(p.values + block * wide(m));
	p.value = p.key + block;
	return p;
}

static size_t plan(multihead *m) {
	m->blocks = (m->keys + block - 1) / block;
	m->tiles = (m->rows + tile - 1) / tile;
	size_t all = (size_t)m->batch * m->heads * m->tiles;
	m->parts = all < most ? (int)all : most;
	return up((size_t)m->batch * m->heads * m->blocks * of_block(m)) + m->parts * of_part(m);
}

// some loads a register of the n numbers that there are.
INLINE reals some(const float *x, int n) { return n > 0 ? load_some(x, n) : zeros(); }

// narrow makes n numbers into whole ones of at most `top`, with zeros behind them up to `to`, and gives their scale.
INLINE float narrow(const float *x, int n, int to, float top, int16_t *y) {
	reals highs = zeros();
	for (int i = 0; i < n; i += lanes) highs = higher(highs, magnitude(some(x + i, n - i)));
	float largest = highest(highs);
	reals by = all(largest > 0 ? top / largest : 0);
	for (int i = 0; i < to; i += lanes) store_16(y + i, to_wholes(mul(some(x + i, n - i), by)));
	return largest / top;
}

SIMD static void pack(const multihead *m, int of) {
	const int w = wide(m), b = of % m->blocks, first = b * block, there = m->keys - first < block ? m->keys - first : block;
	const size_t row = (size_t)m->heads * m->width;
	for (int h = 0; h < m->heads; h++) {
		const size_t from = ((size_t)(of / m->blocks) * m->keys + first) * row + (size_t)h * m->width;
		const float *k = m->k + from, *v = m->v + from;
		packed p = packed_of(m, of / m->blocks * m->heads + h, b);
		for (int j = 0; j < block; j++) {
			int32_t *to = (int32_t *)p.keys + j, twos[lookout_multihead_widest / 2] = {0};
			p.key[j] = j < there ? narrow(k + j * row, m->width, w, fine(m), (int16_t *)twos) : 0;
			for (int i = 0; i < w / 2; i++) to[i * block] = twos[i];
		}
		for (int c = 0; c < w; c += lanes) {
			const int here = m->width - c;
			reals top = zeros();
			for (int j = 0; j < there; j++) top = higher(top, magnitude(some(v + j * row + c, here)));
			store(p.value + c, mul(top, all(1.f / rough)));
			const reals by = over_or_zero(all(rough), top);
			for (int j = 0; j < block; j += 2) { // two keys a lane
				wholes low = to_wholes(mul(some(v + j * row + c, j < there ? here : 0), by));
				wholes high = to_wholes(mul(some(v + (j + 1) * row + c, j + 1 < there ? here : 0), by));
				store_wholes((int32_t *)(p.values + (j / 2 * w + c) * 2), pairs(low, high));
			}
		}
	}
}

// multiply gives the products of r rows with c registers of columns, out [r][block]; pairs of b lie `stride` columns apart.
INLINE void multiply(const int16_t *a, size_t of_row, const int16_t *b, size_t stride, int pairs, const int r, const int c, int32_t *out) {
	wholes acc[tile * across];
#pragma GCC unroll 24
	for (int i = 0; i < r * c; i++) acc[i] = no_wholes();
	for (int p = 0; p < pairs; p++, a += 2, b += 2 * stride) {
		wholes column[across];
#pragma GCC unroll 4
		for (int j = 0; j < c; j++) column[j] = load_wholes((const int32_t *)b + j * lanes);
#pragma GCC unroll 6
		for (int i = 0; i < r; i++) {
			int32_t pair;
			memcpy(&pair, a + i * of_row, sizeof pair);
			const wholes both = all_wholes(pair);
#pragma GCC unroll 4
			for (int j = 0; j < c; j++) acc[i * c + j] = dot_16(acc[i * c + j], column[j], both);
		}
	}
#pragma GCC unroll 6
	for (int i = 0; i < r; i++)
#pragma GCC unroll 4
		for (int j = 0; j < c; j++) store_wholes(out + i * block + j * lanes, acc[i * c + j]);
}

// Functions of their own, for which the compiler has registers enough.
#define MULTIPLY(name, r, c) \
	__attribute__((noinline)) SIMD static void name(const int16_t *a, size_t of_row, const int16_t *b, size_t stride, int pairs, int32_t *out) { \
		multiply(a, of_row, b, stride, pairs, r, c, out); \
	}
MULTIPLY(multiply_tile, tile, across)
MULTIPLY(multiply_one, 1, across)
#if !defined(LOOKOUT_AVX2)
MULTIPLY(multiply_tile_half, tile, across / 2)
MULTIPLY(multiply_one_half, 1, across / 2)
#endif

// power2 is 2^x to 4e-6 of it.
INLINE reals power2(reals x) {
	x = higher(x, all(-126));
	reals n = rounded(x), f = sub(x, n);
	reals p = all(0.00961813f); // Taylor
	p = mul_add(p, f, all(0.05550411f));
	p = mul_add(p, f, all(0.24022651f));
	p = mul_add(p, f, all(0.69314718f));
	p = mul_add(p, f, all(1));
	return shifted(p, n);
}

// weigh adds what r rows' weights make of a span of the values' columns, or of half of one.
INLINE void weigh(const int16_t *weights, size_t of_row, const int16_t *values, const float *scale, int width, int pairs, const int r, const int columns, float *sums) {
	int32_t products[tile * block];
#if !defined(LOOKOUT_AVX2)
	if (columns < span)
		(r == tile ? multiply_tile_half : multiply_one_half)(weights, of_row, values, width, pairs, products);
	else
#endif
		(r == tile ? multiply_tile : multiply_one)(weights, of_row, values, width, pairs, products);
	for (int i = 0; i < r; i++)
		for (int j = 0; j < columns; j += lanes) {
			float *sum = sums + i * width + j;
			store(sum, mul_add(to_reals(load_wholes(products + i * block + j)), load(scale + j), load(sum)));
		}
}

// attend computes r rows.
INLINE void attend(const multihead *m, int head, const float *q, char *scratch, const int r, float *out) {
	const int w = wide(m), all_keys = m->blocks * block;
	const size_t row = (size_t)m->heads * m->width;
	float *scores = (float *)scratch, *sums = scores + tile * all_keys;
	int16_t *weights = (int16_t *)(sums + tile * w), *queries = weights + tile * all_keys;
	const reals none = all(-3.4e38f);
	float scale[tile], total[tile];
	reals top[tile];
	for (int i = 0; i < r; i++) {
		scale[i] = narrow(q + i * row, m->width, w, fine(m), queries + i * w) * m->scale * 1.44269504f; // for powers of 2
		top[i] = none;
	}
	for (int b = 0; b < m->blocks; b++) {
		packed p = packed_of(m, head, b);
		int32_t products[tile * block];
		const int here = m->keys - b * block < block ? m->keys - b * block : block;
		for (int j = 0; j < here; j += span) (r == tile ? multiply_tile : multiply_one)(queries, w, p.keys + 2 * j, block, w / 2, products + j);
		for (int j = 0; j < here; j += lanes) {
			const int at = b * block + j;
			const reals by = load(p.key + j);
			for (int i = 0; i < r; i++) {
				reals x = pick(m->keys - at, mul(to_reals(load_wholes(products + i * block + j)), by), none);
				store(scores + i * all_keys + at, x);
				top[i] = higher(top[i], x);
			}
		}
	}
	for (int i = 0; i < r; i++) {
		const reals by = all(scale[i]), from = all(whole - highest(top[i]) * scale[i]);
		reals sum = zeros();
		for (int j = 0; j < m->keys; j += lanes) {
			reals e = power2(mul_add(load(scores + i * all_keys + j), by, from));
			e = pick(m->keys - j, e, zeros());
			sum = add(sum, e);
			store_16(weights + i * all_keys + j, to_wholes(e));
		}
		total[i] = total_of(sum);
	}
	memset(sums, 0, (size_t)r * w * sizeof *sums);
	for (int b = 0; b < m->blocks; b++) {
		packed p = packed_of(m, head, b);
		const int here = m->keys - b * block < block ? m->keys - b * block : block, pairs = (here + 1) / 2;
		int c = 0;
		for (; c + span <= w; c += span) weigh(weights + b * block, all_keys, p.values + 2 * c, p.value + c, w, pairs, r, span, sums + c);
		if (c < w) weigh(weights + b * block, all_keys, p.values + 2 * c, p.value + c, w, pairs, r, span / 2, sums + c);
	}
	for (int i = 0; i < r; i++)
		for (int c = 0; c < m->width; c += lanes) store_some(out + i * row + c, m->width - c, mul(load(sums + i * w + c), all(1 / total[i])));
}

SIMD static void attend_tile(const multihead *m, int head, const float *q, char *scratch, float *out) { attend(m, head, q, scratch, tile, out); }
SIMD static void attend_one(const multihead *m, int head, const float *q, char *scratch, float *out) { attend(m, head, q, scratch, 1, out); }

static void attend_part(const multihead *m, int part) {
	char *scratch = m->scratch + up((size_t)m->batch * m->heads * m->blocks * of_block(m)) + part * of_part(m);
	const long all = (long)m->batch * m->heads * m->tiles, end = all * (part + 1) / m->parts;
	const size_t row = (size_t)m->heads * m->width;
	for (long t = all * part / m->parts; t < end; t++) {
		int head = (int)(t / m->tiles), first = (int)(t % m->tiles) * tile;
		size_t at = ((size_t)(head / m->heads) * m->rows + first) * row + (size_t)(head % m->heads) * m->width;
		if (first + tile <= m->rows) {
			attend_tile(m, head, m->q + at, scratch, m->out + at);
			continue;
		}
		for (int i = first; i < m->rows; i++, at += row) attend_one(m, head, m->q + at, scratch, m->out + at);
	}
}

const multihead_kernels NAMED(lookout_multihead) = {plan, pack, attend_part};

#endif
