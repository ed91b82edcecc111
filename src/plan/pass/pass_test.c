// Passes: what they may change and what not, counted by hand from the records; choices against every form there is.
#include "plan/pass/pass.h"

#include "base/mem.h"
#include "plan/cost/timeline.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <string.h>

static struct plan build(uint32_t stages, const uint32_t *replicas, uint32_t micro_batches, enum plan_schedule schedule,
                         struct plan_passes passes)
{
    static const double costs[4] = {1, 1, 1, 1};
    const struct plan_options options = {.costs = costs,
                                         .units = 4,
                                         .micro_batches = micro_batches,
                                         .group = 1,
                                         .replicas = replicas,
                                         .stages = stages,
                                         .schedule = schedule,
                                         .chunks = 2,
                                         .followers = 1,
                                         .passes = passes};
    struct bg_error err;
    struct plan plan;
    if (plan_build(&options, &err, &plan))
        fail_msg("%s", err.text);
    return plan;
}

static const uint32_t shapes[][4] = {{3}, {2, 2}, {1, 2}, {2, 1}};
static const uint32_t shape_stages[] = {1, 2, 2, 2};
enum { SHAPES = 4 };

static void expect_text(const struct plan *plan, const char *text)
{
    char *found = plan_format(plan);
    assert_string_equal(found, text);
    bg_free(found);
}

// ---- The record ----
static void runs_partition_the_pieces(void **state)
{
    (void)state;
    for (uint32_t pieces = 1; pieces <= 130; pieces++)
        for (uint32_t runs = 1; runs <= pieces; runs++) {
            uint32_t at = 0, least = UINT32_MAX, most = 0;
            for (uint32_t r = 0; r < runs; r++) {
                uint32_t first, end;
                plan_run_pieces(pieces, runs, r, &first, &end);
                assert_true(first == at && end > first);
                for (; at < end; at++)
                    assert_int_equal(plan_run_of(pieces, runs, at), r);
                least = end - first < least ? end - first : least;
                most = end - first > most ? end - first : most;
            }
            assert_int_equal(at, pieces);
            assert_true(most - least <= 1);
        }
    uint32_t first, end;
    // A message of 2 GiB would be refused: more of them, the last chunk has the rest.
    const uint32_t one[1] = {1};
    struct plan plan = build(1, one, 1, PLAN_1F1B, (struct plan_passes){.chunks = 2});
    const uint32_t large = 9 * PLAN_RUN_PIECES + 1;
    assert_int_equal(plan_sum_runs(&plan, 0, 2 * PLAN_RUN_PIECES), 2);
    assert_int_equal(plan_sum_runs(&plan, 0, large), 10);
    for (uint32_t r = 0; r < 10; r++) {
        plan_run_pieces(large, 10, r, &first, &end);
        assert_true(end - first <= PLAN_RUN_PIECES);
        assert_true(plan_run_in_chunk(&plan, 0, r, 0) == (r == 0) && plan_run_in_chunk(&plan, 0, r, 1) == (r > 0));
    }
    plan_fini(&plan);
    plan_run_pieces(UINT32_MAX, 64, 63, &first, &end);
    assert_int_equal(end, UINT32_MAX);
    assert_int_equal(plan_run_of(UINT32_MAX, 64, UINT32_MAX - 1), 63);
}

