#include "attention.h"

#if defined(__x86_64__)

#include <math.h>
#include <string.h>

#include "simd.h"

enum {
	tile = 8,     // rows that go through the keys together
	chunk = 32,   // keys whose scores are held at a time
	split = 128,  // keys of a piece, where there are few rows
	most = 16,    // pieces that a row's keys are split into
	ahead = 2048, // bytes of a row's keys to fetch before they are read
	group_of = 3, // heads of a row that go through the keys together
};

// A piece leaves for each of its rows: the largest score, the sum of what the
// scores weigh, and the weighted values.
static size_t record(const attention *a) { return 2 * lanes + (size_t)a->width; }

static int group(const attention *a) { return a->heads / a->shared; }

static size_t plan(attention *a) {
	a->tiles = (a->rows + tile - 1) / tile;
	int keys = a->past + a->rows;
	a->each = a->tiles > 2 ? keys : keys > most * split ? (keys + most - 1) / most : split;
	a->splits = (keys + a->each - 1) / a->each;
	return (size_t)a->rows * a->heads * (a->width + a->splits * record(a));
}

INLINE void turn(const attention *a, const float *x, int place, float by, float *y) {
	const float *cos = a->cos + (size_t)place * a->turned, *sin = a->sin + (size_t)place * a->turned;
	int n = a->turned;
	for (int i = 0; i < n; i++) {
		y[i] = (x[i] * cos[i] - x[i + n] * sin[i]) * by;
		y[i + n] = (x[i + n] * cos[i] + x[i] * sin[i]) * by;
	}
	for (int i = 2 * n; i < a->width; i++) y[i] = x[i] * by;
}

SIMD static void enter(const attention *a, int s) {
	const size_t w = a->width;
	const float *row = a->qkv + (size_t)s * (a->heads + 2 * a->shared) * w;
	int place = a->past + s;
	for (int h = 0; h < a->heads; h++) turn(a, row + h * w, place, a->scale, a->queries + ((size_t)s * a->heads + h) * w);
	for (int h = 0; h < a->shared; h++) {
		const size_t at = ((size_t)h * a->room + place) * w;
		const float *value = row + (a->heads + a->shared + h) * w;
		if (a->half) {
			float key[lookout_attention_widest];
			turn(a, row + (a->heads + h) * w, place, 1, key);
			for (size_t i = 0; i < w; i += lanes) {
				store_halves((uint16_t *)a->keys + at + i, load(key + i));
				store_halves((uint16_t *)a->values + at + i, load(value + i));
			}
			continue;
		}
		turn(a, row + (a->heads + h) * w, place, 1, (float *)a->keys + at);
		memcpy((float *)a->values + at, value, w * sizeof *value);
	}
}

// across gives the sums of as many registers as they have lanes, one a lane.
#if defined(LOOKOUT_AVX2)
INLINE reals across(reals *t) {
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) t[i] = _mm256_hadd_ps(t[2 * i], t[2 * i + 1]);
#pragma GCC unroll 2
	for (int i = 0; i < 2; i++) t[i] = _mm256_hadd_ps(t[2 * i], t[2 * i + 1]);
	return add(_mm256_permute2f128_ps(t[0], t[1], 0x20), _mm256_permute2f128_ps(t[0], t[1], 0x31));
}
#else
INLINE reals across(reals *t) {
#pragma GCC unroll 8
	for (int i = 0; i < 8; i++) t[i] = add(_mm512_unpacklo_ps(t[2 * i], t[2 * i + 1]), _mm512_unpackhi_ps(t[2 * i], t[2 * i + 1]));
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		__m512d a = _mm512_castps_pd(t[2 * i]), b = _mm512_castps_pd(t[2 * i + 1]);
		t[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
	}
#pragma GCC unroll 2
	for (int i = 0; i < 2; i++) t[i] = add(_mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0x88), _mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0xdd));
	return add(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xdd));
}
#endif

// score gives what a query has with a register of keys, d registers wide.
INLINE reals score(const float *query, const float *keys, const int d) {
	reals t[lanes];
#pragma GCC unroll 16
	for (int j = 0; j < lanes; j++) {
		t[j] = mul(load(query), load(keys + (size_t)j * d * lanes));
#pragma GCC unroll 16
		for (int i = 1; i < d; i++) t[j] = mul_add(load(query + i * lanes), load(keys + ((size_t)j * d + i) * lanes), t[j]);
	}
	return across(t);
}

