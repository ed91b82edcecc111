// The planner: what is searched, and how hard.
#include "plan/split/sync.h"

#include "base/mem.h"
#include "plan/split/sync_search.h"

#include <math.h>
#include <string.h>

#define NODES_MAX   4096u   // sets of machines of an exact search
#define PLACES_MAX  128u    // to cut, and in an order of machines, of a search that is not exact
#define BEAM        4u      // labels of a state in such a search
#define SHAPES_MAX  500000u // cuts x teams up to which each number of stages is searched by itself
#define PROBE_PLANS 20000u  // that are priced after such a search

// ---- Hosts with too few cores ----
// How many threads of each such host compute is not known before the machines are chosen: the search is made for every
// total that may be, up to `cores` first (then nothing slows down).
struct crowd {
    uint32_t host, count, at;
    double cores, totals[64]; // of threads
};

static void add_total(struct crowd *crowd, double total, bool *all)
{
    if (total <= crowd->cores)
        return;
    for (uint32_t i = 0; i < crowd->count; i++)
        if (crowd->totals[i] == total)
            return;
    if (crowd->count == 64)
        *all = false;
    else
        crowd->totals[crowd->count++] = total;
}

// Sums of threads of a host's machines. False: too many to list.
static bool list_totals(const struct sync_model *m, struct crowd *crowd)
{
    bool all = true;
    double sums[256];
    uint32_t count = 1;
    sums[0] = 0;
    for (uint32_t i = 0; i < m->profile->machine_count && all; i++) {
        if (m->profile->machines[i].host != crowd->host)
            continue;
        for (uint32_t j = 0, before = count; j < before && all; j++) {
            const double sum = sums[j] + plan_machine_threads(&m->profile->machines[i]);
            uint32_t k = 0;
            while (k < count && sums[k] != sum)
                k++;
            all = k < 256;
            if (all && k == count)
                sums[count++] = sum;
        }
    }
    crowd->totals[crowd->count++] = crowd->cores;
    for (uint32_t i = 0; i < count; i++)
        add_total(crowd, sums[i], &all);
    return all;
}

static struct crowd *list_crowds(const struct sync_model *m, uint32_t *count, uint64_t *ways)
{
    const struct plan_machine *machines = m->profile->machines;
    struct crowd *crowds = bg_alloc_array(m->profile->machine_count, sizeof *crowds);
    *count = 0;
    *ways = 1;
    for (uint32_t i = 0; i < m->profile->machine_count; i++) {
        double threads = 0;
        uint32_t known = 0;
        for (uint32_t j = 0; j < m->profile->machine_count; j++)
            threads += machines[j].host == machines[i].host ? plan_machine_threads(&machines[j]) : 0;
        while (known < *count && crowds[known].host != machines[i].host)
            known++;
        if (machines[i].cores <= 0 || threads <= machines[i].cores || known < *count)
            continue;
        crowds[*count] = (struct crowd){.host = machines[i].host, .cores = machines[i].cores};
        const bool all = list_totals(m, &crowds[(*count)++]);
        *ways = all && *ways < 1u << 20 ? *ways * crowds[known].count : UINT64_MAX >> 1;
    }
    return crowds;
}

static bool next_way(struct crowd *crowds, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (++crowds[i].at < crowds[i].count)
            return true;
        crowds[i].at = 0;
    }
    return false;
}

// The speeds that kinds have when their hosts are as crowded as is assumed; limit[kind]: the threads assumed, 0: any.
static void assume(const struct sync_model *m, const struct crowd *crowds, uint32_t count, struct sync_kinds *kinds,
                   double *limit)
{
    for (uint32_t i = 0; i < kinds->count; i++) {
        const struct plan_machine *machine = &m->profile->machines[kinds->sorted[kinds->kinds[i].first]];
        limit[i] = 0;
        for (uint32_t c = 0; c < count; c++)
            if (crowds[c].host == machine->host)
                limit[i] = crowds[c].totals[crowds[c].at];
        kinds->kinds[i].speed =
            sync_speed(m->profile, machine, limit[i] > 0 ? limit[i] : plan_machine_threads(machine));
    }
}

// ---- Places ----
static void places_of(const struct sync_model *m, bool coarse, struct sync_places *places)
{
    const struct plan_sync_options *o = m->options;
    const uint32_t most = coarse && m->units > PLACES_MAX ? PLACES_MAX : m->units;
    const double total = m->forward_s[m->units] + m->backward_s[m->units];
    places->at = bg_alloc_array(m->units + 1u, sizeof *places->at);
    places->count = 0;
    for (uint32_t u = 1; u <= m->units; u++) { // as much work between two of them as can be
        const double done = m->forward_s[u] + m->backward_s[u];
        bool place = most == m->units || done * most >= total * (places->count + 1) || u == m->units;
        for (uint32_t s = 0; o->cut && s < o->stages_max; s++)
            place = s == 0 ? o->cut[s].unit_end == u : place || o->cut[s].unit_end == u;
        if (place)
            places->at[++places->count] = u;
    }
}

