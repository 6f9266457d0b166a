#include "choose.h"

#if defined(__x86_64__)

static const kernels avx512 = {"AVX-512 VNNI", &lookout_blocks_avx512, &lookout_int8_avx512, &lookout_attention_avx512, &lookout_multihead_avx512, &lookout_ring_avx512, &lookout_rows_avx512};
static const kernels avx2 = {"AVX2", &lookout_blocks_avx2, &lookout_int8_avx2, &lookout_attention_avx2, &lookout_multihead_avx2, &lookout_ring_avx2, &lookout_rows_avx2};

static int narrow;

void lookout_kernels_narrow(int yes) { narrow = yes; }

const kernels *lookout_kernels(void) {
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("f16c")) return NULL;
	if (!narrow && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
		return &avx512;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2;
	return NULL;
}

#else // the library's own run elsewhere

void lookout_kernels_narrow(int yes) { (void)yes; }

const kernels *lookout_kernels(void) { return NULL; }

#endif
