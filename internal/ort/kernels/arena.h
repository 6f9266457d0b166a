// See package kernels.
#ifndef LOOKOUT_ARENA_H
#define LOOKOUT_ARENA_H

#include <stddef.h>

// lookout_arena_get gives memory at a multiple of 64 bytes, in large pages where the
// system has them, next to what was got before: what is read in the order in which it
// was got is one stream. It gives NULL when there is no memory.
void *lookout_arena_get(size_t size);
void lookout_arena_put(void *p);

#endif