// weigh_some adds n values of d registers, weighted, to the sums of r rows: c of the registers.
INLINE void weigh_some(float *const *sums, const float (*weights)[chunk], const float *values, int n, const int r, const int d, const int c) {
	reals acc[4][8];
#pragma GCC unroll 4
	for (int k = 0; k < r; k++)
#pragma GCC unroll 8
		for (int i = 0; i < c; i++) acc[k][i] = load(sums[k] + i * lanes);
	for (int j = 0; j < n; j++, values += d * lanes)
#pragma GCC unroll 8
		for (int i = 0; i < c; i++) {
			reals v = load(values + i * lanes);
#pragma GCC unroll 4
			for (int k = 0; k < r; k++) acc[k][i] = mul_add(v, all(weights[k][j]), acc[k][i]);
		}
#pragma GCC unroll 4
	for (int k = 0; k < r; k++)
#pragma GCC unroll 8
		for (int i = 0; i < c; i++) store(sums[k] + i * lanes, acc[k][i]);
}

// weigh adds n values, weighted, to the sums of r rows.
INLINE void weigh(float *const *sums, const float (*weights)[chunk], const float *values, int n, const int r, const int d) {
#if defined(LOOKOUT_AVX2) // as many of the columns at a time as the registers hold
	const int c = r < 4 && d % 4 == 0 ? 4 : 2;
	for (int i = 0; i < d; i += c) {
		float *some[4];
#pragma GCC unroll 4
		for (int k = 0; k < r; k++) some[k] = sums[k] + i * lanes;
		weigh_some(some, weights, values + i * lanes, n, r, d, c);
	}
#else
	weigh_some(sums, weights, values, n, r, d, d);
#endif
}

// widen gives n numbers of 16 bits as float32, and asks for those that come `next` behind them.
INLINE const float *widen(const uint16_t *from, size_t n, size_t next, float *to) {
	for (size_t i = 0; i < n; i += lanes) {
		if (next && i % 32 == 0) _mm_prefetch((const char *)(from + i + next), _MM_HINT_T1);
		store(to + i, load_halves(from + i));
	}
	return to;
}

// begin makes a record that has seen no key.
static void begin(const attention *a, float *of) {
	of[0] = -INFINITY;
	memset(of + 1, 0, (record(a) - 1) * sizeof *of);
}

// add_to adds keys whose scores are at most `largest` and weigh `total` to a record; what it had counts for less where that is
// more than it has seen.
INLINE void add_to(float *of, float largest, reals total, size_t w) {
	if (of[0] != largest && of[1] > 0) {
		const float by = expf(of[0] - largest);
		of[1] *= by;
		for (size_t c = 0; c < w; c += lanes) store(of + 2 * lanes + c, mul(load(of + 2 * lanes + c), all(by)));
	}
	of[0] = largest;
	of[1] += total_of(total);
}

INLINE void attend(const attention *a, int piece, const int d) {
	const int heads = group(a), shared = piece % a->shared, part = piece / a->shared % a->splits, first = piece / a->shared / a->splits * tile;
	const int rows = a->rows - first < tile ? a->rows - first : tile, n = rows * heads;
	const int from = part * a->each;
	int to = from + a->each;
	if (to > a->past + first + rows) to = a->past + first + rows;
	const size_t w = a->width;
	const size_t head = (size_t)shared * a->room * w; // where that of the keys begins

	// Row i is head i%heads of the group at place first+i/heads.
	for (int i = 0; i < n; i++) {
		begin(a, a->partial + (((size_t)(first + i / heads) * a->heads + shared * heads + i % heads) * a->splits + part) * record(a));
	}
	for (int k = from; k < to; k += chunk) {
		int here = to - k < chunk ? to - k : chunk;
		const size_t at = head + (size_t)k * w, last = (size_t)(here / lanes * lanes) * w, behind = (size_t)here * w;
		const float *keys = (const float *)a->keys + at, *values = (const float *)a->values + at;
		float wide[2][chunk * lookout_attention_widest]; // what is in 16 bits
		float padded[lanes * lookout_attention_widest];  // the last keys, so that a register of them can be read
		if (a->half) {
			const size_t next = k + chunk < to ? chunk * w : 0;
			keys = widen((const uint16_t *)a->keys + at, behind, next, wide[0]);
			values = widen((const uint16_t *)a->values + at, behind, next, wide[1]);
		}
		if (here % lanes) {
			memcpy(padded, keys + last, (behind - last) * sizeof *keys);
			memset(padded + (behind - last), 0, (lanes * w - (behind - last)) * sizeof *padded);
		}
		const int together = lanes == 8 || d <= 4 ? 4 : 2; // as many as the registers hold
		for (int i = 0; i < n;) {
			float weights[4][chunk];
			float *sums[4];
			int r = 0, seen = 0;
			for (; r < together && i < n; i++) {
				int s = first + i / heads, h = shared * heads + i % heads;
				int visible = a->past + s + 1 - k; // of this chunk's keys
				if (visible <= 0) continue;
				if (visible > here) visible = here;
				float *of = a->partial + (((size_t)s * a->heads + h) * a->splits + part) * record(a);
				const float *query = a->queries + ((size_t)s * a->heads + h) * w;
				reals scores[chunk / lanes], most_of = all(-INFINITY);
				int blocks = (visible + lanes - 1) / lanes;
				for (int b = 0; b < blocks; b++) {
					const float *these = b == here / lanes ? padded : keys + (size_t)b * lanes * w;
					scores[b] = score(query, these, d);
					scores[b] = pick(visible - b * lanes, scores[b], all(-INFINITY));
					most_of = higher(most_of, scores[b]);
				}
				float largest = fmaxf(of[0], highest(most_of));
				reals total = zeros();
				for (int b = 0; b < blocks; b++) {
					reals e = pick(visible - b * lanes, power(sub(scores[b], all(largest))), zeros());
					store(weights[r] + b * lanes, e);
					total = add(total, e);
				}
				for (int b = blocks; b < chunk / lanes; b++) store(weights[r] + b * lanes, zeros());
				add_to(of, largest, total, w);
				sums[r++] = of + 2 * lanes;
				if (visible > seen) seen = visible;
			}
			if (r == 4 && together == 4)
				weigh(sums, weights, values, seen, 4, d);
			else if (r == 3 && together == 4)
				weigh(sums, weights, values, seen, 3, d);
			else if (r == 2)
				weigh(sums, weights, values, seen, 2, d);
			else if (r == 1)
				weigh(sums, weights, values, seen, 1, d);
		}
	}
}

