// What the kernels for x86-64 share: see package kernels. They are written once, for
// vectors of `lanes` numbers, and compiled twice: for AVX-512 VNNI, and with
// LOOKOUT_AVX2 for CPUs that have half of its width.
#ifndef LOOKOUT_SIMD_H
#define LOOKOUT_SIMD_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(LOOKOUT_AVX2)

#define SIMD __attribute__((target("avx2,fma,f16c")))
#define NAMED(table) table##_avx2
enum { lanes = 8 }; // float32 in a register
typedef __m256 reals;
typedef __m256i wholes;

#else

#if defined(LOOKOUT_AMX)
#define SIMD __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,amx-tile,amx-int8")))
#define NAMED(table) table##_amx
#else
#define SIMD __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")))
#define NAMED(table) table##_avx512
#endif
enum { lanes = 16 };
typedef __m512 reals;
typedef __m512i wholes;

#endif

#define INLINE static inline __attribute__((always_inline)) SIMD

#if defined(LOOKOUT_AVX2)

static const int32_t first_of[2 * lanes] = {-1, -1, -1, -1, -1, -1, -1, -1};

// first_lanes has the first n lanes, or all.
INLINE __m256i first_lanes(size_t n) { return _mm256_loadu_si256((const __m256i *)(first_of + lanes - (n < lanes ? n : lanes))); }

