// A world for tests: workers that run lists one op at a time in any order, and keep book of what they hold as a real
// worker does. It knows the meaning of the ops and shares no code with what makes or judges plans. A value that is used
// before it is there, or computed for nothing, fails the test.
#ifndef PLAN_WORLD_TEST_H
#define PLAN_WORLD_TEST_H

#include "plan/plan.h"

#include "base/mem.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static inline uint64_t world_random(uint64_t *seed) // splitmix64
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint32_t world_below(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(world_random(seed) % n);
}

struct world {
    struct plan plan;
    uint8_t *held;   // (workers, stages, items) of enum plan_held
    uint8_t *roots;  // (workers, units)
    uint8_t *flying; // (workers, stages, items): PLAN_HELD_X, PLAN_HELD_DY on the way to that worker
    uint8_t *posted; // (workers, stages): its sums of the stage are out
    uint8_t *losses; // (micro-batches): known
    size_t *head;    // (workers)
    uint32_t leaves; // weight gradients computed so far
};

static inline size_t world_cells(const struct world *world)
{
    return (size_t)world->plan.stage_count * world->plan.item_count;
}

static inline uint8_t *world_held(const struct world *world, uint32_t w, uint32_t stage, uint32_t item)
{
    return &world->held[(size_t)w * world_cells(world) + (size_t)stage * world->plan.item_count + item];
}

static inline uint8_t *world_root(const struct world *world, uint32_t w, uint32_t unit)
{
    return &world->roots[(size_t)w * world->plan.units + unit];
}

static inline bool world_seated(const struct plan *plan, uint32_t w, uint32_t stage)
{
    for (uint32_t k = 0; k < plan->seat_count; k++)
        if (plan->seats[k].worker == w && plan->seats[k].stage == stage)
            return true;
    return false;
}

static inline bool world_steps_unit(const struct plan *plan, uint32_t w, uint32_t unit)
{
    for (uint32_t k = 0; k < plan->seat_count; k++) {
        const struct plan_stage *stage = &plan->stages[plan->seats[k].stage];
        if (plan->seats[k].worker == w && unit >= stage->unit_first && unit < stage->unit_end)
            return true;
    }
    for (uint32_t k = 0; k < plan->follow_count; k++)
        if (plan->follows[k].worker == w && unit >= plan->follows[k].unit_first && unit < plan->follows[k].unit_end)
            return true;
    return false;
}

static inline struct world world_create(struct plan plan) // takes the plan
{
    const size_t workers = plan.workers, cells = (size_t)plan.stage_count * plan.item_count;
    return (struct world){.plan = plan,
                          .held = bg_alloc_array(workers * cells, 1),
                          .roots = bg_alloc_array(workers * plan.units, 1),
                          .flying = bg_alloc_array(workers * cells, 1),
                          .posted = bg_alloc_array(workers * plan.stage_count, 1),
                          .losses = bg_alloc_array(plan.micro_batches, 1),
                          .head = bg_alloc_array(workers, sizeof(size_t))};
}

static inline void world_fini(struct world *world)
{
    plan_fini(&world->plan);
    bg_free(world->held);
    bg_free(world->roots);
    bg_free(world->flying);
    bg_free(world->posted);
    bg_free(world->losses);
    bg_free(world->head);
}

static inline bool world_has_input(const struct world *world, uint32_t w, uint32_t stage, uint32_t item)
{
    return stage == 0 || (*world_held(world, w, stage, item) & PLAN_HELD_X) ||
           (world_seated(&world->plan, w, stage - 1) && (*world_held(world, w, stage - 1, item) & PLAN_HELD_Y));
}

static inline bool world_has_gradient(const struct world *world, uint32_t w, uint32_t stage, uint32_t item)
{
    return stage + 1 == world->plan.stage_count || (*world_held(world, w, stage, item) & PLAN_HELD_DY) ||
           (world_seated(&world->plan, w, stage + 1) && (*world_held(world, w, stage + 1, item) & PLAN_HELD_DX));
}

static inline void world_compute(struct world *world, uint32_t w, const struct plan_op *op)
{
    uint8_t *held = world_held(world, w, op->stage, op->item);
    const bool weight = op->kind == PLAN_W || (op->flags & PLAN_FUSED);
    assert_true(world_seated(&world->plan, w, op->stage));
    assert_true(world_has_input(world, w, op->stage, op->item));
    if (op->kind == PLAN_F) {
        *held |= PLAN_HELD_STASH | PLAN_HELD_Y;
        if (op->stage + 1u == world->plan.stage_count)
            memset(world->losses + world->plan.items[op->item].first, 1,
                   world->plan.items[op->item].end - world->plan.items[op->item].first);
        return;
    }
    assert_true(*held & PLAN_HELD_STASH);
    assert_false(*held & PLAN_HELD_G);
    assert_true(world_has_gradient(world, w, op->stage, op->item));
    if (op->kind == PLAN_W)
        assert_true(*held & PLAN_HELD_B);
    else
        *held |= PLAN_HELD_B | PLAN_HELD_DX;
    if (!weight)
        return;
    for (uint32_t other = 0; other < world->plan.workers; other++)
        assert_false(world_seated(&world->plan, other, op->stage) &&
                     (*world_held(world, other, op->stage, op->item) & PLAN_HELD_G));
    *held = (uint8_t)((*held & ~(PLAN_HELD_STASH | PLAN_HELD_B)) | PLAN_HELD_G);
    world->leaves += world->plan.items[op->item].end - world->plan.items[op->item].first;
}

