// Operator by operator, the cheapest of its options first. A branch ends where even the cheapest machines for all that
// follow would cost as much as the best placement so far, or the best models would not be accurate enough.
#include "plan/service/jellybean.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct option {
    struct plan_jellybean_choice choice;
    double dollars, accuracy;
    uint32_t index; // as listed
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
        return bg_fail(err, BG_INVALID, "%u operators on %u kinds of machines: expected 1 to %d on 1 to %d",
                       w->operator_count, w->kind_count, PLAN_JELLYBEAN_OPERATORS_MAX, PLAN_JELLYBEAN_KINDS_MAX);
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
    if (o->choice.part_count > 1)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (options[i].choice.part_count == 1 && options[i].choice.parts[0].kind == o->choice.parts[0].kind &&
            options[i].accuracy >= o->accuracy && options[i].choice.parts[0].machines <= o->choice.parts[0].machines)
            return true;
    return false;
}

// By cost; of equal cost the more accurate, then as they were listed.
static int by_cost(const void *a, const void *b)
{
    const struct option *x = a, *y = b;
    if (x->dollars != y->dollars)
        return x->dollars < y->dollars ? -1 : 1;
    if (x->accuracy != y->accuracy)
        return x->accuracy > y->accuracy ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

struct list {
    const struct plan_jellybean *w;
    struct option *options;
    uint32_t count, room;
};

static void add(struct list *l, const struct plan_jellybean_choice *choice, double accuracy)
{
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        l->options = bg_realloc_array(l->options, l->room, sizeof *l->options);
    }
    struct option *o = &l->options[l->count];
    *o = (struct option){.choice = *choice, .accuracy = accuracy, .index = l->count++};
    for (uint32_t i = 0; i < choice->part_count; i++)
        o->dollars += choice->parts[i].machines * l->w->kinds[choice->parts[i].kind].dollars_hour;
}

// Whole machines for so many items a second; 0: there are not that many.
static uint32_t machines_for(const struct plan_jellybean *w, uint32_t kind, double rate, double machine_rate)
{
    const double machines = machine_rate > 0 ? fmax(1, ceil(rate / machine_rate - 1e-9)) : INFINITY;
    return machines > (w->kinds[kind].count ? w->kinds[kind].count : 1e6) ? 0 : (uint32_t)machines;
}

static void list_model(struct list *l, uint32_t model, const struct plan_jellybean_model *m, double rate)
{
    const struct plan_jellybean *w = l->w;
    for (uint32_t k = 0; k < w->kind_count; k++) {
        const uint32_t all = machines_for(w, k, rate, m->rate[k]), scarce = w->kinds[k].count;
        const struct plan_jellybean_choice whole = {model, 1, {{k, all, 1}}};
        if (all)
            add(l, &whole, m->accuracy);
        if (!scarce || scarce > PLAN_JELLYBEAN_SCARCE)
            continue;
        for (uint32_t n = 1; n <= scarce && n * m->rate[k] > 0 && n * m->rate[k] < rate * (1 - 1e-9); n++) {
            for (uint32_t other = 0; other < w->kind_count; other++) {
                const double share = n * m->rate[k] / rate;
                const uint32_t rest = other == k ? 0 : machines_for(w, other, rate * (1 - share), m->rate[other]);
                const struct plan_jellybean_choice both = {model, 2, {{k, n, share}, {other, rest, 1 - share}}};
                if (rest)
                    add(l, &both, m->accuracy);
            }
        }
    }
}

static void list_options(struct search *s, uint32_t o)
{
    struct list l = {.w = s->w};
    for (uint32_t m = 0; m < s->w->operators[o].model_count; m++)
        list_model(&l, m, &s->w->operators[o].models[m], s->rates[o]);
    if (l.count)
        qsort(l.options, l.count, sizeof *l.options, by_cost);
    for (uint32_t i = 0; i < l.count; i++)
        if (!dominated(l.options, s->counts[o], &l.options[i]))
            l.options[s->counts[o]++] = l.options[i];
    s->options[o] = l.options;
}

// ---- Search ----

// One flow over a link; false where there is none or no more room on it.
static bool flow(struct search *s, uint32_t from, uint32_t to, double gb_s, double sign, double *dollars)
{
    const struct plan_jellybean_link *link = &s->w->links[from][to];
    if (from == to || gb_s <= 0)
        return true;
    s->flow[from][to] += sign * gb_s;
    *dollars += gb_s * 3600 * link->dollars_gb;
    return link->there && (link->gb_s <= 0 || s->flow[from][to] <= link->gb_s * (1 + 1e-9));
}

// Adds (or takes back) what operator o gets over links; false where that cannot be. *dollars: an hour's worth.
static bool route(struct search *s, uint32_t o, double sign, double *dollars)
{
    const struct plan_jellybean *w = s->w;
    const struct plan_jellybean_choice *to = &s->choices[o];
    bool good = true;
    *dollars = 0;
    for (uint32_t i = 0; i < w->operators[o].input_count; i++) {
        const uint32_t input = w->operators[o].inputs[i];
        const bool source = input == PLAN_JELLYBEAN_SOURCE;
        const struct plan_jellybean_choice *from = source ? NULL : &s->choices[input];
        const double gb_s = out_of(w, s->rates, input) * (source ? w->source_bytes : w->operators[input].bytes) / 1e9;
        double give[2] = {source ? 1 : from->parts[0].share, source ? 0 : from->parts[1].share};
        double want[2] = {to->parts[0].share, to->parts[1].share};
        for (uint32_t pass = 0; pass < 2; pass++) { // first what stays on its tier
            for (uint32_t p = 0; p < (source ? 1 : from->part_count); p++) {
                for (uint32_t q = 0; q < to->part_count; q++) {
                    const uint32_t a = source ? w->source_tier : w->kinds[from->parts[p].kind].tier;
                    const uint32_t b = w->kinds[to->parts[q].kind].tier;
                    const double share = a == b || pass ? fmin(give[p], want[q]) : 0;
                    give[p] -= share;
                    want[q] -= share;
                    good = flow(s, a, b, share > 1e-12 ? share * gb_s : 0, sign, dollars) && good;
                }
            }
        }
    }
    return good;
}

// Takes machines of the stock, or gives them back; false where there are not that many.
static bool take(struct search *s, const struct plan_jellybean_choice *choice, bool back)
{
    bool good = true;
    for (uint32_t i = 0; i < choice->part_count; i++) {
        const uint32_t kind = choice->parts[i].kind, machines = choice->parts[i].machines;
        s->used[kind] = back ? s->used[kind] - machines : s->used[kind] + machines;
        good = good && (!s->w->kinds[kind].count || s->used[kind] <= s->w->kinds[kind].count);
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
        const double so_far = machines + traffic + option->dollars,
                     bar = best->machine_dollars_hour + best->traffic_dollars_hour;
        if (++s->steps > PLAN_JELLYBEAN_STEPS)
            return;
        if (best->found && so_far + s->least[o + 1] >= bar - 1e-12 * bar)
            return; // the options that follow cost no less
        if (accuracy * option->accuracy * s->most[o + 1] < s->w->accuracy * (1 - 1e-12))
            continue;
        double dollars, back;
        s->choices[o] = option->choice;
        const bool stock = take(s, &option->choice, false), links = route(s, o, 1, &dollars);
        if (stock && links && (!best->found || so_far + dollars + s->least[o + 1] < bar - 1e-12 * bar))
            place(s, o + 1, machines + option->dollars, traffic + dollars, accuracy * option->accuracy);
        s->choices[o] = option->choice;
        (void)route(s, o, -1, &back);
        (void)take(s, &option->choice, true);
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
