#include "attention.h"

#include <math.h>
#include <string.h>

int lookout_attention_width(int64_t width) {
	switch (width) { // those that lookout_attention_attend knows
	case 16: case 32: case 64: case 96: case lookout_attention_widest: return 1;
	}
	return 0;
}

#if defined(__x86_64__)

#include "simd.h"

enum {
	tile = 8,    // rows that go through the keys together
	chunk = 64,  // keys whose scores are held at a time
	split = 128, // keys of a piece, where there are few rows
	most = 16,   // pieces that a row's keys are split into
};

// A piece leaves for each of its rows: the largest score, the sum of what the
// scores weigh, and the weighted values.
static size_t record(const attention *a) { return 2 * lanes + (size_t)a->width; }

static int group(const attention *a) { return a->heads / a->shared; }

size_t lookout_attention_plan(attention *a) {
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

AVX512 void lookout_attention_enter(const attention *a, int s) {
	const size_t w = a->width;
	const float *row = a->qkv + (size_t)s * (a->heads + 2 * a->shared) * w;
	int place = a->past + s;
	for (int h = 0; h < a->heads; h++) turn(a, row + h * w, place, a->scale, a->queries + ((size_t)s * a->heads + h) * w);
	for (int h = 0; h < a->shared; h++) {
		turn(a, row + (a->heads + h) * w, place, 1, a->keys + ((size_t)h * a->room + place) * w);
		memcpy(a->values + ((size_t)h * a->room + place) * w, row + (a->heads + a->shared + h) * w, w * sizeof *row);
	}
}

// across gives the sums of 16 registers, one a lane.
INLINE __m512 across(__m512 *t) {
	for (int i = 0; i < 8; i++) t[i] = _mm512_add_ps(_mm512_unpacklo_ps(t[2 * i], t[2 * i + 1]), _mm512_unpackhi_ps(t[2 * i], t[2 * i + 1]));
	for (int i = 0; i < 4; i++) {
		__m512d a = _mm512_castps_pd(t[2 * i]), b = _mm512_castps_pd(t[2 * i + 1]);
		t[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
	}
	for (int i = 0; i < 2; i++) t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0x88), _mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0xdd));
	return _mm512_add_ps(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xdd));
}

// score gives what a query has with 16 keys, d registers wide.
INLINE __m512 score(const float *query, const float *keys, const int d) {
	__m512 t[lanes];
	for (int j = 0; j < lanes; j++) {
		t[j] = _mm512_mul_ps(_mm512_loadu_ps(query), _mm512_loadu_ps(keys + (size_t)j * d * lanes));
		for (int i = 1; i < d; i++) t[j] = _mm512_fmadd_ps(_mm512_loadu_ps(query + i * lanes), _mm512_loadu_ps(keys + ((size_t)j * d + i) * lanes), t[j]);
	}
	return across(t);
}

// weigh adds n values, weighted, to the sums of r rows.
INLINE void weigh(float *const *sums, const float (*weights)[chunk], const float *values, int n, const int r, const int d) {
	__m512 acc[4][8];
	for (int k = 0; k < r; k++)
		for (int i = 0; i < d; i++) acc[k][i] = _mm512_loadu_ps(sums[k] + i * lanes);
	for (int j = 0; j < n; j++, values += d * lanes)
		for (int i = 0; i < d; i++) {
			__m512 v = _mm512_loadu_ps(values + i * lanes);
			for (int k = 0; k < r; k++) acc[k][i] = _mm512_fmadd_ps(v, _mm512_set1_ps(weights[k][j]), acc[k][i]);
		}
	for (int k = 0; k < r; k++)
		for (int i = 0; i < d; i++) _mm512_storeu_ps(sums[k] + i * lanes, acc[k][i]);
}

