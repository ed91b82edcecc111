// Lazarus: replicas in proportion to load, and the odds to recover. The placement is in lazarus_place.c.
#include "plan/fleet/lazarus_int.h"

#include "base/mem.h"
#include "base/philox.h"

#include <stdbool.h>
#include <string.h>

enum { RECOVERY_DRAWS = 20000, CLASSES_MAX = 12 };

bg_status plan_lazarus_check(const struct plan_lazarus *shape, struct bg_error *err)
{
    if (!shape->experts || shape->experts > PLAN_LAZARUS_EXPERTS_MAX || !shape->nodes ||
        shape->nodes > PLAN_LAZARUS_NODES_MAX || !shape->slots || shape->slots > PLAN_LAZARUS_EXPERTS_MAX)
        return bg_fail(err, BG_INVALID, "%u experts on %u nodes of %u slots: expected 1 to %d experts, nodes and slots",
                       shape->experts, shape->nodes, shape->slots, PLAN_LAZARUS_EXPERTS_MAX);
    if (shape->nodes * shape->slots < shape->experts)
        return bg_fail(err, BG_INVALID, "%u nodes of %u slots do not hold %u experts: take more nodes or more slots",
                       shape->nodes, shape->slots, shape->experts);
    return BG_OK;
}

void lazarus_ascending(uint32_t count, const uint64_t *key, uint32_t *order)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i;
        for (; at > 0 && key[order[at - 1]] > key[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

// floor(a b / c) for a <= c, b < 2^32, without overflow.
static uint64_t scaled(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)((unsigned __int128)a * b / c);
}

void plan_lazarus_allocate(const struct plan_lazarus *shape, const uint64_t *load, uint32_t *replicas)
{
    const uint32_t all = shape->nodes * shape->slots;
    const uint32_t least = shape->spread < all / shape->experts ? shape->spread : all / shape->experts;
    uint32_t *order = bg_alloc_array(shape->experts, sizeof *order);
    lazarus_ascending(shape->experts, load, order);
    uint64_t load_left = 0;
    for (uint32_t e = 0; e < shape->experts; e++)
        load_left += load[e];
    uint32_t left = all;
    for (uint32_t i = 0; i < shape->experts; i++) {
        const uint32_t e = order[i];
        // Without any load all share alike.
        const uint64_t share = load_left ? scaled(load[e], left, load_left) : left / (shape->experts - i);
        const uint32_t floor = least ? least : 1;
        replicas[e] = share > floor ? (uint32_t)share : floor;
        left -= replicas[e];
        load_left -= load[e];
    }
    bg_free(order);
}

// ---- Recovery ----

void lazarus_masks(const struct plan_lazarus *shape, const uint32_t *held, uint64_t *masks)
{
    const size_t words = lazarus_words(shape);
    memset(masks, 0, shape->nodes * words * sizeof *masks);
    for (uint32_t n = 0; n < shape->nodes; n++)
        for (uint32_t e = 0; e < shape->experts; e++)
            if (held[(size_t)n * shape->experts + e])
                masks[n * words + e / 64] |= UINT64_C(1) << e % 64;
}

static bool complete(const struct plan_lazarus *shape, const uint64_t *mask)
{
    uint32_t found = 0;
    for (size_t w = 0; w < lazarus_words(shape); w++)
        found += (uint32_t)__builtin_popcountll(mask[w]);
    return found == shape->experts;
}

// Adds to good[k] the sets of k nodes that hold everything, over all choices of the nodes from `node` on.
static void count_sets(const struct plan_lazarus *shape, const uint64_t *masks, uint32_t node, uint32_t alive,
                       const uint64_t *have, uint64_t *good)
{
    const size_t words = lazarus_words(shape);
    if (node == shape->nodes) {
        good[alive] += complete(shape, have);
        return;
    }
    uint64_t with[LAZARUS_WORDS_MAX];
    for (size_t w = 0; w < words; w++)
        with[w] = have[w] | masks[node * words + w];
    count_sets(shape, masks, node + 1, alive, have, good);
    count_sets(shape, masks, node + 1, alive + 1, with, good);
}

// The same from draws: good[k] of `draws` sets of k nodes each, nested: one order of the nodes gives a set of every
// size.
static void draw_sets(const struct plan_lazarus *shape, const uint64_t *masks, uint32_t draws, uint64_t *good)
{
    const size_t words = lazarus_words(shape);
    uint32_t *order = bg_alloc_array(shape->nodes, sizeof *order);
    const struct bg_philox_key key = bg_philox_key(shape->seed, BG_STREAM_SAMPLING);
    for (uint32_t draw = 0; draw < draws; draw++) {
        uint64_t have[LAZARUS_WORDS_MAX] = {0};
        for (uint32_t i = 0; i < shape->nodes; i++)
            order[i] = i;
        bool all = false;
        for (uint32_t i = 0; i < shape->nodes; i++) {
            const uint32_t word = bg_philox((struct bg_philox_counter){{draw, i}}, key).c[0];
            const uint32_t j = i + (uint32_t)((uint64_t)word * (shape->nodes - i) >> 32), node = order[j];
            order[j] = order[i];
            order[i] = node;
            for (size_t w = 0; w < words && !all; w++)
                have[w] |= masks[node * words + w];
            all = all || complete(shape, have);
            good[i + 1] += all;
        }
    }
    bg_free(order);
}

void lazarus_good_sets(const struct plan_lazarus *shape, const uint64_t *masks, uint32_t draws, uint64_t *good)
{
    const uint64_t nothing[LAZARUS_WORDS_MAX] = {0};
    memset(good, 0, (shape->nodes + (size_t)1) * sizeof *good);
    if (draws)
        draw_sets(shape, masks, draws, good);
    else
        count_sets(shape, masks, 0, 0, nothing, good);
}

// Nodes that hold the same experts are alike: sets are counted by how many of each class they take. A term of the
// product of (1 + x)^size - 1 over the classes taken from counts the sets that take from just those.
struct classes {
    const struct plan_lazarus *shape;
    const uint64_t *masks;
    uint32_t first[CLASSES_MAX], size[CLASSES_MAX], count, alive;
    double *terms; // (count + 1, alive + 1) by how many classes were looked at
    double good;
};

static bool find_classes(struct classes *c)
{
    const size_t words = lazarus_words(c->shape);
    for (uint32_t n = 0; n < c->shape->nodes; n++) {
        uint32_t k = 0;
        while (k < c->count &&
               memcmp(c->masks + c->first[k] * words, c->masks + n * words, words * sizeof *c->masks) != 0)
            k++;
        if (k == CLASSES_MAX)
            return false;
        if (k == c->count)
            c->first[c->count++] = n;
        c->size[k]++;
    }
    return true;
}

static void count_classes(struct classes *c, uint32_t at, const uint64_t *have)
{
    const size_t words = lazarus_words(c->shape);
    const double *terms = c->terms + (size_t)at * (c->alive + 1);
    double *next = c->terms + (size_t)(at + 1) * (c->alive + 1);
    if (at == c->count) {
        c->good += complete(c->shape, have) ? terms[c->alive] : 0;
        return;
    }
    memcpy(next, terms, (c->alive + (size_t)1) * sizeof *next);
    count_classes(c, at + 1, have);
    uint64_t with[LAZARUS_WORDS_MAX];
    for (size_t w = 0; w < words; w++)
        with[w] = have[w] | c->masks[c->first[at] * words + w];
    for (uint32_t k = c->alive + 1; k-- > 0;) {
        double sum = 0, ways = 1;
        for (uint32_t j = 1; j <= c->size[at] && j <= k; j++) {
            ways = ways * (c->size[at] - j + 1) / j;
            sum += ways * terms[k - j];
        }
        next[k] = sum;
    }
    count_classes(c, at + 1, with);
}

static double over(uint32_t n, uint32_t k)
{
    double ways = 1;
    for (uint32_t i = 0; i < k; i++)
        ways = ways * (n - i) / (i + 1);
    return ways;
}

static double recovery_of(const struct plan_lazarus *shape, const uint64_t *masks, uint32_t alive)
{
    struct classes c = {.shape = shape, .masks = masks, .alive = alive};
    double share;
    if (find_classes(&c)) {
        const uint64_t nothing[LAZARUS_WORDS_MAX] = {0};
        c.terms = bg_alloc_array((c.count + (size_t)2) * (alive + (size_t)1), sizeof *c.terms);
        c.terms[0] = 1;
        count_classes(&c, 0, nothing);
        share = c.good / over(shape->nodes, alive);
        bg_free(c.terms);
    } else {
        const bool exact = shape->nodes <= PLAN_LAZARUS_EXACT_MAX;
        uint64_t *good = bg_alloc_array(shape->nodes + (size_t)1, sizeof *good);
        lazarus_good_sets(shape, masks, exact ? 0 : RECOVERY_DRAWS, good);
        share = (double)good[alive] / (exact ? over(shape->nodes, alive) : RECOVERY_DRAWS);
        bg_free(good);
    }
    return share;
}

double plan_lazarus_recovery(const struct plan_lazarus *shape, const uint32_t *held, uint32_t alive)
{
    uint64_t *masks = bg_alloc_array(shape->nodes * lazarus_words(shape), sizeof *masks);
    lazarus_masks(shape, held, masks);
    const double share = recovery_of(shape, masks, alive < shape->nodes ? alive : shape->nodes);
    bg_free(masks);
    return share;
}

// ---- Dispatch ----

// Splits `whole` into whole parts in proportion to weight (not all 0, if whole > 0): largest remainder, first node
// first.
static void split(uint64_t whole, uint32_t count, const uint64_t *weight, uint64_t *part, uint64_t *remainder)
{
    uint64_t sum = 0, given = 0;
    for (uint32_t j = 0; j < count; j++)
        sum += weight[j];
    for (uint32_t j = 0; j < count; j++) {
        const unsigned __int128 product = (unsigned __int128)whole * weight[j];
        part[j] = sum ? (uint64_t)(product / sum) : 0;
        remainder[j] = sum ? (uint64_t)(product % sum) : 0;
        given += part[j];
    }
    for (; given < whole; given++) {
        uint32_t best = 0;
        for (uint32_t j = 1; j < count; j++)
            if (remainder[j] > remainder[best])
                best = j;
        part[best]++;
        remainder[best] = 0;
    }
}

void plan_lazarus_dispatch(uint32_t nodes, const uint64_t *tokens, const uint32_t *held, uint64_t *sent)
{
    uint64_t *room = bg_alloc_array((size_t)nodes * 3, sizeof *room), *part = room + nodes, *remainder = part + nodes;
    uint64_t all = 0;
    memset(sent, 0, (size_t)nodes * nodes * sizeof *sent);
    for (uint32_t i = 0; i < nodes; i++) {
        all += tokens[i];
        part[i] = held[i];
    }
    split(all, nodes, part, room, remainder);
    for (uint32_t i = 0; i < nodes; i++) {
        const uint64_t own = tokens[i] < room[i] ? tokens[i] : room[i];
        sent[(size_t)i * nodes + i] = own;
        room[i] -= own;
    }
    for (uint32_t i = 0; i < nodes; i++) { // who has tokens left has no room left
        split(tokens[i] - sent[(size_t)i * nodes + i], nodes, room, part, remainder);
        for (uint32_t j = 0; j < nodes; j++) {
            sent[(size_t)i * nodes + j] += part[j];
            room[j] -= part[j];
        }
    }
    bg_free(room);
}
