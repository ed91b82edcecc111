// JellyBean: a workflow by hand, and random ones against every placement there is.
#include "plan/service/jellybean.h"

#include "base/mem.h"
#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static uint32_t seed_now, index_now;

static uint32_t drawn(uint32_t below)
{
    const struct bg_philox_counter word =
        bg_philox((struct bg_philox_counter){{index_now++}}, (struct bg_philox_key){{seed_now, 17}});
    return word.c[0] % below;
}

static struct plan_jellybean *random_workflow(uint32_t seed)
{
    struct plan_jellybean *w = bg_alloc(sizeof *w);
    seed_now = seed;
    index_now = 0;
    w->rate = 1 + drawn(40);
    w->accuracy = drawn(2) ? 0.5 + 0.01 * drawn(40) : 0;
    w->source_tier = drawn(2);
    w->source_bytes = 1e5 * drawn(30);
    w->kind_count = 1 + drawn(3);
    for (uint32_t k = 0; k < w->kind_count; k++)
        w->kinds[k] = (struct plan_jellybean_kind){drawn(3), drawn(4) ? 1 + drawn(5) : 0, 0.25 * drawn(13)};
    for (uint32_t a = 0; a < 3; a++)
        for (uint32_t b = 0; b < 3; b++)
            w->links[a][b] =
                (struct plan_jellybean_link){drawn(5) > 0, 0.01 * drawn(20), drawn(3) ? 0 : 0.01 * drawn(10)};
    w->operator_count = 1 + drawn(3);
    for (uint32_t o = 0; o < w->operator_count; o++) {
        struct plan_jellybean_operator *op = &w->operators[o];
        op->input_count = 1 + drawn(2);
        for (uint32_t i = 0; i < op->input_count; i++)
            op->inputs[i] = o && drawn(4) ? drawn(o) : PLAN_JELLYBEAN_SOURCE;
        op->per_input = 0.25 * drawn(6);
        op->bytes = 1e4 * drawn(50);
        op->model_count = 1 + drawn(3);
        for (uint32_t m = 0; m < op->model_count; m++) {
            op->models[m].accuracy = 0.7 + 0.05 * drawn(7);
            for (uint32_t k = 0; k < w->kind_count; k++)
                op->models[m].rate[k] = drawn(5) ? 1 + drawn(30) : 0;
        }
    }
    return w;
}

// What a placement costs; INFINITY where it is none. Shares of an operator's items are by tier here.
static double price(const struct plan_jellybean *w, const struct plan_jellybean_choice *choices)
{
    double rates[8], dollars = 0, accuracy = 1, flow[3][3] = {{0}};
    uint32_t used[8] = {0};
    for (uint32_t o = 0; o < w->operator_count; o++) {
        const struct plan_jellybean_operator *op = &w->operators[o];
        const struct plan_jellybean_choice *c = &choices[o];
        rates[o] = 0;
        for (uint32_t i = 0; i < op->input_count; i++)
            rates[o] += op->inputs[i] == PLAN_JELLYBEAN_SOURCE
                            ? w->rate
                            : rates[op->inputs[i]] * w->operators[op->inputs[i]].per_input;
        for (uint32_t i = 0; i < op->input_count; i++) {
            const uint32_t in = op->inputs[i];
            const bool source = in == PLAN_JELLYBEAN_SOURCE;
            const double gb = (source ? w->rate : rates[in] * w->operators[in].per_input) *
                              (source ? w->source_bytes : w->operators[in].bytes) / 1e9;
            double have[3] = {0}, want[3] = {0};
            for (uint32_t p = 0; p < (source ? 1 : choices[in].part_count); p++)
                have[source ? w->source_tier : w->kinds[choices[in].parts[p].kind].tier] +=
                    source ? 1 : choices[in].parts[p].share;
            for (uint32_t q = 0; q < c->part_count; q++)
                want[w->kinds[c->parts[q].kind].tier] += c->parts[q].share;
            // What stays is gone; of two tiers at each end at most one at one of them is left with both.
            for (uint32_t t = 0; t < 3; t++) {
                const double stays = fmin(have[t], want[t]);
                have[t] -= stays;
                want[t] -= stays;
            }
            for (uint32_t p = 0; p < (source ? 1 : choices[in].part_count); p++) {
                for (uint32_t q = 0; q < c->part_count; q++) {
                    const uint32_t a = source ? w->source_tier : w->kinds[choices[in].parts[p].kind].tier;
                    const uint32_t b = w->kinds[c->parts[q].kind].tier;
                    const double goes = fmin(have[a], want[b]);
                    have[a] -= goes;
                    want[b] -= goes;
                    if (goes < 1e-12 || gb <= 0)
                        continue;
                    if (!w->links[a][b].there)
                        return INFINITY;
                    flow[a][b] += goes * gb;
                    dollars += goes * gb * 3600 * w->links[a][b].dollars_gb;
                }
            }
        }
        double able = 0;
        for (uint32_t q = 0; q < c->part_count; q++) {
            const double rate = op->models[c->model].rate[c->parts[q].kind];
            if (rate <= 0 || c->parts[q].machines * rate < rates[o] * c->parts[q].share - 1e-6)
                return INFINITY;
            able += c->parts[q].share;
            used[c->parts[q].kind] += c->parts[q].machines;
            dollars += c->parts[q].machines * w->kinds[c->parts[q].kind].dollars_hour;
        }
        assert_true(fabs(able - 1) < 1e-9);
        accuracy *= op->models[c->model].accuracy;
    }
    for (uint32_t k = 0; k < w->kind_count; k++)
        if (w->kinds[k].count && used[k] > w->kinds[k].count)
            return INFINITY;
    for (uint32_t a = 0; a < 3; a++)
        for (uint32_t b = 0; b < 3; b++)
            if (w->links[a][b].gb_s > 0 && flow[a][b] > w->links[a][b].gb_s * (1 + 1e-9))
                return INFINITY;
    return accuracy < w->accuracy * (1 - 1e-12) ? INFINITY : dollars;
}

