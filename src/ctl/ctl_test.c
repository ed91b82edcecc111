// The controller's rules, one test each, over scripted members (world_test.h), and then everything at once by seed.
#include "ctl/world_test.h"

static void start_to_end(void **state)
{
    (void)state;
    static const char *const shapes[] = {"1x1", "1x2", "2x1", "2x2", "3x1", "1+2", "4x1", "2x4"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int shadow = 0; shadow < 2; shadow++) {
            struct world *w = world_create(shapes[i], 7);
            w->o.shadow = shadow;
            w->o.eval_every = 2;
            w->o.checkpoint_every = 3;
            world_start(w);
            assert_int_equal(w->spawned_count, w->o.workers + (unsigned)shadow);
            world_arrive_all(w);
            world_settle(w);
            expect_told(w, "\"reason\": \"start\"");
            struct ctl_view view = ctl_view(w->ctl);
            assert_int_equal(view.generations, 1);
            assert_int_equal(view.evaluation_count, 4); // 2, 4, 6, 7
            assert_true(view.evaluations[3].step == 7 && view.leaves_recomputed == 0);
            assert_string_equal(view.checkpoint, "step-7");
            finishes(w);
        }
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 40);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    world_settle(w); // all the way: letters allocate, so count what one more vote takes
    world_destroy(w);

    w = world_create("1x1", 40);
    world_start(w);
    world_arrive_all(w);
    mute_all(w, true);
    world_settle(w);
    struct fake *f = &w->fakes[0];
    uint8_t losses[256], vote[256];
    double values[LEAVES], squares[UNITS];
    const uint8_t held[UNITS] = {1, 1, 1, 1, 1, 1};
    w->fakes[0].alive = false; // takes no letters
    struct wire_frame frame = {.generation = f->generation, .job = 7};
    uint64_t before = 0;
    for (uint64_t t = 0; t < 10; t++) {
        for (uint32_t k = 0; k < LEAVES; k++)
            values[k] = loss_of(t, k);
        for (uint32_t u = 0; u < UNITS; u++)
            squares[u] = square_of(t, u);
        bg_str_reset(&w->told);
        frame.step = t;
        frame.kind = WIRE_LOSS;
        frame.bytes = message_loss_encode(0, LEAVES, values, losses, sizeof losses);
        frame.check = wire_check(losses, frame.bytes);
        ctl_frame(w->ctl, w->now, f->id, &frame, losses);
        frame.kind = WIRE_VOTE;
        frame.bytes = message_vote_encode(UNITS, held, squares, 1, vote, sizeof vote);
        frame.check = wire_check(vote, frame.bytes);
        ctl_frame(w->ctl, w->now, f->id, &frame, vote);
        assert_true(ctl_view(w->ctl).committed == t + 1);
        if (t == 1)
            before = bg_mem_count();
    }
    assert_int_equal(bg_mem_count(), before);
    world_destroy(w);
}

// A loss in mid-step: the survivors keep what they have; what the dead one had is given to its peer.
static void loss_in_a_step(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 6);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    hesitate_all(w);
    world_settle(w); // step 2 (or 3): everything computed, no vote
    uint64_t step = ctl_view(w->ctl).committed;
    bg_str_reset(&w->told);
    fake_kill(w, &w->fakes[1], "process 1002 ended");
    assert_int_equal(w->log[w->log_count - 2].kind, STORE_LOST);
    assert_int_equal(w->log[w->log_count - 1].kind, STORE_GENERATION);
    world_settle(w);
    struct ctl_view view = ctl_view(w->ctl);
    assert_int_equal(view.leaves_recomputed, LEAVES / 2); // of one stage, one of two replicas
    assert_true(view.committed == step && view.deaths == 1 && view.rollbacks == 0);
    expect_told(w, "event lost");
    expect_told(w, "event recovered");
    unmute_all(w);
    finishes(w);
}

// A frame of an older generation counts for nothing, and neither does one from a stranger.
static void old_frames(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 3);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    mute_all(w, true);
    world_settle(w);
    fake_kill(w, &w->fakes[1], "killed");
    struct fake *f = &w->fakes[0];
    assert_int_equal(f->generation, 1);
    double bad[LEAVES] = {0};
    uint8_t payload[256];
    size_t bytes = message_loss_encode(0, LEAVES, bad, payload, sizeof payload);
    say(w, f, WIRE_LOSS, payload, bytes); // still of generation 1
    world_settle(w);
    struct wire_frame frame = {.kind = WIRE_LOSS, .generation = 2, .job = 7, .bytes = bytes};
    frame.check = wire_check(payload, bytes);
    ctl_frame(w->ctl, w->now, 99, &frame, payload);
    unmute_all(w);
    finishes(w); // with the right losses
}

