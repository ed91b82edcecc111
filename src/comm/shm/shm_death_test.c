// Real processes that die and stop. Survivors get every frame that was published, then COMM_DOWN at once; a stopped
// peer is silent to those who listen for it; who was stopped himself does not take the others for dead.
#include "comm/shm/shm_test.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

static char *address_of(const char *name)
{
    return bg_format("brigade-test-%d-%s", (int)getpid(), name);
}

static uint32_t child_connect(struct comm *comm, const char *address)
{
    struct bg_error err;
    uint32_t link = 0;
    while (comm->ops->connect(comm, 0, address, &err, &link))
        usleep(1000);
    return link;
}

// ---- Killed ----

struct shared {
    _Atomic uint64_t published; // frames of the child that surely were
};

// Sends numbered frames of every kind as fast as they go.
static _Noreturn void talk_until_killed(const char *address, struct shared *shared)
{
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.beat_ms = 10});
    struct bg_error err;
    uint8_t *arena = NULL, copied[3 * SHM_CHUNK_BYTES];
    uint32_t id = child_connect(comm, address);
    if (comm->ops->reserve(comm, 512 * 16384, &err, (void **)&arena))
        _exit(1);
    for (uint64_t i = 0;; i++) {
        size_t bytes = i % 3 == 0 ? 0 : i % 3 == 1 ? sizeof copied : 16384;
        uint8_t *from = i % 3 == 1 ? copied : arena + i % 512 * 16384;
        if (bytes)
            memcpy(from, &i, sizeof i);
        struct wire_frame frame = {.kind = WIRE_STATE, .step = i};
        while (comm_send(comm, id, &frame, from, bytes, &err))
            comm->ops->wait(comm, 1000000);
        struct shm_link *link = shm_link_find((struct shm *)comm, id);
        while (link->queue_count > 32) { // with the ring far fewer than 512: nothing unread is written over
            comm->ops->wait(comm, 1000000);
            shm_flush((struct shm *)comm, link);
        }
        atomic_store(&shared->published, i + 1 - link->queue_count);
    }
}

static void killed_at_any_moment(void **state)
{
    (void)state;
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *address = address_of("kill");
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.address = address});
    struct bg_error err;
    srandom(7);
    size_t fds = test_fds();
    int late = 0; // a machine that is busy otherwise may be, once or twice
    for (int round = 0; round < 40; round++) {
        atomic_store(&shared->published, 0);
        pid_t child = fork();
        if (child == 0)
            talk_until_killed(address, shared);
        uint64_t kill_at = env_now_ns(env) + (uint64_t)(random() % 15000) * 1000, killed = 0, heard = 0;
        struct comm_event held = {0};
        for (bool up = false;;) {
            struct comm_event event;
            if (!killed && env_now_ns(env) >= kill_at) {
                kill(child, SIGKILL);
                waitpid(child, NULL, 0);
                killed = env_now_ns(env);
            }
            assert_int_equal(comm_next(comm, &err, &event), BG_OK);
            if (event.kind == COMM_NOTHING) {
                if (killed && !up && env_now_ns(env) - killed > 50000000)
                    break; // it never got as far as connecting
                comm->ops->wait(comm, killed ? 20000000 : kill_at > env_now_ns(env) ? kill_at - env_now_ns(env) : 0);
            } else if (event.kind == COMM_UP) {
                up = true;
            } else if (event.kind == COMM_DOWN) {
                assert_true(up && killed);
                assert_true(env_now_ns(env) - killed < 1000000000);
                late += env_now_ns(env) - killed > 100000000;
                assert_non_null(strstr(event.why, "ended"));
                break;
            } else {
                assert_int_equal(event.frame.step, heard);
                if (event.frame.bytes)
                    assert_memory_equal(event.payload, &heard, sizeof heard);
                heard++;
                if (!held.handle && event.handle && killed)
                    held = event;
                else
                    comm_release(comm, &event);
            }
        }
        assert_true(heard >= atomic_load(&shared->published));
        if (held.handle) { // readable after the death of who wrote it
            assert_memory_equal(held.payload, &held.frame.step, sizeof held.frame.step);
            comm_release(comm, &held);
        }
    }
    assert_true(late <= 2);
    assert_int_equal(test_fds(), fds);
    comm->ops->destroy(comm);
    os_env_destroy(env);
    bg_free(address);
    munmap(shared, sizeof *shared);
}

// ---- Stopped ----

