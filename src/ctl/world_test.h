// A controller and its scripted members (member_test.h) in one world with a virtual clock: letters are delivered one at
// a time, to a member drawn by chance.
#ifndef CTL_WORLD_TEST_H
#define CTL_WORLD_TEST_H

#include "ctl/member_test.h"

static const char *const names[UNITS] = {"embed", "block.0", "block.1", "block.2", "block.3", "head"};
static const double costs[UNITS] = {1, 2, 2, 2, 2, 1};
static const uint64_t bytes_of[UNITS] = {10, 20, 20, 20, 20, 10};

static struct world *world_create(const char *shape, uint64_t steps)
{
    static uint32_t replicas[PLAN_STAGES_MAX];
    struct world *w = bg_alloc(sizeof *w);
    struct ctl_options *o = &w->o;
    *o = (struct ctl_options){.steps = steps, .clip = 1, .job = 7, .micro_batches = LEAVES, .targets = 1000};
    o->signature[0] = 9;
    o->param_count = o->units = UNITS;
    o->param_names = names;
    o->costs = costs;
    o->state_bytes = bytes_of;
    assert_int_equal(plan_shape_parse(shape, NULL, replicas, &o->stages), BG_OK);
    o->replicas = replicas;
    for (uint32_t r = 0; r < o->stages; r++)
        o->workers += replicas[r];
    o->schedule = PLAN_1F1B;
    o->chunks = o->group = 1;
    o->respawn = true;
    o->evaluates = true;
    o->join_ns = 1000000000;
    o->patience_ns = 5000000000;
    w->random = 1;
    return w;
}

static void world_start(struct world *w)
{
    struct bg_error err = {0};
    struct ctl_host mine = host;
    mine.arg = w;
    if (ctl_create(&w->o, &mine, &err, &w->ctl))
        fail_msg("%s", err.text);
    size_t records = w->log_count; // restoring may add some
    for (size_t i = 0; i < records; i++)
        if (ctl_restore(w->ctl, &w->log[i], &err))
            fail_msg("%s", err.text);
    for (uint64_t t = 0; t < w->checkpoint; t++)
        w->losses[t] = right(t).loss;
    struct ctl_checkpoint newest = {w->checkpoint, w->losses, NULL, 0, "step"};
    if (ctl_start(w->ctl, w->now, w->checkpoint ? &newest : NULL, &err))
        fail_msg("%s", err.text);
}

// The controller dies; members keep what they have and seek the next one.
static void world_restart(struct world *w)
{
    ctl_destroy(w->ctl);
    for (size_t i = 0; i < w->fake_count; i++) {
        w->fakes[i].linked = false;
        fake_silence(&w->fakes[i]);
        w->fakes[i].head = w->fakes[i].count = 0;
    }
    w->spawned_count = 0;
    world_start(w);
}

static void world_destroy(struct world *w)
{
    ctl_destroy(w->ctl);
    for (size_t i = 0; i < w->fake_count; i++)
        fake_free(&w->fakes[i]);
    for (size_t i = 0; i < w->log_count; i++)
        bg_free(w->texts[i]);
    bg_str_fini(&w->told);
    bg_free(w);
}

// The next process that was started says HELLO.
static struct fake *world_arrive(struct world *w)
{
    assert_true(w->spawned_count > 0);
    struct fake *f = fake_add(w, w->spawned[0], w->spawned_role[0]);
    w->spawned_count--;
    memmove(w->spawned, w->spawned + 1, w->spawned_count * sizeof *w->spawned);
    memmove(w->spawned_role, w->spawned_role + 1, w->spawned_count * sizeof *w->spawned_role);
    fake_hello(w, f);
    return f;
}

static void world_arrive_all(struct world *w)
{
    while (w->spawned_count > 0)
        world_arrive(w);
    ctl_tick(w->ctl, w->now);
}

// One letter, to a member drawn by chance. False: there is none.
static bool world_turn(struct world *w)
{
    w->now += 100000;
    ctl_tick(w->ctl, w->now);
    size_t waiting = 0;
    for (size_t i = 0; i < w->fake_count; i++)
        waiting += w->fakes[i].count > 0;
    if (waiting == 0)
        return false;
    size_t pick = (size_t)draw(w, waiting);
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].count > 0 && pick-- == 0) {
            fake_take(w, &w->fakes[i]);
            return true;
        }
    return false;
}

static void world_settle(struct world *w)
{
    while (world_turn(w))
        ;
}

static void world_until(struct world *w, uint64_t committed)
{
    while (ctl_view(w->ctl).committed < committed)
        if (!world_turn(w)) {
            char text[256];
            ctl_describe(w->ctl, text, sizeof text);
            fail_msg("stuck: %s\n%s", text, bg_str_text(&w->told));
        }
}

static void expect_end(struct world *w, enum ctl_end end)
{
    struct bg_error err = {0};
    if (ctl_ended(w->ctl, &err) != end) {
        char text[256];
        ctl_describe(w->ctl, text, sizeof text);
        fail_msg("ended %d (%s), expected %d; %s\n%s", ctl_ended(w->ctl, NULL), err.text, end, text,
                 bg_str_text(&w->told));
    }
}

static void expect_curve(struct world *w, uint64_t steps)
{
    struct ctl_view view = ctl_view(w->ctl);
    assert_true(view.committed == steps);
    for (uint64_t t = 0; t < steps; t++)
        assert_true(view.losses[t] == right(t).loss);
}

static void mute_all(struct world *w, bool mute)
{
    for (size_t i = 0; i < w->fake_count; i++)
        w->fakes[i].mute = mute;
}

static void hesitate_all(struct world *w)
{
    for (size_t i = 0; i < w->fake_count; i++)
        w->fakes[i].hesitant = true;
}

// Lets held back members do what they would have done.
static void unmute_all(struct world *w)
{
    mute_all(w, false);
    for (size_t i = 0; i < w->fake_count; i++)
        w->fakes[i].hesitant = false;
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].alive && w->fakes[i].linked) {
            fake_task(w, &w->fakes[i]);
            fake_work(w, &w->fakes[i]);
        }
}

static void finishes(struct world *w)
{
    world_settle(w);
    while (w->spawned_count > 0) {
        world_arrive_all(w);
        world_settle(w);
    }
    expect_end(w, CTL_FINISHED);
    expect_curve(w, w->o.steps);
    assert_true(ctl_view(w->ctl).hashed && w->log[w->log_count - 1].kind == STORE_FINISHED);
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].linked)
            assert_true(w->fakes[i].left);
    world_destroy(w);
}

#endif
