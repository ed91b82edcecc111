// The simulator of one step against closed forms: pipelines with unit costs, cores that are shared, bytes and what they
// take, energy and money.
#include "plan/cost/timeline.h"

#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

// P stages of one unit each, f = 1, b = 2, no other cost.
static struct plan_profile unit_costs(uint32_t units, uint32_t machines)
{
    struct plan_profile p = {.units = bg_alloc_array(units, sizeof *p.units),
                             .unit_count = units,
                             .machines = bg_alloc_array(machines, sizeof *p.machines),
                             .machine_count = machines};
    for (uint32_t u = 0; u < units; u++)
        p.units[u] = (struct plan_unit){.kind = PLAN_UNIT_BLOCK, .forward_s = 1, .input_s = 1, .weight_s = 1};
    for (uint32_t m = 0; m < machines; m++)
        p.machines[m] = (struct plan_machine){.speed = 1, .threads = 1, .host = m};
    return p;
}

static struct plan build(struct plan_options o)
{
    struct bg_error err = {0};
    struct plan plan;
    double *costs = bg_alloc_array(o.units, sizeof *costs);
    for (uint32_t u = 0; u < o.units; u++)
        costs[u] = 1;
    o.costs = costs;
    if (plan_build(&o, &err, &plan))
        fail_msg("%s", err.text);
    bg_free(costs);
    return plan;
}

static struct plan_timeline walk(const struct plan *plan, const struct plan_profile *profile)
{
    struct bg_error err = {0};
    struct plan_timeline t;
    if (plan_timeline(plan, profile, &err, &t))
        fail_msg("%s", err.text);
    return t;
}

static void near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-9 * (1 + fabs(expected))))
        fail_msg("%.12g, expected %.12g", value, expected);
}

// Turns on a core end where they end.
static void about(double value, double expected)
{
    if (!(fabs(value - expected) <= 0.01 * expected))
        fail_msg("%.12g, expected about %.12g", value, expected);
}

