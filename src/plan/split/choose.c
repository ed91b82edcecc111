// Proposals of the planner for items of 1, 2, 4, ... micro-batches, each built and simulated. Larger items cost less
// each and fill a pipeline worse, so after a while the steps only grow; two sizes without a better step end the search.
#include "plan/split/choose.h"

#include "base/mem.h"
#include "plan/split/choose_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CLOSE  0.02 // parts of a machine's memory
#define NEARLY 0.06 // likewise, where not all can be searched and some plan fits
#define MUCH   1.1  // times the best step

enum { PATIENCE = 2, ROUNDS = 8, LARGE = 1024 }; // LARGE: units x machines

void plan_chosen_fini(struct plan_chosen *chosen)
{
    plan_sync_choice_fini(&chosen->choice);
    plan_fini(&chosen->plan);
    plan_profile_fini(&chosen->profile);
    plan_timeline_fini(&chosen->timeline);
    *chosen = (struct plan_chosen){0};
}

void plan_chosen_list_fini(struct plan_chosen_list *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        plan_chosen_fini(&list->items[i]);
    *list = (struct plan_chosen_list){0};
}

static bool has_mode(const struct plan_chosen *chosen, enum plan_sync_mode mode)
{
    bool some = false;
    for (uint32_t s = 0; s < chosen->choice.stage_count; s++)
        some |= (chosen->choice.stages[s].mode & mode) != 0;
    return some;
}

bool plan_chosen_recomputes(const struct plan_chosen *chosen)
{
    return has_mode(chosen, PLAN_SYNC_RECOMPUTE);
}

bool plan_chosen_offloads(const struct plan_chosen *chosen)
{
    return has_mode(chosen, PLAN_SYNC_OFFLOAD);
}

// ---- One proposal ----

static bool is_followed(const struct plan_choose *o, const struct plan_sync_choice *choice)
{
    bool alone = false;
    for (uint32_t s = 0; s < choice->stage_count; s++)
        alone |= choice->stages[s].seat_end - choice->stages[s].seat_first == 1;
    return o->shadow && (o->shadow_always || (alone && choice->seat_count > 1));
}

// The profile with the machines of the workers only, in their order.
static struct plan_profile seated(const struct plan_choose *o, const struct plan_profile *profile,
                                  const struct plan_sync_choice *choice)
{
    struct plan_profile made = *profile;
    made.units = bg_alloc_array(profile->unit_count, sizeof *made.units);
    memcpy(made.units, profile->units, profile->unit_count * sizeof *made.units);
    made.machine_count = choice->seat_count + is_followed(o, choice);
    made.machines = bg_alloc_array(made.machine_count, sizeof *made.machines);
    for (uint32_t i = 0; i < choice->seat_count; i++)
        made.machines[i] = profile->machines[choice->seats[i].machine];
    if (is_followed(o, choice))
        made.machines[choice->seat_count] = *o->shadow;
    return made;
}