// number loads a register of a cache.
INLINE reals number(const void *x, size_t at, const int half) { return half ? load_halves((const uint16_t *)x + at) : load((const float *)x + at); }

enum { few = lanes == 8 ? 2 : 4 }; // keys that are multiplied together

// score_row gives the scores of r heads of a row with n keys, out [r][split], and asks for keys that come next and for the
// values of these: to read them takes longer than to multiply them.
INLINE void score_row(const float *queries, const char *keys, const char *values, int n, const int r, const int d, const int half, float (*out)[split]) {
	const size_t w = d * lanes, size = half ? sizeof(uint16_t) : sizeof(float);
	for (int k = 0; k < n; k += lanes) {
		float products[group_of][lanes][lanes];
		for (int j = 0; j < lanes; j += few) {
			size_t at[few];
			reals acc[group_of][few];
#pragma GCC unroll 4
			for (int f = 0; f < few; f++) {
				at[f] = (size_t)(k + j + f < n ? k + j + f : n - 1) * w; // what is not there is left out later
				for (size_t l = at[f] * size; l < (at[f] + w) * size; l += 64) {
					_mm_prefetch(keys + l + ahead, _MM_HINT_T0);
					_mm_prefetch(values + l, _MM_HINT_T0);
				}
#pragma GCC unroll 4
				for (int h = 0; h < r; h++) acc[h][f] = zeros();
			}
#pragma GCC unroll 16
			for (int i = 0; i < d; i++) {
				reals key[few];
#pragma GCC unroll 4
				for (int f = 0; f < few; f++) key[f] = number(keys, at[f] + i * lanes, half);
#pragma GCC unroll 4
				for (int h = 0; h < r; h++) {
					const reals q = load(queries + h * w + i * lanes);
#pragma GCC unroll 4
					for (int f = 0; f < few; f++) acc[h][f] = mul_add(q, key[f], acc[h][f]);
				}
			}
#pragma GCC unroll 4
			for (int h = 0; h < r; h++)
#pragma GCC unroll 4
				for (int f = 0; f < few; f++) store(products[h][j + f], acc[h][f]);
		}
		for (int h = 0; h < r; h++) {
			reals t[lanes];
#pragma GCC unroll 16
			for (int j = 0; j < lanes; j++) t[j] = load(products[h][j]);
			store(out[h] + k, across(t));
		}
	}
}

// weigh_row adds n weighted values of c registers, which lie w apart, to the sums of r heads.
INLINE void weigh_row(float *const *sums, const float (*weights)[split], const void *values, size_t at, size_t w, int n, const int r, const int c, const int half) {
	reals acc[group_of][4];
#pragma GCC unroll 4
	for (int h = 0; h < r; h++)
#pragma GCC unroll 8
		for (int i = 0; i < c; i++) acc[h][i] = load(sums[h] + at + i * lanes);
	for (int j = 0; j < n; j++)
#pragma GCC unroll 8
		for (int i = 0; i < c; i++) {
			const reals v = number(values, j * w + at + i * lanes, half);
#pragma GCC unroll 4
			for (int h = 0; h < r; h++) acc[h][i] = mul_add(v, all(weights[h][j]), acc[h][i]);
		}
#pragma GCC unroll 4
	for (int h = 0; h < r; h++)
#pragma GCC unroll 8
		for (int i = 0; i < c; i++) store(sums[h] + at + i * lanes, acc[h][i]);
}

