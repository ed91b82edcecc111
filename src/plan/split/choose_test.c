// Choosing: against every cut of every shape where there are few, plans that fit their machines, what bounds them.
#include "base/mem.h"
#include "plan/split/choose.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { UNITS_MAX = 12, MACHINES_MAX = 8 };

struct world {
    struct plan_unit units[UNITS_MAX];
    struct plan_machine machines[MACHINES_MAX];
    struct plan_profile profile;
};

static uint32_t draw(uint64_t *state, uint32_t bound)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % bound;
}

static void make(struct world *w, uint32_t units, uint32_t machines, uint64_t *state)
{
    memset(w, 0, sizeof *w);
    for (uint32_t u = 0; u < units; u++)
        w->units[u] = (struct plan_unit){.kind = PLAN_UNIT_BLOCK,
                                         .forward_s = 1e-3 * (1 + draw(state, 5)),
                                         .input_s = 1e-3 * (1 + draw(state, 5)),
                                         .weight_s = 1e-3 * (1 + draw(state, 5)),
                                         .parameter_bytes = 1e6 * (1 + draw(state, 3)),
                                         .stash_bytes = 1e6 * draw(state, 4),
                                         .cut_bytes = 1e5};
    for (uint32_t m = 0; m < machines; m++) {
        w->machines[m] = (struct plan_machine){.speed = 1 + draw(state, 2), .threads = 1, .host = m / 2};
        snprintf(w->machines[m].name, PLAN_NAME_MAX, "m%u", m);
    }
    w->profile = (struct plan_profile){.units = w->units,
                                       .unit_count = units,
                                       .machines = w->machines,
                                       .machine_count = machines,
                                       .inner = {1e-5, 1e10},
                                       .outer = {5e-5, 1e9},
                                       .op_s = 5e-5,
                                       .commit_s = 1e-4,
                                       .step_byte_s = 1e-10,
                                       .reduce_byte_s = 1e-10};
}

static bg_status profile_of(void *arg, uint32_t group, struct bg_error *err, struct plan_profile *profile)
{
    const struct world *w = arg;
    (void)group;
    (void)err;
    *profile = w->profile;
    profile->units = bg_alloc_array(w->profile.unit_count, sizeof *profile->units);
    profile->machines = bg_alloc_array(w->profile.machine_count, sizeof *profile->machines);
    memcpy(profile->units, w->units, w->profile.unit_count * sizeof *profile->units);
    memcpy(profile->machines, w->machines, w->profile.machine_count * sizeof *profile->machines);
    return BG_OK;
}

static struct plan_choose options_of(struct world *w, uint32_t micro_batches)
{
    return (struct plan_choose){.profile_of = profile_of,
                                .arg = w,
                                .micro_batches = micro_batches,
                                .schedule = PLAN_1F1B,
                                .chunks = 1,
                                .recompute = PLAN_SYNC_AUTO};
}

static void must(bg_status status, const struct bg_error *err)
{
    if (status)
        fail_msg("%s", err->text);
}

// ---- Every plan of two machines ----

static double step_of(const struct world *w, uint32_t group, const struct plan_options *options, const uint32_t *order)
{
    struct plan_options o = *options;
    struct plan_machine machines[MACHINES_MAX];
    struct plan_profile profile = w->profile;
    struct bg_error err;
    struct plan plan;
    struct plan_timeline t;
    o.group = group;
    profile.machines = machines;
    must(plan_build(&o, &err, &plan), &err);
    for (uint32_t i = 0; i < plan.workers; i++)
        machines[i] = w->machines[order[i]];
    profile.machine_count = plan.workers;
    must(plan_timeline(&plan, &profile, &err, &t), &err);
    const double step = t.step_s;
    plan_fini(&plan);
    plan_timeline_fini(&t);
    return step;
}