static double best_of_all(const struct plan_jellybean *w, const double *rates, struct plan_jellybean_choice *choices,
                          uint32_t o)
{
    if (o == w->operator_count)
        return price(w, choices);
    double best = INFINITY;
    for (uint32_t m = 0; m < w->operators[o].model_count; m++) {
        const double *rate = w->operators[o].models[m].rate;
        for (uint32_t k = 0; k < w->kind_count; k++) {
            for (uint32_t other = 0; other < w->kind_count; other++) {
                // n of the first kind, all busy; other == k: no second one.
                for (uint32_t n = 1; n <= (other == k ? 1 : w->kinds[k].count); n++) {
                    const double share = rate[k] > 0 && other != k ? n * rate[k] / rates[o] : 1;
                    if (rate[k] <= 0 || rate[other] <= 0 || (other != k && !(share < 1 - 1e-9)))
                        continue;
                    struct plan_jellybean_choice *c = &choices[o];
                    *c = (struct plan_jellybean_choice){.model = m, .part_count = 1 + (other != k)};
                    c->parts[0] = (struct plan_jellybean_part){k, n, share};
                    if (other == k)
                        c->parts[0].machines = (uint32_t)fmax(1, ceil(rates[o] / rate[k] - 1e-9));
                    else
                        c->parts[1] = (struct plan_jellybean_part){
                            other, (uint32_t)fmax(1, ceil(rates[o] * (1 - share) / rate[other] - 1e-9)), 1 - share};
                    best = fmin(best, best_of_all(w, rates, choices, o + 1));
                }
            }
        }
    }
    return best;
}

static void as_cheap_as_the_cheapest_of_all(void **state)
{
    (void)state;
    uint32_t found = 0, split = 0;
    for (uint32_t seed = 0; seed < 1500; seed++) {
        struct plan_jellybean *w = random_workflow(seed);
        struct plan_jellybean_placement p;
        struct plan_jellybean_choice choices[8];
        struct bg_error err;
        assert_int_equal(plan_jellybean_check(w, &err), BG_OK);
        plan_jellybean_place(w, &p);
        double rates[PLAN_JELLYBEAN_OPERATORS_MAX];
        plan_jellybean_rates(w, rates);
        const double best = best_of_all(w, rates, choices, 0), cost = p.machine_dollars_hour + p.traffic_dollars_hour;
        assert_true(p.proven);
        assert_int_equal(p.found, best < INFINITY);
        found += p.found;
        for (uint32_t o = 0; p.found && o < w->operator_count; o++)
            split += p.choices[o].part_count > 1;
        if (p.found &&
            (!(fabs(cost - best) < 1e-9 * (1 + best)) || !(fabs(price(w, p.choices) - cost) < 1e-9 * (1 + best))))
            fail_msg("seed %u: $%.6f, the cheapest is $%.6f", seed, cost, best);
        bg_free(w);
    }
    print_message("%u placements, %u operators on two kinds\n", found, split);
    assert_true(found > 300 && found < 1400 && split > 30);
}

