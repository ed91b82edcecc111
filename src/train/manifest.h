// A checkpoint's manifest.json: what it is, where in the job it stands, and the size and SHA-256 of every file beside
// it and of itself.
#ifndef TRAIN_MANIFEST_H
#define TRAIN_MANIFEST_H

#include "base/env.h"

struct evaluation_point { // validation after `step` steps
    uint64_t step, tokens;
    double loss, bits_per_byte;
};

struct manifest_file {
    char name[64];
    uint64_t bytes;
    char sha256[65];
};
enum { MANIFEST_FILES_MAX = 16 };

struct manifest {
    uint64_t step;            // steps done
    uint64_t sample_position; // next position p of the data order
    uint64_t tokens;          // trained on so far
    double seconds;           // spent in steps so far
    char *signature;          // its text
    char signature_sha256[65], curve_sha256[65], weights_sha256[65];
    struct evaluation_point *evaluations;
    size_t evaluation_count;
    struct manifest_file files[MANIFEST_FILES_MAX];
    size_t file_count;
};

void manifest_fini(struct manifest *manifest);
// Hashes directory/name as it lies on disk and adds it to the list.
BG_MUST_USE bg_status manifest_add_file(struct bg_env *env, struct manifest *manifest, const char *directory,
                                        const char *name, struct bg_error *err);
BG_MUST_USE bg_status manifest_save(struct bg_env *env, const struct manifest *manifest, const char *directory,
                                    struct bg_error *err);
// `name` stands in errors.
BG_MUST_USE bg_status manifest_parse(const char *name, const void *text, size_t size, struct bg_error *err,
                                     struct manifest *manifest);
BG_MUST_USE bg_status manifest_load(struct bg_env *env, const char *directory, struct bg_error *err,
                                    struct manifest *manifest);
// Every listed file has its size and hash. BG_CORRUPT names the one that has not.
BG_MUST_USE bg_status manifest_check_files(struct bg_env *env, const struct manifest *manifest, const char *directory,
                                           struct bg_error *err);

// Bits of a double as 16 hexadecimal digits, and back.
void curve_bits_format(double value, char hex[17]);
bool curve_bits_parse(const char *hex, double *value);
// NUMERICS 19.
void curve_sha256(const double *losses, uint64_t steps, char hex[65]);

#endif