// Runs the head op of a worker; false: it has to wait, or its list is done.
static inline bool world_advance(struct world *world, uint32_t w)
{
    const struct plan *plan = &world->plan;
    if (world->head[w] == plan->lists[w].count)
        return false;
    const struct plan_op *op = &plan->lists[w].ops[world->head[w]];
    const size_t cell = (size_t)op->stage * plan->item_count + op->item;
    const bool grad = op->flags & PLAN_GRAD;
    const uint8_t arrives = grad ? PLAN_HELD_DY : PLAN_HELD_X;
    if (op->kind <= PLAN_W) {
        world_compute(world, w, op);
    } else if (op->kind == PLAN_SEND) {
        assert_true(*world_held(world, w, op->stage, op->item) & (grad ? PLAN_HELD_DX : PLAN_HELD_Y));
        size_t to = grad ? cell - plan->item_count : cell + plan->item_count;
        world->flying[op->peer * world_cells(world) + to] |= arrives;
    } else if (op->kind == PLAN_RECV) {
        uint8_t *flying = &world->flying[w * world_cells(world) + cell];
        if (!(*flying & arrives))
            return false;
        *flying = (uint8_t)(*flying & ~arrives);
        *world_held(world, w, op->stage, op->item) |= arrives;
    } else if (op->kind == PLAN_COLL) {
        world->posted[(size_t)w * plan->stage_count + op->stage] = 1;
    } else if (op->kind == PLAN_STEP) {
        for (uint32_t u = 0; u < plan->units; u++)
            if (world_steps_unit(plan, w, u) && !*world_root(world, w, u))
                return false;
    }
    world->head[w]++;
    return true;
}

// One root arrives at one worker, if it can be summed: every leaf of the stage is posted, or some worker has the root.
static inline bool world_reduce(struct world *world, uint32_t w, uint32_t unit)
{
    const struct plan *plan = &world->plan;
    if (*world_root(world, w, unit) || !world_steps_unit(plan, w, unit))
        return false;
    bool rooted = false;
    for (uint32_t other = 0; other < plan->workers; other++)
        rooted |= *world_root(world, other, unit);
    uint32_t stage = 0;
    while (plan->stages[stage].unit_end <= unit)
        stage++;
    for (uint32_t i = 0; i < plan->item_count && !rooted; i++) {
        uint32_t summed = 0;
        for (uint32_t other = 0; other < plan->workers; other++)
            summed += world->posted[(size_t)other * plan->stage_count + stage] && world_seated(plan, other, stage) &&
                      (*world_held(world, other, stage, i) & PLAN_HELD_G);
        assert_true(summed <= 1);
        if (summed == 0)
            return false;
    }
    *world_root(world, w, unit) = 1;
    return true;
}

// Runs `events` random events, or to the end. True at the end: every list is done.
static inline bool world_run(struct world *world, uint64_t *seed, uint32_t events)
{
    const uint32_t workers = world->plan.workers;
    uint32_t idle = 0;
    while (events > 0) {
        const uint32_t w = world_below(seed, workers);
        if (world_advance(world, w) || world_reduce(world, w, world_below(seed, world->plan.units))) {
            events--;
            idle = 0;
            continue;
        }
        if (++idle < 8 * workers)
            continue;
        bool any = false, left = false; // nothing for a while: look everywhere
        for (uint32_t k = 0; k < workers; k++) {
            any |= world_advance(world, k);
            for (uint32_t u = 0; u < world->plan.units; u++)
                any |= world_reduce(world, k, u);
            left |= world->head[k] < world->plan.lists[k].count;
        }
        if (!left)
            return true;
        assert_true(any); // a stand-still
        idle = 0;
    }
    return false;
}

// At the end of a step every worker has every root it needs and every loss is known.
static inline void world_check_end(const struct world *world)
{
    for (uint32_t m = 0; m < world->plan.micro_batches; m++)
        assert_true(world->losses[m]);
    for (uint32_t w = 0; w < world->plan.workers; w++)
        for (uint32_t u = 0; u < world->plan.units; u++)
            assert_true(!world_steps_unit(&world->plan, w, u) || *world_root(world, w, u));
}

#endif
