// Fleets: rates by hand, changes told a second time machine by machine, mean costs against a Monte Carlo of its own,
// the look-ahead against every sequence of shapes, and policies on traces.
#include "plan/fleet/parcae.h"

#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct plan_fleet *fleet_of(uint32_t units, uint32_t nodes, uint32_t stages_min, double interval_s)
{
    struct plan_profile profile = {.unit_count = units};
    profile.units = bg_alloc_array(units, sizeof *profile.units);
    for (uint32_t u = 0; u < units; u++)
        profile.units[u] =
            (struct plan_unit){.forward_s = 0.1, .input_s = 0.1, .weight_s = 0.1, .parameter_bytes = 1e9 + 1e8 * u};
    profile.outer.bytes_s = 1e9;
    struct plan_fleet_options options = plan_fleet_defaults;
    options.nodes_max = nodes;
    options.stages_min = stages_min;
    options.micro_batches = 24;
    options.interval_s = interval_s;
    struct plan_fleet *fleet = NULL;
    struct bg_error err;
    assert_int_equal(plan_fleet_create(&profile, &options, &err, &fleet), BG_OK);
    bg_free(profile.units);
    return fleet;
}

static void rates_by_hand(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(8, 16, 2, 60);
    // Two replicas of four stages of two units: 12 micro-batches and 3 slots of bubble, 0.6 s each; the last stage has
    // 1.6 + 1.7 GB of parameters, of which a ring of two moves as much again.
    const double step_s = 15 * 0.6 + 3.3;
    assert_true(fabs(plan_fleet_rate(fleet, (struct plan_fleet_shape){2, 4, 0}) - 24 / step_s) < 1e-9);
    assert_true(plan_fleet_rate(fleet, (struct plan_fleet_shape){1, 1, 0}) == 0);  // does not fit
    assert_true(plan_fleet_rate(fleet, (struct plan_fleet_shape){1, 9, 0}) == 0);  // more stages than units
    assert_true(plan_fleet_rate(fleet, (struct plan_fleet_shape){25, 2, 0}) == 0); // a replica without work
    // Forwards of a neighbour, 12 of 0.2 s, in a bubble of 3 x 0.6 s.
    assert_true(fabs(plan_fleet_redundant_rate(fleet, (struct plan_fleet_shape){2, 4, 0}) - 24 / (step_s + 0.6)) <
                1e-9);
    // One replica of two stages and one of three: m and n micro-batches, each as good as it gets.
    double best = INFINITY;
    for (int m = 0; m <= 24; m++)
        best = fmin(best, fmax(m ? (m + 1) * 1.2 : 0, m < 24 ? (24 - m + 2) * 0.9 : 0));
    const double reduce_s = 1.4 + 1.5 + 1.6 + 1.7; // of the deepest half
    assert_true(fabs(plan_fleet_rate(fleet, (struct plan_fleet_shape){2, 2, 1}) - 24 / (best + reduce_s)) < 1e-9);
    plan_fleet_destroy(fleet);
}

// ---- Changes, machine by machine ----

static double bytes_of(const struct plan_fleet *fleet, uint32_t first, uint32_t end)
{
    double sum = 0;
    for (uint32_t u = first; u < end; u++)
        sum += 1e9 + 1e8 * u;
    (void)fleet;
    return sum;
}