static bg_status build(const struct plan_choose *o, struct bg_error *err, struct plan_chosen *c)
{
    const struct plan_sync_choice *choice = &c->choice;
    const uint32_t units = c->profile.unit_count, stages = choice->stage_count;
    const bool whole = plan_schedule_chunks(o->schedule, o->chunks) == 1; // one stage a worker, as the planner cut it
    double *times = bg_alloc_array((size_t)4 * units, sizeof *times);
    uint32_t *replicas = bg_alloc_array(stages, sizeof *replicas);
    uint32_t *shares = bg_alloc_array(choice->seat_count, sizeof *shares);
    struct plan_stage *cut = bg_alloc_array(stages, sizeof *cut);
    uint8_t *saving = bg_alloc_array(stages, 1);
    for (uint32_t u = 0; u < units; u++) {
        const struct plan_unit *unit = &c->profile.units[u];
        times[u] = unit->forward_s;
        times[units + u] = unit->input_s;
        times[2 * units + u] = unit->weight_s;
        times[3 * units + u] = unit->forward_s + unit->input_s + unit->weight_s;
    }
    for (uint32_t s = 0; s < stages; s++) {
        cut[s] = (struct plan_stage){choice->stages[s].unit_first, choice->stages[s].unit_end};
        replicas[s] = choice->stages[s].seat_end - choice->stages[s].seat_first;
        saving[s] = choice->stages[s].mode & PLAN_SYNC_RECOMPUTE ? PLAN_RECOMPUTE
                    : choice->stages[s].mode & PLAN_SYNC_OFFLOAD ? PLAN_OFFLOAD
                                                                 : 0;
    }
    for (uint32_t i = 0; i < choice->seat_count; i++)
        shares[i] = choice->seats[i].share;
    const struct plan_options options = {.costs = times + (size_t)3 * units,
                                         .units = units,
                                         .micro_batches = o->micro_batches,
                                         .group = c->group,
                                         .replicas = replicas,
                                         .stages = stages,
                                         .schedule = o->schedule,
                                         .chunks = o->chunks,
                                         .slices = o->slices,
                                         .range = o->range,
                                         .split = o->split,
                                         .saving = saving,
                                         .followers = is_followed(o, choice),
                                         .cut = whole ? cut : o->cut,
                                         .shares = shares,
                                         .forward = times,
                                         .input = times + units,
                                         .weight = times + (size_t)2 * units,
                                         .passes = o->passes ? o->passes->passes : (struct plan_passes){0},
                                         .comm = stages > 1 ? choice->stages[0].wire_s / 2 / c->group : 0};
    bg_status status = plan_build(&options, err, &c->plan);
    bg_free(times);
    bg_free(replicas);
    bg_free(shares);
    bg_free(cut);
    bg_free(saving);
    return status;
}

// The stages that save memory are given.
static bg_status set_modes(const struct plan_choose *o, uint32_t group, const struct plan_profile *profile,
                           struct bg_error *err, struct plan_sync_choice *choice)
{
    const struct plan_sync_options options = {.micro_batches = o->micro_batches,
                                              .group = group,
                                              .recompute = PLAN_SYNC_AUTO,
                                              .offload = PLAN_SYNC_AUTO,
                                              .gpipe = o->schedule == PLAN_GPIPE};
    for (uint32_t s = 0; s < choice->stage_count; s++)
        choice->stages[s].mode = o->saving[s] & PLAN_RECOMPUTE ? PLAN_SYNC_RECOMPUTE
                                 : o->saving[s] & PLAN_OFFLOAD ? PLAN_SYNC_OFFLOAD
                                                               : 0;
    return plan_sync_cost(profile, &options, err, choice);
}

static bg_status make(const struct plan_choose *o, uint32_t group, const struct plan_profile *profile,
                      const struct plan_sync_choice *choice, struct bg_error *err, struct plan_chosen *chosen)
{
    struct plan_chosen made = {.choice = plan_sync_choice_copy(choice), .group = group};
    made.profile = seated(o, profile, choice);
    bg_status status = o->saving ? set_modes(o, group, profile, err, &made.choice) : BG_OK;
    if (!status)
        status = build(o, err, &made);
    if (!status)
        status = plan_timeline(&made.plan, &made.profile, err, &made.timeline);
    if (status)
        plan_chosen_fini(&made);
    else
        *chosen = made;
    return status;
}

// ---- All of them ----

static uint32_t replicas_of(const struct plan_chosen *c, uint32_t stage)
{
    return c->choice.stages[stage].seat_end - c->choice.stages[stage].seat_first;
}

static bool same_shape(const struct plan_chosen *a, const struct plan_chosen *b)
{
    bool same = a->choice.stage_count == b->choice.stage_count;
    for (uint32_t s = 0; same && s < a->choice.stage_count; s++)
        same = replicas_of(a, s) == replicas_of(b, s);
    return same;
}

static bool shorter(const struct plan_chosen *a, const struct plan_chosen *b)
{
    if (a->timeline.step_s < b->timeline.step_s || b->timeline.step_s < a->timeline.step_s)
        return a->timeline.step_s < b->timeline.step_s;
    return a->choice.seat_count < b->choice.seat_count; // of equals, who leaves machines to others
}

// Takes `chosen` over: into its place, or away with it.
static void add(struct plan_chosen_list *list, struct plan_chosen *chosen)
{
    uint32_t at = 0;
    while (at < list->count && !same_shape(&list->items[at], chosen))
        at++;
    if (at < list->count || at == PLAN_CHOSEN_MAX) { // one of the shape, or the longest, may have to go
        at = at == PLAN_CHOSEN_MAX ? at - 1 : at;
        if (!shorter(chosen, &list->items[at])) {
            plan_chosen_fini(chosen);
            return;
        }
        plan_chosen_fini(&list->items[at]);
    } else {
        list->count++;
    }
    for (; at > 0 && shorter(chosen, &list->items[at - 1]); at--)
        list->items[at] = list->items[at - 1];
    list->items[at] = *chosen;
}

