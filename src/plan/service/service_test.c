// Services: the autoscaler and SpotHedge by hand, the queue against Lindley's recursion, books that balance.
#include "plan/service/service_int.h"

#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void wishes_must_last(void **state)
{
    (void)state;
    const struct plan_autoscale scale = {2,   60, 20, 60,
                                         100, 1,  8}; // 120 requests a minute a replica; 3 and 5 decisions
    struct plan_autoscale_state s = {0};
    assert_int_equal(plan_autoscale(&scale, 121, &s), 2); // from none at once
    assert_int_equal(plan_autoscale(&scale, 500, &s), 2);
    assert_int_equal(plan_autoscale(&scale, 1000, &s), 2);
    assert_int_equal(plan_autoscale(&scale, 240, &s), 2); // the wish is gone, and its count with it
    assert_int_equal(plan_autoscale(&scale, 500, &s), 2);
    assert_int_equal(plan_autoscale(&scale, 600, &s), 2);
    assert_int_equal(plan_autoscale(&scale, 361, &s), 4); // the third in a row; the last one counts
    for (int i = 0; i < 4; i++)
        assert_int_equal(plan_autoscale(&scale, 0, &s), 4);
    assert_int_equal(plan_autoscale(&scale, 0, &s), 1);
    for (int i = 0; i < 3; i++)
        plan_autoscale(&scale, 1000000, &s);
    assert_int_equal(s.target, 8);
}

static struct plan_service_decision decide(const char *name, const struct plan_service_snapshot *now)
{
    struct plan_service_decision decision = {0};
    plan_service_policy_find(name)->decide(now, &decision);
    return decision;
}

static void spothedge_by_hand(void **state)
{
    (void)state;
    struct plan_service_snapshot now = {.target = 4, .base = 1, .extra = 2, .zone_count = 3};
    const double prices[3] = {1.2, 1.0, 1.1};
    for (uint32_t z = 0; z < 3; z++)
        now.zones[z].price = prices[z];
    struct plan_service_decision d = decide("spothedge", &now); // five spot: 1, 2, 0, 1, 2
    assert_true(d.launch[0] == 1 && d.launch[1] == 2 && d.launch[2] == 2);
    assert_int_equal(d.on_demand, 4); // nothing ready: all of the target
    now.zones[1].ready = 2;
    now.zones[2].ready = 1;
    now.zones[0].starting = 2;
    d = decide("spothedge", &now);
    assert_true(!d.launch[0] && !d.launch[1] && !d.launch[2]);
    assert_int_equal(d.on_demand, 3); // 1 + (5 - 3 ready): what starts does not count
    now.zones[2].ready = 3;
    now.zones[0].starting = 0;
    d = decide("spothedge", &now);
    assert_int_equal(d.on_demand, 1);
    now.zones[1].preempted = true;
    now.zones[1].ready = 0;
    d = decide("spothedge", &now); // two short: the zone without any, then again
    assert_true(d.launch[0] == 2 && !d.launch[1] && !d.launch[2]);
    now.target = 2;
    d = decide("spothedge", &now); // three spot: there they are
    assert_true(!d.launch[0] && !d.stop[2]);
    assert_int_equal(d.on_demand, 1);
    now.extra = 0;
    now.zones[0].ready = 1;
    d = decide("spothedge", &now);                 // one wanted of four: most first
    assert_true(d.stop[2] == 2 && d.stop[0] == 1); // the dearer of two with one each
    now.base = 9;                                  // more than the target
    assert_int_equal(decide("spothedge", &now).on_demand, 2);
}

static void zones_by_their_news(void **state)
{
    (void)state;
    struct plan_service_snapshot now = {.zone_count = 3};
    plan_service_zone_lost(&now, 0);
    assert_true(now.zones[0].preempted && !now.zones[1].preempted);
    plan_service_zone_lost(&now, 2); // one good zone is too few: all are good
    assert_true(!now.zones[0].preempted && !now.zones[1].preempted && !now.zones[2].preempted);
    plan_service_zone_lost(&now, 1);
    plan_service_zone_ready(&now, 1);
    assert_false(now.zones[1].preempted);
}

