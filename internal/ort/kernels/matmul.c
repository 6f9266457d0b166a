#include "matmul.h"

#if defined(__x86_64__)

#include <math.h>
#include <string.h>

#include "arena.h"
#include "simd.h"

enum {
	columns = lanes, // in a panel: one for each 32 bits of a register
	ahead = 8192,    // bytes of weights to fetch before they are read
};

// rows of 8-bit numbers as quantise leaves them in the scratch memory.
typedef struct {
	const char *q;        // [rows][k], of 1 or 2 bytes each
	const float *scale;   // [rows][blocks]
	const int32_t *start; // [rows][blocks]: the sum of the block times what its weights count from
} quantised;

static size_t up(size_t n) { return (n + 63) & ~(size_t)63; }

// Products of 8 bits with 8 do not fit where AVX2 adds up pairs of them: there a number of a row takes two bytes, and weights
// have a sign. Else they count from the middle.
static size_t bytes(const matrix *m) { return lanes == 8 && m->bits == 8 ? 2 : 1; }
static int32_t middle(const matrix *m) { return m->bits == 4 ? 8 : lanes == 8 ? 0 : 128; }

static size_t scratch(const matrix *m, size_t rows) {
	return up(rows * m->k * bytes(m)) + 2 * up(rows * m->blocks * 4);
}

static quantised parts(const matrix *m, const void *scratch, size_t rows) {
	quantised a;
	a.q = scratch;
	a.scale = (const float *)((const char *)scratch + up(rows * m->k * bytes(m)));
	a.start = (const int32_t *)((const char *)a.scale + up(rows * m->blocks * 4));
	return a;
}

SIMD static void quantise(const matrix *m, const float *x, size_t rows, void *scratch) {
	quantised a = parts(m, scratch, rows);
	char *q = (char *)a.q;
	float *scale = (float *)a.scale;
	int32_t *start = (int32_t *)a.start;
	for (size_t i = 0; i < rows * m->blocks; i++, x += m->block, q += m->block * bytes(m)) {
		reals most = zeros();
		for (int j = 0; j < m->block; j += lanes) most = higher(most, magnitude(load(x + j)));
		float largest = highest(most);
		reals by = all(largest > 0 ? 127 / largest : 0);
		wholes sum = no_wholes();
		for (int j = 0; j < m->block; j += lanes) {
			wholes v = to_wholes(mul(load(x + j), by));
			sum = add_wholes(sum, v);
			if (bytes(m) == 2)
				store_16((int16_t *)q + j, v);
			else
				store_8((int8_t *)q + j, v);
		}
		scale[i] = largest / 127 * m->unit;
		start[i] = -middle(m) * total_of_wholes(sum);
	}
}

// fetch asks for weights that are soon to be read, into the second cache, which waits for many lines at a
// time; the hardware by itself fetches within a page only.
INLINE void fetch(const void *w) { _mm_prefetch((const char *)w, _MM_HINT_T1); }

// four_bytes has the same in all lanes.
INLINE wholes four_bytes(const char *q) {
	int32_t four;
	memcpy(&four, q, sizeof four);
	return all_wholes(four);
}

#if defined(LOOKOUT_AVX2)

// IN_ORDER keeps the compiler from multiplying all before it adds up, for which there are not registers enough.
#define IN_ORDER(v) __asm__("" : "+x"(v))

enum { most_rows = 4 }; // that go through a panel together

// add_nibbles adds to the whole sums of n rows what a block of a panel gives. 8 products of 4 bits with 8, in pairs, just fit
// into 16 bits.
INLINE void add_nibbles(const matrix *m, const uint8_t *w, const char *q, const int n, wholes *sums) {
	const wholes low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
	for (int end = m->block; end > 0; end -= 32) {
		wholes few[most_rows];
#pragma GCC unroll 8
		for (int r = 0; r < n; r++) few[r] = no_wholes();
#pragma GCC unroll 4
		for (int g = 0; g < 4; g++, w += 4 * columns, q += 8) {
			if (n <= 2 && g % 2 == 0) fetch(w + ahead);
			const wholes v = _mm256_load_si256((const __m256i *)w);
			const wholes first = _mm256_and_si256(v, low), second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
#pragma GCC unroll 8
			for (int r = 0; r < n; r++) {
				few[r] = _mm256_add_epi16(few[r], _mm256_maddubs_epi16(first, four_bytes(q + (size_t)r * m->k)));
				few[r] = _mm256_add_epi16(few[r], _mm256_maddubs_epi16(second, four_bytes(q + (size_t)r * m->k + 4)));
				IN_ORDER(few[r]);
			}
		}
#pragma GCC unroll 8
		for (int r = 0; r < n; r++) sums[r] = dot_16(sums[r], few[r], ones);
	}
}