// The controller dies between its log and its COMMITs: the next one carries the commit to those that need it.
static void restart_after_the_log(void **state)
{
    (void)state;
    struct world *w = world_create("2x1", 5);
    w->o.shadow = true;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    for (size_t i = 0; i < w->fake_count; i++) { // nobody has heard of it yet
        struct fake *f = &w->fakes[i];
        for (; f->count > 0 && f->queue[f->head].frame.kind == WIRE_COMMIT && i != 1; f->count--) {
            bg_free(f->queue[f->head].payload);
            f->head = (f->head + 1) % 64;
        }
        while (f->count > 0)
            fake_take(w, f);
    }
    assert_true(w->fakes[0].version == 2 && w->fakes[1].version == 3);
    world_restart(w);
    assert_int_equal(w->spawned_count, 0); // they are awaited, not started again
    assert_true(ctl_view(w->ctl).committed == 3);
    for (size_t i = 0; i < 3; i++)
        fake_hello(w, &w->fakes[i]);
    world_until(w, 4);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    assert_int_equal(ctl_view(w->ctl).fenced, 0);
    finishes(w);
}

// Restarted in mid-step with everybody there: who sat keeps its seat, nothing is computed twice, an odd shape too.
static void restart_keeps_the_seats(void **state)
{
    (void)state;
    for (int odd = 0; odd < 2; odd++) {
        struct world *w = world_create("2x2", 8);
        w->o.respawn = false;
        w->o.shadow = !odd;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 2);
        if (odd) // 1+2, where the shape fitted to three is 2+1
            fake_kill(w, &w->fakes[0], "killed");
        world_until(w, 3);
        hesitate_all(w);
        world_settle(w);
        world_restart(w);
        for (size_t i = 0; i < w->fake_count; i++)
            if (w->fakes[i].alive)
                fake_hello(w, &w->fakes[i]);
        bg_str_reset(&w->told);
        world_settle(w);
        expect_told(w, odd ? "\"shape\": \"1+2\"" : "\"shape\": \"2x2\"");
        assert_false(told(w, "event moved"));
        assert_int_equal(ctl_view(w->ctl).leaves_recomputed, 0);
        unmute_all(w);
        finishes(w);
    }
}

// Restarted with one member gone for good and one that does not come back in time.
static void restart_with_losses(void **state)
{
    (void)state;
    struct world *w = world_create("1x3", 5);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    ctl_destroy(w->ctl);
    w->ctl = NULL;
    struct bg_error err = {0};
    struct ctl_host mine = host;
    mine.arg = w;
    for (size_t i = 0; i < w->fake_count; i++) {
        w->fakes[i].linked = false;
        fake_silence(&w->fakes[i]);
    }
    assert_int_equal(ctl_create(&w->o, &mine, &err, &w->ctl), BG_OK);
    for (size_t i = 0, records = w->log_count; i < records; i++)
        assert_int_equal(ctl_restore(w->ctl, &w->log[i], &err), BG_OK);
    ctl_lost(w->ctl, w->now, 1, "its process is gone");
    w->fakes[0].alive = false;
    assert_int_equal(ctl_start(w->ctl, w->now, NULL, &err), BG_OK);
    assert_int_equal(w->spawned_count, 1);
    fake_hello(w, &w->fakes[1]);
    world_settle(w);
    assert_true(ctl_view(w->ctl).committed == 2); // waits for member 3
    w->now += 3000000000;
    world_until(w, 3);
    expect_told(w, "did not come back");
    w->fakes[2].alive = false;
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    finishes(w);
}

// A checkpoint that the log does not know of: the log says that it goes on from there, so that the next controller can
// read it. A curve that only a lost checkpoint knew is computed again.
static void checkpoint_ahead_of_the_log(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 8);
    w->checkpoint = 3;
    world_start(w);
    assert_int_equal(w->log[1].kind, STORE_ROLLBACK);
    world_arrive_all(w);
    world_until(w, 5);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    world_restart(w);
    assert_true(ctl_view(w->ctl).committed == 5);
    w->checkpoint = 0; // gone from the disk
    world_restart(w);
    assert_true(ctl_view(w->ctl).committed == 0);
    for (size_t i = 0; i < 2; i++)
        fake_hello(w, &w->fakes[i]);
    world_until(w, 2);
    finishes(w);
}

