// Reading, writing and checking manifests. The manifest is written last and carries the hash of its own content
// (sorted keys, compact, without that hash), so a flipped bit anywhere in a checkpoint is seen, also in the manifest.
#include "train/manifest.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "train/signature.h"

#include <string.h>

#define MANIFEST_FORMAT "brigade-checkpoint/1"

void curve_bits_format(double value, char hex[17])
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    for (int i = 0; i < 16; i++)
        hex[i] = "0123456789abcdef"[bits >> (60 - 4 * i) & 15];
    hex[16] = '\0';
}

bool curve_bits_parse(const char *hex, double *value)
{
    uint64_t bits = 0;
    for (int i = 0; i < 16; i++) {
        char c = hex[i];
        if (c >= '0' && c <= '9')
            bits = bits << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            bits = bits << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    if (hex[16] != '\0')
        return false;
    memcpy(value, &bits, 8);
    return true;
}

void curve_sha256(const double *losses, uint64_t steps, char hex[65])
{
    // Little-endian doubles: the only byte order brigade runs on (the kernels are x86-64 or plain C beside them).
    bg_sha256_hex(losses, (size_t)steps * 8, hex);
}

void manifest_fini(struct manifest *m)
{
    bg_free(m->signature);
    bg_free(m->evaluations);
    *m = (struct manifest){0};
}

static bg_status hash_file(struct bg_env *env, const char *directory, const char *name, struct bg_error *err,
                           struct manifest_file *file)
{
    char *path = bg_format("%s/%s", directory, name);
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    bg_free(path);
    if (status)
        return status;
    file->bytes = map.size;
    bg_sha256_hex(map.data, map.size, file->sha256);
    env->ops->map_close(env, &map);
    return BG_OK;
}

bg_status manifest_add_file(struct bg_env *env, struct manifest *m, const char *directory, const char *name,
                            struct bg_error *err)
{
    struct manifest_file file = {0};
    if (m->file_count == MANIFEST_FILES_MAX || strlen(name) >= sizeof file.name)
        return bg_fail(err, BG_FULL, "%s: no room in the manifest for %s", directory, name);
    memcpy(file.name, name, strlen(name) + 1);
    bg_status status = hash_file(env, directory, name, err, &file);
    if (!status)
        m->files[m->file_count++] = file;
    return status;
}

static json_t *evaluations_to_json(const struct manifest *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->evaluation_count; i++) {
        const struct evaluation_point *e = &m->evaluations[i];
        char bits[17];
        curve_bits_format(e->loss, bits);
        json_array_append_new(list, json_pack("{s:I, s:f, s:s, s:f, s:I}", "step", (json_int_t)e->step, "loss", e->loss,
                                              "loss_bits", bits, "bits_per_byte", e->bits_per_byte, "tokens",
                                              (json_int_t)e->tokens));
    }
    return list;
}

static json_t *to_json(const struct manifest *m)
{
    json_t *files = json_object();
    for (size_t i = 0; i < m->file_count; i++)
        json_object_set_new(
            files, m->files[i].name,
            json_pack("{s:I, s:s}", "bytes", (json_int_t)m->files[i].bytes, "sha256", m->files[i].sha256));
    return json_pack("{s:s, s:s, s:I, s:{s:I, s:I}, s:f, s:s, s:s, s:s, s:s, s:o, s:o}", "format", MANIFEST_FORMAT,
                     "class", TRAIN_CLASS, "step", (json_int_t)m->step, "position", "sample",
                     (json_int_t)m->sample_position, "tokens", (json_int_t)m->tokens, "seconds", m->seconds,
                     "signature", m->signature, "signature_sha256", m->signature_sha256, "curve_sha256",
                     m->curve_sha256, "weights_sha256", m->weights_sha256, "evaluations", evaluations_to_json(m),
                     "files", files);
}

static void hash_json(json_t *root, char hex[65])
{
    char *text = bg_json_text(root, JSON_SORT_KEYS | JSON_COMPACT);
    bg_sha256_hex(text, strlen(text), hex);
    bg_free(text);
}

bg_status manifest_save(struct bg_env *env, const struct manifest *m, const char *directory, struct bg_error *err)
{
    json_t *root = to_json(m);
    if (!root)
        return bg_fail(err, BG_INTERNAL, "%s: the manifest cannot be put into JSON", directory);
    char hex[65];
    hash_json(root, hex);
    json_object_set_new(root, "manifest_sha256", json_string(hex));
    char *text = bg_json_text(root, JSON_INDENT(2));
    json_decref(root);
    char *path = bg_format("%s/manifest.json", directory);
    bg_status status = env_write_file(env, path, text, strlen(text), err);
    bg_free(path);
    bg_free(text);
    return status;
}

static bg_status copy_hash(const json_t *root, const char *name, const char *key, struct bg_error *err, char hex[65])
{
    const char *value = NULL;
    bg_status status = bg_json_string(root, name, key, err, &value);
    if (status)
        return status;
    if (strlen(value) != 64)
        return bg_fail(err, BG_FORMAT, "%s: key \"%s\" is not a SHA-256", name, key);
    memcpy(hex, value, 65);
    return BG_OK;
}

static bg_status count_of(const json_t *root, const char *name, const char *key, struct bg_error *err, uint64_t *value)
{
    int64_t number = 0;
    bg_status status = bg_json_integer(root, name, key, 0, INT64_MAX, err, &number);
    if (!status)
        *value = (uint64_t)number;
    return status;
}

