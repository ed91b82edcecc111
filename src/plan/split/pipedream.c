// The dynamic programme over states and machines, level by level. W(i, j, m) is the time of the slowest stage of states
// i..j on m machines of this level; the last stage is k+1..j on q of them. INFINITY stands where there is no plan, and
// passes through every sum and maximum by itself. Only times are kept: what was chosen is found again on the way back.
#include "plan/split/pipedream.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#define CELLS_MAX (1ull << 27) // doubles, 1 GiB

enum { UNCUT = UINT32_MAX, FEWER = UINT32_MAX - 1 }; // beside the states that `cut` may be

struct choice {
    uint32_t cut, machines;
};

struct level {
    uint32_t machines, inner, rows; // rows: how many i there are, 1 at the last level
    double bandwidth;
    double *alone; // T (states, states): i..j on one machine, unreplicated
    double *times; // W (states, machines, rows), so that all i of a cut are priced side by side
};

struct solver {
    const struct plan_states *states;
    const struct plan_pipedream_options *options;
    struct level levels[PLAN_PIPEDREAM_LEVELS_MAX];
    double *ends; // (states, machines) of one j: the stage k+1..j on q machines
};

static double span(const double *sums, uint32_t i, uint32_t j)
{
    return i ? sums[j] - sums[i - 1] : sums[j];
}

static bool follows(const struct plan_states *s, uint32_t state, uint32_t earlier)
{
    return s->before[(size_t)state * s->words + earlier / 64] >> earlier % 64 & 1;
}

// W(0.., j, m): the times of all i.
static double *times_of(const struct solver *s, const struct level *l, uint32_t j, uint32_t m)
{
    BG_ASSERT(j < s->states->count && m > 0 && m <= l->machines);
    return l->times + ((size_t)j * l->machines + m - 1) * l->rows;
}

static bool fits(const struct solver *s, const struct level *l, uint32_t i, uint32_t j, uint32_t used,
                 uint32_t replicas)
{
    const double copies = (l->machines - used + replicas - 1) / replicas;
    const double bytes = span(s->states->activation_bytes, i, j) + span(s->states->parameter_bytes, i, j);
    return s->options->memory_bytes <= 0 || copies * bytes <= s->options->memory_bytes;
}

// The times of a last stage up to j, for every cut before it and every number of machines.
static void price_ends(const struct solver *s, const struct level *l, uint32_t j)
{
    const struct plan_states *states = s->states;
    const double ratio = s->options->compression;
    for (uint32_t k = 0; k < j; k++) {
        if (!follows(states, j, k))
            continue;
        const double alone = l->alone[(size_t)(k + 1) * states->count + j];
        const double parameters = span(states->parameter_bytes, k + 1, j);
        for (uint32_t q = 1; q < l->machines; q++) {
            double time = (alone + 4.0 * (q - 1) * parameters / (l->bandwidth * q)) / q;
            if (ratio > 0) {
                time = fmax(time, 2 * states->cut_bytes[k] / (l->bandwidth * q) / ratio);
                if (j + 1 < states->count)
                    time = fmax(time, 2 * states->cut_bytes[j] / (l->bandwidth * q) / ratio);
            }
            s->ends[(size_t)k * l->machines + q - 1] = time;
        }
    }
}

static double price_uncut(const struct solver *s, const struct level *l, uint32_t i, uint32_t j, uint32_t m)
{
    if ((m > 1 && s->options->straight) || !fits(s, l, i, j, m, m))
        return INFINITY;
    const double alone = l->alone[(size_t)i * s->states->count + j],
                 parameters = span(s->states->parameter_bytes, i, j);
    return (alone + 4.0 * (m - 1) * parameters / (l->bandwidth * m) / l->inner) / m;
}

// Betters times[i] by the slower of fronts[i] and `end`, for all i.
static void better(double *restrict times, const double *restrict fronts, double end, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const double time = fronts[i] > end ? fronts[i] : end;
        times[i] = times[i] < time ? times[i] : time;
    }
}

