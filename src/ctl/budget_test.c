// Renting, over scripted members: the gang is there or nothing runs, the shadow keeps the state, what was decided is
// decided again, and the curve is the one right curve, whatever the market does.
#include "ctl/world_test.h"

enum { TICKS = 4000 };

static struct ctl_budget budget_of(const char *policy, uint32_t machines)
{
    return (struct ctl_budget){.policy = plan_policy_find(policy),
                               .job = {.gap_s = 600,
                                       .work_s = 6000,
                                       .deadline_s = 60000,
                                       .overhead_s = 300,
                                       .price = {0, 1, 3},
                                       .instances = machines}};
}

static struct world *budget_world(const char *shape, uint64_t steps, struct ctl_budget *budget)
{
    struct world *w = world_create(shape, steps);
    w->o.shadow = true;
    w->o.budget = budget;
    budget->job.instances = w->o.workers;
    return w;
}

static uint32_t alive(const struct world *w, enum message_role role)
{
    uint32_t count = 0;
    for (size_t i = 0; i < w->fake_count; i++)
        count += w->fakes[i].alive && w->fakes[i].role == role;
    return count;
}

static void rents_and_gives_back(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("spot", 2);
    struct world *w = budget_world("1x2", 9, &budget);
    const uint32_t spot[] = {1, 2, 2, 1, 5};
    world_start(w);
    world_arrive_all(w);
    world_settle(w);
    assert_int_equal(alive(w, MESSAGE_WORKER), 0);
    ctl_market(w->ctl, w->now, 0, spot); // one machine is no gang
    assert_true(w->spawned_count == 0 && w->rent == PLAN_RENT_NONE);
    world_settle(w);
    assert_true(ctl_view(w->ctl).committed == 0); // the shadow alone computes nothing
    ctl_market(w->ctl, w->now, 1, spot);
    assert_int_equal(w->spawned_count, 2);
    world_arrive(w);
    world_settle(w);
    assert_true(ctl_view(w->ctl).committed == 0); // half a gang neither
    world_arrive_all(w);
    world_until(w, 3);
    ctl_market(w->ctl, w->now, 2, spot);
    ctl_market(w->ctl, w->now, 3, spot);
    expect_told(w, "spot was taken away");
    assert_int_equal(alive(w, MESSAGE_WORKER), 0);
    const uint64_t done = ctl_view(w->ctl).committed;
    world_settle(w);
    char text[256];
    ctl_describe(w->ctl, text, sizeof text);
    assert_non_null(strstr(text, "no machine is rented"));
    assert_true(ctl_view(w->ctl).committed == done && ctl_view(w->ctl).deaths == 0);
    ctl_market(w->ctl, w->now, 4, spot);
    world_arrive_all(w);
    assert_int_equal(w->decisions, 5);
    const struct ctl_view view = ctl_view(w->ctl);
    assert_true(view.rollbacks == 0 && view.steps_redone == 0);
    finishes(w);
}

// A policy that changes over: the one kind goes before the other comes.
static void changes_over(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("greedy", 1);
    budget.job.deadline_s = 9000;
    struct world *w = budget_world("1x1", 40, &budget);
    uint32_t spot[16] = {1, 1};
    world_start(w);
    world_arrive_all(w);
    ctl_market(w->ctl, w->now, 0, spot);
    world_arrive_all(w);
    world_until(w, 4);
    hesitate_all(w);
    world_settle(w);
    for (uint32_t t = 1; t < 6; t++)
        ctl_market(w->ctl, w->now, t, spot);
    assert_int_equal(w->rent, PLAN_RENT_ON_DEMAND); // 4 of 40 done, half of the time gone
    expect_told(w, "give back spot");
    expect_told(w, "rent on-demand");
    unmute_all(w);
    world_arrive_all(w);
    finishes(w);
}

// Nobody is left with the last weights: machines are rented once more for them. Spot that went and came back in ticks
// that were missed is gone as well.
static void taken_at_the_end(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("spot", 1);
    struct world *w = budget_world("1x1", 4, &budget);
    const uint32_t spot[] = {1, 0, 1, 1};
    w->o.shadow = false;
    world_start(w);
    ctl_market(w->ctl, w->now, 0, spot);
    world_arrive_all(w);
    world_until(w, 4);
    ctl_market(w->ctl, w->now, 2, spot);
    expect_told(w, "spot was taken away");
    world_arrive_all(w);
    finishes(w);
}

