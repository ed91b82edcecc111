// What the files of Lazarus share: sets of experts as bits, and how many sets of nodes hold them all.
#ifndef PLAN_LAZARUS_INT_H
#define PLAN_LAZARUS_INT_H

#include "plan/fleet/lazarus.h"

#include <stddef.h>

enum { LAZARUS_WORDS_MAX = PLAN_LAZARUS_EXPERTS_MAX / 64 };

static inline size_t lazarus_words(const struct plan_lazarus *shape)
{
    return (shape->experts + 63) / 64;
}

// order: (count), the indices by ascending key, of equal ones the first first.
void lazarus_ascending(uint32_t count, const uint64_t *key, uint32_t *order);
void lazarus_masks(const struct plan_lazarus *shape, const uint32_t *held, uint64_t *masks); // (nodes, words)
// good: (nodes + 1), how many sets of so many nodes hold every expert: of all, or of `draws` for each size if not 0.
void lazarus_good_sets(const struct plan_lazarus *shape, const uint64_t *masks, uint32_t draws, uint64_t *good);

#endif
