// What processes of one host share: sealed memory, local sockets that pass descriptors, wake-ups, and knowing that
// another process ended. Nothing has a name in the file system, every descriptor is close-on-exec, no call blocks but
// os_poller_wait(), and a peer can neither crash nor block who calls these. For comm/ transports.
#ifndef OS_IPC_H
#define OS_IPC_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- Memory (memfd) ----
// Made by one process, which alone may write; sealed so that its size is fixed and nobody else can map it writable.
// Zeroed; pages that are not touched cost nothing. BG_NO_MEMORY or BG_IO says why not.
BG_MUST_USE bg_status os_shared_create(const char *name, size_t bytes, struct bg_error *err, int *fd, void **memory);
// Maps what another process made, read-only. Refuses a descriptor that is no memfd, is not sealed as above, or has
// another size than was told. The descriptor stays the caller's.
BG_MUST_USE bg_status os_shared_open(int fd, size_t bytes, struct bg_error *err, const void **memory);
void os_shared_unmap(const void *memory, size_t bytes);
void os_fd_close(int fd); // -1 is fine

// ---- Sockets (UNIX, seqpacket, abstract names) ----
BG_MUST_USE bg_status os_listen(const char *name, struct bg_error *err, int *fd); // BG_EXISTS: the name is taken
// BG_NOT_FOUND: nobody listens there; BG_FULL: too many wait there to be accepted, try again.
BG_MUST_USE bg_status os_connect(const char *name, struct bg_error *err, int *fd);
int os_accept(int fd); // -1: nobody, or it went away
// Who is on the other side: its process when it listened or connected (0: unknown), and whether it has our user id.
void os_socket_peer(int fd, int *pid, bool *same_user);

enum os_io { OS_IO_DONE, OS_IO_LATER, OS_IO_ENDED };
enum { OS_FDS_MAX = 4 };
// One message, whole or not at all. LATER: its buffer is full. ENDED: the other side is gone.
enum os_io os_socket_send(int fd, const void *bytes, size_t size, const int *fds, unsigned fd_count);
// LATER: nothing is there. A message longer than `capacity` has *size > capacity and its end is lost.
enum os_io os_socket_receive(int fd, void *bytes, size_t capacity, size_t *size, int fds[OS_FDS_MAX],
                             unsigned *fd_count);

// ---- Wake-ups (eventfd) ----
BG_MUST_USE bg_status os_event_create(struct bg_error *err, int *fd);
bool os_event_is(int fd); // a descriptor from elsewhere is one
void os_event_raise(int fd);
void os_event_clear(int fd);

// ---- Waiting (epoll) ----
BG_MUST_USE bg_status os_poller_create(struct bg_error *err, int *poller);
// Readable, or its other end is gone; `writable`: also when it can be written to. Added or changed.
BG_MUST_USE bg_status os_poller_set(int poller, int fd, uint64_t tag, bool writable, struct bg_error *err);
void os_poller_remove(int poller, int fd);
enum { OS_READY_MAX = 64 };
// Tags of what is ready, at most OS_READY_MAX; 0: the time is over. -1: a signal came. UINT64_MAX: no limit.
int os_poller_wait(int poller, uint64_t timeout_ns, uint64_t tags[OS_READY_MAX]);

// ---- Processes ----
int os_pidfd(int pid); // readable once the process has ended; -1: it is gone (or pid is 0)
int os_process_self(void);

// ---- Beats ----
// A thread that sends one byte on each of its sockets every interval, whatever the rest of the process does; a full
// buffer is skipped.
struct os_beat;
BG_MUST_USE bg_status os_beat_start(uint64_t interval_ms, uint8_t byte, struct bg_error *err, struct os_beat **beat);
void os_beat_add(struct os_beat *beat, int fd);
void os_beat_remove(struct os_beat *beat, int fd); // after this it may be closed
void os_beat_stop(struct os_beat *beat);           // NULL is fine

#endif
