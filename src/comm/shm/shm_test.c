// Endpoints of one process: frames arrive in order and whole by every way (no payload, copied, in place, in pieces), a
// full ring waits, links end and are made again, nothing leaks, the steady state allocates nothing, and two threads
// talk. labels: threads
#include "comm/shm/shm_test.h"

#include <pthread.h>

static void frames_arrive_in_order(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, NULL, NULL);
    static uint8_t bytes[3 * SHM_CHUNK_BYTES];
    const size_t sizes[] = {0, 1, 100, SHM_CHUNK_BYTES, SHM_CHUNK_BYTES + 1, sizeof bytes};
    for (uint64_t i = 0; i < 600; i++) {
        size_t size = sizes[i % 6];
        test_fill(bytes, size, i);
        test_send(pair.a, pair.to_b, i, bytes, size);
    }
    for (uint64_t i = 0; i < 600; i++) {
        struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
        assert_int_equal(event.link, pair.to_a);
        assert_int_equal(event.peer, 1);
        assert_int_equal(event.frame.from, 1);
        test_fill(bytes, sizes[i % 6], i);
        test_check(&event, i, sizes[i % 6]);
        if (event.frame.bytes)
            assert_memory_equal(event.payload, bytes, event.frame.bytes);
        assert_int_equal((uintptr_t)event.payload % 64, 0);
        comm_release(pair.b, &event);
    }
    assert_int_equal(pair.a->counts.frames_sent, 600);
    assert_int_equal(pair.b->counts.frames_received, 600);
    assert_int_equal(pair.b->counts.bytes_received, pair.a->counts.bytes_sent);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void reserved_memory_is_read_in_place(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, NULL, NULL);
    struct bg_error err;
    void *memory = NULL;
    const size_t bytes = 8 << 20;
    assert_int_equal(pair.a->ops->reserve(pair.a, bytes, &err, &memory), BG_OK);
    uint8_t *floats = memory;
    for (size_t i = 0; i < bytes; i += 4096)
        assert_int_equal(floats[i], 0);
    test_fill(memory, bytes, 1);
    test_send(pair.a, pair.to_b, 0, memory, bytes);
    test_send(pair.a, pair.to_b, 1, floats + 1004, 4000);
    test_send(pair.a, pair.to_b, 2, floats + 1001, 5); // not in place: no float could be read there
    struct comm_event whole = test_expect(pair.b, pair.a, COMM_FRAME), part = test_expect(pair.b, pair.a, COMM_FRAME);
    struct comm_event odd = test_expect(pair.b, pair.a, COMM_FRAME);
    test_check(&whole, 0, bytes);
    test_check(&part, 1, 4000);
    test_check(&odd, 2, 5);
    assert_ptr_equal((const uint8_t *)whole.payload + 1004, part.payload);
    floats[2000]++; // seen at once: the same pages
    assert_int_equal(((const uint8_t *)whole.payload)[2000], floats[2000]);
    comm_release(pair.b, &odd);
    comm_release(pair.b, &part);
    // Given back by its owner, readable until it is released, even when the link is gone.
    pair.a->ops->unreserve(pair.a, memory);
    test_send(pair.a, pair.to_b, 3, NULL, 0);
    struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
    test_check(&event, 3, 0);
    assert_int_equal(shm_link_find((struct shm *)pair.b, pair.to_a)->remote_count, 0);
    pair.a->ops->close(pair.a, pair.to_b);
    event = test_expect(pair.b, NULL, COMM_DOWN);
    assert_non_null(strstr(event.why, "closed the link"));
    assert_int_equal(((const uint8_t *)whole.payload)[bytes - 4096],
                     (uint8_t)(((bytes - 4096) * 2654435761u + 97) >> 8));
    comm_release(pair.b, &whole);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void memory_given_back_with_frames_queued(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, NULL, NULL);
    struct bg_error err;
    static uint8_t copy[50000];
    for (uint64_t round = 0; round < 20; round++) {
        void *memory = NULL;
        assert_int_equal(pair.a->ops->reserve(pair.a, sizeof copy, &err, &memory), BG_OK);
        test_fill(memory, sizeof copy, round);
        for (uint64_t i = 0; i < SHM_SLOTS + 10; i++)
            test_send(pair.a, pair.to_b, i, memory, sizeof copy);
        pair.a->ops->unreserve(pair.a, memory);
        test_fill(copy, sizeof copy, round);
        for (uint64_t i = 0; i < SHM_SLOTS + 10; i++) {
            struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
            test_check(&event, i, sizeof copy);
            assert_memory_equal(event.payload, copy, sizeof copy);
            comm_release(pair.b, &event);
        }
    }
    test_send(pair.a, pair.to_b, 7, NULL, 0);
    struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
    test_check(&event, 7, 0);
    assert_int_equal(shm_link_find((struct shm *)pair.b, pair.to_a)->remote_count, 0);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void large_payloads(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, NULL, NULL);
    struct bg_error err;
    uint8_t *bytes = bg_alloc(SHM_COPIED_MAX + 1);
    test_fill(bytes, 1 << 20, 5);
    bytes[SHM_COPIED_MAX - 1] = 77;
    test_send(pair.a, pair.to_b, 1, bytes, SHM_COPIED_MAX);
    bytes[SHM_COPIED_MAX - 1] = 0; // it was copied
    struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
    test_check(&event, 1, SHM_COPIED_MAX);
    assert_memory_equal(event.payload, bytes, SHM_COPIED_MAX - 1);
    assert_int_equal(((const uint8_t *)event.payload)[SHM_COPIED_MAX - 1], 77);
    comm_release(pair.b, &event);
    struct wire_frame frame = {.kind = WIRE_PART};
    assert_int_equal(comm_send(pair.a, pair.to_b, &frame, bytes, SHM_COPIED_MAX + 1, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "reserve()"));
    frame.kind = WIRE_COMMIT;
    assert_int_equal(comm_send(pair.a, pair.to_b, &frame, bytes, 4097, &err), BG_INVALID);
    bg_free(bytes);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void a_full_queue_says_so(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, &(struct comm_shm_options){.queue_frames = 1000}, NULL);
    struct bg_error err;
    struct wire_frame frame = {.kind = WIRE_VOTE};
    uint64_t sent = 0;
    while (comm_send(pair.a, pair.to_b, &frame, &sent, sizeof sent, &err) == BG_OK)
        frame.step = ++sent;
    assert_int_equal(sent, SHM_SLOTS + 1000);
    assert_non_null(strstr(err.text, "1000 frames wait for member 2"));
    for (uint64_t i = 0; i < sent; i++) {
        struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
        test_check(&event, i, sizeof i);
        assert_memory_equal(event.payload, &i, sizeof i);
        comm_release(pair.b, &event);
    }
    assert_int_equal(comm_send(pair.a, pair.to_b, &frame, NULL, 0, &err), BG_OK);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void frames_before_the_answer_wait(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *a = test_endpoint(env, NULL), *b = test_endpoint(env, NULL);
    struct bg_error err;
    uint32_t link = 0;
    assert_int_equal(a->ops->connect(a, 2, "brigade-no-such-address", &err, &link), BG_NOT_FOUND);
    assert_int_equal(a->ops->connect(a, 2, b->ops->address(b), &err, &link), BG_OK);
    for (uint64_t i = 0; i < 300; i++)
        test_send(a, link, i, &i, sizeof i);
    assert_int_equal(test_expect(b, a, COMM_UP).kind, COMM_UP);
    for (uint64_t i = 0; i < 300; i++) {
        struct comm_event event = test_expect(b, a, COMM_FRAME);
        test_check(&event, i, sizeof i);
        comm_release(b, &event);
    }
    // An address is taken once; a new endpoint has another.
    struct comm *c = NULL;
    struct comm_shm_options taken = {.address = b->ops->address(b)};
    assert_int_equal(comm_shm_create(env, &taken, &err, &c), BG_EXISTS);
    b->ops->destroy(b);
    assert_int_equal(test_expect(a, NULL, COMM_UP).kind, COMM_UP);
    assert_int_equal(test_expect(a, NULL, COMM_DOWN).link, link);
    test_send(a, link, 0, NULL, 0); // swallowed
    a->ops->destroy(a);
    os_env_destroy(env);
}

