// Costs in the mean over draws, one table of (from, to) for every (machines, losses) that is asked for. A change that
// cuts the stages anew costs the same whatever was lost, as long as every stage lives: those are kept beside.
#include "plan/fleet/liveput.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/philox.h"

#include <math.h>
#include <string.h>

#define NODES (PLAN_FLEET_NODES_MAX + 1)

struct plan_liveput {
    const struct plan_fleet *fleet;
    uint32_t draws, shape_count;
    struct bg_philox_key key;
    struct plan_fleet_shape *shapes; // (shape_count)
    uint32_t fitting[NODES];         // [nodes]
    double *costs[NODES][NODES];     // [nodes][lost]: (shapes, shapes), negative where not known yet; or NULL
};

struct plan_liveput *plan_liveput_create(const struct plan_fleet *fleet, uint32_t draws, uint64_t seed)
{
    BG_ASSERT(draws > 0);
    struct plan_liveput *l = bg_alloc(sizeof *l);
    l->fleet = fleet;
    l->draws = draws;
    l->key = bg_philox_key(seed, BG_STREAM_SAMPLING);
    l->shapes = bg_alloc_array((size_t)NODES * NODES, sizeof *l->shapes);
    l->shape_count = 1;
    l->fitting[0] = 1;
    for (uint32_t n = 1; n <= fleet->options.nodes_max; n++) {
        for (uint32_t p = fleet->stages_min; p <= fleet->stages_max && p <= n; p++)
            if (n % p == 0 && plan_fleet_rate(fleet, (struct plan_fleet_shape){n / p, p, 0}) > 0)
                l->shapes[l->shape_count++] = (struct plan_fleet_shape){n / p, p, 0};
        l->fitting[n] = l->shape_count;
    }
    return l;
}

void plan_liveput_destroy(struct plan_liveput *liveput)
{
    if (!liveput)
        return;
    for (uint32_t n = 0; n < NODES; n++)
        for (uint32_t k = 0; k < NODES; k++)
            bg_free(liveput->costs[n][k]);
    bg_free(liveput->shapes);
    bg_free(liveput);
}

const struct plan_fleet *plan_liveput_fleet(const struct plan_liveput *liveput)
{
    return liveput->fleet;
}

uint32_t plan_liveput_shapes(const struct plan_liveput *liveput)
{
    return liveput->shape_count;
}

struct plan_fleet_shape plan_liveput_shape(const struct plan_liveput *liveput, uint32_t index)
{
    return liveput->shapes[index];
}

uint32_t plan_liveput_fitting(const struct plan_liveput *liveput, uint32_t nodes)
{
    return liveput->fitting[nodes < liveput->fleet->options.nodes_max ? nodes : liveput->fleet->options.nodes_max];
}

// What is left of `shape` in one draw: `lost` of the `nodes` machines, each set of them as likely as any other. Machine
// i < replicas x stages holds stage i mod stages.
static struct plan_fleet_left draw(const struct plan_liveput *l, struct plan_fleet_shape shape, uint32_t nodes,
                                   uint32_t lost, uint32_t index)
{
    struct plan_fleet_left left = plan_fleet_whole(shape);
    uint32_t order[NODES];
    for (uint32_t i = 0; i < nodes; i++)
        order[i] = i;
    for (uint32_t i = 0; i < lost; i++) {
        const struct bg_philox_counter counter = {{index, i, nodes, lost}};
        const uint32_t word = bg_philox(counter, l->key).c[0];
        const uint32_t j = i + (uint32_t)((uint64_t)word * (nodes - i) >> 32), victim = order[j];
        order[j] = order[i];
        order[i] = victim;
        if (victim < shape.replicas * shape.stages)
            left.live[0][victim % shape.stages]--;
    }
    return left;
}

static uint32_t fewest(const struct plan_fleet_left *left)
{
    uint32_t least = left->shape.replicas;
    for (uint32_t s = 0; s < left->shape.stages; s++)
        least = left->live[0][s] < least ? left->live[0][s] : least;
    return least;
}

// The row of one shape: to every shape that may be left.
static void fill_row(struct plan_liveput *l, uint32_t nodes, uint32_t lost, uint32_t from, double *row)
{
    const uint32_t draws = lost ? l->draws : 1, count = l->shape_count;
    const struct plan_fleet_shape shape = l->shapes[from];
    double *whole = bg_alloc_array(count, sizeof *whole); // to a shape of other stages while every stage lives
    const struct plan_fleet_left all = plan_fleet_whole(shape);
    for (uint32_t to = 0; to < count; to++) {
        row[to] = 0;
        whole[to] = -1;
    }
    for (uint32_t d = 0; d < draws; d++) {
        const struct plan_fleet_left left = draw(l, shape, nodes, lost, d);
        const bool alive = fewest(&left) > 0;
        for (uint32_t to = 0; to < count; to++) {
            const struct plan_fleet_shape target = l->shapes[to];
            // Who joins makes a difference as well: only where nobody does, or surely somebody, is it the same.
            const bool surely = plan_fleet_nodes(target) + lost <= plan_fleet_nodes(shape) ||
                                plan_fleet_nodes(target) > plan_fleet_nodes(shape);
            if (alive && surely && target.stages != shape.stages) {
                if (whole[to] < 0)
                    whole[to] = plan_fleet_move(l->fleet, &left, target).seconds;
                row[to] += whole[to];
            } else {
                row[to] += plan_fleet_move(l->fleet, lost ? &left : &all, target).seconds;
            }
        }
    }
    for (uint32_t to = 0; to < count; to++)
        row[to] /= draws;
    bg_free(whole);
}

double plan_liveput_cost(struct plan_liveput *l, uint32_t nodes, uint32_t lost, uint32_t from, uint32_t to)
{
    BG_ASSERT(nodes < NODES && lost <= nodes && from < l->shape_count && to < l->shape_count);
    double **table = &l->costs[nodes][lost];
    if (!*table) {
        *table = bg_alloc_array((size_t)l->shape_count * l->shape_count, sizeof **table);
        for (size_t i = 0; i < (size_t)l->shape_count * l->shape_count; i++)
            (*table)[i] = -1;
    }
    double *row = *table + (size_t)from * l->shape_count;
    if (row[to] < 0)
        fill_row(l, nodes, lost, from, row);
    return row[to];
}

double plan_liveput_rate(const struct plan_liveput *l, struct plan_fleet_shape shape, uint32_t nodes, uint32_t lost)
{
    const uint32_t draws = lost ? l->draws : 1;
    double sum = 0;
    if (!shape.replicas)
        return 0;
    BG_ASSERT(nodes < NODES && lost <= nodes && plan_fleet_nodes(shape) <= nodes);
    for (uint32_t d = 0; d < draws; d++) {
        const struct plan_fleet_left left = draw(l, shape, nodes, lost, d);
        sum += plan_fleet_rate(l->fleet, (struct plan_fleet_shape){fewest(&left), shape.stages, 0});
    }
    return sum / draws;
}
