// See package kernels.
#ifndef LOOKOUT_RING_H
#define LOOKOUT_RING_H

#include <stddef.h>
#include <stdint.h>

// ring is attention of each place of a new frame to the same place in the frames before, and to itself.
typedef struct {
	int places, slots, heads, width; // width: of a head
	const float *q, *k, *v;          // [batch][places][heads][width]
	const float *keys, *values;      // [batch][slots][places][heads][width], slots in any order
	const int64_t *age;              // [batch][slots]: in frames; what is not 1 to slots holds nothing
	const float *bias;               // [heads][slots+1]: what an age adds to a score, 0 for the new frame
	const float *key;                // [slots+1][heads][width]: and to a key
	float *out;                      // [batch][places][heads][width]
	size_t parts;                    // of a batch: of plan
} ring;

enum { lookout_ring_longest = 256 }; // slots

typedef struct {
	// plan splits a batch into parts, of which it gives the number: 0 where heads and slots are too many.
	size_t (*plan)(ring *r);
	// attend computes one of batch*parts parts.
	void (*attend)(const ring *r, size_t part);
} ring_kernels;

extern const ring_kernels lookout_ring_avx512, lookout_ring_avx2;

#endif