static double best_of_all(const struct world *w, uint32_t micro_batches)
{
    static const uint32_t orders[2][2] = {{0, 1}, {1, 0}}, one[] = {1, 1}, two[] = {2};
    const uint32_t units = w->profile.unit_count;
    double best = INFINITY;
    for (uint32_t group = 1; group <= micro_batches; group *= 2)
        for (int order = 0; order < 2; order++) {
            const struct plan_stage whole = {0, units};
            struct plan_options o = {.units = units,
                                     .micro_batches = micro_batches,
                                     .stages = 1,
                                     .replicas = one,
                                     .schedule = PLAN_1F1B,
                                     .chunks = 1,
                                     .cut = &whole};
            best = fmin(best, step_of(w, group, &o, orders[order]));
            const uint32_t items = (micro_batches + group - 1) / group;
            for (uint32_t share = 1; share < items; share++) {
                const uint32_t shares[] = {share, items - share};
                o.replicas = two;
                o.shares = shares;
                best = fmin(best, step_of(w, group, &o, orders[order]));
            }
            for (uint32_t cut = 1; cut < units; cut++) {
                const struct plan_stage stages[] = {{0, cut}, {cut, units}};
                o = (struct plan_options){.units = units,
                                          .micro_batches = micro_batches,
                                          .stages = 2,
                                          .replicas = one,
                                          .schedule = PLAN_1F1B,
                                          .chunks = 1,
                                          .cut = stages};
                best = fmin(best, step_of(w, group, &o, orders[order]));
            }
        }
    return best;
}

static void near_the_best_of_all(void **state)
{
    (void)state;
    uint64_t seed = 1;
    double worst = 1, sum = 0;
    enum { CASES = 100 };
    for (int i = 0; i < CASES; i++) {
        struct world w;
        struct bg_error err;
        struct plan_chosen_list list;
        make(&w, 2 + draw(&seed, 5), 2, &seed);
        const uint32_t micro_batches = 1 + draw(&seed, 8);
        const struct plan_choose options = options_of(&w, micro_batches);
        must(plan_choose(&options, &err, &list), &err);
        const double ratio = list.items[0].timeline.step_s / best_of_all(&w, micro_batches);
        assert_true(ratio > 1 - 1e-9);
        worst = fmax(worst, ratio);
        sum += ratio;
        for (uint32_t k = 1; k < list.count; k++)
            assert_true(list.items[k].timeline.step_s >= list.items[k - 1].timeline.step_s);
        plan_chosen_list_fini(&list);
    }
    // Steps of two items are where the planner's formula is furthest from a simulated step.
    assert_true(worst < 1.2);
    assert_true(sum / CASES < 1.02);
}

// ---- Memory ----

static void plans_fit(void **state)
{
    (void)state;
    uint64_t seed = 2;
    uint32_t planned = 0, refused = 0, again = 0;
    for (int i = 0; i < 200; i++) {
        struct world w;
        struct bg_error err = {0};
        struct plan_chosen_list list;
        make(&w, 3 + draw(&seed, 9), 1 + draw(&seed, 6), &seed);
        for (uint32_t m = 0; m < w.profile.machine_count; m++)
            w.machines[m].memory_bytes = 1e7 * (1 + draw(&seed, 12));
        const struct plan_choose options = options_of(&w, 1 + draw(&seed, 16));
        if (plan_choose(&options, &err, &list)) {
            assert_int_equal(err.status, BG_INVALID);
            assert_non_null(strstr(err.text, "GB"));
            refused++;
            continue;
        }
        planned++;
        again += plan_chosen_recomputes(&list.items[0]);
        for (uint32_t k = 0; k < list.count; k++) {
            const struct plan_chosen *c = &list.items[k];
            must(plan_validate(&c->plan, &err), &err);
            assert_int_equal(c->profile.machine_count, c->plan.workers);
            for (uint32_t worker = 0; worker < c->plan.workers; worker++)
                assert_true(c->timeline.workers[worker].peak_bytes <= c->profile.machines[worker].memory_bytes);
        }
        plan_chosen_list_fini(&list);
    }
    assert_true(planned > 30 && refused > 30 && again > 3);
}

