// See package kernels.
#ifndef LOOKOUT_MATMUL_H
#define LOOKOUT_MATMUL_H

#include <stddef.h>
#include <stdint.h>

// matrix holds k x n weights of 4 bits, packed for products.
typedef struct {
	int k, n, block; // rows, columns, weights that share a scale
	int blocks, panels;
	uint8_t *nibbles;
	uint16_t *scales; // float16, in units of unit
	float unit;
} matrix;

// lookout_kernels_supported tells whether this CPU has the instructions.
int lookout_kernels_supported(void);

// lookout_int4_pack packs weights as MatMulNBits has them: [n][k/block][block/2] bytes,
// the lower half first, with the zero at 8, and scales of [n][k/block].
// It gives 0 when there is no memory.
int lookout_int4_pack(matrix *m, int k, int n, int block, const uint8_t *nibbles, const float *scales);
void lookout_int4_free(matrix *m);

// lookout_int4_scratch is how many bytes the rows need when they are quantised.
size_t lookout_int4_scratch(const matrix *m, size_t rows);

// lookout_int4_quantise makes rows x k float32 into 8 bits, with a scale a block, in scratch.
void lookout_int4_quantise(const matrix *m, const float *x, size_t rows, void *scratch);

// lookout_int4_multiply computes the columns of the panels from..to of y = x * weights,
// where a panel is 16 columns. Panels are independent of each other.
void lookout_int4_multiply(const matrix *m, const void *scratch, size_t rows, int from, int to, float *y);

#endif
