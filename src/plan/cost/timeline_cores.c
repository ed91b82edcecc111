// Workers that share fewer cores than they are, as a kernel lets them: who has something to do takes an idle core, the
// one it had if it can, else it waits at that core for its turn. A core that falls idle takes nobody from another who
// has not waited for a whole turn. A step in small pieces thus leaves cores idle that even shares would not.
#include "plan/cost/timeline_int.h"

#include "base/mem.h"

#include <math.h>

enum { TURNS_MANY = 100 }; // of one task: longer ones have longer turns
static const double turn_s = 0.004;

// A host is told by its first worker. Only those of one thread each are crowded; others share evenly (timeline.c).
void plan_cores_init(const struct plan *plan, const struct plan_profile *profile, struct plan_cores *cores)
{
    const struct plan_machine *machines = profile->machines;
    *cores = (struct plan_cores){.runners = bg_alloc_array(plan->workers, sizeof *cores->runners),
                                 .at = bg_alloc_array(plan->workers, sizeof *cores->at),
                                 .workers = plan->workers,
                                 .sharing = profile->sharing > 0 ? profile->sharing : 1};
    for (uint32_t w = 0; w < plan->workers; w++) {
        struct plan_runner *r = &cores->runners[w];
        uint32_t first = 0, place = 0, count = 0;
        bool single = true;
        cores->at[w] = PLAN_NOBODY;
        while (machines[first].host != machines[w].host)
            first++;
        for (uint32_t v = first; v < plan->workers; v++)
            if (machines[v].host == machines[w].host) {
                place += v < w;
                count++;
                single &= machines[v].threads == 1 && machines[v].cores == machines[w].cores;
            }
        const double own = machines[w].cores;
        if (!single || own < 1 || own >= count)
            continue;
        r->count = (uint32_t)ceil(own - 1e-9);
        r->worth = own / r->count;
        r->first = w == first ? cores->used : cores->runners[first].first;
        cores->used += w == first ? r->count : 0;
        r->core = r->first + place % r->count;
    }
}

void plan_cores_fini(struct plan_cores *cores)
{
    bg_free(cores->runners);
    bg_free(cores->at);
}

static void run(struct plan_cores *cores, uint32_t worker, uint32_t core, double now)
{
    struct plan_runner *r = &cores->runners[worker];
    r->waits = false;
    r->core = core;
    r->until = now + fmax(fmax(turn_s, r->left / TURNS_MANY), 1e-6 * now);
    cores->at[core] = worker;
}

static bool is_over(double time, double now)
{
    return now + 1e-9 * fmax(1, now) >= time;
}

// Of those that wait, the one that has for longest: at this core, or, for a whole turn, at any of its host.
static uint32_t next_at(const struct plan_cores *cores, uint32_t first, uint32_t core, double now)
{
    uint32_t best = PLAN_NOBODY;
    for (uint32_t w = 0; w < cores->workers; w++) {
        const struct plan_runner *r = &cores->runners[w];
        if (!r->waits || r->first != first || (r->core != core && !is_over(r->since + turn_s, now)))
            continue;
        if (best == PLAN_NOBODY || r->since < cores->runners[best].since)
            best = w;
    }
    return best;
}

static bool is_shared(const struct plan_cores *cores, uint32_t core)
{
    for (uint32_t w = 0; w < cores->workers; w++)
        if (cores->runners[w].waits && cores->runners[w].core == core)
            return true;
    return false;
}

void plan_cores_turn(struct plan_cores *cores, double now)
{
    if (cores->used == 0)
        return;
    for (uint32_t w = 0; w < cores->workers; w++) {
        struct plan_runner *r = &cores->runners[w];
        if (!r->wants)
            r->waits = false;
    }
    for (uint32_t w = 0; w < cores->workers; w++) {
        struct plan_runner *r = &cores->runners[w];
        if (r->count == 0 || cores->at[r->core] != w)
            continue;
        const bool over = is_over(r->until, now) && is_shared(cores, r->core);
        if (!r->wants || over)
            cores->at[r->core] = PLAN_NOBODY;
        if (r->wants && over) {
            r->waits = true;
            r->since = now;
        }
    }
    for (uint32_t w = 0, core = 0; w < cores->workers; w++) { // cores that are free, to who waits
        const struct plan_runner *host = &cores->runners[w];  // its first worker has the next of all cores
        for (; core < host->first + host->count; core++) {
            const uint32_t next = cores->at[core] == PLAN_NOBODY ? next_at(cores, host->first, core, now) : PLAN_NOBODY;
            if (next != PLAN_NOBODY)
                run(cores, next, core, now);
        }
    }
    for (uint32_t w = 0; w < cores->workers; w++) { // and to who wakes
        struct plan_runner *r = &cores->runners[w];
        if (r->count == 0 || !r->wants || r->waits || cores->at[r->core] == w)
            continue;
        uint32_t core = r->core;
        for (uint32_t c = r->first; cores->at[core] != PLAN_NOBODY && c < r->first + r->count; c++)
            core = cores->at[c] == PLAN_NOBODY ? c : core;
        r->waits = true;
        r->since = now;
        if (cores->at[core] == PLAN_NOBODY)
            run(cores, w, core, now);
    }
}

double plan_cores_rate(const struct plan_cores *cores, uint32_t worker, double now, double *until)
{
    const struct plan_runner *r = &cores->runners[worker];
    const bool shared = is_shared(cores, r->core);
    bool idle = false;
    for (uint32_t c = r->first; c < r->first + r->count; c++)
        idle |= cores->at[c] == PLAN_NOBODY;
    *until = INFINITY;
    if (cores->at[r->core] != worker) {
        *until = idle ? fmax(r->since + turn_s - now, 0) : INFINITY;
        return 0;
    }
    if (shared)
        *until = fmax(r->until - now, 0);
    return (shared ? cores->sharing : 1) * (idle ? 1 : r->worth);
}