static bg_status read_files(json_t *root, const char *name, struct bg_error *err, struct manifest *m)
{
    json_t *files = NULL, *entry = NULL;
    bg_status status = bg_json_object(root, name, "files", err, &files);
    const char *key = NULL;
    if (status)
        return status;
    json_object_foreach(files, key, entry)
    {
        struct manifest_file *file = &m->files[m->file_count];
        if (m->file_count == MANIFEST_FILES_MAX || strlen(key) >= sizeof file->name || strchr(key, '/') ||
            key[0] == '.')
            return bg_fail(err, BG_FORMAT, "%s: \"files\" lists an impossible name or too many", name);
        memcpy(file->name, key, strlen(key) + 1);
        status = count_of(entry, name, "bytes", err, &file->bytes);
        if (!status)
            status = copy_hash(entry, name, "sha256", err, file->sha256);
        if (status)
            return status;
        m->file_count++;
    }
    return BG_OK;
}

static bg_status read_evaluations(json_t *root, const char *name, struct bg_error *err, struct manifest *m)
{
    json_t *list = NULL;
    bg_status status = bg_json_array(root, name, "evaluations", err, &list);
    if (status)
        return status;
    m->evaluations = bg_alloc_array(json_array_size(list), sizeof *m->evaluations);
    for (size_t i = 0; i < json_array_size(list) && !status; i++) {
        const json_t *entry = json_array_get(list, i);
        struct evaluation_point *e = &m->evaluations[m->evaluation_count++];
        status = count_of(entry, name, "step", err, &e->step);
        if (!status)
            status = count_of(entry, name, "tokens", err, &e->tokens);
        if (!status)
            status = bg_json_number(entry, name, "loss", err, &e->loss);
        if (!status)
            status = bg_json_number(entry, name, "bits_per_byte", err, &e->bits_per_byte);
    }
    return status;
}

static bg_status read_fields(json_t *root, const char *name, struct bg_error *err, struct manifest *m)
{
    json_t *position = NULL;
    const char *signature = NULL;
    bg_status status = count_of(root, name, "step", err, &m->step);
    if (!status)
        status = bg_json_object(root, name, "position", err, &position);
    if (!status)
        status = count_of(position, name, "sample", err, &m->sample_position);
    if (!status)
        status = count_of(position, name, "tokens", err, &m->tokens);
    if (!status)
        status = bg_json_number(root, name, "seconds", err, &m->seconds);
    if (!status)
        status = bg_json_string(root, name, "signature", err, &signature);
    if (!status)
        status = copy_hash(root, name, "signature_sha256", err, m->signature_sha256);
    if (!status)
        status = copy_hash(root, name, "curve_sha256", err, m->curve_sha256);
    if (!status)
        status = copy_hash(root, name, "weights_sha256", err, m->weights_sha256);
    if (!status)
        m->signature = bg_strdup(signature);
    return status;
}

// The manifest's own hash comes first: after it everything else is what brigade wrote.
static bg_status check_self(json_t *root, const char *name, struct bg_error *err)
{
    const char *format = NULL;
    char claimed[65], hex[65];
    bg_status status = bg_json_string(root, name, "format", err, &format);
    if (!status)
        status = copy_hash(root, name, "manifest_sha256", err, claimed);
    if (status)
        return status;
    if (strcmp(format, MANIFEST_FORMAT) != 0)
        return bg_fail(err, BG_UNSUPPORTED, "%s: format \"%.40s\", this build reads " MANIFEST_FORMAT, name, format);
    json_object_del(root, "manifest_sha256");
    hash_json(root, hex);
    if (strcmp(hex, claimed) != 0)
        return bg_fail(err, BG_CORRUPT, "%s: its content does not have the hash that it states", name);
    return BG_OK;
}

bg_status manifest_parse(const char *name, const void *text, size_t size, struct bg_error *err,
                         struct manifest *manifest)
{
    struct manifest m = {0};
    json_t *root = NULL;
    bg_status status = bg_json_parse(name, text, size, err, &root);
    if (!status)
        status = check_self(root, name, err);
    if (!status)
        status = read_fields(root, name, err, &m);
    if (!status)
        status = read_files(root, name, err, &m);
    if (!status)
        status = read_evaluations(root, name, err, &m);
    if (status)
        manifest_fini(&m);
    else
        *manifest = m;
    json_decref(root);
    return status;
}

bg_status manifest_load(struct bg_env *env, const char *directory, struct bg_error *err, struct manifest *manifest)
{
    char *path = bg_format("%s/manifest.json", directory);
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (!status) {
        status = manifest_parse(path, map.data, map.size, err, manifest);
        env->ops->map_close(env, &map);
    }
    bg_free(path);
    return status;
}

bg_status manifest_check_files(struct bg_env *env, const struct manifest *m, const char *directory,
                               struct bg_error *err)
{
    for (size_t i = 0; i < m->file_count; i++) {
        struct manifest_file found = {0};
        bg_status status = hash_file(env, directory, m->files[i].name, err, &found);
        if (status)
            return status;
        if (found.bytes != m->files[i].bytes)
            return bg_fail(err, BG_CORRUPT, "%s/%s: holds %llu bytes, the manifest says %llu", directory,
                           m->files[i].name, (unsigned long long)found.bytes, (unsigned long long)m->files[i].bytes);
        if (strcmp(found.sha256, m->files[i].sha256) != 0)
            return bg_fail(err, BG_CORRUPT, "%s/%s: its SHA-256 is not that of the manifest: the file was damaged",
                           directory, m->files[i].name);
    }
    return BG_OK;
}
