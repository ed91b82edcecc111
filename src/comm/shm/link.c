// Links: made by connect() or by somebody who connects, greeted in both directions without waiting, ended by whatever
// goes wrong. After its end a link keeps the peer's ring and arenas until all that was published is delivered.
#include "comm/shm/shm_int.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static const uint64_t greeting_ns = 2000000000; // for a stranger to say HELLO

struct shm_link *shm_link_find(struct shm *shm, uint32_t id)
{
    struct shm_link *link = shm->links[id % SHM_LINKS_MAX];
    return link && link->id == id ? link : NULL;
}

static bg_status link_add(struct shm *shm, int socket, struct bg_error *err, struct shm_link **out)
{
    if (shm->link_count == SHM_LINKS_MAX)
        return bg_fail(err, BG_FULL, "%d links are there already", SHM_LINKS_MAX);
    int process = 0;
    bool same_user = false;
    os_socket_peer(socket, &process, &same_user);
    if (!same_user)
        return bg_fail(err, BG_DENIED, "process %d belongs to another user", process);
    while (shm->links[shm->next_link % SHM_LINKS_MAX] || shm->next_link == COMM_UNKNOWN)
        shm->next_link++;
    uint32_t id = shm->next_link;
    bg_status status = os_poller_set(shm->poller, socket, (uint64_t)id << 1, false, err);
    if (status)
        return status;
    struct shm_link *link = bg_alloc(sizeof *link);
    *link = (struct shm_link){.id = id,
                              .peer = COMM_UNKNOWN,
                              .peer_before = COMM_UNKNOWN,
                              .socket = socket,
                              .pidfd = -1,
                              .process = process,
                              .their_event = -1,
                              .opened_ns = shm->awake_ns,
                              .heard_ns = shm->awake_ns};
    // The socket tells of most deaths; the pidfd of one whose socket somebody else inherited.
    if (process != os_process_self())
        link->pidfd = os_pidfd(process);
    if (link->pidfd >= 0 && os_poller_set(shm->poller, link->pidfd, (uint64_t)id << 1 | 1, false, NULL)) {
        os_fd_close(link->pidfd);
        link->pidfd = -1;
    }
    shm->next_link++;
    shm->links[id % SHM_LINKS_MAX] = link;
    shm->active[shm->link_count++] = link;
    *out = link;
    return BG_OK;
}

void shm_link_end(struct shm *shm, struct shm_link *link, const char *format, ...)
{
    if (link->state == SHM_ENDED)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(link->why, sizeof link->why, format, args);
    va_end(args);
    if (link->state == SHM_OPEN && shm->beat)
        os_beat_remove(shm->beat, link->socket);
    os_poller_remove(shm->poller, link->socket);
    os_poller_remove(shm->poller, link->pidfd);
    os_fd_close(link->socket);
    os_fd_close(link->pidfd);
    link->socket = link->pidfd = -1;
    link->state = SHM_ENDED;
}

void shm_link_free(struct shm *shm, struct shm_link *link)
{
    shm_link_end(shm, link, "closed");
    shm_queue_drop(shm, link);
    shm_remotes_drop(link);
    shm_buffer_put(shm, link->partial);
    os_shared_unmap(link->ring, sizeof *link->ring);
    os_shared_unmap(link->theirs, sizeof *link->theirs);
    os_fd_close(link->their_event);
    shm->links[link->id % SHM_LINKS_MAX] = NULL;
    for (uint32_t i = 0; i < shm->link_count; i++)
        if (shm->active[i] == link)
            shm->active[i] = shm->active[shm->link_count - 1];
    shm->link_count--;
    bg_free(link);
}

// ---- Greeting ----

static bg_status send_hello(struct shm *shm, struct shm_link *link, struct bg_error *err)
{
    int fd = -1;
    void *memory = NULL;
    bg_status status = os_shared_create("brigade-ring", sizeof *link->ring, err, &fd, &memory);
    if (status)
        return status;
    link->ring = memory;
    uint8_t bytes[SHM_MESSAGE_BYTES];
    shm_message_encode(&(struct shm_message){.kind = SHM_MESSAGE_HELLO, .bytes = sizeof *link->ring}, bytes);
    enum os_io io = os_socket_send(link->socket, bytes, sizeof bytes, (int[]){fd, shm->event}, 2);
    os_fd_close(fd);
    return io == OS_IO_DONE ? BG_OK : bg_fail(err, BG_IO, "greeting process %d: it went away", link->process);
}

static bg_status take_hello(struct shm *shm, struct shm_link *link, const struct shm_message *message, int fds[2],
                            struct bg_error *err)
{
    const void *memory = NULL;
    if (link->theirs || message->bytes != sizeof *link->theirs)
        return bg_fail(err, BG_FORMAT, "greeting that comes twice, or with a ring of %" PRIu64 " bytes",
                       message->bytes);
    if (!os_event_is(fds[1]))
        return bg_fail(err, BG_FORMAT, "greeting without an event");
    bg_status status = os_shared_open(fds[0], (size_t)message->bytes, err, &memory);
    if (!status && !link->ring)
        status = send_hello(shm, link, err);
    if (status) {
        os_shared_unmap(memory, (size_t)message->bytes);
        return status;
    }
    link->theirs = memory;
    link->their_event = fds[1];
    fds[1] = -1;
    link->state = SHM_OPEN;
    if (shm->beat)
        os_beat_add(shm->beat, link->socket);
    return BG_OK;
}