// A camera finds faces, a server names them. A small finder fits on the camera's box and sends a tenth of the bytes;
// the large one needs the server and all the frames there.
static struct plan_jellybean *cameras(void)
{
    struct plan_jellybean *w = bg_alloc(sizeof *w);
    w->rate = 10;
    w->source_bytes = 1e6;
    w->kind_count = 2;
    w->kinds[0] = (struct plan_jellybean_kind){0, 2, 0.1};
    w->kinds[1] = (struct plan_jellybean_kind){1, 0, 2};
    w->links[0][1] = (struct plan_jellybean_link){true, 0.1, 0};
    w->operator_count = 2;
    w->operators[0] = (struct plan_jellybean_operator){.inputs = {PLAN_JELLYBEAN_SOURCE},
                                                       .input_count = 1,
                                                       .per_input = 0.5,
                                                       .bytes = 1e5,
                                                       .model_count = 2,
                                                       .models = {{0.8, {5, 100}}, {0.95, {0, 20}}}};
    w->operators[1] = (struct plan_jellybean_operator){
        .inputs = {0}, .input_count = 1, .per_input = 1, .bytes = 100, .model_count = 1, .models = {{0.9, {0, 4}}}};
    return w;
}

static void by_hand(void **state)
{
    (void)state;
    struct plan_jellybean *w = cameras();
    struct plan_jellybean_placement p;
    plan_jellybean_place(w, &p); // two boxes; 5 faces a second of 0.1 MB over the link; two servers
    assert_true(p.found && p.choices[0].part_count == 1 && p.choices[0].parts[0].kind == 0 &&
                p.choices[0].parts[0].machines == 2 && p.choices[1].parts[0].machines == 2);
    assert_true(fabs(p.machine_dollars_hour - 4.2) < 1e-12 &&
                fabs(p.traffic_dollars_hour - 0.0005 * 3600 * 0.1) < 1e-9);
    w->rate = 12; // two items a second more than the boxes can take: a server for those
    plan_jellybean_place(w, &p);
    assert_true(p.found && p.choices[0].part_count == 2 && fabs(p.choices[0].parts[0].share - 10 / 12.0) < 1e-12);
    assert_true(p.choices[0].parts[0].machines == 2 && p.choices[0].parts[1].machines == 1);
    w->rate = 10;
    w->accuracy = 0.8; // the large finder: every frame over the link
    plan_jellybean_place(w, &p);
    assert_true(p.found && p.choices[0].parts[0].kind == 1 && p.choices[0].model == 1 &&
                fabs(p.accuracy - 0.855) < 1e-12);
    assert_true(fabs(p.machine_dollars_hour - 6) < 1e-12 && fabs(p.traffic_dollars_hour - 0.01 * 3600 * 0.1) < 1e-9);
    w->accuracy = 0.86;
    plan_jellybean_place(w, &p);
    assert_true(!p.found && p.proven);
    bg_free(w);
}

static void what_makes_no_sense(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan_jellybean *w = cameras();
    assert_int_equal(plan_jellybean_check(w, &err), BG_OK);
    w->operators[0].inputs[0] = 1;
    assert_int_equal(plan_jellybean_check(w, &err), BG_INVALID);
    w->operators[0].inputs[0] = PLAN_JELLYBEAN_SOURCE;
    w->rate = 0;
    assert_int_equal(plan_jellybean_check(w, &err), BG_INVALID);
    w->rate = 1;
    w->operators[1].models[0].accuracy = 1.5;
    assert_int_equal(plan_jellybean_check(w, &err), BG_INVALID);
    bg_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_cheap_as_the_cheapest_of_all),
        cmocka_unit_test(by_hand),
        cmocka_unit_test(what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
