// The same for AVX2: see simd.h.
#define LOOKOUT_AVX2
#include "ring.c"
