#include "choose.h"

#if defined(__x86_64__)

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const kernels amx = {"AVX-512 VNNI and AMX", &lookout_blocks_amx, &lookout_int8_amx, &lookout_attention_avx512, &lookout_multihead_avx512, &lookout_ring_avx512, &lookout_rows_avx512};
static const kernels avx512 = {"AVX-512 VNNI", &lookout_blocks_avx512, &lookout_int8_avx512, &lookout_attention_avx512, &lookout_multihead_avx512, &lookout_ring_avx512, &lookout_rows_avx512};
static const kernels avx2 = {"AVX2", &lookout_blocks_avx2, &lookout_int8_avx2, &lookout_attention_avx2, &lookout_multihead_avx2, &lookout_ring_avx2, &lookout_rows_avx2};

static int narrow;

void lookout_kernels_narrow(int by) { narrow = by; }

// tiled tells whether the CPU has AMX, and Linux lets this process use its registers.
static int tiled(void) {
#if defined(__linux__)
	const int ask = 0x1023, data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
	return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") && syscall(SYS_arch_prctl, ask, data) == 0;
#else
	return 0;
#endif
}

const kernels *lookout_kernels(void) {
	int skip = narrow;
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("f16c")) return NULL;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
		if (tiled() && skip-- <= 0) return &amx;
		if (skip-- <= 0) return &avx512;
	}
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2;
	return NULL;
}

#else // the library's own run elsewhere

void lookout_kernels_narrow(int by) { (void)by; }

const kernels *lookout_kernels(void) { return NULL; }

#endif
