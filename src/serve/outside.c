// Two tiers of the same kind: entries in a table by key, of which the least worth of a few goes when room is needed. A
// page read from disk keeps its file, so that it need not be written when it is dropped again.
#include "serve/outside.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum {
    NONE = -1,
    SAMPLE = 64,  // entries looked at for one that goes
    WRITES = 16,  // files between turns
    READS = 256,  // files between turns
    NAME = 64 + 9 // hex, '-', depth in hex
};

struct entry {
    struct outside_key key;
    uint32_t depth; // 0: free
    int32_t next;   // in its chain
    uint64_t used;
    uint64_t size; // of a file
    void *bytes;   // in memory
};

struct tier {
    struct entry *entries;
    int32_t *heads; // (capacity)
    uint32_t count, capacity, cursor;
    uint64_t size, limit; // bytes
};

struct outside {
    struct bg_env *env;
    struct outside_options o;
    struct tier memory, disk;
    struct bg_file *lock;
    uint8_t *file; // one page as it lies on disk
    uint32_t writes, reads;
    uint64_t first_turn;
    bool flushing;
    struct outside_counts counts;
};

struct header { // of a file; little-endian
    char magic[8];
    uint64_t fingerprint, page_bytes, check; // check: XXH3 of what follows
    struct outside_key key;
};
static const char magic[8] = "BRGPG 1";

// ---- Tables ----
static uint32_t place_of(const struct tier *t, const struct outside_key *key)
{
    uint64_t word;
    memcpy(&word, key, sizeof word);
    return (uint32_t)(word % t->capacity);
}

static int32_t find(const struct tier *t, const struct outside_key *key)
{
    int32_t at = t->capacity ? t->heads[place_of(t, key)] : NONE;
    while (at != NONE && memcmp(&t->entries[at].key, key, sizeof *key) != 0)
        at = t->entries[at].next;
    return at;
}

// Entries are dense: the last one takes the place of one that goes.
static void move(struct tier *t, int32_t from, int32_t to)
{
    int32_t *link = &t->heads[place_of(t, &t->entries[from].key)];
    while (*link != from)
        link = &t->entries[*link].next;
    *link = to;
    t->entries[to] = t->entries[from];
}

static struct entry take_out(struct tier *t, int32_t at)
{
    const struct entry gone = t->entries[at];
    int32_t *link = &t->heads[place_of(t, &gone.key)];
    while (*link != at)
        link = &t->entries[*link].next;
    *link = gone.next;
    t->count--;
    t->size -= gone.size;
    if (at != (int32_t)t->count)
        move(t, (int32_t)t->count, at);
    return gone;
}

static void grow(struct tier *t)
{
    t->capacity = t->capacity * 2 + 64;
    t->entries = bg_realloc_array(t->entries, t->capacity, sizeof *t->entries);
    t->heads = bg_realloc_array(t->heads, t->capacity, sizeof *t->heads);
    memset(t->heads, 0xff, t->capacity * sizeof *t->heads); // NONE
    for (uint32_t i = 0; i < t->count; i++) {
        int32_t *head = &t->heads[place_of(t, &t->entries[i].key)];
        t->entries[i].next = *head;
        *head = (int32_t)i;
    }
}

static void put_in(struct tier *t, struct entry entry)
{
    if (t->count == t->capacity)
        grow(t);
    int32_t *head = &t->heads[place_of(t, &entry.key)];
    entry.next = *head;
    *head = (int32_t)t->count;
    t->entries[t->count++] = entry;
    t->size += entry.size;
}

// What it costs to compute a page again grows with its position (attention); what it is worth falls with its idle time.
static double worth(const struct entry *e, uint64_t now)
{
    return (1.0 + (double)e->depth / 64) / (double)(now - e->used + 1);
}

static int32_t least(struct tier *t, uint64_t now)
{
    int32_t worst = NONE;
    for (uint32_t i = 0; i < SAMPLE && i < t->count; i++) {
        t->cursor = (t->cursor + 1) % t->count;
        if (worst == NONE || worth(&t->entries[t->cursor], now) < worth(&t->entries[worst], now))
            worst = (int32_t)t->cursor;
    }
    return worst;
}