static void nobody_speaks_for_another(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, NULL, NULL);
    pair.a->self = COMM_UNKNOWN; // before its WELCOME
    test_send(pair.a, pair.to_b, 0, NULL, 0);
    pair.a->self = 1;
    test_send(pair.a, pair.to_b, 1, NULL, 0);
    pair.b->ops->name(pair.b, pair.to_a, 9); // renamed: what is under way has the old name
    pair.a->self = 9;
    test_send(pair.a, pair.to_b, 2, NULL, 0);
    for (uint64_t i = 0; i < 3; i++) {
        struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
        test_check(&event, i, 0);
        assert_int_equal(event.peer, 9);
    }
    pair.a->self = 7;
    test_send(pair.a, pair.to_b, 3, NULL, 0);
    struct comm_event event = test_expect(pair.b, pair.a, COMM_DOWN);
    assert_string_equal(event.why, "bad frame: PART from member 7 on the link of member 9");
    assert_int_equal(pair.b->counts.frames_refused, 1);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void links_come_and_go_without_leaks(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *a = test_endpoint(env, NULL), *b = test_endpoint(env, NULL);
    struct bg_error err;
    void *memory = NULL;
    assert_int_equal(a->ops->reserve(a, 4096, &err, &memory), BG_OK);
    size_t before = test_fds();
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t link = 0;
        assert_int_equal(a->ops->connect(a, 2, b->ops->address(b), &err, &link), BG_OK);
        assert_int_equal(link, i); // never used again
        test_send(a, link, i, memory, 64);
        test_expect(b, a, COMM_UP);
        test_expect(a, b, COMM_UP);
        struct comm_event event = test_expect(b, a, COMM_FRAME);
        if (i % 2) {
            a->ops->close(a, link);
            test_check(&event, i, 64);
            comm_release(b, &event);
            test_expect(b, NULL, COMM_DOWN);
        } else {
            b->ops->close(b, event.link);
            test_expect(a, NULL, COMM_DOWN);
            test_check(&event, i, 64);
            comm_release(b, &event);
        }
    }
    assert_int_equal(test_fds(), before);
    a->ops->destroy(a);
    b->ops->destroy(b);
    os_env_destroy(env);
}

