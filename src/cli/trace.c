// Files of traces: read as a whole and handed to plan/, which judges them. Here is also the list of numbers.
#include "cli/trace.h"

#include "base/mem.h"

#include <stdio.h>

enum { NUMBERS_MAX = 10000000 };

bg_status trace_load(struct bg_env *env, const char *path, struct bg_error *err, struct plan_trace *trace)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = plan_trace_parse(path, map.data, map.size, err, trace);
    env->ops->map_close(env, &map);
    if (!status && trace->moved)
        fprintf(stderr, "brigade: %s:%zu: %zu entries out of order were put in order\n", path, trace->moved_line,
                trace->moved);
    if (!status && trace->dropped)
        fprintf(stderr, "brigade: %s:%zu: %zu events dropped that add a node that is there or remove one that is not\n",
                path, trace->dropped_line, trace->dropped);
    return status;
}

// One number from `at`; false where there is something else. Leaves *at at the end of the line.
static bool take_number(const uint8_t *data, size_t size, size_t *at, uint32_t max, uint32_t *number)
{
    uint64_t value = 0;
    const size_t begin = *at;
    size_t i = begin;
    for (; i < size && data[i] >= '0' && data[i] <= '9' && value <= max; i++)
        value = value * 10 + (uint64_t)(data[i] - '0');
    const bool good = i > begin && value <= max;
    if (i < size && data[i] == '\r')
        i++;
    *at = i;
    *number = (uint32_t)value;
    return good && (i == size || data[i] == '\n');
}

static bg_status take_numbers(const struct bg_map *map, const char *path, uint32_t max, struct bg_error *err,
                              uint32_t *numbers, size_t *count)
{
    *count = 0;
    for (size_t at = 0, line = 1; at < map->size; at++, line++)
        if (!take_number(map->data, map->size, &at, max, &numbers[(*count)++]))
            return bg_fail(err, BG_FORMAT, "%s:%zu: expected a whole number of 0 to %u", path, line, max);
    return *count ? BG_OK : bg_fail(err, BG_FORMAT, "%s: expected a whole number a line, found nothing", path);
}

bg_status trace_numbers_read(struct bg_env *env, const char *path, uint32_t max, struct bg_error *err,
                             uint32_t **numbers, size_t *count)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    size_t lines = 1;
    for (size_t i = 0; i < map.size; i++)
        lines += map.data[i] == '\n';
    uint32_t *all = NULL;
    size_t found = 0;
    if (lines > NUMBERS_MAX) {
        status = bg_fail(err, BG_FORMAT, "%s: more than %d lines", path, NUMBERS_MAX);
    } else {
        all = bg_alloc_array(lines, sizeof *all);
        status = take_numbers(&map, path, max, err, all, &found);
    }
    env->ops->map_close(env, &map);
    if (status) {
        bg_free(all);
        return status;
    }
    *numbers = all;
    *count = found;
    return BG_OK;
}