// ---- Files ----
static char *path_of(const struct outside *o, const struct outside_key *key, uint32_t depth)
{
    char hex[65];
    bg_sha256_from_bytes(key->sha256, hex);
    return bg_format("%s/%s-%08x", o->o.directory, hex, depth);
}

static void remove_file(struct outside *o, const struct entry *entry)
{
    struct bg_error err;
    char *path = path_of(o, &entry->key, entry->depth);
    if (o->env->ops->path_remove(o->env, path, &err))
        o->counts.disk_errors++;
    bg_free(path);
}

static size_t file_bytes(const struct outside *o)
{
    return sizeof(struct header) + o->o.page_bytes;
}

static bg_status write_file(struct outside *o, const struct outside_key *key, uint32_t depth, const void *page)
{
    struct bg_env *env = o->env;
    struct bg_error err;
    struct bg_file *file;
    struct header h = {.fingerprint = o->o.fingerprint, .page_bytes = o->o.page_bytes, .key = *key};
    char *path = path_of(o, key, depth);
    uint8_t *checked = o->file + offsetof(struct header, key);
    memcpy(h.magic, magic, sizeof magic);
    memcpy(o->file + sizeof h, page, o->o.page_bytes);
    memcpy(checked, key, sizeof *key);
    h.check = bg_xxh64(checked, sizeof *key + o->o.page_bytes);
    memcpy(o->file, &h, sizeof h);
    bg_status status = env->ops->file_open(env, path, BG_FILE_TRUNCATE, &err, &file);
    if (!status) {
        status = env->ops->file_write(env, file, o->file, file_bytes(o), &err);
        const bg_status closed = env->ops->file_close(env, file, &err);
        status = status ? status : closed;
        if (status && env->ops->path_remove(env, path, &err))
            o->counts.disk_errors++; // it will be found damaged
    }
    bg_free(path);
    return status;
}

static bool is_good(const struct outside *o, const struct outside_key *key, const uint8_t *data, size_t size)
{
    struct header h;
    if (size != file_bytes(o))
        return false;
    memcpy(&h, data, sizeof h);
    return memcmp(h.magic, magic, sizeof magic) == 0 && h.fingerprint == o->o.fingerprint &&
           h.page_bytes == o->o.page_bytes && memcmp(&h.key, key, sizeof *key) == 0 &&
           bg_xxh64(data + offsetof(struct header, key), sizeof *key + o->o.page_bytes) == h.check;
}

static bool read_file(struct outside *o, const struct entry *entry, void *page)
{
    struct bg_map map;
    struct bg_error err;
    char *path = path_of(o, &entry->key, entry->depth);
    bool good = o->env->ops->map_open(o->env, path, &err, &map) == BG_OK;
    if (good) {
        good = is_good(o, &entry->key, map.data, map.size);
        if (good)
            memcpy(page, map.data + sizeof(struct header), o->o.page_bytes);
        o->env->ops->map_close(o->env, &map);
    }
    bg_free(path);
    return good;
}

// A disk that takes no more is no error: from then on there is room for what it took.
static void put_on_disk(struct outside *o, const struct entry *entry, const void *page, uint64_t now)
{
    const int32_t known = find(&o->disk, &entry->key);
    if (known != NONE) {
        o->disk.entries[known].used = entry->used;
        return;
    }
    if (o->disk.limit < file_bytes(o) || (!o->flushing && o->writes == 0))
        return;
    o->writes -= o->writes > 0;
    for (uint32_t i = 0; i < WRITES && o->disk.size + file_bytes(o) > o->disk.limit; i++) {
        const struct entry gone = take_out(&o->disk, least(&o->disk, now));
        remove_file(o, &gone);
    }
    if (o->disk.size + file_bytes(o) > o->disk.limit) // files of another model are larger
        return;
    if (write_file(o, &entry->key, entry->depth, page)) {
        o->counts.disk_errors++;
        o->disk.limit = o->disk.size;
        return;
    }
    put_in(&o->disk,
           (struct entry){.key = entry->key, .depth = entry->depth, .used = entry->used, .size = file_bytes(o)});
}

