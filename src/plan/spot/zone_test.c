// Zones: the choice against brute force, a run over zones against one over a single trace and against a bill made by
// hand, the promise to be in time, decisions replayed, and texts.
#include "plan/spot/deadline.h"

#include "base/mem.h"
#include "base/philox.h"
#include "plan/spot/zone.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

enum { TICKS = 200, ZONES = 4 };

static uint32_t drawn(uint32_t seed, uint32_t index)
{
    return bg_philox((struct bg_philox_counter){{index, 77}}, (struct bg_philox_key){{seed, 21}}).c[0];
}

static const char *const names[ZONES] = {"west-2a", "west-2b", "east.1", "n_4"};

struct market {
    uint32_t spot[ZONES][TICKS], together[TICKS];
    double price[TICKS];
    struct plan_zone_trace list[ZONES];
    struct plan_zones zones;
    struct plan_deadline job;
};

static void draw_market(uint32_t seed, struct market *m)
{
    uint32_t at = 0;
    m->zones = (struct plan_zones){m->list, 1 + drawn(seed, at++) % ZONES, m->together};
    m->job = (struct plan_deadline){.gap_s = 600, .instances = 1 + drawn(seed, at++) % 3};
    m->job.work_s = 600.0 * (10 + drawn(seed, at++) % 60);
    m->job.overhead_s = 60.0 * (drawn(seed, at++) % 25);
    m->job.deadline_s = m->job.work_s + m->job.overhead_s + 600.0 * (2 + drawn(seed, at++) % 60);
    for (uint32_t z = 0; z < ZONES; z++) {
        const uint32_t stays = 1 + drawn(seed, at++) % 9;
        m->list[z] = (struct plan_zone_trace){names[z], m->spot[z], {0, 0.5 + (drawn(seed, at++) % 3) / 4.0, 3}, NULL};
        m->list[z].price[PLAN_RENT_ON_DEMAND] += drawn(seed, at++) % 2;
        for (uint32_t t = 0; t < TICKS; t++)
            m->spot[z][t] = t && drawn(seed, at++) % stays ? m->spot[z][t - 1] : drawn(seed, at++) % 5;
    }
    for (uint32_t t = 0; t < TICKS; t++)
        m->price[t] = 0.25 + (drawn(seed, at++) % 100) / 100.0;
    if (drawn(seed, at++) % 2)
        m->list[0].spot_price = m->price;
    plan_zones_together(m->list, m->zones.count, TICKS, m->together);
}

// Cost, moves and the end once more, from the decisions alone.
static void check_run(const struct market *m, const struct plan_policy *policy, const struct plan_moment *moments,
                      const struct plan_bill *bill, const struct plan_zone_bill *of_zones)
{
    struct bg_error err;
    double cost = 0, zone_cost = 0;
    uint32_t moves = 0, where = PLAN_NOWHERE, ticks = 0;
    for (uint32_t t = 0; t < plan_deadline_ticks(&m->job) && moments[t].decides; t++) {
        const struct plan_choice c = moments[t].decided;
        struct plan_zone here[ZONES];
        struct plan_snapshot now = moments[t].now;
        for (uint32_t z = 0; z < m->zones.count; z++)
            here[z] = plan_zone_at(&m->list[z], t);
        now.zones = here;
        char *line = plan_decision_format(policy, &now, c);
        assert_int_equal(plan_decision_replay(line, &err), BG_OK);
        char *other = bg_format("%s ", line);
        assert_true(plan_decision_replay(other, &err) != BG_OK);
        bg_free(other);
        bg_free(line);
        const struct plan_choice wrong = {c.rent == PLAN_RENT_NONE ? PLAN_RENT_SPOT : c.rent,
                                          c.zone == PLAN_NOWHERE ? 0 : (c.zone + 1) % m->zones.count};
        if (wrong.rent != c.rent || wrong.zone != c.zone) {
            line = plan_decision_format(policy, &now, wrong);
            assert_int_equal(plan_decision_replay(line, &err), BG_MISMATCH);
            bg_free(line);
        }
        if (c.rent == PLAN_RENT_NONE) {
            assert_int_equal(c.zone, PLAN_NOWHERE);
            continue;
        }
        assert_true(c.zone < m->zones.count && (c.rent != PLAN_RENT_SPOT || here[c.zone].spot >= m->job.instances));
        if (now.rent == c.rent) { // held, so it was not lost
            assert_int_equal(now.zone, c.zone);
        } else {
            for (uint32_t z = 0; z < m->zones.count; z++)
                assert_true(here[c.zone].price[c.rent] < here[z].price[c.rent] ||
                            (here[c.zone].price[c.rent] == here[z].price[c.rent] && c.zone <= z) ||
                            (c.rent == PLAN_RENT_SPOT && here[z].spot < m->job.instances));
        }
        moves += where != PLAN_NOWHERE && where != c.zone;
        where = c.zone;
        ticks++;
        cost += here[c.zone].price[c.rent] * m->job.instances * m->job.gap_s / 3600;
    }
    if (!bill->met) // what is held at the deadline is paid for up to it
        return;
    assert_int_equal(moves, bill->moves);
    assert_true(fabs(cost - bill->cost) < 1e-9 * (1 + cost));
    for (uint32_t z = 0; z < m->zones.count; z++) {
        zone_cost += of_zones[z].cost;
        ticks -= of_zones[z].ticks[PLAN_RENT_SPOT] + of_zones[z].ticks[PLAN_RENT_ON_DEMAND];
    }
    assert_true(fabs(zone_cost - bill->cost) < 1e-9 * (1 + cost) && ticks == 0);
}

