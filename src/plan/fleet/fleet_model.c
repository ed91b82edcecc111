// What shapes earn, from a profile: contiguous cuts whose slowest stage is as fast as can be, a step as long as its
// pipeline and the sum of its gradients; and what it takes to change one into another.
#include "plan/fleet/fleet.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

const struct plan_fleet_options plan_fleet_defaults = {.nodes_max = 32,
                                                       .micro_batches = 128,
                                                       .samples = 1,
                                                       .interval_s = 60,
                                                       .state_factor = 3,
                                                       .rendezvous_s = 6.6,
                                                       .group_add_s = 0.5,
                                                       .group_drop_s = 0.0393,
                                                       .store_bytes_s = 1.25e9,
                                                       .checkpoint_every_s = 300};

static double unit_s(const struct plan_unit *unit)
{
    return unit->forward_s + unit->input_s + unit->weight_s;
}

// ---- Cuts ----

struct cutter {
    const struct plan_profile *profile;
    double *before; // (units + 1) seconds
};

static double span_s(const struct cutter *c, uint32_t first, uint32_t end)
{
    return c->before[end] - c->before[first];
}

// Cuts all units into `stages` with the least slowest stage; of equal ones the last stages are the smallest. worst:
// (stages, units + 1) seconds for the units before, from: the first unit of the last stage of those.
static void cut_all(const struct cutter *c, uint32_t stages_max, struct plan_fleet *fleet)
{
    const uint32_t units = fleet->units, width = units + 1;
    double *worst = bg_alloc_array((size_t)(stages_max + 1) * width, sizeof *worst);
    uint32_t *from = bg_alloc_array((size_t)(stages_max + 1) * width, sizeof *from);
    for (uint32_t u = 1; u <= units; u++)
        worst[width + u] = span_s(c, 0, u);
    for (uint32_t p = 2; p <= stages_max; p++) {
        for (uint32_t u = p; u <= units; u++) {
            double best = INFINITY;
            for (uint32_t v = u - 1; v >= p - 1; v--) {
                const double last = span_s(c, v, u), here = fmax(worst[(p - 1) * width + v], last);
                if (here < best) {
                    best = here;
                    from[p * width + u] = v;
                }
                if (last > best)
                    break;
            }
            worst[p * width + u] = best;
        }
    }
    for (uint32_t p = 1; p <= stages_max; p++) {
        uint32_t u = units;
        for (uint32_t s = p; s-- > 0; u = from[(s + 1) * width + u])
            fleet->cut[p][s] = s ? from[(s + 1) * width + u] : 0;
        fleet->cut[p][p] = units;
    }
    bg_free(worst);
    bg_free(from);
}

// What a machine holds: weights, gradient, two moments; a micro-batch of every stage behind it, itself included.
static double memory_bytes(const struct plan_profile *profile, const struct plan_fleet *fleet, uint32_t p, uint32_t s)
{
    double bytes = 0;
    const double in_flight = fmin(p - s, fleet->options.micro_batches);
    for (uint32_t u = fleet->cut[p][s]; u < fleet->cut[p][s + 1]; u++)
        bytes += 4 * profile->units[u].parameter_bytes + in_flight * profile->units[u].stash_bytes;
    return bytes;
}

// Seconds and bytes of the slowest and the largest stage of every depth; false where a stage does not fit.
static bool measure(const struct plan_profile *profile, const struct cutter *c, struct plan_fleet *fleet, uint32_t p)
{
    const double memory = profile->machine_count ? profile->machines[0].memory_bytes : 0;
    bool fits = true;
    for (uint32_t s = 0; s < p; s++) {
        const uint32_t first = fleet->cut[p][s], end = fleet->cut[p][s + 1];
        double forward_s = 0, slot_s = span_s(c, first, end) + profile->op_s;
        for (uint32_t u = first; u < end; u++)
            forward_s += profile->units[u].forward_s;
        if (s + 1 < p) { // activations one way while gradients come the other; both while the stage computes
            slot_s += 2 * profile->message_s;
            if (fleet->link_bytes_s > 0)
                slot_s = fmax(slot_s, profile->units[end - 1].cut_bytes / fleet->link_bytes_s);
        }
        fleet->slot_s[p] = fmax(fleet->slot_s[p], slot_s);
        fleet->forward_s[p] = fmax(fleet->forward_s[p], forward_s);
        fleet->stage_bytes[p] = fmax(fleet->stage_bytes[p], fleet->bytes_before[end] - fleet->bytes_before[first]);
        fits = fits && (memory <= 0 || memory_bytes(profile, fleet, p, s) <= memory);
    }
    return fits;
}

