// The kernel's side of shared-memory transports. Seals are what lets a process read memory that another one made:
// without them a peer could cut the file short and every read would be a SIGBUS.
#define _GNU_SOURCE
#include "os/ipc.h"

#include "base/mem.h"
#include "os/live_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// ---- Memory ----

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE };
static const size_t huge_page = (size_t)2 << 20;

bg_status os_shared_create(const char *name, size_t bytes, struct bg_error *err, int *fd, void **memory)
{
    int file = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0)
        return os_fail(err, -errno, "making shared memory", name);
    if (ftruncate(file, (off_t)bytes) < 0)
        goto undo_file;
    // Mapped before it is sealed: the seal against writing spares the mappings that are there.
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (base == MAP_FAILED)
        goto undo_file;
    if (bytes >= huge_page)
        madvise(base, bytes, MADV_HUGEPAGE); // a wish
    if (fcntl(file, F_ADD_SEALS, SEALS) < 0)
        goto undo_map;
    *fd = file;
    *memory = base;
    return BG_OK;
undo_map:;
    int code = errno;
    munmap(base, bytes);
    errno = code;
undo_file:
    code = errno;
    close(file);
    return os_fail(err, -code, "making shared memory", name);
}

bg_status os_shared_open(int fd, size_t bytes, struct bg_error *err, const void **memory)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return bg_fail(err, BG_INVALID, "descriptor is no sealed memory: %s", strerror(errno));
    if ((seals & SEALS) != SEALS)
        return bg_fail(err, BG_INVALID, "shared memory has seals %x, expected %x: it could change its size or writer",
                       seals, SEALS);
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return os_fail(err, -errno, "looking at", "shared memory");
    if (bytes == 0 || (uint64_t)stat.st_size != bytes)
        return bg_fail(err, BG_INVALID, "shared memory of %lld bytes, told %zu", (long long)stat.st_size, bytes);
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return os_fail(err, -errno, "mapping", "shared memory of another process");
    *memory = base;
    return BG_OK;
}

void os_shared_unmap(const void *memory, size_t bytes)
{
    if (memory)
        munmap((void *)(uintptr_t)memory, bytes);
}

void os_fd_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

// ---- Sockets ----

static bg_status address_of(const char *name, struct bg_error *err, struct sockaddr_un *address, socklen_t *size)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t length = strlen(name);
    if (length == 0 || length >= sizeof address->sun_path)
        return bg_fail(err, BG_INVALID, "address \"%s\": expected 1 to %zu bytes", name, sizeof address->sun_path - 1);
    memcpy(address->sun_path + 1, name, length); // a leading zero: no file
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
    return BG_OK;
}

static bg_status socket_new(const char *name, struct bg_error *err, struct sockaddr_un *address, socklen_t *size,
                            int *fd)
{
    bg_status status = address_of(name, err, address, size);
    if (status)
        return status;
    *fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return *fd < 0 ? os_fail(err, -errno, "making a socket for", name) : BG_OK;
}

bg_status os_listen(const char *name, struct bg_error *err, int *fd)
{
    struct sockaddr_un address;
    socklen_t size;
    int made = -1;
    bg_status status = socket_new(name, err, &address, &size, &made);
    if (status)
        return status;
    if (bind(made, (struct sockaddr *)&address, size) < 0 || listen(made, 1024) < 0) {
        int code = errno;
        close(made);
        if (code == EADDRINUSE)
            return bg_fail(err, BG_EXISTS, "listening on %s: another process listens there", name);
        return os_fail(err, -code, "listening on", name);
    }
    *fd = made;
    return BG_OK;
}

