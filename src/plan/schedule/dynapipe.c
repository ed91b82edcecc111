// DynaPipe's dynamic programme: for each t_max in ascending order, the least sum of times of runs that are no longer.
// Since the sum without any t_max is a lower bound for all, a t_max whose first term makes up the difference ends it.
#include "plan/schedule/dynapipe.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct solver {
    const struct plan_sample *samples;
    const struct plan_dynapipe_options *o;
    uint32_t count;
    uint32_t *order;
    double *least;  // (count + 1) of the first samples
    uint32_t *from; // (count + 1) where the last run begins
};

static uint32_t rounded(const struct solver *s, uint32_t length)
{
    const uint32_t rest = length % s->o->round;
    return rest ? length - rest + s->o->round : length;
}

static double time_of(const struct solver *s, uint32_t n, uint32_t encoder, uint32_t decoder)
{
    const double e = encoder, d = decoder;
    return s->o->fixed + n * (s->o->token * (e + d) + s->o->pair * (e * e + e * d + d * d));
}

static bool fits(const struct solver *s, uint32_t n, uint32_t encoder, uint32_t decoder)
{
    return !s->o->tokens_max || (uint64_t)n * (encoder + decoder) <= s->o->tokens_max;
}

// ---- Order ----

struct keyed {
    struct plan_sample sample;
    uint32_t at;
};

static int by_length(const void *left, const void *right)
{
    const struct keyed *a = left, *b = right;
    if (a->sample.encoder != b->sample.encoder)
        return a->sample.encoder < b->sample.encoder ? -1 : 1;
    if (a->sample.decoder != b->sample.decoder)
        return a->sample.decoder < b->sample.decoder ? -1 : 1;
    return a->at < b->at ? -1 : 1;
}

static uint32_t *order_of(const struct plan_sample *samples, uint32_t count)
{
    struct keyed *keys = bg_alloc_array(count, sizeof *keys);
    uint32_t *order = bg_alloc_array(count, sizeof *order);
    for (uint32_t i = 0; i < count; i++)
        keys[i] = (struct keyed){samples[i], i};
    qsort(keys, count, sizeof *keys, by_length);
    for (uint32_t i = 0; i < count; i++)
        order[i] = keys[i].at;
    bg_free(keys);
    return order;
}

// ---- Runs ----

// A run that ends before sample `end` of the order and grows to the front.
struct growing {
    uint32_t first, end, encoder, decoder;
    double time;
};

static bool grow(const struct solver *s, struct growing *run)
{
    if (run->first == 0)
        return false;
    const struct plan_sample *sample = &s->samples[s->order[--run->first]];
    const uint32_t encoder = rounded(s, sample->encoder), decoder = rounded(s, sample->decoder);
    run->encoder = encoder > run->encoder ? encoder : run->encoder;
    run->decoder = decoder > run->decoder ? decoder : run->decoder;
    run->time = time_of(s, run->end - run->first, run->encoder, run->decoder);
    return fits(s, run->end - run->first, run->encoder, run->decoder);
}

// The least sum of times of runs that are no longer than `limit`; INFINITY: there are none.
static double solve_within(struct solver *s, double limit)
{
    s->least[0] = 0;
    for (uint32_t end = 1; end <= s->count; end++) {
        struct growing run = {.first = end, .end = end};
        s->least[end] = INFINITY;
        while (grow(s, &run) && run.time <= limit && run.time < s->least[end])
            if (s->least[run.first] + run.time < s->least[end]) {
                s->least[end] = s->least[run.first] + run.time;
                s->from[end] = run.first;
            }
    }
    return s->least[s->count];
}

