// Every shape builds, validates, drains and computes the step, in a model that shares no code with the room; cuts
// against all cuts; shapes; text; and what the validator refuses.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/world_test.h"

static const double ones[24] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static struct plan build(const struct plan_options *options)
{
    struct bg_error err;
    struct plan plan;
    if (plan_build(options, &err, &plan))
        fail_msg("%s", err.text);
    return plan;
}

static struct plan_options options_of(const uint32_t *replicas, uint32_t stages, uint32_t items)
{
    return (struct plan_options){.costs = ones,
                                 .units = 24,
                                 .micro_batches = items,
                                 .group = 1,
                                 .replicas = replicas,
                                 .stages = stages,
                                 .schedule = PLAN_1F1B,
                                 .chunks = 1};
}

// ---- Every shape ----
static void build_and_run(const struct plan_options *options, uint64_t seed)
{
    struct world world = world_create(build(options));
    const struct plan *plan = &world.plan;
    const uint32_t bound = options->schedule == PLAN_GPIPE ? plan->item_count : plan->stage_count * 4;
    for (uint32_t k = 0; k < plan->seat_count; k++)
        assert_true(plan_flights(plan, plan->seats[k].worker, plan->seats[k].stage) <= bound);
    assert_true(world_run(&world, &seed, 1u << 30));
    world_check_end(&world);
    assert_int_equal(world.leaves, plan->micro_batches * plan->stage_count);
    world_fini(&world);
}

// Stages 1..6 with 1..4 replicas each, items 1..9, gpipe, 1f1b and interleaved with 1..3 chunks, fused or split: all of
// them up to 3 stages, each shape with some of the others from 4 on.
static void every_shape_drains(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (uint32_t stages = 1; stages <= 6; stages++)
        for (uint32_t shape = 0; shape < 1u << (2 * stages); shape++) {
            uint32_t replicas[6];
            for (uint32_t r = 0; r < stages; r++)
                replicas[r] = 1 + (shape >> (2 * r) & 3);
            for (uint32_t variant = 0; variant < 9 * 5 * 2; variant++) {
                if (stages > 3 && world_below(&seed, stages == 4 ? 32 : stages == 5 ? 160 : 600) > 0)
                    continue;
                struct plan_options options = options_of(replicas, stages, 1 + variant % 9);
                const uint32_t kind = variant / 9 % 5;
                options.schedule = kind == 0 ? PLAN_GPIPE : kind == 1 ? PLAN_1F1B : PLAN_INTERLEAVED;
                options.chunks = kind < 2 ? 1 : kind - 1;
                options.split = variant / 45;
                options.recompute = shape % 3 == 0;
                options.followers = shape % 2;
                build_and_run(&options, seed);
            }
        }
}

static void expect_list(const struct plan_options *options, uint32_t worker, const char *list)
{
    struct plan plan = build(options);
    char *text = plan_format(&plan), *line = bg_format("list %u: %s\n", worker, list);
    if (!strstr(text, line))
        fail_msg("expected %sin\n%s", line, text);
    bg_free(text);
    bg_free(line);
    plan_fini(&plan);
}

