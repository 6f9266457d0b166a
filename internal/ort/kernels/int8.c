#include "int8.h"

#if defined(__x86_64__)

#include <string.h>

#include "arena.h"
#include "simd.h"

enum {
	columns = 2 * lanes, // in a panel
	together = 16,       // tiles that go through a panel while it is in the first cache
	share = 8,           // panels of a part
};

// What a lane multiplies at a time is a run of numbers of a row, with as many weights of a column. Rows are tiles of as many
// as there are registers for. A row's runs lie `apart`, and come in whole steps.
#if defined(LOOKOUT_AVX2)

enum { tile = 6, few = 2, run = 2, apart = tile, step = 1 };
typedef int16_t entry; // 8 bits would not fit: the hardware cuts off sums of their products

INLINE wholes load_weights(const int8_t *w) { return _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)w)); }
INLINE wholes dot(wholes sum, wholes row, wholes weights) { return dot_16(sum, row, weights); }
// narrow makes what is in the lanes, 0 to 255, into entries.
INLINE __m128i narrow(wholes v) { return to_16(v); }
INLINE wholes load_bytes(const uint8_t *q, size_t n) {
	uint64_t eight = 0;
	if (n >= lanes)
		memcpy(&eight, q, lanes);
	else
		memcpy(&eight, q, n);
	return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)eight));
}

#else

#if defined(LOOKOUT_AMX)
enum { tile = 32, few = 4, run = 4, apart = 1, step = 16 }; // registers of 16 rows by 16 runs: two of rows with two of columns
#else
enum { tile = 12, few = 4, run = 4, apart = tile, step = 1 };
#endif
typedef uint8_t entry;

INLINE wholes load_weights(const int8_t *w) { return _mm512_load_si512(w); }
INLINE wholes dot(wholes sum, wholes row, wholes weights) { return _mm512_dpbusd_epi32(sum, row, weights); }
INLINE __m128i narrow(wholes v) { return _mm512_cvtusepi32_epi8(v); }
INLINE wholes load_bytes(const uint8_t *q, size_t n) { return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), q)); }

#endif

static size_t up(size_t n) { return (n + 63) & ~(size_t)63; }

static size_t runs(const matrix8 *m) { return ((size_t)m->k + run * step - 1) / (run * step) * step; }

// of_row is how many runs from a row to the next.
static size_t of_row(const matrix8 *m) { return apart == 1 ? runs(m) : 1; }

static void release(matrix8 *m) {
	lookout_arena_put(m->weights);
	lookout_arena_put(m->scales);
	m->weights = NULL;
	m->scales = NULL;
}

static int pack(matrix8 *m, int k, int n, const uint8_t *weights, const float *scales, size_t n_scales, const uint8_t *zeros, size_t n_zeros, int middle, const float *bias) {
	*m = (matrix8){.k = k, .n = n, .panels = (n + columns - 1) / columns, .centred = 1};
	const size_t wide = (size_t)m->panels * columns;
	m->weights = lookout_arena_get(runs(m) * run * wide);
	m->scales = lookout_arena_get(4 * wide * sizeof *m->scales);
	if (!m->weights || !m->scales) {
		release(m);
		return 0;
	}
	m->bias = m->scales + wide;
	m->sums = (int32_t *)(m->bias + wide);
	m->zeros = m->sums + wide;
	memset(m->weights, 0, runs(m) * run * wide);
	memset(m->scales, 0, 4 * wide * sizeof *m->scales);
	for (int c = 0; c < n; c++) {
		m->scales[c] = scales[n_scales > 1 ? c : 0];
		if (bias) m->bias[c] = bias[c];
		m->zeros[c] = (int8_t)((zeros ? zeros[n_zeros > 1 ? c : 0] : 0) - middle);
		m->centred &= m->zeros[c] == 0;
	}
	for (size_t i = 0; i < (size_t)k; i++) // [panels][runs][columns][run]
		for (int c = 0; c < n; c++) {
			int8_t w = (int8_t)(weights[i * n + c] - middle);
			m->weights[((c / columns * runs(m) + i / run) * columns + c % columns) * run + i % run] = w;
			m->sums[c] += w;
		}
	return 1;
}

