// Tessel's search against what its authors' program found (../shared/goldens or BRIGADE_SHARED; skips without; their
// figures for more shapes stand here), against exhaustive search on small placements, and every unrolled schedule
// against the rules, told a second time.
#include "plan/schedule/tessel.h"

#include "base/mem.h"
#include "base/philox.h"
#include "base/str.h"
#include "plan/schedule/schedule_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static uint32_t draw(uint32_t *state, uint32_t below)
{
    const struct bg_philox_counter counter = {{(*state)++, 77, 0, 0}};
    return bg_philox(counter, bg_philox_key(5, BG_STREAM_DATA)).c[0] % below;
}

// ---- The rules of a schedule ----
static void check_run(const struct plan_placement *p, const struct plan_tessel_run *run, uint32_t micro_batches,
                      int64_t limit, uint32_t comm)
{
    uint32_t *seen = bg_alloc_array((size_t)p->block_count * micro_batches, sizeof *seen);
    assert_int_equal(run->count, p->block_count * micro_batches);
    for (uint32_t i = 0; i < run->count; i++) {
        const struct plan_tessel_op *op = &run->ops[i];
        const struct plan_block *block = &p->blocks[op->block];
        assert_true(op->micro < micro_batches && op->end == op->start + block->span);
        assert_int_equal(seen[op->micro * p->block_count + op->block]++, 0);
        for (uint32_t j = 0; j < run->count; j++) {
            const struct plan_tessel_op *other = &run->ops[j];
            const bool meets = (p->blocks[other->block].devices & block->devices) != 0;
            if (j != i && meets)
                assert_true(other->end <= op->start || op->end <= other->start);
            for (uint32_t n = 0; n < block->need_count; n++)
                if (other->micro == op->micro && other->block == block->needs[n])
                    assert_true(other->end + (meets ? 0 : comm) <= op->start);
        }
        for (uint32_t d = 0; d < p->devices && limit > 0; d++) {
            int64_t memory = 0;
            for (uint32_t j = 0; j < run->count; j++)
                if (p->blocks[run->ops[j].block].devices >> d & 1 && run->ops[j].start <= op->start)
                    memory += p->blocks[run->ops[j].block].memory;
            assert_true(memory <= limit);
        }
    }
    bg_free(seen);
}

// Solves, checks the unrolled schedules, and returns the bubbles; -1: none.
static int64_t bubbles_of(const struct plan_placement *p, uint32_t in_flight, int64_t memory, uint32_t comm,
                          uint64_t steps[3])
{
    const struct plan_tessel_options options = {.in_flight = in_flight, .memory = memory, .comm = comm};
    struct bg_error err = {0};
    struct plan_tessel tessel;
    if (plan_tessel_solve(p, &options, &err, &tessel)) {
        assert_int_equal(err.status, BG_INVALID);
        return -1;
    }
    assert_true(tessel.proved && tessel.shortest);
    steps[0] = tessel.warmup.steps;
    steps[1] = tessel.repetend.steps;
    steps[2] = tessel.cooldown.steps;
    for (uint32_t more = 0; more < 8; more += 3) {
        struct plan_tessel_run run;
        assert_int_equal(plan_tessel_unroll(p, &tessel, tessel.in_flight + more, comm, &err, &run), BG_OK);
        check_run(p, &run, tessel.in_flight + more, memory, comm);
        if (comm == 0) // part after part, one period a repetend, is a schedule as well
            assert_true(run.makespan <= steps[0] + steps[1] + steps[2] + more * tessel.period);
        plan_tessel_run_fini(&run);
    }
    const int64_t bubbles = (int64_t)tessel.bubbles;
    plan_tessel_fini(&tessel);
    return bubbles;
}

static int64_t shape_bubbles(const char *name, uint32_t devices, uint32_t in_flight, int64_t memory, uint64_t steps[3])
{
    struct bg_error err = {0};
    struct plan_placement p;
    assert_int_equal(plan_placement_shape(name, devices, &err, &p), BG_OK);
    assert_int_equal(plan_placement_check(&p, &err), BG_OK);
    const int64_t bubbles = bubbles_of(&p, in_flight, memory, 0, steps);
    plan_placement_fini(&p);
    return bubbles;
}

