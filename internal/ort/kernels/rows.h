// See package kernels.
#ifndef LOOKOUT_ROWS_H
#define LOOKOUT_ROWS_H

#include <stddef.h>

typedef struct {
	// norm adds skip to x, n numbers long, leaves that in sum unless it is NULL, and divides
	// it by its root mean square, times gamma, in y.
	void (*norm)(const float *x, const float *skip, const float *gamma, float epsilon, size_t n, float *sum, float *y);
	// layer takes the mean off x, n numbers long, divides it by what spread is left, and gives that times gamma, and beta, in y.
	void (*layer)(const float *x, const float *gamma, const float *beta, float epsilon, size_t n, float *y);
	// normal gives v times the normal distribution's share below it, of each v of n numbers: x, with bias unless that is NULL.
	void (*normal)(const float *x, const float *bias, size_t n, float *y);
	// gelu gives x / (1 + e^(-alpha (x + cube x^3))) of each of n numbers.
	void (*gelu)(const float *x, float alpha, float cube, size_t n, float *y);
	// gate gives x / (1 + e^(-alpha x)) times other, of each of n numbers.
	void (*gate)(const float *x, const float *other, float alpha, size_t n, float *y);
} rows_kernels;

extern const rows_kernels lookout_rows_avx512, lookout_rows_avx2;

#endif