INLINE reals zeros(void) { return _mm256_setzero_ps(); }
INLINE reals all(float x) { return _mm256_set1_ps(x); }
INLINE reals load(const float *x) { return _mm256_loadu_ps(x); }
INLINE void store(float *y, reals v) { _mm256_storeu_ps(y, v); }
// load_some and store_some are for the first n lanes, or all; the others are read as zeros.
INLINE reals load_some(const float *x, size_t n) { return n >= lanes ? load(x) : _mm256_maskload_ps(x, first_lanes(n)); }
INLINE void store_some(float *y, size_t n, reals v) {
	if (n >= lanes)
		store(y, v);
	else
		_mm256_maskstore_ps(y, first_lanes(n), v);
}
// pick takes the first n lanes, or all, of v, and what is behind them of `behind`.
INLINE reals pick(size_t n, reals v, reals behind) { return _mm256_blendv_ps(behind, v, _mm256_castsi256_ps(first_lanes(n))); }
INLINE reals add(reals a, reals b) { return _mm256_add_ps(a, b); }
INLINE reals sub(reals a, reals b) { return _mm256_sub_ps(a, b); }
INLINE reals mul(reals a, reals b) { return _mm256_mul_ps(a, b); }
INLINE reals over(reals a, reals b) { return _mm256_div_ps(a, b); }
// over_or_zero is zero where b, which is not negative, is.
INLINE reals over_or_zero(reals a, reals b) { return _mm256_and_ps(_mm256_div_ps(a, b), _mm256_cmp_ps(b, _mm256_setzero_ps(), _CMP_GT_OQ)); }
INLINE reals mul_add(reals a, reals b, reals c) { return _mm256_fmadd_ps(a, b, c); }
INLINE reals mul_off(reals a, reals b, reals c) { return _mm256_fnmadd_ps(a, b, c); } // c - a*b
INLINE reals higher(reals a, reals b) { return _mm256_max_ps(a, b); }
INLINE reals lower(reals a, reals b) { return _mm256_min_ps(a, b); }
INLINE reals magnitude(reals a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
// where_below takes a in the lanes where x is below zero, and b in the others.
INLINE reals where_below(reals x, reals a, reals b) { return _mm256_blendv_ps(b, a, x); }
INLINE reals rounded(reals x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// shifted is x * 2^n, for n a whole number from -126 on.
INLINE reals shifted(reals x, reals n) {
	return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
INLINE float highest(reals v) {
	__m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	x = _mm_max_ps(x, _mm_movehl_ps(x, x));
	return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
INLINE float total_of(reals v) {
	__m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	x = _mm_add_ps(x, _mm_movehl_ps(x, x));
	return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
INLINE reals load_halves(const uint16_t *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }
INLINE void store_halves(uint16_t *y, reals v) { _mm_storeu_si128((__m128i *)y, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }

INLINE wholes no_wholes(void) { return _mm256_setzero_si256(); }
INLINE wholes all_wholes(int32_t x) { return _mm256_set1_epi32(x); }
// first_wholes has x in the first n lanes, or all, and zeros behind them.
INLINE wholes first_wholes(size_t n, int32_t x) { return _mm256_and_si256(first_lanes(n), _mm256_set1_epi32(x)); }
INLINE wholes load_wholes(const int32_t *x) { return _mm256_loadu_si256((const __m256i *)x); }
INLINE void store_wholes(int32_t *y, wholes v) { _mm256_storeu_si256((__m256i *)y, v); }
INLINE wholes to_wholes(reals x) { return _mm256_cvtps_epi32(x); }
INLINE reals to_reals(wholes x) { return _mm256_cvtepi32_ps(x); }
INLINE wholes add_wholes(wholes a, wholes b) { return _mm256_add_epi32(a, b); }
INLINE wholes sub_wholes(wholes a, wholes b) { return _mm256_sub_epi32(a, b); }
INLINE wholes mul_wholes(wholes a, wholes b) { return _mm256_mullo_epi32(a, b); }
INLINE int32_t total_of_wholes(wholes v) {
	__m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
	x = _mm_add_epi32(x, _mm_unpackhi_epi64(x, x));
	return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_srli_epi64(x, 32)));
}
INLINE __m128i to_16(wholes v) { return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)); }
// store_8 and store_16 cut off what is too large.
INLINE void store_8(int8_t *y, wholes v) { _mm_storel_epi64((__m128i *)y, _mm_packs_epi16(to_16(v), _mm_setzero_si128())); }
INLINE void store_16(int16_t *y, wholes v) { _mm_storeu_si128((__m128i *)y, to_16(v)); }
// pairs has the low halves of a and b in turn.
INLINE wholes pairs(wholes a, wholes b) { return _mm256_blend_epi16(_mm256_slli_epi32(b, 16), a, 0x55); }
// dot_16 adds the products of pairs of 16 bits.
INLINE wholes dot_16(wholes sum, wholes a, wholes b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }

#else

INLINE __mmask16 first_lanes(size_t n) { return n >= lanes ? 0xffff : (__mmask16)((1u << n) - 1); }

INLINE reals zeros(void) { return _mm512_setzero_ps(); }
INLINE reals all(float x) { return _mm512_set1_ps(x); }
INLINE reals load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void store(float *y, reals v) { _mm512_storeu_ps(y, v); }
INLINE reals load_some(const float *x, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), x); }
INLINE void store_some(float *y, size_t n, reals v) { _mm512_mask_storeu_ps(y, first_lanes(n), v); }
INLINE reals pick(size_t n, reals v, reals behind) { return _mm512_mask_mov_ps(behind, first_lanes(n), v); }
INLINE reals add(reals a, reals b) { return _mm512_add_ps(a, b); }
INLINE reals sub(reals a, reals b) { return _mm512_sub_ps(a, b); }
INLINE reals mul(reals a, reals b) { return _mm512_mul_ps(a, b); }
INLINE reals over(reals a, reals b) { return _mm512_div_ps(a, b); }
INLINE reals over_or_zero(reals a, reals b) { return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(b, _mm512_setzero_ps(), _CMP_GT_OQ), a, b); }
INLINE reals mul_add(reals a, reals b, reals c) { return _mm512_fmadd_ps(a, b, c); }
INLINE reals mul_off(reals a, reals b, reals c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE reals higher(reals a, reals b) { return _mm512_max_ps(a, b); }
INLINE reals lower(reals a, reals b) { return _mm512_min_ps(a, b); }
INLINE reals magnitude(reals a) { return _mm512_abs_ps(a); }
INLINE reals where_below(reals x, reals a, reals b) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), b, a); }
INLINE reals rounded(reals x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE reals shifted(reals x, reals n) { return _mm512_scalef_ps(x, n); }
INLINE float highest(reals v) { return _mm512_reduce_max_ps(v); }
INLINE float total_of(reals v) { return _mm512_reduce_add_ps(v); }
INLINE reals load_halves(const uint16_t *x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x)); }
INLINE void store_halves(uint16_t *y, reals v) { _mm256_storeu_si256((__m256i *)y, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }

INLINE wholes no_wholes(void) { return _mm512_setzero_si512(); }
INLINE wholes all_wholes(int32_t x) { return _mm512_set1_epi32(x); }
INLINE wholes first_wholes(size_t n, int32_t x) { return _mm512_maskz_set1_epi32(first_lanes(n), x); }
INLINE wholes load_wholes(const int32_t *x) { return _mm512_loadu_si512(x); }
INLINE void store_wholes(int32_t *y, wholes v) { _mm512_storeu_si512(y, v); }
INLINE wholes to_wholes(reals x) { return _mm512_cvtps_epi32(x); }
INLINE reals to_reals(wholes x) { return _mm512_cvtepi32_ps(x); }
INLINE wholes add_wholes(wholes a, wholes b) { return _mm512_add_epi32(a, b); }
INLINE wholes sub_wholes(wholes a, wholes b) { return _mm512_sub_epi32(a, b); }
INLINE wholes mul_wholes(wholes a, wholes b) { return _mm512_mullo_epi32(a, b); }
INLINE int32_t total_of_wholes(wholes v) { return _mm512_reduce_add_epi32(v); }
INLINE void store_8(int8_t *y, wholes v) { _mm_storeu_si128((__m128i *)y, _mm512_cvtsepi32_epi8(v)); }
INLINE void store_16(int16_t *y, wholes v) { _mm256_storeu_si256((__m256i *)y, _mm512_cvtsepi32_epi16(v)); }
INLINE wholes pairs(wholes a, wholes b) { return _mm512_mask_mov_epi16(_mm512_slli_epi32(b, 16), 0x55555555, a); }
INLINE wholes dot_16(wholes sum, wholes a, wholes b) { return _mm512_dpwssd_epi32(sum, a, b); }

#endif

#if defined(LOOKOUT_AMX)

// open_tiles makes a thread's tile registers 16 rows of 64 bytes: 0 to 3 of sums, 4 and 5 of rows, of which `step` bytes
// are used, 6 and 7 of their columns. They must be free again when it is done, so that the kernel need not save them.
INLINE void open_tiles(int step) {
	struct {
		uint8_t palette, start, none[14];
		uint16_t width[16];
		uint8_t rows[16];
	} all = {.palette = 1};
	for (int i = 0; i < 8; i++) {
		all.width[i] = i == 4 || i == 5 ? step : 64;
		all.rows[i] = i > 5 ? step / 4 : 16;
	}
	_tile_loadconfig(&all);
}

INLINE void close_tiles(void) { _tile_release(); }

#endif

// power is e^x for x <= 0, to 2 units in the last place: 2^n times a polynomial
// (Cephes, expf).
INLINE reals power(reals x) {
	x = higher(x, all(-87));
	reals n = rounded(mul(x, all(1.44269504f)));
	x = mul_off(n, all(0.693359375f), x);
	x = mul_off(n, all(-2.12194440e-4f), x);
	reals p = all(1.9875691500e-4f);
	p = mul_add(p, x, all(1.3981999507e-3f));
	p = mul_add(p, x, all(8.3334519073e-3f));
	p = mul_add(p, x, all(4.1665795894e-2f));
	p = mul_add(p, x, all(1.6666665459e-1f));
	p = mul_add(p, x, all(5.0000001201e-1f));
	p = mul_add(p, mul(x, x), add(x, all(1)));
	return shifted(p, n);
}

#endif
