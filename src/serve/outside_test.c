// Pages outside the pool: found again by key, from memory, from disk and by the next process; the least worth goes
// first; a damaged, foreign or lost file is only a page that must be computed again, and so is a full disk.
#include "serve/outside.h"

#include "base/mem.h"
#include "base/str.h"
#include "os/live.h"

#include <stdlib.h>
#include <string.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { PAGE = 4096, FILE_BYTES = PAGE + 64 };

static struct bg_env *env;
static const struct bg_env_ops *live;
static char directory[] = "/tmp/brigade-outside-XXXXXX";

static struct outside *open_at(const char *path, uint64_t memory, uint64_t disk, uint64_t fingerprint)
{
    const struct outside_options options = {PAGE, fingerprint, memory, path, disk};
    struct outside *o = NULL;
    struct bg_error err = {0};
    if (outside_create(env, &options, &err, &o))
        fail_msg("%s", err.text);
    return o;
}

static struct outside_key key_of(const struct outside *o, int32_t n)
{
    return outside_next(outside_root(o), &n, 1);
}

static void put(struct outside *o, int32_t n, uint32_t depth, uint64_t used, uint64_t now)
{
    uint8_t page[PAGE];
    const struct outside_key key = key_of(o, n);
    memset(page, n, sizeof page);
    outside_put(o, &key, depth, used, now, page);
}

static bool is_there(const struct outside *o, int32_t n)
{
    const struct outside_key key = key_of(o, n);
    return outside_has(o, &key);
}

static bool get(struct outside *o, int32_t n, uint64_t now)
{
    uint8_t page[PAGE], want[PAGE];
    const struct outside_key key = key_of(o, n);
    if (!outside_get(o, &key, now, page))
        return false;
    memset(want, n, sizeof want);
    assert_memory_equal(page, want, sizeof page);
    return true;
}

static bg_status keep_name(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    bg_strlist_add(arg, name);
    return BG_OK;
}

static struct bg_strlist files(void)
{
    struct bg_strlist names = {0};
    struct bg_error err;
    assert_int_equal(env->ops->list_directory(env, directory, keep_name, &names, &err), BG_OK);
    return names;
}

static uint64_t bytes_on_disk(void)
{
    struct bg_strlist names = files();
    uint64_t sum = 0;
    for (size_t i = 0; i < names.count; i++) {
        struct bg_file_info info;
        struct bg_error err;
        char *path = bg_format("%s/%s", directory, names.items[i]);
        assert_int_equal(env->ops->path_info(env, path, &err, &info), BG_OK);
        sum += info.size;
        bg_free(path);
    }
    bg_strlist_fini(&names);
    return sum;
}

static void memory_keeps_what_is_worth_most(void **state)
{
    (void)state;
    struct outside *o = open_at(NULL, 4 * PAGE, 0, 1);
    assert_true(outside_keeps(o));
    for (int32_t i = 0; i < 4; i++)
        put(o, i, 1, (uint64_t)i + 1, 10);
    put(o, 4, 1, 5, 10); // the least recently used goes
    assert_false(is_there(o, 0));
    for (int32_t i = 1; i < 5; i++)
        assert_true(is_there(o, i));
    put(o, 5, 640, 1, 11); // far back in a sequence: dear to compute again
    put(o, 6, 1, 11, 11);
    put(o, 7, 1, 11, 11);
    put(o, 8, 1, 11, 11);
    assert_true(is_there(o, 5));
    assert_true(get(o, 5, 12));
    assert_false(is_there(o, 5)); // it is in the pool now
    assert_false(get(o, 5, 12));
    const struct outside_counts counts = outside_count(o);
    assert_int_equal(counts.memory_bytes, 3 * PAGE);
    assert_int_equal(counts.memory_hits, 1);
    outside_destroy(o);
    o = open_at(NULL, PAGE - 1, 0, 1);
    assert_false(outside_keeps(o));
    outside_destroy(o);
}

