// Seeded choices of a simulation: Philox under a stream of its own, drawn in order. Every choice that is made anywhere
// in a run comes from here, so that the seed is the run.
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include "base/philox.h"

#include <stdbool.h>

struct sim_random {
    struct bg_philox_key key;
    uint64_t drawn;
    struct bg_philox_counter block;
};

static inline struct sim_random sim_random_make(uint64_t seed, uint32_t stream)
{
    return (struct sim_random){.key = bg_philox_key(seed, (enum bg_stream)(1000 + stream))};
}

static inline uint32_t sim_random_word(struct sim_random *r)
{
    unsigned lane = (unsigned)(r->drawn % 4);
    if (lane == 0) {
        uint64_t block = r->drawn / 4;
        r->block = bg_philox((struct bg_philox_counter){{(uint32_t)block, (uint32_t)(block >> 32), 0, 0}}, r->key);
    }
    r->drawn++;
    return r->block.c[lane];
}

static inline uint32_t sim_random_below(struct sim_random *r, uint32_t count) // 0 .. count - 1; count > 0
{
    return (uint32_t)((uint64_t)sim_random_word(r) * count >> 32);
}

static inline uint32_t sim_random_between(struct sim_random *r, uint32_t low, uint32_t high) // both included
{
    return low + sim_random_below(r, high - low + 1);
}

static inline bool sim_random_chance(struct sim_random *r, uint32_t permille)
{
    return sim_random_below(r, 1000) < permille;
}

// Mostly about `typical`, at times a hundred times that: what makes two things that never meet meet.
static inline uint64_t sim_random_time(struct sim_random *r, uint64_t typical)
{
    uint32_t tail = sim_random_below(r, 100);
    uint64_t scale = tail < 80 ? 1 : tail < 97 ? 8 : 100;
    return typical * scale * (1 + sim_random_below(r, 64)) / 64;
}

#endif
