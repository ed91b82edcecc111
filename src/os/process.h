// Other processes: started, adopted, watched, signalled. A handle is a pidfd, so that no signal ever reaches another
// process that got the number of a dead one. For cli/ and the tests; the controller reaches them through an interface.
#ifndef OS_PROCESS_H
#define OS_PROCESS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct os_process {
    int pid, pidfd;
    bool is_child;   // ours to wait for
    char ending[48]; // once it has ended: "exited with status 3", "killed by signal 9"; "ended" if it is no child
};

struct os_spawn_options {
    const char *const *argv; // [0]: a path, not searched for; ends with NULL
    // "NAME=value" sets, "NAME" takes away; the rest is inherited. Ends with NULL; NULL: nothing to change.
    const char *const *environment;
    int output; // descriptor for its standard output and error; -1: ours
};
// In a process group of its own (Ctrl-C is not for it), standard input from /dev/null, default signals, no other
// descriptor of ours. An executable that cannot be started fails here.
BG_MUST_USE bg_status os_spawn(const struct os_spawn_options *options, struct bg_error *err,
                               struct os_process *process);
// A pipe for what a process says: `writer` is its output (close it after os_spawn), `reader` does not block.
BG_MUST_USE bg_status os_pipe(struct bg_error *err, int *reader, int *writer);
// What is there, at most `capacity` bytes; 0: nothing now, or never again.
size_t os_pipe_read(int reader, void *bytes, size_t capacity);
// A process that is no child of ours, told apart from a later one of the same number by its start time. BG_NOT_FOUND:
// it has ended.
BG_MUST_USE bg_status os_process_open(int pid, uint64_t start_time, struct bg_error *err, struct os_process *process);
// Clock ticks since the machine started.
BG_MUST_USE bg_status os_process_start_time(int pid, struct bg_error *err, uint64_t *start_time);

bool os_process_ended(struct os_process *process); // does not wait; fills `ending`, takes a child's remains away
BG_MUST_USE bg_status os_process_kill(const struct os_process *process, int signal, struct bg_error *err);
void os_process_close(struct os_process *process); // forgets it; it goes on

// Path of this program, which stays usable when the file was replaced meanwhile.
void os_executable(char *path, size_t size);

#endif