// What `holds` (the stage of each machine that lives) makes of the change; only shapes with replicas all alike.
static double told_again(const struct plan_fleet *fleet, const uint32_t *holds, uint32_t live,
                         struct plan_fleet_shape old, struct plan_fleet_shape new)
{
    const struct plan_fleet_options *o = &fleet->options;
    if (!new.replicas || (live == old.replicas * old.stages && !memcmp(&old, &new, sizeof old)))
        return 0;
    double fetched = 0, copied = 0, lost = 0;
    for (uint32_t s = 0; s < new.stages; s++) {
        const uint32_t first = fleet->cut[new.stages][s], end = fleet->cut[new.stages][s + 1];
        uint32_t have = 0;
        double most = 0;
        for (uint32_t i = 0; i < live; i++) {
            double common = 0;
            for (uint32_t u = first; u < end; u++)
                if (fleet->cut[old.stages][holds[i]] <= u && u < fleet->cut[old.stages][holds[i] + 1])
                    common += bytes_of(fleet, u, u + 1);
            most = fmax(most, common);
            have += old.stages == new.stages &&holds[i] == s;
        }
        if (have < new.replicas) {
            if (!have)
                fetched = fmax(fetched, bytes_of(fleet, first, end) - most);
            if (have || new.replicas > 1)
                copied = fmax(copied, bytes_of(fleet, first, end));
        }
    }
    for (uint32_t u = 0; u < fleet->units; u++) {
        uint32_t holders = 0;
        for (uint32_t i = 0; i < live; i++)
            holders += fleet->cut[old.stages][holds[i]] <= u && u < fleet->cut[old.stages][holds[i] + 1];
        lost += holders ? 0 : bytes_of(fleet, u, u + 1);
    }
    const uint32_t places = new.replicas *new.stages, groups = new.replicas + new.stages + 1 + places;
    double seconds = groups * (places > live ? o->group_add_s : o->group_drop_s);
    if (fetched + copied > 0 || !live)
        seconds += o->rendezvous_s + lost * o->state_factor / o->store_bytes_s;
    return seconds + (fetched + copied) * o->state_factor / fleet->link_bytes_s;
}

// Mean over draws with another generator and another way to draw.
static void mean_costs_against_another_monte_carlo(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(6, 8, 1, 60);
    struct plan_liveput *liveput = plan_liveput_create(fleet, 4000, 3);
    uint64_t random = 88172645463325252U;
    const uint32_t shapes = plan_liveput_shapes(liveput);
    for (uint32_t from = 1; from < shapes; from += 2) {
        const struct plan_fleet_shape old = plan_liveput_shape(liveput, from);
        const uint32_t nodes = old.replicas * old.stages + (from % 3 == 0 && old.replicas * old.stages < 8),
                       lost = from % 3;
        for (uint32_t to = 0; to < shapes; to += 1 + from % 2) {
            const struct plan_fleet_shape new = plan_liveput_shape(liveput, to);
            double sum = 0, squares = 0;
            const uint32_t draws = 3000;
            for (uint32_t d = 0; d < draws; d++) {
                bool gone[8] = {false};
                for (uint32_t k = 0; k < lost;) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    const uint32_t i = (uint32_t)(random >> 33) % nodes;
                    k += !gone[i];
                    gone[i] = true;
                }
                uint32_t holds[8], live = 0;
                for (uint32_t i = 0; i < old.replicas * old.stages; i++)
                    if (!gone[i])
                        holds[live++] = i % old.stages;
                const double seconds = told_again(fleet, holds, live, old, new);
                sum += seconds;
                squares += seconds * seconds;
            }
            const double mean = sum / draws, spread = sqrt(fmax(0, squares / draws - mean * mean) / draws);
            const double ours = plan_liveput_cost(liveput, nodes, lost, from, to);
            if (!(fabs(ours - mean) <= 6 * spread + 1e-6))
                fail_msg("%ux%u to %ux%u, %u of %u lost: %.4f s, by another draw %.4f +- %.4f", old.replicas,
                         old.stages, new.replicas, new.stages, lost, nodes, ours, mean, spread);
        }
    }
    plan_liveput_destroy(liveput);
    plan_fleet_destroy(fleet);
}

// 2x3 on seven machines, two lost: exactly, over all pairs. One goes with the spare: a replica is left; of the pairs
// among six those that hit one stage twice stop everything.
static void liveput_by_hand(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(6, 8, 1, 60);
    struct plan_liveput *liveput = plan_liveput_create(fleet, 20000, 3);
    const struct plan_fleet_shape shape = {2, 3, 0}, one = {1, 3, 0};
    const double want = plan_fleet_rate(fleet, one) * (21 - 3) / 21;
    assert_true(fabs(plan_liveput_rate(liveput, shape, 7, 2) - want) < 0.02 * want);
    assert_true(plan_liveput_rate(liveput, shape, 7, 0) == plan_fleet_rate(fleet, shape));
    plan_liveput_destroy(liveput);
    plan_fleet_destroy(fleet);
}