// entered are the rows of a tile: [runs][tile][run] entries, where runs lie a tile apart, else [tile][runs][run]; and for each row its scale and the sum of
// what it is above its zero, where the weights have zeros too.
typedef struct {
	entry *q;
	float *scale;
	int32_t *sum;
} entered;

static size_t of_tile(const matrix8 *m) { return up(runs(m) * tile * 4 + 2 * tile * 4); }

static entered entered_of(const product8 *p, size_t t) {
	char *at = p->scratch + t * of_tile(p->m);
	entered e = {.q = (entry *)at, .scale = (float *)(at + runs(p->m) * tile * 4)};
	e.sum = (int32_t *)(e.scale + tile);
	return e;
}

static size_t plan(product8 *p) {
	p->tiles = (p->rows + tile - 1) / tile;
	p->groups = (p->tiles + together - 1) / together;
	p->shares = (p->m->panels + share - 1) / share;
	return p->tiles * of_tile(p->m);
}

// spread puts what is in the lanes into the runs of a row, of k numbers that are left.
INLINE void spread(wholes v, int k, uint32_t *to) {
	uint32_t four[4];
	_mm_storeu_si128((__m128i *)four, narrow(v));
	if (k >= lanes) {
		for (int j = 0; j < 4; j++) to[j * apart] = four[j];
		return;
	}
	for (int j = 0; run * j < k; j++) to[j * apart] = four[j];
}

SIMD static void enter(const product8 *p, size_t t) {
	const int k = p->m->k;
	entered e = entered_of(p, t);
	for (int r = 0; r < tile; r++) {
		uint32_t *to = (uint32_t *)e.q + r * of_row(p->m);
		const size_t row = t * tile + r;
		e.scale[r] = 0;
		e.sum[r] = 0;
		if (row >= p->rows) { // nobody asks for these
			for (size_t i = 0; i < runs(p->m); i++) to[i * apart] = 0;
			continue;
		}
		wholes sum = no_wholes();
		if (p->q) {
			e.scale[r] = p->scale;
			for (int i = 0; i < k; i += lanes) {
				wholes v = load_bytes(p->q + row * k + i, k - i);
				sum = add_wholes(sum, v);
				spread(v, k - i, to + i / run * apart);
			}
		} else {
			const float *x = p->x + row * k;
			float scale = p->scale;
			if (scale == 0) {
				reals most = zeros();
				for (int i = 0; i < k; i += lanes) most = higher(most, magnitude(load_some(x + i, k - i)));
				scale = highest(most) / 127;
			}
			e.scale[r] = scale;
			const reals by = all(scale > 0 ? 1 / scale : 0), least = all(-p->zero), largest = all(255 - p->zero);
			for (int i = 0; i < k; i += lanes) {
				const reals v = lower(higher(mul(load_some(x + i, k - i), by), least), largest);
				const wholes q = add_wholes(to_wholes(v), first_wholes(k - i, p->zero));
				sum = add_wholes(sum, q);
				spread(q, k - i, to + i / run * apart);
			}
		}
		e.sum[r] = total_of_wholes(sum) - k * p->zero;
	}
}

// multiply_tile gives the whole sums of a tile's first r rows and a panel, of n runs, whose weights' sums count -zero times.
INLINE void multiply_tile(const entry *q, size_t row, const int8_t *w, size_t n, const int32_t *of_weights, int zero, const int r, int32_t *out) {
	wholes acc[2 * tile];
#pragma GCC unroll 24
	for (int i = 0; i < 2 * r; i++) acc[i] = mul_wholes(load_wholes(of_weights + i % 2 * lanes), all_wholes(-zero));
	for (; n > 0; n--, q += run * apart, w += run * columns) {
		const wholes left = load_weights(w), right = load_weights(w + run * lanes);
#pragma GCC unroll 12
		for (int i = 0; i < r; i++) {
			int32_t four;
			memcpy(&four, q + i * run * row, sizeof four);
			const wholes here = all_wholes(four);
			acc[2 * i] = dot(acc[2 * i], here, left);
			acc[2 * i + 1] = dot(acc[2 * i + 1], here, right);
		}
	}
#pragma GCC unroll 24
	for (int i = 0; i < 2 * r; i++) store_wholes(out + i * lanes, acc[i]);
}