// More members than wanted wait, welcomed, and are the first to be used when somebody is lost.
static void spare(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 12);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    struct fake *f = fake_add(w, 0, MESSAGE_WORKER);
    fake_hello(w, f);
    world_until(w, 4);
    expect_told(w, "send WELCOME 3");
    assert_true(f->generation == 0 && ctl_view(w->ctl).generation == 1 && ctl_view(w->ctl).workers == 3);
    fake_kill(w, &w->fakes[0], "killed");
    assert_int_equal(w->spawned_count, 0);
    world_until(w, 8);
    assert_true(f->running && f->have[0]);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    finishes(w);
}

// A newcomer follows first, and is seated one generation later; its state comes from a member that has least to send.
static void joiner(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 12);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    fake_kill(w, &w->fakes[0], "killed");
    assert_int_equal(w->spawned_count, 1);
    world_until(w, 3);
    bg_str_reset(&w->told);
    struct fake *f = world_arrive(w);
    world_until(w, 4);
    world_until(w, 5);
    expect_told(w, "\"shape\": \"1+2\", \"reason\": \"join\"");
    expect_told(w, "event moved");
    world_until(w, 7);
    expect_told(w, "\"shape\": \"2x2\"");
    bool sits = false;
    for (uint32_t i = 0; i < f->steady.seat_count; i++)
        sits |= f->steady.seats[i].worker == f->self;
    assert_true(sits);
    finishes(w);
}

static void shadow_promotion(void **state)
{
    (void)state;
    struct world *w = world_create("2x1", 12);
    w->o.shadow = true;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    bg_str_reset(&w->told);
    fake_kill(w, &w->fakes[1], "killed");
    world_until(w, 5);
    expect_told(w, "event shadow");
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    assert_false(told(w, "event moved")); // it held everything
    world_arrive(w);
    world_until(w, 9);
    struct fake *shadow = &w->fakes[2], *next = &w->fakes[3];
    assert_int_equal(shadow->role, MESSAGE_SHADOW);
    assert_int_equal(shadow->steady.seat_count, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(shadow->steady.seats[i].worker != shadow->self);
    assert_true(next->steady.seats[1].worker == next->self || next->steady.seats[0].worker == next->self);
    fake_kill(w, &w->fakes[0], "killed"); // now everybody but the shadow
    fake_kill(w, next, "killed");
    world_until(w, 11);
    assert_int_equal(shadow->steady.stage_count, 1);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    finishes(w);
}

// A member that had been declared lost comes back: another id, no state.
static void zombie(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 8);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    struct fake *f = &w->fakes[1];
    uint32_t id = f->id;
    f->linked = false;
    fake_silence(f);
    ctl_lost(w->ctl, w->now, id, "silent for 1 s");
    world_until(w, 4);
    fake_hello(w, f);
    assert_true(f->id != id);
    assert_int_equal(ctl_view(w->ctl).fenced, 1);
    expect_told(w, "event fenced \"member\": 2");
    world_until(w, 7);
    assert_true(f->have[0]); // it works again, with state that was moved to it
    world_arrive_all(w);     // the one that was started in its place: a spare
    finishes(w);
}

// The controller is stopped for a while and goes on: its members took it for dead, closed their links and come back.
static void asleep(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 8);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    hesitate_all(w);
    world_settle(w);
    w->now += 1000000000;
    for (size_t i = 0; i < 4; i++) {
        w->fakes[i].linked = false;
        ctl_lost(w->ctl, w->now, w->fakes[i].id, "closed by the peer");
    }
    assert_int_equal(w->spawned_count, 0);
    for (size_t i = 0; i < 3; i++)
        fake_hello(w, &w->fakes[i]);
    world_settle(w); // waits for the fourth
    fake_hello(w, &w->fakes[3]);
    world_settle(w);
    struct ctl_view view = ctl_view(w->ctl);
    assert_true(view.deaths == 0 && view.fenced == 0 && view.rollbacks == 0 && view.leaves_recomputed == 0);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(w->fakes[i].id, i + 1);
    fake_hello(w, &w->fakes[2]); // and one connects again before its link is known to be broken
    world_settle(w);
    w->now += 1000000000;
    w->fakes[1].alive = w->fakes[1].linked = false; // one that does not come back is lost in the end
    fake_silence(&w->fakes[1]);
    ctl_lost(w->ctl, w->now, 2, "closed by the peer");
    for (int i = 0; i < 4; i++) {
        world_settle(w);
        w->now += 250000000;
    }
    world_settle(w);
    view = ctl_view(w->ctl);
    assert_true(view.deaths == 1 && view.fenced == 0 && view.rollbacks == 0);
    assert_int_equal(view.leaves_recomputed, LEAVES / 2);
    unmute_all(w);
    finishes(w);
}

