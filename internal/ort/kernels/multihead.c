#include "multihead.h"

#include <string.h>

// Numbers become whole ones of 12 or 11 bits and a sign, of which the hardware multiplies
// and adds twice as many at a time as of float32. Queries and keys have a scale a row, values one
// a column of a block, and what a score weighs is a whole number of 14 bits, so that the largest sums there
// can be just fit into 32 bits.
enum {
	block = 64,   // keys whose scores are made together
	tile = 6,     // rows that go through the keys together: with four registers of each, all that there are
	most = 64,    // parts
	rough = 2047, // values: times 2^whole, times block
	whole = 14,
};

// fine is for queries and keys: its square times the width.
static int fine(const multihead *m) { return m->width <= 128 ? 4095 : 2047; }

// wide is the width with zeros behind it, up to whole pairs of registers.
static int wide(const multihead *m) { return (m->width + 31) & ~31; }

#if defined(__x86_64__)

#include "simd.h"

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

size_t lookout_multihead_plan(multihead *m) {
	m->blocks = (m->keys + block - 1) / block;
	m->tiles = (m->rows + tile - 1) / tile;
	size_t all = (size_t)m->batch * m->heads * m->tiles;
	m->parts = all < most ? (int)all : most;
	return up((size_t)m->batch * m->heads * m->blocks * of_block(m)) + m->parts * of_part(m);
}

// some loads 16 numbers of the n that there are.
INLINE __m512 some(const float *x, int n) { return n > 0 ? _mm512_maskz_loadu_ps(first_lanes(n), x) : _mm512_setzero_ps(); }

// narrow makes n numbers into whole ones of at most `top`, with zeros behind them up to `to`, and gives their scale.
INLINE float narrow(const float *x, int n, int to, float top, int16_t *y) {
	__m512 most = _mm512_setzero_ps();
	for (int i = 0; i < n; i += lanes) most = _mm512_max_ps(most, _mm512_abs_ps(some(x + i, n - i)));
	float largest = _mm512_reduce_max_ps(most);
	__m512 by = _mm512_set1_ps(largest > 0 ? top / largest : 0);
	for (int i = 0; i < to; i += lanes) _mm256_storeu_si256((__m256i *)(y + i), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(some(x + i, n - i), by))));
	return largest / top;
}

AVX512 void lookout_multihead_pack(const multihead *m, int of) {
	const int w = wide(m), b = of % m->blocks, first = b * block, there = m->keys - first < block ? m->keys - first : block;
	const size_t row = (size_t)m->heads * m->width;
	for (int h = 0; h < m->heads; h++) {
		const size_t from = ((size_t)(of / m->blocks) * m->keys + first) * row + (size_t)h * m->width;
		const float *k = m->k + from, *v = m->v + from;
		packed p = packed_of(m, of / m->blocks * m->heads + h, b);
		for (int j = 0; j < block; j++) {
			int32_t *to = (int32_t *)p.keys + j, pairs[lookout_multihead_widest / 2] = {0};
			p.key[j] = j < there ? narrow(k + j * row, m->width, w, fine(m), (int16_t *)pairs) : 0;
			for (int i = 0; i < w / 2; i++) to[i * block] = pairs[i];
		}
		for (int c = 0; c < w; c += lanes) {
			const int here = m->width - c;
			__m512 top = _mm512_setzero_ps();
			for (int j = 0; j < there; j++) top = _mm512_max_ps(top, _mm512_abs_ps(some(v + j * row + c, here)));
			_mm512_storeu_ps(p.value + c, _mm512_mul_ps(top, _mm512_set1_ps(1.f / rough)));
			const __m512 by = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(top, _mm512_setzero_ps(), _CMP_GT_OQ), _mm512_set1_ps(rough), top);
			for (int j = 0; j < block; j += 2) { // two keys a lane
				__m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(some(v + j * row + c, j < there ? here : 0), by));
				__m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(some(v + (j + 1) * row + c, j + 1 < there ? here : 0), by));
				_mm512_storeu_si512(p.values + (j / 2 * w + c) * 2, _mm512_mask_mov_epi16(_mm512_slli_epi32(high, 16), 0x55555555, low));
			}
		}
	}
}