// Whatever the passes: each worker with a seat reduces each chunk of its stages once, behind its gradients, and
// computes what it computed before, in the same order; turning everything off gives back the plan that was.
static void passes_keep_the_work(void **state)
{
    (void)state;
    for (uint32_t shape = 0; shape < SHAPES; shape++)
        for (uint32_t kind = 0; kind < 3; kind++) {
            const enum plan_schedule schedule = kind == 2 ? PLAN_INTERLEAVED : kind ? PLAN_ZB_H1 : PLAN_1F1B;
            struct plan plain = build(shape_stages[shape], shapes[shape], 6, schedule, (struct plan_passes){0});
            char *before = plan_format(&plain);
            for (uint32_t c = 0; c < 60; c++) {
                const struct plan_passes passes = {c & 1, c >> 1 & 1 ? c % 7 : 0, c % 4};
                struct plan plan = plan_copy(&plain), again;
                struct bg_error err;
                plan_passes_apply(&plan, &passes);
                if (plan_validate(&plan, &err))
                    fail_msg("%s", err.text);
                for (uint32_t w = 0; w < plan.workers; w++) {
                    uint32_t chunks[PLAN_STAGES_MAX] = {0}, leaves[PLAN_STAGES_MAX] = {0}, last[PLAN_STAGES_MAX] = {0};
                    size_t k = 0;
                    for (size_t i = 0; i < plan.lists[w].count; i++) {
                        const struct plan_op *op = &plan.lists[w].ops[i];
                        if (op->kind == PLAN_COLL) {
                            assert_int_equal(op->slice, chunks[op->stage]++);
                            continue;
                        }
                        if (op->kind == PLAN_W || op->flags & PLAN_FUSED)
                            assert_true(chunks[op->stage] == 0 && last[op->stage] == 0 && ++leaves[op->stage] > 0);
                        last[op->stage] += op->kind <= PLAN_W && op->flags & PLAN_LAST;
                        while (plain.lists[w].ops[k].kind == PLAN_COLL)
                            k++;
                        const struct plan_op *was = &plain.lists[w].ops[k++];
                        assert_true(op->kind == was->kind && op->stage == was->stage && op->item == was->item &&
                                    op->peer == was->peer && op->slice == was->slice);
                        assert_int_equal(op->flags & ~PLAN_LAST, was->flags & ~PLAN_LAST);
                    }
                    for (uint32_t s = 0; s < plan.stage_count; s++) {
                        assert_int_equal(last[s], leaves[s] > 0 && !passes.held);
                        assert_int_equal(chunks[s], leaves[s] == 0 ? 0 : passes.chunks > 1 ? passes.chunks : 1);
                    }
                }
                char *text = plan_format(&plan);
                if (plan_parse(text, strlen(text), &err, &again))
                    fail_msg("%s", err.text);
                expect_text(&again, text);
                plan_passes_apply(&again, &(struct plan_passes){0});
                expect_text(&again, before);
                bg_free(text);
                plan_fini(&again);
                plan_fini(&plan);
            }
            bg_free(before);
            plan_fini(&plain);
        }
}

static void a_record_as_text(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {2};
    struct plan plan = build(1, replicas, 2, PLAN_GPIPE, (struct plan_passes){.chunks = 3, .owner = 2});
    expect_text(&plan, "plan 1 units 4 micro_batches 2 workers 3\n"
                       "stage 0 0 4\nitem 0 0 1\nitem 1 1 2\nseat 0 0 0\nseat 1 0 1\nfollow 2 0 4\n"
                       "sums 0 3 1\nmbmap 0 0 0\nmbmap 0 1 1\n"
                       "list 0: 0F0 0BW0.l 0COLL.reduce/0 0COLL.reduce/1 0COLL.reduce/2 STEP\n"
                       "list 1: 0F1 0BW1.l 0COLL.reduce/0 0COLL.reduce/1 0COLL.reduce/2 STEP\n"
                       "list 2: STEP\n");
    plan_fini(&plan);
    // Chunks stand between other work where there is some behind the first: here that of the other stage.
    const uint32_t one[1] = {1};
    plan = build(1, one, 3, PLAN_INTERLEAVED, (struct plan_passes){.chunks = 3, .held = true});
    char *text = plan_format(&plan);
    assert_non_null(strstr(text,
                           " 1BW2 1COLL.reduce/0 0BW2 1COLL.reduce/1 0COLL.reduce/0 0COLL.reduce/1 1COLL.reduce/2 "
                           "0COLL.reduce/2 STEP\n"));
    bg_free(text);
    plan_fini(&plan);
}