static void disk_outlives_the_process(void **state)
{
    (void)state;
    struct outside *o = open_at(directory, 2 * PAGE, 6 * FILE_BYTES, 1), *other = NULL;
    const struct outside_options options = {PAGE, 1, 0, directory, 1 << 20};
    struct bg_error err;
    assert_int_equal(outside_create(env, &options, &err, &other), BG_EXISTS); // one process at a time
    for (int32_t i = 0; i < 20; i++) {
        put(o, i, 1, (uint64_t)i + 1, (uint64_t)i + 1);
        assert_true(bytes_on_disk() <= 6 * FILE_BYTES);
        outside_turn(o);
    }
    assert_true(get(o, 19, 21)); // from memory
    assert_true(get(o, 17, 21)); // from disk
    assert_true(get(o, 17, 21)); // which keeps it
    assert_false(get(o, 3, 21));
    assert_int_equal(outside_count(o).disk_hits, 2);
    outside_flush(o, 21);
    outside_destroy(o);
    o = open_at(directory, 0, 6 * FILE_BYTES, 1);
    assert_true(outside_first_turn(o) >= 6);
    for (int32_t i = 12; i < 19; i++)
        assert_int_equal(get(o, i, 30), i != 12); // 18 took its place
    outside_destroy(o);
    o = open_at(directory, 0, 3 * FILE_BYTES, 1); // less than there is
    assert_int_equal(bytes_on_disk(), 3 * FILE_BYTES);
    outside_destroy(o);
    o = open_at(directory, 0, 6 * FILE_BYTES, 2); // another model
    for (int32_t i = 0; i < 20; i++)
        assert_false(get(o, i, 40));
    for (int32_t i = 0; i < 6; i++)
        put(o, i, 1, 40, 40); // it takes the place
    assert_int_equal(bytes_on_disk(), 6 * FILE_BYTES);
    struct outside_key key = key_of(o, 5);
    outside_drop(o, &key);
    assert_false(is_there(o, 5));
    assert_int_equal(bytes_on_disk(), 5 * FILE_BYTES);
    outside_destroy(o);
}

static void clear(void)
{
    struct bg_error err;
    assert_int_equal(env->ops->path_remove(env, directory, &err), BG_OK);
}

// Every byte of a file counts, and its length, and its name.
static void damage_is_found(void **state)
{
    (void)state;
    struct bg_error err;
    clear();
    struct outside *o = open_at(directory, 0, 1 << 20, 1);
    for (size_t at = 0; at < FILE_BYTES + 3; at += at < 70 ? 1 : 509) {
        put(o, 1, 1, 1, 1);
        struct bg_strlist names = files();
        struct bg_map map;
        struct bg_file *file;
        assert_int_equal(names.count, 1);
        char *path = bg_format("%s/%s", directory, names.items[0]);
        assert_int_equal(env->ops->map_open(env, path, &err, &map), BG_OK);
        assert_int_equal(map.size, FILE_BYTES);
        uint8_t bytes[FILE_BYTES];
        memcpy(bytes, map.data, sizeof bytes);
        env->ops->map_close(env, &map);
        size_t size = FILE_BYTES;
        if (at < size)
            bytes[at] ^= 1;
        else
            size = at == FILE_BYTES ? 0 : at == FILE_BYTES + 1 ? FILE_BYTES - 1 : 5;
        assert_int_equal(env->ops->file_open(env, path, BG_FILE_TRUNCATE, &err, &file), BG_OK);
        assert_int_equal(env->ops->file_write(env, file, bytes, size, &err), BG_OK);
        assert_int_equal(env->ops->file_close(env, file, &err), BG_OK);
        const uint64_t errors = outside_count(o).disk_errors;
        assert_false(get(o, 1, 1));
        assert_int_equal(outside_count(o).disk_errors, errors + 1);
        assert_int_equal(bytes_on_disk(), 0); // it is gone
        outside_turn(o);
        bg_free(path);
        bg_strlist_fini(&names);
    }
    put(o, 1, 1, 1, 1);
    put(o, 2, 1, 1, 1);
    outside_turn(o);
    struct bg_strlist names = files();
    char *from = bg_format("%s/%s", directory, names.items[0]), *to = bg_format("%s/%s", directory, names.items[1]);
    assert_int_equal(env->ops->path_rename(env, from, to, &err), BG_OK); // one under the name of the other, one is lost
    assert_false(get(o, 1, 1));
    assert_false(get(o, 2, 1));
    outside_destroy(o);
    char *odd = bg_format("%s/notes.txt", directory);
    assert_int_equal(env_write_file(env, odd, "x", 1, &err), BG_OK);
    o = open_at(directory, 0, 1 << 20, 1); // what is not ours stays
    assert_int_equal(outside_count(o).disk_bytes, 0);
    assert_int_equal(bytes_on_disk(), 1);
    outside_destroy(o);
    bg_free(odd);
    bg_free(from);
    bg_free(to);
    bg_strlist_fini(&names);
}