// The shadow and the worker it follows show their state: different sums are no small thing.
static void state_that_differs(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 9);
    world_start(w);
    world_arrive_all(w);
    mute_all(w, true);
    world_settle(w);
    const uint8_t held[UNITS] = {1, 1, 1, 1, 1, 1};
    for (uint64_t i = 0; i < 2; i++) {
        uint64_t sums[UNITS] = {1, 2, 3, 4, 5 + i, 6};
        uint8_t payload[256];
        struct wire_frame frame = {.kind = WIRE_PROOF, .generation = w->fakes[i].generation, .job = 7};
        frame.bytes = message_proof_encode(UNITS, held, sums, payload, sizeof payload);
        frame.check = wire_check(payload, frame.bytes);
        ctl_frame(w->ctl, w->now, w->fakes[i].id, &frame, payload);
    }
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_CORRUPT);
    assert_non_null(strstr(err.text, "unit 4"));
    world_destroy(w);
}

static void mismatch(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 8);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    w->lie = 1e-3;
    world_settle(w);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_CORRUPT);
    assert_non_null(strstr(err.text, "step "));
    assert_non_null(strstr(err.text, "members 1 and 2") ? err.text : strstr(err.text, "members 2 and 1"));
    assert_non_null(strstr(err.text, "embed"));
    assert_true(w->fakes[0].left && w->fakes[1].left);
    world_destroy(w);
}

static void not_finite(void **state)
{
    (void)state;
    struct world *w = world_create("1x1", 8);
    world_start(w);
    world_arrive_all(w);
    w->lie = INFINITY;
    world_settle(w);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_NOT_FINITE);
    assert_non_null(strstr(err.text, "step 0"));
    assert_non_null(strstr(err.text, "embed"));
    world_destroy(w);
}

// The scribe dies over its task: another one gets it, and nothing is committed before it is done.
static void scribe_dies(void **state)
{
    (void)state;
    for (int shadow = 0; shadow < 2; shadow++) {
        struct world *w = world_create("2x2", 6);
        w->o.shadow = shadow;
        w->o.checkpoint_every = 4;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 3);
        struct fake *scribe = &w->fakes[shadow ? 4 : 0];
        mute_all(w, true);
        for (size_t i = 0; i < 4; i++)
            w->fakes[i].mute = &w->fakes[i] == scribe;
        world_settle(w);
        unmute_all(w);
        while (!scribe->has_task) {
            scribe->mute = ctl_view(w->ctl).committed == 4;
            assert_true(world_turn(w));
        }
        world_settle(w);
        assert_true(ctl_view(w->ctl).committed == 4);
        char text[200];
        ctl_describe(w->ctl, text, sizeof text);
        assert_non_null(strstr(text, "checkpoint of step 4"));
        fake_kill(w, scribe, "killed");
        finishes(w);
    }
}

static void stop(void **state)
{
    (void)state;
    struct world *w = world_create("2x1", 10);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    ctl_stop(w->ctl, w->now);
    world_settle(w);
    expect_end(w, CTL_STOPPED);
    expect_curve(w, 4);
    assert_string_equal(ctl_view(w->ctl).checkpoint, "step-4");
    assert_true(w->fakes[0].left && w->fakes[1].left);
    world_restart(w); // and on, with other processes
    for (size_t i = 0; i < 2; i++)
        ctl_lost(w->ctl, w->now, w->fakes[i].id, "its process is gone");
    world_arrive_all(w);
    world_until(w, 6);
    finishes(w);

    w = world_create("2x1", 10);
    w->o.stop_after = 2;
    world_start(w);
    world_arrive_all(w);
    world_settle(w);
    expect_end(w, CTL_STOPPED);
    expect_curve(w, 2);
    world_destroy(w);
}

