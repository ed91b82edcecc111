// Who takes which place, and what moves for it. A layer is 2^7 slices over the ranks of its stage.
#include "plan/service/spotserve.h"

#include "base/mem.h"
#include "plan/service/assign.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { SLICES = 1 << (PLAN_SPOTSERVE_LOG_MAX - 1) };

struct span {
    uint32_t first, end;
};

static struct span overlap(struct span a, struct span b)
{
    const struct span both = {a.first > b.first ? a.first : b.first, a.end < b.end ? a.end : b.end};
    return both.first < both.end ? both : (struct span){0, 0};
}

static struct span layers_of(const struct plan_spotserve_shape *shape, struct plan_spotserve_place place)
{
    const uint32_t each = shape->layers / shape->stages;
    return (struct span){place.stage * each, (place.stage + 1) * each};
}

static struct span slices_of(const struct plan_spotserve_shape *shape, struct plan_spotserve_place place)
{
    const uint32_t each = SLICES / shape->width;
    return (struct span){place.rank * each, (place.rank + 1) * each};
}

double plan_spotserve_reusable(const struct plan_spotserve_shape *from, struct plan_spotserve_place old,
                               const struct plan_spotserve_shape *to, struct plan_spotserve_place new, double cache)
{
    if (old.replica == PLAN_SPOTSERVE_NOBODY)
        return 0;
    const struct span layers = overlap(layers_of(from, old), layers_of(to, new));
    const struct span slices = overlap(slices_of(from, old), slices_of(to, new));
    const double share = (double)(slices.end - slices.first) / SLICES, hidden = to->hidden;
    // Six vectors of a layer are on every rank; its matrices, seven vectors and the cache are shared out.
    const double kept = old.replica == new.replica ? cache : 0;
    return (layers.end - layers.first) * (6 + (12 * hidden + 7 + kept) * share) * hidden;
}

static struct plan_spotserve_place place_of(const struct plan_spotserve_shape *shape, uint32_t index)
{
    return (struct plan_spotserve_place){index / (shape->stages * shape->width), index / shape->width % shape->stages,
                                         index % shape->width};
}

bg_status plan_spotserve_map(const struct plan_spotserve_shape *from, const struct plan_spotserve_place *places,
                             uint32_t machines, const struct plan_spotserve_shape *to, double cache,
                             struct bg_error *err, uint32_t *machine_of, double *stays)
{
    const uint32_t count = to->replicas * to->stages * to->width;
    if (count > machines || machines > PLAN_SPOTSERVE_MACHINES)
        return bg_fail(err, BG_INVALID,
                       "%u x %u x %u places on %u machines: expected at least as many machines, at most %d",
                       to->replicas, to->stages, to->width, machines, PLAN_SPOTSERVE_MACHINES);
    double *weight = bg_alloc_array((size_t)count * machines, sizeof *weight);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t m = 0; m < machines; m++)
            weight[(size_t)i * machines + m] = plan_spotserve_reusable(from, places[m], to, place_of(to, i), cache);
    *stays = plan_assign(weight, count, machines, machine_of);
    bg_free(weight);
    return BG_OK;
}

// ---- Moves ----

struct mover {
    const struct plan_spotserve_shape *from, *to;
    const struct plan_spotserve_place *places;
    const uint32_t *machine_of;
    uint32_t machines, places_new;
    uint32_t *held;    // (machines) slices now
    uint32_t *arrives; // (machines) scratch
    uint32_t turn;     // of senders
    struct plan_spotserve_moves *moves;
};

static bool owns(const struct mover *v, uint32_t machine, uint32_t layer, uint32_t slice)
{
    const struct plan_spotserve_place place = v->places[machine];
    if (place.replica == PLAN_SPOTSERVE_NOBODY)
        return false;
    const struct span layers = layers_of(v->from, place), slices = slices_of(v->from, place);
    return layers.first <= layer && layer < layers.end && slices.first <= slice && slice < slices.end;
}

// The grain of slices: ranks of both shapes begin at multiples of it.
static uint32_t grain_of(const struct mover *v)
{
    return SLICES / (v->from->width > v->to->width ? v->from->width : v->to->width);
}

// Slices of a layer that come to each machine.
static void count_arrivals(const struct mover *v, uint32_t layer, uint32_t *arrives)
{
    const uint32_t grain = grain_of(v);
    memset(arrives, 0, v->machines * sizeof *arrives);
    for (uint32_t i = 0; i < v->places_new; i++) {
        const struct plan_spotserve_place place = place_of(v->to, i);
        const struct span layers = layers_of(v->to, place), slices = slices_of(v->to, place);
        if (layer < layers.first || layer >= layers.end)
            continue;
        for (uint32_t s = slices.first; s < slices.end; s += grain)
            if (!owns(v, v->machine_of[i], layer, s))
                arrives[v->machine_of[i]] += grain;
    }
}

