// Processes by pidfd. posix_spawn and not fork: the caller may hold gigabytes and have threads.
#define _GNU_SOURCE
#include "os/process.h"

#include "base/mem.h"
#include "os/live_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

// ---- Start ----

static bool names(const char *entry, const char *variable)
{
    size_t length = strcspn(variable, "=");
    return strncmp(entry, variable, length) == 0 && entry[length] == '=';
}

// Ours without what `changes` names, then what it sets. The strings stay where they are; bg_free the list.
static char **environment_with(const char *const *changes)
{
    size_t ours = 0, more = 0;
    while (environ && environ[ours])
        ours++;
    while (changes && changes[more])
        more++;
    char **list = bg_alloc_array(ours + more + 1, sizeof *list);
    size_t count = 0;
    for (size_t i = 0; i < ours; i++) {
        size_t j = 0;
        while (j < more && !names(environ[i], changes[j]))
            j++;
        if (j == more)
            list[count++] = environ[i];
    }
    for (size_t j = 0; j < more; j++)
        if (strchr(changes[j], '='))
            list[count++] = (char *)(uintptr_t)changes[j];
    return list;
}

static int spawn(const struct os_spawn_options *o, char **environment, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int code = posix_spawn_file_actions_init(&files);
    if (code)
        return code;
    code = posix_spawnattr_init(&attributes);
    if (code) {
        posix_spawn_file_actions_destroy(&files);
        return code;
    }
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    code = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    for (int fd = STDOUT_FILENO; o->output >= 0 && fd <= STDERR_FILENO && !code; fd++)
        code = posix_spawn_file_actions_adddup2(&files, o->output, fd);
    if (!code) // also what a library opened without close-on-exec
        code = posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    if (!code)
        code = posix_spawn(pid, o->argv[0], &files, &attributes, (char **)(uintptr_t)o->argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return code;
}

bg_status os_spawn(const struct os_spawn_options *options, struct bg_error *err, struct os_process *process)
{
    char **environment = environment_with(options->environment);
    pid_t pid = 0;
    int code = spawn(options, environment, &pid);
    bg_free(environment);
    if (code)
        return os_fail(err, -code, "starting", options->argv[0]);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) { // not without a handle: nobody could end it
        code = errno;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return os_fail(err, -code, "watching", options->argv[0]);
    }
    *process = (struct os_process){.pid = pid, .pidfd = pidfd, .is_child = true};
    return BG_OK;
}

void os_executable(char *path, size_t size)
{
    static const char link[] = "/proc/self/exe";
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
    if (length <= 0 || (size_t)length == size - 1 || access(path, X_OK) != 0)
        snprintf(path, size, "%s", link); // replaced or deleted: the kernel still knows it
}

// ---- Adopt ----

bg_status os_process_start_time(int pid, struct bg_error *err, uint64_t *start_time)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (size < 0)
        return bg_fail(err, BG_NOT_FOUND, "process %d: it has ended", pid);
    text[size] = 0;
    // Field 22; the name in field 2 may hold blanks and parentheses of its own.
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    char *end = NULL;
    uint64_t value = at ? strtoull(at + 1, &end, 10) : 0;
    if (!at || end == at + 1)
        return bg_fail(err, BG_FORMAT, "%s: no start time in it", path);
    *start_time = value;
    return BG_OK;
}

bg_status os_pipe(struct bg_error *err, int *reader, int *writer)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
        return bg_fail(err, BG_IO, "pipe: %s", strerror(errno));
    *reader = ends[0];
    *writer = ends[1];
    return BG_OK;
}

size_t os_pipe_read(int reader, void *bytes, size_t capacity)
{
    const ssize_t got = read(reader, bytes, capacity);
    return got > 0 ? (size_t)got : 0;
}

bg_status os_process_open(int pid, uint64_t start_time, struct bg_error *err, struct os_process *process)
{
    int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pidfd < 0)
        return bg_fail(err, BG_NOT_FOUND, "process %d: it has ended", pid);
    uint64_t found = 0; // read after the pidfd holds the number
    bg_status status = os_process_start_time(pid, err, &found);
    if (!status && found != start_time)
        status = bg_fail(err, BG_NOT_FOUND, "process %d: it has ended, another one has its number", pid);
    if (status) {
        close(pidfd);
        return status;
    }
    *process = (struct os_process){.pid = pid, .pidfd = pidfd};
    if (os_process_ended(process)) { // a zombie that its parent has not waited for
        close(pidfd);
        return bg_fail(err, BG_NOT_FOUND, "process %d: it has ended", pid);
    }
    return BG_OK;
}

// ---- Watch, signal ----

bool os_process_ended(struct os_process *process)
{
    if (process->ending[0])
        return true;
    struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};
    if (poll(&poll_fd, 1, 0) <= 0)
        return false;
    siginfo_t info = {0};
    int code = process->is_child ? waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG) : -1;
    if (code == 0 && info.si_pid == 0)
        return false;
    if (code == 0 && info.si_code == CLD_EXITED)
        snprintf(process->ending, sizeof process->ending, "exited with status %d", info.si_status);
    else if (code == 0)
        snprintf(process->ending, sizeof process->ending, "killed by signal %d", info.si_status);
    else
        snprintf(process->ending, sizeof process->ending, "ended");
    return true;
}

bg_status os_process_kill(const struct os_process *process, int signal, struct bg_error *err)
{
    if (syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0) == 0)
        return BG_OK;
    if (errno == ESRCH)
        return bg_fail(err, BG_NOT_FOUND, "process %d: it has ended", process->pid);
    return bg_fail(err, errno == EPERM ? BG_DENIED : BG_IO, "signal %d for process %d: %s", signal, process->pid,
                   strerror(errno));
}

void os_process_close(struct os_process *process)
{
    if (process->pidfd >= 0)
        close(process->pidfd);
    process->pidfd = -1;
}
