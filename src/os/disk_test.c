// Files, directories and mappings of the live environment, on a directory of its own: what works, and what each
// failure says. Some of them need a file system that a test cannot make; /dev/full stands in for a full disk.
#include "os/live.h"

#include "base/mem.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

struct fixture {
    struct bg_env *env;
    char directory[64];
    char path[256];
    struct bg_error err;
};

static int setup(void **state)
{
    struct fixture *f = bg_alloc(sizeof *f);
    snprintf(f->directory, sizeof f->directory, "/tmp/brigade-test-XXXXXX");
    if (!mkdtemp(f->directory) || os_env_create(&(struct os_options){.threads = 1}, &f->err, &f->env))
        return 1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    int failed = f->env->ops->path_remove(f->env, f->directory, &f->err) != BG_OK || access(f->directory, F_OK) == 0;
    os_env_destroy(f->env);
    bg_free(f);
    return failed;
}

static const char *in(struct fixture *f, const char *name)
{
    snprintf(f->path, sizeof f->path, "%s/%s", f->directory, name);
    return f->path;
}

static void expect_content(struct fixture *f, const char *name, const char *content)
{
    struct bg_map map;
    if (f->env->ops->map_open(f->env, in(f, name), &f->err, &map))
        fail_msg("%s", f->err.text);
    assert_int_equal(map.size, strlen(content));
    assert_memory_equal(map.data, content, map.size);
    f->env->ops->map_close(f->env, &map);
}

static void expect_error(struct fixture *f, bg_status status, bg_status expected, const char *part)
{
    assert_int_equal(status, expected);
    if (!strstr(f->err.text, part) || !strstr(f->err.text, f->path))
        fail_msg("\"%s\" names not \"%s\" and %s", f->err.text, part, f->path);
}

static void write_text(struct fixture *f, const char *name, enum bg_file_mode mode, const char *text)
{
    struct bg_file *file = NULL;
    assert_int_equal(f->env->ops->file_open(f->env, in(f, name), mode, &f->err, &file), BG_OK);
    assert_int_equal(f->env->ops->file_write(f->env, file, text, strlen(text), &f->err), BG_OK);
    assert_int_equal(f->env->ops->file_sync(f->env, file, &f->err), BG_OK);
    assert_int_equal(f->env->ops->file_close(f->env, file, &f->err), BG_OK);
}

static void writes_and_maps(void **state)
{
    struct fixture *f = *state;
    write_text(f, "a", BG_FILE_CREATE, "one");
    write_text(f, "a", BG_FILE_APPEND, " two");
    expect_content(f, "a", "one two");
    write_text(f, "a", BG_FILE_TRUNCATE, "three");
    expect_content(f, "a", "three");
    write_text(f, "empty", BG_FILE_CREATE, "");
    expect_content(f, "empty", "");
    assert_int_equal(f->env->ops->path_truncate(f->env, in(f, "a"), 2, &f->err), BG_OK);
    expect_content(f, "a", "th");
    struct bg_file *file = NULL;
    expect_error(f, f->env->ops->file_open(f->env, in(f, "a"), BG_FILE_CREATE, &f->err, &file), BG_EXISTS, "exists");
    assert_null(file);
}

static void replaces_whole_files(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(env_write_file(f->env, in(f, "w"), "old", 3, &f->err), BG_OK);
    assert_int_equal(env_write_file(f->env, in(f, "w"), "newer", 5, &f->err), BG_OK);
    expect_content(f, "w", "newer");
    assert_int_not_equal(access(in(f, "w.tmp"), F_OK), 0);
    // A directory in the way: the error names it, and the temporary file is gone.
    assert_int_equal(f->env->ops->make_directories(f->env, in(f, "d/e"), &f->err), BG_OK);
    expect_error(f, env_write_file(f->env, in(f, "d"), "x", 1, &f->err), BG_NOT_CREATED, "renaming");
    assert_int_not_equal(access(in(f, "d.tmp"), F_OK), 0);
    assert_int_equal(env_write_file(f->env, "", "x", 1, &f->err), BG_NOT_CREATED);
    expect_error(f, env_write_file(f->env, in(f, "no/such/file"), "x", 1, &f->err), BG_NOT_CREATED, "no such file");
}

