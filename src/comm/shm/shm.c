// The endpoint: next() and wait() over all links, and the table of operations. Rings are looked at before the kernel is
// asked anything; a process that has frames to read makes no system call for them.
#include "comm/shm/shm_int.h"

#include "base/mem.h"
#include "os/host.h"

#include <stdio.h>
#include <string.h>

static const uint64_t service_ns = 5000000; // sockets are looked at that often, however busy the rings are

static struct shm *of(struct comm *comm)
{
    return (struct shm *)comm;
}

// Every call that reads begins with the time; a gap since the last one is shm_service()'s to judge.
static void note_time(struct shm *shm)
{
    uint64_t now = env_now_ns(shm->comm.env), silence_ns = shm->options.silence_ms * 1000000;
    if (silence_ns && now - shm->awake_ns > silence_ns / 2)
        shm_service(shm, 0, NULL);
    else
        shm->awake_ns = now;
}

static void flush_all(struct shm *shm)
{
    for (uint32_t i = 0; i < shm->link_count; i++)
        shm_flush(shm, shm->active[i]);
}

// ---- next() ----

static bool must_tell_up(const struct shm_link *link)
{
    return link->theirs && !link->told_up;
}

// What this link has to tell, in its order: up, frames, down. May free the link.
static bool tell(struct shm *shm, struct shm_link *link, struct comm_event *event)
{
    event->link = link->id;
    event->peer = link->peer;
    if (must_tell_up(link)) {
        link->told_up = true;
        event->kind = COMM_UP;
        return true;
    }
    if (shm_receive(shm, link, event))
        return true;
    event->kind = COMM_NOTHING;
    if (link->state != SHM_ENDED)
        return false;
    if (link->told_up || link->is_ours) {
        event->kind = COMM_DOWN;
        memcpy(event->why, link->why, sizeof event->why);
    }
    shm_link_free(shm, link);
    return event->kind == COMM_DOWN;
}

// One link after the other, so that a talkative one does not silence the rest.
static bool tell_any(struct shm *shm, struct comm_event *event)
{
    for (uint32_t left = shm->link_count; left && shm->link_count; left--) {
        if (shm->cursor >= shm->link_count)
            shm->cursor = 0;
        uint32_t before = shm->link_count;
        bool told = tell(shm, shm->active[shm->cursor], event);
        if (shm->link_count == before)
            shm->cursor++;
        if (told)
            return true;
    }
    return false;
}

static bg_status shm_op_next(struct comm *comm, struct bg_error *err, struct comm_event *event)
{
    (void)err;
    struct shm *shm = of(comm);
    event->kind = COMM_NOTHING;
    event->payload = event->handle = NULL;
    event->why[0] = 0;
    note_time(shm);
    flush_all(shm);
    if (shm->awake_ns - shm->serviced_ns < service_ns && tell_any(shm, event))
        return BG_OK;
    shm_service(shm, 0, NULL);
    flush_all(shm); // links may have opened
    shm_judge(shm, shm->awake_ns);
    tell_any(shm, event);
    return BG_OK;
}

// ---- wait() ----

