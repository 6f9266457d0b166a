// See package kernels.
#ifndef LOOKOUT_INT8_H
#define LOOKOUT_INT8_H

#include <stddef.h>
#include <stdint.h>

// matrix8 holds k x n weights of 8 bits, packed for products.
typedef struct {
	int k, n; // rows, columns
	int panels;
	int8_t *weights;
	float *scales, *bias;  // a column
	int32_t *sums, *zeros; // a column
	int centred;           // all zeros are 0
} matrix8;

// product8 is one of rows with a matrix.
typedef struct {
	const matrix8 *m;
	size_t rows;
	const float *x;   // [rows][k], or
	const uint8_t *q; // what it is in 8 bits
	float scale;      // (q - zero) * scale is what they stand for; 0: each row of x gets a scale of its own
	int zero;
	float *y; // [rows][n]
	size_t tiles, groups; // of plan
	int shares;
	char *scratch; // as many bytes as it says, at a multiple of 64
} product8;

typedef struct {
	// pack packs weights [k][n], bytes with a sign, or such without one from which `middle` is to be taken. Scales and zeros are for
	// all columns, or one for each; zeros and bias may be NULL. It gives 0 when there is no memory.
	int (*pack)(matrix8 *m, int k, int n, const uint8_t *weights, const float *scales, size_t n_scales, const uint8_t *zeros, size_t n_zeros, int middle, const float *bias);
	void (*free)(matrix8 *m);
	// plan splits the work and gives how many bytes of scratch it needs.
	size_t (*plan)(product8 *p);
	// enter makes the rows of one of the tiles into 8 bits.
	void (*enter)(const product8 *p, size_t tile);
	// multiply computes one of groups*shares parts, once all tiles are entered.
	void (*multiply)(const product8 *p, size_t part);
} int8_kernels;

extern const int8_kernels lookout_int8_amx, lookout_int8_avx512, lookout_int8_avx2;

#endif