// ---- What the authors' program found ----
static void recorded_rows_are_reproduced(void **state)
{
    (void)state;
    const char *shared = getenv("BRIGADE_SHARED");
    struct bg_str path = {0};
    bg_str_addf(&path, "%s/goldens/tessel_bubbles.tsv", shared ? shared : "../shared");
    FILE *file = fopen(path.data, "r");
    bg_str_fini(&path);
    if (!file) {
        print_message("no ../shared: the recorded rows are skipped\n");
        skip();
    }
    char line[512];
    uint32_t rows = 0;
    while (fgets(line, sizeof line, file)) {
        char name[32];
        unsigned devices, in_flight;
        long long memory, bubbles, warmup, repetend, cooldown;
        uint64_t steps[3];
        if (line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%31s %u %u %lld %lld", name, &devices, &in_flight, &memory, &bubbles), 5);
        const clock_t begin = clock();
        assert_int_equal(shape_bubbles(name, devices, in_flight, memory, steps), bubbles);
        assert_true(clock() - begin < CLOCKS_PER_SEC);
        // The fewest steps of warm-up and cool-down are unique; a repetend is any that z3 came upon.
        if (sscanf(strrchr(line, '\t'), " %lld,%lld,%lld", &warmup, &repetend, &cooldown) == 3) {
            assert_int_equal(steps[0], warmup);
            assert_true(steps[1] <= (uint64_t)repetend);
            assert_int_equal(steps[2], cooldown);
        }
        rows++;
    }
    fclose(file);
    assert_true(rows > 0);
}

static void published_shapes_have_their_bubbles(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t devices, in_flight;
        int64_t bubbles;
    } rows[] = {{"kshape", 4, 2, 1}, {"kshape", 4, 3, 0}, {"mshape", 2, 2, 1}, {"mshape", 2, 3, 0},
                {"mshape", 3, 3, 2}, {"mshape", 4, 4, 2}, {"xshape", 2, 2, 0}};
    uint64_t steps[3];
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        assert_int_equal(shape_bubbles(rows[r].name, rows[r].devices, rows[r].in_flight, 0, steps), rows[r].bubbles);
    assert_int_equal(shape_bubbles("kshape", 4, 2, 1, steps), -1); // a block takes 1 and the loss 1 more
}

// ---- Exhaustive search ----
struct judge {
    const struct plan_placement *p;
    uint32_t chain[PLAN_BLOCKS_MAX], micro[PLAN_BLOCKS_MAX], in_flight, horizon, comm;
    int64_t memory, best, start[PLAN_BLOCKS_MAX];
};

static void chain_of(struct judge *j)
{
    const uint32_t n = j->p->block_count;
    uint64_t step[PLAN_BLOCKS_MAX] = {0};
    bool done[PLAN_BLOCKS_MAX] = {0};
    for (uint32_t b = 0; b < n; b++)
        for (uint32_t i = 0; i < j->p->blocks[b].need_count; i++) {
            const uint32_t need = j->p->blocks[b].needs[i];
            if (step[need] + j->p->blocks[need].span > step[b])
                step[b] = step[need] + j->p->blocks[need].span;
        }
    for (uint32_t k = 0; k < n; k++) {
        uint32_t pick = n;
        for (uint32_t b = 0; b < n; b++)
            if (!done[b] && (pick == n || step[b] < step[pick] ||
                             (step[b] == step[pick] &&
                              __builtin_ctzll(j->p->blocks[b].devices) < __builtin_ctzll(j->p->blocks[pick].devices))))
                pick = b;
        done[pick] = true;
        j->chain[k] = pick;
    }
}

static bool memory_holds(const struct judge *j, uint32_t device)
{
    const uint32_t n = j->p->block_count;
    for (uint32_t b = 0; b < n; b++) {
        int64_t used = 0;
        for (uint32_t o = 0; o < n; o++)
            if (j->p->blocks[o].devices >> device & 1)
                used += j->p->blocks[o].memory * ((int64_t)j->micro[o] + (j->start[o] <= j->start[b]));
        if (j->p->blocks[b].devices >> device & 1 && used > j->memory)
            return false;
    }
    return true;
}