// add_bytes does for weights of 8 bits.
INLINE void add_bytes(const matrix *m, const uint8_t *w, const char *q, const int n, wholes *sums) {
	for (int end = m->block; end > 0; end -= 8)
#pragma GCC unroll 4
		for (int g = 0; g < 4; g++, w += 2 * columns, q += 4) {
			if (n <= 2 && g == 0) fetch(w + ahead);
			const wholes v = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)w));
#pragma GCC unroll 8
			for (int r = 0; r < n; r++) {
				sums[r] = dot_16(sums[r], v, four_bytes(q + (size_t)r * m->k * 2));
				IN_ORDER(sums[r]);
			}
		}
}

#else

enum { most_rows = 8 };

INLINE void add_nibbles(const matrix *m, const uint8_t *w, const char *q, const int n, wholes *sums) {
	const wholes low = _mm512_set1_epi8(15);
	wholes odd[most_rows]; // two chains each: one would wait for itself
#pragma GCC unroll 8
	for (int r = 0; r < n; r++)
		if (n <= 2) odd[r] = no_wholes();
	for (int end = m->block; end > 0; end -= 32) {
#pragma GCC unroll 4
		for (int g = 0; g < 4; g++, w += 4 * columns, q += 8) {
			if (n <= 2) fetch(w + ahead);
			wholes v = _mm512_load_si512(w);
			wholes first = _mm512_and_si512(v, low), second = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
#pragma GCC unroll 8
			for (int r = 0; r < n; r++) {
				const wholes left = four_bytes(q + (size_t)r * m->k), right = four_bytes(q + (size_t)r * m->k + 4);
				sums[r] = _mm512_dpbusd_epi32(sums[r], first, left);
				if (n <= 2)
					odd[r] = _mm512_dpbusd_epi32(odd[r], second, right);
				else
					sums[r] = _mm512_dpbusd_epi32(sums[r], second, right);
			}
		}
	}
	if (n <= 2)
#pragma GCC unroll 8
		for (int r = 0; r < n; r++) sums[r] = add_wholes(sums[r], odd[r]);
}

INLINE void add_bytes(const matrix *m, const uint8_t *w, const char *q, const int n, wholes *sums) {
	for (int end = m->block; end > 0; end -= 16)
#pragma GCC unroll 4
		for (int g = 0; g < 4; g++, w += 4 * columns, q += 4) {
			if (n <= 2) fetch(w + ahead);
			const wholes v = _mm512_load_si512(w);
#pragma GCC unroll 8
			for (int r = 0; r < n; r++) sums[r] = _mm512_dpbusd_epi32(sums[r], v, four_bytes(q + (size_t)r * m->k));
		}
}

#endif

// product computes a panel for n rows from row on. Each weight is unpacked once for all of them.
INLINE void product(const matrix *m, const quantised *a, const int bits, int panel, size_t row, const int n, float *y) {
	const uint8_t *w = m->weights + (size_t)panel * m->k * columns * bits / 8;
	const uint16_t *scale = m->scales + (size_t)panel * m->blocks * columns;
	const char *q = a->q + row * m->k * bytes(m);
	reals sums[most_rows];
#pragma GCC unroll 8
	for (int r = 0; r < n; r++) sums[r] = zeros();
	for (int b = 0; b < m->blocks; b++, w += m->block * columns * bits / 8, q += m->block * bytes(m)) {
		wholes whole[most_rows];
#pragma GCC unroll 8
		for (int r = 0; r < n; r++) whole[r] = all_wholes(a->start[(row + r) * m->blocks + b]);
		if (bits == 4)
			add_nibbles(m, w, q, n, whole);
		else
			add_bytes(m, w, q, n, whole);
		if (n <= 2) fetch((const char *)scale + ahead / 8);
		reals s = load_halves(scale);
		scale += columns;
#pragma GCC unroll 8
		for (int r = 0; r < n; r++) sums[r] = mul_add(to_reals(whole[r]), mul(s, all(a->scale[(row + r) * m->blocks + b])), sums[r]);
	}
#pragma GCC unroll 8
	for (int r = 0; r < n; r++) store_some(y + (row + r) * m->n + panel * columns, m->n - panel * columns, sums[r]);
}