// Another controller goes on with what is held, and asks nothing anew.
static void restart(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("patient", 2);
    struct world *w = budget_world("2x1", 12, &budget);
    const uint32_t spot[] = {2, 2, 2, 2};
    world_start(w);
    world_arrive_all(w);
    ctl_market(w->ctl, w->now, 0, spot);
    world_arrive_all(w);
    world_until(w, 4);
    budget.rent = w->rent;
    world_restart(w);
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].alive)
            fake_hello(w, &w->fakes[i]);
    world_until(w, 6);
    assert_int_equal(alive(w, MESSAGE_WORKER), 2);
    bg_str_reset(&w->told);
    ctl_market(w->ctl, w->now, 1, spot);
    assert_false(told(w, "rent") || told(w, "give back"));
    finishes(w);
}

// Where spot is taken away the gang moves to the zone that has it, a new start; who is there stays, also after another
// controller took over.
static void moves_between_zones(void **state)
{
    (void)state;
    static const uint32_t west[] = {2, 2, 0, 2, 2, 0, 0}, east[] = {0, 2, 2, 2, 1, 0, 2};
    static const uint32_t most[] = {2, 2, 2, 2, 2, 0, 2};
    static const struct plan_zone_trace list[] = {{"west", west, {0, 1, 3}, NULL}, {"east", east, {0, 1, 2}, NULL}};
    static const struct plan_zones zones = {list, 2, most};
    static const uint32_t expected[] = {0, 0, 1, 1, 0, PLAN_NOWHERE, 1};
    struct ctl_budget budget = budget_of("spot", 2);
    struct world *w = budget_world("1x2", 40, &budget);
    budget.zones = &zones;
    world_start(w);
    world_arrive_all(w);
    for (uint32_t t = 0; t < 7; t++) {
        const uint32_t before = w->zone;
        bg_str_reset(&w->told);
        ctl_market(w->ctl, w->now, t, most);
        assert_int_equal(w->zone, expected[t]);
        assert_int_equal(w->decisions, t + 1);
        const bool moved = expected[t] != PLAN_NOWHERE && (!t || before != expected[t]);
        assert_int_equal(w->spawned_count, moved ? 2 : 0);
        for (size_t i = 0; i < w->spawned_count; i++)
            assert_true(ctl_token_zone(w->spawned[i]) == expected[t] &&
                        ctl_token_rent(w->spawned[i]) == PLAN_RENT_SPOT);
        if (t && before != PLAN_NOWHERE && before != expected[t])
            expect_told(w, "spot was taken away");
        else
            assert_false(told(w, "give back"));
        world_arrive_all(w);
        if (expected[t] == PLAN_NOWHERE)
            continue;
        world_until(w, ctl_view(w->ctl).committed + 3);
        for (size_t i = 0; i < w->fake_count; i++)
            if (w->fakes[i].alive && w->fakes[i].role == MESSAGE_WORKER)
                assert_int_equal(ctl_token_zone(w->fakes[i].token), expected[t]);
        if (t != 2)
            continue;
        budget.rent = w->rent;
        budget.zone = w->zone;
        budget.tick = t;
        world_restart(w);
        for (size_t i = 0; i < w->fake_count; i++)
            if (w->fakes[i].alive)
                fake_hello(w, &w->fakes[i]);
        world_until(w, ctl_view(w->ctl).committed + 1);
    }
    finishes(w);
}

// Shapes of a fleet policy are taken at a boundary; the surplus waits.
static void fleet_question(struct ctl_budget *budget, const char *policy, uint32_t stages_min)
{
    budget->fleet = (struct plan_fleet_question){.policy = plan_fleet_policy_find(policy),
                                                 .model = {UNITS - 2, 16, 256, 64, 1e9, 1e9, 0},
                                                 .options = plan_fleet_defaults,
                                                 .seed = 1};
    budget->fleet.options.nodes_max = budget->job.instances;
    budget->fleet.options.micro_batches = LEAVES;
    budget->fleet.options.rendezvous_s = 0;
    budget->fleet.options.stages_min = stages_min;
}