// Nobody is left that holds a stage: everybody goes back to the checkpoint, cut anew for as many as there are.
static void rollback(void **state)
{
    (void)state;
    for (int baseline = 0; baseline < 2; baseline++) {
        struct world *w = world_create("3x1", 9);
        w->o.checkpoint_every = 2;
        w->o.recovery_checkpoint = baseline;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 3);
        world_settle(w);
        world_destroy(w);
        w = world_create("3x1", 9);
        w->o.checkpoint_every = 2;
        w->o.recovery_checkpoint = baseline;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 3);
        fake_kill(w, &w->fakes[0], "killed"); // held everything: the scribe
        if (!baseline)
            fake_kill(w, &w->fakes[2], "killed");
        world_settle(w);
        struct ctl_view view = ctl_view(w->ctl);
        assert_int_equal(view.rollbacks, 1);
        assert_int_equal(view.steps_redone, 1);
        expect_told(w, "event rollback");
        if (baseline)
            assert_true(view.committed == 2); // waits until it is complete again
        finishes(w);
    }
}

// Without respawn the shape is fitted to those that are left; with nobody left the job fails and says so.
static void fewer_and_fewer(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 20);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    for (size_t i = 0; i < 3; i++) {
        world_until(w, 3 * (i + 1));
        fake_kill(w, &w->fakes[3 - i], "killed");
    }
    world_until(w, 12);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0); // the scribe held what they held
    fake_kill(w, &w->fakes[0], "killed");
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_non_null(strstr(err.text, "no worker is left"));
    world_destroy(w);
}

static void processes_that_do_not_start(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 4);
    world_start(w);
    for (int i = 0; i < 3; i++)
        ctl_spawn_ended(w->ctl, w->now, w->spawned[i], "exit code 78: no such library");
    assert_int_equal(w->spawned_count, 4); // the two, and two more before it gave up
    ctl_spawn_ended(w->ctl, w->now, w->spawned[3], "exit code 78: no such library");
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_non_null(strstr(err.text, "no such library"));
    world_destroy(w);

    w = world_create("1x2", 4); // one comes, the other never: after the time to join it goes on alone
    world_start(w);
    world_arrive(w);
    world_settle(w);
    assert_true(ctl_view(w->ctl).generation == 0);
    w->now += 1000000000;
    world_settle(w);
    assert_true(ctl_view(w->ctl).generation == 1);
    finishes(w);
}

static void waiting_and_trouble(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 6);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    w->fakes[1].mute = true;
    world_settle(w);
    w->now += 5000000000;
    ctl_tick(w->ctl, w->now);
    expect_told(w, "event waiting");
    expect_told(w, "waits for the vote of member 2 (worker 1)");
    uint32_t generation = ctl_view(w->ctl).generation;
    struct message_trouble trouble = {.kind = MESSAGE_PEER_LOST, .peer = 1, .text = "\"lost\"\n\xff"};
    uint8_t payload[MESSAGE_SMALL];
    size_t bytes = message_trouble_encode(&trouble, payload, sizeof payload);
    say(w, &w->fakes[1], WIRE_TROUBLE, payload, bytes);
    assert_int_equal(ctl_view(w->ctl).generation, generation); // its loss may be on the way
    w->now += 20000000;
    ctl_tick(w->ctl, w->now);
    assert_int_equal(ctl_view(w->ctl).generation, generation + 1);
    expect_told(w, "\\\"lost\\\"\\n?");
    world_settle(w);
    unmute_all(w);
    finishes(w);

    w = world_create("1x2", 6);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    trouble = (struct message_trouble){.kind = MESSAGE_FAILED, .status = BG_FULL, .text = "step-2: disk full"};
    bytes = message_trouble_encode(&trouble, payload, sizeof payload);
    say(w, &w->fakes[1], WIRE_TROUBLE, payload, bytes);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_FULL);
    assert_non_null(strstr(err.text, "member 2: step-2: disk full"));
    world_destroy(w);
}

static void log_that_fails(void **state)
{
    (void)state;
    struct world *w = world_create("1x1", 6);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    w->refuse_append = true;
    world_settle(w);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_FULL);
    assert_true(w->fakes[0].version == w->commits); // no COMMIT without its record
    world_destroy(w);
}