// Functions of their own, for which the compiler has registers enough.
#define PRODUCT(name, bits, n) \
	__attribute__((noinline)) SIMD static void name(const matrix *m, const quantised *a, int panel, size_t row, float *y) { product(m, a, bits, panel, row, n, y); }
PRODUCT(nibbles_1, 4, 1)
PRODUCT(nibbles_2, 4, 2)
PRODUCT(nibbles_4, 4, 4)
PRODUCT(bytes_1, 8, 1)
PRODUCT(bytes_2, 8, 2)
PRODUCT(bytes_4, 8, 4)
#if defined(LOOKOUT_AVX2)

enum { tall = 6 }; // rows that go through two panels at a time

// bytes_tall computes two panels for `tall` rows: twelve sums, of which each weight and each number that is loaded is good for
// more than in a panel at a time.
__attribute__((noinline)) SIMD static void bytes_tall(const matrix *m, const quantised *a, int panel, size_t row, float *y) {
	const int8_t *left = (const int8_t *)m->weights + (size_t)panel * m->k * columns, *right = left + (size_t)m->k * columns;
	const uint16_t *scale = m->scales + (size_t)panel * m->blocks * columns;
	const int16_t *q = (const int16_t *)a->q + row * m->k;
	reals sums[2 * tall];
	for (int i = 0; i < 2 * tall; i++) sums[i] = zeros();
	for (int b = 0; b < m->blocks; b++, scale += columns) {
		wholes whole[2 * tall];
#pragma GCC unroll 12
		for (int i = 0; i < 2 * tall; i++) whole[i] = no_wholes();
		for (int end = m->block; end > 0; end -= 2, left += 2 * columns, right += 2 * columns, q += 2) {
			const wholes l = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)left)), r = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)right));
#pragma GCC unroll 6
			for (int i = 0; i < tall; i++) {
				const wholes both = four_bytes((const char *)(q + (size_t)i * m->k));
				whole[2 * i] = dot_16(whole[2 * i], l, both);
				whole[2 * i + 1] = dot_16(whole[2 * i + 1], r, both);
				IN_ORDER(whole[2 * i]);
				IN_ORDER(whole[2 * i + 1]);
			}
		}
		const reals of_left = load_halves(scale), of_right = load_halves(scale + (size_t)m->blocks * columns);
#pragma GCC unroll 6
		for (int i = 0; i < tall; i++) {
			const reals by = all(a->scale[(row + i) * m->blocks + b]);
			sums[2 * i] = mul_add(to_reals(whole[2 * i]), mul(of_left, by), sums[2 * i]);
			sums[2 * i + 1] = mul_add(to_reals(whole[2 * i + 1]), mul(of_right, by), sums[2 * i + 1]);
		}
	}
	for (int i = 0; i < tall; i++)
		for (int j = 0; j < 2; j++) {
			const int c = (panel + j) * columns;
			store_some(y + (row + i) * m->n + c, m->n - c, sums[2 * i + j]);
		}
}

#else
PRODUCT(nibbles_8, 4, 8)
PRODUCT(bytes_8, 8, 8)
#endif

#if defined(LOOKOUT_AMX)

enum { tile = 16 }; // rows

static int step_of(const matrix *m) { return m->block < 64 ? m->block : 64; }

// unpack makes weights of a panel into bytes with a sign, four of each column behind each other.
INLINE const uint8_t *unpack(const uint8_t *w, int bits, int step, uint8_t *to) {
	const wholes low = _mm512_set1_epi8(15), from = _mm512_set1_epi8(bits == 4 ? 8 : (char)128);
	uint8_t *at = to;
	for (int i = 0; i < step; i += 8, at += 128) {
		wholes first = _mm512_load_si512(w), second;
		if (bits == 4) {
			second = _mm512_and_si512(_mm512_srli_epi16(first, 4), low);
			first = _mm512_and_si512(first, low);
			w += 64;
		} else {
			second = _mm512_load_si512(w + 64);
			w += 128;
		}
		_mm512_store_si512(at, _mm512_sub_epi8(first, from));
		_mm512_store_si512(at + 64, _mm512_sub_epi8(second, from));
	}
	return to;
}

