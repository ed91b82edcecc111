// The processes that a controller starts: `brigade worker`, each in a process group of its own, with our standard
// error. Handles are pidfds, so no signal ever meets a stranger.
#include "cli/fleet_int.h"

#include "base/json.h"
#include "base/mem.h"
#include "os/ipc.h"

#include <stdio.h>
#include <string.h>

#define KILLED_NS 5000000000u // that long a killed process may take to end

enum { SIGNAL_KILL = 9 };

// The lowest place that no living worker has.
static uint32_t free_place(const struct fleet_children *c)
{
    uint32_t place = 0;
    for (size_t i = 0; i < c->count;) {
        if (c->list[i].place == place) {
            place++;
            i = 0;
        } else {
            i++;
        }
    }
    return place;
}

static const struct fleet_child *add(struct fleet_children *c, const struct fleet_child *child)
{
    c->list = bg_realloc_array(c->list, c->count + 1, sizeof *c->list);
    c->list[c->count] = *child;
    return &c->list[c->count++];
}

bg_status fleet_child_start(struct fleet_children *c, uint64_t token, enum message_role role, struct bg_error *err,
                            const struct fleet_child **out)
{
    struct fleet_child child = {.token = token, .place = UINT32_MAX};
    uint32_t number = c->started[role];
    bool first_round = number < (role == MESSAGE_SHADOW ? 1 : c->first);
    if (role == MESSAGE_SHADOW) {
        snprintf(child.name, sizeof child.name, "shadow");
    } else {
        snprintf(child.name, sizeof child.name, "worker%u", number);
        child.place = free_place(c);
    }
    char text[3][32];
    snprintf(text[0], sizeof text[0], "%llu", (unsigned long long)token);
    snprintf(text[1], sizeof text[1], "%u", role == MESSAGE_SHADOW ? 1 : c->threads);
    snprintf(text[2], sizeof text[2], "%u",
             c->pinned && role == MESSAGE_WORKER && child.place < c->first ? 1 + child.place * c->threads : 0);
    const char *const argv[] = {c->executable,
                                "worker",
                                c->run,
                                "--token",
                                text[0],
                                "--role",
                                role == MESSAGE_SHADOW ? "shadow" : "worker",
                                "--name",
                                child.name,
                                "--threads",
                                text[1],
                                "--cpu",
                                text[2],
                                NULL};
    static const char *const no_faults[] = {"BRIGADE_FAULT", NULL};
    struct os_spawn_options options = {.argv = argv, .environment = first_round ? NULL : no_faults, .output = -1};
    bg_status status = os_spawn(&options, err, &child.process);
    if (status)
        return status;
    c->started[role]++;
    *out = add(c, &child);
    return BG_OK;
}

bool fleet_process_lives(int pid, uint64_t start_time)
{
    struct bg_error gone;
    struct os_process process;
    if (os_process_open(pid, start_time, &gone, &process))
        return false;
    bool ended = os_process_ended(&process);
    os_process_close(&process);
    return !ended;
}

static bool is_ours(const struct fleet_children *c, int pid)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->list[i].process.pid == pid)
            return true;
    return false;
}

static void adopt(struct fleet_children *c, const char *line, size_t size)
{
    struct bg_error ignored; // half a line, or a process that has ended
    struct fleet_child child = {.place = UINT32_MAX};
    json_t *event = NULL;
    if (bg_json_parse("events.jsonl", line, size, &ignored, &event))
        return;
    const char *what = json_string_value(json_object_get(event, "event"));
    int pid = (int)json_integer_value(json_object_get(event, "process"));
    uint64_t start = (uint64_t)json_integer_value(json_object_get(event, "process_start"));
    child.token = (uint64_t)json_integer_value(json_object_get(event, "token"));
    const char *name = json_string_value(json_object_get(event, "name"));
    snprintf(child.name, sizeof child.name, "%s", name ? name : "adopted");
    if (what && !strcmp(what, "spawned") && !is_ours(c, pid) && !os_process_open(pid, start, &ignored, &child.process))
        add(c, &child);
    json_decref(event);
}