static void refuse(const char *text, const char *from, const char *to, const char *why)
{
    const char *at = strstr(text, from);
    struct bg_error err = {0};
    struct plan plan;
    assert_non_null(at);
    char *changed = bg_format("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_true(plan_parse(changed, strlen(changed), &err, &plan) != BG_OK);
    if (!strstr(err.text, why))
        fail_msg("%s -> %s: expected \"%s\" in: %s", from, to, why, err.text);
    bg_free(changed);
}

static void bad_records_are_refused(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {2};
    struct plan plan = build(1, replicas, 2, PLAN_GPIPE, (struct plan_passes){.chunks = 2, .owner = 1});
    char *text = plan_format(&plan);
    refuse(text, "sums 0 2 0", "sums 0 65 0", "65 chunks: expected at most 64");
    refuse(text, "sums 0 2 0", "sums 0 2 2", "replica 2 folds the sums of stage 0, which has 2");
    refuse(text, "sums 0 2 0", "sums 1 2 0", "stages that there are");
    refuse(text, "sums 0 2 0", "sums 0 2 0\nsums 0 2 0", "stages that there are");
    refuse(text, "sums 0 2 0", "sums 0 2 x", "or -");
    refuse(text, "sums 0 2 0", "sums 0 -1 0", "the chunks");
    refuse(text, "sums 0 2 0\n", "", "line 10: found \"0COLL.reduce/0\"");
    refuse(text, "sums 0 2 0", "sums 0 3 0", "worker 0 has 2 of 3 0COLL.reduce");
    refuse(text, "reduce/0 0COLL.reduce/1", "reduce/1 0COLL.reduce/0", "once, in ascending order");
    refuse(text, "0COLL.reduce/1", "0COLL.reduce/0", "once, in ascending order");
    refuse(text, "0COLL.reduce/1 ", "", "1 of 2 0COLL.reduce");
    refuse(text, "0COLL.reduce/1", "0COLL.reduce/2", "line 11");
    refuse(text, "0COLL.reduce/1", "0COLL.reduce", "line 11");
    refuse(text, "0BW0.l 0COLL.reduce/0", "0COLL.reduce/0 0BW0.l", "after all weight gradients");
    bg_free(text);
    plan_fini(&plan);
}

// Who folds a run: told a second time, from the seats.
static void owners_are_replicas(void **state)
{
    (void)state;
    for (uint32_t shape = 0; shape < SHAPES; shape++)
        for (uint32_t owner = 0; owner < 5; owner++) {
            struct plan plan =
                build(shape_stages[shape], shapes[shape], 6, PLAN_1F1B, (struct plan_passes){.owner = owner});
            for (uint32_t s = 0; s < plan.stage_count; s++) {
                const uint32_t replicas = shapes[shape][s], base = s ? shapes[shape][0] : 0;
                for (uint32_t turn = 0; turn < 4; turn++)
                    for (uint32_t run = 0; run < 9; run++) {
                        const uint32_t expected =
                            owner == 0 ? (turn + run) % replicas : (owner <= replicas ? owner : replicas) - 1;
                        assert_int_equal(plan_run_owner(&plan, s, turn, run), base + expected);
                    }
            }
            plan_fini(&plan);
        }
}

// ---- Names ----
static void names(void **state)
{
    (void)state;
    static const struct {
        const char *text, *again;
        bool open[PLAN_PASSES], factors;
    } good[] = {
        {"none", "none", {0}, false},
        {"wait-free", "wait-free", {0}, false},
        {"wait-free,one-owner:0,chunks:64", "wait-free,one-owner:0,chunks:64", {0}, false},
        {"chunks:3,wait-free", "wait-free,chunks:3", {0}, false},
        {"auto", "wait-free", {true, true, true}, true},
        {"one-owner,factors", "none", {false, true, false}, true},
        {"chunks", "none", {false, false, true}, false},
    };
    static const char *const bad[] = {"",          "auto,none",  "chunks:0",       "chunks:65",          "chunks:x",
                                      "chunks:",   "one-owner:", "one-owner:1024", "one-owner:-1",       "waitfree",
                                      "chunkss:1", ",",          "chunks:00001",   "wait-free, chunks:1"};
    struct bg_error err;
    struct plan_pass_wish wish;
    char text[64];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(plan_passes_parse(good[i].text, &err, &wish), BG_OK);
        plan_passes_text(&wish.passes, text);
        assert_string_equal(text, good[i].again);
        assert_memory_equal(wish.open, good[i].open, sizeof wish.open);
        assert_int_equal(wish.factors, good[i].factors);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (plan_passes_parse(bad[i], &err, &wish) != BG_INVALID)
            fail_msg("\"%s\" was taken", bad[i]);
    plan_passes_text(&(struct plan_passes){.chunks = PLAN_CHUNKS_MAX, .owner = PLAN_WORKERS_MAX}, text);
    assert_string_equal(text, "wait-free,one-owner:1023,chunks:64");
}

// ---- Choices ----
static struct plan_profile profile_of(uint32_t machines, uint32_t seed)
{
    static const double bytes_s[] = {1e7, 1e8, 1e9, 0}, latency_s[] = {0, 1e-5, 1e-3}, message_s[] = {0, 2e-5, 1e-3};
    struct plan_profile p = {.unit_count = 4,
                             .units = bg_alloc_array(4, sizeof *p.units),
                             .machine_count = machines,
                             .machines = bg_alloc_array(machines, sizeof *p.machines),
                             .message_s = message_s[seed / 12 % 3],
                             .message_byte_s = seed % 5 ? 0 : 1e-10,
                             .reduce_byte_s = seed % 2 ? 1e-9 : 1e-10,
                             .step_byte_s = 1e-10,
                             .commit_s = 1e-4};
    p.outer = p.inner = (struct plan_link){latency_s[seed / 4 % 3], bytes_s[seed % 4]};
    for (uint32_t u = 0; u < 4; u++)
        p.units[u] = (struct plan_unit){.forward_s = 1e-3,
                                        .input_s = 1e-3,
                                        .weight_s = 1e-3 * (1 + u % 2),
                                        .parameter_bytes = PLAN_PIECE_BYTES * (seed % 6 + 0.3 + u),
                                        .gradient_bytes = u || seed % 3 ? 0 : 1000,
                                        .cut_bytes = 1e4};
    for (uint32_t m = 0; m < machines; m++)
        p.machines[m] = (struct plan_machine){.speed = seed % 7 == m ? 0.5 : 1, .threads = 1, .host = seed % 2 ? 0 : m};
    return p;
}

static double step_of(const struct plan *plan, const struct plan_profile *profile)
{
    struct bg_error err;
    struct plan_timeline t;
    if (plan_timeline(plan, profile, &err, &t))
        fail_msg("%s", err.text);
    const double step = t.step_s;
    plan_timeline_fini(&t);
    return step;
}

// Every byte of a gradient goes once from each other node's holder to its owner, whatever the messages.
static void payload_is_conserved(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 24; seed++) {
        struct plan_profile profile = profile_of(4, seed);
        for (uint32_t owner = 0; owner <= 2; owner++)
            for (uint32_t chunks = 0; chunks <= 12; chunks++) {
                const uint32_t replicas[1] = {2};
                struct plan plan = build(1, replicas, 4, PLAN_1F1B, (struct plan_passes){seed & 1, chunks, owner});
                struct bg_error err;
                struct plan_timeline t;
                double all = 0, parts = 0, rows = profile.units[0].gradient_bytes;
                assert_int_equal(plan_timeline(&plan, &profile, &err, &t), BG_OK);
                for (uint32_t u = 0; u < 4; u++)
                    all += u == 0 && rows > 0 ? rows : profile.units[u].parameter_bytes;
                for (uint32_t w = 0; w < 2; w++) // a part there and its root back, between the two
                    parts += t.link_bytes[w * 3 + 1 - w];
                if (fabs(parts - 2 * all) > 1e-6 * all || fabs(t.workers[2].received_bytes - all) > 1e-6 * all)
                    fail_msg("seed %u, owner %u, chunks %u: %g and %g of %g bytes", seed, owner, chunks, parts,
                             t.workers[2].received_bytes, all);
                if (owner) { // the other has nothing to give to the follower
                    assert_true(fabs(t.link_bytes[(owner - 1) * 3 + 2] - all) < 1e-6 * all);
                    assert_true(t.link_bytes[(2 - owner) * 3 + 2] <= 0);
                }
                plan_timeline_fini(&t);
                plan_fini(&plan);
            }
        plan_profile_fini(&profile);
    }
}

