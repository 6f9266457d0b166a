#include "int8.h"

#include <string.h>

#include "arena.h"

enum {
	tile = 12,     // rows that are multiplied together: with two registers of columns, all registers that there are
	columns = 32,  // in a panel
	together = 16, // tiles that go through a panel while it is in the first cache
	share = 8,     // panels of a part
};

#if defined(__x86_64__)

#include "simd.h"

static size_t up(size_t n) { return (n + 63) & ~(size_t)63; }

static size_t quads(const matrix8 *m) { return ((size_t)m->k + 3) / 4; }

void lookout_int8_free(matrix8 *m) {
	lookout_arena_put(m->weights);
	lookout_arena_put(m->scales);
	m->weights = NULL;
	m->scales = NULL;
}

int lookout_int8_pack(matrix8 *m, int k, int n, const int8_t *weights, const float *scales, size_t n_scales, const int8_t *zeros, size_t n_zeros, const float *bias) {
	*m = (matrix8){.k = k, .n = n, .panels = (n + columns - 1) / columns, .centred = 1};
	const size_t all = (size_t)m->panels * columns;
	m->weights = lookout_arena_get(quads(m) * 4 * all);
	m->scales = lookout_arena_get(4 * all * sizeof *m->scales);
	if (!m->weights || !m->scales) {
		lookout_int8_free(m);
		return 0;
	}
	m->bias = m->scales + all;
	m->sums = (int32_t *)(m->bias + all);
	m->zeros = m->sums + all;
	memset(m->weights, 0, quads(m) * 4 * all);
	memset(m->scales, 0, 4 * all * sizeof *m->scales);
	for (int c = 0; c < n; c++) {
		m->scales[c] = scales[n_scales > 1 ? c : 0];
		if (bias) m->bias[c] = bias[c];
		if (zeros) m->zeros[c] = zeros[n_zeros > 1 ? c : 0];
		m->centred &= m->zeros[c] == 0;
	}
	for (size_t i = 0; i < (size_t)k; i++) // [panels][quads][columns][4]
		for (int c = 0; c < n; c++) {
			int8_t w = weights[i * n + c];
			m->weights[((c / columns * quads(m) + i / 4) * columns + c % columns) * 4 + i % 4] = w;
			m->sums[c] += w;
		}
	return 1;
}

// entered are the rows of a tile: [quads][tile][4] bytes, and for each row its scale, its zero and
// the sum of what it is above it.
typedef struct {
	uint8_t *q;
	float *scale;
	int32_t *zero, *sum;
} entered;

static size_t of_tile(const matrix8 *m) { return up(quads(m) * tile * 4 + 3 * tile * 4); }

static entered entered_of(const product8 *p, size_t t) {
	entered e = {.q = (uint8_t *)p->scratch + t * of_tile(p->m)};
	e.scale = (float *)(e.q + quads(p->m) * tile * 4);
	e.zero = (int32_t *)(e.scale + tile);
	e.sum = e.zero + tile;
	return e;
}

size_t lookout_int8_plan(product8 *p) {
	p->tiles = (p->rows + tile - 1) / tile;
	p->groups = (p->tiles + together - 1) / together;
	p->shares = (p->m->panels + share - 1) / share;
	return p->tiles * of_tile(p->m);
}

AVX512 void lookout_int8_enter(const product8 *p, size_t t) {
	const int k = p->m->k;
	entered e = entered_of(p, t);
	for (int r = 0; r < tile; r++) {
		uint32_t *to = (uint32_t *)e.q + r; // quads, a tile apart
		const size_t row = t * tile + r;
		e.scale[r] = 0;
		e.zero[r] = e.sum[r] = 0;
		if (row >= p->rows) { // nobody asks for these
			for (size_t i = 0; i < quads(p->m); i++) to[i * tile] = 0;
			continue;
		}
		__m512i sum = _mm512_setzero_si512();
		if (p->q) {
			e.scale[r] = p->scale;
			e.zero[r] = p->zero;
			for (int i = 0; i < k; i += lanes) {
				__m128i v = _mm_maskz_loadu_epi8(first_lanes(k - i), p->q + row * k + i);
				uint32_t four[4];
				_mm_storeu_si128((__m128i *)four, v);
				sum = _mm512_add_epi32(sum, _mm512_cvtepu8_epi32(v));
				for (int j = 0; j < 4 && i + 4 * j < k; j++) to[(i / 4 + j) * tile] = four[j];
			}
		} else {
			const float *x = p->x + row * k;
			__m512 most = _mm512_setzero_ps();
			for (int i = 0; i < k; i += lanes) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(first_lanes(k - i), x + i)));
			const float largest = _mm512_reduce_max_ps(most);
			const __m512 by = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
			e.scale[r] = largest / 127;
			e.zero[r] = 128;
			for (int i = 0; i < k; i += lanes) {
				__m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(first_lanes(k - i), x + i), by));
				v = _mm512_maskz_add_epi32(first_lanes(k - i), v, _mm512_set1_epi32(128));
				uint32_t four[4];
				_mm_storeu_si128((__m128i *)four, _mm512_cvtusepi32_epi8(v));
				sum = _mm512_add_epi32(sum, v);
				for (int j = 0; j < 4 && i + 4 * j < k; j++) to[(i / 4 + j) * tile] = four[j];
			}
		}
		e.sum[r] = _mm512_reduce_add_epi32(sum) - k * e.zero[r];
	}
}

