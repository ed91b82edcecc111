// The logs of a run. A step's line holds numbers only and is printed into a buffer on the stack, so that a step
// allocates nothing. Lines go to the file at once; the disk is waited for only before a checkpoint, which is what a
// resumed run trusts: its losses repair whatever a crash took from steps.jsonl.
#include "train/runlog.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "train/manifest.h"
#include "train/steplog.h"

#include <stdio.h>
#include <string.h>

bg_status runlog_step(struct runlog *log, const struct runlog_step *step, struct bg_error *err)
{
    char line[512], bits[17];
    const struct step_record *r = step->record;
    curve_bits_format(r->loss, bits);
    int size = snprintf(line, sizeof line,
                        "{\"step\": %llu, \"loss\": %.17g, \"loss_bits\": \"%s\", \"grad_norm\": %.9g, \"lr\": %.9g, "
                        "\"tokens\": %llu, \"tokens_per_second\": %.1f, \"workers\": %u, \"generation\": %u}\n",
                        (unsigned long long)r->step, r->loss, bits, r->norm, step->lr, (unsigned long long)step->tokens,
                        step->tokens_per_second, step->workers, step->generation);
    return log->env->ops->file_write(log->env, log->steps, line, (size_t)size, err);
}

bg_status runlog_event(struct runlog *log, const char *event, json_t *fields, struct bg_error *err)
{
    json_t *object = json_pack("{s:I, s:s}", "time_ms", (json_int_t)log->env->ops->wall_ms(log->env), "event", event);
    if (fields)
        json_object_update(object, fields);
    json_decref(fields);
    char *text = bg_json_text(object, 0);
    json_decref(object);
    char *line = bg_format("%s\n", text);
    bg_free(text);
    bg_status status = log->env->ops->file_write(log->env, log->events, line, strlen(line), err);
    bg_free(line);
    return status;
}

bg_status runlog_sync(struct runlog *log, struct bg_error *err)
{
    bg_status status = log->env->ops->file_sync(log->env, log->steps, err);
    return status ? status : log->env->ops->file_sync(log->env, log->events, err);
}

static bg_status open_files(struct runlog *log, struct bg_env *env, const char *directory, enum bg_file_mode mode,
                            struct bg_error *err)
{
    *log = (struct runlog){.env = env, .directory = bg_strdup(directory)};
    char *steps = bg_format("%s/steps.jsonl", directory);
    char *events = bg_format("%s/events.jsonl", directory);
    bg_status status = env->ops->file_open(env, steps, mode, err, &log->steps);
    if (!status)
        status = env->ops->file_open(env, events, mode, err, &log->events);
    bg_free(steps);
    bg_free(events);
    if (status) {
        struct bg_error second; // the first failure is the one to tell
        bg_status closed = runlog_close(log, &second);
        return status == BG_OK ? closed : status;
    }
    return BG_OK;
}

bg_status runlog_create(struct runlog *log, struct bg_env *env, const char *directory, struct bg_error *err)
{
    return open_files(log, env, directory, BG_FILE_TRUNCATE, err);
}

// The text of steps.jsonl at `steps` steps: old lines where they agree, new ones where they do not.
static bg_status repaired(struct bg_env *env, const char *directory, const double *losses, uint64_t steps,
                          struct bg_error *err, struct bg_str *text, uint64_t *rewritten)
{
    struct steplog old;
    bg_status status = steplog_read(env, directory, true, err, &old);
    if (status)
        return status;
    *rewritten = 0;
    for (uint64_t s = 0; s < steps; s++) {
        if (s < old.steps && memcmp(&old.losses[s], &losses[s], 8) == 0) {
            bg_str_add_bytes(text, old.text + old.begin[s], old.begin[s + 1] - old.begin[s]);
            continue;
        }
        char bits[17];
        curve_bits_format(losses[s], bits);
        bg_str_addf(text,
                    "{\"step\": %llu, \"loss\": %.17g, \"loss_bits\": \"%s\", \"workers\": 1, \"generation\": 0}\n",
                    (unsigned long long)s, losses[s], bits);
        ++*rewritten;
    }
    steplog_fini(&old);
    return BG_OK;
}

bg_status runlog_resume(struct runlog *log, struct bg_env *env, const char *directory, const double *losses,
                        uint64_t steps, struct bg_error *err, uint64_t *rewritten)
{
    struct bg_str text = {0};
    bg_status status = repaired(env, directory, losses, steps, err, &text, rewritten);
    if (!status) {
        char *path = bg_format("%s/steps.jsonl", directory);
        status = env_write_file(env, path, bg_str_text(&text), text.size, err);
        bg_free(path);
    }
    bg_str_fini(&text);
    return status ? status : open_files(log, env, directory, BG_FILE_APPEND, err);
}

bg_status runlog_close(struct runlog *log, struct bg_error *err)
{
    bg_status status = BG_OK, second = BG_OK;
    struct bg_error ignored;
    if (log->steps)
        status = log->env->ops->file_close(log->env, log->steps, err);
    if (log->events)
        second = log->env->ops->file_close(log->env, log->events, status ? &ignored : err);
    bg_free(log->directory);
    *log = (struct runlog){0};
    return status ? status : second;
}

bg_status runlog_result(struct bg_env *env, const char *directory, json_t *result, struct bg_error *err)
{
    if (!result)
        return bg_fail(err, BG_INTERNAL, "%s/result.json: the result cannot be put into JSON", directory);
    char *text = bg_json_text(result, JSON_INDENT(2));
    json_decref(result);
    char *file = bg_format("%s\n", text);
    bg_free(text);
    char *path = bg_format("%s/result.json", directory);
    bg_status status = env_write_file(env, path, file, strlen(file), err);
    bg_free(path);
    bg_free(file);
    return status;
}