// ---- What was there before ----
struct found {
    struct outside *o;
    struct file {
        struct entry entry;
        int64_t mtime_ns;
    } * files;
    size_t count, capacity;
};

static bool parse_name(const char *name, struct entry *entry)
{
    char hex[65];
    if (strlen(name) != NAME || name[64] != '-' || strspn(name, "0123456789abcdef") != 64 ||
        strspn(name + 65, "0123456789abcdef") != 8)
        return false;
    memcpy(hex, name, 64);
    hex[64] = '\0';
    bg_sha256_to_bytes(hex, entry->key.sha256);
    entry->depth = (uint32_t)strtoul(name + 65, NULL, 16);
    return entry->depth > 0;
}

static bg_status on_name(void *arg, const char *name, struct bg_error *err)
{
    struct found *f = arg;
    struct bg_file_info info = {0};
    struct file file = {0};
    if (!parse_name(name, &file.entry))
        return BG_OK; // not ours
    char *path = bg_format("%s/%s", f->o->o.directory, name);
    bg_status status = f->o->env->ops->path_info(f->o->env, path, err, &info);
    bg_free(path);
    if (status || !info.exists || info.is_directory)
        return status;
    if (f->count == f->capacity) {
        f->capacity = f->capacity * 2 + 64;
        f->files = bg_realloc_array(f->files, f->capacity, sizeof *f->files);
    }
    file.entry.size = info.size;
    file.mtime_ns = info.mtime_ns;
    f->files[f->count++] = file;
    return BG_OK;
}

static int by_time(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    return x->mtime_ns != y->mtime_ns ? (x->mtime_ns > y->mtime_ns ? 1 : -1)
                                      : memcmp(&x->entry.key, &y->entry.key, sizeof x->entry.key);
}

// The older a file, the longer it was not used. What is more than may be goes at once, the oldest first.
static bg_status look_on_disk(struct outside *o, struct bg_error *err)
{
    struct found f = {.o = o};
    bg_status status = o->env->ops->make_directories(o->env, o->o.directory, err);
    if (!status)
        status = o->env->ops->directory_lock(o->env, o->o.directory, err, &o->lock);
    if (!status)
        status = o->env->ops->list_directory(o->env, o->o.directory, on_name, &f, err);
    if (status)
        bg_fail_prefix(err, "disk cache");
    if (f.count)
        qsort(f.files, f.count, sizeof *f.files, by_time);
    uint64_t total = 0;
    for (size_t i = 0; i < f.count && !status; i++)
        total += f.files[i].entry.size;
    for (size_t i = 0; i < f.count && !status; i++) {
        struct entry *entry = &f.files[i].entry;
        entry->used = ++o->first_turn;
        if (total > o->disk.limit || find(&o->disk, &entry->key) != NONE) {
            total -= entry->size;
            remove_file(o, entry);
        } else {
            put_in(&o->disk, *entry);
        }
    }
    bg_free(f.files);
    return status;
}

// ---- From outside ----
bg_status outside_create(struct bg_env *env, const struct outside_options *options, struct bg_error *err,
                         struct outside **outside)
{
    struct outside *o = bg_alloc(sizeof *o);
    *o = (struct outside){.env = env, .o = *options, .writes = WRITES, .reads = READS};
    o->o.directory = options->directory ? bg_strdup(options->directory) : NULL;
    o->memory.limit = options->memory_bytes;
    o->disk.limit = options->directory ? options->disk_bytes : 0;
    o->file = bg_alloc(file_bytes(o));
    bg_status status = o->o.directory ? look_on_disk(o, err) : BG_OK;
    if (status)
        outside_destroy(o);
    else
        *outside = o;
    return status;
}

void outside_destroy(struct outside *outside)
{
    struct outside *o = outside;
    struct bg_error err;
    if (!o)
        return;
    for (uint32_t i = 0; i < o->memory.count; i++)
        bg_free(o->memory.entries[i].bytes);
    bg_free(o->memory.entries);
    bg_free(o->memory.heads);
    bg_free(o->disk.entries);
    bg_free(o->disk.heads);
    if (o->lock && o->env->ops->file_close(o->env, o->lock, &err))
        o->counts.disk_errors++;
    bg_free(o->file);
    bg_free((void *)(uintptr_t)o->o.directory);
    bg_free(o);
}