static bg_status check(const struct plan_profile *profile, const struct plan_fleet_options *o, struct bg_error *err)
{
    const struct {
        const char *name;
        double value;
        bool positive;
    } numbers[] = {{"samples of a micro-batch", o->samples, true},
                   {"interval", o->interval_s, true},
                   {"state of a byte of parameters", o->state_factor, false},
                   {"rendezvous", o->rendezvous_s, false},
                   {"group that machines join", o->group_add_s, false},
                   {"group that machines leave", o->group_drop_s, false},
                   {"rate of the checkpoint store", o->store_bytes_s, true},
                   {"time between checkpoints", o->checkpoint_every_s, true}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= 0 && numbers[i].value <= 1e15) || (numbers[i].positive && numbers[i].value <= 0))
            return bg_fail(err, BG_INVALID, "the %s is %g: expected a number %s 0, at most 1e15", numbers[i].name,
                           numbers[i].value, numbers[i].positive ? "above" : "of at least");
    if (!o->nodes_max || o->nodes_max > PLAN_FLEET_NODES_MAX)
        return bg_fail(err, BG_INVALID, "at most %u machines: expected 1 to %d", o->nodes_max, PLAN_FLEET_NODES_MAX);
    if (!o->micro_batches || o->micro_batches > 1000000)
        return bg_fail(err, BG_INVALID, "%u micro-batches a step: expected 1 to 1000000", o->micro_batches);
    double all_s = 0;
    for (uint32_t u = 0; u < profile->unit_count; u++)
        all_s += unit_s(&profile->units[u]);
    if (!(all_s > 0))
        return bg_fail(err, BG_INVALID, "the profile's %u units take no time", profile->unit_count);
    return BG_OK;
}

bg_status plan_fleet_create(const struct plan_profile *profile, const struct plan_fleet_options *options,
                            struct bg_error *err, struct plan_fleet **fleet)
{
    const bg_status status = check(profile, options, err);
    if (status)
        return status;
    struct plan_fleet *f = bg_alloc(sizeof *f);
    f->options = *options;
    f->units = profile->unit_count;
    f->link_bytes_s = profile->outer.bytes_s;
    struct cutter c = {.profile = profile, .before = bg_alloc_array(f->units + (size_t)1, sizeof *c.before)};
    for (uint32_t u = 0; u < f->units; u++) {
        c.before[u + 1] = c.before[u] + unit_s(&profile->units[u]);
        f->bytes_before[u + 1] = f->bytes_before[u] + profile->units[u].parameter_bytes;
    }
    const uint32_t deepest = f->units < options->nodes_max ? f->units : options->nodes_max;
    cut_all(&c, deepest, f);
    for (uint32_t p = 1; p <= deepest; p++) {
        const bool fits = measure(profile, &c, f, p);
        if (!f->stages_min && (options->stages_min ? p >= options->stages_min : fits))
            f->stages_min = p;
    }
    f->stages_max = deepest;
    bg_free(c.before);
    if (!f->stages_min) {
        plan_fleet_destroy(f);
        return bg_fail(err, BG_INVALID,
                       "the model does not fit on %u machines in at most %u stages: give machines more memory, or "
                       "use more of them",
                       options->nodes_max, deepest);
    }
    *fleet = f;
    return BG_OK;
}

void plan_fleet_destroy(struct plan_fleet *fleet)
{
    bg_free(fleet);
}

// ---- Rates ----

// Every replica adds its gradients into the others': a ring moves nearly twice the largest stage.
static double reduce_s(const struct plan_fleet *fleet, struct plan_fleet_shape shape)
{
    if (shape.replicas < 2 || fleet->link_bytes_s <= 0)
        return 0;
    return 2.0 * (shape.replicas - 1) / shape.replicas * fleet->stage_bytes[shape.stages] / fleet->link_bytes_s;
}

