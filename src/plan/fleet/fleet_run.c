// A fleet policy on a trace, interval by interval. Machines have places; who takes a new place is the lowest number
// that waits. A change that takes longer than the interval holds up the next ones as well; changing again before it is
// through adds to it.
#include "plan/fleet/fleet.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/fleet/liveput.h"

#include <math.h>
#include <string.h>

enum { DRAWS = 100, NOWHERE = UINT32_MAX };

struct machine {
    uint32_t id;
    uint32_t replica, stage; // replica NOWHERE: waits. The last `longer` replicas are the deeper ones.
};

struct run {
    const struct plan_fleet *fleet;
    const struct plan_fleet_policy *policy;
    const struct plan_fleet_run_options *o;
    struct plan_fleet_result *result;
    struct machine *machines; // (count) by id
    uint32_t count, room;
    struct plan_fleet_shape shape;
    bool lost, adjacent; // since the last interval: somebody with a place; two neighbours of one replica (or it is one)
    double stall_s;      // still to pay
    double unsaved, since_s; // samples and time since the last checkpoint
};

static uint32_t depth_of(struct plan_fleet_shape shape, uint32_t replica)
{
    return shape.stages + (replica >= shape.replicas - shape.longer);
}

static void add(struct run *r, uint32_t id)
{
    uint32_t at = 0;
    while (at < r->count && r->machines[at].id < id)
        at++;
    if (at < r->count && r->machines[at].id == id)
        return;
    if (r->count == r->room) {
        r->room = r->room ? 2 * r->room : 64;
        r->machines = bg_realloc_array(r->machines, r->room, sizeof *r->machines);
    }
    memmove(&r->machines[at + 1], &r->machines[at], (r->count - at) * sizeof *r->machines);
    r->machines[at] = (struct machine){id, NOWHERE, 0};
    r->count++;
}

static void drop(struct run *r, uint32_t id)
{
    uint32_t at = 0;
    while (at < r->count && r->machines[at].id != id)
        at++;
    if (at == r->count)
        return;
    r->lost = r->lost || r->machines[at].replica != NOWHERE;
    memmove(&r->machines[at], &r->machines[at + 1], (r->count - at - 1) * sizeof *r->machines);
    r->count--;
}

static struct plan_fleet_left what_is_left(const struct run *r)
{
    struct plan_fleet_left left = {.shape = r->shape};
    for (uint32_t i = 0; i < r->count; i++)
        if (r->machines[i].replica != NOWHERE)
            left.live[depth_of(r->shape, r->machines[i].replica) != r->shape.stages][r->machines[i].stage]++;
    return left;
}

// Whether somewhere in a replica two neighbours are gone, the last and the first stage included.
static bool neighbours_gone(const struct run *r)
{
    for (uint32_t replica = 0; replica < r->shape.replicas; replica++) {
        const uint32_t depth = depth_of(r->shape, replica);
        bool there[PLAN_FLEET_NODES_MAX + 1] = {false};
        for (uint32_t i = 0; i < r->count; i++)
            if (r->machines[i].replica == replica)
                there[r->machines[i].stage] = true;
        for (uint32_t s = 0; s < depth; s++)
            if (!there[s] && !there[(s + 1) % depth])
                return true;
    }
    return false;
}

// ---- Places ----

// Machines keep their stage where the new shape has the same depth; who is left over, and who waits, fills the gaps.
static void take_places(struct run *r, struct plan_fleet_shape target)
{
    bool taken[PLAN_FLEET_NODES_MAX][PLAN_FLEET_NODES_MAX + 1] = {{false}};
    const struct plan_fleet_shape old = r->shape;
    for (uint32_t i = 0; i < r->count; i++) {
        struct machine *m = &r->machines[i];
        if (m->replica == NOWHERE)
            continue;
        const uint32_t depth = depth_of(old, m->replica);
        uint32_t replica = 0;
        while (replica < target.replicas && (depth_of(target, replica) != depth || taken[replica][m->stage]))
            replica++;
        m->replica = replica < target.replicas ? replica : NOWHERE;
        if (m->replica != NOWHERE)
            taken[replica][m->stage] = true;
    }
    uint32_t next = 0;
    for (uint32_t replica = 0; replica < target.replicas; replica++) {
        for (uint32_t stage = 0; stage < depth_of(target, replica); stage++) {
            if (taken[replica][stage])
                continue;
            while (r->machines[next].replica != NOWHERE)
                next++;
            BG_ASSERT(next < r->count);
            r->machines[next].replica = replica;
            r->machines[next].stage = stage;
        }
    }
    r->shape = target;
}

// ---- Changes ----