// How many times less memory the planner counts for a worker than it takes: partial sums of gradients are seen only in
// whole plans. 1: every worker has room.
static double fit_of(const struct plan_chosen *c)
{
    double fit = 1;
    for (uint32_t w = 0; w < c->choice.seat_count; w++) {
        const double has = c->profile.machines[w].memory_bytes, takes = c->timeline.workers[w].peak_bytes;
        if (has > 0 && takes > has)
            fit = fmin(fit, c->choice.seats[w].memory_bytes / takes);
    }
    return fit;
}

// How many times its machine's memory the worker takes that has least room.
static double fill_of(const struct plan_chosen *c, uint32_t *worst)
{
    double most = 0;
    for (uint32_t w = 0; w < c->choice.seat_count; w++) {
        const double has = c->profile.machines[w].memory_bytes, takes = c->timeline.workers[w].peak_bytes;
        if (has <= 0 || takes / has <= most)
            continue;
        most = takes / has;
        *worst = w;
    }
    return most;
}

static bg_status refuse(const struct plan_chosen *c, uint32_t worst, bool brief, struct bg_error *err)
{
    char shape[64];
    plan_chosen_shape(c, shape);
    return bg_fail(
        err, BG_INVALID,
        "no plan fits: the nearest is %s, where worker %u needs %.4g GB, partial sums of gradients among it, "
        "and machine %s has %.4g GB%s",
        shape, worst, 1e-9 * c->timeline.workers[worst].peak_bytes, c->profile.machines[worst].name,
        1e-9 * c->profile.machines[worst].memory_bytes, brief ? "" : "; give it that, or add machines");
}

struct verdict { // on proposals
    double fit;  // of the best one
    double fill; // of the one that comes nearest, of those that do not fit; INFINITY where a schedule refuses it
    bg_status status;
    struct bg_error *err; // why that one does not
};

// The planner's proposals, built; those that fit are added.
static bg_status add_proposals(const struct plan_choose *o, uint32_t group, const struct plan_profile *profile,
                               const struct plan_sync *sync, struct verdict *v, struct plan_chosen_list *list)
{
    bool fits = false;
    for (uint32_t i = 0; i < sync->count; i++) {
        struct plan_chosen chosen;
        struct bg_error why;
        uint32_t worst = 0;
        bg_status one = make(o, group, profile, &sync->choices[i], &why, &chosen);
        const double fill = one ? INFINITY : fill_of(&chosen, &worst);
        if (i == 0)
            v->fit = one ? 1 : fit_of(&chosen);
        if (!one && fill <= 1) {
            add(list, &chosen);
            fits = true;
            continue;
        }
        if (!one) {
            one = refuse(&chosen, worst, o->brief, &why);
            plan_chosen_fini(&chosen);
        }
        if (!v->status || fill < v->fill) {
            v->fill = fill;
            v->status = one;
            *v->err = why;
        }
    }
    return fits ? BG_OK : v->status; // a schedule may refuse some shapes
}

// Where not all could be searched: the machines of the best proposal again, each a stage of its own. Items pass such a
// row as the formula says, and stages of unequal numbers of machines only nearly so.
static void add_row(const struct plan_choose *o, const struct plan_sync_options *like,
                    const struct plan_profile *profile, const struct plan_sync *sync, struct plan_chosen_list *list)
{
    const struct plan_sync_choice *best = &sync->choices[0];
    const uint32_t stages = best->seat_count;
    if (sync->exact || o->replicas || stages == best->stage_count || stages > profile->unit_count ||
        stages > PLAN_STAGES_MAX)
        return;
    struct plan_profile seated = *profile;
    struct plan_sync_options options = *like;
    struct plan_sync row;
    struct bg_error why; // one proposal less
    struct verdict verdict = {.err = &why};
    uint32_t *replicas = bg_alloc_array(stages, sizeof *replicas);
    seated.machine_count = stages;
    seated.machines = bg_alloc_array(stages, sizeof *seated.machines);
    for (uint32_t i = 0; i < stages; i++) {
        seated.machines[i] = profile->machines[best->seats[i].machine];
        replicas[i] = 1;
    }
    options.replicas = replicas;
    options.stages_max = stages;
    options.brief = true;
    if (plan_sync_solve(&seated, &options, &why, &row) == BG_OK) {
        (void)!add_proposals(o, like->group, &seated, &row, &verdict, list);
        plan_sync_fini(&row);
    }
    bg_free(seated.machines);
    bg_free(replicas);
}

