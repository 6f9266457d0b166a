#include "arena.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

// block is memory that is handed out from its start and given back whole, once
// nothing of it is in use.
typedef struct block {
	char *at; // a multiple of page
	size_t size, used;
	int live;
	struct block *next;
} block;

enum {
	page = 2 << 20,
	usual = 64 << 20, // a block's size: only what is used of it takes memory
	line = 64,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *blocks; // the newest first, from which memory is handed out

static block *fresh(size_t size) {
	block *b = calloc(1, sizeof *b);
	if (!b) return NULL;
	size = (size + page - 1) / page * page;
	char *all = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED) {
		free(b);
		return NULL;
	}
	size_t before = -(uintptr_t)all % page;
	if (before) munmap(all, before);
	munmap(all + before + size, page - before);
	b->at = all + before;
	b->size = size;
	madvise(b->at, size, MADV_HUGEPAGE); // a tenth faster; without it all the same
	return b;
}

void *lookout_arena_get(size_t size) {
	size = (size + line - 1) / line * line;
	pthread_mutex_lock(&lock);
	if (!blocks || blocks->size - blocks->used < size) {
		block *b = fresh(size > usual ? size : usual);
		if (!b) {
			pthread_mutex_unlock(&lock);
			return NULL;
		}
		b->next = blocks;
		blocks = b;
	}
	char *p = blocks->at + blocks->used;
	blocks->used += size;
	blocks->live++;
	pthread_mutex_unlock(&lock);
	return p;
}

void lookout_arena_put(void *p) {
	if (!p) return;
	pthread_mutex_lock(&lock);
	for (block **b = &blocks; *b; b = &(*b)->next) {
		block *here = *b;
		if ((char *)p < here->at || (char *)p >= here->at + here->size) continue;
		if (--here->live == 0) {
			*b = here->next;
			munmap(here->at, here->size);
			free(here);
		}
		break;
	}
	pthread_mutex_unlock(&lock);
}
