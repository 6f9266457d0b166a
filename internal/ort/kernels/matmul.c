#include "matmul.h"

#include <math.h>
#include <string.h>

#include "arena.h"

enum {
	columns = 16, // in a panel: one for each 32-bit lane of a register
	ahead = 8192, // bytes of weights to fetch before they are read
};

#if defined(__x86_64__)

#include "simd.h"

int lookout_kernels_supported(void) {
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("f16c");
}

// rows of 8-bit numbers as quantise leaves them in the scratch memory.
typedef struct {
	const int8_t *q;      // [rows][k]
	const float *scale;   // [rows][blocks]
	const int32_t *start; // [rows][blocks]: -8 times the sum of the block, for weights count from 8
} quantised;

static size_t up(size_t n) { return (n + 63) & ~(size_t)63; }

size_t lookout_int4_scratch(const matrix *m, size_t rows) {
	return up(rows * m->k) + 2 * up(rows * m->blocks * 4);
}

static quantised parts(const matrix *m, const void *scratch, size_t rows) {
	quantised a;
	a.q = scratch;
	a.scale = (const float *)((const char *)scratch + up(rows * m->k));
	a.start = (const int32_t *)((const char *)a.scale + up(rows * m->blocks * 4));
	return a;
}

AVX512 void lookout_int4_quantise(const matrix *m, const float *x, size_t rows, void *scratch) {
	quantised a = parts(m, scratch, rows);
	int8_t *q = (int8_t *)a.q;
	float *scale = (float *)a.scale;
	int32_t *start = (int32_t *)a.start;
	for (size_t i = 0; i < rows * m->blocks; i++, x += m->block, q += m->block) {
		__m512 most = _mm512_setzero_ps();
		for (int j = 0; j < m->block; j += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + j)));
		float largest = _mm512_reduce_max_ps(most);
		__m512 by = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
		__m512i sum = _mm512_setzero_si512();
		for (int j = 0; j < m->block; j += 16) {
			__m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + j), by));
			sum = _mm512_add_epi32(sum, v);
			_mm_storeu_si128((__m128i *)(q + j), _mm512_cvtsepi32_epi8(v));
		}
		scale[i] = largest / 127 * m->unit;
		start[i] = -8 * _mm512_reduce_add_epi32(sum);
	}
}

// product computes a panel for n rows from row on. Each weight is unpacked once for all of them.
INLINE void product(const matrix *m, const quantised *a, int panel, size_t row, const int n, float *y) {
	const uint8_t *w = m->nibbles + (size_t)panel * m->k * (columns / 2);
	const uint16_t *scale = m->scales + (size_t)panel * m->blocks * columns;
	const int8_t *q = a->q + row * m->k;
	const __m512i low = _mm512_set1_epi8(15);
	__m512 sums[8];
	for (int r = 0; r < n; r++) sums[r] = _mm512_setzero_ps();
	for (int b = 0; b < m->blocks; b++) {
		__m512i even[8], odd[8]; // two chains each: one would wait for itself
		for (int r = 0; r < n; r++) {
			even[r] = _mm512_set1_epi32(a->start[(row + r) * m->blocks + b]);
			if (n <= 2) odd[r] = _mm512_setzero_si512();
		}
		for (int end = m->block; end > 0; end -= 32) {
#pragma GCC unroll 4
			for (int g = 0; g < 4; g++, w += 64, q += 8) {
				// Into the second cache, which waits for many lines at a time; the hardware by itself fetches within a page only.
				if (n <= 2) _mm_prefetch((const char *)w + ahead, _MM_HINT_T1);
				__m512i v = _mm512_load_si512(w);
				__m512i first = _mm512_and_si512(v, low), second = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
				for (int r = 0; r < n; r++) {
					int32_t four[2];
					memcpy(four, q + (size_t)r * m->k, 8);
					even[r] = _mm512_dpbusd_epi32(even[r], first, _mm512_set1_epi32(four[0]));
					if (n <= 2)
						odd[r] = _mm512_dpbusd_epi32(odd[r], second, _mm512_set1_epi32(four[1]));
					else
						even[r] = _mm512_dpbusd_epi32(even[r], second, _mm512_set1_epi32(four[1]));
				}
			}
		}
		if (n <= 2) _mm_prefetch((const char *)scale + ahead / 8, _MM_HINT_T1);
		__m512 s = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)scale));
		scale += columns;
		for (int r = 0; r < n; r++) {
			__m512i whole = n <= 2 ? _mm512_add_epi32(even[r], odd[r]) : even[r];
			__m512 by = _mm512_mul_ps(s, _mm512_set1_ps(a->scale[(row + r) * m->blocks + b]));
			sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), by, sums[r]);
		}
	}
	__mmask16 there = first_lanes(m->n - panel * columns);
	for (int r = 0; r < n; r++) _mm512_mask_storeu_ps(y + (row + r) * m->n + panel * columns, there, sums[r]);
}