static bg_status check_seats(const struct plan_choose *o, const struct plan_profile *profile, struct bg_error *err)
{
    uint64_t seats = 0;
    for (uint32_t s = 0; o->replicas && s < o->stages; s++)
        seats += o->replicas[s];
    if (seats <= profile->machine_count)
        return BG_OK;
    return bg_fail(err, BG_INVALID, "the shape seats %llu machines, there are %u: %llu more are needed",
                   (unsigned long long)seats, profile->machine_count,
                   (unsigned long long)seats - profile->machine_count);
}

static double closeness(const struct plan_chosen_list *list)
{
    return list->exact || list->count == 0 ? CLOSE : NEARLY;
}

// Where the best proposal has no room in the end, the planner is asked again with as much less memory; and where it
// then finds nothing, with something between.
static bg_status solve(const struct plan_choose *o, const struct plan_sync_options *options,
                       const struct plan_profile *profile, struct bg_error *err, struct plan_chosen_list *list)
{
    struct plan_sync_options asking = *options;
    struct plan_profile asked = *profile; // with less memory
    struct verdict verdict = {.err = err};
    struct plan_sync sync;
    bg_status status = BG_OK;
    double scale = 1, loose = 1, tight = 0; // the best does not fit in `loose` times the memory, nothing in `tight`
    asked.machines = bg_alloc_array(profile->machine_count, sizeof *asked.machines);
    for (int round = 0; round < ROUNDS && verdict.fit < 1 && loose - tight > closeness(list); round++) {
        struct bg_error why;
        for (uint32_t m = 0; m < profile->machine_count; m++) {
            asked.machines[m] = profile->machines[m];
            asked.machines[m].memory_bytes *= scale;
        }
        const bg_status solved = plan_sync_solve(&asked, &asking, round ? &why : err, &sync);
        if (solved && round == 0) {
            status = solved;
            break;
        }
        if (solved) {
            tight = scale;
        } else {
            list->exact &= sync.exact;
            status = add_proposals(o, options->group, profile, &sync, &verdict, list);
            add_row(o, options, profile, &sync, list);
            plan_sync_fini(&sync);
            loose = scale;
            scale *= verdict.fit;
        }
        scale = tight > 0 ? fmax(scale, (tight + loose) / 2) : scale;
        asking.brief = true;
    }
    bg_free(asked.machines);
    return status;
}

// Where not all can be searched, what is much longer than a plan that is there need not be.
static double longest_s(const struct plan_chosen_list *list)
{
    return list->exact || list->count == 0 ? 0 : MUCH * list->items[0].timeline.step_s;
}

static bg_status try_group(const struct plan_choose *o, uint32_t group, enum plan_sync_choose recompute,
                           enum plan_sync_choose offload, struct bg_error *err, struct plan_chosen_list *list)
{
    const bool whole = plan_schedule_chunks(o->schedule, o->chunks) == 1;
    const struct plan_sync_options options = {.micro_batches = o->micro_batches,
                                              .group = group,
                                              .recompute = recompute,
                                              .offload = offload,
                                              .gpipe = o->schedule == PLAN_GPIPE,
                                              .use_all = o->use_all,
                                              .stages_max = o->replicas ? o->stages : 0,
                                              .replicas = o->replicas,
                                              .cut = whole ? o->cut : NULL,
                                              .longest_s = longest_s(list),
                                              .effort = o->effort,
                                              .brief = o->brief || longest_s(list) > 0};
    struct plan_profile profile;
    bg_status status = o->profile_of(o->arg, group, err, &profile);
    if (status)
        return status;
    status = check_seats(o, &profile, err);
    if (!status && offload == PLAN_SYNC_AUTO && !(profile.disk_byte_s > 0))
        status = bg_fail(err, BG_UNSUPPORTED, "the profile does not say what the disk costs");
    if (!status)
        status = solve(o, &options, &profile, err, list);
    plan_profile_fini(&profile);
    return status;
}

