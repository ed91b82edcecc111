// The live environment: struct bg_env over libuv, the kernel's files and memory, and a pinned thread pool.
// Only api/ and cli/ include this.
#ifndef OS_LIVE_H
#define OS_LIVE_H

#include "base/env.h"

struct os_options {
    unsigned threads;    // lanes of parallel_for; 0: as many as the CPUs this process may use
    bool pin;            // each lane on a CPU of its own, where there are enough of them
    unsigned first_cpu;  // with pin: 1 + the place of lane 0's CPU among those of this process; 0: where it runs now
    bool keep_caller;    // leave the affinity of the creating thread (lane 0) alone: for libraries
    bool handle_signals; // SIGINT and SIGTERM ask for a stop; one environment of a process may have this
};

// NULL options: all threads, pinned, no signals. The thread that creates the environment is lane 0; it calls
// parallel_for and destroys it. Fails on a bad thread count or BRIGADE_ISA (ref, avx2, avx512, avx512vnni).
BG_MUST_USE bg_status os_env_create(const struct os_options *o, struct bg_error *err, struct bg_env **env);
void os_env_destroy(struct bg_env *env);
// From here on signals do again what they did before handle_signals: a second SIGTERM ends a process that winds down.
void os_signals_stop(void);
// SIGHUP, which asks for files to be read again, ends the process no more but is counted.
void os_hangups_count(void);
unsigned os_hangups(void);
// Who reads what this process writes may go away: writing then fails, and ends the process no more. For servers, whose
// messages go to a collector of logs.
void os_pipes_may_break(void);

#endif
