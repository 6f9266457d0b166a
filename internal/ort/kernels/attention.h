// See package kernels.
#ifndef LOOKOUT_ATTENTION_H
#define LOOKOUT_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

// attention is what a run of rows attends to. Heads of queries share those of
// keys in equal groups; row s stands at place past+s and sees the places up to it.
typedef struct {
	int rows, heads, shared, width; // shared: heads of keys and values; width: of a head
	int past, room;                 // places before the rows; places there are
	int turned;                     // columns of the tables: half of what is rotated of a head
	int half;                       // keys and values are in 16 bits
	float scale;
	const float *qkv;        // [rows][heads+2*shared][width]
	const float *cos, *sin;  // [places][turned]
	void *keys, *values;     // [shared][room][width]: the rows' own are written
	float *out;              // [rows][heads][width]
	float *queries;          // [rows][heads][width]: scratch
	float *partial;          // scratch: each piece's record, a row and a head
	int tiles, splits, each; // of plan
} attention;

enum { lookout_attention_widest = 128 };

// lookout_attention_width tells whether heads may be this wide.
static inline int lookout_attention_width(int64_t width) { return width == 16 || width == 32 || width == 64 || width == 96 || width == lookout_attention_widest; }

typedef struct {
	// plan splits the work into tiles of rows and parts of their keys, and gives how many floats
	// partial and queries need together.
	size_t (*plan)(attention *a);
	// enter rotates row s and writes its keys and values.
	void (*enter)(const attention *a, int s);
	// attend computes one of tiles*splits*shared independent pieces, once all rows are entered, and
	// merge the output of row s from them.
	void (*attend)(const attention *a, int piece);
	void (*merge)(const attention *a, int s);
} attention_kernels;

extern const attention_kernels lookout_attention_avx512, lookout_attention_avx2;

#endif