static bool runs(const struct plan_fleet *fleet, struct plan_fleet_shape shape)
{
    return shape.replicas && shape.replicas <= fleet->options.micro_batches && shape.longer < shape.replicas &&
           shape.stages >= fleet->stages_min && shape.stages + (shape.longer > 0) <= fleet->stages_max;
}

static double rate_of(const struct plan_fleet *fleet, double step_s)
{
    return fleet->options.micro_batches * fleet->options.samples / step_s;
}

double plan_fleet_rate(const struct plan_fleet *fleet, struct plan_fleet_shape shape)
{
    if (!runs(fleet, shape))
        return 0;
    const uint32_t all = fleet->options.micro_batches, p = shape.stages, even = shape.replicas - shape.longer;
    if (!shape.longer)
        return rate_of(fleet, ((all + even - 1) / even + p - 1) * fleet->slot_s[p] + reduce_s(fleet, shape));
    // The deeper replicas are faster a micro-batch: they get as many more as make all end together.
    double best = INFINITY;
    for (uint32_t m = 1; m <= (all + even - 1) / even; m++) {
        const uint32_t left = all > even * m ? all - even * m : 0, n = (left + shape.longer - 1) / shape.longer;
        const double pipe_s = fmax((m + p - 1) * fleet->slot_s[p], n ? (n + p) * fleet->slot_s[p + 1] : 0);
        best = fmin(best, pipe_s);
    }
    return rate_of(fleet, best + reduce_s(fleet, shape));
}

double plan_fleet_redundant_rate(const struct plan_fleet *fleet, struct plan_fleet_shape shape)
{
    if (!runs(fleet, shape) || shape.longer)
        return 0;
    const uint32_t p = shape.stages, m = (fleet->options.micro_batches + shape.replicas - 1) / shape.replicas;
    const double twice_s = fmax(0, m * fleet->forward_s[p] - (p - 1) * fleet->slot_s[p]); // what bubbles do not hide
    return rate_of(fleet, (m + p - 1) * fleet->slot_s[p] + twice_s + reduce_s(fleet, shape));
}

struct plan_fleet_shape plan_fleet_fastest(const struct plan_fleet *fleet, uint32_t nodes)
{
    struct plan_fleet_shape best = {0};
    double most = 0;
    for (uint32_t p = fleet->stages_min; p <= fleet->stages_max && p <= nodes; p++) {
        for (uint32_t d = 1; d * p <= nodes; d++) {
            const struct plan_fleet_shape shape = {d, p, 0};
            const double rate = plan_fleet_rate(fleet, shape);
            if (rate > most) {
                most = rate;
                best = shape;
            }
        }
    }
    return best;
}

// ---- Changes ----

struct plan_fleet_left plan_fleet_whole(struct plan_fleet_shape shape)
{
    struct plan_fleet_left left = {.shape = shape};
    for (uint32_t s = 0; s < shape.stages; s++)
        left.live[0][s] = shape.replicas - shape.longer;
    for (uint32_t s = 0; shape.longer && s <= shape.stages; s++)
        left.live[1][s] = shape.longer;
    return left;
}

static double span_bytes(const struct plan_fleet *fleet, uint32_t first, uint32_t end)
{
    return first < end ? fleet->bytes_before[end] - fleet->bytes_before[first] : 0;
}

// Parameters of stage s of p that the best of the machines left has. at: where to look first, for ascending s.
static double best_overlap(const struct plan_fleet *fleet, const struct plan_fleet_left *left, uint32_t p, uint32_t s,
                           uint32_t at[2])
{
    const uint32_t first = fleet->cut[p][s], end = fleet->cut[p][s + 1];
    double best = 0;
    for (uint32_t k = 0; k < 1 + (left->shape.longer > 0); k++) {
        const uint32_t q = left->shape.stages + k;
        while (at[k] < q && fleet->cut[q][at[k] + 1] <= first)
            at[k]++;
        for (uint32_t t = at[k]; t < q && fleet->cut[q][t] < end; t++) {
            const uint32_t from = fleet->cut[q][t] > first ? fleet->cut[q][t] : first;
            const uint32_t to = fleet->cut[q][t + 1] < end ? fleet->cut[q][t + 1] : end;
            const double bytes = left->live[k][t] ? span_bytes(fleet, from, to) : 0;
            best = bytes > best ? bytes : best;
        }
    }
    return best;
}