static void bad_payloads(void **state)
{
    (void)state;
    static const enum wire_kind kinds[] = {WIRE_REPORT, WIRE_LOSS, WIRE_VOTE, WIRE_TROUBLE, WIRE_TASK_DONE};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct world *w = world_create("1x2", 4);
        world_start(w);
        world_arrive_all(w);
        world_until(w, 2);
        say(w, &w->fakes[1], kinds[i], "junk", 4);
        expect_told(w, "drop 2");
        w->fakes[1].alive = false;
        fake_silence(&w->fakes[1]);
        finishes(w);
    }
}

// ---- run.plan=auto ----
static struct plan_unit auto_units[UNITS];
static struct plan_machine auto_machine = {.name = "worker", .speed = 1, .threads = 1};
static const struct plan_profile auto_profile = {
    .units = auto_units, .unit_count = UNITS, .machines = &auto_machine, .machine_count = 1};

static void set_auto(struct world *w, double memory_bytes)
{
    for (uint32_t u = 0; u < UNITS; u++)
        auto_units[u] = (struct plan_unit){
            .forward_s = costs[u] / 3, .input_s = costs[u] / 3, .weight_s = costs[u] / 3, .parameter_bytes = 1};
    auto_machine.memory_bytes = memory_bytes;
    w->o.profile = &auto_profile;
}

static void auto_shape(void **state)
{
    (void)state;
    struct world *w = world_create("1x4", 8); // a worker holds four units
    set_auto(w, 16);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    expect_told(w, "\"shape\": \"2x2\"");
    for (size_t i = 0; i < 3; i++) // the last one has to hold everything, whatever was said
        fake_kill(w, &w->fakes[i], "killed");
    finishes(w);

    w = world_create("1x5", 8); // two items, so that one stage is not for five
    set_auto(w, 0);
    w->o.respawn = false;
    w->o.group = 4;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    const struct plan *plan = &w->fakes[0].steady;
    uint32_t alone = UINT32_MAX, seats[UNITS] = {0};
    assert_int_equal(plan->seat_count, 5);
    for (uint32_t i = 0; i < plan->seat_count; i++)
        seats[plan->seats[i].stage]++;
    for (uint32_t i = 0; i < plan->seat_count; i++)
        alone = seats[plan->seats[i].stage] == 1 ? plan->seats[i].worker : alone;
    assert_true(alone < 5);
    bg_str_reset(&w->told);
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].self == alone)
            fake_kill(w, &w->fakes[i], "killed");
    world_until(w, 4);
    expect_told(w, "\"shape\": \"2x2\"");
    finishes(w);
}

static void shares_by_speed(void **state)
{
    (void)state;
    static const double speeds[] = {1, 2, 5};
    struct world *w = world_create("1x3", 8);
    w->speeds = speeds;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    const struct plan *plan = &w->fakes[0].steady;
    uint32_t shares[3] = {0}, sorted = 0;
    for (uint32_t i = 0; i < plan->item_count; i++)
        shares[plan->route[i]]++;
    for (uint32_t i = 0; i < 3; i++)
        sorted += 1u << shares[i];
    assert_int_equal(sorted, 1u << 1 | 1u << 2 | 1u << 5);
    finishes(w);
}

// One of the things that may happen at any letter.
static void chaos_strikes(struct world *w, uint64_t *left)
{
    struct fake *f = w->fake_count ? &w->fakes[draw(w, w->fake_count)] : NULL;
    const uint64_t what = draw(w, 120);
    if (*left == 0 || ctl_ended(w->ctl, NULL) != CTL_RUNS)
        return;
    if (what < 6 && f && f->alive && f->linked) {
        fake_kill(w, f, "killed");
        --*left;
    } else if (what == 6) {
        world_restart(w);
        --*left;
    } else if (what == 7 && f && f->alive && f->linked && f->running) {
        struct message_trouble trouble = {.kind = (uint32_t)draw(w, 3), .peer = 1, .text = "late"};
        uint8_t payload[MESSAGE_SMALL];
        say(w, f, WIRE_TROUBLE, payload, message_trouble_encode(&trouble, payload, sizeof payload));
        --*left;
    } else if (what == 8) { // joins by hand
        fake_hello(w, fake_add(w, 0, MESSAGE_WORKER));
        --*left;
    } else if (what == 9 && f && f->alive && f->linked) { // declared lost, but lives
        f->linked = false;
        fake_silence(f);
        ctl_lost(w->ctl, w->now, f->id, "silent");
        --*left;
    } else if (what == 10 && w->spawned_count > 0) {
        uint64_t token = w->spawned[--w->spawned_count];
        ctl_spawn_ended(w->ctl, w->now, token, "died at once");
        --*left;
    } else if (what == 11) { // the controller does not run for a while
        w->now += 1000000000;
        for (size_t i = 0; i < w->fake_count; i++)
            if (w->fakes[i].alive && w->fakes[i].linked && draw(w, 3)) {
                w->fakes[i].linked = false;
                fake_silence(&w->fakes[i]);
                ctl_lost(w->ctl, w->now, w->fakes[i].id, "closed by the peer");
            }
        --*left;
    } else if (what == 12 && f && f->alive && f->linked && f->id) { // its link broke
        fake_silence(f);
        fake_hello(w, f);
        --*left;
    }
}

