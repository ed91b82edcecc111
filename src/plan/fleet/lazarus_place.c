// Where replicas stand: maximum rank overlap, and the repair where that is not enough. The repair climbs from two
// starts and keeps the better end: it swaps two replicas on two nodes as long as a swap makes things better. Beyond
// CLIMB_NODES that would take too long: it then tries TRIES swaps drawn by the seed.
#include "plan/fleet/lazarus_int.h"

#include "base/mem.h"
#include "base/philox.h"

#include <stdbool.h>
#include <string.h>

enum { CLIMB_NODES = 10, TRIES = 1000, TRY_DRAWS = 200 };

static uint32_t *cell(const struct plan_lazarus *shape, uint32_t *held, uint32_t node, uint32_t expert)
{
    return &held[(size_t)node * shape->experts + expert];
}

// The node to take one more replica of an expert: room, then the fewest of that expert, then the most room, then the
// first. It exists: replicas fill the slots exactly.
static uint32_t node_with_room(const struct plan_lazarus *shape, uint32_t *held, const uint32_t *room, uint32_t expert)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t n = 0; n < shape->nodes; n++) {
        if (!room[n])
            continue;
        const uint32_t own = *cell(shape, held, n, expert);
        const uint32_t least = best == UINT32_MAX ? UINT32_MAX : *cell(shape, held, best, expert);
        if (own < least || (own == least && room[n] > room[best]))
            best = n;
    }
    return best;
}

static void fill(const struct plan_lazarus *shape, const uint32_t *order, uint32_t *left, uint32_t *room,
                 uint32_t *held)
{
    for (uint32_t i = 0; i < shape->experts; i++) {
        for (; left[order[i]]; left[order[i]]--) {
            const uint32_t n = node_with_room(shape, held, room, order[i]);
            ++*cell(shape, held, n, order[i]);
            room[n]--;
        }
    }
}

// Groups of `slots` experts, each on as many nodes of its own as its first expert has replicas. False where there are
// not that many nodes: the last groups then make do with fewer.
static bool overlap(const struct plan_lazarus *shape, const uint32_t *order, const uint32_t *replicas, uint32_t *held)
{
    uint32_t *left = bg_alloc_array(shape->experts, sizeof *left), *room = bg_alloc_array(shape->nodes, sizeof *room);
    memcpy(left, replicas, shape->experts * sizeof *left);
    memset(held, 0, (size_t)shape->nodes * shape->experts * sizeof *held);
    for (uint32_t n = 0; n < shape->nodes; n++)
        room[n] = shape->slots;
    bool enough = true;
    uint32_t node = 0;
    for (uint32_t g = 0; g < shape->experts; g += shape->slots) {
        const uint32_t end = g + shape->slots < shape->experts ? g + shape->slots : shape->experts;
        const uint32_t wanted = replicas[order[g]];
        uint32_t given = wanted;
        if (given > shape->nodes - node) {
            given = shape->nodes - node;
            enough = false;
        }
        for (; given; given--, node++) {
            for (uint32_t i = g; i < end; i++) {
                ++*cell(shape, held, node, order[i]);
                left[order[i]]--;
                room[node]--;
            }
        }
    }
    fill(shape, order, left, room, held);
    bg_free(left);
    bg_free(room);
    return enough;
}

// Every expert on the nodes that have the most room: replicas as far apart as can be.
static void scatter(const struct plan_lazarus *shape, const uint32_t *order, const uint32_t *replicas, uint32_t *held)
{
    uint32_t *left = bg_alloc_array(shape->experts, sizeof *left), *room = bg_alloc_array(shape->nodes, sizeof *room);
    memcpy(left, replicas, shape->experts * sizeof *left);
    memset(held, 0, (size_t)shape->nodes * shape->experts * sizeof *held);
    for (uint32_t n = 0; n < shape->nodes; n++)
        room[n] = shape->slots;
    fill(shape, order, left, room, held);
    bg_free(left);
    bg_free(room);
}

// ---- Repair ----

struct climb {
    const struct plan_lazarus *shape;
    const uint32_t *replicas;
    uint32_t alive;
    uint64_t *masks, *good, *best;
};

// First how many replicas an expert lacks on nodes of its own, then the sets that recover.
static void score(struct climb *c, const uint32_t *held, uint64_t *value)
{
    const struct plan_lazarus *shape = c->shape;
    uint64_t lacking = 0;
    for (uint32_t e = 0; e < shape->experts; e++) {
        uint32_t want = c->replicas[e], nodes = 0;
        want = want < shape->spread ? want : shape->spread;
        want = want < shape->nodes ? want : shape->nodes;
        for (uint32_t n = 0; n < shape->nodes; n++)
            nodes += held[(size_t)n * shape->experts + e] > 0;
        lacking += nodes < want ? want - nodes : 0;
    }
    lazarus_masks(shape, held, c->masks);
    lazarus_good_sets(shape, c->masks, shape->nodes <= CLIMB_NODES ? 0 : TRY_DRAWS, value);
    value[0] = lacking; // no job goes on with no nodes: the place is free
}