static void runs(void **state)
{
    (void)state;
    uint32_t moves = 0;
    static struct market m;
    for (uint32_t seed = 0; seed < 60; seed++) {
        draw_market(seed, &m);
        struct plan_moment moments[TICKS];
        struct plan_zone_bill of_zones[ZONES];
        struct plan_bill bill;
        for (size_t i = 0; plan_policies[i]; i++) {
            plan_deadline_run_zones(&m.job, plan_policies[i], &m.zones, NULL, moments, &bill, of_zones);
            check_run(&m, plan_policies[i], moments, &bill, of_zones);
            moves += bill.moves;
        }
    }
    assert_true(moves > 100);
}

// One zone is no zone: the same ticks as over its trace.
static void one_zone(void **state)
{
    (void)state;
    static struct market m;
    for (uint32_t seed = 100; seed < 300; seed++) {
        draw_market(seed, &m);
        m.zones.count = 1;
        m.list[0].spot_price = NULL;
        plan_zones_together(m.list, 1, TICKS, m.together);
        memcpy(m.job.price, m.list[0].price, sizeof m.job.price);
        for (size_t i = 0; plan_policies[i]; i++) {
            struct plan_bill bill, plain;
            plan_deadline_run_zones(&m.job, plan_policies[i], &m.zones, NULL, NULL, &bill, NULL);
            plan_deadline_run(&m.job, plan_policies[i], m.spot[0], NULL, NULL, &plain);
            assert_memory_equal(bill.ticks, plain.ticks, sizeof bill.ticks);
            assert_true(bill.finish_s == plain.finish_s && bill.met == plain.met && bill.moves == 0);
            assert_true(fabs(bill.cost - plain.cost) < 1e-9 * (1 + plain.cost));
        }
    }
}

// Whoever promises to be in time is, also where every move costs; and a second zone as good as the first saves money.
static void in_time(void **state)
{
    (void)state;
    static struct market m;
    double alone = 0, both = 0;
    for (uint32_t seed = 1000; seed < 4000; seed++) {
        draw_market(seed, &m);
        struct plan_bill bill;
        struct bg_error err;
        memcpy(m.job.price, m.list[0].price, sizeof m.job.price);
        assert_int_equal(plan_deadline_check(&m.job, &err), BG_OK);
        for (size_t i = 0; plan_policies[i]; i++) {
            plan_deadline_run_zones(&m.job, plan_policies[i], &m.zones, NULL, NULL, &bill, NULL);
            assert_true(bill.met || !plan_policies[i]->meets_deadline);
        }
        const struct plan_policy *greedy = plan_policy_find("greedy");
        const uint32_t count = m.zones.count;
        plan_deadline_run_zones(&m.job, greedy, &m.zones, NULL, NULL, &bill, NULL);
        both += bill.cost;
        m.zones.count = 1;
        plan_zones_together(m.list, 1, TICKS, m.together);
        plan_deadline_run_zones(&m.job, greedy, &m.zones, NULL, NULL, &bill, NULL);
        alone += bill.cost;
        m.zones.count = count;
    }
    assert_true(both < 0.9 * alone);
}