static void orders_are_the_published_ones(void **state)
{
    (void)state;
    static const uint32_t two[2] = {1, 1}, uneven[2] = {1, 2};
    struct plan_options options = options_of(two, 2, 4);
    expect_list(&options, 0,
                "0F0 0SEND_F0>1 0F1 0SEND_F1>1 0RECV_B0<1 0BW0 0F2 0SEND_F2>1 0RECV_B1<1 0BW1 0F3 0SEND_F3>1 "
                "0RECV_B2<1 0BW2 0RECV_B3<1 0BW3.l 0COLL.reduce STEP");
    expect_list(&options, 1,
                "1RECV_F0<0 1F0 1BW0 1SEND_B0>0 1RECV_F1<0 1F1 1BW1 1SEND_B1>0 1RECV_F2<0 1F2 1BW2 1SEND_B2>0 "
                "1RECV_F3<0 1F3 1BW3.l 1SEND_B3>0 1COLL.reduce STEP");
    options.split = true; // the gradient leaves before the weight gradient is computed
    options.micro_batches = 2;
    expect_list(&options, 1, "1RECV_F0<0 1F0 1B0 1SEND_B0>0 1W0 1RECV_F1<0 1F1 1B1 1SEND_B1>0 1W1.l 1COLL.reduce STEP");
    options.schedule = PLAN_GPIPE;
    options.recompute = true;
    expect_list(&options, 0,
                "0F0.r 0SEND_F0>1 0F1.r 0SEND_F1>1 0RECV_B0<1 0B0.r 0RECV_B1<1 0B1.r 0W0 0W1.l 0COLL.reduce STEP");
    options = options_of(two, 2, 2);
    options.schedule = PLAN_INTERLEAVED;
    options.chunks = 2; // worker 0 has stages 0 and 2
    expect_list(&options, 1,
                "1RECV_F0<0 1F0 1SEND_F0>0 1RECV_F1<0 1F1 1SEND_F1>0 3RECV_F0<0 3F0 3BW0 3SEND_B0>0 3RECV_F1<0 3F1 "
                "3BW1.l 3SEND_B1>0 3COLL.reduce 1RECV_B0<0 1BW0 1SEND_B0>0 1RECV_B1<0 1BW1.l 1SEND_B1>0 1COLL.reduce "
                "STEP");
    options = options_of(uneven, 2, 4); // both replicas of stage 1 are fed in turn
    options.schedule = PLAN_GPIPE;
    expect_list(&options, 0,
                "0F0 0SEND_F0>1 0F2 0SEND_F2>2 0F1 0SEND_F1>1 0F3 0SEND_F3>2 0RECV_B0<1 0BW0 0RECV_B2<2 0BW2 "
                "0RECV_B1<1 0BW1 0RECV_B3<2 0BW3.l 0COLL.reduce STEP");
    options = options_of(uneven, 2, 1); // a replica without an item takes part in the reduction
    expect_list(&options, 2, "1COLL.reduce STEP");
}

// A cut and shares that are given: the run of every replica, and what is refused of them.
static void cuts_and_shares_are_taken(void **state)
{
    (void)state;
    static const uint32_t replicas[2] = {2, 2}, uneven[4] = {3, 1, 3, 1}, crossed[4] = {3, 1, 0, 4};
    static const struct plan_stage cut[2] = {{0, 20}, {20, 24}}, gap[2] = {{0, 20}, {21, 24}};
    static const struct plan_stage beyond[2] = {{0, 20}, {20, 4000000000}};
    struct plan_options options = options_of(replicas, 2, 4);
    options.cut = cut;
    options.shares = uneven;
    struct plan plan = build(&options);
    assert_memory_equal(plan.stages, cut, sizeof cut);
    assert_memory_equal(plan.route, ((const uint32_t[]){0, 0, 0, 1, 2, 2, 2, 3}), 8 * sizeof *plan.route);
    plan_fini(&plan);
    build_and_run(&options, 1);
    options.shares = crossed;
    build_and_run(&options, 2);
    struct bg_error err;
    options.shares = (const uint32_t[]){3, 1, 3, 0};
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    assert_non_null(strstr(err.text, "stage 1 share 3 items: expected all of 4"));
    options.shares = NULL;
    options.cut = gap;
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    assert_non_null(strstr(err.text, "stage 1 holds units 21..24"));
    options.cut = beyond;
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    assert_non_null(strstr(err.text, "end at unit 4000000000 of 24"));
}

static void memory_is_that_of_1f1b(void **state)
{
    (void)state;
    static const uint32_t replicas[4] = {2, 2, 2, 2};
    for (uint32_t split = 0; split < 2; split++) {
        struct plan_options options = options_of(replicas, 4, 16);
        options.split = split;
        struct plan plan = build(&options);
        for (uint32_t w = 0; w < 8; w++)
            assert_int_equal(plan_flights(&plan, w, w / 2), 4 - w / 2);
        plan_fini(&plan);
        options.schedule = PLAN_GPIPE;
        plan = build(&options);
        assert_int_equal(plan_flights(&plan, 0, 0), 8);
        plan_fini(&plan);
    }
}

