// A peer that lies: wrong memory in its greeting, forged heads, tails, slots, offsets and arenas, garbage on the
// socket. The link ends with a reason (or the stranger is sent away), the endpoint goes on, nothing leaks. labels:
// threads
#define _GNU_SOURCE
#include "comm/shm/shm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

// The other side of a link, by hand.
struct forger {
    struct comm *victim;
    int socket, event, their_ring_fd;
    struct shm_ring *ring;
    uint32_t link; // as the victim calls it
};

static void send_message(int socket, enum shm_message_kind kind, uint32_t arena, uint64_t bytes, const int *fds,
                         unsigned fd_count)
{
    uint8_t out[SHM_MESSAGE_BYTES];
    shm_message_encode(&(struct shm_message){.kind = kind, .arena = arena, .bytes = bytes}, out);
    assert_int_equal(os_socket_send(socket, out, sizeof out, fds, fd_count), OS_IO_DONE);
}

static int dial(struct comm *victim)
{
    struct bg_error err;
    int socket = -1;
    assert_int_equal(os_connect(victim->ops->address(victim), &err, &socket), BG_OK);
    return socket;
}

static struct forger forge(struct comm *victim)
{
    struct bg_error err;
    struct forger f = {.victim = victim, .socket = dial(victim)};
    int fd = -1;
    assert_int_equal(os_event_create(&err, &f.event), BG_OK);
    assert_int_equal(os_shared_create("forged", sizeof *f.ring, &err, &fd, (void **)&f.ring), BG_OK);
    send_message(f.socket, SHM_MESSAGE_HELLO, 0, sizeof *f.ring, (int[]){fd, f.event}, 2);
    os_fd_close(fd);
    struct comm_event up = test_expect(victim, NULL, COMM_UP);
    f.link = up.link;
    uint8_t bytes[SHM_MESSAGE_BYTES];
    size_t size = 0;
    int fds[OS_FDS_MAX];
    unsigned fd_count = 0;
    assert_int_equal(os_socket_receive(f.socket, bytes, sizeof bytes, &size, fds, &fd_count), OS_IO_DONE);
    assert_int_equal(fd_count, 2);
    f.their_ring_fd = fds[0];
    os_fd_close(fds[1]);
    return f;
}

static void forger_end(struct forger *f)
{
    os_shared_unmap(f->ring, sizeof *f->ring);
    os_fd_close(f->socket);
    os_fd_close(f->event);
    os_fd_close(f->their_ring_fd);
}

static void put_slot(struct forger *f, uint64_t position, const struct shm_slot *slot)
{
    shm_slot_encode(slot, position, f->ring->slots[position % SHM_SLOTS]);
}

static void publish(struct forger *f, uint64_t head)
{
    atomic_store(&f->ring->head, head);
}

// The victim ends the link and says why.
static void down(struct forger *f, const char *why)
{
    struct comm_event event = test_expect(f->victim, NULL, COMM_DOWN);
    assert_int_equal(event.link, f->link);
    if (!strstr(event.why, why))
        fail_msg("\"%s\" does not say \"%s\"", event.why, why);
    forger_end(f);
}