// ---- Searches ----
static bool bounded(const struct sync_model *m)
{
    const struct plan_sync_options *o = m->options;
    return o->stages_min > 1 || o->replicas || (o->stages_max && !o->cut && o->stages_max < m->units);
}

// All cuts x all sets of machines, for every crowd there may be. False: too many, or something was dropped.
static bool search_all(const struct sync_model *m, const struct sync_kinds *kinds, bool all_shapes,
                       struct plan_sync *found)
{
    struct sync_places places;
    uint32_t crowd_count;
    uint64_t ways;
    struct crowd *crowds = list_crowds(m, &crowd_count, &ways);
    struct sync_kinds assumed = *kinds;
    double *limit = bg_alloc_array(kinds->count, sizeof *limit);
    const struct sync_breadth how = {.by_depth = all_shapes || bounded(m),
                                     .stepwise = m->options->cut != NULL,
                                     .capped = true,
                                     .all_shapes = all_shapes};
    places_of(m, false, &places);
    assumed.kinds = bg_alloc_array(kinds->count, sizeof *assumed.kinds);
    memcpy(assumed.kinds, kinds->kinds, kinds->count * sizeof *assumed.kinds);
    bool exact = true;
    do {
        struct sync_lattice lattice;
        assume(m, crowds, crowd_count, &assumed, limit);
        sync_lattice_all(&lattice, m, &assumed, crowd_count ? limit : NULL);
        exact &= sync_search(m, &assumed, &lattice, &places, &how, found);
        sync_lattice_fini(&lattice);
    } while (next_way(crowds, crowd_count));
    bg_free(places.at);
    bg_free(assumed.kinds);
    bg_free(limit);
    bg_free(crowds);
    return exact;
}

// Cuts x teams of search_all; UINT64_MAX: not to be thought of.
static uint64_t effort_of(const struct sync_model *m, const struct sync_kinds *kinds)
{
    uint32_t crowd_count;
    uint64_t ways, arcs = sync_lattice_size(kinds);
    double nodes = 1;
    bg_free(list_crowds(m, &crowd_count, &ways));
    for (uint32_t i = 0; i < kinds->count; i++)
        nodes *= kinds->kinds[i].count + 1;
    const double cuts = m->options->cut ? m->options->stages_max : 0.5 * m->units * (m->units + 1.0);
    const double effort = (double)ways * (double)arcs * cuts;
    return nodes > NODES_MAX || effort > 1e18 ? UINT64_MAX : (uint64_t)effort;
}

enum order { BY_SPEED, BY_SPEED_ASCENDING, BY_HOST, BY_MEMORY, ORDERS };

static double host_speed(const struct sync_model *m, const struct sync_kinds *kinds, uint32_t kind)
{
    const struct plan_machine *machines = m->profile->machines;
    double speed = 0;
    for (uint32_t i = 0; i < kinds->count; i++)
        if (machines[kinds->sorted[i]].host == machines[kinds->sorted[kind]].host)
            speed += kinds->kinds[i].speed;
    return speed;
}