static void forget(struct run *r)
{
    r->result->samples -= r->unsaved;
    r->result->redone += r->unsaved;
    r->unsaved = r->since_s = 0;
}

static void restart(struct run *r, struct plan_fleet_shape target)
{
    if (r->lost)
        forget(r);
    else if (r->unsaved > 0)
        r->stall_s += plan_fleet_save_s(r->fleet);
    r->unsaved = r->since_s = 0;
    r->stall_s += plan_fleet_restart_s(r->fleet, target);
    r->result->changes[PLAN_FLEET_START]++;
}

static void change(struct run *r, const struct plan_fleet_left *left, struct plan_fleet_shape target)
{
    const bool same = memcmp(&r->shape, &target, sizeof target) == 0;
    const enum plan_fleet_recovery recovery = r->policy->recovery;
    if (same && (!r->lost || !target.replicas))
        return;
    if (!target.replicas) { // what was not saved goes with the machines
        if (recovery != PLAN_FLEET_LIVE && r->lost)
            forget(r);
    } else if (recovery == PLAN_FLEET_CHECKPOINT || (recovery == PLAN_FLEET_REDUNDANT && r->adjacent)) {
        restart(r, target);
    } else {
        const struct plan_fleet_move move = plan_fleet_move(r->fleet, left, target);
        r->stall_s += r->o->truth ? r->o->truth->change_s : move.seconds;
        if (recovery == PLAN_FLEET_REDUNDANT && move.kind != PLAN_FLEET_START) // a neighbour still has it
            r->stall_s -= move.lost_bytes / r->fleet->options.store_bytes_s;
        r->result->changes[move.kind]++;
    }
    take_places(r, target);
}

static double train(struct run *r, double rate, double span_s)
{
    if (!r->shape.replicas) {
        r->stall_s = 0;
        r->result->idle_s += span_s;
        return 0;
    }
    const double stop_s = fmin(r->stall_s, span_s);
    double work_s = span_s - stop_s;
    r->stall_s -= stop_s;
    r->result->stopped_s += stop_s;
    if (r->policy->recovery != PLAN_FLEET_LIVE) { // part of the time goes into checkpoints
        const double save_s = plan_fleet_save_s(r->fleet), every_s = r->fleet->options.checkpoint_every_s;
        r->result->stopped_s += work_s * save_s / (save_s + every_s);
        work_s *= every_s / (save_s + every_s);
        r->since_s += work_s;
        r->unsaved += rate * work_s;
        if (r->since_s >= every_s) {
            r->since_s = fmod(r->since_s, every_s);
            r->unsaved = rate * r->since_s;
        }
    }
    r->result->samples += rate * work_s;
    return rate * work_s;
}

static double rate_of(const struct run *r, struct plan_fleet_shape shape)
{
    const bool redundant = r->policy->recovery == PLAN_FLEET_REDUNDANT;
    const double rate = (redundant ? plan_fleet_redundant_rate : plan_fleet_rate)(r->fleet, shape);
    const struct plan_fleet_truth *truth = r->o->truth;
    double ratio = 0;
    if (!truth || !truth->count || !shape.replicas)
        return rate;
    for (uint32_t i = 0; i < truth->count; i++) {
        if (memcmp(&truth->seen[i].shape, &shape, sizeof shape) == 0)
            return truth->seen[i].rate;
        ratio += truth->seen[i].rate / fmax(plan_fleet_rate(r->fleet, truth->seen[i].shape), 1e-12) / truth->count;
    }
    return rate * ratio;
}

static void interval(struct run *r, struct plan_fleet_snapshot *now)
{
    struct plan_fleet_result *result = r->result;
    const double interval_s = r->fleet->options.interval_s;
    const uint32_t most = r->fleet->options.nodes_max, nodes = r->count < most ? r->count : most;
    now->left = what_is_left(r);
    r->adjacent = r->lost && neighbours_gone(r);
    const struct plan_fleet_shape target = r->policy->decide(now);
    BG_ASSERT(plan_fleet_nodes(target) <= nodes);
    if (r->o->decided)
        r->o->decided(r->o->arg, now, target);
    change(r, &now->left, target);
    r->lost = false;
    const double rate = rate_of(r, target);
    const struct plan_fleet_shape even = {target.replicas, target.stages, 0};
    result->liveput += plan_liveput_rate(now->liveput, even, nodes, nodes > 0);
    result->intervals[now->count - 1] = (struct plan_fleet_interval){r->count, target, train(r, rate, interval_s)};
    result->node_hours += r->count * interval_s / 3600;
    result->used_node_hours += plan_fleet_nodes(target) * interval_s / 3600;
}

// ---- Events ----

