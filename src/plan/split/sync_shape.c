// What run.plan=auto makes of the workers there are: how many pipeline ranks, and how many workers at each.
#include "plan/split/sync.h"

#include "base/mem.h"
#include "plan/cost/timeline.h"

#include <math.h>

enum {
    SIMULATED = 8, // of the best by the planner's prediction
    SPREADS_MAX =
        64 // ways to spread machines over ranks that are all solved; of more, the best for each number of ranks
};

struct candidate {
    struct plan_sync_choice choice;
    bool tried;
    double simulated_s; // INFINITY: not tried, or it cannot be built
};

// As good as can be with so many ranks, of so many machines each (NULL: any numbers).
static bg_status solve(const struct plan_profile *profile, const struct plan_options *job, uint32_t stages,
                       const uint32_t *replicas, struct bg_error *err, struct candidate *candidate)
{
    struct plan_stage cut[PLAN_STAGES_MAX];
    const struct plan_sync_options options = {.micro_batches = job->micro_batches,
                                              .group = job->group,
                                              .recompute = job->recompute ? PLAN_SYNC_ON : PLAN_SYNC_OFF,
                                              .gpipe = job->schedule == PLAN_GPIPE,
                                              .use_all = true,
                                              .stages_max = stages,
                                              .cut = cut,
                                              .replicas = replicas,
                                              .brief = replicas != NULL};
    struct plan_sync sync;
    bg_status status = plan_cut(job->costs, profile->unit_count, stages, err, cut);
    if (!status)
        status = plan_sync_solve(profile, &options, err, &sync);
    if (status)
        return status;
    *candidate = (struct candidate){.choice = plan_sync_choice_copy(&sync.choices[0]), .simulated_s = INFINITY};
    plan_sync_fini(&sync);
    return BG_OK;
}

static struct plan_sync_shape shape_of(const struct plan_sync_choice *choice, double step_s)
{
    struct plan_sync_shape shape = {.stages = choice->stage_count, .step_s = step_s};
    for (uint32_t s = 0; s < shape.stages; s++)
        shape.replicas[s] = choice->stages[s].seat_end - choice->stages[s].seat_first;
    return shape;
}

// Seconds of the step that is built for it; infinite where it cannot be built.
static double simulate(const struct plan_profile *profile, const struct plan_options *job,
                       const struct plan_sync_choice *choice)
{
    const struct plan_sync_shape shape = shape_of(choice, 0);
    struct plan_profile seated = *profile;
    struct plan_options options = *job;
    struct plan plan;
    struct plan_timeline timeline;
    struct bg_error ignored;
    double step_s = INFINITY;
    uint32_t *shares = bg_alloc_array(choice->seat_count, sizeof *shares);
    seated.machines = bg_alloc_array(choice->seat_count, sizeof *seated.machines);
    seated.machine_count = choice->seat_count;
    for (uint32_t i = 0; i < choice->seat_count; i++) {
        seated.machines[i] = profile->machines[choice->seats[i].machine];
        shares[i] = choice->seats[i].share;
    }
    options.units = profile->unit_count;
    options.replicas = shape.replicas;
    options.stages = shape.stages;
    options.shares = shares;
    options.cut = NULL;
    options.followers = 0;
    if (!plan_build(&options, &ignored, &plan)) {
        if (!plan_timeline(&plan, &seated, &ignored, &timeline)) {
            step_s = timeline.step_s;
            plan_timeline_fini(&timeline);
        }
        plan_fini(&plan);
    }
    bg_free(shares);
    bg_free(seated.machines);
    return step_s;
}

// By their predicted steps, the best ones first.
static bool simulate_best(const struct plan_profile *profile, const struct plan_options *job,
                          struct candidate *candidates, uint32_t count)
{
    bool any = false;
    for (uint32_t round = 0; round < SIMULATED; round++) {
        struct candidate *best = NULL;
        for (uint32_t i = 0; i < count; i++)
            if (!candidates[i].tried && (!best || candidates[i].choice.step_s < best->choice.step_s))
                best = &candidates[i];
        if (!best)
            break;
        best->tried = true;
        best->simulated_s = simulate(profile, job, &best->choice);
        any |= best->simulated_s < INFINITY;
    }
    return any;
}

