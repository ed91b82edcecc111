// Plans in slices: any order can be had in slices, drains, and is what it says; text; what the validator refuses.
#include "plan/plan.h"

#include "base/mem.h"
#include "base/str.h"
#include "plan/plan_int.h"
#include "plan/schedule/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

enum { STAGES = 4, ITEMS = 5, SLICES = 6, KINDS = 2 };

static struct plan in_slices(enum plan_schedule schedule, const uint32_t *replicas, uint32_t stages, bool split,
                             uint32_t slices)
{
    static const double ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const struct plan_options options = {.costs = ones,
                                         .units = 8,
                                         .micro_batches = ITEMS,
                                         .group = 1,
                                         .replicas = replicas,
                                         .stages = stages,
                                         .schedule = schedule,
                                         .chunks = plan_schedule_chunks(schedule, 2),
                                         .slices = slices,
                                         .split = split};
    struct bg_error err;
    struct plan plan;
    if (plan_build(&options, &err, &plan))
        fail_msg("%s", err.text);
    return plan;
}

// Runs the lists one op at a time and knows only what an op needs: nothing of the room's.
struct machine {
    const struct plan *plan;
    bool *sent[KINDS]; // (stages, items, slices), by consumer
    bool *made[KINDS]; // by maker
    uint32_t *leaves;  // (stages, items)
    uint32_t slices;
};

static size_t place(const struct machine *m, uint32_t stage, uint32_t item, uint32_t slice)
{
    return ((size_t)stage * m->plan->item_count + item) * m->slices + slice;
}

static bool local(const struct machine *m, uint32_t worker, uint32_t stage, uint32_t item)
{
    return m->plan->route[(size_t)stage * m->plan->item_count + item] == worker;
}

static bool runs(struct machine *m, uint32_t worker, const struct plan_op *op)
{
    const uint32_t s = op->stage, i = op->item, k = op->slice, top = m->plan->stage_count - 1;
    if (op->kind == PLAN_RECV)
        return m->sent[!!op->flags][place(m, s, i, k)];
    if (op->kind == PLAN_SEND) {
        assert_true(m->made[!!op->flags][place(m, s, i, k)]);
        m->sent[!!op->flags][place(m, op->flags ? s - 1 : s + 1, i, k)] = true;
    } else if (op->kind == PLAN_F) {
        assert_true(
            s == 0 ||
            (local(m, worker, s - 1, i) ? m->made : m->sent)[0][place(m, s - local(m, worker, s - 1, i), i, k)]);
        for (uint32_t before = 0; before < k; before++)
            assert_true(m->made[0][place(m, s, i, before)]);
        assert_false(m->made[0][place(m, s, i, k)]);
        m->made[0][place(m, s, i, k)] = true;
    } else if (op->kind == PLAN_B) {
        const bool here = s < top && local(m, worker, s + 1, i);
        assert_true(s == top || (here ? m->made : m->sent)[1][place(m, s + here, i, k)]);
        for (uint32_t after = k + 1; after < m->slices; after++)
            assert_true(m->made[1][place(m, s, i, after)]);
        assert_true(m->made[0][place(m, s, i, m->slices - 1)]);
        m->made[1][place(m, s, i, k)] = true;
        m->leaves[(size_t)s * m->plan->item_count + i] += !!(op->flags & PLAN_FUSED);
        assert_true(k == 0 || !(op->flags & PLAN_FUSED));
    } else if (op->kind == PLAN_W) {
        assert_true(m->made[1][place(m, s, i, 0)]);
        m->leaves[(size_t)s * m->plan->item_count + i]++;
    }
    return true;
}

static void run(const struct plan *plan)
{
    struct machine m = {.plan = plan, .slices = plan->slices > 1 ? plan->slices : 1};
    const size_t cells = (size_t)plan->stage_count * plan->item_count, all = cells * m.slices;
    for (size_t k = 0; k < KINDS; k++) {
        m.sent[k] = bg_alloc_array(all, sizeof **m.sent);
        m.made[k] = bg_alloc_array(all, sizeof **m.made);
    }
    m.leaves = bg_alloc_array(cells, sizeof *m.leaves);
    size_t *head = bg_alloc_array(plan->workers, sizeof *head);
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t w = plan->workers; w-- > 0;)
            while (head[w] < plan->lists[w].count && runs(&m, w, &plan->lists[w].ops[head[w]])) {
                head[w]++;
                moved = true;
            }
    }
    for (uint32_t w = 0; w < plan->workers; w++)
        assert_int_equal(head[w], plan->lists[w].count);
    for (size_t c = 0; c < cells; c++)
        assert_int_equal(m.leaves[c], 1);
    for (size_t c = 0; c < all; c++)
        assert_true(m.made[0][c] && m.made[1][c]);
    for (size_t k = 0; k < KINDS; k++) {
        bg_free(m.sent[k]);
        bg_free(m.made[k]);
    }
    bg_free(m.leaves);
    bg_free(head);
}