// Functions of their own, for which the compiler has registers enough.
#define MULTIPLY(name, r) \
	__attribute__((noinline)) SIMD static void name(const entry *q, size_t row, const int8_t *w, size_t n, const int32_t *of_weights, int zero, int32_t *out) { \
		multiply_tile(q, apart == 1 ? row : 1, w, n, of_weights, zero, r, out); \
	}
MULTIPLY(multiply_one, 1)
MULTIPLY(multiply_few, few)

#if defined(LOOKOUT_AMX)

SIMD static void open(void) { open_tiles(64); }
SIMD static void shut(void) { close_tiles(); }

SIMD static void multiply_whole(const entry *q, size_t row, const int8_t *w, size_t n, const int32_t *of_weights, int zero, int32_t *out) {
	int32_t from[columns];
	for (int i = 0; i < columns; i += lanes) store_wholes(from + i, mul_wholes(load_wholes(of_weights + i), all_wholes(-zero)));
	row *= run;
	_tile_loadd(0, from, 0); // the same in all rows
	_tile_loadd(1, from + lanes, 0);
	_tile_loadd(2, from, 0);
	_tile_loadd(3, from + lanes, 0);
	for (; n > 0; n -= step, q += run * step, w += run * step * columns) {
		_tile_loadd(6, w, run * columns);
		_tile_loadd(4, q, row);
		_tile_loadd(7, w + run * lanes, run * columns);
		_tile_dpbusd(0, 4, 6);
		_tile_loadd(5, q + tile / 2 * row, row);
		_tile_dpbusd(1, 4, 7);
		_tile_dpbusd(2, 5, 6);
		_tile_dpbusd(3, 5, 7);
	}
	_tile_stored(0, out, sizeof from);
	_tile_stored(1, out + lanes, sizeof from);
	_tile_stored(2, out + tile / 2 * columns, sizeof from);
	_tile_stored(3, out + tile / 2 * columns + lanes, sizeof from);
}

#else

static void open(void) {}
static void shut(void) {}
MULTIPLY(multiply_whole, tile)

#endif

// finish makes the whole sums of a register of columns, from c on, into what they stand for. Plain is where all of them are
// there and no weight has a zero.
INLINE void finish(const matrix8 *m, int c, const entered *e, const int32_t *sums, size_t rows, const int plain, float *y) {
	const reals scale = load(m->scales + c), bias = load(m->bias + c);
	for (size_t r = 0; r < rows; r++, sums += columns, y += m->n) {
		wholes s = load_wholes(sums);
		if (!plain) s = sub_wholes(s, mul_wholes(load_wholes(m->zeros + c), all_wholes(e->sum[r])));
		reals v = mul_add(to_reals(s), mul(scale, all(e->scale[r])), bias);
		if (plain)
			store(y, v);
		else
			store_some(y, m->n - c, v);
	}
}

SIMD static void multiply(const product8 *p, size_t part) {
	const matrix8 *m = p->m;
	const size_t first = part / p->shares * together, last = first + together < p->tiles ? first + together : p->tiles;
	const int from = (int)(part % p->shares) * share, to = from + share < m->panels ? from + share : m->panels;
	open();
	for (size_t t = first; t < last; t++) {
		const entered e = entered_of(p, t);
		const size_t rows = p->rows - t * tile < tile ? p->rows - t * tile : tile;
		for (int panel = from; panel < to; panel++) {
			int32_t sums[tile * columns];
			(rows == 1 ? multiply_one : rows <= few ? multiply_few : multiply_whole)(e.q, of_row(m), m->weights + panel * runs(m) * columns * run, runs(m), m->sums + panel * columns, p->zero, sums);
			for (int i = 0; i < columns && panel * columns + i < m->n; i += lanes) {
				const int c = panel * columns + i;
				float *y = p->y + t * tile * m->n + c;
				if (m->centred && c + lanes <= m->n)
					finish(m, c, &e, sums + i, rows, 1, y);
				else
					finish(m, c, &e, sums + i, rows, 0, y);
			}
		}
	}
	shut();
}

const int8_kernels NAMED(lookout_int8) = {pack, release, plan, enter, multiply};

#endif
