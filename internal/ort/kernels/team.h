// See package kernels.
#ifndef LOOKOUT_TEAM_H
#define LOOKOUT_TEAM_H

#include <stddef.h>

// A team is threads that share out the short pieces of one job after another: a job is theirs within a fraction of
// a microsecond, where the library's threads take five. There is one a process, for one caller at a time.

// lookout_team_start makes the threads, n with the one that calls, unless the team has them. It tells whether they are there.
int lookout_team_start(int n);

// lookout_team_stop ends them. Nobody may be in lookout_team_share.
void lookout_team_stop(void);

// lookout_team_share calls f(of, i) once for each i in 0..n, on any of the threads, and returns when all is done. Who finds the
// team taken, or not started, does all of it.
void lookout_team_share(void (*f)(void *, size_t), size_t n, void *of);

#endif