// multiply_tiles computes c panels for t tiles of rows, one or two each.
INLINE void multiply_tiles(const matrix *m, const quantised *a, int panel, size_t row, const int t, const int c, float *y) {
	const int bits = m->bits, step = step_of(m);
	_Alignas(64) float sums[2 * tile][2 * columns] = {{0}};
	_Alignas(64) int32_t whole[2 * tile][2 * columns];
	_Alignas(64) uint8_t bytes[2][64 * columns];
	const uint8_t *w[2];
	for (int p = 0; p < c; p++) w[p] = m->weights + (size_t)(panel + p) * m->k * columns * bits / 8;
	const char *q = a->q + row * m->k;
	for (int b = 0; b < m->blocks; b++) {
		_tile_zero(0);
		_tile_zero(1);
		_tile_zero(2);
		_tile_zero(3);
		for (int i = 0; i < m->block; i += step, q += step) {
			_tile_loadd(6, unpack(w[0], bits, step, bytes[0]), 64);
			w[0] += step * columns * bits / 8;
			_tile_loadd(4, q, m->k);
			_tile_dpbssd(0, 4, 6);
			if (c == 2) {
				_tile_loadd(7, unpack(w[1], bits, step, bytes[1]), 64);
				w[1] += step * columns * bits / 8;
				_tile_dpbssd(1, 4, 7);
			}
			if (t == 2) {
				_tile_loadd(5, q + (size_t)tile * m->k, m->k);
				_tile_dpbssd(2, 5, 6);
				if (c == 2) _tile_dpbssd(3, 5, 7);
			}
		}
		_tile_stored(0, whole[0], sizeof whole[0]);
		if (c == 2) _tile_stored(1, whole[0] + columns, sizeof whole[0]);
		if (t == 2) _tile_stored(2, whole[tile], sizeof whole[0]);
		if (t == 2 && c == 2) _tile_stored(3, whole[tile] + columns, sizeof whole[0]);
		reals scale[2];
		for (int p = 0; p < c; p++) scale[p] = load_halves(m->scales + ((size_t)(panel + p) * m->blocks + b) * columns);
		for (int r = 0; r < t * tile; r++) {
			const size_t at = (row + r) * m->blocks + b;
			const reals by = all(a->scale[at]);
#pragma GCC unroll 2
			for (int p = 0; p < c; p++) {
				float *sum = sums[r] + p * columns;
				store(sum, mul_add(to_reals(load_wholes(whole[r] + p * columns)), mul(scale[p], by), load(sum)));
			}
		}
	}
	for (int r = 0; r < t * tile; r++)
		for (int p = 0; p < c; p++) {
			const int first = (panel + p) * columns;
			store_some(y + (row + r) * m->n + first, m->n - first, load(sums[r] + p * columns));
		}
}

#define TILES(name, t, c) \
	__attribute__((noinline)) SIMD static void name(const matrix *m, const quantised *a, int panel, size_t row, float *y) { multiply_tiles(m, a, panel, row, t, c, y); }
TILES(tiles_1_1, 1, 1)
TILES(tiles_1_2, 1, 2)
TILES(tiles_2_1, 2, 1)
TILES(tiles_2_2, 2, 2)

// multiply_tall computes whole tiles of rows and tells how many rows that are.
SIMD static size_t multiply_tall(const matrix *m, const quantised *a, size_t rows, int from, int to, float *y) {
	if (rows < tile) return 0;
	open_tiles(step_of(m));
	for (int p = from; p < to; p += 2) {
		size_t r = 0;
		for (; r + 2 * tile <= rows; r += 2 * tile) (p + 1 < to ? tiles_2_2 : tiles_2_1)(m, a, p, r, y);
		if (r + tile <= rows) (p + 1 < to ? tiles_1_2 : tiles_1_1)(m, a, p, r, y);
	}
	close_tiles();
	return rows / tile * tile;
}

#endif

