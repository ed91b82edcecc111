// What every environment can do with its operations: the crash-safe replacement of a whole file. No effect of
// its own, so the simulator inherits it and its crash points.
#include "base/env.h"

#include "base/mem.h"

#include <string.h>

static bg_status write_all(struct bg_env *env, const char *path, const void *bytes, size_t size, struct bg_error *err)
{
    struct bg_file *file = NULL;
    bg_status status = env->ops->file_open(env, path, BG_FILE_TRUNCATE, err, &file);
    if (status)
        return status;
    status = env->ops->file_write(env, file, bytes, size, err);
    if (!status)
        status = env->ops->file_sync(env, file, err);
    struct bg_error close_error = {0};
    bg_status close_status = env->ops->file_close(env, file, &close_error);
    if (!status && close_status) {
        status = close_status;
        if (err)
            *err = close_error;
    }
    return status;
}

bg_status env_write_file(struct bg_env *env, const char *path, const void *bytes, size_t size, struct bg_error *err)
{
    if (!*path)
        return bg_fail(err, BG_NOT_CREATED, "writing a file: its path is empty");
    // A fixed name: what a kill leaves behind is overwritten by the next attempt, not collected.
    char *temporary = bg_format("%s.tmp", path);
    bg_status status = write_all(env, temporary, bytes, size, err);
    if (!status)
        status = env->ops->path_rename(env, temporary, path, err);
    if (status) {
        env->ops->path_remove(env, temporary, NULL); // keeps the first error
    } else {
        const char *slash = strrchr(path, '/');
        char *directory = !slash ? bg_strdup(".") : bg_strndup(path, slash == path ? 1 : (size_t)(slash - path));
        status = env->ops->path_sync(env, directory, err);
        bg_free(directory);
    }
    bg_free(temporary);
    return status;
}