static void shapes(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("spot", 4);
    struct world *w = budget_world("1x4", 30, &budget);
    const uint32_t spot[] = {4, 5, 3, 3, 1};
    fleet_question(&budget, "throughput-optimal", 2);
    world_start(w);
    world_arrive_all(w);
    ctl_market(w->ctl, w->now, 0, spot);
    assert_int_equal(w->spawned_count, 4);
    world_arrive_all(w);
    world_until(w, 2);
    expect_told(w, "\"shape\": \"2x2\"");
    size_t gone = 0;
    while (w->fakes[gone].role != MESSAGE_WORKER)
        gone++;
    fake_kill(w, &w->fakes[gone], "killed");
    assert_int_equal(w->spawned_count, 0); // not before the next interval
    world_until(w, 4);
    ctl_market(w->ctl, w->now, 2, spot);
    world_until(w, 9);
    expect_told(w, "\"shape\": \"3x1\"");
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].alive && w->fakes[i].role == MESSAGE_WORKER && alive(w, MESSAGE_WORKER) > 1)
            fake_kill(w, &w->fakes[i], "killed");
    ctl_market(w->ctl, w->now, 4, spot);
    const uint64_t done = ctl_view(w->ctl).committed;
    world_settle(w);
    assert_true(ctl_view(w->ctl).committed <= done + 1); // two stages do not fit on one machine
    const uint32_t more[] = {4, 5, 3, 3, 1, 4};
    ctl_market(w->ctl, w->now, 5, more);
    world_arrive_all(w);
    finishes(w);
}

static uint32_t at_work(const struct world *w)
{
    uint32_t count = 0;
    for (size_t i = 0; i < w->fake_count; i++)
        count += w->fakes[i].alive && w->fakes[i].role == MESSAGE_WORKER && w->fakes[i].running;
    return count;
}

// Of four machines in two stages two go on. Those that stay hold half of the units, and the shadow has not come: the
// others go once what they alone hold has moved.
static void shrinks(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("spot", 4);
    struct world *w = budget_world("1x4", 40, &budget);
    const uint32_t spot[] = {4, 2, 2, 4};
    fleet_question(&budget, "throughput-optimal", 2);
    world_start(w);
    w->spawned_count = 0; // the shadow: on its way for ever
    ctl_market(w->ctl, w->now, 0, spot);
    world_arrive_all(w);
    world_until(w, 4);
    expect_told(w, "\"shape\": \"2x2\"");
    hesitate_all(w); // in the middle of a step
    world_settle(w);
    ctl_market(w->ctl, w->now, 1, spot);
    assert_int_equal(at_work(w), 4); // up to the boundary
    unmute_all(w);
    world_until(w, 12);
    expect_told(w, "\"shape\": \"2x1\"");
    assert_true(alive(w, MESSAGE_WORKER) == 4 && at_work(w) == 2);
    bg_str_reset(&w->told);
    ctl_market(w->ctl, w->now, 3, spot);
    world_until(w, 20);
    expect_told(w, "\"shape\": \"2x2\"");
    assert_int_equal(at_work(w), 4);
    const struct ctl_view view = ctl_view(w->ctl);
    assert_true(view.rollbacks == 0 && view.steps_redone == 0 && view.deaths == 0);
    finishes(w);
}

// The one for whom another stayed dies: who would have gone goes on.
static void only_the_leaving_is_left(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("spot", 2);
    struct world *w = budget_world("1x2", 40, &budget);
    const uint32_t spot[] = {2, 1};
    fleet_question(&budget, "throughput-optimal", 1);
    budget.fleet.model.link_bytes_s = 1e6; // sums take longer than boundary tensors
    world_start(w);
    w->spawned_count = 0;
    ctl_market(w->ctl, w->now, 0, spot);
    world_arrive_all(w);
    world_until(w, 4);
    expect_told(w, "\"shape\": \"2x1\"");
    ctl_market(w->ctl, w->now, 1, spot);
    bg_str_reset(&w->told);
    while (!told(w, "event generation"))
        assert_true(world_turn(w));
    fake_kill(w, &w->fakes[0], "killed");
    world_until(w, 8);
    expect_told(w, "event rollback"); // half of the units died
    finishes(w);
}