SIMD static void multiply(const matrix *m, const void *scratch, size_t rows, int from, int to, float *y) {
	quantised a = parts(m, scratch, rows);
	size_t done = 0;
#if defined(LOOKOUT_AVX2)
	if (m->bits == 8 && (to - from) % 2 == 0)
		for (; done + tall <= rows; done += tall)
			for (int p = from; p < to; p += 2) bytes_tall(m, &a, p, done, y);
#endif
#if defined(LOOKOUT_AMX)
	done = multiply_tall(m, &a, rows, from, to, y);
#endif
	for (int p = from; p < to; p++) {
		size_t r = done;
#if !defined(LOOKOUT_AVX2)
		for (; r + 8 <= rows; r += 8) (m->bits == 4 ? nibbles_8 : bytes_8)(m, &a, p, r, y);
#endif
		for (; r + 4 <= rows; r += 4) (m->bits == 4 ? nibbles_4 : bytes_4)(m, &a, p, r, y);
		if (r + 2 <= rows) (m->bits == 4 ? nibbles_2 : bytes_2)(m, &a, p, r, y), r += 2;
		if (r < rows) (m->bits == 4 ? nibbles_1 : bytes_1)(m, &a, p, r, y);
	}
}

static void release(matrix *m) {
	lookout_arena_put(m->weights);
	lookout_arena_put(m->scales);
	m->weights = NULL;
	m->scales = NULL;
}

// pack_nibbles packs 8 weights of each column of a panel: 4 in the lower halves, 4 in the upper.
static uint8_t *pack_nibbles(const matrix *m, int panel, const uint8_t *weights, uint8_t *w) {
	for (int i = 0; i < m->k; i += 8)
		for (int c = 0; c < columns; c++, w += 4) {
			int column = panel * columns + c;
			if (column >= m->n) {
				memset(w, 0x88, 4);
				continue;
			}
			const uint8_t *from = weights + ((size_t)column * m->k + i) / 2;
			w[0] = (from[0] & 15) | (from[2] & 15) << 4;
			w[1] = from[0] >> 4 | (from[2] & 0xf0);
			w[2] = (from[1] & 15) | (from[3] & 15) << 4;
			w[3] = from[1] >> 4 | (from[3] & 0xf0);
		}
	return w;
}

// pack_bytes packs as many weights of each column of a panel as 32 bits of a row have.
static uint8_t *pack_bytes(const matrix *m, int panel, const uint8_t *weights, uint8_t *w) {
	const int run = 4 / (int)bytes(m);
	for (int i = 0; i < m->k; i += run)
		for (int c = 0; c < columns; c++)
			for (int j = 0; j < run; j++) {
				int column = panel * columns + c;
				*w++ = (column < m->n ? weights[(size_t)column * m->k + i + j] : 128) - 128 + middle(m);
			}
	return w;
}

SIMD static int pack(matrix *m, int bits, int k, int n, int block, const uint8_t *weights, const float *scales) {
	*m = (matrix){.bits = bits, .k = k, .n = n, .block = block, .blocks = k / block, .panels = (n + columns - 1) / columns, .columns = columns};
	m->weights = lookout_arena_get((size_t)m->panels * k * columns * bits / 8);
	m->scales = lookout_arena_get((size_t)m->panels * m->blocks * columns * 2);
	if (!m->weights || !m->scales) {
		release(m);
		return 0;
	}
	// Scales of 16 bits are less to read. The largest is near the end of their
	// range: what is too small for them then is nothing beside it.
	float largest = 0;
	for (size_t i = 0; i < (size_t)n * m->blocks; i++) largest = fmaxf(largest, fabsf(scales[i]));
	int exponent = 0;
	frexpf(largest, &exponent);
	m->unit = ldexpf(1, exponent - 15);
	uint8_t *w = m->weights;
	uint16_t *s = m->scales;
	for (int p = 0; p < m->panels; p++) {
		w = (bits == 4 ? pack_nibbles : pack_bytes)(m, p, weights, w);
		for (int b = 0; b < m->blocks; b++)
			for (int c = 0; c < columns; c++) {
				int column = p * columns + c;
				*s++ = column < n ? _cvtss_sh(scales[(size_t)column * m->blocks + b] / m->unit, _MM_FROUND_TO_NEAREST_INT) : 0;
			}
	}
	return 1;
}

const blocks_kernels NAMED(lookout_blocks) = {pack, release, scratch, quantise, multiply};

#endif