static void specs(void **state)
{
    (void)state;
    struct plan_zone_spec spec;
    struct bg_error err;
    assert_int_equal(plan_zone_spec_parse("a.1=dir/t.json,0.5,3", &err, &spec), BG_OK);
    assert_string_equal(spec.name, "a.1");
    assert_string_equal(spec.trace, "dir/t.json");
    assert_true(!spec.prices && spec.price[PLAN_RENT_SPOT] == 0.5 && spec.price[PLAN_RENT_ON_DEMAND] == 3);
    plan_zone_spec_fini(&spec);
    assert_int_equal(plan_zone_spec_parse("a=t.json,,3", &err, &spec), BG_OK);
    assert_true(spec.price[PLAN_RENT_SPOT] < 0 && !spec.prices);
    plan_zone_spec_fini(&spec);
    assert_int_equal(plan_zone_spec_parse("a=t.json,p.json", &err, &spec), BG_OK);
    assert_string_equal(spec.prices, "p.json");
    assert_true(spec.price[PLAN_RENT_ON_DEMAND] < 0);
    plan_zone_spec_fini(&spec);
    static const char *const bad[] = {"",       "a",        "a=",          "=t",           "-a=t", "a b=t", "a=t,1,2,3",
                                      "a=t,-1", "a=t,1e99", "a=t,1,cheap", "a=t,1,p.json", "a=,1", "._=t"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(plan_zone_spec_parse(bad[i], &err, &spec), BG_INVALID);
    assert_int_equal(plan_zone_spec_parse("west=t,-1", &err, &spec), BG_INVALID);
    assert_non_null(strstr(err.text, "zone west"));
    static const char good[] = "{\"metadata\": {\"gap_seconds\": 3600}, \"data\": [1, 0.5]}";
    double gap_s, *prices;
    size_t count;
    assert_int_equal(plan_zone_prices_parse("p", good, strlen(good), &err, &gap_s, &prices, &count), BG_OK);
    assert_true(count == 2 && prices[0] == 1 && prices[1] == 0.5 && gap_s == 3600);
    bg_free(prices);
    static const char *const wrong[] = {"",
                                        "{}",
                                        "{\"metadata\": {\"gap_seconds\": 0}, \"data\": [1]}",
                                        "{\"metadata\": {\"gap_seconds\": 1}, \"data\": []}",
                                        "{\"metadata\": {\"gap_seconds\": 1}, \"data\": [-1]}",
                                        "{\"metadata\": {\"gap_seconds\": 1}, \"data\": [\"1\"]}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(plan_zone_prices_parse("p", wrong[i], strlen(wrong[i]), &err, &gap_s, &prices, &count),
                         BG_FORMAT);
}

// What a changed line is refused for.
static void lines(void **state)
{
    (void)state;
    struct bg_error err;
    const uint32_t spot[] = {2};
    const struct plan_zone zones[] = {{"a", 0, {0, 1, 3}}, {"b", 2, {0, 2, 3}}};
    const struct plan_snapshot now = {
        .job = {.gap_s = 600, .work_s = 600, .deadline_s = 6000, .price = {0, 2, 3}, .instances = 1},
        .spot = spot,
        .zones = zones,
        .zone_count = 2,
        .zone = PLAN_NOWHERE};
    char *line = plan_decision_format(plan_policy_find("spot"), &now, (struct plan_choice){PLAN_RENT_SPOT, 1});
    assert_int_equal(plan_decision_replay(line, &err), BG_OK);
    static const struct {
        const char *old, *new;
        bg_status status;
    } changes[] = {{"in b", "in a", BG_MISMATCH},         {" in b", "", BG_MISMATCH},
                   {"in b", "in c", BG_MISMATCH},         {"at -", "at b", BG_FORMAT},
                   {"zones 2", "zones 3", BG_FORMAT},     {"zones 2", "zones 1", BG_FORMAT},
                   {"b 2 2 3", "b 3 2 3", BG_FORMAT},     {"b 2 2 3", "a 2 2 3", BG_FORMAT},
                   {"at -", "on -", BG_FORMAT},           {"zones 2", "zones 99", BG_FORMAT},
                   {"a 0 1 3", "a 0 1e0 3", BG_MISMATCH}, {"a 0 1", "a 0 x", BG_FORMAT}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const char *at = strstr(line, changes[i].old);
        assert_non_null(at);
        char *other = bg_format("%.*s%s%s", (int)(at - line), line, changes[i].new, at + strlen(changes[i].old));
        assert_int_equal(plan_decision_replay(other, &err), changes[i].status);
        bg_free(other);
    }
    bg_free(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs),  cmocka_unit_test(one_zone), cmocka_unit_test(in_time),
        cmocka_unit_test(specs), cmocka_unit_test(lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