// The interval at whose start an event counts.
static double interval_of(const struct plan_fleet *fleet, const struct plan_trace_event *event)
{
    const double at = (double)event->ms / 1e3 / fleet->options.interval_s;
    return event->add ? ceil(at) : floor(at);
}

// Whether a machine that comes goes again before it counts.
static bool in_vain(const struct plan_fleet *fleet, const struct plan_trace_event *events, size_t count, size_t i)
{
    const double counts = interval_of(fleet, &events[i]) * fleet->options.interval_s;
    for (size_t j = i + 1; j < count && (double)events[j].ms / 1e3 < counts; j++)
        if (!events[j].add && events[j].node == events[i].node)
            return true;
    return false;
}

// Those of interval `index`, from events[*first] on; *first moves behind what no later interval can want.
static void take_events(struct run *r, const struct plan_trace_event *events, size_t count, uint32_t index,
                        size_t *first)
{
    const double interval_s = r->fleet->options.interval_s;
    while (*first < count && (double)events[*first].ms / 1e3 <= (index - 1.0) * interval_s)
        ++*first;
    for (size_t i = *first; i < count && (double)events[i].ms / 1e3 < (index + 1.0) * interval_s; i++) {
        if (interval_of(r->fleet, &events[i]) != index)
            continue;
        if (!events[i].add)
            drop(r, events[i].node);
        else if (!in_vain(r->fleet, events, count, i))
            add(r, events[i].node);
    }
}

static void count_machines(struct run *r, const struct plan_trace_event *events, size_t count, uint32_t intervals,
                           uint32_t *counts)
{
    size_t first = 0;
    for (uint32_t i = 0; i < intervals; i++) {
        take_events(r, events, count, i, &first);
        counts[i] = r->count;
    }
}

uint32_t plan_fleet_intervals(const struct plan_fleet *fleet, const struct plan_trace_event *events, size_t count)
{
    const double last = count ? ceil((double)events[count - 1].ms / 1e3 / fleet->options.interval_s) : 0;
    return (uint32_t)fmax(1, fmin(last, PLAN_FLEET_INTERVALS_MAX));
}

// events NULL: as many machines as `counts` says.
static void run_all(const struct plan_fleet *fleet, const struct plan_fleet_policy *policy,
                    const struct plan_trace_event *events, size_t event_count, const uint32_t *counts,
                    const struct plan_fleet_run_options *options, struct plan_fleet_result *result)
{
    const uint32_t intervals = result->interval_count;
    result->intervals = bg_alloc_array(intervals, sizeof *result->intervals);
    result->seconds = intervals * fleet->options.interval_s;
    struct run r = {.fleet = fleet, .policy = policy, .o = options, .result = result};
    struct plan_fleet_snapshot now = {.fleet = fleet, .counts = counts};
    now.liveput = plan_liveput_create(fleet, DRAWS, options->seed);
    size_t first = 0;
    for (uint32_t i = 0; i < intervals; i++) {
        if (events)
            take_events(&r, events, event_count, i, &first);
        while (!events && r.count > counts[i])
            drop(&r, r.machines[r.count - 1].id);
        while (!events && r.count < counts[i])
            add(&r, r.count ? r.machines[r.count - 1].id + 1 : 0);
        now.count = i + 1;
        now.coming = policy->clairvoyant ? counts + i + 1 : NULL;
        now.coming_count = policy->clairvoyant ? intervals - i - 1 : 0;
        interval(&r, &now);
    }
    result->liveput /= intervals;
    plan_liveput_destroy(now.liveput);
    bg_free(r.machines);
}

void plan_fleet_run(const struct plan_fleet *fleet, const struct plan_fleet_policy *policy,
                    const struct plan_trace_event *events, size_t event_count,
                    const struct plan_fleet_run_options *options, struct plan_fleet_result *result)
{
    const uint32_t intervals = plan_fleet_intervals(fleet, events, event_count);
    uint32_t *counts = bg_alloc_array(intervals, sizeof *counts);
    struct run counting = {.fleet = fleet, .result = result};
    *result = (struct plan_fleet_result){.interval_count = intervals};
    count_machines(&counting, events, event_count, intervals, counts);
    run_all(fleet, policy, events, event_count, counts, options, result);
    bg_free(counting.machines);
    bg_free(counts);
}

void plan_fleet_run_counts(const struct plan_fleet *fleet, const struct plan_fleet_policy *policy,
                           const uint32_t *counts, uint32_t intervals, const struct plan_fleet_run_options *options,
                           struct plan_fleet_result *result)
{
    *result = (struct plan_fleet_result){.interval_count = intervals};
    run_all(fleet, policy, NULL, 0, counts, options, result);
}

void plan_fleet_result_fini(struct plan_fleet_result *result)
{
    bg_free(result->intervals);
}
