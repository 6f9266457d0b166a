// The same for CPUs with AMX: see simd.h.
#define LOOKOUT_AMX
#include "int8.c"