static void a_stand_still_is_refused(void **state)
{
    (void)state;
    static const uint32_t two[2] = {1, 1};
    struct plan_options options = options_of(two, 2, 1);
    struct plan plan = build(&options);
    struct bg_error err;
    for (uint32_t w = 0; w < 2; w++)
        plan.lists[w].count = 0;
    plan_list_add(&plan.lists[0], (struct plan_op){PLAN_B, PLAN_FUSED, 0, 0, 0, 0});
    plan_list_add(&plan.lists[0], (struct plan_op){PLAN_F, 0, 0, 0, 0, 0});
    plan_list_add(&plan.lists[1], (struct plan_op){PLAN_F, 0, 1, 0, 0, 0});
    plan_list_add(&plan.lists[1], (struct plan_op){PLAN_B, PLAN_FUSED, 1, 0, 0, 0});
    assert_int_equal(plan_lower(&plan, NULL, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "worker 0 at 0BW0, worker 1 at 1F0"));
    plan_list_add(&plan.lists[1], (struct plan_op){PLAN_F, 0, 0, 0, 0, 0});
    assert_int_equal(plan_lower(&plan, NULL, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "0F0 is computed twice"));
    plan_fini(&plan);
}

// ---- Cuts and shapes ----
static double largest(const double *costs, const struct plan_stage *stages, uint32_t count)
{
    double most = 0;
    for (uint32_t s = 0; s < count; s++) {
        double sum = 0;
        for (uint32_t u = stages[s].unit_first; u < stages[s].unit_end; u++)
            sum += costs[u];
        most = sum > most ? sum : most;
    }
    return most;
}

// The best of all cuts; the first in order of the cuts' places wins a tie.
static void search(const double *costs, uint32_t units, uint32_t count, uint32_t s, struct plan_stage *stages,
                   struct plan_stage *best, double *least)
{
    const uint32_t first = s ? stages[s - 1].unit_end : 0;
    for (uint32_t end = first + 1; end <= units; end++) {
        stages[s] = (struct plan_stage){first, end};
        if (s + 1 < count) {
            search(costs, units, count, s + 1, stages, best, least);
        } else if (end == units && (*least < 0 || largest(costs, stages, count) < *least)) {
            *least = largest(costs, stages, count);
            memcpy(best, stages, count * sizeof *best);
        }
    }
}

static void cuts_are_the_best(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (uint32_t round = 0; round < 400; round++) {
        const uint32_t units = 1 + world_below(&seed, 9), count = 1 + world_below(&seed, units);
        double costs[9], least = -1;
        struct plan_stage stages[9], best[9], made[9];
        for (uint32_t u = 0; u < units; u++)
            costs[u] = world_below(&seed, 5); // zeros and ties among them
        struct bg_error err;
        search(costs, units, count, 0, stages, best, &least);
        assert_int_equal(plan_cut(costs, units, count, &err, made), BG_OK);
        assert_memory_equal(made, best, count * sizeof *made);
    }
    struct bg_error err;
    struct plan_stage made[3];
    assert_int_equal(plan_cut(ones, 2, 3, &err, made), BG_INVALID);
    assert_int_equal(plan_cut((const double[]){1, -1}, 2, 1, &err, made), BG_INVALID);
    assert_non_null(strstr(err.text, "unit 1"));
}

static void expect_shape(const char *text, uint32_t count, const uint32_t *expected)
{
    uint32_t replicas[PLAN_STAGES_MAX], stages = 0;
    struct bg_error err;
    if (!expected) {
        assert_int_equal(plan_shape_parse(text, &err, replicas, &stages), BG_INVALID);
        assert_non_null(strstr(err.text, "2x2"));
        return;
    }
    assert_int_equal(plan_shape_parse(text, &err, replicas, &stages), BG_OK);
    assert_int_equal(stages, count);
    assert_memory_equal(replicas, expected, count * sizeof *expected);
}

static void expect_fit(uint32_t count, const uint32_t *wanted, uint32_t workers, uint32_t units, uint32_t fitted,
                       const uint32_t *expected)
{
    uint32_t replicas[PLAN_STAGES_MAX], stages = 0;
    plan_shape_fit(wanted, count, workers, units, replicas, &stages);
    assert_int_equal(stages, fitted);
    assert_memory_equal(replicas, expected, fitted * sizeof *expected);
}