static int by_value(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static uint32_t distinct(double *values, uint32_t count)
{
    uint32_t kept = 0;
    qsort(values, count, sizeof *values, by_value);
    for (uint32_t i = 0; i < count; i++)
        if (kept == 0 || values[i] > values[kept - 1])
            values[kept++] = values[i];
    return kept;
}

// The times of all runs, ascending and each once; thinned to one in so many where there are too many, the longest of
// each group staying. None is shorter than `least`, in which every sample fits.
static double *limits_of(const struct solver *s, double least, uint32_t *count, bool *all)
{
    uint32_t capacity = 4 * PLAN_DYNAPIPE_LIMITS_MAX, n = 0;
    double *limits = bg_alloc_array(capacity, sizeof *limits), longest = least;
    *all = true;
    for (uint32_t end = 1; end <= s->count; end++) {
        struct growing run = {.first = end, .end = end};
        while (grow(s, &run)) {
            longest = run.time > longest ? run.time : longest;
            if (run.time < least || (n && limits[n - 1] == run.time))
                continue;
            if (n == capacity) {
                n = distinct(limits, n);
                if (n > capacity / 2) { // keep one of two, the longer one
                    for (uint32_t i = 0; i < n / 2; i++)
                        limits[i] = limits[2 * i + 1];
                    n /= 2;
                    *all = false;
                }
            }
            limits[n++] = run.time;
        }
    }
    limits[n < capacity ? n++ : n - 1] = longest;
    n = distinct(limits, n);
    if (n > PLAN_DYNAPIPE_LIMITS_MAX) {
        const uint32_t each = (n + PLAN_DYNAPIPE_LIMITS_MAX - 1) / PLAN_DYNAPIPE_LIMITS_MAX;
        uint32_t kept = 0;
        for (uint32_t i = (n - 1) % each; i < n; i += each)
            limits[kept++] = limits[i];
        n = kept;
        *all = false;
    }
    *count = n;
    return limits;
}

static double first_term(const struct solver *s, double limit)
{
    return (s->o->stages - 1) * limit / s->o->chunks;
}

static double best_limit(struct solver *s, double least, bool *exact)
{
    uint32_t count;
    double *limits = limits_of(s, least, &count, exact), best = INFINITY, chosen = INFINITY;
    const double floor = solve_within(s, INFINITY) / s->o->replicas;
    for (uint32_t l = 0; l < count && first_term(s, limits[l]) + floor < best; l++) {
        const double objective = first_term(s, limits[l]) + solve_within(s, limits[l]) / s->o->replicas;
        if (objective < best) {
            best = objective;
            chosen = limits[l];
        }
    }
    bg_free(limits);
    return chosen;
}

static void take_runs(const struct solver *s, struct plan_dynapipe *plan)
{
    uint32_t count = 0;
    for (uint32_t end = s->count; end > 0; end = s->from[end])
        count++;
    plan->runs = bg_alloc_array(count, sizeof *plan->runs);
    plan->run_count = count;
    for (uint32_t end = s->count; end > 0; end = s->from[end]) {
        struct growing run = {.first = end, .end = end};
        while (run.first > s->from[end])
            BG_ASSERT(grow(s, &run));
        plan->runs[--count] = (struct plan_run){run.first, end, run.encoder, run.decoder, run.time, 0};
    }
}

static void share_runs(const struct plan_dynapipe_options *o, struct plan_dynapipe *plan)
{
    double *times = bg_alloc_array(plan->run_count, sizeof *times);
    double *loads = bg_alloc_array(o->replicas, sizeof *loads);
    uint32_t *part = bg_alloc_array(plan->run_count, sizeof *part);
    for (uint32_t r = 0; r < plan->run_count; r++)
        times[r] = plan->runs[r].time;
    plan_partition(times, plan->run_count, o->replicas, part);
    for (uint32_t r = 0; r < plan->run_count; r++) {
        struct plan_run *run = &plan->runs[r];
        run->replica = part[r];
        loads[part[r]] += run->time;
        plan->sum += run->time;
        plan->longest = run->time > plan->longest ? run->time : plan->longest;
        plan->padded += (uint64_t)(run->end - run->first) * (run->encoder + run->decoder);
    }
    for (uint32_t r = 0; r < o->replicas; r++)
        plan->heaviest = loads[r] > plan->heaviest ? loads[r] : plan->heaviest;
    bg_free(times);
    bg_free(loads);
    bg_free(part);
}

static bg_status check(const struct solver *s, struct bg_error *err, double *least)
{
    const struct plan_dynapipe_options *o = s->o;
    *least = 0;
    if (s->count < 1 || s->count > PLAN_DYNAPIPE_SAMPLES_MAX)
        return bg_fail(err, BG_INVALID, "%u samples, expected 1 to %d", s->count, PLAN_DYNAPIPE_SAMPLES_MAX);
    if (!(o->fixed >= 0 && o->token >= 0 && o->pair >= 0 && o->fixed <= 1e12 && o->token <= 1e12 && o->pair <= 1e12))
        return bg_fail(err, BG_INVALID, "fixed %g, token %g, pair %g: expected times from 0 to 1e12", o->fixed,
                       o->token, o->pair);
    if (o->round < 1 || o->round > PLAN_DYNAPIPE_LENGTH_MAX || o->stages < 1 || o->chunks < 1 || o->replicas < 1 ||
        o->replicas > PLAN_DYNAPIPE_REPLICAS_MAX)
        return bg_fail(err, BG_INVALID,
                       "round, stages, chunks and replicas: expected at least 1, round and replicas at "
                       "most %d and %d",
                       PLAN_DYNAPIPE_LENGTH_MAX, PLAN_DYNAPIPE_REPLICAS_MAX);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct plan_sample *sample = &s->samples[i];
        if (sample->encoder > PLAN_DYNAPIPE_LENGTH_MAX || sample->decoder > PLAN_DYNAPIPE_LENGTH_MAX)
            return bg_fail(err, BG_INVALID, "sample %u: %u and %u tokens, expected at most %d", i, sample->encoder,
                           sample->decoder, PLAN_DYNAPIPE_LENGTH_MAX);
        const uint32_t encoder = rounded(s, sample->encoder), decoder = rounded(s, sample->decoder);
        const double time = time_of(s, 1, encoder, decoder);
        if (!fits(s, 1, encoder, decoder))
            return bg_fail(err, BG_INVALID,
                           "sample %u alone has %u tokens with its padding, more than the limit of %llu", i,
                           encoder + decoder, (unsigned long long)o->tokens_max);
        *least = time > *least ? time : *least;
    }
    return BG_OK;
}