// Computes for longer than the silence that others allow, then listens until its link is down.
static _Noreturn void compute_then_listen(const char *address)
{
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.beat_ms = 20});
    struct bg_error err;
    child_connect(comm, address);
    struct comm_event event = {0};
    while (event.kind != COMM_UP) {
        if (comm_next(comm, &err, &event))
            _exit(1);
        comm->ops->wait(comm, 10000000);
    }
    usleep(600000);
    for (int i = 0; event.kind != COMM_DOWN && i < 1000; i++) {
        if (comm_next(comm, &err, &event))
            _exit(1);
        comm->ops->wait(comm, 10000000);
    }
    _exit(event.kind == COMM_DOWN ? 0 : 2);
}

static void stopped_is_silent(void **state)
{
    (void)state;
    char *address = address_of("stop");
    pid_t child = fork();
    if (child == 0)
        compute_then_listen(address);
    struct bg_env *env = test_env();
    struct bg_error err;
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.address = address, .silence_ms = 250});
    test_expect(comm, NULL, COMM_UP);
    // Busy is not silent: its beats come from a thread of their own.
    struct comm_event event = {0};
    for (uint64_t end = env_now_ns(env) + 500000000; env_now_ns(env) < end;) {
        assert_int_equal(comm_next(comm, &err, &event), BG_OK);
        assert_int_equal(event.kind, COMM_NOTHING);
        comm->ops->wait(comm, 50000000);
    }
    kill(child, SIGSTOP);
    uint64_t start = env_now_ns(env);
    event = test_expect(comm, NULL, COMM_DOWN);
    uint64_t took = env_now_ns(env) - start;
    assert_true(took > 150000000 && took < 1000000000);
    assert_non_null(strstr(event.why, "silent for 0."));
    kill(child, SIGCONT);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    comm->ops->destroy(comm);
    os_env_destroy(env);
    bg_free(address);
}

static _Noreturn void judge_while_stopped(const char *address, int ready)
{
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.silence_ms = 200});
    struct bg_error err;
    child_connect(comm, address);
    for (uint64_t end = env_now_ns(env) + 1200000000; env_now_ns(env) < end;) {
        struct comm_event event;
        if (comm_next(comm, &err, &event) || event.kind == COMM_DOWN)
            _exit(3);
        if (event.kind == COMM_UP && write(ready, "u", 1) != 1)
            _exit(4);
        comm->ops->wait(comm, 1000000000);
    }
    _exit(0);
}

static void who_was_stopped_blames_nobody(void **state)
{
    (void)state;
    char *address = address_of("self"), byte;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0)
        judge_while_stopped(address, ready[1]);
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.address = address, .beat_ms = 20});
    test_expect(comm, NULL, COMM_UP);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    kill(child, SIGSTOP);
    usleep(600000);
    kill(child, SIGCONT);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    test_expect(comm, NULL, COMM_DOWN);
    comm->ops->destroy(comm);
    os_env_destroy(env);
    close(ready[0]);
    close(ready[1]);
    bg_free(address);
}

static _Noreturn void listen_only(const char *address, int ready)
{
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.address = address});
    if (write(ready, "r", 1) != 1)
        _exit(1);
    struct bg_error err;
    for (uint64_t expected = 0; expected < 300;) {
        struct comm_event event;
        if (comm_next(comm, &err, &event) || event.kind == COMM_DOWN)
            _exit(2);
        if (event.kind == COMM_FRAME) {
            if (event.frame.step != expected++)
                _exit(3);
            comm_release(comm, &event);
        }
        comm->ops->wait(comm, 100000000);
    }
    _exit(0);
}

static void a_stopped_peer_blocks_nobody(void **state)
{
    (void)state;
    char *address = address_of("block"), byte;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0)
        listen_only(address, ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    kill(child, SIGSTOP);
    struct bg_env *env = test_env();
    struct comm *comm = test_endpoint(env, &(struct comm_shm_options){.beat_ms = 1});
    struct bg_error err;
    uint32_t link = 0;
    uint64_t start = env_now_ns(env);
    assert_int_equal(comm->ops->connect(comm, 5, address, &err, &link), BG_OK);
    for (uint64_t i = 0; i < 300; i++)
        test_send(comm, link, i, &i, sizeof i);
    comm->ops->wait(comm, 20000000);
    assert_true(env_now_ns(env) - start < 500000000);
    kill(child, SIGCONT);
    test_expect(comm, NULL, COMM_UP);
    test_expect(comm, NULL, COMM_DOWN); // it has them all
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    comm->ops->destroy(comm);
    os_env_destroy(env);
    close(ready[0]);
    close(ready[1]);
    bg_free(address);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_any_moment),
        cmocka_unit_test(stopped_is_silent),
        cmocka_unit_test(who_was_stopped_blames_nobody),
        cmocka_unit_test(a_stopped_peer_blocks_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