// order: (kinds) of those that are not left out. Kinds are machines here.
static uint32_t put_in_order(const struct sync_model *m, const struct sync_kinds *kinds, enum order by, bool uncrowded,
                             uint32_t *order)
{
    const struct plan_machine *machines = m->profile->machines;
    double *keys = bg_alloc_array(kinds->count, 2 * sizeof *keys);
    uint32_t count = 0;
    for (uint32_t i = 0; i < kinds->count; i++) {
        const struct plan_machine *machine = &machines[kinds->sorted[i]];
        double threads = plan_machine_threads(machine), *key = keys + (size_t)2 * i;
        for (uint32_t j = 0; j < i && uncrowded; j++)
            threads += machines[kinds->sorted[j]].host == machine->host
                           ? plan_machine_threads(&machines[kinds->sorted[j]])
                           : 0;
        if (uncrowded && machine->cores > 0 && threads > machine->cores && threads > plan_machine_threads(machine))
            continue;
        key[1] = -kinds->kinds[i].speed;
        key[0] = by == BY_HOST     ? -host_speed(m, kinds, i) + 1e-9 * machine->host
                 : by == BY_MEMORY ? (machine->memory_bytes > 0 ? machine->memory_bytes : INFINITY)
                                   : key[1];
        if (by == BY_SPEED_ASCENDING)
            key[0] = -key[0];
        uint32_t at = count++;
        for (; at > 0; at--) {
            const double *before = keys + (size_t)2 * order[at - 1];
            if (before[0] < key[0] || (before[0] <= key[0] && before[1] <= key[1]))
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    bg_free(keys);
    return count;
}

// Runs of machines in some orders. any: until there is a plan.
static void search_some(const struct sync_model *m, bool uncrowded, bool any, struct plan_sync *found)
{
    struct sync_places places;
    struct sync_kinds kinds;
    sync_kinds_init(&kinds, m, true);
    places_of(m, true, &places);
    uint32_t *order = bg_alloc_array(kinds.count, ORDERS * sizeof *order);
    for (uint32_t i = 0; i < kinds.count && !uncrowded; i++) { // everybody computes
        const struct plan_machine *machine = &m->profile->machines[kinds.sorted[i]];
        double threads = 0;
        for (uint32_t j = 0; j < m->profile->machine_count; j++)
            threads +=
                m->profile->machines[j].host == machine->host ? plan_machine_threads(&m->profile->machines[j]) : 0;
        kinds.kinds[i].speed = sync_speed(m->profile, machine, threads);
    }
    uint32_t depths = m->options->stages_max ? m->options->stages_max : 1; // that labels of a state may have
    if (m->options->replicas) {
        uint32_t spare = m->profile->machine_count;
        for (uint32_t r = 0; r < m->options->stages_max; r++)
            spare -= m->options->replicas[r];
        depths = spare + 1 < depths ? spare + 1 : depths;
    }
    struct sync_breadth glance = {.beam = 1, .by_depth = bounded(m), .stepwise = m->options->cut != NULL}, how = glance;
    how.beam = bounded(m) ? BEAM * (depths < 16 ? depths : 16) : BEAM;
    for (uint32_t by = 0; by < ORDERS && !(any && found->count); by++) {
        struct sync_lattice lattice;
        uint32_t *now = order + (size_t)by * kinds.count, same = 0;
        const uint32_t count = put_in_order(m, &kinds, by, uncrowded, now);
        while (same < by && memcmp(order + (size_t)same * kinds.count, now, count * sizeof *now) != 0)
            same++;
        if (same < by)
            continue;
        sync_lattice_runs(&lattice, m, &kinds, now, count, (count + PLACES_MAX - 1) / PLACES_MAX);
        if (!found->count)
            (void)sync_search(m, &kinds, &lattice, &places, &glance, found); // what is much longer is then left aside
        if (!any)
            (void)sync_search(m, &kinds, &lattice, &places, &how, found);
        sync_lattice_fini(&lattice);
    }
    bg_free(order);
    bg_free(places.at);
    sync_kinds_fini(&kinds);
}

static bool crowded(const struct sync_model *m)
{
    uint32_t count;
    uint64_t ways;
    bg_free(list_crowds(m, &count, &ways));
    return count > 0;
}

// any: one plan will do, if there is one.
static bool solve(const struct sync_model *m, bool any, struct plan_sync *found)
{
    struct sync_kinds kinds;
    sync_kinds_init(&kinds, m, false);
    const uint64_t effort = effort_of(m, &kinds), most = m->options->effort ? m->options->effort : PLAN_SYNC_EFFORT;
    const bool small = effort <= SHAPES_MAX && effort <= most;
    bool exact = false;
    if (!small) {
        search_some(m, false, any, found);
        if (crowded(m) && !m->options->use_all)
            search_some(m, true, any, found);
    }
    if (effort <= most && !(any && found->count))
        exact = search_all(m, &kinds, small, found);
    sync_kinds_fini(&kinds);
    for (uint32_t i = 0; i < found->count && i < 2 && !exact && !any; i++) {
        struct plan_sync_choice choice = plan_sync_choice_copy(&found->choices[i]);
        if (sync_probe(m, m->options->cut ? PROBE_PLANS / 20 : PROBE_PLANS, 1, &choice))
            sync_offer(found, &choice);
        else
            plan_sync_choice_fini(&choice);
    }
    return exact;
}

bool sync_possible(const struct plan_profile *profile, const struct plan_sync_options *options)
{
    struct plan_sync found = {0};
    struct sync_model m;
    if (sync_check(profile, options, NULL))
        return false;
    sync_model_init(&m, profile, options);
    (void)solve(&m, true, &found);
    sync_model_fini(&m);
    const bool possible = found.count > 0;
    plan_sync_fini(&found);
    return possible;
}

bg_status plan_sync_solve(const struct plan_profile *profile, const struct plan_sync_options *options,
                          struct bg_error *err, struct plan_sync *sync)
{
    bg_status status = sync_check(profile, options, err);
    if (status)
        return status;
    struct sync_model m;
    struct plan_sync found = {0};
    sync_model_init(&m, profile, options);
    found.exact = solve(&m, false, &found);
    sync_model_fini(&m);
    if (!found.count)
        return sync_explain(profile, options, err);
    *sync = found;
    return BG_OK;
}
