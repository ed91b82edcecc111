// Operator by operator, the cheapest of its options first. A branch ends where even the cheapest machines for all that
// follow would cost as much as the best placement so far, or the best models would not be accurate enough.
#include "plan/jellybean.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define OPTIONS (PLAN_JELLYBEAN_MODELS_MAX * PLAN_JELLYBEAN_KINDS_MAX)

struct option {
    struct plan_jellybean_choice choice;
    double dollars, accuracy;
};
struct search {
    const struct plan_jellybean *w;
    double rates[PLAN_JELLYBEAN_OPERATORS_MAX];
    struct option *options[PLAN_JELLYBEAN_OPERATORS_MAX]; // by cost
    uint32_t counts[PLAN_JELLYBEAN_OPERATORS_MAX];
    double least[PLAN_JELLYBEAN_OPERATORS_MAX + 1], most[PLAN_JELLYBEAN_OPERATORS_MAX + 1]; // from here on: $, accuracy
    uint32_t used[PLAN_JELLYBEAN_KINDS_MAX];
    double flow[PLAN_JELLYBEAN_TIERS_MAX][PLAN_JELLYBEAN_TIERS_MAX]; // GB a second
    struct plan_jellybean_choice choices[PLAN_JELLYBEAN_OPERATORS_MAX];
    struct plan_jellybean_placement *best;
    uint64_t steps;
};

static bool number(double value, bool positive)
{
    return value >= 0 && value <= 1e15 && (!positive || value > 0);
}

static bg_status check_operator(const struct plan_jellybean *w, uint32_t o, struct bg_error *err)
{
    const struct plan_jellybean_operator *op = &w->operators[o];
    if (!op->input_count || op->input_count > PLAN_JELLYBEAN_OPERATORS_MAX || !op->model_count ||
        op->model_count > PLAN_JELLYBEAN_MODELS_MAX || !number(op->per_input, false) || !number(op->bytes, false))
        return bg_fail(err, BG_INVALID, "operator %u: expected inputs, 1 to %d models, and numbers of 0 or more", o + 1,
                       PLAN_JELLYBEAN_MODELS_MAX);
    for (uint32_t i = 0; i < op->input_count; i++)
        if (op->inputs[i] != PLAN_JELLYBEAN_SOURCE && op->inputs[i] >= o)
            return bg_fail(err, BG_INVALID, "operator %u: its input %u does not stand before it", o + 1, i + 1);
    for (uint32_t m = 0; m < op->model_count; m++) {
        if (!(op->models[m].accuracy >= 0 && op->models[m].accuracy <= 1))
            return bg_fail(err, BG_INVALID, "operator %u, model %u: an accuracy of %g: expected 0 to 1", o + 1, m + 1,
                           op->models[m].accuracy);
        for (uint32_t k = 0; k < w->kind_count; k++)
            if (!number(op->models[m].rate[k], false))
                return bg_fail(err, BG_INVALID, "operator %u, model %u: a rate of %g items a second", o + 1, m + 1,
                               op->models[m].rate[k]);
    }
    return BG_OK;
}