// The best number of chunks is the best of all; no pass that auto takes makes a step longer, by any profile.
static void auto_is_never_longer(void **state)
{
    (void)state;
    uint32_t taken[PLAN_PASSES] = {0};
    for (uint32_t seed = 0; seed < 72; seed++)
        for (uint32_t shape = 0; shape < SHAPES; shape++) {
            struct plan plan = build(shape_stages[shape], shapes[shape], 6, PLAN_1F1B, (struct plan_passes){0});
            struct plan_profile profile = profile_of(plan.workers, seed);
            struct plan_pass_wish wish = {.open = {true, true, true}};
            struct plan_pass_gain gains[PLAN_PASSES];
            struct plan_passes passes, off = {.held = true};
            struct bg_error err;
            struct plan none = plan_copy(&plan);
            plan_passes_apply(&none, &off);
            double least = step_of(&none, &profile);
            assert_int_equal(plan_passes_choose(&profile, &wish, &err, &plan, &passes, gains), BG_OK);
            assert_int_equal(plan_validate(&plan, &err), BG_OK);
            assert_true(step_of(&plan, &profile) <= least);
            assert_true(fabs(gains[0].before_s - least) < 1e-12);
            for (int p = 0; p < PLAN_PASSES; p++) {
                taken[p] += gains[p].applied;
                assert_true(!gains[p].applied || gains[p].after_s <= gains[p].before_s);
                const double now = gains[p].applied ? gains[p].after_s : gains[p].before_s;
                assert_true(p + 1 == PLAN_PASSES ? fabs(step_of(&plan, &profile) - now) < 1e-12
                                                 : fabs(gains[p + 1].before_s - now) < 1e-12);
            }
            // Chunks alone, against every number that there are pieces for.
            wish = (struct plan_pass_wish){.open = {[PLAN_PASS_CHUNKS] = true}, .passes = off};
            for (uint32_t chunks = 1; chunks <= 9; chunks++) {
                plan_passes_apply(&none, &(struct plan_passes){.held = true, .chunks = chunks});
                const double step = step_of(&none, &profile);
                least = step < least ? step : least;
            }
            assert_int_equal(plan_passes_choose(&profile, &wish, &err, &none, &passes, gains), BG_OK);
            assert_true(step_of(&none, &profile) <= least / (1 - 1e-3));
            assert_true(passes.held && passes.owner == 0);
            // One owner, against each.
            wish = (struct plan_pass_wish){.open = {[PLAN_PASS_OWNER] = true}};
            plan_passes_apply(&none, &wish.passes);
            least = step_of(&none, &profile);
            for (uint32_t owner = 1; owner <= 3; owner++) {
                plan_passes_apply(&none, &(struct plan_passes){.owner = owner});
                const double step = step_of(&none, &profile);
                least = step < least ? step : least;
            }
            assert_int_equal(plan_passes_choose(&profile, &wish, &err, &none, &passes, gains), BG_OK);
            assert_true(step_of(&none, &profile) <= least / (1 - 1e-3));
            plan_fini(&none);
            plan_fini(&plan);
            plan_profile_fini(&profile);
        }
    print_message("of 288 plans: %u wait-free, %u with one owner, %u in chunks\n", taken[0], taken[1], taken[2]);
    for (int p = 0; p < PLAN_PASSES; p++)
        assert_true(taken[p] > 0);
}