// Spread `bits` of `machines` over ranks: machine i + 1 begins a new one where bit i is set. Returns how many there
// are.
static uint32_t spread_of(uint32_t bits, uint32_t machines, uint32_t replicas[SPREADS_MAX])
{
    uint32_t ranks = 0, first = 0;
    for (uint32_t i = 0; i < machines; i++)
        if (i + 1 == machines || bits >> i & 1) {
            replicas[ranks++] = i + 1 - first;
            first = i + 1;
        }
    return ranks;
}

static uint32_t solve_all(const struct plan_profile *profile, const struct plan_options *job, struct bg_error *err,
                          struct candidate *candidates)
{
    const uint32_t units = profile->unit_count, machines = profile->machine_count;
    const uint32_t chunks = plan_schedule_chunks(job->schedule, job->chunks);
    uint32_t most = chunks ? units / chunks : 0, count = 0;
    most = most < machines ? most : machines;
    most = most < PLAN_STAGES_MAX ? most : PLAN_STAGES_MAX;
    (void)bg_fail(err, BG_INVALID, "%u units on %u machines, %u stages each: there is no such pipeline", units,
                  machines, chunks);
    if (machines <= 1 || machines > 32 || SPREADS_MAX >> (machines - 1) == 0) {
        for (uint32_t s = 1; s <= most; s++)
            count += solve(profile, job, s, NULL, err, &candidates[count]) == BG_OK;
        return count;
    }
    for (uint32_t bits = 0; bits >> (machines - 1) == 0; bits++) {
        uint32_t replicas[SPREADS_MAX];
        const uint32_t ranks = spread_of(bits, machines, replicas);
        count += ranks <= most && solve(profile, job, ranks, replicas, err, &candidates[count]) == BG_OK;
    }
    if (count == 0 && most > 0) // what would do is told of no spread, but of all of them
        count += solve(profile, job, most, NULL, err, candidates) == BG_OK;
    return count;
}

bg_status plan_sync_shape(const struct plan_profile *profile, const struct plan_options *wanted, struct bg_error *err,
                          struct plan_sync_shape *shape, uint32_t *rank_of)
{
    struct plan_options job = *wanted;
    struct bg_error why;
    double *costs = bg_alloc_array(profile->unit_count + 1u, sizeof *costs);
    struct candidate *candidates = bg_alloc_array(PLAN_STAGES_MAX, sizeof *candidates);
    for (uint32_t u = 0; u < profile->unit_count; u++)
        costs[u] = profile->units[u].forward_s + profile->units[u].input_s + profile->units[u].weight_s;
    job.costs = wanted->costs ? wanted->costs : costs;
    const uint32_t count = solve_all(profile, &job, &why, candidates);
    const bool simulated = simulate_best(profile, &job, candidates, count);
    const struct candidate *best = NULL;
    double best_s = INFINITY;
    for (uint32_t i = 0; i < count; i++) {
        const double step_s = simulated ? candidates[i].simulated_s : candidates[i].choice.step_s;
        if (!best || step_s < 0.99 * best_s) {
            best = &candidates[i];
            best_s = step_s;
        }
    }
    if (best)
        *shape = shape_of(&best->choice, best_s);
    for (uint32_t s = 0; best && rank_of && s < best->choice.stage_count; s++)
        for (uint32_t i = best->choice.stages[s].seat_first; i < best->choice.stages[s].seat_end; i++)
            rank_of[best->choice.seats[i].machine] = s;
    for (uint32_t i = 0; i < count; i++)
        plan_sync_choice_fini(&candidates[i].choice);
    bg_free(candidates);
    bg_free(costs);
    return count ? BG_OK : bg_fail(err, BG_INVALID, "%s", why.text);
}