static void shapes(void **state)
{
    (void)state;
    expect_shape("2x2", 2, (const uint32_t[]){2, 2});
    expect_shape("1x4", 1, (const uint32_t[]){4});
    expect_shape("1+2", 2, (const uint32_t[]){1, 2});
    expect_shape("3+1+2", 3, (const uint32_t[]){3, 1, 2});
    const char *const wrong[] = {"",         "x",   "2x",    "x2",   "0x2",  "2x0",   "4",     "1+",
                                 "+1",       "1+0", "2x2x2", "2x2 ", "auto", "257x1", "2x513", "99999999999x1",
                                 "1000+1000"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_shape(wrong[i], 0, NULL);
    const uint32_t two[] = {2, 2}, mixed[] = {1, 3};
    expect_fit(2, two, 4, 9, 2, (const uint32_t[]){2, 2});
    expect_fit(2, two, 3, 9, 2, (const uint32_t[]){2, 1});
    expect_fit(2, two, 1, 9, 1, (const uint32_t[]){1});
    expect_fit(2, two, 5, 9, 2, (const uint32_t[]){3, 2});
    expect_fit(2, two, 4, 1, 1, (const uint32_t[]){4});
    expect_fit(2, mixed, 3, 9, 2, (const uint32_t[]){1, 2});
    expect_fit(2, mixed, 6, 9, 2, (const uint32_t[]){2, 4});
    enum plan_schedule schedule;
    uint32_t chunks, slices, range;
    struct bg_error err;
    assert_int_equal(plan_schedule_parse("interleaved", &err, &schedule, &chunks, &slices, &range), BG_OK);
    assert_true(schedule == PLAN_INTERLEAVED && chunks == 2);
    assert_int_equal(plan_schedule_parse("interleaved:3", &err, &schedule, &chunks, &slices, &range), BG_OK);
    assert_true(schedule == PLAN_INTERLEAVED && chunks == 3);
    assert_int_equal(plan_schedule_parse("gpipe", &err, &schedule, &chunks, &slices, &range), BG_OK);
    assert_true(schedule == PLAN_GPIPE && chunks == 1);
    assert_int_equal(plan_schedule_parse("interleaved:", &err, &schedule, &chunks, &slices, &range), BG_INVALID);
    assert_int_equal(plan_schedule_parse("interleaved2", &err, &schedule, &chunks, &slices, &range), BG_INVALID);
    assert_int_equal(plan_schedule_parse("2f2b", &err, &schedule, &chunks, &slices, &range), BG_INVALID);
}

static void builds_are_refused(void **state)
{
    (void)state;
    const uint32_t replicas[] = {2, 0};
    struct bg_error err;
    struct plan plan;
    struct plan_options options = options_of(replicas, 2, 4);
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    options = options_of(replicas, 1, 0);
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    options = options_of(replicas, 1, 4);
    options.group = 3;
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    options = options_of(replicas, 1, 4);
    options.schedule = PLAN_INTERLEAVED;
    options.chunks = 25;
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
    options = options_of(replicas, 1, 4);
    options.followers = PLAN_WORKERS_MAX;
    assert_int_equal(plan_build(&options, &err, &plan), BG_INVALID);
}

// ---- Text and validator ----
static const char small[] =
    "plan 1 units 2 micro_batches 3 workers 3\n"
    "stage 0 0 1\n"
    "stage 1 1 2\n"
    "item 0 0 2\n"
    "item 1 2 3\n"
    "seat 0 0 0\n"
    "seat 1 1 0\n"
    "follow 2 0 2\n"
    "mbmap 0 0 0\n"
    "mbmap 0 1 0\n"
    "mbmap 1 0 1\n"
    "mbmap 1 1 1\n"
    "list 0: 0F0 0SEND_F0>1 0F1 0SEND_F1>1 0RECV_B0<1 0BW0 0RECV_B1<1 0BW1.l 0COLL.reduce STEP\n"
    "list 1: 1RECV_F0<0 1F0 1BW0 1SEND_B0>0 1RECV_F1<0 1F1 1BW1.l 1SEND_B1>0 1COLL.reduce STEP\n"
    "list 2: STEP\n";

static void text_is_exact(void **state)
{
    (void)state;
    static const uint32_t replicas[2] = {1, 1};
    struct plan_options options = options_of(replicas, 2, 3);
    options.units = 2;
    options.group = 2;
    options.followers = 1;
    struct plan plan = build(&options), again;
    struct bg_error err;
    char *text = plan_format(&plan);
    assert_string_equal(text, small);
    struct plan copy = plan_copy(&plan);
    plan_fini(&plan);
    char *twice = plan_format(&copy);
    assert_string_equal(twice, small);
    plan_fini(&copy);
    bg_free(twice);
    char *loose = bg_format("# by hand\n\n%.*s  \r\n\t# more\n%s", (int)(strchr(small, '\n') - small), small,
                            strchr(small, '\n') + 1);
    assert_int_equal(plan_parse(loose, strlen(loose), &err, &again), BG_OK);
    twice = plan_format(&again);
    assert_string_equal(twice, small);
    bg_free(loose);
    bg_free(twice);
    bg_free(text);
    plan_fini(&again);
}

// `small` with the first `from` made `to` is refused, and the error holds `why`.
static void refuse(const char *from, const char *to, const char *why)
{
    const char *at = strstr(small, from);
    struct bg_error err;
    struct plan plan;
    assert_non_null(at);
    char *text = bg_format("%.*s%s%s", (int)(at - small), small, to, at + strlen(from));
    assert_true(plan_parse(text, strlen(text), &err, &plan) != BG_OK);
    if (!strstr(err.text, why))
        fail_msg("%s -> %s: expected \"%s\" in: %s", from, to, why, err.text);
    bg_free(text);
}

static void errors_name_the_line(void **state)
{
    (void)state;
    refuse("plan 1", "plan 2", "line 1: found \"2\"");
    refuse("workers 3", "workers 0", "line 1");
    refuse("workers 3", "workers 3 resting", "expected rest");
    refuse("stage 1", "stage 2", "line 3: found stage 2, expected 1");
    refuse("item 0 0 2", "item 0 0", "line 4: found the end of the line, expected three numbers");
    refuse("item 0 0 2", "item 0 0 2 3", "line 4: found \"3\", expected the end of the line");
    refuse("seat 0", "chair 0", "line 6: found \"chair\"");
    refuse("mbmap 0 1 0", "mbmap 1 0 0", "line 10");
    refuse("mbmap 0 1 0", "mbmap 0 1 3", "line 10: found \"3\"");
    refuse("mbmap 1 1 1\n", "", "3 routes of 4");
    refuse("list 1:", "list 2:", "line 14");
    refuse("list 2: STEP\n", "", "2 lists of 3");
    const char *const ops[] = {"0G0",           "F0",       "0F",         "0F4294967295", "0F0.",  "0F0.x",
                               "0F0.lr",        "0SEND_F0", "0SEND_F0<1", "0SEND_G0>1",   "0COLL", "0COLL.",
                               "0COLL.reduced", "0STEP",    "STEPS",      "MOVE",         "MOVE1", "MOVE1>",
                               "999F0"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        refuse("0F0 ", ops[i], "line 13: found");
}

static void the_validator_finds(void **state)
{
    (void)state;
    refuse("stage 1 1 2", "stage 1 1 3", "stages end at unit 3");
    refuse("stage 1 1 2", "stage 1 0 2", "stage 1 holds units 0..2");
    refuse("item 0 0 2\nitem 1 2 3", "item 0 0 1\nitem 1 1 3", "item 1 holds micro-batches 1..3");
    refuse("item 1 2 3", "item 1 2 4", "the items end at micro-batch 4 of 3");
    refuse("seat 1 1 0", "seat 1 1 1", "seat of worker 1");
    refuse("seat 1 1 0", "seat 3 1 0", "seat of worker 3");
    refuse("seat 1 1 0", "seat 1 1 0\nseat 1 1 1", "sits twice");
    refuse("follow 2 0 2", "follow 2 0 3", "follow 2");
    refuse("mbmap 0 1 0", "mbmap 0 1 1", "the route gives it to another worker");
    refuse("0F0 0SEND_F0>1 ", "", "worker 0, op 3 (0BW0): input gradient before its forward");
    refuse("0F0 ", "0F0 0F0 ", "(0F0): computed twice");
    refuse("0F0 ", "1F0 ", "no seat at this stage");
    refuse("0F0 ", "0F2 ", "no such stage or item");
    refuse("0SEND_F0>1", "0SEND_F0>0", "no such peer");
    refuse("0SEND_F0>1", "0SEND_B0>1", "no such peer, or no stage");
    refuse("0SEND_F0>1", "0SEND_F0>2", "the activation that 1F0 needs is sent to another worker");
    refuse("0SEND_F0>1 ", "", "the activation that 1F0 needs is awaited, but nobody sends it");
    refuse("0SEND_F0>1 ", "0SEND_F0>1 0SEND_F0>1 ", "sent twice");
    refuse("0F0 0SEND_F0>1", "0SEND_F0>1 0F0", "sent before it is made");
    refuse("1RECV_F0<0 ", "", "its input activation is not there yet");
    refuse("1RECV_F0<0 1F0 1BW0 1SEND_B0>0", "1RECV_F0<0 1F0 1BW0 1SEND_B0>0 1RECV_F0<0", "received twice");
    refuse("0RECV_B0<1 0BW0", "0BW0 0RECV_B0<1", "the gradient of its output is not there yet");
    refuse("0BW0", "0BW0.l", "may be flagged as the last");
    refuse("0BW0 ", "0B0 ", "item 0 is not computed to its end");
    refuse("0COLL.reduce ", "", "0 of 1 0COLL.reduce");
    refuse("0BW1.l 0COLL.reduce", "0COLL.reduce 0BW1.l", "after all weight gradients");
    refuse("0COLL.reduce", "0COLL.reduce 0COLL.reduce", "reduced once");
    refuse("0COLL.reduce STEP", "STEP 0COLL.reduce", "STEP must be the last op");
    refuse("list 2: STEP", "list 2: MOVE1<0 STEP", "no single other end");
    refuse("list 0: 0F0 0SEND_F0>1 0F1 0SEND_F1>1 0RECV_B0<1", "list 0: 0F0 0F1 0RECV_B0<1 0SEND_F0>1 0SEND_F1>1",
           "does not drain: stuck are worker 0 at 0RECV_B0<1, worker 1 at 1RECV_F0<0");
}

// Items at the end of the range: nodes of a tree over as many leaves as can be counted.
static void the_largest_item_is_a_node(void **state)
{
    (void)state;
    static const char text[] = "plan 1 units 1 micro_batches 4294967294 workers 1\nstage 0 0 1\n"
                               "item 0 0 2147483648\nitem 1 2147483648 4294967294\nseat 0 0 0\n"
                               "mbmap 0 0 0\nmbmap 0 1 0\nlist 0: 0F0 0BW0 0F1 0BW1.l 0COLL.reduce STEP\n";
    static const char whole[] = "plan 1 units 1 micro_batches 4294967294 workers 1\nstage 0 0 1\n"
                                "item 0 0 4294967294\nseat 0 0 0\nmbmap 0 0 0\nlist 0: 0F0 0BW0.l 0COLL.reduce STEP\n";
    struct bg_error err;
    struct plan plan;
    assert_int_equal(plan_parse(text, strlen(text), &err, &plan), BG_OK);
    plan_fini(&plan);
    assert_int_equal(plan_parse(whole, strlen(whole), &err, &plan), BG_OK);
    plan_fini(&plan);
}

static void moves_pair_up(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan plan;
    uint64_t turns = 0, without = 0;
    assert_int_equal(plan_parse(small, strlen(small), &err, &plan), BG_OK);
    assert_int_equal(plan_simulate_turns(&plan, &err, &without), BG_OK);
    plan_list_insert(&plan.lists[1], 0, (struct plan_op){PLAN_MOVE, PLAN_OUT, 0, 1, 2, 0});
    plan_list_insert(&plan.lists[2], 0, (struct plan_op){PLAN_MOVE, 0, 0, 1, 1, 0});
    assert_int_equal(plan_validate(&plan, &err), BG_OK);
    assert_int_equal(plan_simulate_turns(&plan, &err, &turns), BG_OK);
    assert_true(turns >= without);
    char *text = plan_format(&plan);
    assert_non_null(strstr(text, "list 2: MOVE1<1 STEP"));
    assert_non_null(strstr(text, "list 1: MOVE1>2 1RECV_F0<0"));
    bg_free(text);
    plan_fini(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orders_are_the_published_ones),
        cmocka_unit_test(cuts_and_shares_are_taken),
        cmocka_unit_test(memory_is_that_of_1f1b),
        cmocka_unit_test(a_stand_still_is_refused),
        cmocka_unit_test(cuts_are_the_best),
        cmocka_unit_test(shapes),
        cmocka_unit_test(builds_are_refused),
        cmocka_unit_test(text_is_exact),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(the_validator_finds),
        cmocka_unit_test(the_largest_item_is_a_node),
        cmocka_unit_test(moves_pair_up),
        cmocka_unit_test(every_shape_drains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