// Everything at once, by seed: members and controllers die at any letter, processes come when they like.
static void chaos(void **state)
{
    (void)state;
    static const char *const shapes[] = {"2x2", "1x3", "3x1", "1+2", "4x1"};
    static const uint8_t some[4] = {0, PLAN_OFFLOAD, PLAN_OFFLOAD};
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        struct world *w = world_create(shapes[seed % 5], 12);
        w->random = seed;
        w->o.shadow = draw(w, 2);
        w->o.checkpoint_every = draw(w, 4);
        w->o.eval_every = draw(w, 4);
        w->o.recovery_checkpoint = draw(w, 8) == 0;
        w->o.schedule = (enum plan_schedule)draw(w, PLAN_SCHEDULES);
        w->o.chunks = plan_schedule_chunks(w->o.schedule, 2);
        w->o.range = (uint32_t)(seed % 4);
        w->o.saving = some;
        w->o.saving_count = seed % 5 == 1 ? w->o.stages : 0;
        w->o.group = 1u << draw(w, 2);
        w->o.split = draw(w, 2);
        if (draw(w, 3) == 0)
            set_auto(w, draw(w, 2) ? 0 : 8 + (double)draw(w, 20));
        static const double speeds[] = {1, 0.5, 3};
        w->speeds = draw(w, 3) ? NULL : speeds;
        uint64_t left = 12;
        world_start(w);
        for (int turn = 0; ctl_ended(w->ctl, NULL) == CTL_RUNS; turn++) {
            if (turn > 20000) {
                char text[256];
                ctl_describe(w->ctl, text, sizeof text);
                fail_msg("seed %llu: %s\n%s", (unsigned long long)seed, text, bg_str_text(&w->told));
            }
            if (!world_turn(w))
                w->now += 100000000;
            if (w->spawned_count > 0 && draw(w, 10) == 0)
                world_arrive(w);
            chaos_strikes(w, &left);
            for (size_t i = 0; i < w->fake_count; i++) // those without a controller seek it
                if (w->fakes[i].alive && !w->fakes[i].linked && draw(w, 4) == 0)
                    fake_hello(w, &w->fakes[i]);
        }
        expect_end(w, CTL_FINISHED);
        expect_curve(w, 12);
        world_destroy(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_to_end),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(loss_in_a_step),
        cmocka_unit_test(old_frames),
        cmocka_unit_test(restart_after_the_log),
        cmocka_unit_test(restart_keeps_the_seats),
        cmocka_unit_test(restart_with_losses),
        cmocka_unit_test(checkpoint_ahead_of_the_log),
        cmocka_unit_test(spare),
        cmocka_unit_test(joiner),
        cmocka_unit_test(shadow_promotion),
        cmocka_unit_test(zombie),
        cmocka_unit_test(asleep),
        cmocka_unit_test(state_that_differs),
        cmocka_unit_test(mismatch),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(scribe_dies),
        cmocka_unit_test(stop),
        cmocka_unit_test(rollback),
        cmocka_unit_test(fewer_and_fewer),
        cmocka_unit_test(processes_that_do_not_start),
        cmocka_unit_test(waiting_and_trouble),
        cmocka_unit_test(log_that_fails),
        cmocka_unit_test(bad_payloads),
        cmocka_unit_test(auto_shape),
        cmocka_unit_test(shares_by_speed),
        cmocka_unit_test(chaos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