static struct plan pipeline(uint32_t stages, uint32_t items, enum plan_schedule schedule, bool split)
{
    const uint32_t replicas[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    return build((struct plan_options){.units = stages,
                                       .micro_batches = items,
                                       .group = 1,
                                       .replicas = replicas,
                                       .stages = stages,
                                       .schedule = schedule,
                                       .chunks = 1,
                                       .split = split});
}

// (m + p - 1)(f + b), published for 1F1B and GPipe; in flight: p - s items, or all.
static void pipelines_take_their_closed_form(void **state)
{
    (void)state;
    const uint32_t shapes[][3] = {{4, 8, 33}, {4, 16, 57}, {8, 16, 69}, {1, 5, 15}, {16, 16, 93}, {3, 1, 9}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int gpipe = 0; gpipe < 2; gpipe++) {
            const uint32_t p = shapes[i][0], m = shapes[i][1];
            struct plan plan = pipeline(p, m, gpipe ? PLAN_GPIPE : PLAN_1F1B, false);
            struct plan_profile profile = unit_costs(p, p);
            for (uint32_t u = 0; u < p; u++)
                profile.units[u].stash_bytes = 7;
            struct plan_timeline t = walk(&plan, &profile);
            near(t.compute_s, shapes[i][2]);
            near(t.step_s, shapes[i][2]);
            near(t.bubble_s, (p - 1) * 3.0);
            for (uint32_t w = 0; w < p; w++) {
                const uint32_t flights = gpipe ? m : p - w < m ? p - w : m;
                near(t.workers[w].busy_s, 3.0 * m);
                near(t.workers[w].first_s, w);
                near(t.workers[w].last_s, 3.0 * (m + p - 1) - 2.0 * w);
                near(t.workers[w].peak_bytes, 7.0 * flights);
            }
            plan_timeline_fini(&t);
            plan_profile_fini(&profile);
            plan_fini(&plan);
        }
}

// The first item's way down waits for each message; after that 1F1B hides none of them behind work (a round trip
// between neighbours is in every period), GPipe all but those of the fill and the drain.
static void messages_take_time(void **state)
{
    (void)state;
    struct plan plan = pipeline(4, 8, PLAN_GPIPE, false);
    struct plan_profile profile = unit_costs(4, 4);
    profile.outer = (struct plan_link){.latency_s = 0.25, .bytes_s = 100};
    for (uint32_t u = 0; u < 4; u++)
        profile.units[u].cut_bytes = 25;
    struct plan_timeline t = walk(&plan, &profile);
    near(t.compute_s, 33 + 6 * 0.5);
    for (uint32_t from = 0; from < 4; from++)
        for (uint32_t to = 0; to < 4; to++)
            near(t.link_bytes[from * 4 + to], abs((int)from - (int)to) == 1 ? 8 * 25 : 0);
    near(t.workers[1].sent_bytes, 400);
    near(t.workers[3].received_bytes, 200);
    plan_timeline_fini(&t);
    profile.inner = profile.outer;
    profile.outer = (struct plan_link){0};
    for (uint32_t m = 0; m < 4; m++)
        profile.machines[m].host = m / 2; // only 1 - 2 crosses hosts
    t = walk(&plan, &profile);
    near(t.compute_s, 33 + 4 * 0.5);
    plan_timeline_fini(&t);
    profile.inner = (struct plan_link){.bytes_s = 12.5}; // a message takes 2, a forward 1: the link holds all up
    t = walk(&plan, &profile);
    assert_true(t.compute_s >= 1 + 8 * 2 + 4 + 2);
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

static struct plan_options one_stage(uint32_t items, const uint32_t *replicas)
{
    return (struct plan_options){
        .units = 1, .micro_batches = items, .group = 1, .replicas = replicas, .stages = 1, .chunks = 1};
}

static void cores_are_shared(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {4};
    struct plan plan = build(one_stage(8, replicas));
    struct plan_profile profile = unit_costs(1, 4);
    struct plan_timeline t = walk(&plan, &profile);
    near(t.step_s, 6);
    plan_timeline_fini(&t);
    for (uint32_t m = 0; m < 4; m++)
        profile.machines[m] = (struct plan_machine){
            .speed = 1, .threads = 1, .host = 9, .cores = 2, .watts = 100, .idle_watts = 10, .dollars_hour = 36};
    t = walk(&plan, &profile);
    near(t.step_s, 12);
    about(t.workers[0].busy_s, 12);
    near(t.workers[0].joules, 6 * 100 + 6 * 10); // each has half a core: half of the time's energy
    near(t.dollars, 4 * 12 * 0.01);
    near(t.joules, 4 * 660);
    plan_timeline_fini(&t);
    profile.sharing = 0.75; // both cores have two: a quarter of each is lost
    t = walk(&plan, &profile);
    about(t.step_s, 16);
    plan_timeline_fini(&t);
    profile.machines[3].host = 8; // of two cores one has two, until the other one falls idle
    t = walk(&plan, &profile);
    about(t.step_s, 6 + (12 - 6 * 0.75) / 2);
    plan_timeline_fini(&t);
    profile.sharing = 0; // three on two cores, then nobody shares
    t = walk(&plan, &profile);
    near(t.workers[3].busy_s, 6);
    about(t.step_s, 9);
    plan_timeline_fini(&t);
    profile.machines[3].host = 9;
    profile.machines[3].threads = profile.machines[3].speed = 0.5; // half a core by quota: 3.5 threads on 2 cores
    t = walk(&plan, &profile);
    near(t.workers[0].busy_s, 6 * 3.5 / 2);
    near(t.step_s, 6 * 3.5 / 2 + 12 - 6); // the slow one had done 6 of its 12 seconds, now it has its core
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// Two replicas, 2^20 bytes of gradient in 4 pieces: each owns two, sends the other two and gets their roots back.
static void gradients_travel(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {2};
    struct plan_options o = one_stage(4, replicas);
    o.followers = 1;
    struct plan plan = build(o);
    struct plan_profile profile = unit_costs(1, 3);
    profile.units[0].parameter_bytes = 1 << 20;
    struct plan_timeline t = walk(&plan, &profile);
    near(t.step_s, 6);
    const double half = 1 << 19;
    near(t.link_bytes[0 * 3 + 1], 2 * half); // a part and a root
    near(t.link_bytes[1 * 3 + 0], 2 * half);
    near(t.link_bytes[0 * 3 + 2], half);
    near(t.link_bytes[1 * 3 + 2], half);
    near(t.link_bytes[2 * 3 + 0], 0);
    near(t.workers[0].peak_bytes, 5.0 * (1 << 20)); // three of state, the root, one sum
    near(t.workers[2].peak_bytes, 4.0 * (1 << 20));
    plan_timeline_fini(&t);
    profile.outer.bytes_s = 1 << 20; // parts arrive half a second after the end, roots another half
    profile.commit_s = 0.125;
    profile.step_byte_s = 2.0 / (1 << 20);
    t = walk(&plan, &profile);
    near(t.compute_s, 6);
    near(t.step_s, 6 + 0.5 + 0.5 + 0.125 + 2);
    plan_timeline_fini(&t);
    profile.outer.bytes_s = 0;
    profile.reduce_byte_s = 1.0 / (1 << 20);
    t = walk(&plan, &profile);
    near(t.step_s, 6 + 0.25 + 1 + 0.125 + 2); // an owner folds the two nodes of a piece, the follower copies all four
    plan_timeline_fini(&t);
    profile.reduce_byte_s = 0;
    profile.message_s = 0.01; // an owner posts 2, takes 1, sends 2 roots, the same again; the follower takes the last 2
    t = walk(&plan, &profile);
    near(t.step_s, 6 + 0.02 + 2 * (0.01 + 0.02) + 0.02 + 0.125 + 2);
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// With the last backward, sums leave unit by unit: all but the lowest unit's travel behind work.
static void sums_leave_while_the_rest_is_computed(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {2};
    struct plan_options o = one_stage(2, replicas);
    o.units = 4;
    struct plan plan = build(o);
    struct plan_profile profile = unit_costs(4, 2);
    for (uint32_t u = 0; u < 4; u++)
        profile.units[u].parameter_bytes = 1 << 18; // a piece
    profile.outer.bytes_s = 1 << 18;
    struct plan_timeline t = walk(&plan, &profile);
    near(t.compute_s, 12);
    assert_true(t.step_s <= 12 + 3); // not 4 parts and 4 roots one after the other
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// Embedding rows and a tied table.
static void tables_are_shared(void **state)
{
    (void)state;
    struct plan plan = pipeline(3, 3, PLAN_1F1B, false);
    struct plan_profile profile = unit_costs(3, 3);
    profile.units[0].parameter_bytes = profile.units[2].parameter_bytes = 1000;
    profile.units[0].gradient_bytes = 10;
    struct plan_timeline t = walk(&plan, &profile);
    near(t.workers[0].sent_bytes + t.workers[2].sent_bytes, 0);
    near(t.workers[0].peak_bytes, 4 * 1000 + 10);
    plan_timeline_fini(&t);
    profile.tie_bytes = 1000;
    t = walk(&plan, &profile);
    near(t.link_bytes[0 * 3 + 2], 10);
    near(t.link_bytes[2 * 3 + 0], 1000);
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// Each slice of an item takes its share; a pipeline of sliced items is one of more and shorter ones, but for W.
static void slices_take_their_share(void **state)
{
    (void)state;
    struct plan plan = pipeline(2, 1, PLAN_GPIPE, true);
    struct plan_profile profile = unit_costs(2, 2);
    profile.units[0].cut_bytes = profile.units[1].cut_bytes = 8;
    plan.slices = 2;
    for (uint32_t w = 0; w < 2; w++)
        plan.lists[w].count = 0;
    for (uint16_t k = 0; k < 2; k++) {
        plan_list_add(&plan.lists[0], (struct plan_op){PLAN_F, 0, 0, 0, 0, k});
        plan_list_add(&plan.lists[0], (struct plan_op){PLAN_SEND, 0, 0, 0, 1, k});
        plan_list_add(&plan.lists[1], (struct plan_op){PLAN_RECV, 0, 1, 0, 0, k});
        plan_list_add(&plan.lists[1], (struct plan_op){PLAN_F, 0, 1, 0, 0, k});
    }
    for (uint16_t k = 2; k-- > 0;) {
        plan_list_add(&plan.lists[1], (struct plan_op){PLAN_B, 0, 1, 0, 0, k});
        plan_list_add(&plan.lists[1], (struct plan_op){PLAN_SEND, PLAN_GRAD, 1, 0, 0, k});
        plan_list_add(&plan.lists[0], (struct plan_op){PLAN_RECV, PLAN_GRAD, 0, 0, 1, k});
        plan_list_add(&plan.lists[0], (struct plan_op){PLAN_B, 0, 0, 0, 0, k});
    }
    for (uint16_t w = 0; w < 2; w++)
        plan_list_add(&plan.lists[w], (struct plan_op){PLAN_W, 0, w, 0, 0, 0});
    struct plan_timeline t = walk(&plan, &profile);
    // F: .5 .5 | second stage .5 later; its B .5 .5; the first stage's B .5 later; W 1.
    near(t.compute_s, 0.5 + 1 + 1 + 0.5 + 1);
    near(t.link_bytes[1], 8);
    near(t.link_bytes[2], 8);
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

static void recompute_costs_a_forward(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {1};
    struct plan_options o = one_stage(4, replicas);
    o.recompute = true;
    struct plan plan = build(o);
    struct plan_profile profile = unit_costs(1, 1);
    profile.units[0].stash_bytes = 5;
    struct plan_timeline t = walk(&plan, &profile);
    near(t.compute_s, 4 * 4);
    near(t.workers[0].peak_bytes, 5);
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// GPipe moves every stash twice; in 1F1B a forward takes the room of what has just ended, and the last stage, whose
// backward follows its forward, keeps one where it is.
static void stashes_on_disk_come_back(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        const uint32_t replicas[2] = {1, 1}, stages = kind == 2 ? 2 : 1;
        struct plan_options o = one_stage(4, replicas);
        o.units = o.stages = stages;
        o.schedule = kind == 0 ? PLAN_GPIPE : PLAN_1F1B;
        o.offload = true;
        struct plan plan = build(o);
        struct plan_profile profile = unit_costs(stages, stages);
        for (uint32_t u = 0; u < stages; u++)
            profile.units[u].stash_bytes = 5;
        profile.disk_byte_s = 0.01;
        struct plan_timeline t = walk(&plan, &profile);
        near(t.workers[0].busy_s, 4 * 3 + 0.05 * (kind == 0 ? 8 : kind == 1 ? 1 : 6)); // F0 F1 B0 (F2) B1 (F3) B2 B3
        if (kind == 2)
            near(t.workers[1].busy_s, 4 * 3 + 0.05);
        for (uint32_t w = 0; w < stages; w++)
            near(t.workers[w].peak_bytes, 5);
        plan_timeline_fini(&t);
        plan_profile_fini(&profile);
        plan_fini(&plan);
    }
}

// Any plan: work is conserved, bytes sent are bytes received, spans lie in the step and those of one worker's compute
// ops do not overlap, nothing is faster than its busiest worker.
static void every_plan_adds_up(void **state)
{
    (void)state;
    const uint32_t replicas[][4] = {{1, 1, 1, 1}, {2, 2, 2, 2}, {1, 2, 1, 3}, {3, 1, 2, 1}};
    for (uint32_t shape = 0; shape < 4; shape++)
        for (uint32_t m = 3; m <= 12; m += 3)
            for (uint32_t kind = 0; kind < 6; kind++) {
                struct plan plan = build((struct plan_options){.units = 9,
                                                               .micro_batches = m,
                                                               .group = 1 + kind % 2,
                                                               .replicas = replicas[shape],
                                                               .stages = 4,
                                                               .schedule = (enum plan_schedule)(kind % 3),
                                                               .chunks = 2,
                                                               .split = kind > 2,
                                                               .recompute = kind == 4,
                                                               .followers = kind == 5});
                struct plan_profile profile = unit_costs(9, 32);
                profile.op_s = 0.01, profile.message_s = 0.02, profile.commit_s = 0.5;
                profile.inner = (struct plan_link){0.01, 1000};
                profile.outer = (struct plan_link){0.03, 500};
                profile.reduce_byte_s = profile.step_byte_s = 1e-3;
                profile.tie_bytes = 50;
                for (uint32_t u = 0; u < 9; u++)
                    profile.units[u] = (struct plan_unit){.forward_s = 1 + 0.1 * u,
                                                          .input_s = 1,
                                                          .weight_s = 0.7,
                                                          .parameter_bytes = 100,
                                                          .cut_bytes = 10};
                for (uint32_t k = 0; k < 32; k++) {
                    profile.machines[k].host = k / 3;
                    profile.machines[k].cores = 2;
                    profile.machines[k].speed = 1 + k % 2;
                }
                struct plan_timeline t = walk(&plan, &profile);
                double end = 0, sent = 0, received = 0;
                for (size_t i = 0; i < t.span_count; i++) {
                    const struct plan_span *s = &t.spans[i];
                    const bool computes = plan.lists[s->worker].ops[s->op].kind <= PLAN_W;
                    assert_true(s->start_s <= s->end_s && s->end_s <= t.step_s);
                    if (i > 0 && t.spans[i - 1].worker == s->worker)
                        assert_true(t.spans[i - 1].start_s <= s->start_s && t.spans[i - 1].op < s->op);
                    else
                        end = 0;
                    assert_true(!computes || s->start_s >= end - 1e-9);
                    end = computes ? s->end_s : end;
                }
                for (uint32_t w = 0; w < t.worker_count; w++) {
                    double work = 0;
                    for (size_t i = 0; i < plan.lists[w].count; i++) {
                        const struct plan_op *op = &plan.lists[w].ops[i];
                        const struct plan_stage *st = &plan.stages[op->stage];
                        for (uint32_t u = st->unit_first; u < st->unit_end && op->kind <= PLAN_W; u++)
                            work += (plan.items[op->item].end - plan.items[op->item].first) *
                                    (op->kind == PLAN_F   ? 1 + 0.1 * u
                                     : op->kind == PLAN_W ? 0.7
                                                          : 1 + (op->flags & PLAN_FUSED ? 0.7 : 0));
                    }
                    assert_true(t.workers[w].busy_s >= work / profile.machines[w].speed - 1e-9);
                    assert_true(t.workers[w].busy_s <= t.step_s + 1e-9);
                    sent += t.workers[w].sent_bytes;
                    received += t.workers[w].received_bytes;
                }
                near(sent, received);
                plan_timeline_fini(&t);
                plan_profile_fini(&profile);
                plan_fini(&plan);
            }
}

static void misfits_are_refused(void **state)
{
    (void)state;
    struct plan plan = pipeline(2, 2, PLAN_1F1B, false);
    struct plan_profile profile = unit_costs(2, 1);
    struct plan_timeline t;
    struct bg_error err = {0};
    assert_int_equal(plan_timeline(&plan, &profile, &err, &t), BG_INVALID);
    assert_non_null(strstr(err.text, "2 workers, the profile 1 machines"));
    plan_profile_fini(&profile);
    profile = unit_costs(3, 2);
    assert_int_equal(plan_timeline(&plan, &profile, &err, &t), BG_INVALID);
    assert_non_null(strstr(err.text, "2 units, the profile 3"));
    plan_profile_fini(&profile);
    profile = unit_costs(2, 2);
    plan.lists[0].count = 0; // nobody sends what worker 1 waits for
    assert_int_equal(plan_timeline(&plan, &profile, &err, &t), BG_INVALID);
    assert_non_null(strstr(err.text, "worker 1 waits at 1RECV_F0<0"));
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// Three workers on two cores: one is done early, but its core takes nobody who has waited for less than a turn.
static void idle_cores_stay_idle_for_a_turn(void **state)
{
    (void)state;
    const uint32_t replicas[1] = {3};
    struct plan plan = build(one_stage(3, replicas));
    struct plan_profile profile = unit_costs(1, 3);
    profile.units[0].forward_s = profile.units[0].input_s = profile.units[0].weight_s = 1e-4;
    for (uint32_t m = 0; m < 3; m++) {
        profile.machines[m].host = 0;
        profile.machines[m].cores = 2;
    }
    profile.machines[1].speed = 3;
    struct plan_timeline t = walk(&plan, &profile);
    near(t.step_s, 6e-4); // worker 2 waits for worker 0, though worker 1's core is free from 1e-4 on
    plan_timeline_fini(&t);
    profile.machines[0].threads = profile.machines[1].threads = profile.machines[2].threads = 0.5; // all at once
    t = walk(&plan, &profile);
    near(t.step_s, 3e-4);
    plan_timeline_fini(&t);
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

// A forward of 1, a backward of 2.
static void quotas_come_by_the_period(void **state)
{
    (void)state;
    const struct {
        uint32_t stages;
        double quota, period, step;
    } cases[] = {
        {1, 0, 0, 3},        {1, 0.5, 10, 3}, // all of it is in the first period
        {1, 0.5, 4, 5},                       // 2, then waits for 2, then 1
        {1, 0.25, 4, 9},                      // 1 of every 4
        {1, 0.5, 1e-6, 6},                    // a machine of half the speed
        {1, 1e-9, 100, 3e9}, {2, 0.5, 2, 8},  // its periods begin when its work does: 1-2, 3-4, 5-6
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan plan = pipeline(cases[i].stages, 1, PLAN_1F1B, false);
        struct plan_profile profile = unit_costs(cases[i].stages, cases[i].stages);
        struct plan_machine *last = &profile.machines[cases[i].stages - 1];
        last->quota = cases[i].quota;
        last->period_s = cases[i].period;
        struct plan_timeline t = walk(&plan, &profile);
        near(t.step_s, cases[i].step);
        plan_timeline_fini(&t);
        plan_profile_fini(&profile);
        plan_fini(&plan);
    }
}

static void large_plans_take_milliseconds(void **state)
{
    (void)state;
    struct plan plan = pipeline(16, 128, PLAN_1F1B, true);
    struct plan_profile profile = unit_costs(16, 16);
    for (uint32_t u = 0; u < 16; u++)
        profile.units[u].parameter_bytes = 1e8;
    double best = 1;
    for (int round = 0; round < 5; round++) {
        const clock_t start = clock();
        struct plan_timeline t = walk(&plan, &profile);
        const double taken = (double)(clock() - start) / CLOCKS_PER_SEC;
        best = taken < best ? taken : best;
        plan_timeline_fini(&t);
    }
    print_message("16 workers, 128 items: %.2f ms\n", 1e3 * best);
    assert_true(best < 0.5); // 20 ms in release; sanitizers take their time
    plan_profile_fini(&profile);
    plan_fini(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelines_take_their_closed_form),
        cmocka_unit_test(messages_take_time),
        cmocka_unit_test(cores_are_shared),
        cmocka_unit_test(gradients_travel),
        cmocka_unit_test(sums_leave_while_the_rest_is_computed),
        cmocka_unit_test(tables_are_shared),
        cmocka_unit_test(slices_take_their_share),
        cmocka_unit_test(recompute_costs_a_forward),
        cmocka_unit_test(stashes_on_disk_come_back),
        cmocka_unit_test(every_plan_adds_up),
        cmocka_unit_test(idle_cores_stay_idle_for_a_turn),
        cmocka_unit_test(quotas_come_by_the_period),
        cmocka_unit_test(misfits_are_refused),
        cmocka_unit_test(large_plans_take_milliseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
