// Batch-sync schedules: the rules told a second time, closed forms of two towers, and memory.
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_towers_have_the_closed_form),
        cmocka_unit_test(ranges_bound_the_memory),
        cmocka_unit_test(any_blocks_will_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