// Times that a refusal says would do, behind "like m0, or " if more machines would too; 0: it does not say.
static double would_do(const char *text)
{
    const char *at = strstr(text, " times the memory on every machine");
    while (at && at > text && at[-1] != ' ')
        at--;
    return at ? strtod(at, NULL) : 0;
}

// What a refusal says would do does, and clearly less does not; a process's own memory counts. A shape that fits by
// itself is no reason to say that nothing does.
static void what_would_do_does(void **state)
{
    (void)state;
    uint64_t seed = 5;
    uint32_t told = 0;
    for (int i = 0; i < 30; i++) {
        struct world w;
        struct bg_error err;
        struct plan_chosen_list list;
        make(&w, 3 + draw(&seed, 5), 1 + draw(&seed, 3), &seed);
        w.profile.process_bytes = 1e6 * draw(&seed, 9);
        w.profile.work_bytes = 1e6 * draw(&seed, 3);
        const double memory = 1e6 * (4 + draw(&seed, 40));
        for (uint32_t m = 0; m < w.profile.machine_count; m++)
            w.machines[m].memory_bytes = memory;
        struct plan_choose options = options_of(&w, 1 + draw(&seed, 8));
        if (!plan_choose(&options, &err, &list)) {
            plan_chosen_list_fini(&list);
            continue;
        }
        const double times = would_do(err.text);
        if (times <= 1)
            fail_msg("%s", err.text);
        told++;
        for (uint32_t m = 0; m < w.profile.machine_count; m++)
            w.machines[m].memory_bytes = times * memory;
        must(plan_choose(&options, &err, &list), &err);
        plan_chosen_list_fini(&list);
        const uint32_t stages = w.profile.machine_count < w.profile.unit_count ? w.profile.machine_count : 1;
        const uint32_t ones[] = {1, 1, 1, 1};
        for (uint32_t m = 0; m < w.profile.machine_count; m++)
            w.machines[m].memory_bytes = 0.95 * times * memory;
        options.replicas = ones;
        options.stages = stages;
        if (times > 1.06)
            assert_int_not_equal(plan_choose(&options, &err, &list), BG_OK);
    }
    assert_true(told > 8);
}

// Where memory is short, stashes wait on a disk that costs little, and never on one that costs much or whose cost
// nobody knows.
static void disks_are_weighed(void **state)
{
    (void)state;
    uint64_t seed = 9;
    uint32_t offloaded = 0;
    for (int i = 0; i < 60; i++) {
        static const double costs[] = {1e-13, 1, 0};
        struct world w;
        struct bg_error err = {0};
        struct plan_chosen_list without, with;
        make(&w, 3 + draw(&seed, 9), 1 + draw(&seed, 4), &seed);
        for (uint32_t m = 0; m < w.profile.machine_count; m++)
            w.machines[m].memory_bytes = 1e7 * (1 + draw(&seed, 12));
        struct plan_choose options = options_of(&w, 1 + draw(&seed, 16));
        if (plan_choose(&options, &err, &without))
            continue;
        const double step_s = without.items[0].timeline.step_s;
        plan_chosen_list_fini(&without);
        options.offload = PLAN_SYNC_AUTO;
        for (int c = 0; c < 3; c++) {
            w.profile.disk_byte_s = costs[c];
            must(plan_choose(&options, &err, &with), &err);
            const struct plan_chosen *best = &with.items[0];
            must(plan_validate(&best->plan, &err), &err); // which refuses both for one op
            assert_true(best->timeline.step_s <= step_s * 1.000001);
            assert_false(plan_chosen_offloads(best) && plan_chosen_recomputes(best));
            assert_false(c > 0 && plan_chosen_offloads(best));
            offloaded += plan_chosen_offloads(best);
            plan_chosen_list_fini(&with);
        }
    }
    assert_true(offloaded > 5);
}

// ---- What is asked for ----