// Parameters that nobody left has.
static double lost_bytes(const struct plan_fleet *fleet, const struct plan_fleet_left *left)
{
    double lost = 0;
    if (!left->shape.longer) {
        for (uint32_t t = 0; t < left->shape.stages; t++)
            if (!left->live[0][t])
                lost += span_bytes(fleet, fleet->cut[left->shape.stages][t], fleet->cut[left->shape.stages][t + 1]);
        return lost;
    }
    for (uint32_t u = 0; u < fleet->units; u++) {
        bool held = false;
        for (uint32_t k = 0; k < 2 && !held; k++) {
            const uint32_t q = left->shape.stages + k;
            for (uint32_t t = 0; t < q && !held; t++)
                held = left->live[k][t] && fleet->cut[q][t] <= u && u < fleet->cut[q][t + 1];
        }
        if (!held)
            lost += span_bytes(fleet, u, u + 1);
    }
    return lost;
}

static double groups_s(const struct plan_fleet *fleet, struct plan_fleet_shape shape, bool join)
{
    const uint32_t stages = shape.stages + (shape.longer > 0);
    const uint32_t groups = shape.replicas + stages + 1 + plan_fleet_nodes(shape);
    return groups * (join ? fleet->options.group_add_s : fleet->options.group_drop_s);
}

double plan_fleet_restart_s(const struct plan_fleet *fleet, struct plan_fleet_shape target)
{
    return fleet->options.rendezvous_s + groups_s(fleet, target, true) + plan_fleet_save_s(fleet);
}

double plan_fleet_save_s(const struct plan_fleet *fleet) // the store is the narrow place, not who writes
{
    return fleet->bytes_before[fleet->units] * fleet->options.state_factor / fleet->options.store_bytes_s;
}

struct plan_fleet_move plan_fleet_move(const struct plan_fleet *fleet, const struct plan_fleet_left *left,
                                       struct plan_fleet_shape target)
{
    struct plan_fleet_move move = {0};
    const double factor = fleet->options.state_factor;
    uint32_t live = 0;
    for (uint32_t k = 0; k < 2; k++)
        for (uint32_t t = 0; t < left->shape.stages + k; t++)
            live += left->live[k][t];
    if (!target.replicas)
        return move;
    const bool same = memcmp(&left->shape, &target, sizeof target) == 0;
    if (same && live == plan_fleet_nodes(target))
        return move;
    double fetched = 0, copied = 0; // of the neediest stage
    for (uint32_t k = 0; k < 2; k++) {
        const uint32_t p = target.stages + k, copies = k ? target.longer : target.replicas - target.longer;
        const bool known = left->shape.stages == p || left->shape.stages + 1 == p;
        uint32_t at[2] = {0, 0};
        for (uint32_t s = 0; copies && s < p; s++) {
            const uint32_t have = known ? left->live[left->shape.stages != p][s] : 0;
            if (have >= copies)
                continue;
            const double bytes = span_bytes(fleet, fleet->cut[p][s], fleet->cut[p][s + 1]);
            if (!have)
                fetched = fmax(fetched, bytes - best_overlap(fleet, left, p, s, at));
            if (have || copies > 1)
                copied = fmax(copied, bytes);
        }
    }
    move.lost_bytes = live ? lost_bytes(fleet, left) * factor : fleet->bytes_before[fleet->units] * factor;
    move.moved_bytes = (fetched + copied) * factor;
    const bool cut_anew = left->shape.stages != target.stages || (!left->shape.longer) != (!target.longer);
    const bool moves = fetched > 0 || copied > 0;
    move.kind = !live      ? PLAN_FLEET_START
                : !moves   ? PLAN_FLEET_INTRA
                : cut_anew ? PLAN_FLEET_PIPELINE
                           : PLAN_FLEET_INTER;
    move.seconds = groups_s(fleet, target, plan_fleet_nodes(target) > live);
    if (moves || !live)
        move.seconds += fleet->options.rendezvous_s + move.lost_bytes / fleet->options.store_bytes_s;
    if (fleet->link_bytes_s > 0)
        move.seconds += move.moved_bytes / fleet->link_bytes_s;
    return move;
}