// attend_heads computes r heads, from `first` on, of the one row that there is.
INLINE void attend_heads(const attention *a, int first, const char *keys, const char *values, int n, int part, const int r, const int d, const int half) {
	const size_t w = d * lanes;
	float weights[group_of][split];
	float *sums[group_of];
	score_row(a->queries + first * w, keys, values, n, r, d, half, weights);
	for (int h = 0; h < r; h++) {
		float *of = a->partial + ((size_t)(first + h) * a->splits + part) * record(a);
		reals top = all(of[0]);
		for (int k = 0; k < n; k += lanes) top = higher(top, pick(n - k, load(weights[h] + k), top));
		const float largest = highest(top);
		reals total = zeros();
		for (int k = 0; k < n; k += lanes) {
			const reals e = pick(n - k, power(sub(load(weights[h] + k), all(largest))), zeros());
			store(weights[h] + k, e);
			total = add(total, e);
		}
		add_to(of, largest, total, w);
		sums[h] = of + 2 * lanes;
	}
	const int c = d < 4 ? d : 4; // with group_of heads as many sums as the registers hold
	int i = 0;
	for (; i + c <= d; i += c) weigh_row(sums, weights, values, i * lanes, w, n, r, c, half);
	for (; i < d; i++) weigh_row(sums, weights, values, i * lanes, w, n, r, 1, half);
}

// attend_row computes a piece of one row. Keys and values are widened once for the heads that share them, in registers. Pieces
// are in the order in which the keys lie.
INLINE void attend_row(const attention *a, int piece, const int d, const int half) {
	const int heads = group(a), shared = piece / a->splits, part = piece % a->splits, from = part * a->each, all_keys = a->past + 1;
	const int to = from + a->each < all_keys ? from + a->each : all_keys;
	const size_t w = d * lanes, size = half ? sizeof(uint16_t) : sizeof(float);
	for (int h = 0; h < heads; h++) begin(a, a->partial + ((size_t)(shared * heads + h) * a->splits + part) * record(a));
	for (int k = from; k < to; k += split) {
		const int n = to - k < split ? to - k : split;
		const size_t at = ((size_t)shared * a->room + k) * w * size;
		const char *keys = (const char *)a->keys + at, *values = (const char *)a->values + at;
		for (int h = 0; h < heads; h += group_of) {
			const int first = shared * heads + h;
			switch (heads - h) {
			case 1: attend_heads(a, first, keys, values, n, part, 1, d, half); break;
			case 2: attend_heads(a, first, keys, values, n, part, 2, d, half); break;
			default: attend_heads(a, first, keys, values, n, part, group_of, d, half);
			}
		}
	}
}

#define ATTEND(width) \
	SIMD static void attend##width(const attention *a, int piece) { \
		if (a->rows > 1) \
			attend(a, piece, width / lanes); \
		else if (a->half) \
			attend_row(a, piece, width / lanes, 1); \
		else \
			attend_row(a, piece, width / lanes, 0); \
	}
ATTEND(16)
ATTEND(32)
ATTEND(64)
ATTEND(96)
ATTEND(128)

static void attend_piece(const attention *a, int piece) {
	switch (a->width) { // those that lookout_attention_width knows
	case 16: attend16(a, piece); break;
	case 32: attend32(a, piece); break;
	case 64: attend64(a, piece); break;
	case 96: attend96(a, piece); break;
	case 128: attend128(a, piece); break;
	}
}

SIMD static void merge(const attention *a, int s) {
	for (int h = 0; h < a->heads; h++) {
		const float *parts = a->partial + ((size_t)s * a->heads + h) * a->splits * record(a);
		float *out = a->out + ((size_t)s * a->heads + h) * a->width;
		float largest = -INFINITY, total = 0;
		for (int p = 0; p < a->splits; p++) largest = fmaxf(largest, parts[p * record(a)]);
		memset(out, 0, a->width * sizeof *out);
		for (int p = 0; p < a->splits; p++) {
			const float *of = parts + p * record(a);
			if (of[1] == 0) continue; // saw none of its keys
			float by = expf(of[0] - largest);
			total += of[1] * by;
			for (int c = 0; c < a->width; c += lanes)
				store(out + c, mul_add(load(of + 2 * lanes + c), all(by), load(out + c)));
		}
		for (int c = 0; c < a->width; c += lanes) store(out + c, mul(load(out + c), all(1 / total)));
	}
}

const attention_kernels NAMED(lookout_attention) = {plan, enter, attend_piece, merge};

#endif