// Tries all starts of the block at place k of the chain and of those behind it.
static void try_starts(struct judge *j, uint32_t k, int64_t period)
{
    const struct plan_placement *p = j->p;
    if (k == p->block_count) {
        for (uint32_t d = 0; d < p->devices; d++)
            if (j->memory > 0 && !memory_holds(j, d))
                return;
        j->best = period;
        return;
    }
    const uint32_t b = j->chain[k];
    for (int64_t s = 0; s + p->blocks[b].span <= j->horizon && j->best != period; s++) {
        bool fits = true;
        j->start[b] = s;
        for (uint32_t q = 0; q < k && fits; q++) {
            const uint32_t o = j->chain[q];
            const int64_t end = s + p->blocks[b].span, other = j->start[o], other_end = other + p->blocks[o].span;
            const bool meets = (p->blocks[o].devices & p->blocks[b].devices) != 0;
            if (meets && ((end > other && other_end > s) || end - other > period || other_end - s > period))
                fits = false;
            for (uint32_t i = 0; i < p->blocks[b].need_count; i++)
                if (p->blocks[b].needs[i] == o &&
                    other_end + (meets ? 0 : j->comm) > s + (int64_t)(j->micro[o] - j->micro[b]) * period)
                    fits = false;
        }
        if (fits)
            try_starts(j, k + 1, period);
    }
}

// Whether blocks of all micro-batches but those of the repetend can run in some order within the memory: any order
// of blocks one after the other, since time does not matter.
static bool part_runs(const struct judge *j, bool after, uint64_t done, uint64_t tried[], uint32_t *tries)
{
    const uint32_t n = j->p->block_count;
    uint64_t all = 0;
    int64_t used[PLAN_DEVICES_MAX] = {0};
    for (uint32_t m = 0; m < j->in_flight; m++)
        for (uint32_t b = 0; b < n; b++) {
            const uint64_t bit = (uint64_t)1 << (m * n + b);
            if (after ? m > j->micro[b] : m < j->micro[b])
                all |= bit;
            if (done & bit || (after && m <= j->micro[b]))
                for (uint32_t d = 0; d < j->p->devices; d++)
                    if (j->p->blocks[b].devices >> d & 1)
                        used[d] += j->p->blocks[b].memory;
        }
    for (uint32_t d = 0; d < j->p->devices; d++)
        if (j->memory > 0 && used[d] > j->memory)
            return false;
    if (done == all)
        return true;
    for (uint32_t t = 0; t < *tries; t++)
        if (tried[t] == done)
            return false;
    assert_true(*tries < 4096);
    tried[(*tries)++] = done;
    for (uint32_t m = 0; m < j->in_flight; m++)
        for (uint32_t b = 0; b < n; b++) {
            const uint64_t bit = (uint64_t)1 << (m * n + b);
            bool ready =
                (all & bit) && !(done & bit) && !(m > 0 && all >> ((m - 1) * n + b) & 1 & ~(done >> ((m - 1) * n + b)));
            for (uint32_t i = 0; i < j->p->blocks[b].need_count; i++) {
                const uint64_t need = (uint64_t)1 << (m * n + j->p->blocks[b].needs[i]);
                ready &= !(all & need) || (done & need);
            }
            if (ready && part_runs(j, after, done | bit, tried, tries))
                return true;
        }
    return false;
}

static void try_cuts(struct judge *j, uint32_t k, uint32_t micro)
{
    const uint32_t n = j->p->block_count;
    if (k == n) {
        static uint64_t tried[4096];
        uint32_t tries = 0, more = 0;
        if (micro != 0 || !part_runs(j, false, 0, tried, &tries) || !part_runs(j, true, 0, tried, &more))
            return;
        const int64_t before = j->best;
        for (int64_t period = 1; period < before && j->best == before; period++)
            try_starts(j, 0, period);
        return;
    }
    for (uint32_t m = k == 0 ? j->in_flight - 1 : micro; m + 1 >= (k == 0 ? j->in_flight : micro); m--) {
        j->micro[j->chain[k]] = m;
        try_cuts(j, k + 1, m);
        if (m == 0)
            break;
    }
}

static void draw_placement(uint32_t *seed, struct plan_placement *p)
{
    const uint32_t devices = 1 + draw(seed, 3), half = 1 + draw(seed, 2);
    *p = (struct plan_placement){.devices = devices};
    for (uint32_t b = 0; b < 2 * half; b++) { // block b of the second half gives back what 2 * half - 1 - b took
        const bool back = b >= half;
        struct plan_block block = {.span = 1 + draw(seed, back ? 3 : 2)};
        block.name[0] = (char)('a' + b);
        block.devices = back ? p->blocks[2 * half - 1 - b].devices : 1 + draw(seed, (1u << devices) - 1);
        block.memory = back ? -p->blocks[2 * half - 1 - b].memory : (int32_t)draw(seed, 3);
        uint32_t needs[8], count = 0;
        for (uint32_t o = 0; o < b; o++)
            if (o + 1 == b ? draw(seed, 4) > 0 : draw(seed, 4) == 0)
                needs[count++] = o;
        plan_placement_add(p, &block, needs, count);
    }
}

