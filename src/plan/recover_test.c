// Recovery against a model: random plans run to a random point, random workers die, the rest of the step is planned
// and run, and perhaps breaks off again. The model (world_test.h) fails where a value is missing or a leaf is summed
// twice; here it is checked that nothing is done without need and that the counts are right.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/world_test.h"

enum { EVERYTHING = 1 << 30 };

// ---- What a plan of the rest may hold, derived from the holdings alone ----
struct state {
    const struct world *world; // of the new membership, before its first op
    const uint8_t *losses;     // (micro-batches): known at its start
    uint8_t *emitted;          // (stages, items): 1 F, 2 B, 4 W
    uint32_t *worker;          // (stages, items): of these
};

static bool stage_rooted(const struct world *world, uint32_t stage)
{
    for (uint32_t u = world->plan.stages[stage].unit_first; u < world->plan.stages[stage].unit_end; u++) {
        bool rooted = false;
        for (uint32_t w = 0; w < world->plan.workers; w++)
            rooted |= *world_root(world, w, u);
        if (!rooted)
            return false;
    }
    return true;
}

// Does a worker that sits at the stage hold it?
static bool anyone_holds(const struct world *world, uint32_t stage, uint32_t item, uint8_t bit)
{
    for (uint32_t k = 0; k < world->plan.seat_count; k++)
        if (world->plan.seats[k].stage == stage && (*world_held(world, world->plan.seats[k].worker, stage, item) & bit))
            return true;
    return false;
}

static bool can_go_on(const struct world *world, uint32_t w, uint32_t stage, uint32_t item)
{
    return (*world_held(world, w, stage, item) & PLAN_HELD_STASH) && world_has_input(world, w, stage, item);
}

static bool in_hand(const struct world *world, uint32_t stage, uint32_t item)
{
    for (uint32_t k = 0; k < world->plan.seat_count; k++) {
        const uint32_t w = world->plan.seats[k].worker;
        if (world->plan.seats[k].stage == stage &&
            (can_go_on(world, w, stage, item) || (stage > 0 && world_has_input(world, w, stage, item))))
            return true;
    }
    return false;
}

static void collect(struct state *s)
{
    const struct plan *plan = &s->world->plan;
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t k = 0; k < plan->lists[w].count; k++) {
            const struct plan_op *op = &plan->lists[w].ops[k];
            if (op->kind > PLAN_W)
                continue;
            const size_t cell = (size_t)op->stage * plan->item_count + op->item;
            const uint8_t bits = op->kind == PLAN_F ? 1 : op->kind == PLAN_W ? 4 : (op->flags & PLAN_FUSED ? 6 : 2);
            assert_false(s->emitted[cell] & bits);
            assert_true(!s->emitted[cell] || s->worker[cell] == w);
            s->emitted[cell] |= bits;
            s->worker[cell] = w;
        }
}

// An op is there if and only if it is needed.
static void check_need(const struct state *s, uint32_t stage, uint32_t item)
{
    const struct world *world = s->world;
    const uint32_t items = world->plan.item_count, last = world->plan.stage_count - 1;
    const size_t cell = (size_t)stage * items + item;
    const uint8_t emitted = s->emitted[cell];
    const uint32_t w = s->worker[cell];
    const bool leaf_missing = !stage_rooted(world, stage) && !anyone_holds(world, stage, item, PLAN_HELD_G);
    const bool b_done = emitted && (*world_held(world, w, stage, item) & PLAN_HELD_B) &&
                        can_go_on(world, w, stage, item) && world_has_gradient(world, w, stage, item);
    const bool gradient_wanted = stage > 0 && (s->emitted[cell - items] & 2) &&
                                 !world_has_gradient(world, s->worker[cell - items], stage - 1, item) &&
                                 !anyone_holds(world, stage, item, PLAN_HELD_DX);
    const bool output_wanted = stage < last && (s->emitted[cell + items] & 1) &&
                               !world_has_input(world, s->worker[cell + items], stage + 1, item) &&
                               !anyone_holds(world, stage, item, PLAN_HELD_Y);
    bool loss_wanted = false;
    for (uint32_t m = world->plan.items[item].first; m < world->plan.items[item].end; m++)
        loss_wanted |= stage == last && !s->losses[m];
    assert_int_equal(!!(emitted & 4), leaf_missing);
    assert_int_equal(!!(emitted & 2), (leaf_missing && !b_done) || gradient_wanted);
    const bool stash_wanted = (emitted & 6) && !can_go_on(world, w, stage, item);
    assert_int_equal(!!(emitted & 1), stash_wanted || output_wanted || loss_wanted);
}