bg_status os_connect(const char *name, struct bg_error *err, int *fd)
{
    struct sockaddr_un address;
    socklen_t size;
    int made = -1;
    bg_status status = socket_new(name, err, &address, &size, &made);
    if (status)
        return status;
    if (connect(made, (struct sockaddr *)&address, size) < 0) {
        int code = errno;
        close(made);
        if (code == ECONNREFUSED)
            return bg_fail(err, BG_NOT_FOUND, "connecting to %s: nobody listens there", name);
        if (code == EAGAIN)
            return bg_fail(err, BG_FULL, "connecting to %s: too many wait there already; try again", name);
        return os_fail(err, -code, "connecting to", name);
    }
    *fd = made;
    return BG_OK;
}

int os_accept(int fd)
{
    return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

void os_socket_peer(int fd, int *pid, bool *same_user)
{
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t size = sizeof peer;
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
    *pid = known ? peer.pid : 0;
    *same_user = known && peer.uid == geteuid();
}

union control {
    struct cmsghdr header;
    uint8_t bytes[CMSG_SPACE(OS_FDS_MAX * sizeof(int))];
};

enum os_io os_socket_send(int fd, const void *bytes, size_t size, const int *fds, unsigned fd_count)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    union control control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
    }
    for (;;) {
        if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return OS_IO_DONE;
        // ECONNRESET tells once that the other side left unread messages behind; the next call tells whether it left.
        if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS)
            return OS_IO_LATER;
        if (errno != EINTR && errno != ECONNRESET)
            return OS_IO_ENDED;
    }
}

static unsigned take_fds(struct msghdr *message, int fds[OS_FDS_MAX])
{
    unsigned count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (count < OS_FDS_MAX)
                fds[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

enum os_io os_socket_receive(int fd, void *bytes, size_t capacity, size_t *size, int fds[OS_FDS_MAX],
                             unsigned *fd_count)
{
    struct iovec part = {.iov_base = bytes, .iov_len = capacity};
    for (;;) {
        union control control;
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
        if (got > 0) {
            *size = (size_t)got;
            *fd_count = take_fds(&message, fds);
            return OS_IO_DONE;
        }
        if (got == 0)
            return OS_IO_ENDED;
        if (errno == EAGAIN)
            return OS_IO_LATER;
        // ECONNRESET comes once, before what the other side had still sent.
        if (errno != EINTR && errno != ECONNRESET)
            return OS_IO_ENDED;
    }
}

// ---- Wake-ups ----

bg_status os_event_create(struct bg_error *err, int *fd)
{
    int made = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made < 0)
        return os_fail(err, -errno, "making", "an eventfd");
    *fd = made;
    return BG_OK;
}

bool os_event_is(int fd)
{
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, target, sizeof target - 1);
    if (size < 0)
        return false;
    target[size] = 0;
    int flags = fcntl(fd, F_GETFL);
    return strcmp(target, "anon_inode:[eventfd]") == 0 && flags >= 0 && (flags & O_NONBLOCK);
}

void os_event_raise(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof one); // a full counter wakes as well
    (void)written;
}

void os_event_clear(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof count);
    (void)got;
}

// ---- Waiting ----

bg_status os_poller_create(struct bg_error *err, int *poller)
{
    int made = epoll_create1(EPOLL_CLOEXEC);
    if (made < 0)
        return os_fail(err, -errno, "making", "an epoll set");
    *poller = made;
    return BG_OK;
}

bg_status os_poller_set(int poller, int fd, uint64_t tag, bool writable, struct bg_error *err)
{
    struct epoll_event event = {.events = EPOLLIN | (writable ? (uint32_t)EPOLLOUT : 0), .data = {.u64 = tag}};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0)
        return BG_OK;
    if (errno == EEXIST && epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event) == 0)
        return BG_OK;
    return os_fail(err, -errno, "watching", "a descriptor");
}

void os_poller_remove(int poller, int fd)
{
    if (fd >= 0)
        epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
}