static void small_placements_match_exhaustive_search(void **state)
{
    (void)state;
    uint32_t seed = 0, feasible = 0, refused = 0, drawn = 0;
    while (drawn < 1000) {
        struct bg_error err = {0};
        struct judge j = {.in_flight = 1 + draw(&seed, 3), .memory = draw(&seed, 6), .comm = draw(&seed, 2)};
        struct plan_placement p;
        uint64_t steps[3];
        draw_placement(&seed, &p);
        if (plan_placement_check(&p, &err) == BG_OK) {
            int64_t least = INT64_MAX;
            j.p = &p;
            for (uint32_t b = 0; b < p.block_count; b++)
                j.horizon += p.blocks[b].span + j.comm;
            j.best = j.horizon + 1;
            chain_of(&j);
            if (j.in_flight <= p.block_count)
                try_cuts(&j, 0, 0);
            for (uint32_t d = 0; d < p.devices; d++) {
                int64_t work = 0;
                for (uint32_t b = 0; b < p.block_count; b++)
                    work += p.blocks[b].devices >> d & 1 ? p.blocks[b].span : 0;
                least = work < least ? work : least;
            }
            const int64_t expected = j.best > j.horizon ? -1 : j.best - least;
            assert_int_equal(bubbles_of(&p, j.in_flight, j.memory, j.comm, steps), expected);
            expected < 0 ? refused++ : feasible++;
            drawn++;
        }
        plan_placement_fini(&p);
    }
    assert_true(feasible > 300 && refused > 60);
}

// ---- Fewest in flight, and effort ----
static void fewest_in_flight_without_bubbles(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct plan_placement p;
    struct plan_tessel t;
    assert_int_equal(plan_placement_shape("kshape", 4, &err, &p), BG_OK);
    assert_int_equal(plan_tessel_solve(&p, &(struct plan_tessel_options){0}, &err, &t), BG_OK);
    assert_int_equal(t.in_flight, 3);
    assert_int_equal(t.bubbles, 0);
    struct plan_tessel_run run;
    assert_int_equal(plan_tessel_unroll(&p, &t, 2, 0, &err, &run), BG_INVALID);
    plan_tessel_fini(&t);
    assert_int_equal(plan_tessel_solve(&p, &(struct plan_tessel_options){.in_flight_max = 2}, &err, &t), BG_OK);
    assert_int_equal(t.in_flight, 2);
    plan_tessel_fini(&t);
    assert_int_equal(plan_tessel_solve(&p, &(struct plan_tessel_options){.in_flight = 11}, &err, &t), BG_INVALID);
    plan_placement_fini(&p);
    // A search that is cut short says so, and what it has is a schedule.
    assert_int_equal(plan_placement_shape("nnshape", 4, &err, &p), BG_OK);
    assert_int_equal(plan_tessel_solve(&p, &(struct plan_tessel_options){.in_flight = 4, .effort = 1000000}, &err, &t),
                     BG_OK);
    assert_false(t.proved);
    assert_int_equal(plan_tessel_unroll(&p, &t, 9, 0, &err, &run), BG_OK);
    check_run(&p, &run, 9, 0, 0);
    plan_tessel_run_fini(&run);
    plan_tessel_fini(&t);
    plan_placement_fini(&p);
}

