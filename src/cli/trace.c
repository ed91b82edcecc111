// Readers of traces. Nothing here believes a file: every value has its type and range checked.
#include "cli/trace.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

#include <string.h>

enum { NUMBERS_MAX = 10000000 };

static bg_status take_counts(const json_t *data, const char *path, struct bg_error *err, uint32_t *counts)
{
    size_t i;
    const json_t *value;
    json_array_foreach(data, i, value)
    {
        const json_int_t count = json_integer_value(value);
        if (!json_is_integer(value) || count < 0 || count > UINT32_MAX)
            return bg_fail(err, BG_FORMAT, "%s: data[%zu]: expected how many instances there were, 0 or more", path, i);
        counts[i] = (uint32_t)count;
    }
    return BG_OK;
}

bg_status trace_spot_read(struct bg_env *env, const char *path, struct bg_error *err, struct trace_spot *trace)
{
    json_t *root = NULL, *metadata = NULL, *data = NULL;
    double gap_s = 0;
    bg_status status = bg_json_load(env, path, err, &root);
    if (status)
        return status;
    status = bg_json_object(root, path, "metadata", err, &metadata);
    if (!status)
        status = bg_json_number(metadata, path, "gap_seconds", err, &gap_s);
    if (!status)
        status = bg_json_array(root, path, "data", err, &data);
    if (!status && !(gap_s > 0 && gap_s <= 1e9))
        status = bg_fail(err, BG_FORMAT, "%s: metadata.gap_seconds is %g: expected seconds above 0", path, gap_s);
    const size_t count = json_array_size(data);
    if (!status && (!count || count > NUMBERS_MAX))
        status = bg_fail(err, BG_FORMAT, "%s: data has %zu entries: expected 1 to %d", path, count, NUMBERS_MAX);
    if (!status) {
        uint32_t *counts = bg_alloc_array(count, sizeof *counts);
        status = take_counts(data, path, err, counts);
        if (!status)
            *trace = (struct trace_spot){gap_s, counts, count};
        else
            bg_free(counts);
    }
    json_decref(root);
    // A key that is missing is a fault of the file's form; BG_NOT_FOUND would say that there is no file.
    return status == BG_NOT_FOUND ? (err->status = BG_FORMAT) : status;
}

void trace_spot_fini(struct trace_spot *trace)
{
    bg_free(trace->counts);
    *trace = (struct trace_spot){0};
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