static bool has_something(const struct shm *shm)
{
    if (shm->has_room)
        return true;
    for (uint32_t i = 0; i < shm->link_count; i++) {
        const struct shm_link *link = shm->active[i];
        if (must_tell_up(link) || link->state == SHM_ENDED || shm_has_slots(link))
            return true;
    }
    return false;
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

// A short look at the rings before sleeping, longer while it pays. Not where CPUs are short.
static bool spin(struct shm *shm)
{
    if (!shm->spin_ns_max)
        return false;
    uint64_t end = env_now_ns(shm->comm.env) + shm->spin_ns;
    do {
        for (int i = 0; i < 16; i++)
            pause_cpu();
        if (has_something(shm)) {
            shm->spin_ns = shm->spin_ns * 2 < shm->spin_ns_max ? shm->spin_ns * 2 : shm->spin_ns_max;
            return true;
        }
    } while (env_now_ns(shm->comm.env) < end);
    shm->spin_ns = shm->spin_ns / 2 > 500 ? shm->spin_ns / 2 : 500;
    return false;
}

static void say_sleeping(struct shm *shm, bool asleep)
{
    shm->sleep++; // odd: asleep
    for (uint32_t i = 0; i < shm->link_count; i++) {
        struct shm_link *link = shm->active[i];
        if (!link->ring)
            continue;
        atomic_store(&link->ring->starving, asleep && link->queue_count);
        atomic_store(&link->ring->sleeping, shm->sleep);
    }
}

static void sleep_until(struct shm *shm, uint64_t until, bool *interrupted)
{
    say_sleeping(shm, true);
    flush_all(shm); // room may have come before the others knew that we sleep
    uint64_t now = shm->awake_ns;
    if (!has_something(shm))
        shm_service(shm, until == UINT64_MAX ? UINT64_MAX : until > now ? until - now : 0, interrupted);
    say_sleeping(shm, false);
    note_time(shm);
    flush_all(shm);
    shm_judge(shm, shm->awake_ns);
}

static void shm_op_wait(struct comm *comm, uint64_t timeout_ns)
{
    struct shm *shm = of(comm);
    note_time(shm);
    flush_all(shm);
    uint64_t end = shm->awake_ns + timeout_ns, quarter = shm->options.silence_ms * 1000000 / 4;
    if (end < timeout_ns)
        end = UINT64_MAX;
    for (bool over = false; !over && !has_something(shm);) {
        if (timeout_ns && spin(shm))
            break;
        note_time(shm);
        uint64_t now = shm->awake_ns, until = shm_deadline(shm);
        until = end < until ? end : until;
        until = quarter && now + quarter < until ? now + quarter : until;
        sleep_until(shm, until, &over);
        over = over || shm->awake_ns >= end;
    }
    shm->has_room = false;
}

// ---- The other operations ----

static const char *shm_op_address(struct comm *comm)
{
    return of(comm)->address;
}

static bg_status shm_op_connect(struct comm *comm, uint32_t peer, const char *address, struct bg_error *err,
                                uint32_t *link)
{
    note_time(of(comm));
    return shm_connect(of(comm), peer, address, err, link);
}

static void shm_op_name(struct comm *comm, uint32_t id, uint32_t peer)
{
    struct shm_link *link = shm_link_find(of(comm), id);
    if (!link || link->peer == peer)
        return;
    link->peer_before = link->peer;
    link->peer = peer;
}

static void shm_op_close(struct comm *comm, uint32_t id)
{
    struct shm_link *link = shm_link_find(of(comm), id);
    if (!link)
        return;
    shm_flush(of(comm), link);
    shm_link_free(of(comm), link);
}

static bg_status shm_op_send(struct comm *comm, uint32_t id, const struct wire_frame *frame, const void *payload,
                             size_t bytes, struct bg_error *err)
{
    struct shm_link *link = shm_link_find(of(comm), id);
    if (!link || link->state == SHM_ENDED)
        return BG_OK;
    struct wire_frame f = *frame;
    f.bytes = bytes;
    shm_flush(of(comm), link);
    return shm_send(of(comm), link, &f, payload, err);
}

static void shm_op_release(struct comm *comm, struct comm_event *event)
{
    if (event->handle)
        shm_release(of(comm), event->handle);
    event->handle = NULL;
    event->payload = NULL;
}

static bg_status shm_op_reserve(struct comm *comm, size_t bytes, struct bg_error *err, void **memory)
{
    return shm_reserve(of(comm), bytes, err, memory);
}

static void shm_op_unreserve(struct comm *comm, void *memory)
{
    shm_unreserve(of(comm), memory);
}

static void shm_op_destroy(struct comm *comm)
{
    struct shm *shm = of(comm);
    flush_all(shm);
    while (shm->link_count)
        shm_link_free(shm, shm->active[0]);
    os_beat_stop(shm->beat);
    shm_memory_fini(shm);
    os_fd_close(shm->poller);
    os_fd_close(shm->listener);
    os_fd_close(shm->event);
    bg_free(shm);
}

static const struct comm_ops shm_ops = {
    .address = shm_op_address,
    .connect = shm_op_connect,
    .name = shm_op_name,
    .close = shm_op_close,
    .send = shm_op_send,
    .next = shm_op_next,
    .release = shm_op_release,
    .wait = shm_op_wait,
    .reserve = shm_op_reserve,
    .unreserve = shm_op_unreserve,
    .destroy = shm_op_destroy,
};

// ---- Making one ----

static bg_status choose_address(struct shm *shm, const char *wanted, struct bg_error *err)
{
    if (wanted) {
        if (strlen(wanted) >= sizeof shm->address)
            return bg_fail(err, BG_INVALID, "address \"%s\" is longer than %zu bytes", wanted, sizeof shm->address - 1);
        snprintf(shm->address, sizeof shm->address, "%s", wanted);
        return BG_OK;
    }
    uint8_t random[16];
    bg_status status = shm->comm.env->ops->entropy(shm->comm.env, random, sizeof random, err);
    if (status)
        return status;
    char hex[2 * sizeof random + 1];
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(hex + 2 * i, 3, "%02x", random[i]);
    snprintf(shm->address, sizeof shm->address, "brigade-%s", hex);
    return BG_OK;
}

bg_status comm_shm_create(struct bg_env *env, const struct comm_shm_options *options, struct bg_error *err,
                          struct comm **comm)
{
    struct shm *shm = bg_alloc(sizeof *shm);
    shm->comm = (struct comm){.ops = &shm_ops, .env = env, .self = COMM_UNKNOWN};
    if (options)
        shm->options = *options;
    if (!shm->options.queue_frames)
        shm->options.queue_frames = 65536;
    shm->listener = shm->poller = shm->event = -1;
    shm->awake_ns = shm->serviced_ns = env_now_ns(env);
    shm->spin_ns_max = os_cpu_count() > 2 * env->threads ? 20000 : 0;
    shm->spin_ns = 5000;
    bg_status status = choose_address(shm, shm->options.address, err);
    shm->options.address = NULL; // the caller's
    if (!status)
        status = os_listen(shm->address, err, &shm->listener);
    if (!status)
        status = os_event_create(err, &shm->event);
    if (!status)
        status = os_poller_create(err, &shm->poller);
    if (!status)
        status = os_poller_set(shm->poller, shm->listener, SHM_TAG_LISTENER, false, err);
    if (!status)
        status = os_poller_set(shm->poller, shm->event, SHM_TAG_EVENT, false, err);
    if (!status && shm->options.beat_ms)
        status = os_beat_start(shm->options.beat_ms, SHM_BEAT, err, &shm->beat);
    if (status) {
        shm_op_destroy(&shm->comm);
        return status;
    }
    *comm = &shm->comm;
    return BG_OK;
}