// ---- Every sequence ----

static double best_of_all(struct plan_liveput *liveput, const uint32_t *machines, uint32_t ahead, uint32_t at,
                          uint32_t stand)
{
    if (at == ahead)
        return 0;
    const struct plan_fleet *fleet = plan_liveput_fleet(liveput);
    const uint32_t before = machines[at], then = machines[at + 1], lost = before > then ? before - then : 0;
    double best = -INFINITY;
    for (uint32_t to = 0; to < plan_liveput_shapes(liveput); to++) {
        const struct plan_fleet_shape shape = plan_liveput_shape(liveput, to);
        if (plan_fleet_nodes(shape) > then)
            continue;
        const double here = plan_fleet_rate(fleet, shape) *
                            (fleet->options.interval_s - plan_liveput_cost(liveput, before, lost, stand, to));
        best = fmax(best, here + best_of_all(liveput, machines, ahead, at + 1, to));
    }
    return best;
}

static void the_look_ahead_against_every_sequence(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 12; seed++) {
        struct plan_fleet *fleet = fleet_of(4, 6, 1 + seed % 2, seed % 3 ? 40 : 15);
        struct plan_liveput *liveput = plan_liveput_create(fleet, 50, seed);
        const uint32_t now = 2 + seed % 5, machines[5] = {now, 1 + seed * 7 % 6, 1 + seed * 5 % 6, 2 + seed * 3 % 5, 6};
        const struct plan_fleet_left left = plan_fleet_whole(plan_fleet_fastest(fleet, 2 + seed % (now - 1)));
        for (uint32_t ahead = 0; ahead < 5; ahead++) {
            double best = -INFINITY, expected;
            uint32_t choice = 0;
            for (uint32_t to = 0; to < plan_liveput_shapes(liveput); to++) {
                const struct plan_fleet_shape shape = plan_liveput_shape(liveput, to);
                if (plan_fleet_nodes(shape) > now)
                    continue;
                const double value = plan_fleet_rate(fleet, shape) *
                                         (fleet->options.interval_s - plan_fleet_move(fleet, &left, shape).seconds) +
                                     best_of_all(liveput, machines, ahead, 0, to);
                if (value > best + 1e-9) {
                    best = value;
                    choice = to;
                }
            }
            const struct plan_fleet_shape got = plan_parcae_choose(liveput, &left, now, machines + 1, ahead, &expected);
            assert_true(fabs(expected - best) < 1e-6);
            const struct plan_fleet_shape want = plan_liveput_shape(liveput, choice);
            assert_memory_equal(&got, &want, sizeof got);
        }
        plan_liveput_destroy(liveput);
        plan_fleet_destroy(fleet);
    }
}

// ---- Policies on traces ----

static struct plan_fleet_result run(const struct plan_fleet *fleet, const char *name,
                                    const struct plan_trace_event *events, size_t count)
{
    struct plan_fleet_result result;
    const struct plan_fleet_policy *policy = plan_fleet_policy_find(name);
    assert_non_null(policy);
    plan_fleet_run(fleet, policy, events, count, &(struct plan_fleet_run_options){.seed = 1}, &result);
    return result;
}

static void a_quiet_trace_is_the_rate(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(6, 6, 2, 60);
    struct plan_trace_event events[7];
    for (uint32_t i = 0; i < 6; i++)
        events[i] = (struct plan_trace_event){0, i, true};
    events[6] = (struct plan_trace_event){6000000, 0, false}; // ends it
    for (size_t i = 0; plan_fleet_policies[i]; i++) {
        struct plan_fleet_result r = run(fleet, plan_fleet_policies[i]->name, events, 7);
        assert_int_equal(r.interval_count, 100);
        assert_true(r.redone == 0 && r.idle_s == 0);
        const struct plan_fleet_shape shape = r.intervals[99].shape;
        const bool redundant = plan_fleet_policies[i]->recovery == PLAN_FLEET_REDUNDANT;
        const double rate = redundant ? plan_fleet_redundant_rate(fleet, shape) : plan_fleet_rate(fleet, shape);
        assert_true(fabs(r.samples - rate * (r.seconds - r.stopped_s)) < 1e-6 * r.samples);
        if (!redundant)
            assert_true(rate == plan_fleet_rate(fleet, plan_fleet_fastest(fleet, 6)) || shape.longer);
        plan_fleet_result_fini(&r);
    }
    plan_fleet_destroy(fleet);
}