static int sealed_file(size_t bytes, int seals)
{
    int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    if (seals)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

// ---- Greetings ----

static void sent_away(struct comm *victim, int socket)
{
    uint8_t bytes[SHM_MESSAGE_BYTES];
    size_t size;
    int fds[OS_FDS_MAX];
    unsigned fd_count;
    enum os_io io = OS_IO_LATER;
    for (int i = 0; i < 3000 && io == OS_IO_LATER; i++) {
        struct bg_error err;
        struct comm_event event;
        assert_int_equal(comm_next(victim, &err, &event), BG_OK);
        assert_int_equal(event.kind, COMM_NOTHING);
        io = os_socket_receive(socket, bytes, sizeof bytes, &size, fds, &fd_count);
        victim->ops->wait(victim, 1000000);
    }
    assert_int_equal(io, OS_IO_ENDED);
    os_fd_close(socket);
}

static void bad_greetings(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *victim = test_endpoint(env, NULL);
    size_t fds_before = test_fds(), ring = sizeof(struct shm_ring);
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE;
    struct bg_error err;
    int event = -1;
    assert_int_equal(os_event_create(&err, &event), BG_OK);
    const struct {
        size_t bytes, told;
        int seals;
        bool no_event;
    } bad[] = {
        {ring, ring, 0, false},
        {ring, ring, all & ~F_SEAL_SHRINK, false}, // could be cut short under the reader
        {ring, ring, all & ~F_SEAL_FUTURE_WRITE, false},
        {ring, ring, all & ~F_SEAL_SEAL, false},
        {ring - 4096, ring, all, false},
        {ring + 4096, ring, all, false},
        {ring - 4096, ring - 4096, all, false},
        {ring, ring, all, true},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int socket = dial(victim), fd = sealed_file(bad[i].bytes, bad[i].seals);
        send_message(socket, SHM_MESSAGE_HELLO, 0, bad[i].told, (int[]){fd, bad[i].no_event ? fd : event}, 2);
        os_fd_close(fd);
        sent_away(victim, socket);
    }
    int socket = dial(victim); // no descriptors
    send_message(socket, SHM_MESSAGE_HELLO, 0, ring, NULL, 0);
    sent_away(victim, socket);
    socket = dial(victim); // too many
    send_message(socket, SHM_MESSAGE_HELLO, 0, ring, (int[]){event, event, event, event}, 4);
    sent_away(victim, socket);
    socket = dial(victim); // a beat before the greeting
    assert_int_equal(os_socket_send(socket, "B", 1, NULL, 0), OS_IO_DONE);
    sent_away(victim, socket);
    socket = dial(victim); // longer than any message
    static const uint8_t zeros[1000];
    assert_int_equal(os_socket_send(socket, zeros, sizeof zeros, NULL, 0), OS_IO_DONE);
    sent_away(victim, socket);
    for (int i = 0; i < 20; i++) // gone before it was accepted
        os_fd_close(dial(victim));
    victim->ops->wait(victim, 0);
    os_fd_close(event);
    uint64_t start = env_now_ns(env);
    sent_away(victim, dial(victim)); // says nothing
    assert_true(env_now_ns(env) - start > 1900000000);
    assert_int_equal(test_fds(), fds_before);
    victim->ops->destroy(victim);
    os_env_destroy(env);
}

static void our_memory_is_ours(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *victim = test_endpoint(env, NULL);
    struct forger f = forge(victim);
    assert_int_equal(ftruncate(f.their_ring_fd, 0), -1);
    assert_int_equal(errno, EPERM);
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f.their_ring_fd, 0);
    assert_ptr_equal(memory, MAP_FAILED);
    ssize_t written = pwrite(f.their_ring_fd, "x", 1, 0);
    assert_int_equal(written, -1);
    os_fd_close(f.socket);
    f.socket = -1;
    down(&f, "closed the link");
    victim->ops->destroy(victim);
    os_env_destroy(env);
}

// ---- Rings ----

static struct shm_slot copy_of(uint64_t bytes, uint64_t at)
{
    return (struct shm_slot){.kind = SHM_SLOT_COPY, .at = at, .frame = {.kind = WIRE_TASK, .bytes = bytes}};
}

static void announce(struct forger *f, uint32_t id, size_t bytes)
{
    struct bg_error err;
    int fd = -1;
    void *memory = NULL;
    assert_int_equal(os_shared_create("arena", bytes, &err, &fd, &memory), BG_OK);
    send_message(f->socket, SHM_MESSAGE_ARENA, id, bytes, &fd, 1);
    os_shared_unmap(memory, bytes);
    os_fd_close(fd);
}

static void forged_rings(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *victim = test_endpoint(env, NULL);
    size_t fds = test_fds();
    struct forger f = forge(victim);
    publish(&f, SHM_SLOTS + 1);
    down(&f, "has published 257 slots where 0 are read");

    f = forge(victim);
    struct shm_slot slot = copy_of(0, 0);
    put_slot(&f, 0, &slot);
    publish(&f, 1);
    test_expect(victim, NULL, COMM_FRAME);
    publish(&f, 0); // backwards
    down(&f, "where 1 are read");

    f = forge(victim);
    put_slot(&f, 3, &slot);
    memcpy(f.ring->slots[0], f.ring->slots[3], SHM_SLOT_BYTES);
    publish(&f, 1);
    down(&f, "slot says it is number 3, expected 0");

    f = forge(victim);
    put_slot(&f, 0, &slot);
    f.ring->slots[0][40] ^= 1;
    publish(&f, 1);
    down(&f, "frame header says check");

    f = forge(victim); // a chunk that is missing, then one of another frame
    slot = copy_of(3 * SHM_CHUNK_BYTES, 0);
    put_slot(&f, 0, &slot);
    slot.at = 2 * SHM_CHUNK_BYTES;
    put_slot(&f, 1, &slot);
    publish(&f, 2);
    down(&f, "chunk at 8192, expected 4096");
    f = forge(victim);
    slot.at = 0;
    put_slot(&f, 0, &slot);
    slot.at = SHM_CHUNK_BYTES;
    slot.frame.step++;
    put_slot(&f, 1, &slot);
    publish(&f, 2);
    down(&f, "that did not come before");

    f = forge(victim); // their own tail: done with what was never sent
    atomic_store(&f.ring->tail, SHM_SLOTS + 7);
    struct bg_error err;
    for (uint64_t i = 0; i <= SHM_SLOTS; i++)
        assert_int_equal(comm_send(victim, f.link, &(struct wire_frame){.kind = WIRE_VOTE}, NULL, 0, &err), BG_OK);
    down(&f, "done with slot 263 of 256");
    assert_int_equal(test_fds(), fds);
    victim->ops->destroy(victim);
    os_env_destroy(env);
}

