#define _GNU_SOURCE
#include "team.h"

#if defined(__x86_64__) && defined(__linux__)

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	line = 128,         // bytes that are fetched together
	patience = 100000,  // nanoseconds that a thread spins after its last piece, which the gaps within a run and between tokens are not
	turns = 64,         // between two looks at the clock
	polite = 1 << 12,   // turns after which a thread that waits for others lets them have its CPU
};

// share is what is left of a thread's own pieces, which others take when they have none left. Lines of their own
// keep threads from waiting for each other's.
typedef struct {
	_Alignas(line) atomic_size_t left;
} share;

static struct {
	pthread_t *threads;
	share *shares; // of each thread: that of the caller comes first
	int n;         // threads, with the caller
	atomic_int taken;

	// A job: written while no piece of it is left, read by those who have got one.
	void (*f)(void *, size_t);
	void *of;
	size_t pieces;

	_Alignas(line) atomic_size_t undone; // pieces that are not done
	_Alignas(line) atomic_int asleep;    // threads that wait for `calls` to change
	atomic_uint calls;
	atomic_int over;
} team;

static void pause_cpu(void) { __builtin_ia32_pause(); }

static size_t begin_of(size_t pieces, int thread) { return pieces * thread / team.n; }

// work does pieces until none is left, its own first, and tells how many it did.
static size_t work(int self) {
	size_t done = 0;
	for (int i = 0; i < team.n; i++) {
		const int from = (self + i) % team.n;
		atomic_size_t *share = &team.shares[from].left;
		size_t left = atomic_load(share);
		while (left) {
			if (!atomic_compare_exchange_weak(share, &left, left - 1)) continue;
			// As long as this piece is not done the job stays.
			team.f(team.of, begin_of(team.pieces, from + 1) - left);
			done++;
			left = atomic_load(share);
		}
	}
	if (done) atomic_fetch_sub_explicit(&team.undone, done, memory_order_release);
	return done;
}

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void doze(atomic_size_t *mine) {
	const unsigned calls = atomic_load(&team.calls);
	atomic_fetch_add(&team.asleep, 1);
	if (!atomic_load(mine) && !atomic_load(&team.over)) syscall(SYS_futex, &team.calls, FUTEX_WAIT_PRIVATE, calls, NULL, NULL, 0);
	atomic_fetch_sub(&team.asleep, 1);
}

static void wake(void) {
	atomic_fetch_add(&team.calls, 1);
	syscall(SYS_futex, &team.calls, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *help(void *of) {
	const int self = (int)((share *)of - team.shares);
	atomic_size_t *mine = &team.shares[self].left;
	int64_t since = now();
	while (!atomic_load(&team.over)) {
		if (work(self)) since = now();
		for (int i = 0; i < turns && !atomic_load_explicit(mine, memory_order_relaxed); i++) pause_cpu();
		if (now() - since > patience) {
			doze(mine);
			since = now();
		}
	}
	return NULL;
}

int lookout_team_start(int n) {
	if (team.n) return team.n == n;
	if (n < 2) return 0;
	team.threads = calloc(n - 1, sizeof *team.threads);
	team.shares = aligned_alloc(line, n * sizeof *team.shares);
	if (!team.threads || !team.shares) return lookout_team_stop(), 0;
	memset(team.shares, 0, n * sizeof *team.shares);
	team.n = n;
	atomic_store(&team.over, 0);
	sigset_t all, before;
	sigfillset(&all); // signals are for the program's own threads
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int there = 0;
	while (there < n - 1 && pthread_create(&team.threads[there], NULL, help, &team.shares[there + 1]) == 0) {
		pthread_setname_np(team.threads[there++], "lookout-team"); // in what lists threads, before anyone looks
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (there == n - 1) return 1;
	team.n = there + 1;
	lookout_team_stop();
	return 0;
}

void lookout_team_stop(void) {
	atomic_store(&team.over, 1);
	wake();
	for (int i = 0; i < team.n - 1; i++) pthread_join(team.threads[i], NULL);
	free(team.threads);
	free(team.shares);
	team.threads = NULL;
	team.shares = NULL;
	team.n = 0;
}

void lookout_team_share(void (*f)(void *, size_t), size_t n, void *of) {
	if (n < 2 || !team.n || atomic_exchange(&team.taken, 1)) {
		for (size_t i = 0; i < n; i++) f(of, i);
		return;
	}
	team.f = f;
	team.of = of;
	team.pieces = n;
	atomic_store_explicit(&team.undone, n, memory_order_relaxed);
	for (int t = team.n - 1; t >= 0; t--) atomic_store(&team.shares[t].left, begin_of(n, t + 1) - begin_of(n, t));
	if (atomic_load(&team.asleep)) wake();
	work(0);
	for (int i = 0; atomic_load_explicit(&team.undone, memory_order_acquire); i++) {
		pause_cpu();
		if (i > polite) sched_yield();
	}
	atomic_store(&team.taken, 0);
}

#else

int lookout_team_start(int n) { return (void)n, 0; }

void lookout_team_stop(void) {}

void lookout_team_share(void (*f)(void *, size_t), size_t n, void *of) {
	for (size_t i = 0; i < n; i++) f(of, i);
}

#endif