static void check_plan(const struct world *world, const uint32_t *route_before, const struct plan_recovery *counted)
{
    const struct plan *plan = &world->plan;
    const size_t cells = world_cells(world);
    struct state s = {world, world->losses, bg_alloc_array(cells, 1), bg_alloc_array(cells, sizeof(uint32_t))};
    uint32_t leaves = 0, forwards = 0;
    collect(&s);
    for (uint32_t stage = 0; stage < plan->stage_count; stage++)
        for (uint32_t i = 0; i < plan->item_count; i++) {
            const size_t cell = (size_t)stage * plan->item_count + i;
            const uint32_t size = plan->items[i].end - plan->items[i].first;
            check_need(&s, stage, i);
            if ((s.emitted[cell] & 4) && !in_hand(world, stage, i) &&
                (route_before[cell] == PLAN_NOBODY || !world_seated(plan, route_before[cell], stage)))
                leaves += size;
            if ((s.emitted[cell] & 1) && (!(s.emitted[cell] & 4) || can_go_on(world, s.worker[cell], stage, i)))
                forwards += size;
            if (s.emitted[cell] & 4)
                assert_int_equal(plan->route[cell], s.worker[cell]);
        }
    assert_int_equal(counted->leaves, leaves);
    assert_int_equal(counted->forwards, forwards);
    bg_free(s.emitted);
    bg_free(s.worker);
}

// ---- Deaths ----
static struct plan survivors_plan(const struct world *world, const uint32_t *now, uint32_t alive, uint64_t *seed)
{
    const struct plan *old = &world->plan;
    struct plan plan = {.units = old->units, .micro_batches = old->micro_batches, .workers = alive};
    struct plan frame = plan_copy(old);
    plan.stages = frame.stages, plan.stage_count = frame.stage_count;
    plan.items = frame.items, plan.item_count = frame.item_count;
    frame.stages = NULL, frame.items = NULL;
    plan_fini(&frame);
    plan.seats = bg_alloc_array(old->seat_count + old->stage_count, sizeof *plan.seats);
    for (uint32_t s = 0; s < old->stage_count; s++) {
        uint32_t replica = 0;
        for (uint32_t k = 0; k < old->seat_count; k++)
            if (old->seats[k].stage == s && now[old->seats[k].worker] != PLAN_NOBODY)
                plan.seats[plan.seat_count++] = (struct plan_seat){now[old->seats[k].worker], s, replica++};
        if (replica == 0) // a lost stage: somebody has its state (the shadow), and sits down
            plan.seats[plan.seat_count++] = (struct plan_seat){world_below(seed, alive), s, 0};
    }
    plan.follows = bg_alloc_array(old->follow_count, sizeof *plan.follows);
    for (uint32_t k = 0; k < old->follow_count; k++)
        if (now[old->follows[k].worker] != PLAN_NOBODY) {
            plan.follows[plan.follow_count] = old->follows[k];
            plan.follows[plan.follow_count++].worker = now[old->follows[k].worker];
        }
    plan.route = bg_alloc_array(world_cells(world), sizeof *plan.route);
    const bool tell = world_below(seed, 2);
    for (size_t c = 0; c < world_cells(world); c++)
        plan.route[c] = tell && old->route[c] != PLAN_NOBODY ? now[old->route[c]] : PLAN_NOBODY;
    return plan;
}

// What the survivors bring along; `careless`: some forget what they could have kept.
static void carry_over(const struct world *old, const uint32_t *now, struct world *world, bool careless, uint64_t *seed)
{
    const size_t cells = world_cells(old);
    for (uint32_t w = 0; w < old->plan.workers; w++) {
        if (now[w] == PLAN_NOBODY)
            continue;
        uint8_t *held = world->held + now[w] * cells;
        memcpy(held, old->held + w * cells, cells);
        memcpy(world->roots + (size_t)now[w] * old->plan.units, old->roots + (size_t)w * old->plan.units,
               old->plan.units);
        for (size_t c = 0; c < cells; c++) {
            if (world_below(seed, 2)) // arrived, though the list was not there yet
                held[c] |= old->flying[w * cells + c];
            const uint8_t kept = held[c] & (PLAN_HELD_G | PLAN_HELD_B) ? PLAN_HELD_G | PLAN_HELD_DX : 0;
            if (careless && world_below(seed, 4) == 0)
                held[c] &= (uint8_t)(world_random(seed) | kept | PLAN_HELD_STASH | PLAN_HELD_B);
            if (careless && world_below(seed, 16) == 0)
                held[c] &= kept;
        }
    }
    for (uint32_t m = 0; m < old->plan.micro_batches; m++)
        world->losses[m] = old->losses[m] && !(careless && world_below(seed, 8) == 0);
}

