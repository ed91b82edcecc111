// Batch-sync schedules: the rules told a second time, closed forms of two towers, memory, and all orders of small ones.
#include "plan/schedule/distmm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

// Every block for every micro-batch once; a sync for its whole range at once; needs before, devices never twice.
static void check_run(const struct plan_placement *p, const bool *sync, const struct plan_batch_run *run,
                      uint32_t micro_batches, uint32_t range, uint32_t comm)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < run->count; i++) {
        const struct plan_batch_op *op = &run->ops[i];
        const struct plan_block *block = &p->blocks[op->block];
        const uint32_t last = op->first / range * range + range;
        assert_int_equal(op->stop - op->start, (uint64_t)block->span * (op->end - op->first));
        if (sync[op->block])
            assert_true(op->first % range == 0 && op->end == (last < micro_batches ? last : micro_batches));
        else
            assert_int_equal(op->end, op->first + 1);
        assert_true(op->stop <= run->makespan);
        seen += op->end - op->first;
        for (uint32_t j = 0; j < run->count; j++) {
            const struct plan_batch_op *other = &run->ops[j];
            const bool meets = (p->blocks[other->block].devices & block->devices) != 0;
            const bool shares = other->first < op->end && op->first < other->end;
            if (j == i)
                continue;
            assert_false(other->block == op->block && shares);
            if (meets)
                assert_true(other->stop <= op->start || op->stop <= other->start);
            for (uint32_t n = 0; n < block->need_count; n++)
                if (block->needs[n] == other->block && shares)
                    assert_true(other->stop + (meets ? 0 : comm) <= op->start);
        }
    }
    assert_int_equal(seen, p->block_count * micro_batches);
}

static void loss_blocks(const struct plan_placement *p, bool *sync)
{
    for (uint32_t b = 0; b < p->block_count; b++)
        sync[b] = strcmp(p->blocks[b].name, "lf") == 0 || strcmp(p->blocks[b].name, "lb") == 0;
}

static void two_towers_have_the_closed_form(void **state)
{
    (void)state;
    for (uint32_t devices = 2; devices <= 8; devices += 2)
        for (uint32_t m = 1; m <= 6; m++) {
            bool sync[PLAN_BLOCKS_MAX];
            struct bg_error err = {0};
            struct plan_placement p;
            struct plan_batch_run run;
            assert_int_equal(plan_placement_shape("kshape", devices, &err, &p), BG_OK);
            loss_blocks(&p, sync);
            assert_int_equal(plan_distmm(&p, sync, m, m, 0, 0, &err, &run), BG_OK);
            check_run(&p, sync, &run, m, m, 0);
            const uint32_t ramp = m + devices / 2 - 1; // forward 1, loss 1 there and 1 back for each, backward 3
            assert_int_equal(run.makespan, ramp + 2 * m + 3 * ramp);
            assert_int_equal(run.peak_memory[0], 2 * m); // all forwards, and the loss of all
            plan_batch_run_fini(&run);
            assert_int_equal(plan_distmm(&p, sync, m, m, 2 * m - 1, 0, &err, &run), BG_INVALID);
            plan_placement_fini(&p);
        }
}

static void ranges_bound_the_memory(void **state)
{
    (void)state;
    for (uint32_t range = 1; range <= 7; range++)
        for (uint32_t comm = 0; comm < 3; comm++) {
            bool sync[PLAN_BLOCKS_MAX];
            struct bg_error err = {0};
            struct plan_placement p;
            struct plan_batch_run run;
            assert_int_equal(plan_placement_shape("kshape", 4, &err, &p), BG_OK);
            loss_blocks(&p, sync);
            assert_int_equal(plan_distmm(&p, sync, 7, range, 2 * range, comm, &err, &run), BG_OK);
            check_run(&p, sync, &run, 7, range, comm);
            plan_batch_run_fini(&run);
            char enough[64];
            snprintf(enough, sizeof enough, "there is %u; %u is enough%s", 2 * range - 1, 2 * range,
                     range == 1 ? "" : "; ranges of ");
            assert_int_equal(plan_distmm(&p, sync, 7, range, 2 * range - 1, comm, &err, &run), BG_INVALID);
            assert_non_null(strstr(err.text, enough));
            assert_true(range > 1 || !strstr(err.text, "; ranges of "));
            plan_placement_fini(&p);
        }
}

// Towers of unequal depth that share a device; the sync is on one device only.
static void any_blocks_will_do(void **state)
{
    (void)state;
    static const char text[] = "placement 1 devices 3\n"
                               "block a0 span 2 memory 1 devices 0\n"
                               "block a1 span 1 memory 1 devices 1 after a0\n"
                               "block c0 span 3 memory 2 devices 1\n"
                               "block loss span 1 devices 2 after a1,c0\n"
                               "block cb span 2 memory -2 devices 1 after loss\n"
                               "block ab1 span 2 memory -1 devices 1 after loss\n"
                               "block ab0 span 4 memory -1 devices 0 after ab1\n";
    struct bg_error err = {0};
    struct plan_placement p;
    struct plan_batch_run run;
    bool sync[7] = {0};
    assert_int_equal(plan_placement_parse(text, sizeof text - 1, &err, &p), BG_OK);
    assert_int_equal(plan_distmm(&p, sync, 4, 4, 0, 0, &err, &run), BG_INVALID); // no sync
    sync[3] = true;
    assert_int_equal(plan_distmm(&p, sync, 4, 0, 0, 0, &err, &run), BG_INVALID);
    assert_int_equal(plan_distmm(&p, sync, 5, 4, 0, 1, &err, &run), BG_OK);
    check_run(&p, sync, &run, 5, 4, 1);
    plan_batch_run_fini(&run);
    plan_placement_fini(&p);
}

