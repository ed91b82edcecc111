// The log: records come back in order and bit for bit, after closing and after the death of the writer; damage is
// refused with the path and what to do.
#include "base/mem.h"
#include "store/sqlite/sqlite.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char directory[] = "/tmp/brigade-store-XXXXXX";
static char path[64];

static int begin(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/brigade-store-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/control.db", directory);
    return 0;
}

static int end(void **state)
{
    (void)state;
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < 3; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
    return rmdir(directory);
}

static struct store *opened(void)
{
    struct bg_error err = {0};
    struct store *store = NULL;
    if (store_sqlite_open(path, &err, &store))
        fail_msg("%s", err.text);
    return store;
}

static void append(struct store *store, const struct store_record *record)
{
    struct bg_error err = {0};
    if (store->ops->append(store, record, &err))
        fail_msg("%s", err.text);
}

static struct store_record numbered(uint64_t i)
{
    return (struct store_record){
        .kind = STORE_COMMIT, .a = i, .b = UINT64_MAX - i, .x = 1.0 / (double)(i + 1), .y = -0.0, .z = NAN};
}

struct reader {
    uint64_t count, stop_at;
};

static bg_status read_one(void *arg, const struct store_record *r, struct bg_error *err)
{
    struct reader *reader = arg;
    struct store_record want = numbered(reader->count);
    assert_int_equal(r->kind, want.kind);
    assert_true(r->a == want.a && r->b == want.b && r->c == 0 && r->d == 0);
    assert_memory_equal(&r->x, &want.x, 8);
    assert_memory_equal(&r->y, &want.y, 8);
    assert_memory_equal(&r->z, &want.z, 8);
    assert_null(r->text);
    if (++reader->count == reader->stop_at)
        return bg_fail(err, BG_MISMATCH, "enough");
    return BG_OK;
}

static uint64_t count_all(struct store *store)
{
    struct reader reader = {0};
    struct bg_error err = {0};
    assert_int_equal(store->ops->replay(store, read_one, &reader, &err), BG_OK);
    return reader.count;
}

static void order_and_bits(void **state)
{
    (void)state;
    struct store *store = opened();
    assert_int_equal(count_all(store), 0);
    append(store, &(struct store_record){.kind = STORE_COMMIT, .b = UINT64_MAX, .x = 1, .y = -0.0, .z = NAN});
    uint64_t before = bg_mem_count();
    for (uint64_t i = 1; i < 200; i++) {
        struct store_record record = numbered(i);
        append(store, &record);
    }
    assert_int_equal(bg_mem_count(), before);
    assert_int_equal(count_all(store), 200);
    store->ops->close(store);
    store = opened();
    assert_int_equal(count_all(store), 200);
    struct reader some = {.stop_at = 7};
    struct bg_error err = {0};
    assert_int_equal(store->ops->replay(store, read_one, &some, &err), BG_MISMATCH);
    assert_int_equal(some.count, 7);
    struct store_record more = numbered(200); // a replay cut short holds nothing back
    append(store, &more);
    assert_int_equal(count_all(store), 201);
    store->ops->close(store);
}

static bg_status read_text(void *arg, const struct store_record *r, struct bg_error *err)
{
    (void)err;
    assert_int_equal(r->kind, STORE_CHECKPOINT);
    snprintf(arg, 64, "%s", r->text);
    return BG_OK;
}

static void texts(void **state)
{
    (void)state;
    struct store *store = opened();
    append(store, &(struct store_record){.kind = STORE_CHECKPOINT, .text = "runs/'a'/step-3"});
    char text[64] = "";
    assert_int_equal(store->ops->replay(store, read_text, text, NULL), BG_OK);
    assert_string_equal(text, "runs/'a'/step-3");
    store->ops->close(store);
}

// A writer that is killed right after append: all that it appended is there.
static void killed_writer(void **state)
{
    (void)state;
    int told[2];
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    if (child == 0) {
        struct store *store = NULL;
        if (store_sqlite_open(path, NULL, &store))
            _exit(1);
        for (uint64_t i = 0; i < 50; i++) {
            struct store_record record = numbered(i);
            if (store->ops->append(store, &record, NULL))
                _exit(1);
        }
        if (write(told[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(told[0]);
    close(told[1]);
    struct store *store = opened();
    assert_int_equal(count_all(store), 50);
    store->ops->close(store);
}

static void refuses(bg_status expected, const char *word)
{
    struct bg_error err = {0};
    struct store *store = NULL;
    bg_status status = store_sqlite_open(path, &err, &store);
    if (!status) { // damage behind the first page shows when it is read
        struct reader reader = {0};
        status = store->ops->replay(store, read_one, &reader, &err);
        store->ops->close(store);
    }
    assert_int_equal(status, expected);
    if (!strstr(err.text, path) || !strstr(err.text, word))
        fail_msg("\"%s\" does not name %s and \"%s\"", err.text, path, word);
}

static void overwrite(const char *name, long at, const char *bytes, size_t size)
{
    FILE *file = fopen(name, at ? "r+b" : "wb");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void damage(void **state)
{
    (void)state;
    static char junk[4096];
    memset(junk, 0x5a, sizeof junk);
    overwrite(path, 0, junk, sizeof junk);
    refuses(BG_CORRUPT, "Move it");
    unlink(path);

    struct store *store = opened();
    for (uint64_t i = 0; i < 2000; i++) {
        struct store_record record = numbered(i);
        append(store, &record);
    }
    store->ops->close(store);
    overwrite(path, 3 * 4096, junk, sizeof junk);
    refuses(BG_CORRUPT, "Move it");
    unlink(path);

    char away[80]; // a directory that is not there
    snprintf(away, sizeof away, "%s/none/control.db", directory);
    struct bg_error err = {0};
    assert_int_equal(store_sqlite_open(away, &err, &store), BG_IO);
    assert_non_null(strstr(err.text, away));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(order_and_bits, begin, end),
        cmocka_unit_test_setup_teardown(texts, begin, end),
        cmocka_unit_test_setup_teardown(killed_writer, begin, end),
        cmocka_unit_test_setup_teardown(damage, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