static struct world die_and_recover(struct world *old, bool split, uint64_t *seed)
{
    uint32_t *now = bg_alloc_array(old->plan.workers, sizeof *now), alive = 0;
    const uint32_t chance = 2 + world_below(seed, 5);
    for (uint32_t w = 0; w < old->plan.workers; w++)
        now[w] = world_below(seed, chance) == 0 ? PLAN_NOBODY : alive++;
    if (alive == 0)
        now[world_below(seed, old->plan.workers)] = alive++;
    struct world world = world_create(survivors_plan(old, now, alive, seed));
    carry_over(old, now, &world, world_below(seed, 3) == 0, seed);
    struct plan_holdings *holdings = bg_alloc_array(alive, sizeof *holdings);
    for (uint32_t w = 0; w < alive; w++)
        holdings[w] = (struct plan_holdings){world_held(&world, w, 0, 0), world_root(&world, w, 0)};
    uint32_t *before = bg_alloc_array(world_cells(&world), sizeof *before);
    memcpy(before, world.plan.route, world_cells(&world) * sizeof *before);
    struct bg_error err;
    struct plan_recovery counted;
    if (plan_recover(&world.plan, holdings, world.losses, split, &err, &counted))
        fail_msg("%s", err.text);
    check_plan(&world, before, &counted);
    bg_free(before);
    bg_free(holdings);
    bg_free(now);
    world_fini(old);
    return world;
}

static struct world random_world(uint64_t *seed, bool *split)
{
    static const double costs[12] = {1, 2, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1};
    uint32_t replicas[4];
    struct plan_options options = {.costs = costs,
                                   .units = 12,
                                   .micro_batches = 1 + world_below(seed, 12),
                                   .group = 1u << world_below(seed, 2),
                                   .replicas = replicas,
                                   .stages = 1 + world_below(seed, 4),
                                   .schedule = (enum plan_schedule)world_below(seed, 3),
                                   .chunks = 1 + world_below(seed, 2),
                                   .split = world_below(seed, 2),
                                   .followers = world_below(seed, 2)};
    const bool even = world_below(seed, 2);
    for (uint32_t r = 0; r < options.stages; r++)
        replicas[r] = even && r ? replicas[0] : 1 + world_below(seed, 3);
    struct bg_error err;
    struct plan plan;
    if (plan_build(&options, &err, &plan))
        fail_msg("%s", err.text);
    *split = options.split;
    return world_create(plan);
}

static void one_life(uint64_t seed)
{
    bool split;
    const uint64_t start = seed;
    struct world world = random_world(&seed, &split);
    for (uint32_t deaths = 0; deaths < 3; deaths++) {
        size_t ops = world.plan.units;
        for (uint32_t w = 0; w < world.plan.workers; w++)
            ops += world.plan.lists[w].count;
        if (world_run(&world, &seed, 1 + world_below(&seed, (uint32_t)ops)))
            break;
        world = die_and_recover(&world, split, &seed);
        if (start % 16 == 0) {
            struct bg_error err;
            struct plan again;
            char *text = plan_format(&world.plan);
            if (plan_parse(text, strlen(text), &err, &again))
                fail_msg("%s", err.text);
            char *twice = plan_format(&again);
            assert_string_equal(text, twice);
            bg_free(text);
            bg_free(twice);
            plan_fini(&again);
        }
    }
    if (!world_run(&world, &seed, EVERYTHING))
        fail_msg("seed %llu does not end", (unsigned long long)start);
    world_check_end(&world);
    world_fini(&world);
}

static void random_deaths(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 6000; seed++)
        one_life(seed);
}

// ---- Cases to read ----
// 2 stages x 2 replicas, 4 micro-batches: worker 0 and 1 have stage 0, 2 and 3 have stage 1; 0 and 2 have items 0, 1.
static struct plan two_by_two(bool split)
{
    static const double costs[4] = {1, 1, 1, 1};
    static const uint32_t replicas[2] = {2, 2};
    const struct plan_options options = {.costs = costs,
                                         .units = 4,
                                         .micro_batches = 4,
                                         .group = 1,
                                         .replicas = replicas,
                                         .stages = 2,
                                         .schedule = PLAN_1F1B,
                                         .split = split};
    struct bg_error err;
    struct plan plan;
    assert_int_equal(plan_build(&options, &err, &plan), BG_OK);
    return plan;
}

static void drop_last_worker(struct plan *plan)
{
    struct plan_seat seats[3] = {plan->seats[0], plan->seats[1], plan->seats[2]};
    for (uint32_t w = 0; w < plan->workers; w++)
        bg_free(plan->lists[w].ops);
    bg_free(plan->lists);
    plan->lists = NULL;
    plan->workers = 3;
    plan->seat_count = 3;
    memcpy(plan->seats, seats, sizeof seats);
    for (uint32_t c = 0; c < 8; c++)
        plan->route[c] = plan->route[c] == 3 ? PLAN_NOBODY : plan->route[c];
}