// Two machines of a fleet, the second to be started sits alone, with the shadow; then one is enough for both.
static struct world *one_of_two(struct ctl_budget *budget, struct fake **sits, struct fake **waits)
{
    static const uint32_t spot[] = {2, 1};
    struct world *w = budget_world("1x2", 12, budget);
    fleet_question(budget, "throughput-optimal", 1);
    world_start(w);
    world_arrive_all(w);
    ctl_market(w->ctl, w->now, 0, spot);
    const uint64_t first = w->spawned[0], second = w->spawned[1];
    w->spawned_count = 0;
    *sits = fake_add(w, second, MESSAGE_WORKER);
    fake_hello(w, *sits);
    ctl_tick(w->ctl, w->now);
    w->now += 2 * w->o.join_ns;
    world_until(w, 2);
    ctl_market(w->ctl, w->now, 1, spot);
    *waits = fake_add(w, first, MESSAGE_WORKER);
    fake_hello(w, *waits);
    world_until(w, 4);
    assert_true((*sits)->running && !(*waits)->running);
    return w;
}

// The controller was stopped, and members took it for dead: who comes back has its seat, and who waited goes on
// waiting.
static void who_sits_stays(void **state)
{
    (void)state;
    struct ctl_budget budget = budget_of("spot", 2);
    struct fake *sits, *waits;
    struct world *w = one_of_two(&budget, &sits, &waits);
    w->now += 400000000;
    sits->linked = false;
    ctl_lost(w->ctl, w->now, sits->id, "closed by the peer");
    fake_hello(w, sits);
    world_until(w, 8);
    assert_true(sits->running && !waits->running && ctl_view(w->ctl).deaths == 0);
    finishes(w);
}

// Who is left out is asked to stop. It may die before it has said so, or its link may.
static void left_out_and_gone(void **state)
{
    (void)state;
    for (int comes_back = 0; comes_back < 2; comes_back++) {
        struct ctl_budget budget = budget_of("spot", 2);
        struct world *w = budget_world("1x2", 12, &budget);
        const uint32_t spot[] = {2, 1};
        char asked[64];
        fleet_question(&budget, "throughput-optimal", 1);
        world_start(w);
        world_arrive_all(w);
        ctl_market(w->ctl, w->now, 0, spot);
        world_arrive_all(w);
        world_until(w, 2);
        struct fake *leaves = &w->fakes[2];
        ctl_market(w->ctl, w->now, 1, spot);
        bg_str_reset(&w->told);
        snprintf(asked, sizeof asked, "send PREPARE %u ", leaves->id);
        while (!told(w, asked))
            assert_true(world_turn(w));
        for (size_t i = 0; i < w->fake_count; i++) // all others have
            while (&w->fakes[i] != leaves && w->fakes[i].count > 0)
                fake_take(w, &w->fakes[i]);
        if (comes_back) {
            w->now += 400000000;
            leaves->linked = false;
            fake_silence(leaves); // what was on its way is lost
            ctl_lost(w->ctl, w->now, leaves->id, "closed by the peer");
            fake_hello(w, leaves);
        } else {
            fake_kill(w, leaves, "killed");
        }
        world_until(w, 8);
        assert_true(!leaves->alive || !leaves->running);
        finishes(w);
    }
}

// All machines of a fleet go with the last weights, or another controller finds the last of them: they are written.
static void fleet_at_the_end(void **state)
{
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct ctl_budget budget = budget_of("spot", 2);
        struct world *w = budget_world("1x2", 4, &budget);
        const uint32_t spot[] = {2, 2, 2};
        fleet_question(&budget, "throughput-optimal", 1);
        w->o.shadow = false;
        world_start(w);
        ctl_market(w->ctl, w->now, 0, spot);
        world_arrive_all(w);
        world_until(w, 4);
        if (restart) {
            world_restart(w);
            for (size_t i = 0; i < w->fake_count; i++)
                fake_hello(w, &w->fakes[i]);
        } else {
            for (size_t i = 0; i < w->fake_count; i++)
                fake_kill(w, &w->fakes[i], "killed");
        }
        world_settle(w);
        expect_end(w, CTL_RUNS);
        ctl_market(w->ctl, w->now, 1, spot);
        world_arrive_all(w);
        finishes(w);
    }
}

// Everything at once, by seed: the market, deaths of machines, of the shadow and of controllers.
static void expect_in_one_zone(const struct world *w)
{
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].alive && w->fakes[i].linked && w->fakes[i].role == MESSAGE_WORKER)
            assert_true(w->rent != PLAN_RENT_NONE && ctl_token_zone(w->fakes[i].token) == w->zone);
}