// multiply gives the products of r rows with c registers of columns, out [r][block]; pairs of b lie `stride` columns apart.
INLINE void multiply(const int16_t *a, size_t of_row, const int16_t *b, size_t stride, int pairs, const int r, const int c, int32_t *out) {
	__m512i acc[tile * 4];
#pragma GCC unroll 24
	for (int i = 0; i < r * c; i++) acc[i] = _mm512_setzero_si512();
	for (int p = 0; p < pairs; p++, a += 2, b += 2 * stride) {
		__m512i column[4];
#pragma GCC unroll 4
		for (int j = 0; j < c; j++) column[j] = _mm512_loadu_si512(b + j * 2 * lanes);
#pragma GCC unroll 6
		for (int i = 0; i < r; i++) {
			int32_t pair;
			memcpy(&pair, a + i * of_row, sizeof pair);
			const __m512i both = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
			for (int j = 0; j < c; j++) acc[i * c + j] = _mm512_dpwssd_epi32(acc[i * c + j], column[j], both);
		}
	}
#pragma GCC unroll 6
	for (int i = 0; i < r; i++)
#pragma GCC unroll 4
		for (int j = 0; j < c; j++) _mm512_storeu_si512(out + i * block + j * lanes, acc[i * c + j]);
}

// Functions of their own, for which the compiler has registers enough.
#define MULTIPLY(r, c) \
	__attribute__((noinline)) AVX512 static void multiply##r##x##c(const int16_t *a, size_t of_row, const int16_t *b, size_t stride, int pairs, int32_t *out) { \
		multiply(a, of_row, b, stride, pairs, r, c, out); \
	}
MULTIPLY(6, 4)
MULTIPLY(6, 2)
MULTIPLY(1, 4)
MULTIPLY(1, 2)

// power2 is 2^x to 4e-6 of it.
INLINE __m512 power2(__m512 x) {
	__m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, n);
	__m512 p = _mm512_set1_ps(0.00961813f); // Taylor
	p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05550411f));
	p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24022651f));
	p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69314718f));
	p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
	return _mm512_scalef_ps(p, n);
}

// weigh adds what r rows' weights make of c registers of the values' columns.
INLINE void weigh(const int16_t *weights, size_t of_row, const int16_t *values, const float *scale, int width, const int r, const int c, float *sums) {
	int32_t products[tile * block];
	(c == 4 ? r == tile ? multiply6x4 : multiply1x4 : r == tile ? multiply6x2 : multiply1x2)(weights, of_row, values, width, block / 2, products);
	for (int i = 0; i < r; i++)
		for (int j = 0; j < c * lanes; j += lanes) {
			float *sum = sums + i * width + j;
			_mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(products + i * block + j)), _mm512_loadu_ps(scale + j), _mm512_loadu_ps(sum)));
		}
}