// W(.., j, m). The ends of j are priced, and so is all of W before j, and of j with fewer machines. (No i up to k has k
// among the states that i - 1 follows: all of them stand in front of i.)
static void price(const struct solver *s, const struct level *l, uint32_t j, uint32_t m)
{
    double *times = times_of(s, l, j, m);
    const uint32_t last = s->options->straight && m > 2 ? 1 : m - 1;
    for (uint32_t i = 0; i <= j && i < l->rows; i++) {
        times[i] = price_uncut(s, l, i, j, m);
        if (m > 1 && s->options->fewer && j > i)
            times[i] = fmin(times[i], times_of(s, l, j, m - 1)[i]);
    }
    for (uint32_t k = 0; k < j; k++)
        for (uint32_t q = 1; q <= last && follows(s->states, j, k); q++)
            if (fits(s, l, k + 1, j, m, q))
                better(times, times_of(s, l, k, m - q), s->ends[(size_t)k * l->machines + q - 1],
                       k < l->rows ? k + 1 : l->rows);
}

static void solve_level(const struct solver *s, const struct level *l)
{
    for (uint32_t j = 0; j < s->states->count; j++) {
        price_ends(s, l, j);
        for (uint32_t m = 1; m <= l->machines; m++)
            price(s, l, j, m);
    }
}

// ---- The way back ----
static void add_stage(struct plan_pipedream *plan, uint32_t *capacity, struct plan_pipedream_stage stage)
{
    if (plan->stage_count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 16;
        plan->stages = bg_realloc_array(plan->stages, *capacity, sizeof *plan->stages);
    }
    plan->stages[plan->stage_count++] = stage;
}

// What W(i, j, m) stands for, of all that is as fast: no cut, then fewer machines, then the smallest cut and replicas.
static struct choice choice_of(const struct solver *s, const struct level *l, uint32_t i, uint32_t j, uint32_t m)
{
    const double time = times_of(s, l, j, m)[i];
    if (price_uncut(s, l, i, j, m) <= time)
        return (struct choice){UNCUT, m};
    if (m > 1 && s->options->fewer && j > i && times_of(s, l, j, m - 1)[i] <= time)
        return (struct choice){FEWER, m - 1};
    for (uint32_t k = i; k < j; k++)
        for (uint32_t q = 1; q < m && follows(s->states, j, k); q++)
            if ((q == 1 || !s->options->straight) && fits(s, l, k + 1, j, m, q) &&
                fmax(times_of(s, l, k, m - q)[i], s->ends[(size_t)k * l->machines + q - 1]) <= time)
                return (struct choice){k, q};
    BG_ASSERT(!"a time that nothing makes");
    return (struct choice){UNCUT, m};
}

// The stages of one span at one level, in the order in which they stand.
static void trace(const struct solver *s, uint32_t index, uint32_t first, uint32_t end, uint32_t parent,
                  struct plan_pipedream *plan, uint32_t *capacity)
{
    const struct level *l = &s->levels[index];
    const uint32_t begin = plan->stage_count;
    uint32_t j = end - 1, m = l->machines;
    for (bool more = true; more;) {
        price_ends(s, l, j);
        struct choice chosen = choice_of(s, l, first, j, m);
        while (chosen.cut == FEWER)
            chosen = choice_of(s, l, first, j, --m);
        more = chosen.cut != UNCUT;
        const uint32_t start = more ? chosen.cut + 1 : first;
        add_stage(plan, capacity, (struct plan_pipedream_stage){index + 1, start, j + 1, chosen.machines, parent});
        j = chosen.cut;
        m -= chosen.machines;
    }
    for (uint32_t a = begin, b = plan->stage_count - 1; a < b; a++, b--) {
        const struct plan_pipedream_stage swap = plan->stages[a];
        plan->stages[a] = plan->stages[b];
        plan->stages[b] = swap;
    }
}

static void trace_levels(const struct solver *s, struct plan_pipedream *plan)
{
    uint32_t capacity = 0, level = s->options->level_count - 1, begin = 0;
    trace(s, level, 0, s->states->count, 0, plan, &capacity);
    while (level-- > 0) {
        const uint32_t end = plan->stage_count;
        for (uint32_t parent = begin; parent < end; parent++)
            trace(s, level, plan->stages[parent].first, plan->stages[parent].end, parent, plan, &capacity);
        begin = end;
    }
}