static void forged_arenas(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *victim = test_endpoint(env, NULL);
    size_t fds = test_fds();
    struct shm_slot slot = {.kind = SHM_SLOT_ARENA, .arena = 5, .frame = {.kind = WIRE_PART, .bytes = 8192}};

    struct forger f = forge(victim);
    put_slot(&f, 0, &slot);
    publish(&f, 1);
    down(&f, "arena 5 that was not announced");

    static const uint64_t outside[] = {4, 8192, 16384, UINT64_MAX - 3, UINT64_MAX - 8191};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        f = forge(victim);
        announce(&f, 5, 8192);
        slot.at = outside[i];
        put_slot(&f, 0, &slot);
        publish(&f, 1);
        down(&f, "of an arena of 8192");
    }
    f = forge(victim);
    announce(&f, 5, 16384);
    slot.at = 2;
    put_slot(&f, 0, &slot);
    publish(&f, 1);
    down(&f, "expected a multiple of 4");

    f = forge(victim);
    announce(&f, 5, 8192);
    announce(&f, 5, 8192);
    down(&f, "comes twice");

    f = forge(victim); // one that could be cut short under the reader
    int fd = sealed_file(8192, F_SEAL_GROW);
    send_message(f.socket, SHM_MESSAGE_ARENA, 5, 8192, &fd, 1);
    os_fd_close(fd);
    down(&f, "has seals");

    f = forge(victim);
    slot = (struct shm_slot){.kind = SHM_SLOT_FORGET, .arena = 5};
    put_slot(&f, 0, &slot);
    publish(&f, 1);
    down(&f, "to be forgotten was not announced");

    f = forge(victim);
    assert_int_equal(os_socket_send(f.socket, "garbage", 7, NULL, 0), OS_IO_DONE);
    down(&f, "message of 7 bytes");
    assert_int_equal(test_fds(), fds);
    victim->ops->destroy(victim);
    os_env_destroy(env);
}

// Slots of chance, most with their headers made right again: whatever happens, the endpoint lives and the link ends.
static void random_slots(void **state)
{
    (void)state;
    struct bg_env *env = test_env();
    struct comm *victim = test_endpoint(env, NULL);
    size_t fds = test_fds();
    srandom(11);
    for (int round = 0; round < 300; round++) {
        struct forger f = forge(victim);
        announce(&f, 0, 4096);
        uint64_t count = (uint64_t)random() % SHM_SLOTS;
        for (uint64_t i = 0; i < count; i++) {
            struct shm_slot slot = {
                .kind = (enum shm_slot_kind)(random() % 3 + 1),
                .arena = random() % 8 == 0,
                .at = (uint64_t)random() % 3 * 2048,
                .frame = {.kind = (uint16_t)(random() % WIRE_KIND_COUNT), .bytes = (uint64_t)random() % 3 * 2048}};
            put_slot(&f, i, &slot);
            if (random() % 4 == 0)
                f.ring->slots[i][random() % SHM_SLOT_BYTES] ^= (uint8_t)(1 << random() % 8);
        }
        publish(&f, count);
        os_fd_close(f.socket);
        f.socket = -1;
        struct comm_event event;
        while ((event = test_event(victim, NULL)).kind == COMM_FRAME) {
            if (event.frame.bytes) // all of it can be read
                (void)wire_check(event.payload, event.frame.bytes);
            comm_release(victim, &event);
        }
        assert_int_equal(event.kind, COMM_DOWN);
        forger_end(&f);
    }
    assert_int_equal(test_fds(), fds);
    victim->ops->destroy(victim);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_greetings), cmocka_unit_test(our_memory_is_ours), cmocka_unit_test(forged_rings),
        cmocka_unit_test(forged_arenas), cmocka_unit_test(random_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
