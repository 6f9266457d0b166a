// See package kernels.
#ifndef LOOKOUT_CHOOSE_H
#define LOOKOUT_CHOOSE_H

#include "attention.h"
#include "int8.h"
#include "matmul.h"
#include "multihead.h"
#include "ring.h"
#include "rows.h"

// kernels are those of one kind of CPU. They lay weights out each in their own way.
typedef struct {
	const char *instructions;
	const blocks_kernels *blocks;
	const int8_kernels *int8;
	const attention_kernels *attention;
	const multihead_kernels *multihead;
	const ring_kernels *ring;
	const rows_kernels *rows;
} kernels;

// lookout_kernels gives those with the widest registers that this CPU has, or NULL.
const kernels *lookout_kernels(void);

// lookout_kernels_narrow leaves out as many of the widest kinds that this CPU has.
void lookout_kernels_narrow(int by);

#endif