// ---- All of it ----
static bg_status check(const struct plan_states *states, const struct plan_pipedream_options *o, struct bg_error *err)
{
    uint64_t cells = 0;
    if (!o->level_count || o->level_count > PLAN_PIPEDREAM_LEVELS_MAX)
        return bg_fail(err, BG_INVALID, "%u levels of machines, expected 1 to %d", o->level_count,
                       PLAN_PIPEDREAM_LEVELS_MAX);
    for (uint32_t l = 0; l < o->level_count; l++) {
        if (!o->levels[l].machines || o->levels[l].machines > PLAN_PIPEDREAM_MACHINES_MAX)
            return bg_fail(err, BG_INVALID, "level %u: %u machines, expected 1 to %d", l + 1, o->levels[l].machines,
                           PLAN_PIPEDREAM_MACHINES_MAX);
        if (!(o->levels[l].bandwidth > 0 && isfinite(o->levels[l].bandwidth)))
            return bg_fail(err, BG_INVALID, "level %u: a bandwidth of %g bytes/s, expected more than 0", l + 1,
                           o->levels[l].bandwidth);
        const bool last = l + 1 == o->level_count;
        cells += (uint64_t)states->count * states->count +
                 (last ? 1 : (uint64_t)states->count) * states->count * o->levels[l].machines;
    }
    if (!(o->compression >= 0 && isfinite(o->compression)) || !(o->memory_bytes >= 0 && isfinite(o->memory_bytes)))
        return bg_fail(err, BG_INVALID, "compression %g, memory %g: expected numbers that are not negative",
                       o->compression, o->memory_bytes);
    if (cells > CELLS_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%u states on these machines need %llu MB; merge layers of the profile",
                       states->count, (unsigned long long)(cells >> 17));
    return BG_OK;
}

static void solve(struct solver *s, struct plan_pipedream *plan)
{
    const struct plan_states *states = s->states;
    const uint32_t count = states->count, levels = s->options->level_count, last = count - 1;
    plan->single_s = plan->data_s = states->compute_s[last];
    for (uint32_t index = 0; index < levels; index++) {
        struct level *l = &s->levels[index];
        l->machines = s->options->levels[index].machines;
        l->bandwidth = s->options->levels[index].bandwidth;
        l->inner = index ? s->levels[index - 1].machines : 1;
        l->rows = index + 1 < levels ? count : 1;
        l->alone = bg_alloc_array((size_t)count * count, sizeof *l->alone);
        l->times = bg_alloc_array((size_t)l->rows * count * l->machines, sizeof *l->times);
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t j = i; j < count; j++)
                l->alone[(size_t)i * count + j] =
                    index ? times_of(s, l - 1, j, l[-1].machines)[i] : span(states->compute_s, i, j);
        solve_level(s, l);
        const double parameters = states->parameter_bytes[last], n = l->machines;
        plan->data_s = (plan->data_s + 4 * (n - 1) * parameters / (l->bandwidth * n) / l->inner) / n;
    }
    const struct level *top = &s->levels[levels - 1];
    plan->pipe_s = times_of(s, top, last, top->machines)[0];
}

bg_status plan_pipedream_solve(const struct plan_states *states, const struct plan_pipedream_options *options,
                               struct bg_error *err, struct plan_pipedream *plan)
{
    struct solver s = {.states = states, .options = options};
    struct plan_pipedream made = {0};
    BG_ASSERT(states->count > 0);
    bg_status status = check(states, options, err);
    if (status)
        return status;
    uint32_t most = 1;
    for (uint32_t l = 0; l < options->level_count; l++)
        most = options->levels[l].machines > most ? options->levels[l].machines : most;
    s.ends = bg_alloc_array((size_t)states->count * most, sizeof *s.ends);
    solve(&s, &made);
    if (isfinite(made.pipe_s)) {
        trace_levels(&s, &made);
        *plan = made;
    } else {
        // Stages that may have replicas always fit: one stage on all machines keeps no copies.
        status = bg_fail(err, BG_INVALID,
                         "no straight pipeline uses these machines for %u states%s: let stages have replicas, or take "
                         "fewer machines",
                         states->count, options->memory_bytes > 0 ? " within this memory" : "");
    }
    for (uint32_t l = 0; l < options->level_count; l++) {
        bg_free(s.levels[l].alone);
        bg_free(s.levels[l].times);
    }
    bg_free(s.ends);
    return status;
}

void plan_pipedream_fini(struct plan_pipedream *plan)
{
    bg_free(plan->stages);
    *plan = (struct plan_pipedream){0};
}
