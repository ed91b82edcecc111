// What every process of a fleet knows from the run directory alone: where the controller listens, and the job.
#include "cli/fleet.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { ID_BYTES = 16 };

static bg_status read_id(struct bg_env *env, const char *path, struct bg_error *err, char hex[2 * ID_BYTES + 1])
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    bool good = map.size == 2 * ID_BYTES + 1 && map.data[2 * ID_BYTES] == '\n';
    for (size_t i = 0; good && i < 2 * ID_BYTES; i++)
        good = strchr("0123456789abcdef", map.data[i]) && map.data[i];
    if (good)
        snprintf(hex, 2 * ID_BYTES + 1, "%s", (const char *)map.data);
    env->ops->map_close(env, &map);
    return good ? BG_OK
                : bg_fail(err, BG_CORRUPT,
                          "%s: expected %d hexadecimal digits; remove it when no process of the run lives", path,
                          2 * ID_BYTES);
}

static bg_status make_id(struct bg_env *env, const char *path, struct bg_error *err)
{
    uint8_t bytes[ID_BYTES];
    char text[2 * ID_BYTES + 2];
    bg_status status = env->ops->entropy(env, bytes, sizeof bytes, err);
    if (status)
        return status;
    for (size_t i = 0; i < ID_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    memcpy(text + 2 * ID_BYTES, "\n", 2);
    return env_write_file(env, path, text, 2 * ID_BYTES + 1, err);
}

bg_status fleet_address(struct bg_env *env, const char *run, bool make, struct bg_error *err,
                        char address[COMM_ADDRESS_MAX])
{
    char *path = bg_format("%s/controller.id", run);
    char hex[2 * ID_BYTES + 1];
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && !info.exists)
        status = make ? make_id(env, path, err)
                      : bg_fail(err, BG_NOT_FOUND,
                                "%s: no such file: no job of many workers was started in that run directory", path);
    if (!status)
        status = read_id(env, path, err, hex);
    bg_free(path);
    if (!status)
        snprintf(address, COMM_ADDRESS_MAX, "brigade-%s", hex);
    return status;
}

bg_status fleet_load_job(struct bg_env *env, const char *run, struct bg_error *err, struct job *job)
{
    char *path = bg_format("%s/job.yaml", run);
    char *directory = bg_format("run.dir=%s", run);
    bg_status status = job_load(env, path, (const char *const[]){directory}, 1, err, job);
    bg_free(directory);
    bg_free(path);
    return status;
}

struct comm_shm_options fleet_comm_options(const struct job *job)
{
    uint32_t beat = job->run.heartbeat_ms / 5;
    return (struct comm_shm_options){.beat_ms = beat ? beat : 1, .silence_ms = job->run.heartbeat_ms};
}
