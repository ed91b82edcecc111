// The simulated network by itself: what comm/comm.h promises (order, what was sent before a death arrives before the
// news of it, payloads read in place) and what the simulation adds (overwritten payloads are noticed, death in the
// middle of a call, silence, corruption), with nothing left at the end.
#include "sim/net.h"

#include "base/mem.h"
#include "sim/env.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

struct fixture {
    uint64_t now_ns;
    struct sim_env env;
    struct sim_net *net;
    struct comm *a, *b;
    uint32_t ab, ba; // the links
    unsigned changed;
    enum sim_fate fate;
};

static enum sim_fate fate_of(void *arg, const struct sim_delivery *d, uint64_t *delay_ns)
{
    (void)d;
    (void)delay_ns;
    return ((struct fixture *)arg)->fate;
}

static void changed(void *arg, const struct sim_delivery *d, const char *when)
{
    (void)d;
    (void)when;
    ((struct fixture *)arg)->changed++;
}

// The next event of an endpoint, at whatever time.
static struct comm_event must(struct fixture *f, struct comm *comm, enum comm_event_kind kind)
{
    struct comm_event event = {0};
    uint64_t arrival = sim_net_arrival(comm);
    if (arrival != UINT64_MAX && arrival > f->now_ns)
        f->now_ns = arrival;
    assert_int_equal(comm_next(comm, NULL, &event), BG_OK);
    assert_int_equal(event.kind, kind);
    return event;
}

static void set_up(struct fixture *f, uint64_t seed)
{
    *f = (struct fixture){.now_ns = 1};
    sim_env_init(&f->env, 0, &f->now_ns, sim_random_make(seed, 0));
    f->net = sim_net_create(&(struct sim_net_options){.now_ns = &f->now_ns,
                                                      .random = sim_random_make(seed, 1),
                                                      .latency_ns = 1000,
                                                      .watcher = {.arg = f, .fate = fate_of, .changed = changed}});
    f->a = sim_net_endpoint(f->net, &f->env.env, "a", 1, f);
    f->b = sim_net_endpoint(f->net, &f->env.env, "b", 2, f);
    assert_int_equal(f->a->ops->connect(f->a, 7, f->b->ops->address(f->b), NULL, &f->ab), BG_OK);
    struct comm_event up = must(f, f->b, COMM_UP);
    assert_int_equal(up.peer, COMM_UNKNOWN);
    f->ba = up.link;
    f->b->ops->name(f->b, f->ba, 9);
    assert_int_equal(must(f, f->a, COMM_UP).peer, 7);
}

static void tear_down(struct fixture *f)
{
    uint32_t orphans, endpoints, frames;
    sim_net_left(f->net, &orphans, &endpoints, &frames);
    assert_int_equal(orphans + endpoints + frames, 0);
    sim_net_destroy(f->net);
    assert_int_equal(sim_env_reserved(&f->env), 0);
}

static void send(struct comm *comm, uint32_t link, uint32_t number, const void *payload, size_t bytes)
{
    struct wire_frame frame = {.kind = WIRE_PART, .a = number};
    assert_int_equal(comm_send(comm, link, &frame, payload, bytes, NULL), BG_OK);
}

static void order_and_death(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct fixture f;
        set_up(&f, seed);
        char text[32] = "control";
        for (uint32_t i = 0; i < 50; i++)
            send(f.a, f.ab, i, text, sizeof text);
        memset(text, 0, sizeof text); // copied at once: not reserved
        f.a->ops->destroy(f.a);
        for (uint32_t i = 0; i < 50; i++) {
            struct comm_event event = must(&f, f.b, COMM_FRAME);
            assert_int_equal(event.frame.a, i);
            assert_int_equal(event.peer, 9);
            assert_string_equal(event.payload, "control");
            assert_true(wire_check(event.payload, sizeof text) == event.frame.check);
            comm_release(f.b, &event);
        }
        struct comm_event down = must(&f, f.b, COMM_DOWN);
        assert_string_equal(down.why, "process ended");
        send(f.b, f.ba, 0, "x", 1); // swallowed
        must(&f, f.b, COMM_NOTHING);
        uint32_t link;
        struct bg_error err = {0};
        assert_int_equal(f.b->ops->connect(f.b, 7, "a", &err, &link), BG_NOT_FOUND);
        f.b->ops->destroy(f.b);
        assert_int_equal(f.changed, 0);
        tear_down(&f);
    }
}