static void any_order_in_slices(void **state)
{
    (void)state;
    for (uint32_t stages = 1; stages <= STAGES; stages++)
        for (uint32_t variant = 0; variant < PLAN_SCHEDULES * 2 * SLICES * 3; variant++) {
            const uint32_t half = PLAN_SCHEDULES * SLICES;
            const enum plan_schedule schedule = (enum plan_schedule)(variant / SLICES % PLAN_SCHEDULES);
            uint32_t replicas[STAGES];
            for (uint32_t r = 0; r < stages; r++)
                replicas[r] = 1 + (variant / half / 2 ? (r + variant / half / 2) % 2 : 0);
            const uint32_t slices = variant % SLICES + 1;
            struct plan plan = in_slices(schedule, replicas, stages, variant / half % 2, slices);
            struct plan whole = in_slices(schedule, replicas, stages, slices > 1 || variant / half % 2, 1);
            run(&plan);
            for (uint32_t k = 0; k < plan.seat_count && !plan_schedule_kind(schedule)->slices; k++) // items, not slices
                assert_int_equal(plan_flights(&plan, plan.seats[k].worker, plan.seats[k].stage),
                                 plan_flights(&whole, plan.seats[k].worker, plan.seats[k].stage));
            struct bg_error err;
            struct plan again;
            char *text = plan_format(&plan);
            if (plan_parse(text, strlen(text), &err, &again))
                fail_msg("%s in\n%s", err.text, text);
            char *twice = plan_format(&again);
            assert_string_equal(text, twice);
            assert_true(slices == 1 || plan_cut_hash(&plan) != plan_cut_hash(&whole));
            assert_true(plan_cut_hash(&plan) == plan_cut_hash(&again));
            bg_free(text);
            bg_free(twice);
            plan_fini(&again);
            plan_fini(&plan);
            plan_fini(&whole);
        }
}

// ---- Text and validator ----
static const char small[] =
    "plan 1 units 2 micro_batches 1 workers 2 slices 2\n"
    "stage 0 0 1\n"
    "stage 1 1 2\n"
    "item 0 0 1\n"
    "seat 0 0 0\n"
    "seat 1 1 0\n"
    "mbmap 0 0 0\n"
    "mbmap 1 0 1\n"
    "list 0: 0F0/0 0SEND_F0/0>1 0F0/1 0SEND_F0/1>1 0RECV_B0/1<1 0B0/1.r 0RECV_B0/0<1 0B0/0 0W0.l "
    "0COLL.reduce STEP\n"
    "list 1: 1RECV_F0/0<0 1F0/0 1RECV_F0/1<0 1F0/1 1B0/1 1SEND_B0/1>0 1BW0/0.l 1SEND_B0/0>0 "
    "1COLL.reduce STEP\n";

static void text_is_exact(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan plan;
    if (plan_parse(small, strlen(small), &err, &plan))
        fail_msg("%s", err.text);
    char *text = plan_format(&plan);
    assert_string_equal(text, small);
    run(&plan);
    bg_free(text);
    plan_fini(&plan);
}

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