INLINE void attend(const attention *a, int piece, const int d) {
	const int heads = group(a), shared = piece % a->shared, part = piece / a->shared % a->splits, first = piece / a->shared / a->splits * tile;
	const int rows = a->rows - first < tile ? a->rows - first : tile, n = rows * heads;
	const int from = part * a->each;
	int to = from + a->each;
	if (to > a->past + first + rows) to = a->past + first + rows;
	const size_t w = a->width;
	const float *keys = a->keys + (size_t)shared * a->room * w, *values = a->values + (size_t)shared * a->room * w;

	// Row i is head i%heads of the group at place first+i/heads.
	for (int i = 0; i < n; i++) {
		float *r = a->partial + (((size_t)(first + i / heads) * a->heads + shared * heads + i % heads) * a->splits + part) * record(a);
		r[0] = -INFINITY;
		memset(r + 1, 0, (record(a) - 1) * sizeof *r);
	}
	for (int k = from; k < to; k += chunk) {
		int here = to - k < chunk ? to - k : chunk;
		float padded[lanes * lookout_attention_widest]; // the last keys, so that 16 can be read
		if (here % lanes) {
			size_t left = (size_t)(here % lanes) * w;
			memcpy(padded, keys + (size_t)(k + here / lanes * lanes) * w, left * sizeof *keys);
			memset(padded + left, 0, (lanes * w - left) * sizeof *padded);
		}
		const int together = d <= 4 ? 4 : 2; // as many as the registers hold
		for (int i = 0; i < n;) {
			float weights[4][chunk];
			float *sums[4];
			int r = 0, seen = 0;
			for (; r < together && i < n; i++) {
				int s = first + i / heads, head = shared * heads + i % heads;
				int visible = a->past + s + 1 - k; // of this chunk's keys
				if (visible <= 0) continue;
				if (visible > here) visible = here;
				float *of = a->partial + (((size_t)s * a->heads + head) * a->splits + part) * record(a);
				const float *query = a->queries + ((size_t)s * a->heads + head) * w;
				__m512 scores[chunk / lanes], most = _mm512_set1_ps(-INFINITY);
				int blocks = (visible + lanes - 1) / lanes;
				for (int b = 0; b < blocks; b++) {
					const float *from = b == here / lanes ? padded : keys + (size_t)(k + b * lanes) * w;
					scores[b] = score(query, from, d);
					int left = visible - b * lanes;
					if (left < lanes) scores[b] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), first_lanes(left), scores[b]);
					most = _mm512_max_ps(most, scores[b]);
				}
				float largest = fmaxf(of[0], _mm512_reduce_max_ps(most));
				__m512 total = _mm512_setzero_ps();
				for (int b = 0; b < blocks; b++) {
					int left = visible - b * lanes;
					__mmask16 there = first_lanes(left);
					__m512 e = _mm512_maskz_mov_ps(there, power(_mm512_sub_ps(scores[b], _mm512_set1_ps(largest))));
					_mm512_storeu_ps(weights[r] + b * lanes, e);
					total = _mm512_add_ps(total, e);
				}
				for (int b = blocks; b < chunk / lanes; b++) _mm512_storeu_ps(weights[r] + b * lanes, _mm512_setzero_ps());
				float sum = _mm512_reduce_add_ps(total);
				if (of[0] != largest && of[1] > 0) { // what was added up counts for less now
					float by = expf(of[0] - largest);
					of[1] *= by;
					for (int c = 0; c < d; c++) _mm512_storeu_ps(of + 2 * lanes + c * lanes, _mm512_mul_ps(_mm512_loadu_ps(of + 2 * lanes + c * lanes), _mm512_set1_ps(by)));
				}
				of[0] = largest;
				of[1] += sum;
				sums[r++] = of + 2 * lanes;
				if (visible > seen) seen = visible;
			}
			const float *v = values + (size_t)k * w;
			if (r == 4 && together == 4)
				weigh(sums, weights, v, seen, 4, d);
			else if (r == 3 && together == 4)
				weigh(sums, weights, v, seen, 3, d);
			else if (r == 2)
				weigh(sums, weights, v, seen, 2, d);
			else if (r == 1)
				weigh(sums, weights, v, seen, 1, d);
		}
	}
}

AVX512 static void attend1(const attention *a, int piece) { attend(a, piece, 1); }
AVX512 static void attend2(const attention *a, int piece) { attend(a, piece, 2); }
AVX512 static void attend4(const attention *a, int piece) { attend(a, piece, 4); }
AVX512 static void attend6(const attention *a, int piece) { attend(a, piece, 6); }
AVX512 static void attend8(const attention *a, int piece) { attend(a, piece, 8); }

void lookout_attention_attend(const attention *a, int piece) {
	switch (a->width / lanes) {
	case 1: attend1(a, piece); break;
	case 2: attend2(a, piece); break;
	case 4: attend4(a, piece); break;
	case 6: attend6(a, piece); break;
	case 8: attend8(a, piece); break;
	}
}

AVX512 void lookout_attention_merge(const attention *a, int s) {
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
				_mm512_storeu_ps(out + c, _mm512_fmadd_ps(_mm512_loadu_ps(of + 2 * lanes + c), _mm512_set1_ps(by), _mm512_loadu_ps(out + c)));
		}
		for (int c = 0; c < a->width; c += lanes) _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_loadu_ps(out + c), _mm512_set1_ps(1 / total)));
	}
}

#else // no node is changed where it is not supported

size_t lookout_attention_plan(attention *a) { return (void)a, 0; }
void lookout_attention_enter(const attention *a, int s) { (void)a, (void)s; }
void lookout_attention_attend(const attention *a, int piece) { (void)a, (void)piece; }
void lookout_attention_merge(const attention *a, int s) { (void)a, (void)s; }
#endif