static void refuses_odd_files(void **state)
{
    struct fixture *f = *state;
    const struct bg_env_ops *ops = f->env->ops;
    struct bg_map map;
    struct bg_file *file = NULL;
    expect_error(f, ops->map_open(f->env, in(f, "absent"), &f->err, &map), BG_NOT_FOUND, "no such file");
    assert_int_equal(mkdir(in(f, "dir"), 0777), 0);
    expect_error(f, ops->map_open(f->env, f->path, &f->err, &map), BG_INVALID, "directory");
    expect_error(f, ops->file_open(f->env, f->path, BG_FILE_TRUNCATE, &f->err, &file), BG_NOT_CREATED, "directory");
    assert_int_equal(mkfifo(in(f, "fifo"), 0666), 0);
    expect_error(f, ops->map_open(f->env, f->path, &f->err, &map), BG_INVALID, "pipe");
    expect_error(f, ops->file_open(f->env, f->path, BG_FILE_TRUNCATE, &f->err, &file), BG_NOT_CREATED, "fifo");
    expect_error(f, ops->path_rename(f->env, "/tmp/x", f->path, &f->err), BG_NOT_CREATED, "pipe or device");
    expect_error(f, ops->path_truncate(f->env, in(f, "absent"), 0, &f->err), BG_NOT_FOUND, "absent");
    expect_error(f, ops->path_rename(f->env, in(f, "absent"), "/tmp/x", &f->err), BG_NOT_FOUND, "renaming");
    expect_error(f, ops->list_directory(f->env, in(f, "absent"), NULL, NULL, &f->err), BG_NOT_FOUND, "directory");
    write_text(f, "plain", BG_FILE_CREATE, "x");
    expect_error(f, ops->make_directories(f->env, in(f, "plain"), &f->err), BG_NOT_CREATED, "not a directory");
    assert_int_equal(ops->make_directories(f->env, "", &f->err), BG_NOT_CREATED);
    if (geteuid() != 0) { // root may write anywhere
        assert_int_equal(mkdir(in(f, "locked"), 0555), 0);
        in(f, "locked/x");
        expect_error(f, ops->file_open(f->env, f->path, BG_FILE_CREATE, &f->err, &file), BG_NOT_CREATED, "mode");
    }
}

static void says_when_the_disk_is_full(void **state)
{
    struct fixture *f = *state;
    if (access("/dev/full", W_OK) != 0)
        skip();
    assert_int_equal(symlink("/dev/full", in(f, "full")), 0);
    struct bg_file *file = NULL;
    assert_int_equal(f->env->ops->file_open(f->env, f->path, BG_FILE_TRUNCATE, &f->err, &file), BG_OK);
    expect_error(f, f->env->ops->file_write(f->env, file, "x", 1, &f->err), BG_FULL, "free some space");
    assert_int_equal(f->env->ops->file_close(f->env, file, &f->err), BG_OK);
    uint64_t bytes = 0;
    assert_int_equal(f->env->ops->disk_free(f->env, f->directory, &f->err, &bytes), BG_OK);
    assert_true(bytes > 0);
}

static bg_status collect(void *arg, const char *name, struct bg_error *err)
{
    strncat(arg, name, 50);
    strncat(arg, ",", 2);
    return strcmp(name, "stop") == 0 ? bg_fail(err, BG_STOPPED, "asked to") : BG_OK;
}