static bool better(const struct climb *c, const uint64_t *a, const uint64_t *b)
{
    if (a[0] != b[0])
        return a[0] < b[0];
    if (c->alive && a[c->alive] != b[c->alive])
        return a[c->alive] > b[c->alive];
    for (uint32_t k = c->shape->nodes - 1; k > 0 && k < c->shape->nodes; k--)
        if (a[k] != b[k])
            return a[k] > b[k];
    return false;
}

static void swap(const struct plan_lazarus *shape, uint32_t *held, const uint32_t nodes[2], const uint32_t experts[2])
{
    --*cell(shape, held, nodes[0], experts[0]);
    ++*cell(shape, held, nodes[0], experts[1]);
    --*cell(shape, held, nodes[1], experts[1]);
    ++*cell(shape, held, nodes[1], experts[0]);
}

// Makes the best single swap; false where none is better.
static bool step(struct climb *c, uint32_t *held)
{
    const struct plan_lazarus *shape = c->shape;
    uint32_t nodes[2] = {0}, experts[2] = {0};
    bool found = false;
    score(c, held, c->best);
    for (uint32_t i = 0; i < shape->nodes; i++) {
        for (uint32_t j = i + 1; j < shape->nodes; j++) {
            for (uint32_t pair = 0; pair < shape->experts * shape->experts; pair++) {
                const uint32_t at[2] = {i, j}, of[2] = {pair / shape->experts, pair % shape->experts};
                if (of[0] == of[1] || !*cell(shape, held, i, of[0]) || !*cell(shape, held, j, of[1]))
                    continue;
                swap(shape, held, at, of);
                score(c, held, c->good);
                const uint32_t back[2] = {of[1], of[0]};
                swap(shape, held, at, back);
                if (better(c, c->good, c->best)) {
                    memcpy(c->best, c->good, (shape->nodes + (size_t)1) * sizeof *c->best);
                    memcpy(nodes, at, sizeof nodes);
                    memcpy(experts, of, sizeof experts);
                    found = true;
                }
            }
        }
    }
    if (found)
        swap(shape, held, nodes, experts);
    return found;
}

static void try_swaps(struct climb *c, uint32_t *held)
{
    const struct plan_lazarus *shape = c->shape;
    const struct bg_philox_key key = bg_philox_key(shape->seed, BG_STREAM_SAMPLING);
    score(c, held, c->best);
    for (uint32_t i = 0; i < TRIES; i++) {
        const struct bg_philox_counter draw = bg_philox((struct bg_philox_counter){{i, 1}}, key);
        const uint32_t at[2] = {draw.c[0] % shape->nodes, draw.c[1] % shape->nodes};
        const uint32_t of[2] = {draw.c[2] % shape->experts, draw.c[3] % shape->experts}, back[2] = {of[1], of[0]};
        if (at[0] == at[1] || of[0] == of[1] || !*cell(shape, held, at[0], of[0]) || !*cell(shape, held, at[1], of[1]))
            continue;
        swap(shape, held, at, of);
        score(c, held, c->good);
        if (better(c, c->good, c->best))
            memcpy(c->best, c->good, (shape->nodes + (size_t)1) * sizeof *c->best);
        else
            swap(shape, held, at, back);
    }
}

static void climb(struct climb *c, uint32_t *held)
{
    if (c->shape->nodes > CLIMB_NODES)
        try_swaps(c, held);
    else
        while (step(c, held))
            ;
}

static void repair(const struct plan_lazarus *shape, const uint32_t *order, const uint32_t *replicas, uint32_t alive,
                   uint32_t *held)
{
    const size_t cells = (size_t)shape->nodes * shape->experts;
    struct climb c = {.shape = shape, .replicas = replicas, .alive = alive < shape->nodes ? alive : 0};
    c.masks = bg_alloc_array(shape->nodes * lazarus_words(shape), sizeof *c.masks);
    c.good = bg_alloc_array(shape->nodes + (size_t)1, sizeof *c.good);
    c.best = bg_alloc_array(shape->nodes + (size_t)1, sizeof *c.best);
    uint32_t *other = bg_alloc_array(cells, sizeof *other);
    scatter(shape, order, replicas, other);
    climb(&c, held);
    climb(&c, other);
    score(&c, held, c.good);
    score(&c, other, c.best);
    if (better(&c, c.best, c.good))
        memcpy(held, other, cells * sizeof *held);
    bg_free(other);
    bg_free(c.masks);
    bg_free(c.good);
    bg_free(c.best);
}

void plan_lazarus_place(const struct plan_lazarus *shape, const uint32_t *replicas, uint32_t alive, uint32_t *held)
{
    uint32_t *order = bg_alloc_array(shape->experts, sizeof *order);
    uint64_t *key = bg_alloc_array(shape->experts, sizeof *key);
    for (uint32_t e = 0; e < shape->experts; e++)
        key[e] = replicas[e];
    lazarus_ascending(shape->experts, key, order);
    if (!overlap(shape, order, replicas, held))
        repair(shape, order, replicas, alive, held);
    bg_free(key);
    bg_free(order);
}