bg_status shm_connect(struct shm *shm, uint32_t peer, const char *address, struct bg_error *err, uint32_t *out)
{
    int socket = -1;
    bg_status status = os_connect(address, err, &socket);
    if (status)
        return status;
    struct shm_link *link = NULL;
    status = link_add(shm, socket, err, &link);
    if (status) {
        os_fd_close(socket);
        return status;
    }
    link->is_ours = true;
    link->peer = peer;
    status = send_hello(shm, link, err);
    if (status) {
        shm_link_free(shm, link);
        return status;
    }
    *out = link->id;
    return BG_OK;
}

// Whoever connects gets a link; it becomes one for others to see when it has said HELLO.
static void accept_all(struct shm *shm)
{
    for (int socket; (socket = os_accept(shm->listener)) >= 0;) {
        struct shm_link *link = NULL;
        if (link_add(shm, socket, NULL, &link))
            os_fd_close(socket);
    }
}

// ---- The socket ----

static bg_status take_message(struct shm *shm, struct shm_link *link, const uint8_t *bytes, size_t size, int *fds,
                              unsigned fd_count, struct bg_error *err)
{
    struct shm_message message;
    bg_status status = shm_message_decode(bytes, size, fd_count, err, &message);
    if (status)
        return status;
    if (message.kind == SHM_MESSAGE_HELLO)
        return take_hello(shm, link, &message, fds, err);
    if (!link->theirs)
        return bg_fail(err, BG_FORMAT, "message before the greeting");
    if (message.kind == SHM_MESSAGE_ARENA)
        shm_remote_add(shm, link, message.arena, fds[0], message.bytes);
    return BG_OK;
}

void shm_link_drain(struct shm *shm, struct shm_link *link)
{
    uint8_t bytes[SHM_MESSAGE_BYTES];
    while (link->state != SHM_ENDED) {
        size_t size = 0;
        int fds[OS_FDS_MAX] = {-1, -1, -1, -1};
        unsigned fd_count = 0;
        enum os_io io = os_socket_receive(link->socket, bytes, sizeof bytes, &size, fds, &fd_count);
        if (io == OS_IO_LATER)
            return;
        if (io == OS_IO_ENDED) {
            shm_link_end(shm, link, "process %d ended or closed the link%s", link->process,
                         link->theirs ? "" : " before it answered");
            return;
        }
        link->heard_ns = shm->awake_ns;
        struct bg_error err;
        if (take_message(shm, link, bytes, size, fds, fd_count, &err)) {
            link->spoiled = true;
            shm_link_end(shm, link, "bad message: %s", err.text);
        }
        for (unsigned i = 0; i < fd_count; i++)
            os_fd_close(fds[i]);
    }
}

static void serve(struct shm *shm, uint64_t tag)
{
    if (tag == SHM_TAG_LISTENER) {
        accept_all(shm);
    } else if (tag == SHM_TAG_EVENT) {
        os_event_clear(shm->event);
    } else {
        struct shm_link *link = shm_link_find(shm, (uint32_t)(tag >> 1));
        if (!link)
            return;
        shm_link_drain(shm, link);
        if (tag & 1)
            shm_link_end(shm, link, "process %d ended", link->process);
    }
}

void shm_service(struct shm *shm, uint64_t timeout_ns, bool *interrupted)
{
    uint64_t tags[OS_READY_MAX], silence_ns = shm->options.silence_ms * 1000000;
    bool slept = false;
    // Rounds: a peer that never stops talking must not keep us here.
    for (int round = 0, count = OS_READY_MAX; round < SHM_LINKS_MAX / 16 && count == OS_READY_MAX; round++) {
        count = os_poller_wait(shm->poller, round ? 0 : timeout_ns, tags);
        if (count < 0 && interrupted)
            *interrupted = true;
        uint64_t now = env_now_ns(shm->comm.env);
        slept = slept || (silence_ns && now - shm->awake_ns > silence_ns / 2);
        shm->awake_ns = now;
        for (int i = 0; i < count; i++)
            serve(shm, tags[i]);
    }
    shm->serviced_ns = shm->awake_ns;
    // Silence counts only while we were there to hear it: after a sleep of our own (stopped, or long in a computation)
    // everybody gets a new start.
    for (uint32_t i = 0; slept && i < shm->link_count; i++)
        shm->active[i]->heard_ns = shm->awake_ns;
}

// ---- Time ----

void shm_judge(struct shm *shm, uint64_t now)
{
    uint64_t silence_ns = shm->options.silence_ms * 1000000;
    for (uint32_t i = 0; i < shm->link_count; i++) {
        struct shm_link *link = shm->active[i];
        if (link->state == SHM_GREETING && !link->is_ours && now - link->opened_ns > greeting_ns)
            shm_link_end(shm, link, "no greeting");
        else if (link->state == SHM_OPEN && silence_ns && now - link->heard_ns > silence_ns)
            shm_link_end(shm, link, "silent for %.1f s", (double)(now - link->heard_ns) * 1e-9);
    }
}

uint64_t shm_deadline(const struct shm *shm)
{
    uint64_t silence_ns = shm->options.silence_ms * 1000000, earliest = UINT64_MAX;
    for (uint32_t i = 0; i < shm->link_count; i++) {
        const struct shm_link *link = shm->active[i];
        uint64_t at = UINT64_MAX;
        if (link->state == SHM_GREETING && !link->is_ours)
            at = link->opened_ns + greeting_ns + 1;
        else if (link->state == SHM_OPEN && silence_ns)
            at = link->heard_ns + silence_ns + 1;
        earliest = at < earliest ? at : earliest;
        uint64_t due = link->queue_count ? link->queue[link->queue_first].due_ns : 0;
        earliest = due > shm->awake_ns && due < earliest ? due : earliest; // past: it waits for room
    }
    return earliest;
}
