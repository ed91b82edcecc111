// Faults at named protocol points: the environment tells one process to raise a signal on itself when it gets there.
// Like signal handlers they belong to the process, hence the static table; without a fault for us nothing is counted.
#include "os/fault.h"

#include "os/live_int.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FAULTS_MAX = 64, POINTS_MAX = 128, NAME_MAX_BYTES = 48, HANG = -1 };

struct fault {
    char point[NAME_MAX_BYTES];
    uint64_t count;
    int signal; // or HANG
};
struct passed {
    char point[NAME_MAX_BYTES];
    uint64_t count;
};
struct faults {
    char name[NAME_MAX_BYTES];
    struct fault faults[FAULTS_MAX];
    struct passed points[POINTS_MAX];
    size_t fault_count, point_count;
    int file; // BRIGADE_POINTS, or -1
};
static struct faults table;
static struct faults *active;                                // &table, or NULL where nothing is asked for
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER; // the table's points: any thread may pass one

// The text up to the next `separator` into `out`; where it went on, or NULL.
static const char *word(const char *at, char separator, char out[NAME_MAX_BYTES])
{
    size_t length = strcspn(at, ":,");
    if (length == 0 || length >= NAME_MAX_BYTES || (separator && at[length] != separator))
        return NULL;
    memcpy(out, at, length);
    out[length] = 0;
    return at + length + (at[length] != 0);
}

static int action(const char *text)
{
    return strcmp(text, "KILL") == 0   ? SIGKILL
           : strcmp(text, "STOP") == 0 ? SIGSTOP
           : strcmp(text, "TERM") == 0 ? SIGTERM
           : strcmp(text, "HANG") == 0 ? HANG
                                       : 0;
}

static bg_status parse(const char *text, const char *name, struct faults *out, struct bg_error *err)
{
    const char *at = text;
    for (;;) {
        const char *start = at;
        char who[NAME_MAX_BYTES], number[NAME_MAX_BYTES], act[NAME_MAX_BYTES];
        struct fault fault = {0};
        at = word(at, ':', who);
        at = at ? word(at, ':', fault.point) : NULL;
        at = at ? word(at, ':', number) : NULL;
        const char *last = at; // ACTION
        at = at ? word(at, 0, act) : NULL;
        bool ended = at && strchr(",", last[strlen(act)]); // or the end of the text
        char *end = NULL;
        fault.count = at ? strtoull(number, &end, 10) : 0;
        fault.signal = at ? action(act) : 0;
        if (!at || !ended || *end || number[0] < '0' || number[0] > '9' || !fault.count || !fault.signal)
            return bg_fail(err, BG_INVALID,
                           "BRIGADE_FAULT, character %zu: \"%s\": expected NAME:POINT:COUNT:ACTION with COUNT from 1 "
                           "and ACTION KILL, STOP, TERM or HANG",
                           (size_t)(start - text) + 1, start);
        if (out->fault_count == FAULTS_MAX)
            return bg_fail(err, BG_FULL, "BRIGADE_FAULT, character %zu: more than %d faults",
                           (size_t)(start - text) + 1, FAULTS_MAX);
        if (strcmp(who, name) == 0)
            out->faults[out->fault_count++] = fault;
        if (last[strcspn(last, ",")] == 0)
            return BG_OK;
    }
}

bg_status os_fault_name(const char *name, struct bg_error *err)
{
    const char *text = getenv("BRIGADE_FAULT"), *path = getenv("BRIGADE_POINTS");
    struct faults next = {.file = -1};
    if (strlen(name) >= sizeof next.name)
        return bg_fail(err, BG_INVALID, "name of this process, \"%s\": at most %zu bytes", name, sizeof next.name - 1);
    snprintf(next.name, sizeof next.name, "%s", name);
    bg_status status = text && text[0] ? parse(text, name, &next, err) : BG_OK;
    if (status)
        return status;
    if (path && path[0]) {
        next.file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (next.file < 0)
            return os_fail(err, -errno, "opening", path);
    }
    if (active && active->file >= 0)
        close(active->file);
    table = next;
    active = table.fault_count || table.file >= 0 ? &table : NULL;
    return BG_OK;
}

// How often the point was passed, this time counted; 0: more points than the table holds.
static uint64_t pass(struct faults *f, const char *point)
{
    size_t i = 0;
    while (i < f->point_count && strcmp(f->points[i].point, point) != 0)
        i++;
    if (i == f->point_count) {
        if (i == POINTS_MAX || strlen(point) >= NAME_MAX_BYTES)
            return 0;
        snprintf(f->points[i].point, NAME_MAX_BYTES, "%s", point);
        f->point_count++;
    }
    return ++f->points[i].count;
}

void os_point(struct bg_env *env, const char *name)
{
    (void)env;
    if (!active)
        return;
    pthread_mutex_lock(&counting);
    uint64_t count = pass(active, name);
    pthread_mutex_unlock(&counting);
    if (active->file >= 0) {
        char line[3 * NAME_MAX_BYTES];
        int size = snprintf(line, sizeof line, "%s %s %llu\n", active->name, name, (unsigned long long)count);
        ssize_t written = size > 0 ? write(active->file, line, strnlen(line, sizeof line)) : 0; // whole: O_APPEND
        (void)written;
    }
    for (size_t i = 0; i < active->fault_count; i++)
        if (active->faults[i].count == count && strcmp(active->faults[i].point, name) == 0) {
            while (active->faults[i].signal == HANG)
                pause();
            raise(active->faults[i].signal);
        }
}