static void what_is_given_stays(void **state)
{
    (void)state;
    uint64_t seed = 3;
    struct world w;
    struct bg_error err;
    struct plan_chosen_list list;
    char shape[64];
    make(&w, 9, 4, &seed);
    const uint32_t replicas[] = {1, 2};
    const struct plan_stage cut[] = {{0, 2}, {2, 9}};
    const struct plan_machine shadow = {.name = "shadow", .speed = 1, .threads = 1};
    struct plan_choose options = options_of(&w, 8);
    options.replicas = replicas;
    options.cut = cut;
    options.stages = 2;
    options.group = 2;
    options.shadow = &shadow;
    must(plan_choose(&options, &err, &list), &err);
    assert_int_equal(list.count, 1);
    plan_chosen_shape(&list.items[0], shape);
    assert_string_equal(shape, "1+2");
    assert_int_equal(list.items[0].plan.stages[0].unit_end, 2);
    assert_int_equal(list.items[0].plan.item_count, 4);
    assert_int_equal(list.items[0].plan.follow_count, 1);
    assert_string_equal(list.items[0].profile.machines[3].name, "shadow");
    plan_chosen_list_fini(&list);
    options.cut = NULL;
    options.shadow = NULL;
    options.replicas = (const uint32_t[]){1, 1};
    options.schedule = PLAN_INTERLEAVED;
    options.chunks = 2;
    must(plan_choose(&options, &err, &list), &err);
    assert_int_equal(list.items[0].plan.stage_count, 4);
    assert_int_equal(list.items[0].plan.workers, 2);
    plan_chosen_list_fini(&list);
    options.replicas = (const uint32_t[]){4, 4};
    assert_int_equal(plan_choose(&options, &err, &list), BG_INVALID);
    assert_non_null(strstr(err.text, "4 more are needed"));
}

static void what_bounds_it(void **state)
{
    (void)state;
    uint64_t seed = 4;
    struct world w;
    struct bg_error err;
    struct plan_chosen_list list;
    double gains[PLAN_GAINS];
    char *text;
    make(&w, 6, 1, &seed);
    w.profile.op_s = w.profile.commit_s = w.profile.step_byte_s = w.profile.reduce_byte_s = 0;
    struct plan_choose options = options_of(&w, 4);
    must(plan_choose(&options, &err, &list), &err);
    must(plan_chosen_gains(&list.items[0], &err, gains), &err);
    assert_true(fabs(gains[PLAN_GAIN_COMPUTE] - 0.5) < 1e-9 && fabs(gains[PLAN_GAIN_LINK]) < 1e-9);
    assert_true(fabs(plan_chosen_idle(&list.items[0])) < 1e-9);
    plan_chosen_list_fini(&list);

    make(&w, 6, 2, &seed);
    w.profile.inner = w.profile.outer = (struct plan_link){1e-3, 1e5}; // a second a cut
    options.replicas = (const uint32_t[]){1, 1};
    options.stages = 2;
    must(plan_choose(&options, &err, &list), &err);
    must(plan_chosen_gains(&list.items[0], &err, gains), &err);
    assert_true(gains[PLAN_GAIN_LINK] > 0.3 && gains[PLAN_GAIN_COMPUTE] < 0.1);
    must(plan_chosen_explain(&list, NULL, &err, &text), &err);
    assert_non_null(strstr(text, "What bounds it: the link."));
    assert_non_null(strstr(text, "The shape was given: no other was considered."));
    bg_free(text);
    struct plan_chosen_list freely; // a second a cut: one stage, or one machine alone
    options.replicas = NULL;
    options.stages = 0;
    must(plan_choose(&options, &err, &freely), &err);
    must(plan_chosen_explain(&list, &freely, &err, &text), &err);
    assert_non_null(strstr(text, "The shape was given; chosen freely it is 1x"));
    assert_non_null(strstr(text, " % less. By the formula it needs "));
    assert_null(strstr(text, "\nNext: "));
    bg_free(text);
    plan_chosen_list_fini(&list);
    options.replicas = (const uint32_t[]){freely.items[0].choice.seat_count}; // as it would have been anyway
    options.stages = 1;
    must(plan_choose(&options, &err, &list), &err);
    must(plan_chosen_explain(&list, &freely, &err, &text), &err);
    assert_non_null(strstr(text, "The shape was given; chosen freely it is the same.\nNext: "));
    bg_free(text);
    plan_chosen_list_fini(&freely);
    plan_chosen_list_fini(&list);

    make(&w, 8, 3, &seed);
    options = options_of(&w, 8);
    must(plan_choose(&options, &err, &list), &err);
    must(plan_chosen_explain(&list, NULL, &err, &text), &err);
    assert_true(list.count > 2);
    assert_non_null(strstr(text, "What bounds it: the "));
    assert_non_null(strstr(strstr(text, "\nNext: ") + 1, "\nNext: "));
    assert_null(strstr(text, "nan"));
    bg_free(text);
    plan_chosen_list_fini(&list);
}