static uint64_t room;

static bg_status write_while_there_is_room(struct bg_env *e, struct bg_file *file, const void *bytes, size_t size,
                                           struct bg_error *err)
{
    const size_t most = size < room ? size : (size_t)room;
    room -= most;
    bg_status status = live->file_write(e, file, bytes, most, err);
    return status || most == size ? status : bg_fail(err, BG_FULL, "no space left on device");
}

static void a_full_disk_is_no_error(void **state)
{
    (void)state;
    struct bg_env_ops ops = *live;
    clear();
    ops.file_write = write_while_there_is_room;
    env->ops = &ops;
    room = 3 * FILE_BYTES + 100;
    struct outside *o = open_at(directory, 0, 1 << 20, 1);
    for (int32_t i = 0; i < 10; i++) {
        put(o, i, 1, (uint64_t)i + 1, (uint64_t)i + 1);
        outside_turn(o);
        if (i == 5)
            room = 1 << 20; // some was freed: what fits goes on being used
    }
    const struct outside_counts counts = outside_count(o);
    assert_true(counts.disk_errors > 0);
    assert_int_equal(counts.disk_bytes, bytes_on_disk());
    assert_true(counts.disk_bytes <= 3 * FILE_BYTES);
    for (int32_t i = 0; i < 10; i++)
        assert_int_equal(get(o, i, 20), is_there(o, i));
    outside_destroy(o);
    env->ops = live;
}

static void a_turn_is_bounded(void **state)
{
    (void)state;
    clear();
    struct outside *o = open_at(directory, 0, 1 << 30, 1);
    for (int32_t i = 0; i < 100; i++)
        put(o, i, 1, 1, 1);
    assert_int_equal(outside_count(o).disk_bytes, 16 * FILE_BYTES);
    outside_turn(o);
    put(o, 99, 1, 1, 1);
    assert_int_equal(outside_count(o).disk_bytes, 17 * FILE_BYTES);
    for (int32_t i = 0; i < 1000; i++)
        (void)get(o, 0, 1);
    assert_false(is_there(o, 0)); // for now
    assert_int_equal(outside_count(o).disk_hits, 256);
    outside_turn(o);
    assert_true(get(o, 0, 1));
    outside_destroy(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_keeps_what_is_worth_most),
        cmocka_unit_test(disk_outlives_the_process),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(a_full_disk_is_no_error),
        cmocka_unit_test(a_turn_is_bounded),
    };
    struct os_options options = {.threads = 1};
    struct bg_error err;
    if (!mkdtemp(directory) || os_env_create(&options, &err, &env))
        return 1;
    live = env->ops;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (env->ops->path_remove(env, directory, &err))
        failed++;
    os_env_destroy(env);
    return failed;
}