// Counts are the same machines as the events that make them.
static void counts_are_events(void **state)
{
    (void)state;
    enum { COUNTS = 60 };
    struct plan_fleet *fleet = fleet_of(6, 8, 2, 60);
    for (uint32_t seed = 0; seed < 10; seed++) {
        uint32_t counts[COUNTS];
        struct plan_trace_event events[COUNTS * 8];
        uint32_t live = 0, size = 0;
        for (uint32_t t = 0; t < COUNTS; t++) {
            counts[t] = t % 3 ? counts[t - 1] : (seed * 7 + t * t * 5 + t * seed) % 9;
            for (; live < counts[t]; live++)
                events[size++] = (struct plan_trace_event){60000 * t, live, true};
            for (; live > counts[t]; live--)
                events[size++] = (struct plan_trace_event){60000 * t, live - 1, false};
        }
        for (size_t i = 0; plan_fleet_policies[i]; i++) {
            if (plan_fleet_policies[i]->clairvoyant) // the end of a trace of events is not that of its counts
                continue;
            const struct plan_fleet_run_options options = {.seed = 1};
            struct plan_fleet_result r = run(fleet, plan_fleet_policies[i]->name, events, size), again;
            plan_fleet_run_counts(fleet, plan_fleet_policies[i], counts, COUNTS, &options, &again);
            for (uint32_t t = 0; t < r.interval_count; t++)
                assert_memory_equal(&r.intervals[t], &again.intervals[t], sizeof *r.intervals);
            plan_fleet_result_fini(&r);
            plan_fleet_result_fini(&again);
        }
    }
    plan_fleet_destroy(fleet);
}

// What came true of a shape counts, and of the others in proportion; the decisions stay.
static void what_came_true(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(6, 8, 2, 60);
    const struct plan_fleet_policy *policy = plan_fleet_policy_find("throughput-optimal");
    const uint32_t counts[] = {4, 4, 4, 6, 6, 6, 4, 4};
    const struct plan_fleet_shape four = plan_fleet_fastest(fleet, 4), six = plan_fleet_fastest(fleet, 6);
    const struct plan_fleet_seen seen = {four, plan_fleet_rate(fleet, four) / 2};
    const struct plan_fleet_truth truth = {&seen, 1, 15};
    struct plan_fleet_result r;
    plan_fleet_run_counts(fleet, policy, counts, 8, &(struct plan_fleet_run_options){.truth = &truth}, &r);
    assert_memory_equal(&r.intervals[1].shape, &four, sizeof four);
    assert_memory_equal(&r.intervals[5].shape, &six, sizeof six);
    assert_true(fabs(r.intervals[0].samples - 45 * seen.rate) < 1e-9 * seen.rate); // the start is a change
    assert_true(fabs(r.intervals[1].samples - 60 * seen.rate) < 1e-9 * seen.rate);
    assert_true(fabs(r.intervals[3].samples - 45 * plan_fleet_rate(fleet, six) / 2) < 1e-6);
    assert_true(fabs(r.intervals[6].samples - 45 * seen.rate) < 1e-6 * seen.rate);
    assert_true(fabs(r.stopped_s - 45) < 1e-9);
    plan_fleet_result_fini(&r);
    plan_fleet_destroy(fleet);
}

