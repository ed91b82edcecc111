// The second environment: one process of a simulation. The clock is virtual, entropy is seeded, parallel_for runs
// inline, memory stands in a ledger, points go to the world. There is no disk: what lies on one is the world's business
// (job.h), and a call says so.
#ifndef SIM_ENV_H
#define SIM_ENV_H

#include "base/env.h"
#include "sim/random.h"

struct sim_reservation; // one reservation in the ledger

struct sim_env {
    struct bg_env env; // first: the ops cast back
    const uint64_t *now_ns;
    struct sim_random entropy;
    void (*point)(void *arg, const char *name); // may be NULL
    void *arg;
    struct sim_reservation *ledger;
};

void sim_env_init(struct sim_env *env, unsigned isa, const uint64_t *now_ns, struct sim_random entropy);
uint64_t sim_env_reserved(const struct sim_env *env); // bytes that have not been released
void sim_env_fini(struct sim_env *env);               // with whatever is left, as the end of a process does

#endif