int os_poller_wait(int poller, uint64_t timeout_ns, uint64_t tags[OS_READY_MAX])
{
    struct epoll_event events[OS_READY_MAX];
    struct timespec limit = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)};
    int count = epoll_pwait2(poller, events, OS_READY_MAX, timeout_ns == UINT64_MAX ? NULL : &limit, NULL);
    if (count < 0 && errno == ENOSYS) // before Linux 5.11
        count = epoll_wait(poller, events, OS_READY_MAX,
                           timeout_ns > 3600000000000u ? -1 : (int)((timeout_ns + 999999) / 1000000));
    for (int i = 0; i < count; i++)
        tags[i] = events[i].data.u64;
    return count;
}

// ---- Processes ----

int os_pidfd(int pid)
{
    return pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1; // close-on-exec by itself
}

int os_process_self(void)
{
    return getpid();
}

// ---- Beats ----

struct os_beat {
    pthread_t thread;
    pthread_mutex_t lock; // everything below; never held while waiting
    pthread_cond_t wake;
    bool stop;
    uint8_t byte;
    uint64_t interval_ms;
    int *fds;
    size_t count, capacity;
};

static void *beat_loop(void *arg)
{
    struct os_beat *beat = arg;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    pthread_mutex_lock(&beat->lock);
    while (!beat->stop) {
        for (size_t i = 0; i < beat->count; i++)
            (void)os_socket_send(beat->fds[i], &beat->byte, 1, NULL, 0);
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_sec += (time_t)(beat->interval_ms / 1000);
        at.tv_nsec += (long)(beat->interval_ms % 1000) * 1000000;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        while (!beat->stop && pthread_cond_timedwait(&beat->wake, &beat->lock, &at) != ETIMEDOUT)
            ;
    }
    pthread_mutex_unlock(&beat->lock);
    return NULL;
}

bg_status os_beat_start(uint64_t interval_ms, uint8_t byte, struct bg_error *err, struct os_beat **out)
{
    struct os_beat *beat = bg_alloc(sizeof *beat);
    beat->interval_ms = interval_ms;
    beat->byte = byte;
    pthread_mutex_init(&beat->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&beat->wake, &clock);
    pthread_condattr_destroy(&clock);
    // Signals are the main thread's, and its CPU may be busy: this one takes none, and runs anywhere.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&beat->thread, NULL, beat_loop, beat);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        pthread_cond_destroy(&beat->wake);
        pthread_mutex_destroy(&beat->lock);
        bg_free(beat);
        return os_fail(err, -code, "starting", "the thread that sends beats");
    }
    cpu_set_t anywhere;
    memset(&anywhere, 0xff, sizeof anywhere);
    pthread_setaffinity_np(beat->thread, sizeof anywhere, &anywhere);
    *out = beat;
    return BG_OK;
}

void os_beat_add(struct os_beat *beat, int fd)
{
    pthread_mutex_lock(&beat->lock);
    if (beat->count == beat->capacity) {
        beat->capacity = beat->capacity ? 2 * beat->capacity : 16;
        beat->fds = bg_realloc_array(beat->fds, beat->capacity, sizeof *beat->fds);
    }
    beat->fds[beat->count++] = fd;
    pthread_mutex_unlock(&beat->lock);
}

void os_beat_remove(struct os_beat *beat, int fd)
{
    pthread_mutex_lock(&beat->lock);
    for (size_t i = 0; i < beat->count; i++)
        if (beat->fds[i] == fd)
            beat->fds[i--] = beat->fds[--beat->count];
    pthread_mutex_unlock(&beat->lock);
}

void os_beat_stop(struct os_beat *beat)
{
    if (!beat)
        return;
    pthread_mutex_lock(&beat->lock);
    beat->stop = true;
    pthread_cond_signal(&beat->wake);
    pthread_mutex_unlock(&beat->lock);
    pthread_join(beat->thread, NULL);
    pthread_cond_destroy(&beat->wake);
    pthread_mutex_destroy(&beat->lock);
    bg_free(beat->fds);
    bg_free(beat);
}