static bool tamper(void *arg, uint32_t peer, struct wire_frame *frame, uint64_t *delay_ns)
{
    assert_int_equal(peer, 2);
    *(int *)arg += 1;
    if (frame->step == 1)
        return false;
    if (frame->step == 2)
        frame->check ^= 1;
    if (frame->step == 3)
        *delay_ns = 30000000;
    return true;
}

static void faults_are_injected(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    int calls = 0;
    struct test_pair pair =
        test_pair_with(env, &(struct comm_shm_options){.tamper = tamper, .tamper_arg = &calls}, NULL);
    for (uint64_t i = 0; i < 5; i++)
        test_send(pair.a, pair.to_b, i, &i, sizeof i);
    uint64_t start = env_now_ns(env);
    struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
    test_check(&event, 0, 8);
    comm_release(pair.b, &event);
    event = test_expect(pair.b, pair.a, COMM_FRAME);
    assert_int_equal(event.frame.step, 2);
    assert_int_not_equal(event.frame.check, wire_check(event.payload, 8));
    comm_release(pair.b, &event);
    for (uint64_t i = 3; i < 5; i++) { // delayed, and what was sent after it stays behind it
        event = test_expect(pair.b, pair.a, COMM_FRAME);
        test_check(&event, i, 8);
        comm_release(pair.b, &event);
        assert_true(env_now_ns(env) - start > 25000000);
    }
    assert_int_equal(calls, 5);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, NULL, NULL);
    struct bg_error err;
    void *memory = NULL;
    static uint8_t small[20000];
    assert_int_equal(pair.a->ops->reserve(pair.a, 1 << 16, &err, &memory), BG_OK);
    uint64_t count = 0;
    for (uint64_t round = 0; round < 20; round++) {
        if (round == 10)
            count = bg_mem_count();
        for (uint64_t i = 0; i < 400; i++)
            test_send(pair.a, pair.to_b, i, i % 2 ? memory : small, i % 2 ? 1 << 16 : sizeof small);
        for (uint64_t i = 0; i < 400; i++) {
            struct comm_event event = test_expect(pair.b, pair.a, COMM_FRAME);
            comm_release(pair.b, &event);
        }
    }
    assert_int_equal(bg_mem_count(), count);
    test_pair_end(&pair);
    os_env_destroy(env);
}

// ---- Two threads ----

enum { TALKS = 3000 };

struct talker {
    struct comm *comm;
    uint32_t link;
    uint8_t *arena;
    int wrong;
};

// Nothing here takes a second but a wake-up that got lost.
static void wait_for_more(struct talker *t)
{
    uint64_t start = env_now_ns(t->comm->env);
    t->comm->ops->wait(t->comm, 2000000000);
    if (env_now_ns(t->comm->env) - start > 1900000000)
        t->wrong++;
}