// ---- Without search, and as pipelines ----
static void periodic_schedules_keep_the_rules(void **state)
{
    (void)state;
    uint32_t seed = 40000, made = 0;
    for (int round = 0; round < 300; round++) {
        struct bg_error err = {0};
        struct plan_placement p;
        struct plan_tessel_run run;
        const uint32_t micro_batches = 1 + draw(&seed, 6), comm = draw(&seed, 3);
        const int64_t memory = draw(&seed, 6);
        draw_placement(&seed, &p);
        if (plan_placement_check(&p, &err) == BG_OK &&
            plan_tessel_periodic(&p, micro_batches, memory, comm, round % 2, &err, &run) == BG_OK) {
            check_run(&p, &run, micro_batches, memory, comm);
            plan_tessel_run_fini(&run);
            made++;
        }
        plan_placement_fini(&p);
    }
    assert_true(made > 100);
    // Of a pipeline it is the schedule without bubbles.
    struct bg_error err = {0};
    struct plan_placement p;
    struct plan_tessel_run run;
    assert_int_equal(plan_placement_shape("vshape", 4, &err, &p), BG_OK);
    assert_int_equal(plan_tessel_periodic(&p, 8, 4, 0, false, &err, &run), BG_OK);
    assert_int_equal(run.makespan, (8 + 4 - 1) * 4);
    assert_int_equal(run.peak_memory[0], 4);
    plan_tessel_run_fini(&run);
    plan_placement_fini(&p);
}

// Two opposite pipelines over the same four workers, and one more that meets nobody; B and W apart and fused.
static void opposite_pipelines_are_one_search(void **state)
{
    (void)state;
    static const double ones[4] = {1, 1, 1, 1}, twos[4] = {2, 2, 2, 2};
    for (int split = 0; split < 2; split++) {
        uint32_t at[4 * 12];
        for (uint32_t s = 0; s < 4; s++)
            for (uint32_t i = 0; i < 12; i++) // 5 down, 4 up, 3 elsewhere
                at[s * 12 + i] = i < 5 ? s : i < 9 ? 3 - s : 4 + s;
        const struct plan_pipe pipe = {8, 4, 12, 1, at, ones, twos, ones, 0, 0, split, 0};
        struct plan_list lists[8] = {0};
        struct plan_schedule_time time;
        struct bg_error err = {0};
        assert_int_equal(plan_order_tessel(&pipe, &err, lists), BG_OK);
        assert_int_equal(plan_schedule_replay(&pipe, lists, &err, &time), BG_OK);
        assert_true(time.busy[0] == 9 * 4 && time.makespan >= 9 * 4);
        assert_true(time.makespan < (5 + 3) * 4 + (4 + 3) * 4); // less than one pipeline after the other
        plan_schedule_time_fini(&time);
        for (uint32_t w = 0; w < 8; w++)
            bg_free(lists[w].ops);
    }
    // Too many stages for the records of a placement.
    static uint32_t many[70];
    static double times[70];
    for (uint32_t s = 0; s < 70; s++)
        many[s] = s, times[s] = 1;
    const struct plan_pipe pipe = {70, 70, 1, 1, many, times, times, times, 0, 0, false, 0};
    struct plan_list lists[70] = {0};
    struct bg_error err = {0};
    assert_int_equal(plan_order_tessel(&pipe, &err, lists), BG_UNSUPPORTED);
}

// With B and W apart, gaps are filled as ZB-H1 fills them: (P - 1) (F + B - W) of them stay, in the memory of 1F1B.
static void weight_gradients_fill_gaps(void **state)
{
    (void)state;
    static const double ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (uint32_t workers = 2; workers <= 16; workers += 7) {
        uint32_t at[16 * 40];
        const uint32_t items = 40;
        for (uint32_t s = 0; s < workers; s++)
            for (uint32_t i = 0; i < items; i++)
                at[s * items + i] = s;
        const struct plan_pipe pipe = {workers, workers, items, 1, at, ones, ones, ones, 0, 0, true, 0};
        struct plan_list lists[16] = {0};
        struct plan_schedule_time time;
        struct bg_error err = {0};
        assert_int_equal(plan_order_tessel(&pipe, &err, lists), BG_OK);
        assert_int_equal(plan_schedule_replay(&pipe, lists, &err, &time), BG_OK);
        assert_true(time.bubble == workers - 1);
        for (uint32_t w = 0; w < workers; w++) {
            assert_true(time.peak[w] <= workers);
            bg_free(lists[w].ops);
        }
        plan_schedule_time_fini(&time);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_rows_are_reproduced),
        cmocka_unit_test(published_shapes_have_their_bubbles),
        cmocka_unit_test(small_placements_match_exhaustive_search),
        cmocka_unit_test(fewest_in_flight_without_bubbles),
        cmocka_unit_test(periodic_schedules_keep_the_rules),
        cmocka_unit_test(opposite_pipelines_are_one_search),
        cmocka_unit_test(weight_gradients_fill_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