static void the_validator_finds(void **state)
{
    (void)state;
    refuse("slices 2", "slices 1", "expected 2 to 64 slices");
    refuse("slices 2", "slices 65", "expected 2 to 64 slices");
    refuse("slices 2", "slices", "expected the number of slices");
    refuse("slices 2", "slices 32", "fewer ops than 2 stages x items need in 32 slices");
    refuse(" slices 2", "", "expected an op such as 0F3,");
    refuse("0F0/0", "0F0", "expected an op with its slice");
    refuse("0F0/0", "0F0/2", "expected an op with its slice");
    refuse("0F0/0", "0F0/", "expected an op with its slice");
    refuse("0W0.l", "0W0/0.l", "expected an op with its slice");
    refuse("0F0/0 0SEND_F0/0>1 0F0/1", "0F0/1 0SEND_F0/0>1 0F0/0", "slices of a forward run in ascending order");
    refuse("0F0/1 ", "0F0/0 ", "slices of a forward run in ascending order");
    refuse("0B0/1.r 0RECV_B0/0<1 0B0/0", "0B0/0.r 0RECV_B0/0<1 0B0/1", "slices of a backward run in descending order");
    refuse("0B0/0 ", "0B0/0 0B0/0 ", "computed twice");
    refuse("0B0/1.r", "0BW0/1", "the weight gradient comes with slice 0");
    refuse("0B0/0 0W0.l", "0W0.l 0B0/0", "weight gradient before its input gradient");
    refuse("1F0/1 1B0/1", "1B0/1 1F0/1", "input gradient before its forward");
    refuse("1F0/1 ", "", "input gradient before its forward");
    refuse("1RECV_F0/1<0 ", "", "its input activation is not there yet");
    refuse("0SEND_F0/1>1 ", "0SEND_F0/0>1 ", "sent twice");
    refuse("0SEND_F0/1>1 ", "", "the activation that 1F0/1 needs is awaited, but nobody sends it");
    refuse("0SEND_F0/0>1 0F0/1 0SEND_F0/1>1", "0SEND_F0/1>1 0F0/1 0SEND_F0/0>1", "sent before it is made");
    refuse("1BW0/0.l 1SEND_B0/0>0", "1SEND_B0/0>0 1BW0/0.l", "sent before it is made");
    refuse("0F0/1 0SEND_F0/1>1 0RECV_B0/1<1", "0RECV_B0/1<1 0F0/1 0SEND_F0/1>1", "does not drain");
}

static void lowering_refuses(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan plan;
    assert_int_equal(plan_parse(small, strlen(small), &err, &plan), BG_OK);
    plan_reset_lists(&plan);
    plan_list_add(&plan.lists[0], (struct plan_op){.kind = PLAN_F, .slice = 1});
    plan_list_add(&plan.lists[0], (struct plan_op){.kind = PLAN_F, .slice = 1});
    assert_int_equal(plan_lower(&plan, NULL, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "0F0/1 is computed twice"));
    plan.lists[0].ops[1].slice = 2;
    assert_int_equal(plan_lower(&plan, NULL, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "0F0/2 is a slice of 2"));
    plan.slices = PLAN_SLICES_MAX + 1;
    assert_int_equal(plan_validate(&plan, &err), BG_INVALID);
    plan_fini(&plan);
}

// The rest of a sliced step is of whole items, under the same name of its cut.
static void the_rest_is_whole(void **state)
{
    (void)state;
    static const uint32_t replicas[2] = {1, 2};
    struct plan plan = in_slices(PLAN_1F1B, replicas, 2, false, 3);
    const uint64_t cut = plan_cut_hash(&plan);
    const struct plan_holdings nothing[3] = {{0}};
    const uint8_t losses[ITEMS] = {0};
    struct plan_recovery counted;
    struct bg_error err;
    assert_int_equal(plan_recover(&plan, nothing, losses, false, &err, &counted), BG_OK);
    assert_true(plan.slices == 3 && plan_op_slices(&plan) == 1 && plan_cut_hash(&plan) == cut);
    char *text = plan_format(&plan);
    assert_non_null(strstr(text, "slices 3 rest\n"));
    assert_null(strstr(text, "/"));
    struct plan again;
    assert_int_equal(plan_parse(text, strlen(text), &err, &again), BG_OK);
    bg_free(text);
    plan_fini(&again);
    plan_fini(&plan);
}

static void positions_are_whole_runs(void **state)
{
    (void)state;
    for (uint32_t length = 1; length < 1000; length += 13)
        for (uint32_t slices = 1; slices <= plan_slices_most(length); slices++) {
            uint32_t at = 0, least = UINT32_MAX, most = 0;
            for (uint32_t k = 0; k < slices; k++) {
                uint32_t first, end;
                plan_slice_positions(length, slices, k, &first, &end);
                assert_true(first == at && end > first && first % PLAN_SLICE_ALIGN == 0);
                assert_true(end % PLAN_SLICE_ALIGN == 0 || (end == length && k + 1 == slices));
                const uint32_t runs = (end - first + PLAN_SLICE_ALIGN - 1) / PLAN_SLICE_ALIGN;
                least = runs < least ? runs : least;
                most = runs > most ? runs : most;
                at = end;
            }
            assert_true(at == length && most <= least + 1);
        }
    assert_int_equal(plan_slices_most(64), 1);
    assert_int_equal(plan_slices_most(65), 2);
    assert_int_equal(plan_slices_most(UINT32_MAX), PLAN_SLICES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_in_slices), cmocka_unit_test(text_is_exact),
        cmocka_unit_test(the_validator_finds), cmocka_unit_test(lowering_refuses),
        cmocka_unit_test(the_rest_is_whole),   cmocka_unit_test(positions_are_whole_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