AVX512 void lookout_int4_multiply(const matrix *m, const void *scratch, size_t rows, int from, int to, float *y) {
	quantised a = parts(m, scratch, rows);
	for (int p = from; p < to; p++) {
		size_t r = 0;
		for (; r + 8 <= rows; r += 8) product(m, &a, p, r, 8, y);
		if (r + 4 <= rows) product(m, &a, p, r, 4, y), r += 4;
		if (r + 2 <= rows) product(m, &a, p, r, 2, y), r += 2;
		if (r < rows) product(m, &a, p, r, 1, y);
	}
}

AVX512 int lookout_int4_pack(matrix *m, int k, int n, int block, const uint8_t *nibbles, const float *scales) {
	*m = (matrix){.k = k, .n = n, .block = block, .blocks = k / block, .panels = (n + columns - 1) / columns};
	m->nibbles = lookout_arena_get((size_t)m->panels * k * (columns / 2));
	m->scales = lookout_arena_get((size_t)m->panels * m->blocks * columns * 2);
	if (!m->nibbles || !m->scales) {
		lookout_int4_free(m);
		return 0;
	}
	// Scales of 16 bits are a tenth less to read. The largest is near the end of their
	// range: what is too small for them then is nothing beside it.
	float largest = 0;
	for (size_t i = 0; i < (size_t)n * m->blocks; i++) largest = fmaxf(largest, fabsf(scales[i]));
	int exponent = 0;
	frexpf(largest, &exponent);
	m->unit = ldexpf(1, exponent - 15);
	uint8_t *w = m->nibbles;
	uint16_t *s = m->scales;
	for (int p = 0; p < m->panels; p++) {
		for (int i = 0; i < k; i += 8) // 8 weights of 16 columns: 4 in the lower halves, 4 in the upper
			for (int c = 0; c < columns; c++, w += 4) {
				int column = p * columns + c;
				if (column >= n) {
					memset(w, 0x88, 4);
					continue;
				}
				const uint8_t *from = nibbles + ((size_t)column * k + i) / 2;
				w[0] = (from[0] & 15) | (from[2] & 15) << 4;
				w[1] = from[0] >> 4 | (from[2] & 0xf0);
				w[2] = (from[1] & 15) | (from[3] & 15) << 4;
				w[3] = from[1] >> 4 | (from[3] & 0xf0);
			}
		for (int b = 0; b < m->blocks; b++)
			for (int c = 0; c < columns; c++) {
				int column = p * columns + c;
				*s++ = column < n ? _cvtss_sh(scales[(size_t)column * m->blocks + b] / m->unit, _MM_FROUND_TO_NEAREST_INT) : 0;
			}
	}
	return 1;
}

void lookout_int4_free(matrix *m) {
	lookout_arena_put(m->nibbles);
	lookout_arena_put(m->scales);
	m->nibbles = NULL;
	m->scales = NULL;
}

#else // nothing is packed where it is not supported

int lookout_kernels_supported(void) { return 0; }
AVX512 int lookout_int4_pack(matrix *m, int k, int n, int block, const uint8_t *nibbles, const float *scales) {
	return (void)m, (void)k, (void)n, (void)block, (void)nibbles, (void)scales, 0;
}
void lookout_int4_free(matrix *m) { (void)m; }
size_t lookout_int4_scratch(const matrix *m, size_t rows) { return (void)m, (void)rows, 0; }
void lookout_int4_quantise(const matrix *m, const float *x, size_t rows, void *scratch) { (void)m, (void)x, (void)rows, (void)scratch; }
void lookout_int4_multiply(const matrix *m, const void *scratch, size_t rows, int from, int to, float *y) {
	(void)m, (void)scratch, (void)rows, (void)from, (void)to, (void)y;
}
#endif