// multiply gives the whole sums of a tile's first r rows and a panel.
INLINE void multiply(const uint8_t *q, const int8_t *w, size_t n, const int r, int32_t *out) {
	__m512i acc[2 * tile];
#pragma GCC unroll 24
	for (int i = 0; i < 2 * r; i++) acc[i] = _mm512_setzero_si512();
	for (; n > 0; n--, q += 4 * tile, w += 4 * columns) {
		const __m512i left = _mm512_load_si512(w), right = _mm512_load_si512(w + 64);
#pragma GCC unroll 12
		for (int i = 0; i < r; i++) {
			int32_t four;
			memcpy(&four, q + 4 * i, sizeof four);
			const __m512i all = _mm512_set1_epi32(four);
			acc[2 * i] = _mm512_dpbusd_epi32(acc[2 * i], all, left);
			acc[2 * i + 1] = _mm512_dpbusd_epi32(acc[2 * i + 1], all, right);
		}
	}
#pragma GCC unroll 24
	for (int i = 0; i < 2 * r; i++) _mm512_storeu_si512(out + i * lanes, acc[i]);
}

// Functions of their own, for which the compiler has registers enough.
#define MULTIPLY(r) \
	__attribute__((noinline)) AVX512 static void multiply##r(const uint8_t *q, const int8_t *w, size_t n, int32_t *out) { multiply(q, w, n, r, out); }
MULTIPLY(1)
MULTIPLY(4)
MULTIPLY(12)

AVX512 void lookout_int8_multiply(const product8 *p, size_t part) {
	const matrix8 *m = p->m;
	const size_t first = part / p->shares * together, last = first + together < p->tiles ? first + together : p->tiles;
	const int from = (int)(part % p->shares) * share, to = from + share < m->panels ? from + share : m->panels;
	for (size_t t = first; t < last; t++) {
		const entered e = entered_of(p, t);
		const size_t rows = p->rows - t * tile < tile ? p->rows - t * tile : tile;
		for (int panel = from; panel < to; panel++) {
			int32_t sums[tile * columns];
			(rows == 1 ? multiply1 : rows <= 4 ? multiply4 : multiply12)(e.q, m->weights + panel * quads(m) * columns * 4, quads(m), sums);
			for (size_t r = 0; r < rows; r++)
				for (int i = 0; i < columns; i += lanes) {
					const int c = panel * columns + i;
					if (c >= m->n) break;
					__m512i s = _mm512_loadu_si512(sums + r * columns + i);
					s = _mm512_sub_epi32(s, _mm512_mullo_epi32(_mm512_loadu_si512(m->sums + c), _mm512_set1_epi32(e.zero[r])));
					if (!m->centred) s = _mm512_sub_epi32(s, _mm512_mullo_epi32(_mm512_loadu_si512(m->zeros + c), _mm512_set1_epi32(e.sum[r])));
					__m512 by = _mm512_mul_ps(_mm512_loadu_ps(m->scales + c), _mm512_set1_ps(e.scale[r]));
					_mm512_mask_storeu_ps(p->y + (t * tile + r) * m->n + c, first_lanes(m->n - c), _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), by, _mm512_loadu_ps(m->bias + c)));
				}
		}
	}
}

#else // nothing is packed where it is not supported

int lookout_int8_pack(matrix8 *m, int k, int n, const int8_t *weights, const float *scales, size_t n_scales, const int8_t *zeros, size_t n_zeros, const float *bias) {
	return (void)m, (void)k, (void)n, (void)weights, (void)scales, (void)n_scales, (void)zeros, (void)n_zeros, (void)bias, 0;
}
void lookout_int8_free(matrix8 *m) { (void)m; }
size_t lookout_int8_plan(product8 *p) { return (void)p, 0; }
void lookout_int8_enter(const product8 *p, size_t tile) { (void)p, (void)tile; }
void lookout_int8_multiply(const product8 *p, size_t part) { (void)p, (void)part; }
#endif