// Stashes are computed again or wait on disk, not both in one plan: the second way is tried where memory is short.
static bg_status try_modes(const struct plan_choose *o, uint32_t group, struct bg_error *err,
                           struct plan_chosen_list *list)
{
    const bool on = o->offload == PLAN_SYNC_ON;
    bg_status status =
        try_group(o, group, on ? PLAN_SYNC_OFF : o->recompute, on ? PLAN_SYNC_ON : PLAN_SYNC_OFF, err, list);
    if (o->offload != PLAN_SYNC_AUTO || o->recompute != PLAN_SYNC_AUTO ||
        (!status && !plan_chosen_recomputes(&list->items[0])))
        return status;
    struct bg_error why; // one way less
    return try_group(o, group, PLAN_SYNC_OFF, PLAN_SYNC_AUTO, &why, list) ? status : BG_OK;
}

// ---- Passes ----

static bg_status pass_over(const struct plan_choose *o, const struct plan_pass_wish *wish, struct bg_error *err,
                           struct plan_chosen *c)
{
    struct plan_timeline timeline;
    bg_status status = plan_passes_choose(&c->profile, wish, err, &c->plan, &c->passes, c->gains);
    if (!status)
        status = plan_timeline(&c->plan, &c->profile, err, &timeline);
    if (status)
        return status;
    plan_timeline_fini(&c->timeline);
    c->timeline = timeline;
    if (o->rows > 0 && o->passes->factors)
        c->factors = plan_pass_factors(&c->plan, &c->profile, o->rows);
    c->wish = *o->passes;
    c->wished = true;
    return BG_OK;
}

static bool is_large(const struct plan_chosen *c)
{
    return c->profile.unit_count * c->profile.machine_count > LARGE;
}

// The best of each shape, each with its own passes, of large plans with those of the first; the order may change.
static bg_status pass_over_all(const struct plan_choose *o, struct bg_error *err, struct plan_chosen_list *list)
{
    struct plan_pass_wish wish = o->passes ? *o->passes : (struct plan_pass_wish){0};
    bg_status status = BG_OK;
    for (uint32_t i = 0; i < list->count && o->passes && !status; i++) {
        status = pass_over(o, &wish, err, &list->items[i]);
        if (is_large(&list->items[i]))
            wish = (struct plan_pass_wish){.passes = list->items[i].passes, .factors = o->passes->factors};
        for (uint32_t at = i; at > 0 && shorter(&list->items[at], &list->items[at - 1]); at--) {
            const struct plan_chosen before = list->items[at - 1];
            list->items[at - 1] = list->items[at];
            list->items[at] = before;
        }
    }
    return status;
}

// ---- All sizes of items ----

// Errors are those of the smallest items.
static bg_status search(const struct plan_choose *o, struct bg_error *err, struct plan_chosen_list *found)
{
    struct bg_error first = {0}, failure = {0};
    double best = 0;
    for (uint32_t group = o->group ? o->group : 1, worse = 0; worse < PATIENCE; group *= 2) {
        const bg_status one = try_modes(o, group, &failure, found);
        if (one && !first.status)
            first = failure;
        const bool better = found->count && (best <= 0 || found->items[0].timeline.step_s < best);
        best = found->count ? found->items[0].timeline.step_s : 0;
        worse = better || !found->count ? 0 : worse + 1; // larger items may be what fits
        if (o->group || group >= o->micro_batches)
            break;
    }
    return found->count ? BG_OK : bg_fail(err, first.status ? first.status : BG_INTERNAL, "%s", first.text);
}

bg_status plan_choose(const struct plan_choose *choose, struct bg_error *err, struct plan_chosen_list *list)
{
    struct plan_chosen_list found = {.exact = true, .given = choose->replicas != NULL};
    struct plan_choose asked = *choose;
    asked.brief = choose->brief || choose_is_small(choose);
    const bool ways = asked.brief && !choose->brief;
    bg_status status = search(&asked, err, &found);
    if (status && ways) {
        // What is nearest by the formula may have no room in the end where what a lighter search comes to has; what
        // would do is found by such searches as well.
        struct bg_error why;
        asked.effort = CHOOSE_LIGHTLY;
        if (search(&asked, &why, &found) == BG_OK)
            status = BG_OK;
        else if (err)
            choose_add_ways(choose, err);
    }
    if (!status)
        status = pass_over_all(choose, err, &found);
    if (status)
        plan_chosen_list_fini(&found);
    else
        *list = found;
    return status;
}