// ---- Every order of small ones ----

enum { SMALL = 12 };
struct small { // ops by number: their blocks, the ops they need as bits
    const struct plan_placement *p;
    uint32_t count, comm, block[SMALL], each[SMALL], needs[SMALL];
    uint64_t best;
};

// Starts any op whose needs have run as early as it can, then the rest of them, whichever way ends first.
static void search(struct small *s, uint32_t done, uint64_t *stop, const uint64_t *free_at, uint64_t makespan)
{
    if (makespan >= s->best)
        return;
    if (done + 1 == 1u << s->count)
        s->best = makespan;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct plan_block *block = &s->p->blocks[s->block[i]];
        uint64_t start = 0, free_then[3];
        if (done >> i & 1 || s->needs[i] & ~done)
            continue;
        for (uint32_t n = 0; n < s->count; n++)
            if (s->needs[i] >> n & 1) {
                const bool meets = (s->p->blocks[s->block[n]].devices & block->devices) != 0;
                const uint64_t there = stop[n] + (meets ? 0 : s->comm);
                start = there > start ? there : start;
            }
        for (uint32_t d = 0; d < s->p->devices; d++)
            if (block->devices >> d & 1)
                start = free_at[d] > start ? free_at[d] : start;
        stop[i] = start + (uint64_t)block->span * s->each[i];
        for (uint32_t d = 0; d < s->p->devices; d++)
            free_then[d] = block->devices >> d & 1 ? stop[i] : free_at[d];
        search(s, done | 1u << i, stop, free_then, stop[i] > makespan ? stop[i] : makespan);
    }
}

static uint32_t below(uint32_t *seed, uint32_t bound)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % bound;
}

// Two towers, a loss there and back, on two or three devices: blocks of random spans where they like.
static char *random_towers(uint32_t *seed, uint32_t devices)
{
    static char text[1024];
    static const char *const lines[] = {"block a0", "block a1", "block c0", "block loss", "block cb", "block ab"};
    static const char *const after[] = {"", " after a0", "", " after a1,c0", " after loss", " after loss"};
    int size = snprintf(text, sizeof text, "placement 1 devices %u\n", devices);
    for (uint32_t b = 0; b < 6; b++) // every device has one
        size += snprintf(text + size, sizeof text - (size_t)size, "%s span %u devices %u%s\n", lines[b],
                         1 + below(seed, 5), b < devices ? b : below(seed, devices), after[b]);
    return text;
}

static uint64_t best_of_all(const struct plan_placement *p, const struct plan_batch_run *run, uint32_t comm)
{
    struct small s = {.p = p, .count = run->count, .comm = comm, .best = run->makespan + 1};
    uint64_t stop[SMALL], free_at[3] = {0};
    for (uint32_t i = 0; i < run->count; i++) {
        s.block[i] = run->ops[i].block;
        s.each[i] = run->ops[i].end - run->ops[i].first;
        for (uint32_t j = 0; j < run->count; j++)
            for (uint32_t n = 0; n < p->blocks[run->ops[i].block].need_count; n++)
                if (p->blocks[run->ops[i].block].needs[n] == run->ops[j].block && run->ops[j].first < run->ops[i].end &&
                    run->ops[i].first < run->ops[j].end)
                    s.needs[i] |= 1u << j;
    }
    search(&s, 0, stop, free_at, 0);
    return s.best;
}

static void small_ones_are_the_shortest(void **state)
{
    (void)state;
    uint32_t seed = 3, equal = 0, sharp = 0, rounds = 500;
    double worst = 1;
    for (uint32_t round = 0; round < rounds; round++) {
        const uint32_t devices = 2 + below(&seed, 2), comm = below(&seed, 3), range = 1 + below(&seed, 2);
        const char *text = random_towers(&seed, devices);
        const bool sync[6] = {false, false, false, true, false, false};
        struct bg_error err = {0};
        struct plan_placement p;
        struct plan_batch_run run;
        assert_int_equal(plan_placement_parse(text, strlen(text), &err, &p), BG_OK);
        assert_int_equal(plan_distmm(&p, sync, 2, range, 0, comm, &err, &run), BG_OK);
        check_run(&p, sync, &run, 2, range, comm);
        const uint64_t best = best_of_all(&p, &run, comm);
        assert_true(run.bound <= best && best <= run.makespan);
        equal += best == run.makespan;
        sharp += best == run.bound;
        worst = (double)run.makespan / (double)best > worst ? (double)run.makespan / (double)best : worst;
        plan_batch_run_fini(&run);
        plan_placement_fini(&p);
    }
    print_message("%u of %u are the shortest, the longest is %.3f of it; the bound is reached by %u\n", equal, rounds,
                  worst, sharp);
    assert_true(equal * 10 >= rounds * 9 && worst <= 1.3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_towers_have_the_closed_form),
        cmocka_unit_test(ranges_bound_the_memory),
        cmocka_unit_test(any_blocks_will_do),
        cmocka_unit_test(small_ones_are_the_shortest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
