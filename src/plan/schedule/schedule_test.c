// Schedules against published figures, closed forms and bounds, timed by a replay that knows only what F, B and W mean;
// and every one of them as a whole step, judged by the validator and run in a world of its own.
#include "plan/schedule/schedule.h"

#include "base/mem.h"
#include "plan/world_test.h"

enum { STAGES = 64 };

struct request {
    enum plan_schedule schedule;
    uint32_t workers, items, chunks, slices; // 0: one
    double f, b, w, comm, limit;
    const uint64_t *seed; // random times, not f, b, w
    uint32_t range;
};
struct made {
    struct plan_pipe pipe;
    struct plan_list lists[STAGES];
    struct plan_schedule_time time;
    uint32_t at[STAGES * 256];
    double times[3][STAGES];
};

static bg_status try_make(const struct request *q, struct made *m, struct bg_error *err)
{
    const uint32_t stages = q->workers * plan_schedule_chunks(q->schedule, q->chunks ? q->chunks : 1);
    uint64_t seed = q->seed ? *q->seed : 0;
    *m = (struct made){.pipe = {q->workers, stages, q->items, q->slices, m->at, m->times[0], m->times[1], m->times[2],
                                q->comm, q->limit, false, q->range}};
    assert_true(stages <= STAGES && (size_t)stages * q->items <= sizeof m->at / sizeof *m->at);
    for (uint32_t s = 0; s < stages; s++) {
        for (uint32_t k = 0; k < 3; k++)
            m->times[k][s] = q->seed ? world_below(&seed, 20) : k == 0 ? q->f : k == 1 ? q->b : q->w;
        for (uint32_t i = 0; i < q->items; i++)
            m->at[s * q->items + i] = plan_schedule_rank(q->schedule, q->workers, s);
    }
    bg_status status = plan_schedule_make(q->schedule, &m->pipe, err, m->lists);
    if (!status && plan_schedule_replay(&m->pipe, m->lists, err, &m->time))
        fail_msg("%s of %u workers, %u items: %s", plan_schedule_kind(q->schedule)->name, q->workers, q->items,
                 err->text);
    return status;
}

static void made_fini(struct made *m)
{
    plan_schedule_time_fini(&m->time);
    for (uint32_t w = 0; w < m->pipe.workers; w++)
        bg_free(m->lists[w].ops);
}

static void make(const struct request *q, struct made *m)
{
    struct bg_error err;
    if (try_make(q, m, &err))
        fail_msg("%s", err.text);
}

static double most(const double *values, uint32_t count)
{
    double result = 0;
    for (uint32_t i = 0; i < count; i++)
        result = values[i] > result ? values[i] : result;
    return result;
}

// The longest worker's span, its bubble, and the most items in flight anywhere.
static void expect(const struct request *q, double span, double bubble, double peak)
{
    static struct made m;
    make(q, &m);
    if (m.time.span != span || m.time.bubble != bubble || most(m.time.peak, q->workers) != peak)
        fail_msg("%s of %u workers, %u items: span %g, bubble %g, peak %g; expected %g, %g, %g",
                 plan_schedule_kind(q->schedule)->name, q->workers, q->items, m.time.span, m.time.bubble,
                 most(m.time.peak, q->workers), span, bubble, peak);
    made_fini(&m);
}

