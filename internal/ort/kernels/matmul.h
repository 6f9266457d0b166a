// See package kernels.
#ifndef LOOKOUT_MATMUL_H
#define LOOKOUT_MATMUL_H

#include <stddef.h>
#include <stdint.h>

// matrix holds k x n weights of 4 or 8 bits, packed for products.
typedef struct {
	int bits, k, n, block; // rows, columns, weights that share a scale
	int blocks, panels, columns; // columns: of a panel
	uint8_t *weights;
	uint16_t *scales; // float16, in units of unit
	float unit;
} matrix;

typedef struct {
	// pack packs weights as MatMulNBits has them: [n][k/block][block*bits/8] bytes, of 4 bits the
	// lower half first, with the zero in the middle, and scales of [n][k/block]. It gives 0 when
	// there is no memory.
	int (*pack)(matrix *m, int bits, int k, int n, int block, const uint8_t *weights, const float *scales);
	void (*free)(matrix *m);
	// scratch is how many bytes the rows need when they are quantised.
	size_t (*scratch)(const matrix *m, size_t rows);
	// quantise makes rows x k float32 into 8 bits, with a scale a block, in scratch.
	void (*quantise)(const matrix *m, const float *x, size_t rows, void *scratch);
	// multiply computes the columns of the panels from..to of y = x * weights. Panels are
	// independent of each other.
	void (*multiply)(const matrix *m, const void *scratch, size_t rows, int from, int to, float *y);
} blocks_kernels;

extern const blocks_kernels lookout_blocks_amx, lookout_blocks_avx512, lookout_blocks_avx2;

#endif