// ---- The simulator ----

struct world {
    struct plan_trace_request list[400];
    struct plan_trace requests;
    uint32_t counts[3][50];
    struct plan_trace zones[3];
    struct plan_service_job job;
};

static uint64_t drawn(uint64_t *random)
{
    *random = *random * 6364136223846793005U + 1442695040888963407U;
    return *random >> 33;
}

static struct world *world_of(uint64_t seed)
{
    struct world *w = bg_alloc(sizeof *w);
    int64_t at_ns = 1000000000;
    for (uint32_t i = 0; i < 400; i++) {
        at_ns += (int64_t)(drawn(&seed) % 4000) * 1000000;
        w->list[i] =
            (struct plan_trace_request){at_ns, (uint32_t)(drawn(&seed) % 1000), 1 + (uint32_t)(drawn(&seed) % 60)};
    }
    w->requests = (struct plan_trace){.kind = PLAN_TRACE_REQUESTS, .count = 400, .requests = w->list};
    for (uint32_t z = 0; z < 3; z++) {
        for (uint32_t t = 0; t < 50; t++)
            w->counts[z][t] = drawn(&seed) % 3 > 0;
        w->zones[z] = (struct plan_trace){.kind = PLAN_TRACE_COUNTS, .count = 50, .gap_s = 60, .counts = w->counts[z]};
    }
    w->job = (struct plan_service_job){.model = {4, 1000, 0.02, 0.005, 15},
                                       .scale = {0.3, 60, 20, 40, 60, 1, 12},
                                       .extra = 1,
                                       .on_demand_price = 3,
                                       .timeout_s = 60,
                                       .requests = &w->requests,
                                       .speed = 1,
                                       .seconds = 2000,
                                       .zones = w->zones,
                                       .price = {1, 1, 1},
                                       .zone_count = 3,
                                       .zone_size = 2};
    return w;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// One replica, one request at a time: each waits for the one before it.
static void one_server_is_lindleys(void **state)
{
    (void)state;
    struct world *w = world_of(7);
    struct plan_service_job *job = &w->job;
    job->model = (struct plan_service_model){1, 1000, 0.02, 0.005, 0};
    job->scale.least = job->scale.most = 1;
    job->timeout_s = 1e9;
    job->seconds = 1e5; // the list a hundred times and more
    struct plan_service_result r;
    struct bg_error err;
    assert_int_equal(plan_service_check(job, &err), BG_OK);
    plan_service_run(job, plan_service_policy_find("on-demand"), NULL, &r);
    const double span_s = (double)(w->list[399].at_ns - w->list[0].at_ns) / 1e9 * 401 / 400;
    double *latency_s = bg_alloc_array(r.requests, sizeof *latency_s), free_s = 0;
    uint64_t count = 0;
    for (uint64_t i = 0;; i++) {
        const double at_s = (double)(w->list[i % 400].at_ns - w->list[0].at_ns) / 1e9 + span_s * (double)(i / 400);
        if (at_s >= job->seconds)
            break;
        free_s = fmax(free_s, at_s) + w->list[i % 400].prompt / 1000.0 + w->list[i % 400].generated * 0.025;
        if (free_s < job->seconds)
            latency_s[count++] = free_s - at_s;
    }
    qsort(latency_s, count, sizeof *latency_s, by_value);
    assert_int_equal(r.served, count);
    assert_int_equal(r.requests, r.served + r.failed);
    const double share[3] = {0.5, 0.9, 0.99};
    for (int i = 0; i < 3; i++)
        assert_true(fabs(r.latency_s[i] - latency_s[(uint64_t)ceil(share[i] * (double)count) - 1]) < 1e-3);
    assert_true(fabs(r.on_demand_cost - 3 * job->seconds / 3600) < 1e-6);
    assert_true(r.availability > 0.999);
    bg_free(latency_s);
    plan_service_result_fini(&r);
    bg_free(w);
}

// Two requests at once: the prompts one after the other, then steps of 30 ms together, 25 ms for the one that is left.
static void two_share_a_replica(void **state)
{
    (void)state;
    struct world *w = world_of(1);
    w->list[0] = (struct plan_trace_request){0, 100, 10};
    w->list[1] = (struct plan_trace_request){1, 200, 20};
    w->list[2] = (struct plan_trace_request){10000000000, 0, 1};
    w->requests.count = 3;
    w->job.model.start_s = 0;
    w->job.scale.least = w->job.scale.most = 1;
    w->job.seconds = 9;
    struct plan_service_result r;
    plan_service_run(&w->job, plan_service_policy_find("on-demand"), NULL, &r);
    assert_int_equal(r.served, 2);
    assert_true(fabs(r.latency_s[0] - (0.3 + 10 * 0.03)) < 1e-5);
    assert_true(fabs(r.latency_s[2] - (0.3 + 10 * 0.03 + 10 * 0.025)) < 1e-5);
    assert_true(fabs(r.first_token_s[0] - 0.1) < 1e-5 && fabs(r.first_token_s[2] - 0.3) < 1e-5);
    plan_service_result_fini(&r);
    bg_free(w);
}

static void books_balance(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world *w = world_of(seed);
        for (size_t i = 0; plan_service_policies[i]; i++) {
            struct plan_service_result r, again;
            struct bg_error err;
            assert_int_equal(plan_service_check(&w->job, &err), BG_OK);
            plan_service_run(&w->job, plan_service_policies[i], NULL, &r);
            plan_service_run(&w->job, plan_service_policies[i], NULL, &again);
            assert_int_equal(r.requests, r.served + r.failed);
            assert_true(r.served == again.served && r.latency_s[2] == again.latency_s[2] &&
                        r.spot_cost == again.spot_cost);
            assert_int_equal(r.moment_count, 100);
            double available = 0;
            for (uint32_t m = 0; m < r.moment_count; m++) {
                uint32_t room = 0;
                for (uint32_t z = 0; z < 3; z++)
                    room += 2 * w->counts[z][m * 20 / 60 % 50];
                assert_true(r.moments[m].spot <= room); // never a replica that the zones do not have
                available += r.moments[m].spot + r.moments[m].on_demand >= r.moments[m].target;
            }
            assert_true(fabs(r.availability - available / 100) < 1e-9);
            assert_true(r.latency_s[0] <= r.latency_s[1] && r.latency_s[1] <= r.latency_s[2]);
            if (strstr(plan_service_policies[i]->name, "spot-only") || strstr(plan_service_policies[i]->name, "even"))
                assert_true(r.on_demand_cost == 0 && r.on_demand_launches == 0);
            plan_service_result_fini(&r);
            plan_service_result_fini(&again);
        }
        bg_free(w);
    }
}