// What is asked for is priced, not judged.
static void a_wish_is_a_wish(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {2};
    struct plan plan = build(1, replicas, 4, PLAN_1F1B, (struct plan_passes){0});
    struct plan_profile profile = profile_of(3, 14); // messages take a millisecond
    struct plan_pass_wish wish = {.passes = {.held = true, .chunks = 9, .owner = 2}};
    struct plan_pass_gain gains[PLAN_PASSES];
    struct plan_passes passes;
    struct bg_error err;
    assert_int_equal(plan_passes_choose(&profile, &wish, &err, &plan, &passes, gains), BG_OK);
    assert_true(passes.held && passes.chunks == 9 && passes.owner == 2);
    assert_true(plan.sums[0].chunks == 9 && plan.sums[0].owner == 2);
    assert_true(!gains[PLAN_PASS_WAIT_FREE].applied && gains[PLAN_PASS_OWNER].applied);
    assert_true(fabs(step_of(&plan, &profile) - gains[PLAN_PASS_CHUNKS].after_s) < 1e-12);
    plan_fini(&plan);
    plan_profile_fini(&profile);
}

// ---- Factors ----
// A message for each row and unit, counted one by one for square weights, where the bound is exact.
static void factors_by_count(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {3};
    struct plan plan = build(1, replicas, 7, PLAN_1F1B, (struct plan_passes){0}); // 3, 2, 2 micro-batches
    struct plan_profile profile = profile_of(4, 0);
    const double side = 64;
    for (uint32_t u = 0; u < 4; u++)
        profile.units[u] = (struct plan_unit){.weight_s = 1, .parameter_bytes = side * side * 4};
    for (uint32_t m = 0; m < 4; m++)
        profile.machines[m].speed = 2;
    for (double rows = 1; rows < 64; rows *= 1.5) {
        const struct plan_factors found = plan_pass_factors(&plan, &profile, rows);
        double most = 0, least = INFINITY;
        for (uint32_t w = 0; w < 3; w++) {
            const double mine = w == 0 ? 3 : 2;
            double moved = 0;
            for (uint32_t other = 0; other < 3; other++)
                moved += other == w ? 0 : mine * rows * 2 * side * 4 + (other == 0 ? 3 : 2) * rows * 2 * side * 4;
            most = moved > most ? moved : most;
            least = moved < least ? moved : least;
        }
        const double full = 4 * (2.0 / 3) * side * side * 4; // to and from, parts and roots
        assert_int_equal(found.units, most < full ? 4 : 0);
        assert_true(fabs(found.full - 4 * full) < 1e-6);
        assert_true(fabs(found.factors - (most < full ? 4 * most : 4 * full)) < 1e-6);
        assert_true(fabs(found.weight_s - (most < full ? 4 * 5 / 2.0 : 0)) < 1e-9); // the others' micro-batches
    }
    assert_int_equal(plan_pass_factors(&plan, &profile, 1).units, 4);
    assert_int_equal(plan_pass_factors(&plan, &profile, 60).units, 0);
    plan_fini(&plan);
    plan_profile_fini(&profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_partition_the_pieces), cmocka_unit_test(passes_keep_the_work),
        cmocka_unit_test(a_record_as_text),          cmocka_unit_test(bad_records_are_refused),
        cmocka_unit_test(owners_are_replicas),       cmocka_unit_test(names),
        cmocka_unit_test(payload_is_conserved),      cmocka_unit_test(auto_is_never_longer),
        cmocka_unit_test(a_wish_is_a_wish),          cmocka_unit_test(factors_by_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