// Each sends number i by one of three ways once it has heard number i of the other side.
static void *talk(void *arg)
{
    struct talker *t = arg;
    uint8_t copied[5000];
    struct bg_error err;
    for (uint64_t sent = 0, heard = 0; heard < TALKS;) {
        while (sent < TALKS && sent <= heard + 40) {
            struct wire_frame frame = {.kind = WIRE_ROOT, .step = sent};
            size_t bytes = sent % 3 == 0 ? 0 : sent % 3 == 1 ? sizeof copied : 1024;
            uint8_t *from = sent % 3 == 1 ? copied : t->arena + sent % 64 * 1024;
            test_fill(from, bytes, sent);
            if (comm_send(t->comm, t->link, &frame, from, bytes, &err))
                t->wrong++;
            sent++;
        }
        struct comm_event event;
        if (comm_next(t->comm, &err, &event))
            t->wrong++;
        if (event.kind == COMM_NOTHING) {
            wait_for_more(t);
            continue;
        }
        if (event.kind != COMM_FRAME || event.frame.step != heard ||
            event.frame.check != wire_check(event.payload, event.frame.bytes))
            t->wrong++;
        heard++;
        comm_release(t->comm, &event);
    }
    return NULL;
}

static void two_threads(const struct comm_shm_options *options, void *(*one)(void *), void *(*other)(void *))
{
    struct bg_env *env = test_env();
    struct test_pair pair = test_pair_with(env, options, options);
    struct bg_error err;
    struct talker a = {.comm = pair.a, .link = pair.to_b}, b = {.comm = pair.b, .link = pair.to_a};
    assert_int_equal(pair.a->ops->reserve(pair.a, 65536, &err, (void **)&a.arena), BG_OK);
    assert_int_equal(pair.b->ops->reserve(pair.b, 65536, &err, (void **)&b.arena), BG_OK);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, other, &b), 0);
    one(&a);
    pthread_join(thread, NULL);
    assert_int_equal(a.wrong, 0);
    assert_int_equal(b.wrong, 0);
    test_pair_end(&pair);
    os_env_destroy(env);
}

static void two_threads_talk(void **state)
{
    (void)state;
    two_threads(&(struct comm_shm_options){0}, talk, talk); // no beat wakes who sleeps too long
    two_threads(&(struct comm_shm_options){.beat_ms = 1, .silence_ms = 5000}, talk, talk);
}

// As fast as the queue takes them, sleeping when it does not; until the other side has answered the last.
static void *pour(void *arg)
{
    struct talker *t = arg;
    struct bg_error err;
    static const uint8_t copied[9000];
    for (uint64_t sent = 0; sent < TALKS;) {
        struct wire_frame frame = {.kind = WIRE_ROOT, .step = sent};
        bg_status status = comm_send(t->comm, t->link, &frame, copied, sent % 3 * 4500, &err);
        sent += status == BG_OK;
        if (status == BG_FULL)
            wait_for_more(t);
    }
    struct comm_event event = test_expect(t->comm, NULL, COMM_FRAME);
    comm_release(t->comm, &event);
    return NULL;
}

// Takes them in bursts, sleeping between.
static void *drink(void *arg)
{
    struct talker *t = arg;
    struct bg_error err;
    for (uint64_t heard = 0; heard < TALKS;) {
        struct comm_event event;
        if (comm_next(t->comm, &err, &event))
            t->wrong++;
        if (event.kind == COMM_NOTHING) {
            wait_for_more(t);
            continue;
        }
        t->wrong += event.frame.step != heard++;
        comm_release(t->comm, &event);
        if (heard % 700 == 0)
            usleep(3000);
    }
    test_send(t->comm, t->link, 0, NULL, 0);
    return NULL;
}

static void a_full_ring_wakes_its_writer(void **state)
{
    (void)state;
    two_threads(&(struct comm_shm_options){.queue_frames = 50}, pour, drink);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_in_order),
        cmocka_unit_test(reserved_memory_is_read_in_place),
        cmocka_unit_test(memory_given_back_with_frames_queued),
        cmocka_unit_test(large_payloads),
        cmocka_unit_test(a_full_queue_says_so),
        cmocka_unit_test(frames_before_the_answer_wait),
        cmocka_unit_test(nobody_speaks_for_another),
        cmocka_unit_test(links_come_and_go_without_leaks),
        cmocka_unit_test(faults_are_injected),
        cmocka_unit_test(steady_state_allocates_nothing),
        cmocka_unit_test(two_threads_talk),
        cmocka_unit_test(a_full_ring_wakes_its_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