static void read_in_place(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 1);
    void *memory = NULL;
    assert_int_equal(f.a->ops->reserve(f.a, 4096, NULL, &memory), BG_OK);
    uint8_t *bytes = memory;
    memset(bytes, 3, 4096);
    send(f.a, f.ab, 0, bytes + 64, 128);
    struct comm_event event = must(&f, f.b, COMM_FRAME);
    assert_ptr_equal(event.payload, bytes + 64);
    bytes[0] = 1; // outside of what was sent
    comm_release(f.b, &event);
    assert_int_equal(f.changed, 0);
    // Overwritten on its way, and while it is held.
    send(f.a, f.ab, 1, bytes, 128);
    bytes[0] = 2;
    event = must(&f, f.b, COMM_FRAME);
    assert_int_equal(f.changed, 1);
    bytes[0] = 1;
    comm_release(f.b, &event);
    assert_int_equal(f.changed, 1);
    send(f.a, f.ab, 2, bytes, 128);
    event = must(&f, f.b, COMM_FRAME);
    bytes[5] = 9;
    comm_release(f.b, &event);
    assert_int_equal(f.changed, 2);
    // Given back while somebody reads.
    send(f.a, f.ab, 3, bytes, 128);
    event = must(&f, f.b, COMM_FRAME);
    f.a->ops->unreserve(f.a, memory);
    assert_int_equal(f.changed, 3);
    assert_int_equal(((const uint8_t *)event.payload)[5], 9);
    comm_release(f.b, &event);
    f.a->ops->destroy(f.a);
    f.b->ops->destroy(f.b);
    tear_down(&f);
}

// What a process writes after it was killed never happened, and what it had sent stays readable.
static void death_in_a_call(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 2);
    void *memory = NULL;
    assert_int_equal(f.a->ops->reserve(f.a, 256, NULL, &memory), BG_OK);
    memset(memory, 7, 256);
    send(f.a, f.ab, 0, memory, 256);
    send(f.a, f.ab, 1, memory, 256);
    struct comm_event held = must(&f, f.b, COMM_FRAME);
    sim_net_mute(f.a);
    memset(memory, 8, 256);
    send(f.a, f.ab, 2, memory, 256);
    f.a->ops->unreserve(f.a, memory);
    f.a->ops->destroy(f.a);
    struct comm_event next = must(&f, f.b, COMM_FRAME);
    assert_int_equal(next.frame.a, 1);
    assert_int_equal(((const uint8_t *)next.payload)[255], 7);
    comm_release(f.b, &next);
    assert_int_equal(((const uint8_t *)held.payload)[0], 7);
    comm_release(f.b, &held);
    must(&f, f.b, COMM_DOWN);
    assert_int_equal(f.changed, 0);
    f.b->ops->destroy(f.b);
    tear_down(&f);
}

static void faults(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 3);
    char text[100] = "payload";
    f.fate = SIM_DROP;
    send(f.a, f.ab, 0, text, sizeof text);
    f.fate = SIM_CORRUPT;
    send(f.a, f.ab, 1, text, sizeof text);
    struct comm_event event = must(&f, f.b, COMM_FRAME);
    assert_int_equal(event.frame.a, 1);
    assert_true(wire_check(event.payload, sizeof text) != event.frame.check);
    comm_release(f.b, &event);
    f.fate = SIM_DELIVER;
    send(f.a, f.ab, 2, text, sizeof text);
    sim_net_silence(f.a, NULL, "silent for 0.9 s");
    send(f.a, f.ab, 3, text, sizeof text);
    event = must(&f, f.b, COMM_FRAME);
    assert_int_equal(event.frame.a, 2);
    comm_release(f.b, &event);
    assert_string_equal(must(&f, f.b, COMM_DOWN).why, "silent for 0.9 s");
    assert_string_equal(must(&f, f.a, COMM_DOWN).why, "closed by the peer");
    // Again, and broken under way; what is closed says nothing.
    assert_int_equal(f.a->ops->connect(f.a, 7, "b", NULL, &f.ab), BG_OK);
    f.fate = SIM_CUT;
    send(f.a, f.ab, 4, text, sizeof text);
    f.ba = must(&f, f.b, COMM_UP).link;
    f.b->ops->close(f.b, f.ba);
    must(&f, f.b, COMM_NOTHING);
    must(&f, f.a, COMM_DOWN);
    f.a->ops->destroy(f.a);
    f.b->ops->destroy(f.b);
    assert_int_equal(f.changed, 0);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_and_death),
        cmocka_unit_test(read_in_place),
        cmocka_unit_test(death_in_a_call),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
