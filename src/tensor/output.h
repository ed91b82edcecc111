// A file being replaced: bytes go to a temporary file beside it; commit syncs, renames and syncs the directory.
// Until then the old file stands; a kill or a full disk at any point leaves the old file or the new one, whole.
#ifndef TENSOR_OUTPUT_H
#define TENSOR_OUTPUT_H

#include "base/env.h"

struct output {
    struct bg_env *env;
    char *path, *temporary;
    struct bg_file *file;
    bg_status failed; // the first failure; later calls return it
};

BG_MUST_USE bg_status output_open(struct bg_env *env, const char *path, struct bg_error *err, struct output *output);
BG_MUST_USE bg_status output_write(struct output *output, const void *bytes, size_t size, struct bg_error *err);
// Ends the output, well or badly: where anything failed before, the temporary file is removed and that status returned.
BG_MUST_USE bg_status output_commit(struct output *output, struct bg_error *err);

#endif