// Every decision of a run once more from its line, whatever the policy; a line that says another is told.
static void logged_decisions_come_out_the_same(void **state)
{
    (void)state;
    struct bg_error err;
    uint32_t lines = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct world *w = world_of(seed);
        for (size_t i = 0; plan_service_policies[i]; i++) {
            struct plan_service_result r;
            struct bg_str log = {0};
            struct bg_strlist list = {0};
            plan_service_run(&w->job, plan_service_policies[i], &log, &r);
            bg_strlist_split(&list, bg_str_text(&log), '\n');
            assert_int_equal(list.count, r.moment_count + 1); // an empty one behind the last
            for (size_t n = 0; n + 1 < list.count; n++, lines++) {
                if (plan_service_decision_replay(list.items[n], &err))
                    fail_msg("%s", err.text);
                char *digit = strstr(list.items[n], " on target ") - 1; // of the on-demand replicas wanted
                *digit = *digit == '9' ? '8' : (char)(*digit + 1);
                assert_int_equal(plan_service_decision_replay(list.items[n], &err), BG_MISMATCH);
            }
            bg_strlist_fini(&list);
            bg_str_fini(&log);
            plan_service_result_fini(&r);
        }
        bg_free(w);
    }
    assert_true(lines > 1000);
}

static void lines_are_refused(void **state)
{
    (void)state;
    static const char good[] = "service spothedge decided launch 1 1 stop 0 0 on-demand 2 on target 2 base 0 extra 0 "
                               "on-demand 0 0 zones 2 1 0 0 0 1.5 0 0 0";
    static const struct {
        const char *old, *new;
        bg_status status;
    } changes[] = {{"service spothedge", "service spothege", BG_FORMAT},
                   {"service ", "servic ", BG_FORMAT},
                   {" on target", " at target", BG_FORMAT},
                   {" decided", " said", BG_FORMAT},
                   {"target 2", "target 1025", BG_FORMAT},
                   {"target 2", "target -2", BG_FORMAT},
                   {"base 0", "bass 0", BG_FORMAT},
                   {"zones 2", "zones 0", BG_FORMAT},
                   {"zones 2", "zones 65", BG_FORMAT},
                   {"zones 2", "zones 3", BG_FORMAT},
                   {"1.5 0 0 0", "1.5 2 0 0", BG_FORMAT},
                   {"1.5 0 0 0", "nan 0 0 0", BG_FORMAT},
                   {"1.5 0 0 0", "1.5 0 0", BG_FORMAT},
                   {"1.5 0 0 0", "1.5 0 0 0 0", BG_FORMAT},
                   {"1.5 0 0 0", "1.50 0 0 0", BG_MISMATCH},
                   {"1.5 0 0 0", "1.5 1 0 0", BG_MISMATCH}, // then both go to the other zone
                   {"launch 1 1", "launch 2 0", BG_MISMATCH},
                   {"launch 1 1", "launch 1", BG_MISMATCH}};
    struct bg_error err;
    assert_int_equal(plan_service_decision_replay(good, &err), BG_OK);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const char *at = strstr(good, changes[i].old);
        assert_non_null(at);
        char *line = bg_format("%.*s%s%s", (int)(at - good), good, changes[i].new, at + strlen(changes[i].old));
        if (plan_service_decision_replay(line, &err) != changes[i].status)
            fail_msg("%s: %s", line, err.text);
        bg_free(line);
    }
    assert_int_equal(plan_service_decision_replay("", &err), BG_FORMAT);
}

