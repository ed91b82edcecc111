// Crash-safe replacement of a file that is too large to hold in memory twice (env_write_file does whole
// buffers). The first failure sticks, so writers can write on and look at the status once, at commit.
#include "tensor/output.h"

#include "base/mem.h"

#include <string.h>

bg_status output_open(struct bg_env *env, const char *path, struct bg_error *err, struct output *output)
{
    char *temporary = bg_format("%s.tmp", path);
    struct bg_file *file = NULL;
    bg_status status = env->ops->file_open(env, temporary, BG_FILE_TRUNCATE, err, &file);
    if (status) {
        bg_free(temporary);
        return status;
    }
    *output = (struct output){.env = env, .path = bg_strdup(path), .temporary = temporary, .file = file};
    return BG_OK;
}

bg_status output_write(struct output *output, const void *bytes, size_t size, struct bg_error *err)
{
    if (!output->failed && size)
        output->failed = output->env->ops->file_write(output->env, output->file, bytes, size, err);
    return output->failed;
}

static bg_status sync_parent(struct bg_env *env, const char *path, struct bg_error *err)
{
    const char *slash = strrchr(path, '/');
    char *directory = !slash ? bg_strdup(".") : bg_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    bg_status status = env->ops->path_sync(env, directory, err);
    bg_free(directory);
    return status;
}

bg_status output_commit(struct output *output, struct bg_error *err)
{
    struct bg_env *env = output->env;
    bg_status status = output->failed;
    if (!status)
        status = env->ops->file_sync(env, output->file, err);
    struct bg_error close_error;
    bg_status close_status = env->ops->file_close(env, output->file, &close_error);
    if (!status && close_status)
        status = bg_fail(err, close_status, "%s", close_error.text);
    if (!status)
        status = env->ops->path_rename(env, output->temporary, output->path, err);
    if (status) {
        struct bg_error ignored; // the first failure is the one to tell
        (void)env->ops->path_remove(env, output->temporary, &ignored);
    } else {
        status = sync_parent(env, output->path, err);
    }
    bg_free(output->path);
    bg_free(output->temporary);
    *output = (struct output){.failed = status};
    return status;
}