static void flush_has_the_closed_form(void **state)
{
    (void)state;
    static const struct {
        struct request q;
        double makespan, peaks[4];
    } rows[] = {
        {{PLAN_1F1B, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 33, {4, 3, 2, 1}},
        {{PLAN_1F1B, 4, 16, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 57, {4, 3, 2, 1}},
        {{PLAN_1F1B, 8, 16, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 69, {8, 7, 6, 5}},
        {{PLAN_GPIPE, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 33, {8, 8, 8, 8}},
        {{PLAN_INTERLEAVED, 4, 8, 2, 1, 1, 1, 1, 0, 0, NULL, 0}, 57, {11, 9, 7, 5}},
        {{PLAN_INTERLEAVED, 4, 8, 4, 1, 1, 1, 1, 0, 0, NULL, 0}, 105, {19, 17, 15, 13}},
        {{PLAN_INTERLEAVED, 8, 16, 2, 1, 1, 1, 1, 0, 0, NULL, 0}, 117, {23, 21, 19, 17}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static struct made m;
        make(&rows[i].q, &m);
        assert_true(m.time.makespan == rows[i].makespan);
        for (uint32_t w = 0; w < 4; w++)
            assert_true(m.time.peak[w] == rows[i].peaks[w]);
        made_fini(&m);
    }
}

// (P-1)(F+B-W) and, with memory for 2P, (P-1)(F+B-2W); 1F1B has (P-1)(F+B+W).
static void zero_bubble_has_the_closed_form(void **state)
{
    (void)state;
    static const double costs[][3] = {{1, 1, 1}, {2, 2, 2}, {3, 3, 2}, {4, 4, 3}};
    for (uint32_t p = 2; p <= 8; p += 2)
        for (size_t c = 0; c < sizeof costs / sizeof *costs; c++) {
            const double f = costs[c][0], b = costs[c][1], w = costs[c][2], work = 3 * p * (f + b + w);
            struct request q = {PLAN_1F1B, p, 3 * p, 1, 1, f, b, w, 0, 0, NULL, 0};
            expect(&q, work + (p - 1) * (f + b + w), (p - 1) * (f + b + w), p);
            q.schedule = PLAN_ZB_H1;
            expect(&q, work + (p - 1) * (f + b - w), (p - 1) * (f + b - w), p);
            if (f != w)
                continue;
            q.schedule = PLAN_ZB_2P;
            q.limit = 2 * p - 1;
            expect(&q, work, 0, 2 * p - 1);
        }
}

// The rows of ../shared/goldens/zero_bubble.txt, and others that the authors' program gave.
static void zero_bubble_has_the_published_spans(void **state)
{
    (void)state;
    static const struct {
        struct request q;
        double span, bubble, peak;
    } rows[] = {
        {{PLAN_ZB_H1, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 27, 3, 4},
        {{PLAN_ZB_2P, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 24, 0, 8},
        {{PLAN_ZB_H1, 4, 12, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 39, 3, 4},
        {{PLAN_ZB_2P, 4, 12, 1, 1, 1, 1, 1, 0, 7, NULL, 0}, 36, 0, 7},
        {{PLAN_ZB_H1, 8, 24, 1, 1, 1, 1, 1, 0, 8, NULL, 0}, 79, 7, 8},
        {{PLAN_ZB_2P, 8, 24, 1, 1, 1, 1, 1, 0, 16, NULL, 0}, 72, 0, 16},
        {{PLAN_ZB_H1, 8, 32, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 103, 7, 8},
        {{PLAN_ZB_H1, 4, 12, 1, 1, 10, 11, 8, 1, 0, NULL, 0}, 399, 51, 4},
        {{PLAN_ZB_2P, 4, 12, 1, 1, 10, 11, 8, 1, 0, NULL, 0}, 363, 15, 8},
        {{PLAN_ZB_H1, 8, 24, 1, 1, 10, 11, 8, 1, 0, NULL, 0}, 815, 119, 8},
        {{PLAN_ZB_2P, 8, 24, 1, 1, 10, 11, 8, 1, 0, NULL, 0}, 737, 41, 16},
        {{PLAN_ZB_H1, 2, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 25, 1, 2},
        {{PLAN_ZB_H1, 2, 8, 1, 1, 1, 1, 1, 0, 4, NULL, 0}, 24, 0, 4},
        {{PLAN_ZB_V, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 48, 0, 8},
        {{PLAN_ZB_V, 4, 12, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 72, 0, 8},
        {{PLAN_ZB_V, 8, 24, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 144, 0, 16},
        {{PLAN_ZB_V, 4, 16, 1, 1, 10, 11, 8, 1, 0, NULL, 0}, 956, 28, 8},
        {{PLAN_ZB_V, 8, 24, 1, 1, 10, 11, 8, 1, 0, NULL, 0}, 1471, 79, 16},
        {{PLAN_ZB_V_HALF, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 53, 5, 6},
        {{PLAN_ZB_V_HALF, 8, 24, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 161, 17, 10},
        {{PLAN_ZB_V_MIN, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 59, 11, 4},
        {{PLAN_ZB_V_MIN, 8, 24, 1, 1, 1, 1, 1, 0, 0, NULL, 0}, 171, 27, 8},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect(&rows[i].q, rows[i].span, rows[i].bubble, rows[i].peak);
}

static void recorded_rows(void **state)
{
    (void)state;
    char path[512], line[512];
    const char *root = getenv("BRIGADE_SHARED");
    snprintf(path, sizeof path, "%s/goldens/zero_bubble.txt", root && *root ? root : BRIGADE_SOURCE_DIR "/../shared");
    FILE *file = fopen(path, "r");
    if (!file)
        skip();
    uint32_t rows = 0;
    while (fgets(line, sizeof line, file)) {
        struct request q = {.schedule = PLAN_ZB_H1};
        double span, bubble, peak;
        const char *found = strstr(line, "bubble"), *act = strstr(line, "peak_act");
        if (sscanf(line,
                   "{'p': %u, 'm': %u, 'f': %lf, 'b': %lf, 'w': %lf, 'c': %lf, 'limit': %lf} best_time(max stage span) "
                   "%lf",
                   &q.workers, &q.items, &q.f, &q.b, &q.w, &q.comm, &q.limit, &span) != 8)
            continue;
        assert_true(found && act && sscanf(found, "bubble %lf", &bubble) == 1 &&
                    sscanf(act, "peak_act [%lf", &peak) == 1);
        expect(&q, span, bubble, peak);
        rows++;
    }
    fclose(file);
    assert_true(rows > 0);
}

// In S slices the bubble is (P-1)(F+B)/S, and the first worker holds 2+(P-2)/S items: its W is of the whole item.
static void slices_shorten_the_bubble(void **state)
{
    (void)state;
    for (uint32_t p = 2; p <= 6; p++)
        for (uint32_t slices = 1; slices <= 4; slices *= 2) {
            const struct request q = {PLAN_SEQ1F1B, p, 8, 1, slices, 4, 4, 0, 0, 0, NULL, 0};
            expect(&q, 64 + (p - 1) * 8.0 / slices, (p - 1) * 8.0 / slices, 2 + (p - 2.0) / slices);
        }
}

// At the last stage the forwards of a range, then its backwards; of all items it is GPipe, and shorter ranges begin
// before the one before them is over.
static void ranges_meet(void **state)
{
    (void)state;
    static struct made m;
    for (uint32_t p = 1; p <= 6; p++)
        for (uint32_t range = 0; range <= 13; range++) {
            const struct request q = {PLAN_DISTMM, p, 12, 1, 1, 2, 2, 2, p % 2, 0, NULL, range};
            const uint32_t size = range ? range : 12;
            make(&q, &m);
            uint32_t forwards = 0;
            for (size_t i = 0; i < m.lists[p - 1].count; i++) {
                const struct plan_op *op = &m.lists[p - 1].ops[i];
                const uint32_t end = (op->item / size + 1) * size;
                forwards += op->kind == PLAN_F;
                if (op->kind == PLAN_B)
                    assert_true(forwards >= (end < 12 ? end : 12));
            }
            if (size >= 12 && q.comm == 0)
                assert_true(m.time.makespan == (12 + p - 1) * 6.0);
            if (size < 12 && q.comm == 0)
                assert_true(m.time.makespan <= ((12 - 1) / size + 1) * (size + p - 1) * 6.0);
            if (size == p && p > 1 && q.comm == 0)
                assert_true(m.time.makespan < 12.0 / p * (2 * p - 1) * 6.0);
            made_fini(&m);
        }
}

// Random pipelines: complete (the replay asks that), no faster than the work of the busiest worker or the way of one
// item through all stages and back, within the memory.
static void every_schedule_keeps_its_bounds(void **state)
{
    (void)state;
    uint64_t seed = 5;
    static struct made m;
    for (uint32_t round = 0; round < 6000; round++) {
        const uint64_t times = seed;
        struct request q = {.schedule = (enum plan_schedule)(round % PLAN_SCHEDULES),
                            .workers = 1 + world_below(&seed, 9),
                            .items = 1 + world_below(&seed, 20),
                            .chunks = 1 + world_below(&seed, 3),
                            .slices = 1 + world_below(&seed, 3),
                            .comm = world_below(&seed, 3),
                            .limit = world_below(&seed, 2) * world_below(&seed, 24),
                            .range = (uint32_t)(times % 7)};
        struct bg_error err;
        if (world_below(&seed, 4)) // else all stages alike
            q.seed = &times;
        else
            q.f = 3, q.b = 3 + world_below(&seed, 2), q.w = world_below(&seed, 4);
        if (q.schedule == PLAN_INTERLEAVED)
            q.items += q.workers - 1 - (q.items - 1) % q.workers;
        if (try_make(&q, &m, &err)) {
            assert_true(q.limit > 0);
            continue;
        }
        double way = 0;
        for (uint32_t s = 0; s < m.pipe.stages; s++)
            way += (m.pipe.forward[s] + m.pipe.input[s]) / q.slices;
        assert_true(m.time.makespan >= way * 0.999999);
        for (uint32_t w = 0; w < q.workers; w++) {
            assert_true(m.time.span >= m.time.busy[w] * 0.999999 && m.time.makespan >= m.time.span);
            assert_true(q.limit == 0 || m.time.peak[w] <= q.limit);
        }
        made_fini(&m);
    }
}

static void what_cannot_be_says_what_would(void **state)
{
    (void)state;
    static const struct {
        struct request q;
        const char *why;
        double enough; // memory
    } rows[] = {
        {{PLAN_1F1B, 4, 8, 1, 1, 1, 1, 1, 0, 2, NULL, 0}, "worker 0 holds 4", 4},
        {{PLAN_GPIPE, 2, 8, 1, 1, 1, 1, 1, 0, 7, NULL, 0}, "give it 8", 8},
        {{PLAN_ZB_H1, 4, 8, 1, 1, 1, 1, 1, 0, 0.5, NULL, 0}, "at least 1", 1},
        {{PLAN_ZB_V, 4, 8, 1, 1, 1, 1, 1, 0, 7, NULL, 0}, "4 workers need it for 8", 8},
        {{PLAN_ZB_V, 6, 3, 1, 1, 1, 1, 1, 0, 5, NULL, 0}, "6 workers need it for 6", 6},
        {{PLAN_ZB_V_MIN, 4, 8, 1, 1, 1, 1, 1, 0, 3, NULL, 0}, "give it 4", 4},
        {{PLAN_INTERLEAVED, 4, 6, 2, 1, 1, 1, 1, 0, 0, NULL, 0}, "take 8 micro-batches", 0},
        {{PLAN_DISTMM, 4, 8, 1, 1, 1, 1, 1, 0, 7, NULL, 0}, "give it 8", 8},
        {{PLAN_DISTMM, 4, 8, 1, 1, 1, 1, 1, 0, 2, NULL, 3}, "in ranges of 3", 3},
    };
    static struct made m;
    struct bg_error err;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct request q = rows[i].q;
        assert_int_equal(try_make(&q, &m, &err), BG_INVALID);
        if (!strstr(err.text, rows[i].why))
            fail_msg("expected \"%s\" in: %s", rows[i].why, err.text);
        q.limit = rows[i].enough;
        if (q.limit == 0)
            continue;
        make(&q, &m);
        made_fini(&m);
    }
}

// The replay is no rubber stamp: an order that waits for ever, an op twice, an op not at all.
static void the_replay_finds(void **state)
{
    (void)state;
    static struct made m;
    const struct request q = {PLAN_1F1B, 2, 2, 1, 1, 1, 1, 1, 0, 0, NULL, 0};
    struct bg_error err;
    struct plan_schedule_time time;
    make(&q, &m);
    struct plan_op *ops = m.lists[0].ops, first = ops[0];
    ops[0] = ops[2]; // B before its F
    assert_int_equal(plan_schedule_replay(&m.pipe, m.lists, &err, &time), BG_INVALID);
    assert_non_null(strstr(err.text, "worker 0, op 0 (0BW0): waits for ever"));
    ops[0] = first;
    ops[1] = first;
    assert_int_equal(plan_schedule_replay(&m.pipe, m.lists, &err, &time), BG_INVALID);
    assert_non_null(strstr(err.text, "there twice"));
    ops[1] = (struct plan_op){PLAN_F, 0, 0, 1, 0, 0};
    m.lists[0].count--;
    assert_int_equal(plan_schedule_replay(&m.pipe, m.lists, &err, &time), BG_INVALID);
    assert_non_null(strstr(err.text, "nobody computes 0W1"));
    m.lists[0].count++;
    made_fini(&m);
}

// Every schedule as a whole step over every kind of shape, validated and run; what it cannot take, it takes otherwise.
static void every_schedule_is_a_plan(void **state)
{
    (void)state;
    static const double costs[24] = {1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5};
    uint64_t seed = 9;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t replicas[6], stages = 1 + world_below(&seed, 6);
        const bool even = world_below(&seed, 3);
        for (uint32_t r = 0; r < stages; r++)
            replicas[r] = r && even ? replicas[0] : 1 + world_below(&seed, 3);
        const struct plan_options options = {.costs = costs,
                                             .units = 24,
                                             .micro_batches = 1 + world_below(&seed, 14),
                                             .group = 1u << world_below(&seed, 2),
                                             .replicas = replicas,
                                             .stages = stages,
                                             .schedule = (enum plan_schedule)(round % PLAN_SCHEDULES),
                                             .chunks = 1 + world_below(&seed, 3),
                                             .split = world_below(&seed, 2),
                                             .recompute = world_below(&seed, 2),
                                             .followers = world_below(&seed, 2),
                                             .comm = world_below(&seed, 2),
                                             .range = round % 5};
        struct bg_error err;
        struct plan plan;
        if (plan_build(&options, &err, &plan))
            fail_msg("%s: %s", plan_schedule_kind(options.schedule)->name, err.text);
        assert_int_equal(plan.stage_count, stages * plan_schedule_chunks(options.schedule, options.chunks));
        for (uint32_t k = 0; k < plan.seat_count; k++) { // the seats are those that the controller gives out
            uint32_t rank = plan_schedule_rank(options.schedule, stages, plan.seats[k].stage), first = 0;
            for (uint32_t r = 0; r < rank; r++)
                first += replicas[r];
            assert_int_equal(plan.seats[k].worker, first + plan.seats[k].replica);
        }
        struct world world = world_create(plan);
        assert_true(world_run(&world, &seed, 1u << 30));
        world_check_end(&world);
        world_fini(&world);
    }
}

// Memory that a step asks for is kept, or refused.
static void memory_of_a_step_is_kept(void **state)
{
    (void)state;
    static const uint32_t replicas[4] = {2, 2, 2, 2};
    struct bg_error err;
    struct plan plan;
    for (uint32_t memory = 1; memory <= 8; memory++) {
        struct plan_options options = {.units = 8,
                                       .micro_batches = 16,
                                       .group = 1,
                                       .replicas = replicas,
                                       .stages = 4,
                                       .schedule = PLAN_ZB_H1,
                                       .memory = memory};
        options.costs = (const double[]){1, 1, 1, 1, 1, 1, 1, 1};
        assert_int_equal(plan_build(&options, &err, &plan), BG_OK);
        for (uint32_t w = 0; w < 8; w++)
            assert_true(plan_flights(&plan, w, w / 2) <= memory);
        plan_fini(&plan);
        options.schedule = PLAN_1F1B;
        assert_int_equal(plan_build(&options, &err, &plan), memory < 4 ? BG_INVALID : BG_OK);
        if (memory >= 4)
            plan_fini(&plan);
        options.schedule = PLAN_ZB_V;
        assert_int_equal(plan_build(&options, &err, &plan), memory < 8 ? BG_INVALID : BG_OK);
        if (memory >= 8)
            plan_fini(&plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flush_has_the_closed_form),
        cmocka_unit_test(zero_bubble_has_the_closed_form),
        cmocka_unit_test(zero_bubble_has_the_published_spans),
        cmocka_unit_test(recorded_rows),
        cmocka_unit_test(slices_shorten_the_bubble),
        cmocka_unit_test(ranges_meet),
        cmocka_unit_test(every_schedule_keeps_its_bounds),
        cmocka_unit_test(what_cannot_be_says_what_would),
        cmocka_unit_test(the_replay_finds),
        cmocka_unit_test(every_schedule_is_a_plan),
        cmocka_unit_test(memory_of_a_step_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
