// SIGINT and SIGTERM, and SIGHUP and SIGPIPE for who wants it. The first one sets a flag that the training loop reads
// between steps; a second SIGINT ends the process at once with exit status 130. sigaction and not uv_signal: the flag
// must be set while the only thread computes, without an event loop that turns. Handlers are the process's, hence the
// static variables.
#include "os/live_int.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int pending_signal;
static atomic_uint hangups;
static atomic_flag taken = ATOMIC_FLAG_INIT;
static struct sigaction old_interrupt, old_terminate;

static void on_signal(int number)
{
    static const char note[] = "\nstopping; press Ctrl-C again to stop at once\n";
    int saved_errno = errno;
    int earlier = atomic_exchange(&pending_signal, number);
    if (earlier && number == SIGINT)
        _exit(130);
    if (number == SIGINT && isatty(STDERR_FILENO)) {
        ssize_t written = write(STDERR_FILENO, note, sizeof note - 1);
        (void)written;
    }
    errno = saved_errno;
}

bg_status os_signals_start(struct bg_error *err)
{
    if (atomic_flag_test_and_set(&taken))
        return bg_fail(err, BG_EXISTS, "another environment of this process handles signals; only one can");
    atomic_store(&pending_signal, 0);
    struct sigaction action = {0};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old_interrupt);
    sigaction(SIGTERM, &action, &old_terminate);
    return BG_OK;
}

void os_signals_stop(void)
{
    sigaction(SIGINT, &old_interrupt, NULL);
    sigaction(SIGTERM, &old_terminate, NULL);
    atomic_flag_clear(&taken);
}

static void on_hangup(int number)
{
    (void)number;
    atomic_fetch_add(&hangups, 1);
}

void os_hangups_count(void)
{
    struct sigaction action = {.sa_handler = on_hangup, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGHUP, &action, NULL);
}

unsigned os_hangups(void)
{
    return atomic_load(&hangups);
}

void os_pipes_may_break(void)
{
    struct sigaction action = {.sa_handler = SIG_IGN};
    sigemptyset(&action.sa_mask);
    sigaction(SIGPIPE, &action, NULL);
}

int os_signals_pending(void)
{
    return atomic_load(&pending_signal);
}
