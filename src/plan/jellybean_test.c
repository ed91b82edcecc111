// JellyBean: a workflow by hand, and random ones against every placement there is.
#include "plan/jellybean.h"

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
    w->kind_count = 1 + drawn(4);
    for (uint32_t k = 0; k < w->kind_count; k++)
        w->kinds[k] = (struct plan_jellybean_kind){drawn(3), drawn(2) ? 0 : 1 + drawn(8), 0.25 * drawn(13)};
    for (uint32_t a = 0; a < 3; a++)
        for (uint32_t b = 0; b < 3; b++)
            w->links[a][b] =
                (struct plan_jellybean_link){drawn(5) > 0, 0.01 * drawn(20), drawn(3) ? 0 : 0.01 * drawn(10)};
    w->operator_count = 1 + drawn(4);
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

// What a placement costs; INFINITY where it is none.
static double price(const struct plan_jellybean *w, const struct plan_jellybean_choice *choices)
{
    double rates[8], dollars = 0, accuracy = 1, flow[3][3] = {{0}};
    uint32_t used[8] = {0};
    for (uint32_t o = 0; o < w->operator_count; o++) {
        const struct plan_jellybean_operator *op = &w->operators[o];
        const uint32_t to = w->kinds[choices[o].kind].tier;
        rates[o] = 0;
        for (uint32_t i = 0; i < op->input_count; i++) {
            const uint32_t in = op->inputs[i];
            const bool source = in == PLAN_JELLYBEAN_SOURCE;
            const double items = source ? w->rate : rates[in] * w->operators[in].per_input;
            const double bytes = items * (source ? w->source_bytes : w->operators[in].bytes);
            const uint32_t from = source ? w->source_tier : w->kinds[choices[in].kind].tier;
            rates[o] += items;
            if (from == to)
                continue;
            if (!w->links[from][to].there)
                return INFINITY;
            flow[from][to] += bytes / 1e9;
            dollars += bytes / 1e9 * 3600 * w->links[from][to].dollars_gb;
        }
        const double rate = op->models[choices[o].model].rate[choices[o].kind];
        if (rate <= 0)
            return INFINITY;
        const uint32_t machines = (uint32_t)fmax(1, ceil(rates[o] / rate - 1e-9));
        used[choices[o].kind] += machines;
        dollars += machines * w->kinds[choices[o].kind].dollars_hour;
        accuracy *= op->models[choices[o].model].accuracy;
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

static double best_of_all(const struct plan_jellybean *w, struct plan_jellybean_choice *choices, uint32_t o)
{
    if (o == w->operator_count)
        return price(w, choices);
    double best = INFINITY;
    for (uint32_t m = 0; m < w->operators[o].model_count; m++) {
        for (uint32_t k = 0; k < w->kind_count; k++) {
            choices[o] = (struct plan_jellybean_choice){m, k, 0};
            best = fmin(best, best_of_all(w, choices, o + 1));
        }
    }
    return best;
}

static void as_cheap_as_the_cheapest_of_all(void **state)
{
    (void)state;
    uint32_t found = 0;
    for (uint32_t seed = 0; seed < 1500; seed++) {
        struct plan_jellybean *w = random_workflow(seed);
        struct plan_jellybean_placement p;
        struct plan_jellybean_choice choices[8];
        struct bg_error err;
        assert_int_equal(plan_jellybean_check(w, &err), BG_OK);
        plan_jellybean_place(w, &p);
        const double best = best_of_all(w, choices, 0), cost = p.machine_dollars_hour + p.traffic_dollars_hour;
        assert_true(p.proven);
        assert_int_equal(p.found, best < INFINITY);
        found += p.found;
        if (p.found &&
            (!(fabs(cost - best) < 1e-9 * (1 + best)) || !(fabs(price(w, p.choices) - cost) < 1e-9 * (1 + best))))
            fail_msg("seed %u: $%.6f, the cheapest is $%.6f", seed, cost, best);
        bg_free(w);
    }
    assert_true(found > 300 && found < 1400);
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
    assert_true(p.found && p.choices[0].kind == 0 && p.choices[0].machines == 2 && p.choices[1].machines == 2);
    assert_true(fabs(p.machine_dollars_hour - 4.2) < 1e-12 &&
                fabs(p.traffic_dollars_hour - 0.0005 * 3600 * 0.1) < 1e-9);
    w->accuracy = 0.8; // the large finder: every frame over the link
    plan_jellybean_place(w, &p);
    assert_true(p.found && p.choices[0].kind == 1 && p.choices[0].model == 1 && fabs(p.accuracy - 0.855) < 1e-12);
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