static void what_makes_no_sense(void **state)
{
    (void)state;
    struct world *w = world_of(1);
    struct bg_error err;
    struct plan_service_job bad = w->job;
    bad.zone_count = 0;
    assert_int_equal(plan_service_check(&bad, &err), BG_INVALID);
    bad = w->job;
    bad.scale.rate = 0;
    assert_int_equal(plan_service_check(&bad, &err), BG_INVALID);
    bad = w->job;
    bad.model.slots = 0;
    assert_int_equal(plan_service_check(&bad, &err), BG_INVALID);
    bad = w->job;
    bad.scale.least = 13;
    assert_int_equal(plan_service_check(&bad, &err), BG_INVALID);
    bad = w->job;
    bad.seconds = NAN;
    assert_int_equal(plan_service_check(&bad, &err), BG_INVALID);
    w->requests.count = 1;
    assert_int_equal(plan_service_check(&w->job, &err), BG_INVALID);
    bg_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wishes_must_last),    cmocka_unit_test(spothedge_by_hand),
        cmocka_unit_test(zones_by_their_news), cmocka_unit_test(one_server_is_lindleys),
        cmocka_unit_test(two_share_a_replica), cmocka_unit_test(books_balance),
        cmocka_unit_test(what_makes_no_sense), cmocka_unit_test(logged_decisions_come_out_the_same),
        cmocka_unit_test(lines_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