bool outside_keeps(const struct outside *outside)
{
    return outside->memory.limit >= outside->o.page_bytes || outside->o.directory;
}

struct outside_key outside_root(const struct outside *outside)
{
    const uint64_t words[2] = {outside->o.fingerprint, outside->o.page_bytes};
    struct outside_key key;
    char hex[65];
    bg_sha256_hex(words, sizeof words, hex);
    bg_sha256_to_bytes(hex, key.sha256);
    return key;
}

struct outside_key outside_next(struct outside_key before, const int32_t *tokens, uint32_t count)
{
    struct bg_sha256 hash;
    char hex[65];
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, &before, sizeof before);
    bg_sha256_update(&hash, tokens, count * sizeof *tokens);
    bg_sha256_final(&hash, hex);
    bg_sha256_to_bytes(hex, before.sha256);
    return before;
}

void outside_put(struct outside *outside, const struct outside_key *key, uint32_t depth, uint64_t used, uint64_t now,
                 const void *page)
{
    struct outside *o = outside;
    struct entry entry = {.key = *key, .depth = depth, .used = used, .size = o->o.page_bytes};
    if (o->memory.limit < entry.size || o->flushing) {
        put_on_disk(o, &entry, page, now);
        return;
    }
    if (find(&o->memory, key) != NONE)
        return;
    if (o->memory.size + entry.size > o->memory.limit) {
        const struct entry gone = take_out(&o->memory, least(&o->memory, now));
        put_on_disk(o, &gone, gone.bytes, now);
        entry.bytes = gone.bytes;
    } else {
        entry.bytes = bg_alloc(entry.size);
    }
    memcpy(entry.bytes, page, entry.size);
    put_in(&o->memory, entry);
}

bool outside_has(const struct outside *outside, const struct outside_key *key)
{
    return find(&outside->memory, key) != NONE || (outside->reads > 0 && find(&outside->disk, key) != NONE);
}

bool outside_get(struct outside *outside, const struct outside_key *key, uint64_t now, void *page)
{
    struct outside *o = outside;
    int32_t at = find(&o->memory, key);
    if (at != NONE) {
        const struct entry gone = take_out(&o->memory, at);
        memcpy(page, gone.bytes, o->o.page_bytes);
        bg_free(gone.bytes);
        o->counts.memory_hits++;
        return true;
    }
    at = find(&o->disk, key);
    if (at == NONE || o->reads == 0)
        return false;
    o->reads--;
    if (read_file(o, &o->disk.entries[at], page)) {
        o->disk.entries[at].used = now;
        o->counts.disk_hits++;
        return true;
    }
    const struct entry gone = take_out(&o->disk, at);
    remove_file(o, &gone);
    o->counts.disk_errors++;
    return false;
}

void outside_drop(struct outside *outside, const struct outside_key *key)
{
    struct outside *o = outside;
    int32_t at = find(&o->memory, key);
    if (at != NONE)
        bg_free(take_out(&o->memory, at).bytes);
    at = find(&o->disk, key);
    if (at != NONE) {
        const struct entry gone = take_out(&o->disk, at);
        remove_file(o, &gone);
    }
}

void outside_turn(struct outside *outside)
{
    outside->writes = WRITES;
    outside->reads = READS;
}

void outside_flush(struct outside *outside, uint64_t now)
{
    struct outside *o = outside;
    o->flushing = true;
    for (uint32_t i = 0; i < o->memory.count; i++)
        put_on_disk(o, &o->memory.entries[i], o->memory.entries[i].bytes, now);
}

struct outside_counts outside_count(const struct outside *outside)
{
    struct outside_counts counts = outside->counts;
    counts.memory_bytes = outside->memory.size;
    counts.disk_bytes = outside->disk.size;
    return counts;
}

uint64_t outside_first_turn(const struct outside *outside)
{
    return outside->first_turn;
}
