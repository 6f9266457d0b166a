// The same for CPUs with AMX: see simd.h.
#define LOOKOUT_AMX
#include "matmul.c"
