// Reading steps.jsonl. The file is written without waiting for the disk, so after a crash its end may be missing or
// torn; readers tell that apart from damage in the middle. loss_bits decides, the decimal loss must agree with it.
#include "train/steplog.h"

#include "base/json.h"
#include "base/mem.h"
#include "train/manifest.h"

#include <string.h>

void steplog_fini(struct steplog *log)
{
    bg_free(log->losses);
    bg_free(log->begin);
    bg_free(log->text);
    *log = (struct steplog){0};
}

static bg_status parse_line(const char *name, uint64_t number, const char *line, size_t size, struct bg_error *err,
                            double *loss)
{
    json_t *root = NULL;
    int64_t step = 0;
    const char *bits = NULL;
    double decimal = 0;
    char *place = bg_format("%s:%llu", name, (unsigned long long)number + 1);
    bg_status status = bg_json_parse(place, line, size, err, &root);
    if (!status)
        status = bg_json_integer(root, place, "step", 0, INT64_MAX, err, &step);
    if (!status)
        status = bg_json_string(root, place, "loss_bits", err, &bits);
    if (!status)
        status = bg_json_number(root, place, "loss", err, &decimal);
    if (!status && (uint64_t)step != number)
        status = bg_fail(err, BG_CORRUPT, "%s: step %lld where step %llu was expected", place, (long long)step,
                         (unsigned long long)number);
    double value = 0;
    if (!status && (strlen(bits) != 16 || !curve_bits_parse(bits, &value)))
        status = bg_fail(err, BG_CORRUPT, "%s: loss_bits is not 16 hexadecimal digits", place);
    if (!status && memcmp(&value, &decimal, 8) != 0)
        status = bg_fail(err, BG_CORRUPT, "%s: loss %.17g is not what loss_bits says (%.17g)", place, decimal, value);
    json_decref(root);
    bg_free(place);
    if (!status)
        *loss = value;
    return status;
}

static bg_status parse_lines(const char *name, bool lenient, struct bg_error *err, struct steplog *log)
{
    size_t capacity = 0, at = 0, size = strlen(log->text);
    log->begin = bg_alloc(sizeof *log->begin);
    while (at < size) {
        const char *line = log->text + at;
        const char *end = strchr(line, '\n');
        if (log->steps + 1 >= capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            log->losses = bg_realloc_array(log->losses, capacity, sizeof *log->losses);
            log->begin = bg_realloc_array(log->begin, capacity + 1, sizeof *log->begin);
        }
        struct bg_error line_error = {0};
        bg_status status =
            end ? parse_line(name, log->steps, line, (size_t)(end - line), &line_error, &log->losses[log->steps])
                : BG_CORRUPT;
        if (status) {
            // Only the last line may be half a line: a kill in the middle of a write.
            if (lenient || !end || end + 1 == log->text + size) {
                log->torn = true;
                return BG_OK;
            }
            return bg_fail(err, BG_CORRUPT, "%s", line_error.text);
        }
        at += (size_t)(end - line) + 1;
        log->begin[++log->steps] = at;
    }
    return BG_OK;
}

bg_status steplog_parse(const char *name, const char *text, size_t size, bool lenient, struct bg_error *err,
                        struct steplog *out)
{
    struct steplog log = {.text = bg_strndup(text, size)};
    bool nul = strlen(log.text) < size; // the lines before it still count
    bg_status status = parse_lines(name, lenient, err, &log);
    log.torn |= nul;
    if (status)
        steplog_fini(&log);
    else
        *out = log;
    return status;
}

bg_status steplog_read(struct bg_env *env, const char *run_directory, bool lenient, struct bg_error *err,
                       struct steplog *out)
{
    struct bg_file_info info;
    struct bg_map map;
    char *path = bg_format("%s/steps.jsonl", run_directory);
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && !info.exists) {
        status = steplog_parse(path, "", 0, lenient, err, out);
    } else if (!status) {
        status = env->ops->map_open(env, path, err, &map);
        if (!status) {
            status = steplog_parse(path, (const char *)map.data, map.size, lenient, err, out);
            env->ops->map_close(env, &map);
        }
    }
    bg_free(path);
    return status;
}