void fleet_children_adopt(struct bg_env *env, struct fleet_children *c, const char *run)
{
    char *path = bg_format("%s/events.jsonl", run);
    struct bg_error ignored; // no events, no processes
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, &ignored, &map);
    bg_free(path);
    if (status)
        return;
    const char *at = (const char *)map.data, *end = at + map.size;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t size = (size_t)((stop ? stop : end) - at);
        adopt(c, at, size);
        at += size + 1;
    }
    env->ops->map_close(env, &map);
}

void fleet_end_leftovers(struct bg_env *env, const char *run)
{
    struct fleet_children left = {0};
    fleet_children_adopt(env, &left, run);
    fleet_children_end(env, &left, 0);
}

static void end_child(const struct fleet_child *child)
{
    struct bg_error ended; // by itself, meanwhile
    if (os_process_kill(&child->process, SIGNAL_KILL, &ended))
        return;
}

static bool is_rented(const struct fleet_child *child, enum plan_rent rent, uint32_t zone)
{
    return child->token && strcmp(child->name, "shadow") != 0 && ctl_token_rent(child->token) == rent &&
           ctl_token_zone(child->token) == zone;
}

bool fleet_child_end(struct fleet_children *c, uint64_t token)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->list[i].token == token) {
            end_child(&c->list[i]);
            return true;
        }
    return false;
}

// How many workers on such machines were started after this one.
static uint32_t newer(const struct fleet_children *c, enum plan_rent rent, uint32_t zone, uint64_t token)
{
    uint32_t count = 0;
    for (size_t i = 0; i < c->count; i++)
        count += is_rented(&c->list[i], rent, zone) && c->list[i].token > token;
    return count;
}

uint32_t fleet_children_keep(struct fleet_children *c, enum plan_rent rent, uint32_t zone, uint32_t keep)
{
    uint32_t all = 0;
    for (size_t i = 0; i < c->count; i++)
        all += is_rented(&c->list[i], rent, zone);
    const uint32_t surplus = all > keep ? all - keep : 0;
    for (size_t i = 0; i < c->count; i++)
        if (is_rented(&c->list[i], rent, zone) && newer(c, rent, zone, c->list[i].token) < surplus)
            end_child(&c->list[i]);
    return surplus;
}

bool fleet_child_ended(struct fleet_children *c, uint64_t *token, char why[64])
{
    for (size_t i = 0; i < c->count; i++) {
        struct fleet_child *child = &c->list[i];
        if (!os_process_ended(&child->process))
            continue;
        *token = child->token;
        snprintf(why, 64, "%s", child->process.ending);
        os_process_close(&child->process);
        *child = c->list[--c->count];
        return true;
    }
    return false;
}

void fleet_children_end(struct bg_env *env, struct fleet_children *c, uint64_t grace_ns)
{
    struct bg_error ignored;
    int poller = -1;
    bool waits = os_poller_create(&ignored, &poller) == BG_OK;
    uint64_t start = env_now_ns(env), token = 0, tags[OS_READY_MAX];
    char why[64];
    bool killed = false;
    while (c->count && env_now_ns(env) - start < grace_ns + KILLED_NS) {
        if (fleet_child_ended(c, &token, why))
            continue;
        if (!killed && env_now_ns(env) - start >= grace_ns) {
            for (size_t i = 0; i < c->count; i++)
                if (os_process_kill(&c->list[i].process, SIGNAL_KILL, &ignored))
                    continue; // it has ended meanwhile
            killed = true;
        }
        if (waits)
            (void)os_poller_wait(poller, 2 * 1000000, tags);
    }
    if (waits)
        os_fd_close(poller);
    while (c->count) // the kernel does not let go of it
        os_process_close(&c->list[--c->count].process);
    bg_free(c->list);
    c->list = NULL;
}