// ---- What it is ----

void plan_chosen_shape(const struct plan_chosen *chosen, char text[64])
{
    const uint32_t stages = chosen->choice.stage_count;
    uint32_t least = replicas_of(chosen, 0), most = least;
    for (uint32_t s = 1; s < stages; s++) {
        const uint32_t replicas = replicas_of(chosen, s);
        least = replicas < least ? replicas : least;
        most = replicas > most ? replicas : most;
    }
    if (least == most) {
        snprintf(text, 64, "%ux%u", stages, least);
        return;
    }
    size_t size = 0;
    for (uint32_t s = 0; s < stages && size < 64; s++)
        size += (size_t)snprintf(text + size, 64 - size, "%s%u", s ? "+" : "", replicas_of(chosen, s));
    if (size >= 64)
        snprintf(text, 64, "%u stages of %u to %u machines", stages, least, most);
}

double plan_chosen_idle(const struct plan_chosen *chosen)
{
    double busy = 0;
    for (uint32_t i = 0; i < chosen->choice.seat_count; i++)
        busy += chosen->timeline.workers[i].busy_s;
    const double all = chosen->timeline.step_s * chosen->choice.seat_count;
    return all > 0 ? 1 - busy / all : 0;
}

uint32_t plan_chosen_slowest(const struct plan_chosen *chosen)
{
    uint32_t slowest = 0;
    for (uint32_t w = 1; w < chosen->timeline.worker_count; w++)
        if (chosen->timeline.workers[w].busy_s > chosen->timeline.workers[slowest].busy_s)
            slowest = w;
    return slowest;
}

static uint32_t stage_of(const struct plan_chosen *chosen, uint32_t worker)
{
    uint32_t s = 0;
    while (s + 1 < chosen->choice.stage_count && worker >= chosen->choice.stages[s].seat_end)
        s++;
    return s;
}

static bg_status step_with(const struct plan_chosen *chosen, enum plan_gain gain, struct bg_error *err, double *step)
{
    struct plan_profile changed = chosen->profile;
    const struct plan_sync_stage *stage = &chosen->choice.stages[stage_of(chosen, plan_chosen_slowest(chosen))];
    const double overhead = gain == PLAN_GAIN_COMMIT ? 2 : 1, link = gain == PLAN_GAIN_LINK ? 2 : 1;
    changed.machines = bg_alloc_array(changed.machine_count, sizeof *changed.machines);
    for (uint32_t i = 0; i < changed.machine_count; i++) {
        changed.machines[i] = chosen->profile.machines[i];
        if (gain == PLAN_GAIN_COMPUTE || (gain == PLAN_GAIN_STAGE && i >= stage->seat_first && i < stage->seat_end))
            changed.machines[i].speed *= 2;
    }
    changed.commit_s /= overhead;
    changed.step_byte_s /= overhead;
    changed.reduce_byte_s /= overhead;
    changed.message_s /= link;
    changed.message_byte_s /= link;
    changed.inner.latency_s /= link;
    changed.outer.latency_s /= link;
    changed.inner.bytes_s *= link;
    changed.outer.bytes_s *= link;
    struct plan_timeline timeline;
    bg_status status = plan_timeline(&chosen->plan, &changed, err, &timeline);
    if (!status) {
        *step = timeline.step_s;
        plan_timeline_fini(&timeline);
    }
    bg_free(changed.machines);
    return status;
}

bg_status plan_chosen_gains(const struct plan_chosen *chosen, struct bg_error *err, double gains[PLAN_GAINS])
{
    for (int g = 0; g < PLAN_GAINS; g++) {
        double step = 0;
        bg_status status = step_with(chosen, (enum plan_gain)g, err, &step);
        if (status)
            return status;
        gains[g] = chosen->timeline.step_s > 0 ? 1 - step / chosen->timeline.step_s : 0;
    }
    return BG_OK;
}
