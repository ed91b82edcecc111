// Schedules against published figures, closed forms and bounds, timed by a replay that knows only what F, B and W mean;
// and every one of them as a whole step, judged by the validator and run in a world of its own.
#include "plan/schedule.h"

#include "base/mem.h"
#include "plan/world_test.h"

enum { STAGES = 64 };

struct request {
    enum plan_schedule schedule;
    uint32_t workers, items, chunks, slices; // 0: one
    double f, b, w, comm, limit;
    const uint64_t *seed; // random times, not f, b, w
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
                                q->comm, q->limit, false}};
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
    struct made m;
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
        {{PLAN_1F1B, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL}, 33, {4, 3, 2, 1}},
        {{PLAN_1F1B, 4, 16, 1, 1, 1, 1, 1, 0, 0, NULL}, 57, {4, 3, 2, 1}},
        {{PLAN_1F1B, 8, 16, 1, 1, 1, 1, 1, 0, 0, NULL}, 69, {8, 7, 6, 5}},
        {{PLAN_GPIPE, 4, 8, 1, 1, 1, 1, 1, 0, 0, NULL}, 33, {8, 8, 8, 8}},
        {{PLAN_INTERLEAVED, 4, 8, 2, 1, 1, 1, 1, 0, 0, NULL}, 57, {11, 9, 7, 5}},
        {{PLAN_INTERLEAVED, 4, 8, 4, 1, 1, 1, 1, 0, 0, NULL}, 105, {19, 17, 15, 13}},
        {{PLAN_INTERLEAVED, 8, 16, 2, 1, 1, 1, 1, 0, 0, NULL}, 117, {23, 21, 19, 17}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct made m;
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
            const double f = costs[c][0], b = costs[c][1], w = costs[c][2];
            struct request q = {PLAN_1F1B, p, 3 * p, 1, 1, f, b, w, 0, 0, NULL};
            expect(&q, 3 * p * (f + b + w) + (p - 1) * (f + b + w), (p - 1) * (f + b + w), p);
            q.schedule = PLAN_ZB_H1;
            expect(&q, 3 * p * (f + b + w) + (p - 1) * (f + b - w), (p - 1) * (f + b - w), p);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flush_has_the_closed_form),
        cmocka_unit_test(zero_bubble_has_the_closed_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