static uint32_t sender_of(struct mover *v, uint32_t layer, uint32_t slice)
{
    uint32_t owners = 0;
    for (uint32_t m = 0; m < v->machines; m++)
        owners += owns(v, m, layer, slice);
    if (!owners)
        return PLAN_SPOTSERVE_NOBODY;
    uint32_t which = v->turn++ % owners;
    for (uint32_t m = 0;; m++)
        if (owns(v, m, layer, slice) && which-- == 0)
            return m;
}

static void add(struct mover *v, uint32_t layer, uint32_t from, uint32_t to, uint32_t slices)
{
    struct plan_spotserve_moves *moves = v->moves;
    struct plan_spotserve_transfer *last = moves->count ? &moves->transfers[moves->count - 1] : NULL;
    if (last && last->layer == layer && last->from == from && last->to == to) {
        last->slices += slices;
        return;
    }
    if (!(moves->count & (moves->count + 1))) // room grows at 0, 1, 3, 7, ...
        moves->transfers = bg_realloc_array(moves->transfers, 2 * moves->count + 1, sizeof *moves->transfers);
    moves->transfers[moves->count++] = (struct plan_spotserve_transfer){layer, from, to, slices};
}

// Sends a layer, then gives up what was held of it without need.
static void move_layer(struct mover *v, uint32_t layer)
{
    const uint32_t grain = grain_of(v);
    count_arrivals(v, layer, v->arrives);
    for (uint32_t i = 0; i < v->places_new; i++) {
        const struct plan_spotserve_place place = place_of(v->to, i);
        const struct span layers = layers_of(v->to, place), slices = slices_of(v->to, place);
        if (layer < layers.first || layer >= layers.end)
            continue;
        for (uint32_t s = slices.first; s < slices.end; s += grain)
            if (!owns(v, v->machine_of[i], layer, s))
                add(v, layer, sender_of(v, layer, s), v->machine_of[i], grain);
    }
    for (uint32_t m = 0; m < v->machines; m++) {
        v->held[m] += v->arrives[m];
        v->moves->slices_peak = v->held[m] > v->moves->slices_peak ? v->held[m] : v->moves->slices_peak;
        for (uint32_t s = 0; s < SLICES; s += grain)
            v->held[m] -= owns(v, m, layer, s) ? grain : 0;
    }
    for (uint32_t i = 0; i < v->places_new; i++) { // what is needed stays
        const struct plan_spotserve_place place = place_of(v->to, i);
        const struct span layers = layers_of(v->to, place), slices = slices_of(v->to, place);
        for (uint32_t s = slices.first; s < slices.end && layers.first <= layer && layer < layers.end; s += grain)
            v->held[v->machine_of[i]] += owns(v, v->machine_of[i], layer, s) ? grain : 0;
    }
}

static bool has_room(struct mover *v, uint32_t layer, uint32_t slices_max)
{
    count_arrivals(v, layer, v->arrives);
    for (uint32_t m = 0; m < v->machines; m++)
        if (slices_max && v->arrives[m] && v->held[m] + v->arrives[m] > slices_max)
            return false;
    return true;
}

void plan_spotserve_migrate(const struct plan_spotserve_shape *from, const struct plan_spotserve_place *places,
                            uint32_t machines, const struct plan_spotserve_shape *to, const uint32_t *machine_of,
                            uint32_t slices_max, struct plan_spotserve_moves *moves)
{
    struct mover v = {.from = from,
                      .to = to,
                      .places = places,
                      .machine_of = machine_of,
                      .machines = machines,
                      .places_new = to->replicas * to->stages * to->width,
                      .moves = moves};
    bool *done = bg_alloc_array(to->layers, sizeof *done);
    *moves = (struct plan_spotserve_moves){0};
    v.held = bg_alloc_array(machines, sizeof *v.held);
    v.arrives = bg_alloc_array(machines, sizeof *v.arrives);
    for (uint32_t m = 0; m < machines; m++) {
        if (places[m].replica != PLAN_SPOTSERVE_NOBODY)
            v.held[m] = from->layers / from->stages * (SLICES / from->width);
        moves->slices_peak = v.held[m] > moves->slices_peak ? v.held[m] : moves->slices_peak;
    }
    for (uint32_t left = to->layers; left; left--) {
        uint32_t first = 0;
        while (done[first])
            first++;
        uint32_t next = first;
        while (next < to->layers && (done[next] || !has_room(&v, next, slices_max)))
            next++;
        if (next == to->layers)
            next = first; // nobody can: it goes all the same
        moves->late += next != first;
        move_layer(&v, next);
        done[next] = true;
    }
    bg_free(v.held);
    bg_free(v.arrives);
    bg_free(done);
}

void plan_spotserve_moves_fini(struct plan_spotserve_moves *moves)
{
    bg_free(moves->transfers);
    *moves = (struct plan_spotserve_moves){0};
}