bg_status plan_dynapipe_solve(const struct plan_sample *samples, uint32_t count,
                              const struct plan_dynapipe_options *options, struct bg_error *err,
                              struct plan_dynapipe *plan)
{
    struct solver s = {.samples = samples, .o = options, .count = count};
    struct plan_dynapipe made = {.sample_count = count};
    double least;
    const bg_status status = check(&s, err, &least);
    if (status)
        return status;
    made.order = s.order = order_of(samples, count);
    s.least = bg_alloc_array((size_t)count + 1, sizeof *s.least);
    s.from = bg_alloc_array((size_t)count + 1, sizeof *s.from);
    solve_within(&s, best_limit(&s, least, &made.exact));
    take_runs(&s, &made);
    share_runs(options, &made);
    made.objective = first_term(&s, made.longest) + made.sum / options->replicas;
    for (uint32_t i = 0; i < count; i++)
        made.tokens += (uint64_t)samples[i].encoder + samples[i].decoder;
    bg_free(s.least);
    bg_free(s.from);
    *plan = made;
    return BG_OK;
}

void plan_dynapipe_fini(struct plan_dynapipe *plan)
{
    bg_free(plan->order);
    bg_free(plan->runs);
    *plan = (struct plan_dynapipe){0};
}

// ---- Differencing ----

#define NONE UINT32_MAX

// A partial solution: `parts` subsets, heaviest first; each is a list of weights.
struct partial {
    double *sums;
    uint32_t *heads;
};

static double spread(const struct partial *p, uint32_t parts)
{
    return p->sums[0] - p->sums[parts - 1];
}

static void sort_subsets(struct partial *p, uint32_t parts)
{
    for (uint32_t i = 1; i < parts; i++)
        for (uint32_t j = i; j > 0 && p->sums[j] > p->sums[j - 1]; j--) {
            const double sum = p->sums[j];
            const uint32_t head = p->heads[j];
            p->sums[j] = p->sums[j - 1], p->heads[j] = p->heads[j - 1];
            p->sums[j - 1] = sum, p->heads[j - 1] = head;
        }
}

static void join(struct partial *into, const struct partial *other, uint32_t parts, uint32_t *next)
{
    for (uint32_t i = 0; i < parts; i++) {
        const uint32_t light = parts - 1 - i;
        uint32_t tail = other->heads[light];
        into->sums[i] += other->sums[light];
        while (tail != NONE && next[tail] != NONE)
            tail = next[tail];
        if (tail != NONE) {
            next[tail] = into->heads[i];
            into->heads[i] = other->heads[light];
        }
    }
    sort_subsets(into, parts);
}

void plan_partition(const double *weights, uint32_t count, uint32_t parts, uint32_t *part)
{
    struct partial *partials = bg_alloc_array((size_t)count + 1, sizeof *partials);
    double *sums = bg_alloc_array((size_t)count * parts + 1, sizeof *sums);
    uint32_t *heads = bg_alloc_array((size_t)count * parts + 1, sizeof *heads);
    uint32_t *next = bg_alloc_array((size_t)count + 1, sizeof *next);
    for (uint32_t i = 0; i < count; i++) {
        partials[i] = (struct partial){sums + (size_t)i * parts, heads + (size_t)i * parts};
        for (uint32_t p = 0; p < parts; p++)
            partials[i].heads[p] = NONE;
        partials[i].sums[0] = weights[i];
        partials[i].heads[0] = i;
        next[i] = NONE;
    }
    for (uint32_t left = count; left > 1; left--) {
        for (uint32_t want = 0; want < 2; want++) // the two widest to the front
            for (uint32_t i = want + 1; i < left; i++)
                if (spread(&partials[i], parts) > spread(&partials[want], parts)) {
                    const struct partial wide = partials[i];
                    partials[i] = partials[want];
                    partials[want] = wide;
                }
        join(&partials[0], &partials[1], parts, next);
        partials[1] = partials[left - 1];
    }
    for (uint32_t p = 0; p < parts && count; p++)
        for (uint32_t i = partials[0].heads[p]; i != NONE; i = next[i])
            part[i] = p;
    bg_free(partials);
    bg_free(sums);
    bg_free(heads);
    bg_free(next);
}