// Passes by themselves never make the best step longer, and what each wins is said.
static void passes_only_shorten(void **state)
{
    (void)state;
    uint64_t seed = 5;
    struct bg_error err;
    uint32_t shorter = 0;
    for (uint32_t round = 0; round < 12; round++) {
        struct world w;
        struct plan_chosen_list none, some;
        struct plan_pass_wish off = {.passes = {.held = true}}, open;
        char *text;
        must(plan_passes_parse("auto", &err, &open), &err);
        make(&w, 5, 3, &seed);
        w.profile.outer = (struct plan_link){1e-4, 1e8 * (1 + round % 4)};
        struct plan_choose options = options_of(&w, 6);
        options.rows = 1 + 63 * (round % 2);
        options.replicas = (const uint32_t[]){3};
        options.stages = 1;
        options.passes = &off;
        must(plan_choose(&options, &err, &none), &err);
        options.passes = &open;
        must(plan_choose(&options, &err, &some), &err);
        assert_true(some.items[0].timeline.step_s <= none.items[0].timeline.step_s * (1 + 1e-9));
        assert_true(plan_validate(&some.items[0].plan, &err) == BG_OK);
        shorter += some.items[0].timeline.step_s < 0.99 * none.items[0].timeline.step_s;
        const struct plan_pass_gain *first = &some.items[0].gains[PLAN_PASS_WAIT_FREE];
        must(plan_chosen_explain(&some, NULL, &err, &text), &err);
        assert_non_null(strstr(text, "Pass wait-free"));
        assert_int_equal(first->applied, !strstr(text, "is computed) would not"));
        assert_int_equal(some.items[0].factors.units > 0, !!strstr(text, "not the canonical tree"));
        bg_free(text);
        plan_chosen_list_fini(&none);
        plan_chosen_list_fini(&some);
    }
    assert_true(shorter > 6);
}

static void shapes_as_text(void **state)
{
    (void)state;
    struct plan_sync_stage stages[40];
    struct plan_chosen chosen = {.choice = {.stages = stages}};
    char text[64];
    for (uint32_t count = 1; count <= 40; count++) {
        uint32_t seat = 0;
        for (uint32_t s = 0; s < count; s++) {
            stages[s].seat_first = seat;
            stages[s].seat_end = seat += 1 + s % 2;
        }
        chosen.choice.stage_count = count;
        plan_chosen_shape(&chosen, text);
        assert_true(strlen(text) < 64);
    }
    assert_string_equal(text, "40 stages of 1 to 2 machines");
    chosen.choice.stage_count = 2;
    plan_chosen_shape(&chosen, text);
    assert_string_equal(text, "1+2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(near_the_best_of_all), cmocka_unit_test(plans_fit),
                                       cmocka_unit_test(what_would_do_does),   cmocka_unit_test(disks_are_weighed),
                                       cmocka_unit_test(what_is_given_stays),  cmocka_unit_test(what_bounds_it),
                                       cmocka_unit_test(passes_only_shorten),  cmocka_unit_test(shapes_as_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