// attend computes r rows.
INLINE void attend(const multihead *m, int head, const float *q, char *scratch, const int r, float *out) {
	const int w = wide(m), all = m->blocks * block;
	const size_t row = (size_t)m->heads * m->width;
	float *scores = (float *)scratch, *sums = scores + tile * all;
	int16_t *weights = (int16_t *)(sums + tile * w), *queries = weights + tile * all;
	const __m512 none = _mm512_set1_ps(-3.4e38f);
	float scale[tile], total[tile];
	__m512 top[tile];
	for (int i = 0; i < r; i++) {
		scale[i] = narrow(q + i * row, m->width, w, fine(m), queries + i * w) * m->scale * 1.44269504f; // for powers of 2
		top[i] = none;
	}
	for (int b = 0; b < m->blocks; b++) {
		packed p = packed_of(m, head, b);
		int32_t products[tile * block];
		(r == tile ? multiply6x4 : multiply1x4)(queries, w, p.keys, block, w / 2, products);
		for (int j = 0; j < block; j += lanes) {
			const int at = b * block + j;
			const __mmask16 there = at < m->keys ? first_lanes(m->keys - at) : 0;
			const __m512 by = _mm512_loadu_ps(p.key + j);
			for (int i = 0; i < r; i++) {
				__m512 x = _mm512_mask_mul_ps(none, there, _mm512_cvtepi32_ps(_mm512_loadu_si512(products + i * block + j)), by);
				_mm512_storeu_ps(scores + i * all + at, x);
				top[i] = _mm512_max_ps(top[i], x);
			}
		}
	}
	for (int i = 0; i < r; i++) {
		const __m512 by = _mm512_set1_ps(scale[i]), from = _mm512_set1_ps(whole - _mm512_reduce_max_ps(top[i]) * scale[i]);
		__m512 sum = _mm512_setzero_ps();
		for (int j = 0; j < all; j += lanes) {
			__m512 e = power2(_mm512_fmadd_ps(_mm512_loadu_ps(scores + i * all + j), by, from));
			e = _mm512_maskz_mov_ps(j < m->keys ? first_lanes(m->keys - j) : 0, e);
			sum = _mm512_add_ps(sum, e);
			_mm256_storeu_si256((__m256i *)(weights + i * all + j), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(e)));
		}
		total[i] = _mm512_reduce_add_ps(sum);
	}
	memset(sums, 0, (size_t)r * w * sizeof *sums);
	for (int b = 0; b < m->blocks; b++) {
		packed p = packed_of(m, head, b);
		int c = 0;
		for (; c + block <= w; c += block) weigh(weights + b * block, all, p.values + 2 * c, p.value + c, w, r, 4, sums + c);
		if (c < w) weigh(weights + b * block, all, p.values + 2 * c, p.value + c, w, r, 2, sums + c);
	}
	for (int i = 0; i < r; i++)
		for (int c = 0; c < m->width; c += lanes)
			_mm512_mask_storeu_ps(out + i * row + c, first_lanes(m->width - c), _mm512_mul_ps(_mm512_loadu_ps(sums + i * w + c), _mm512_set1_ps(1 / total[i])));
}

AVX512 static void attend6(const multihead *m, int head, const float *q, char *scratch, float *out) { attend(m, head, q, scratch, 6, out); }
AVX512 static void attend1(const multihead *m, int head, const float *q, char *scratch, float *out) { attend(m, head, q, scratch, 1, out); }

void lookout_multihead_attend(const multihead *m, int part) {
	char *scratch = m->scratch + up((size_t)m->batch * m->heads * m->blocks * of_block(m)) + part * of_part(m);
	const long all = (long)m->batch * m->heads * m->tiles, end = all * (part + 1) / m->parts;
	const size_t row = (size_t)m->heads * m->width;
	for (long t = all * part / m->parts; t < end; t++) {
		int head = (int)(t / m->tiles), first = (int)(t % m->tiles) * tile;
		size_t at = ((size_t)(head / m->heads) * m->rows + first) * row + (size_t)(head % m->heads) * m->width;
		if (first + tile <= m->rows) {
			attend6(m, head, m->q + at, scratch, m->out + at);
			continue;
		}
		for (int i = first; i < m->rows; i++, at += row) attend1(m, head, m->q + at, scratch, m->out + at);
	}
}

#else // no node is changed where it is not supported

size_t lookout_multihead_plan(multihead *m) { return (void)m, 0; }
void lookout_multihead_pack(const multihead *m, int block) { (void)m, (void)block; }
void lookout_multihead_attend(const multihead *m, int part) { (void)m, (void)part; }
#endif
