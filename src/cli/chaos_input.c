// Scripts and traces of chaos. Errors name file and line.
#include "cli/chaos.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINES_MAX = 100000 };

static const char *const actions[] = {"kill", "stop", "term"};

const char *chaos_action_name(enum chaos_action action)
{
    return actions[action];
}

// Calls fn for every line without its comment, numbered from 1.
typedef bg_status (*line_fn)(void *arg, const char *where, char *line, struct bg_error *err);

static bg_status each_line(struct bg_env *env, const char *path, line_fn fn, void *arg, struct bg_error *err)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    struct bg_strlist lines = {0};
    char *text = bg_strndup((const char *)map.data, map.size);
    env->ops->map_close(env, &map);
    bg_strlist_split(&lines, text, '\n');
    bg_free(text);
    if (lines.count > LINES_MAX)
        status = bg_fail(err, BG_INVALID, "%s: more than %d lines", path, LINES_MAX);
    for (size_t i = 0; i < lines.count && !status; i++) {
        char *line = lines.items[i];
        line[strcspn(line, "#\r")] = '\0';
        if (line[strspn(line, " \t")] == '\0')
            continue;
        char *where = bg_format("%s:%zu", path, i + 1);
        status = fn(arg, where, line, err);
        bg_free(where);
    }
    bg_strlist_fini(&lines);
    return status;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *value)
{
    char *end = NULL;
    *value = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && !*end && *value <= max;
}

bool chaos_action_parse(const char *text, enum chaos_action *action)
{
    for (size_t i = 0; i < CHAOS_ACTIONS; i++) {
        if (strcmp(text, actions[i]) == 0) {
            *action = (enum chaos_action)i;
            return true;
        }
    }
    return false;
}

// ---- Scripts ----

static bool is_target(const char *text)
{
    uint64_t number = 0;
    return strlen(text) < 31 &&
           (!strcmp(text, "worker") || !strcmp(text, "shadow") || !strcmp(text, "controller") || !strcmp(text, "all") ||
            (!strncmp(text, "worker", 6) && parse_number(text + 6, 1000000, &number)));
}

static bool parse_fault(const struct bg_strlist *words, struct chaos_fault *fault)
{
    uint64_t at = 0, ms = 0;
    if (words->count < 4 || words->count > 5)
        return false;
    fault->by_step = strcmp(words->items[0], "step") == 0;
    bool good = (fault->by_step || strcmp(words->items[0], "ms") == 0) &&
                parse_number(words->items[1], UINT64_MAX / 2, &at) &&
                chaos_action_parse(words->items[2], &fault->action) && is_target(words->items[3]) &&
                (words->count == 4 || parse_number(words->items[4], 600000, &ms));
    if (!good)
        return false;
    fault->at = at;
    fault->ms = (uint32_t)ms;
    snprintf(fault->target, sizeof fault->target, "%s", words->items[3]);
    return true;
}

static bg_status take_script_line(void *arg, const char *where, char *line, struct bg_error *err)
{
    struct chaos_script *script = arg;
    struct bg_strlist all = {0}, words = {0};
    bg_strlist_split(&all, line, ' ');
    for (size_t i = 0; i < all.count; i++)
        if (all.items[i][0])
            bg_strlist_add(&words, all.items[i]);
    bg_strlist_fini(&all);
    struct chaos_fault fault = {0};
    bg_status status = BG_OK;
    struct bg_str *variable = !strcmp(words.items[0], "point")    ? &script->points
                              : !strcmp(words.items[0], "frames") ? &script->frames
                                                                  : NULL;
    if (variable && words.count == 2) {
        bg_str_addf(variable, "%s%s", variable->size ? "," : "", words.items[1]);
    } else if (parse_fault(&words, &fault)) {
        script->faults = bg_realloc_array(script->faults, script->count + 1, sizeof *script->faults);
        script->faults[script->count++] = fault;
    } else {
        status = bg_fail(err, BG_INVALID,
                         "%s: expected \"step|ms N kill|stop|term worker|workerN|shadow|controller|all [MS]\", \"point "
                         "NAME:POINT:COUNT:KILL|STOP|TERM\" or \"frames SEED:drop:P,corrupt:P,delay:P:Nms\"",
                         where);
    }
    bg_strlist_fini(&words);
    return status;
}

bg_status chaos_script_read(struct bg_env *env, const char *path, struct bg_error *err, struct chaos_script *out)
{
    struct chaos_script script = {0};
    bg_status status = each_line(env, path, take_script_line, &script, err);
    if (status)
        chaos_script_fini(&script);
    else
        *out = script;
    return status;
}

void chaos_script_fini(struct chaos_script *script)
{
    bg_free(script->faults);
    bg_str_fini(&script->points);
    bg_str_fini(&script->frames);
    *script = (struct chaos_script){0};
}

// ---- Traces ----

static uint32_t node_of(struct chaos_trace *trace, const char *name)
{
    size_t i = 0;
    while (i < trace->nodes.count && strcmp(trace->nodes.items[i], name) != 0)
        i++;
    if (i == trace->nodes.count)
        bg_strlist_add(&trace->nodes, name);
    return (uint32_t)i;
}

static bg_status take_trace_line(void *arg, const char *where, char *line, struct bg_error *err)
{
    struct chaos_trace *trace = arg;
    struct bg_strlist fields = {0};
    bg_strlist_split(&fields, line, ',');
    uint64_t ms = 0;
    bool good = fields.count == 3 && parse_number(fields.items[0], UINT64_MAX / 2, &ms) && fields.items[2][0];
    bool add = good && !strcmp(fields.items[1], "add");
    good = good && (add || !strcmp(fields.items[1], "remove"));
    good = good && (!trace->count || ms >= trace->events[trace->count - 1].ms);
    if (good) {
        trace->events = bg_realloc_array(trace->events, trace->count + 1, sizeof *trace->events);
        trace->events[trace->count++] = (struct chaos_event){ms, add, node_of(trace, fields.items[2])};
    }
    bg_strlist_fini(&fields);
    return good ? BG_OK : bg_fail(err, BG_FORMAT, "%s: expected \"ms,add|remove,node\" with times ascending", where);
}

bg_status chaos_trace_read(struct bg_env *env, const char *path, struct bg_error *err, struct chaos_trace *out)
{
    struct chaos_trace trace = {0};
    bg_status status = each_line(env, path, take_trace_line, &trace, err);
    if (status)
        chaos_trace_fini(&trace);
    else
        *out = trace;
    return status;
}

void chaos_trace_fini(struct chaos_trace *trace)
{
    bg_free(trace->events);
    bg_strlist_fini(&trace->nodes);
    *trace = (struct chaos_trace){0};
}