bg_status plan_jellybean_check(const struct plan_jellybean *w, struct bg_error *err)
{
    if (!number(w->rate, true) || !(w->accuracy >= 0 && w->accuracy <= 1) || !number(w->source_bytes, false) ||
        w->source_tier >= PLAN_JELLYBEAN_TIERS_MAX)
        return bg_fail(err, BG_INVALID,
                       "a rate of %g items a second of %g bytes, an accuracy of %g: expected a rate above 0, "
                       "an accuracy of 0 to 1",
                       w->rate, w->source_bytes, w->accuracy);
    if (!w->kind_count || w->kind_count > PLAN_JELLYBEAN_KINDS_MAX || !w->operator_count ||
        w->operator_count > PLAN_JELLYBEAN_OPERATORS_MAX)
        return bg_fail(err, BG_INVALID, "%u operators on %u kinds of machines: expected 1 to %d of each",
                       w->operator_count, w->kind_count, PLAN_JELLYBEAN_OPERATORS_MAX);
    for (uint32_t k = 0; k < w->kind_count; k++)
        if (w->kinds[k].tier >= PLAN_JELLYBEAN_TIERS_MAX || !number(w->kinds[k].dollars_hour, false))
            return bg_fail(err, BG_INVALID, "machines %u: expected a tier and a price of 0 or more", k + 1);
    for (uint32_t t = 0; t < PLAN_JELLYBEAN_TIERS_MAX * PLAN_JELLYBEAN_TIERS_MAX; t++) {
        const struct plan_jellybean_link *link = &w->links[t / PLAN_JELLYBEAN_TIERS_MAX][t % PLAN_JELLYBEAN_TIERS_MAX];
        if (!number(link->dollars_gb, false) || !number(link->gb_s, false))
            return bg_fail(err, BG_INVALID, "a link at $%g a GB, %g GB a second: expected numbers of 0 or more",
                           link->dollars_gb, link->gb_s);
    }
    for (uint32_t o = 0; o < w->operator_count; o++) {
        const bg_status status = check_operator(w, o, err);
        if (status)
            return status;
    }
    return BG_OK;
}

static double out_of(const struct plan_jellybean *w, const double *rates, uint32_t input)
{
    return input == PLAN_JELLYBEAN_SOURCE ? w->rate : rates[input] * w->operators[input].per_input;
}

void plan_jellybean_rates(const struct plan_jellybean *w, double *rates)
{
    for (uint32_t o = 0; o < w->operator_count; o++) {
        rates[o] = 0;
        for (uint32_t i = 0; i < w->operators[o].input_count; i++)
            rates[o] += out_of(w, rates, w->operators[o].inputs[i]);
    }
}

// ---- Options ----

// Nothing is lost without an option where another on the same machines is as accurate with no more of them.
static bool dominated(const struct option *options, uint32_t count, const struct option *o)
{
    for (uint32_t i = 0; i < count; i++)
        if (options[i].choice.kind == o->choice.kind && options[i].accuracy >= o->accuracy &&
            options[i].choice.machines <= o->choice.machines)
            return true;
    return false;
}

// By cost; of equal cost the more accurate, then as they were listed.
static void insert(struct option *options, uint32_t *count, struct option o)
{
    uint32_t at = (*count)++;
    for (; at > 0 && (options[at - 1].dollars > o.dollars ||
                      (options[at - 1].dollars == o.dollars && options[at - 1].accuracy < o.accuracy));
         at--)
        options[at] = options[at - 1];
    options[at] = o;
}

static void list_options(struct search *s, uint32_t o)
{
    const struct plan_jellybean *w = s->w;
    struct option *all = bg_alloc_array(OPTIONS, sizeof *all);
    uint32_t count = 0;
    for (uint32_t m = 0; m < w->operators[o].model_count; m++) {
        for (uint32_t k = 0; k < w->kind_count; k++) {
            const struct plan_jellybean_model *model = &w->operators[o].models[m];
            const double machines = model->rate[k] > 0 ? fmax(1, ceil(s->rates[o] / model->rate[k] - 1e-9)) : INFINITY;
            if (machines > (w->kinds[k].count ? w->kinds[k].count : 1e6))
                continue;
            const struct option one = {
                {m, k, (uint32_t)machines}, machines * w->kinds[k].dollars_hour, model->accuracy};
            insert(all, &count, one);
        }
    }
    s->options[o] = bg_alloc_array(count, sizeof *all);
    for (uint32_t i = 0; i < count; i++)
        if (!dominated(s->options[o], s->counts[o], &all[i]))
            s->options[o][s->counts[o]++] = all[i];
    bg_free(all);
}

// ---- Search ----