// The one machine that comes at 30 s is there at 60 s; the one that goes at 150 s is missing from 120 s on; the one
// that comes and goes within an interval never was.
static void events_between_two_decisions(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(6, 6, 1, 60);
    const struct plan_trace_event events[] = {{0, 1, true},      {30000, 2, true},   {150000, 1, false},
                                              {190000, 3, true}, {200000, 3, false}, {300000, 2, false}};
    struct plan_fleet_result r = run(fleet, "throughput-optimal", events, 6);
    const uint32_t want[5] = {1, 2, 1, 1, 1};
    assert_int_equal(r.interval_count, 5);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(r.intervals[i].nodes, want[i]);
    plan_fleet_result_fini(&r);
    r = run(fleet, "parcae", NULL, 0); // nothing at all
    assert_true(r.samples == 0 && r.idle_s == r.seconds);
    plan_fleet_result_fini(&r);
    plan_fleet_destroy(fleet);
}

// Machines come and go at random: books balance, the same seed gives the same figures, a checkpoint loses work and live
// state does not.
static void books_balance(void **state)
{
    (void)state;
    struct plan_fleet *fleet = fleet_of(8, 12, 2, 60);
    struct plan_trace_event events[400];
    uint64_t random = 1;
    bool there[16] = {false};
    for (size_t i = 0; i < 400; i++) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        const uint32_t node = (uint32_t)(random >> 60);
        there[node] = !there[node];
        events[i] = (struct plan_trace_event){i * 45000, node, there[node]};
    }
    for (size_t i = 0; plan_fleet_policies[i]; i++) {
        struct plan_fleet_result r = run(fleet, plan_fleet_policies[i]->name, events, 400);
        struct plan_fleet_result again = run(fleet, plan_fleet_policies[i]->name, events, 400);
        double samples = 0;
        for (uint32_t k = 0; k < r.interval_count; k++) {
            samples += r.intervals[k].samples;
            assert_true(plan_fleet_nodes(r.intervals[k].shape) <= r.intervals[k].nodes);
        }
        assert_true(fabs(samples - r.samples - r.redone) < 1e-6 * samples);
        assert_true(r.samples == again.samples && r.stopped_s == again.stopped_s);
        assert_true(r.used_node_hours <= r.node_hours + 1e-9);
        assert_true((r.redone > 0) == (plan_fleet_policies[i]->recovery != PLAN_FLEET_LIVE));
        plan_fleet_result_fini(&r);
        plan_fleet_result_fini(&again);
    }
    plan_fleet_destroy(fleet);
}

static void what_makes_no_sense(void **state)
{
    (void)state;
    struct plan_unit unit = {.forward_s = 1, .parameter_bytes = 1e9};
    struct plan_machine machine = {.memory_bytes = 1e9, .speed = 1};
    const struct plan_profile profile = {.units = &unit, .unit_count = 1, .machines = &machine, .machine_count = 1};
    struct plan_fleet *fleet;
    struct bg_error err;
    struct plan_fleet_options options = plan_fleet_defaults;
    assert_int_equal(plan_fleet_create(&profile, &options, &err, &fleet), BG_INVALID); // four times its weights
    assert_non_null(strstr(err.text, "does not fit"));
    options.stages_min = 1;
    assert_int_equal(plan_fleet_create(&profile, &options, &err, &fleet), BG_OK);
    plan_fleet_destroy(fleet);
    options.nodes_max = 65;
    assert_int_equal(plan_fleet_create(&profile, &options, &err, &fleet), BG_INVALID);
    options = plan_fleet_defaults;
    options.interval_s = NAN;
    assert_int_equal(plan_fleet_create(&profile, &options, &err, &fleet), BG_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_by_hand),
        cmocka_unit_test(mean_costs_against_another_monte_carlo),
        cmocka_unit_test(liveput_by_hand),
        cmocka_unit_test(the_look_ahead_against_every_sequence),
        cmocka_unit_test(a_quiet_trace_is_the_rate),
        cmocka_unit_test(counts_are_events),
        cmocka_unit_test(what_came_true),
        cmocka_unit_test(events_between_two_decisions),
        cmocka_unit_test(books_balance),
        cmocka_unit_test(what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