static void chaos_of(bool zoned)
{
    static const char *const policies[] = {"on-demand", "spot", "greedy", "uniform-progress", "patient", "time-sliced"};
    static const char *const fleets[] = {"throughput-optimal", "parcae", "parcae-steady"};
    static const char *const shapes_of[] = {"1x2", "2x1", "2x2", "1x3", "3x1", "1x1"};
    static uint32_t spot[TICKS], west[TICKS], east[TICKS];
    static const struct plan_zone_trace list[] = {{"west", west, {0, 1, 3}, NULL}, {"east", east, {0, 0.9, 4}, NULL}};
    static const struct plan_zones zones = {list, 2, spot};
    uint64_t decisions = 0, taken = 0, back = 0, moves = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct ctl_budget budget = budget_of(policies[seed % 6], 0);
        struct world *w = budget_world(shapes_of[seed / 6 % 6], 24, &budget);
        w->random = seed;
        w->o.checkpoint_every = draw(w, 4);
        w->o.eval_every = draw(w, 4);
        w->o.shadow = draw(w, 8) > 0;
        budget.zones = zoned ? &zones : NULL;
        if (!zoned && draw(w, 3) == 0)
            fleet_question(&budget, fleets[draw(w, 3)], 0);
        uint32_t tick = 0, deaths = 6, there = (uint32_t)draw(w, 4);
        world_start(w);
        for (int turn = 0; ctl_ended(w->ctl, NULL) == CTL_RUNS; turn++) {
            if (turn > 40000) {
                char text[256];
                ctl_describe(w->ctl, text, sizeof text);
                fail_msg("seed %llu: %s\n%s", (unsigned long long)seed, text, bg_str_text(&w->told));
            }
            if (!world_turn(w))
                w->now += 50000000;
            if (w->spawned_count > 0 && draw(w, 8) == 0)
                world_arrive(w);
            if (draw(w, 60) == 0 && tick < TICKS - 1) {
                if (draw(w, 3) == 0)
                    there = (uint32_t)draw(w, 5);
                spot[tick] = turn > 20000 ? 4 : there; // in the end they stay
                west[tick] = spot[tick];
                east[tick] = zoned ? (uint32_t)draw(w, 4) : 0;
                spot[tick] = east[tick] > spot[tick] ? east[tick] : spot[tick];
                const uint32_t zone = w->zone;
                ctl_market(w->ctl, w->now, tick++, spot);
                moves += zoned && w->rent != PLAN_RENT_NONE && w->zone != zone;
                if (zoned && ctl_ended(w->ctl, NULL) == CTL_RUNS)
                    expect_in_one_zone(w);
            }
            struct fake *f = w->fake_count ? &w->fakes[draw(w, w->fake_count)] : NULL;
            if (deaths && f && f->alive && f->linked && draw(w, 40) == 0) {
                deaths--;
                fake_kill(w, f, "killed");
            } else if (deaths && draw(w, 200) == 0) {
                deaths--;
                budget.rent = w->rent;
                budget.zone = zoned && w->rent != PLAN_RENT_NONE ? w->zone : 0;
                budget.tick = tick ? tick - 1 : 0;
                world_restart(w);
            }
            for (size_t i = 0; i < w->fake_count; i++)
                if (w->fakes[i].alive && !w->fakes[i].linked && draw(w, 4) == 0)
                    fake_hello(w, &w->fakes[i]);
        }
        expect_end(w, CTL_FINISHED);
        expect_curve(w, 24);
        decisions += w->decisions;
        taken += told(w, "spot was taken away");
        back += told(w, "give back spot") && told(w, "rent on-demand");
        world_destroy(w);
    }
    assert_true(decisions > 2000 && taken > 20 && back > 5 && (moves > 20 || !zoned)); // it was no quiet market
}

static void chaos(void **state)
{
    (void)state;
    chaos_of(false);
}

static void chaos_over_zones(void **state)
{
    (void)state;
    chaos_of(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rents_and_gives_back),
        cmocka_unit_test(changes_over),
        cmocka_unit_test(taken_at_the_end),
        cmocka_unit_test(restart),
        cmocka_unit_test(moves_between_zones),
        cmocka_unit_test(shapes),
        cmocka_unit_test(shrinks),
        cmocka_unit_test(only_the_leaving_is_left),
        cmocka_unit_test(who_sits_stays),
        cmocka_unit_test(left_out_and_gone),
        cmocka_unit_test(fleet_at_the_end),
        cmocka_unit_test(chaos),
        cmocka_unit_test(chaos_over_zones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