// Adds (or takes back) what operator o gets over links; false where there is no link or no more room on one. *dollars:
// an hour's worth.
static bool route(struct search *s, uint32_t o, double sign, double *dollars)
{
    const struct plan_jellybean *w = s->w;
    const uint32_t to = w->kinds[s->choices[o].kind].tier;
    bool good = true;
    *dollars = 0;
    for (uint32_t i = 0; i < w->operators[o].input_count; i++) {
        const uint32_t input = w->operators[o].inputs[i];
        const bool source = input == PLAN_JELLYBEAN_SOURCE;
        const uint32_t from = source ? w->source_tier : w->kinds[s->choices[input].kind].tier;
        const struct plan_jellybean_link *link = &w->links[from][to];
        if (from == to)
            continue;
        const double gb_s = out_of(w, s->rates, input) * (source ? w->source_bytes : w->operators[input].bytes) / 1e9;
        s->flow[from][to] += sign * gb_s;
        *dollars += gb_s * 3600 * link->dollars_gb;
        good = good && link->there && (link->gb_s <= 0 || s->flow[from][to] <= link->gb_s * (1 + 1e-9));
    }
    return good;
}

static void place(struct search *s, uint32_t o, double machines, double traffic, double accuracy)
{
    struct plan_jellybean_placement *best = s->best;
    if (o == s->w->operator_count) {
        best->found = true;
        best->machine_dollars_hour = machines;
        best->traffic_dollars_hour = traffic;
        best->accuracy = accuracy;
        memcpy(best->choices, s->choices, sizeof best->choices);
        return;
    }
    for (uint32_t i = 0; i < s->counts[o]; i++) {
        const struct option *option = &s->options[o][i];
        const uint32_t kind = option->choice.kind, stock = s->w->kinds[kind].count;
        const double so_far = machines + traffic + option->dollars,
                     bar = best->machine_dollars_hour + best->traffic_dollars_hour;
        if (++s->steps > PLAN_JELLYBEAN_STEPS)
            return;
        if (best->found && so_far + s->least[o + 1] >= bar - 1e-12 * bar)
            return; // the options that follow cost no less
        if (accuracy * option->accuracy * s->most[o + 1] < s->w->accuracy * (1 - 1e-12) ||
            (stock && s->used[kind] + option->choice.machines > stock))
            continue;
        double dollars, back;
        s->choices[o] = option->choice;
        if (route(s, o, 1, &dollars) && (!best->found || so_far + dollars + s->least[o + 1] < bar - 1e-12 * bar)) {
            s->used[kind] += option->choice.machines;
            place(s, o + 1, machines + option->dollars, traffic + dollars, accuracy * option->accuracy);
            s->used[kind] -= option->choice.machines;
        }
        s->choices[o] = option->choice;
        (void)route(s, o, -1, &back);
    }
}

void plan_jellybean_place(const struct plan_jellybean *workflow, struct plan_jellybean_placement *placement)
{
    struct search *s = bg_alloc(sizeof *s);
    const uint32_t count = workflow->operator_count;
    *placement = (struct plan_jellybean_placement){0};
    s->w = workflow;
    s->best = placement;
    plan_jellybean_rates(workflow, s->rates);
    bool possible = true;
    s->most[count] = 1;
    for (uint32_t o = count; o-- > 0;) {
        list_options(s, o);
        double best = 0;
        for (uint32_t i = 0; i < s->counts[o]; i++)
            best = fmax(best, s->options[o][i].accuracy);
        possible = possible && s->counts[o];
        s->least[o] = s->least[o + 1] + (s->counts[o] ? s->options[o][0].dollars : 0);
        s->most[o] = s->most[o + 1] * best;
    }
    if (possible)
        place(s, 0, 0, 0, 1);
    placement->proven = s->steps <= PLAN_JELLYBEAN_STEPS;
    for (uint32_t o = 0; o < count; o++)
        bg_free(s->options[o]);
    bg_free(s);
}