static void death_before_the_first_op(void **state)
{
    (void)state;
    struct plan plan = two_by_two(false);
    const struct plan_holdings nothing[3] = {{0}};
    const uint8_t losses[4] = {0};
    struct bg_error err;
    struct plan_recovery counted;
    drop_last_worker(&plan);
    assert_int_equal(plan_recover(&plan, nothing, losses, false, &err, &counted), BG_OK);
    assert_int_equal(counted.leaves, 2);
    assert_int_equal(counted.forwards, 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(plan.route[i], i / 2);
        assert_int_equal(plan.route[4 + i], 2);
    }
    plan_fini(&plan);
}

static void death_after_everything_but_the_sums(void **state)
{
    (void)state;
    struct plan plan = two_by_two(false);
    struct bg_error err;
    struct plan_recovery counted;
    uint8_t held[3][8] = {{0}};
    const uint8_t losses[4] = {1, 1, 1, 1},
                  done = PLAN_HELD_X | PLAN_HELD_Y | PLAN_HELD_DY | PLAN_HELD_DX | PLAN_HELD_G;
    struct plan_holdings holdings[3] = {{held[0], NULL}, {held[1], NULL}, {held[2], NULL}};
    held[0][0] = held[0][1] = held[1][2] = held[1][3] = held[2][4] = held[2][5] = done;
    drop_last_worker(&plan);
    assert_int_equal(plan_recover(&plan, holdings, losses, false, &err, &counted), BG_OK);
    assert_int_equal(counted.leaves, 2); // items 2 and 3 of stage 1, from activations that worker 1 has
    assert_int_equal(counted.forwards, 0);
    char *text = plan_format(&plan);
    assert_non_null(strstr(text, "list 0: 0COLL.reduce STEP\n"));
    assert_non_null(strstr(text, "list 1: 0SEND_F2>2 0SEND_F3>2 0COLL.reduce STEP\n"));
    assert_non_null(strstr(text, "list 2: 1RECV_F2<1 1F2 1BW2 1RECV_F3<1 1F3 1BW3.l 1COLL.reduce STEP\n"));
    bg_free(text);
    plan_fini(&plan);
}

static void a_lost_loss_runs_its_forward_again(void **state)
{
    (void)state;
    struct plan plan = two_by_two(false);
    struct bg_error err;
    struct plan_recovery counted;
    uint8_t held[3][8] = {{0}}, roots[4] = {1, 1, 1, 1};
    const uint8_t losses[4] = {1, 1, 1, 0},
                  done = PLAN_HELD_X | PLAN_HELD_Y | PLAN_HELD_DY | PLAN_HELD_DX | PLAN_HELD_G;
    struct plan_holdings holdings[3] = {{held[0], NULL}, {held[1], NULL}, {held[2], roots}};
    held[0][0] = held[0][1] = held[1][2] = held[2][4] = held[2][5] = done; // and nobody has the activation of item 3
    drop_last_worker(&plan);
    assert_int_equal(plan_recover(&plan, holdings, losses, false, &err, &counted), BG_OK);
    assert_int_equal(counted.leaves, 0);
    assert_int_equal(counted.forwards, 2);
    char *text = plan_format(&plan);
    assert_non_null(strstr(text, "0F3 0SEND_F3>2"));
    assert_non_null(strstr(text, "list 2: 1COLL.reduce 1RECV_F3<"));
    bg_free(text);
    plan_fini(&plan);
}

static void a_stage_without_a_worker_is_refused(void **state)
{
    (void)state;
    struct plan plan = two_by_two(false);
    struct bg_error err;
    struct plan_recovery counted;
    const struct plan_holdings nothing[3] = {{0}};
    const uint8_t losses[4] = {0};
    drop_last_worker(&plan);
    plan.seat_count = 2;
    char *before = plan_format(&(struct plan){.units = plan.units});
    assert_int_equal(plan_recover(&plan, nothing, losses, false, &err, &counted), BG_INVALID);
    assert_non_null(strstr(err.text, "stage 1 has no worker"));
    assert_null(plan.lists);
    bg_free(before);
    plan_fini(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(death_before_the_first_op),
        cmocka_unit_test(death_after_everything_but_the_sums),
        cmocka_unit_test(a_lost_loss_runs_its_forward_again),
        cmocka_unit_test(a_stage_without_a_worker_is_refused),
        cmocka_unit_test(random_deaths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