static void walks_directories(void **state)
{
    struct fixture *f = *state;
    const struct bg_env_ops *ops = f->env->ops;
    struct bg_file_info info;
    assert_int_equal(ops->make_directories(f->env, in(f, "x//y/z/"), &f->err), BG_OK);
    assert_int_equal(ops->make_directories(f->env, in(f, "x/y/z"), &f->err), BG_OK);
    assert_int_equal(ops->path_info(f->env, in(f, "x/y/z"), &f->err, &info), BG_OK);
    assert_true(info.exists && info.is_directory);
    write_text(f, "x/b", BG_FILE_CREATE, "12345");
    write_text(f, "x/B", BG_FILE_CREATE, "");
    assert_int_equal(ops->path_info(f->env, in(f, "x/b"), &f->err, &info), BG_OK);
    assert_true(info.exists && !info.is_directory && info.size == 5 && info.mtime_ns > 0);
    assert_int_equal(ops->path_info(f->env, in(f, "x/b/c"), &f->err, &info), BG_OK);
    assert_false(info.exists);
    char names[200] = "";
    assert_int_equal(ops->list_directory(f->env, in(f, "x"), collect, names, &f->err), BG_OK);
    assert_string_equal(names, "B,b,y,");
    write_text(f, "x/stop", BG_FILE_CREATE, "");
    assert_int_equal(ops->list_directory(f->env, in(f, "x"), collect, names, &f->err), BG_STOPPED);
    // A link is removed, what it points to stays.
    write_text(f, "kept", BG_FILE_CREATE, "k");
    char target[256];
    snprintf(target, sizeof target, "%s", in(f, "kept"));
    assert_int_equal(symlink(target, in(f, "x/y/link")), 0);
    assert_int_equal(ops->path_remove(f->env, in(f, "x"), &f->err), BG_OK);
    assert_int_equal(ops->path_remove(f->env, in(f, "x"), &f->err), BG_OK);
    expect_content(f, "kept", "k");
    assert_int_equal(ops->path_sync(f->env, f->directory, &f->err), BG_OK);
}

static void reserves_memory(void **state)
{
    struct fixture *f = *state;
    const size_t sizes[] = {0, 1, 5000, (size_t)2 << 20, ((size_t)5 << 20) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *memory = NULL;
        assert_int_equal(f->env->ops->reserve(f->env, sizes[i], &f->err, &memory), BG_OK);
        assert_int_equal((uintptr_t)memory % (sizes[i] >= (size_t)2 << 20 ? (size_t)2 << 20 : 64), 0);
        unsigned char *bytes = memory;
        for (size_t k = 0; k < sizes[i]; k += 997)
            assert_int_equal(bytes[k], 0);
        memset(memory, 1, sizes[i]);
        f->env->ops->release(f->env, memory, sizes[i]);
    }
    void *memory = NULL;
    assert_int_equal(f->env->ops->reserve(f->env, SIZE_MAX / 8, &f->err, &memory), BG_NO_MEMORY);
    assert_int_equal(f->env->ops->reserve(f->env, SIZE_MAX, &f->err, &memory), BG_NO_MEMORY);
    assert_true(strstr(f->err.text, "memory") && f->env->ops->memory_total(f->env) > (uint64_t)1 << 26);
}

// Files without a name: what is set aside comes back, a directory that is none and a disk without room are said.
static void reserves_on_disk(void **state)
{
    struct fixture *f = *state;
    const struct bg_env_ops *ops = f->env->ops;
    const size_t bytes = ((size_t)5 << 20) + 3;
    void *memory = NULL;
    assert_int_equal(ops->reserve_on_disk(f->env, f->directory, bytes, &f->err, &memory), BG_OK);
    uint8_t *at = memory;
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(i * 7 >> 3);
    ops->set_aside(f->env, memory, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != (uint8_t)(i * 7 >> 3))
            fail_msg("byte %zu is lost", i);
    assert_int_equal(rmdir(f->directory), 0); // nothing is in it
    assert_int_equal(mkdir(f->directory, 0755), 0);
    ops->release(f->env, memory, bytes);
    assert_int_equal(ops->reserve_on_disk(f->env, in(f, "none"), 1, &f->err, &memory), BG_NOT_CREATED);
    assert_non_null(strstr(f->err.text, "none"));
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){1 << 20, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_not_equal(ops->reserve_on_disk(f->env, f->directory, bytes, &f->err, &memory), BG_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_non_null(strstr(f->err.text, "5.0 MiB: reserving room in"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_and_maps, setup, teardown),
        cmocka_unit_test_setup_teardown(replaces_whole_files, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_odd_files, setup, teardown),
        cmocka_unit_test_setup_teardown(says_when_the_disk_is_full, setup, teardown),
        cmocka_unit_test_setup_teardown(walks_directories, setup, teardown),
        cmocka_unit_test_setup_teardown(reserves_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(reserves_on_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
