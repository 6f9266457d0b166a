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
	float scale;
	const float *qkv;        // [rows][heads+2*shared][width]
	const float *cos, *sin;  // [places][turned]
	float *keys, *values;    // [shared][room][width]: the rows' own are written
	float *out;              // [rows][heads][width]
	float *queries;          // [rows][heads][width]: scratch
	float *partial;          // lookout_attention_scratch floats
	int tiles, splits, each; // of lookout_attention_plan
} attention;

enum { lookout_attention_widest = 128 };

// lookout_attention_width tells whether heads may be this wide.
int lookout_attention_width(int64_t width);

// lookout_attention_plan splits the work into tiles of rows and parts of their
// keys, and gives how many floats partial and queries need together.
size_t lookout_attention_plan(attention *a);
// lookout_attention_enter rotates row s and writes its keys and values.
void lookout_attention_enter(const attention *a, int s);
// lookout_attention_attend computes one of tiles*splits*shared independent pieces, once
// all rows are entered, and lookout_attention_merge the output of row s from them.
void lookout_attention_attend(const attention *a, int piece);
void lookout_attention_merge(const attention *a, int s);

#endif
