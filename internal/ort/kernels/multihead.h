// See package kernels.
#ifndef LOOKOUT_MULTIHEAD_H
#define LOOKOUT_MULTIHEAD_H

#include <stddef.h>
#include <stdint.h>

// multihead is attention of every row to every key, as vision encoders have it, in 16 bits.
typedef struct {
	int batch, heads, width; // width: of a head, at most lookout_multihead_widest
	int rows, keys;
	float scale;
	const float *q, *k, *v; // [batch][rows or keys][heads][width]
	float *out;             // [batch][rows][heads][width]
	int blocks, tiles, parts; // of plan
	char *scratch;            // as many bytes as it says, at a multiple of 64
} multihead;

enum { lookout_multihead_widest = 512 };

typedef struct {
	// plan splits the work into parts and gives how many bytes of scratch it needs.
	size_t (*plan)(multihead *m);
	// pack makes the keys and values of one of batch*blocks blocks into 16 bits.
	void (*pack)(const multihead *m, int block);
	// attend computes one of the parts, once all blocks are packed.
	void (*attend)(const multihead *m, int part);
} multihead_kernels;

extern const multihead_kernels lookout_multihead_avx512, lookout_multihead_avx2;

#endif
