// The corpus and its order: what the sources mean, what is refused and how it is said, the split, the cache under
// truncation, flipped bits, a full disk and kills at every operation and at random moments; the permutation, with its
// values pinned, since every job's signature rests on it.
#include "model/data_int.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/philox.h"
#include "os/live.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

struct fixture {
    struct bg_env *env;
    struct bg_env_ops ops;
    struct tokenizer *bytes;
    char dir[64], cache[80];
};

// Syncing is for losing power, which no test does; it would take most of the time.
static bg_status skip_sync(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    (void)env, (void)file, (void)err;
    return BG_OK;
}

static bg_status skip_path_sync(struct bg_env *env, const char *path, struct bg_error *err)
{
    (void)env, (void)path, (void)err;
    return BG_OK;
}

static int setup(void **state)
{
    struct fixture *f = bg_alloc(sizeof *f);
    struct bg_error err;
    snprintf(f->dir, sizeof f->dir, "/tmp/data_test.XXXXXX");
    const struct os_options options = {.threads = 1, .keep_caller = true};
    if (!mkdtemp(f->dir) || os_env_create(&options, &err, &f->env) != BG_OK ||
        tokenizer_open(f->env, "bytes", &err, &f->bytes) != BG_OK)
        return -1;
    snprintf(f->cache, sizeof f->cache, "%s/cache", f->dir);
    f->ops = *f->env->ops;
    f->ops.file_sync = skip_sync;
    f->ops.path_sync = skip_path_sync;
    f->env->ops = &f->ops;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    bg_status removed = f->env->ops->path_remove(f->env, f->dir, NULL);
    tokenizer_destroy(f->bytes);
    os_env_destroy(f->env);
    bg_free(f);
    return removed == BG_OK ? 0 : -1;
}

// Paths below the fixture's directory, in a ring of static buffers.
static const char *path_of(const struct fixture *f, const char *name)
{
    static char ring[8][256];
    static unsigned next;
    char *path = ring[next++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", f->dir, name);
    return path;
}

static void put_bytes(const struct fixture *f, const char *name, const void *bytes, size_t size)
{
    struct bg_error err = {0};
    char *directory = bg_strdup(path_of(f, name));
    *strrchr(directory, '/') = 0;
    assert_int_equal(f->env->ops->make_directories(f->env, directory, &err), BG_OK);
    bg_free(directory);
    if (env_write_file(f->env, path_of(f, name), bytes, size, &err) != BG_OK)
        fail_msg("%s", err.text);
}

static void put(const struct fixture *f, const char *name, const char *text)
{
    put_bytes(f, name, text, strlen(text));
}

static bg_status open_with(const struct fixture *f, struct corpus_options options, struct bg_error *err,
                           struct corpus **corpus)
{
    options.cache_dir = f->cache;
    return corpus_open(f->env, &options, f->bytes, NULL, NULL, err, corpus);
}

static struct corpus_options one_path(const char *const *path)
{
    return (struct corpus_options){.paths = path, .path_count = 1};
}

static void assert_view(const struct token_view *view, const char *want, size_t size)
{
    assert_int_equal(view->count, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(token_at(view, i), (uint8_t)want[i]);
}

// The tokens of `name` under `options` are those of the text.
static void assert_text(const struct fixture *f, const char *name, struct corpus_options options, const char *want,
                        size_t size)
{
    const char *path = path_of(f, name);
    options.paths = &path;
    options.path_count = 1;
    struct corpus *corpus = NULL;
    struct bg_error err = {0};
    if (open_with(f, options, &err, &corpus) != BG_OK)
        fail_msg("%s: %s", name, err.text);
    assert_view(&corpus->train, want, size);
    corpus_close(f->env, corpus);
}

// Opening `name` fails with `status`, and the error says all of `says`.
static void assert_refused(const struct fixture *f, const char *name, struct corpus_options options, bg_status status,
                           const char *says, const char *says_too)
{
    const char *path = path_of(f, name);
    options.paths = &path;
    options.path_count = 1;
    struct corpus *corpus = NULL;
    struct bg_error err = {0};
    bg_status got = open_with(f, options, &err, &corpus);
    if (got != status || !strstr(err.text, says) || (says_too && !strstr(err.text, says_too)))
        fail_msg("%s: status %d, error: %s", name, got, err.text);
}

static const struct corpus_options plain;

static void check_sources(void **state)
{
    const struct fixture *f = *state;
    put(f, "a.txt", "hello\n");
    assert_text(f, "a.txt", plain, "hello\n", 6);
    // A directory: recursively, names in byte order, hidden ones left out, an end token between documents only.
    put(f, "d/b.txt", "bb");
    put(f, "d/B.txt", "BB");
    put(f, "d/.hidden", "no");
    put(f, "d/empty.txt", "");
    put(f, "d/c/z.md", "zz");
    put(f, "d/c/.git/x", "no");
    put(f, "d/c.jsonl", "{\"text\":\"j1\"}\n\n{\"text\":\"\"}\r\n{\"text\":\"j\\u00e9\"}");
    static const char want[] = "BB\0bb\0zz\0j1\0j\xC3\xA9";
    assert_text(f, "d", plain, want, sizeof want - 1);
    assert_text(f, "d/", plain, want, sizeof want - 1);
    const char *paths[] = {path_of(f, "d/b.txt"), path_of(f, "a.txt"), path_of(f, "d/b.txt")};
    struct corpus_options options = {.paths = paths, .path_count = 3};
    struct corpus *corpus = NULL;
    struct bg_error err = {0};
    assert_int_equal(open_with(f, options, &err, &corpus), BG_OK);
    assert_view(&corpus->train, "bb\0hello\n\0bb", 12);
    assert_int_equal(corpus->documents, 3);
    assert_int_equal(corpus->train_bytes, 10);
    corpus_close(f->env, corpus);
}

static void check_jsonl(void **state)
{
    const struct fixture *f = *state;
    struct corpus_options inner = {.field = "a.b"};
    put(f, "n.jsonl", "{\"a\":{\"b\":\"x\",\"c\":1}}\n{\"a.b\":\"y\",\"a\":{\"b\":\"no\"}}\n");
    assert_text(f, "n.jsonl", inner, "x\0y", 3);
    put(f, "nul.jsonl", "{\"text\":\"a\\u0000b\"}");
    assert_text(f, "nul.jsonl", plain, "a\0b", 3);
    const char *const bad[][3] = {
        {"{\"text\":\"a\"}\n{\"body\":\"b\",\"n\":1}\n", ":2: no field \"text\"", "\"body\", \"n\""},
        {"{}\n", ":1: no field", "nothing"},
        {"{\"text\":\"a\"}\n{\"text\":3}\n", ":2: \"text\" should be a string", "a number"},
        {"{\"text\":null}\n", ":1:", "null"},
        {"{\"text\":\"a\"}\n\n[1]\n", ":3: expected an object", "a list"},
        {"3\n", ":1: expected an object", "a number"},
        {"{\"text\":\"a\"\n", ":1: not valid JSON", NULL},
        {"{\"text\":\"a\"} x\n", ":1: not valid JSON", NULL},
        {"{\"text\":\"a\",\"text\":\"b\"}\n", ":1: not valid JSON", "uplicate"},
        {"{\"text\":\"\\ud800\"}\n", ":1: not valid JSON", NULL},
        {"{\"text\":\"\xff\"}\n", ":1: byte 9", "0xff"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(f, "bad.jsonl", bad[i][0]);
        assert_refused(f, "bad.jsonl", plain, BG_FORMAT, bad[i][1], bad[i][2]);
        assert_refused(f, "bad.jsonl", plain, BG_FORMAT, "bad.jsonl", "data.train");
    }
    struct corpus_options replace = {.utf8 = "replace"};
    assert_text(f, "bad.jsonl", replace, "\xEF\xBF\xBD", 3);
    // A line that spans many reads.
    size_t size = 3 << 20;
    char *line = bg_alloc(size + 32);
    int head = snprintf(line, 32, "{\"text\":\"");
    memset(line + head, 'q', size);
    memcpy(line + head + size, "\"}", 3);
    put(f, "long.jsonl", line);
    assert_text(f, "long.jsonl", plain, line + head, size);
    bg_free(line);
}

// A gzip or zstd archive of text, in two members.
static size_t pack(bool gzip, const char *text, size_t size, uint8_t *packed, size_t capacity)
{
    size_t used = 0, halves[2] = {size / 2, size - size / 2};
    for (int i = 0; i < 2; i++) {
        if (gzip) {
            z_stream stream = {.next_in = (Bytef *)(uintptr_t)text,
                               .avail_in = (uInt)halves[i],
                               .next_out = packed + used,
                               .avail_out = (uInt)(capacity - used)};
            assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
            assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
            used = capacity - stream.avail_out;
            deflateEnd(&stream);
        } else {
            size_t got = ZSTD_compress(packed + used, capacity - used, text, halves[i], 3);
            assert_false(ZSTD_isError(got));
            used += got;
        }
        text += halves[i];
    }
    return used;
}

static void check_archives(void **state)
{
    const struct fixture *f = *state;
    size_t size = 2500000;
    char *text = bg_alloc(size);
    for (size_t i = 0; i < size; i++)
        text[i] =
            (char)('a' + bg_philox((struct bg_philox_counter){{(uint32_t)i / 7}}, (struct bg_philox_key){0}).c[0] % 26);
    uint8_t *packed = bg_alloc(size + 1000);
    for (int gzip = 0; gzip < 2; gzip++) {
        const char *name = gzip ? "x.txt.gz" : "x.txt.zst";
        put_bytes(f, name, packed, pack(gzip, text, size, packed, size + 1000));
        assert_text(f, name, plain, text, size);
        // Cut anywhere but between the members: refused. A short text keeps this fast.
        size_t whole = pack(gzip, text, 60, packed, size), first = 0, accepted = 0;
        for (size_t cut = 0; cut < whole; cut++) {
            put_bytes(f, name, packed, cut);
            const char *path = path_of(f, name);
            struct corpus *corpus = NULL;
            struct bg_error err = {0};
            if (open_with(f, one_path(&path), &err, &corpus) == BG_OK) {
                accepted++;
                first = cut;
                assert_view(&corpus->train, text, 30);
                corpus_close(f->env, corpus);
            } else {
                assert_int_equal(err.status, BG_CORRUPT);
                assert_non_null(strstr(err.text, name));
                assert_non_null(strstr(err.text, "ends early"));
            }
        }
        assert_true(accepted == 1 && first > whole / 3 && first < whole * 2 / 3);
        memset(packed + whole, 'x', 8); // something behind its end
        put_bytes(f, name, packed, whole + 8);
        assert_refused(f, name, plain, BG_CORRUPT, name, "not valid");
        put(f, name, "plain text");
        assert_refused(f, name, plain, BG_CORRUPT, name, "not valid");
    }
    static const char lines[] = "{\"text\":\"l1\"}\n{\"text\":\"l2\"}\n";
    put_bytes(f, "l.jsonl.zst", packed, pack(false, lines, sizeof lines - 1, packed, size));
    assert_text(f, "l.jsonl.zst", plain, "l1\0l2", 5);
    bg_free(packed);
    bg_free(text);
}

static void check_utf8(void **state)
{
    const struct fixture *f = *state;
    struct corpus_options keep = {.utf8 = "keep"}, error = {.utf8 = "error"}, replace = {.utf8 = "replace"};
    // Maximal ill-formed parts (Unicode, table 3-8) become one U+FFFD each.
    static const char bad[] = "ok\n\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
    put(f, "u.txt", bad);
    assert_text(f, "u.txt", keep, bad, sizeof bad - 1);
    assert_refused(f, "u.txt", error, BG_FORMAT, "u.txt:2: byte 4 (0xf1)", "data.utf8");
#define U "\xEF\xBF\xBD"
    static const char mended[] = "ok\na" U U U "b" U "c" U U "d";
    assert_text(f, "u.txt", replace, mended, sizeof mended - 1);
    static const char good[] = "\xEF\xBB\xBF d\xC3\xA9j\xC3\xA0 \xE2\x82\xAC \xF0\x9F\x90\x8E \xF4\x8F\xBF\xBF";
    put(f, "g.txt", good); // a byte order mark stays
    assert_text(f, "g.txt", error, good, sizeof good - 1);
    assert_text(f, "g.txt", replace, good, sizeof good - 1);
    const char *const broken[] = {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80", "\xF5", "a\xC3"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        assert_true(data_utf8_prefix(broken[i], strlen(broken[i])) == (i == 5));
    struct corpus_options odd = {.utf8 = "latin1"};
    assert_refused(f, "g.txt", odd, BG_INVALID, "data.utf8", "keep, error or replace");
}

static void check_refusals(void **state)
{
    const struct fixture *f = *state;
    struct bg_error err = {0};
    assert_refused(f, "missing.txt", plain, BG_NOT_FOUND, "missing.txt", "data.train");
    put(f, "e.txt", "");
    assert_refused(f, "e.txt", plain, BG_INVALID, "e.txt", "no text");
    put(f, "blank.jsonl", "\n \n");
    assert_refused(f, "blank.jsonl", plain, BG_INVALID, "blank.jsonl", "no text");
    put(f, "hollow/.only", "x");
    assert_refused(f, "hollow", plain, BG_INVALID, "hollow", "no file to read");
    assert_refused(f, "e.txt", (struct corpus_options){.valid = 1}, BG_INVALID, "data.valid", "below 1");
    // A directory that leads back into itself.
    put(f, "loop/x.txt", "x");
    assert_int_equal(symlink(".", path_of(f, "loop/again")), 0);
    assert_refused(f, "loop", plain, BG_UNSUPPORTED, "loop/again", NULL);
    // A cache directory that cannot be one.
    struct corpus *corpus = NULL;
    put(f, "a.txt", "hello\n");
    const char *path = path_of(f, "a.txt");
    struct corpus_options options = one_path(&path);
    options.cache_dir = path_of(f, "a.txt/cache");
    assert_int_not_equal(corpus_open(f->env, &options, f->bytes, NULL, NULL, &err, &corpus), BG_OK);
    assert_true(strstr(err.text, "a.txt") && strstr(err.text, "data.cache"));
}

static void check_split(void **state)
{
    const struct fixture *f = *state;
    struct bg_error err = {0};
    char text[1000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i % 23);
    put_bytes(f, "s.txt", text, sizeof text);
    put(f, "v.txt", "held out");
    const char *path = path_of(f, "s.txt"), *valid = path_of(f, "v.txt");
    struct corpus_options options = one_path(&path);
    struct corpus *tenth = NULL, *none = NULL, *files = NULL, *odd = NULL;
    options.valid = 0.1;
    assert_int_equal(open_with(f, options, &err, &tenth), BG_OK);
    assert_view(&tenth->train, text, 900);
    assert_view(&tenth->valid, text + 900, 100);
    assert_true(tenth->train_bytes == 900 && tenth->valid_bytes == 100 && tenth->documents == 1 && !tenth->note);
    options.valid = 0;
    assert_int_equal(open_with(f, options, &err, &none), BG_OK);
    assert_true(none->train.count == 1000 && none->valid.count == 0 && none->valid_bytes == 0);
    options.valid = 0.3337;
    assert_int_equal(open_with(f, options, &err, &odd), BG_OK);
    assert_int_equal(odd->train.count, (uint64_t)((1.0 - 0.3337) * 1000));
    options.valid_paths = &valid;
    options.valid_path_count = 1;
    assert_int_equal(open_with(f, options, &err, &files), BG_OK);
    assert_view(&files->valid, "held out", 8);
    assert_true(files->train.count == 1000 && files->valid_bytes == 8);
    // The hash is that of what trains: not of the validation text, but of the split.
    assert_string_equal(files->sha256, none->sha256);
    assert_string_not_equal(tenth->sha256, none->sha256);
    assert_string_not_equal(tenth->sha256, odd->sha256);
    corpus_close(f->env, tenth);
    corpus_close(f->env, none);
    corpus_close(f->env, files);
    corpus_close(f->env, odd);
}

// The environment with a disk that ends the process, or refuses, at its n-th change.
struct faults {
    struct bg_env_ops ops;
    const struct bg_env_ops *real;
    int until;  // operations left before the fault
    bool kills; // or else writes fail as on a full disk
    bool full;  // has failed once
} faults;

static bool fault_due(void)
{
    if (faults.until-- != 0)
        return false;
    if (faults.kills)
        _exit(9);
    return true;
}

static bg_status faulty_write(struct bg_env *env, struct bg_file *file, const void *bytes, size_t size,
                              struct bg_error *err)
{
    if (faults.until == 0 && faults.kills && faults.real->file_write(env, file, bytes, size / 2, err) != BG_OK)
        _exit(8); // the kill comes in the middle of a write
    if (faults.full || fault_due()) {
        faults.full = true;
        return bg_fail(err, BG_FULL, "the disk is full");
    }
    return faults.real->file_write(env, file, bytes, size, err);
}

static bg_status faulty_open(struct bg_env *env, const char *path, enum bg_file_mode mode, struct bg_error *err,
                             struct bg_file **file)
{
    return faults.kills && fault_due() ? BG_IO : faults.real->file_open(env, path, mode, err, file);
}

static bg_status faulty_sync(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    return faults.kills && fault_due() ? BG_IO : faults.real->file_sync(env, file, err);
}

static bg_status faulty_close(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    return faults.kills && fault_due() ? BG_IO : faults.real->file_close(env, file, err);
}

static bg_status faulty_rename(struct bg_env *env, const char *from, const char *to, struct bg_error *err)
{
    return faults.kills && fault_due() ? BG_IO : faults.real->path_rename(env, from, to, err);
}

static bg_status faulty_path_sync(struct bg_env *env, const char *path, struct bg_error *err)
{
    return faults.kills && fault_due() ? BG_IO : faults.real->path_sync(env, path, err);
}

static void faults_begin(struct bg_env *env, int until, bool kills)
{
    faults = (struct faults){.ops = *env->ops, .real = env->ops, .until = until, .kills = kills};
    faults.ops.file_open = faulty_open;
    faults.ops.file_write = faulty_write;
    faults.ops.file_sync = faulty_sync;
    faults.ops.file_close = faulty_close;
    faults.ops.path_rename = faulty_rename;
    faults.ops.path_sync = faulty_path_sync;
    env->ops = &faults.ops;
}

static void faults_end(struct bg_env *env)
{
    env->ops = faults.real;
}

static bg_status count_name(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    if (strstr(name, ".tmp-"))
        ++*(int *)arg;
    return BG_OK;
}

static char *varied_text(size_t size)
{
    char *text = bg_alloc(size + 1);
    for (size_t i = 0; i < size; i += 4) {
        uint32_t word = bg_philox((struct bg_philox_counter){{(uint32_t)i}}, (struct bg_philox_key){{1, 2}}).c[0];
        for (size_t j = i; j < i + 4 && j < size; j++)
            text[j] = (char)(' ' + (word >> 8 * (j - i)) % 90);
    }
    return text;
}

static void check_full_disk(void **state)
{
    struct fixture *f = *state;
    size_t size = 1300000; // 2.6 MB of tokens: several writes
    char *text = varied_text(size);
    put_bytes(f, "k.txt", text, size);
    const char *path = path_of(f, "k.txt");
    for (int write = 0; write < 4; write++) {
        struct corpus *corpus = NULL;
        struct bg_error err = {0};
        faults_begin(f->env, write, false);
        bg_status status = open_with(f, one_path(&path), &err, &corpus);
        faults_end(f->env);
        assert_int_equal(status, BG_FULL);
        assert_non_null(strstr(err.text, "full"));
        int left = 0;
        assert_int_equal(f->env->ops->list_directory(f->env, f->cache, count_name, &left, &err), BG_OK);
        assert_int_equal(left, 0);
    }
    assert_text(f, "k.txt", plain, text, size);
    bg_free(text);
}

// In a child: builds the cache of k.txt, dying at operation `until`, or when the parent kills it.
static pid_t build_in_child(const struct fixture *f, const char *path, int until)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    struct corpus *corpus = NULL;
    struct bg_error err = {0};
    faults_begin(f->env, until, true);
    bg_status status = open_with(f, one_path(&path), &err, &corpus);
    _exit(status == BG_OK ? 0 : 1);
}

static void check_kills(void **state)
{
    const struct fixture *f = *state;
    size_t size = 600000;
    char *text = varied_text(size);
    put_bytes(f, "k.txt", text, size);
    const char *path = path_of(f, "k.txt");
    int status = 0, operations = 0;
    for (bool done = false; !done; operations++) { // killed at every single operation
        assert_int_equal(f->env->ops->path_remove(f->env, f->cache, NULL), BG_OK);
        pid_t child = build_in_child(f, path, operations);
        assert_int_equal(waitpid(child, &status, 0), child);
        done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        assert_true(done || (WIFEXITED(status) && WEXITSTATUS(status) == 9));
        assert_text(f, "k.txt", plain, text, size);
    }
    assert_true(operations > 6);
    for (unsigned i = 0; i < 20; i++) { // and at moments nobody chose
        assert_int_equal(f->env->ops->path_remove(f->env, f->cache, NULL), BG_OK);
        pid_t child = build_in_child(f, path, -1);
        usleep(bg_philox((struct bg_philox_counter){{i}}, (struct bg_philox_key){0}).c[0] % 12000);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_text(f, "k.txt", plain, text, size);
    }
    bg_free(text);
}

struct told {
    int calls;
    uint64_t done, total;
};

static void tell(void *arg, uint64_t done, uint64_t total)
{
    struct told *told = arg;
    assert_true(done >= told->done && done <= total);
    *told = (struct told){told->calls + 1, done, total};
}

static bg_status first_tokens_file(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    if (strstr(name, ".tokens"))
        snprintf(arg, 256, "%s", name);
    return BG_OK;
}

static void check_damage(void **state)
{
    const struct fixture *f = *state;
    put(f, "t.txt", "the text whose cache is damaged");
    const char *path = path_of(f, "t.txt");
    struct corpus_options options = one_path(&path);
    options.cache_dir = f->cache;
    struct bg_error err = {0};
    struct corpus *corpus = NULL;
    struct told told = {0};
    assert_int_equal(corpus_open(f->env, &options, f->bytes, tell, &told, &err, &corpus), BG_OK);
    assert_true(told.calls > 0 && told.done == told.total && told.total == 31);
    char sha[65], name[256] = "", file[400];
    memcpy(sha, corpus->sha256, sizeof sha);
    corpus_close(f->env, corpus);
    assert_int_equal(f->env->ops->list_directory(f->env, f->cache, first_tokens_file, name, &err), BG_OK);
    snprintf(file, sizeof file, "%s/%s", f->cache, name);
    struct bg_map map;
    assert_int_equal(f->env->ops->map_open(f->env, file, &err, &map), BG_OK);
    uint8_t whole[1024];
    size_t size = map.size;
    assert_true(size < sizeof whole);
    memcpy(whole, map.data, size);
    f->env->ops->map_close(f->env, &map);
    told = (struct told){0}; // a good cache is not made again
    assert_int_equal(corpus_open(f->env, &options, f->bytes, tell, &told, &err, &corpus), BG_OK);
    assert_true(told.calls == 0 && !corpus->note);
    corpus_close(f->env, corpus);
    for (size_t i = 0; i < 2 * size; i++) { // every truncation, every flipped byte
        uint8_t damaged[1024];
        memcpy(damaged, whole, size);
        if (i >= size)
            damaged[i - size] ^= (uint8_t)(1 << i % 8);
        assert_int_equal(env_write_file(f->env, file, damaged, i < size ? i : size, &err), BG_OK);
        assert_int_equal(corpus_open(f->env, &options, f->bytes, NULL, NULL, &err, &corpus), BG_OK);
        assert_non_null(corpus->note);
        assert_true(strstr(corpus->note, "damaged") && strstr(corpus->note, name));
        assert_string_equal(corpus->sha256, sha);
        assert_view(&corpus->train, "the text whose cache is damaged", 31);
        corpus_close(f->env, corpus);
    }
    put(f, "t.txt", "the text whose cache is DAMAGED"); // same size, same path, other text
    assert_text(f, "t.txt", plain, "the text whose cache is DAMAGED", 31);
}

// Pieces join to the text, are bounded, and end at the ends of lines where there are any.
struct pieces {
    const char *text;
    size_t at, count, off_line;
};

static bg_status take_piece(void *arg, const char *text, size_t size, bool first, struct bg_error *err)
{
    (void)err;
    struct pieces *p = arg;
    assert_true(size > 0 && size <= DATA_PIECE_MAX && first == (p->count == 0));
    assert_memory_equal(text, p->text + p->at, size);
    p->at += size;
    p->count++;
    if (p->text[p->at] && p->text[p->at - 1] != '\n' && p->text[p->at] != '\r' && p->text[p->at] != '\n')
        p->off_line++;
    assert_true(((uint8_t)p->text[p->at] & 0xC0) != 0x80);
    return BG_OK;
}

static void check_pieces(void **state)
{
    (void)state;
    const char *const lines[] = {"some words of it\n", "One paragraph.\n\n", "dos line, end\r\n",
                                 "\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x82\n", "\xE4\xB8\xAD\xE6\x96\x87"};
    size_t size = 11 << 20;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct bg_str text = {0};
        while (text.size < size)
            bg_str_add(&text, lines[i]);
        struct pieces pieces = {.text = text.data};
        struct data_splitter splitter = {.path = "p", .utf8 = "error", .fn = take_piece, .arg = &pieces};
        struct bg_error err = {0};
        for (size_t at = 0; at < text.size; at += 1 << 20) {
            size_t part = text.size - at < 1 << 20 ? text.size - at : 1 << 20;
            assert_int_equal(data_splitter_feed(&splitter, (const uint8_t *)text.data + at, part, &err), BG_OK);
        }
        assert_int_equal(data_splitter_end(&splitter, &err), BG_OK);
        assert_true(pieces.at == text.size && pieces.count >= 3);
        assert_int_equal(pieces.off_line, i == 4 ? pieces.count - 1 : 0);
        data_splitter_fini(&splitter);
        bg_str_fini(&text);
    }
}

static const char *shared(void)
{
    const char *shared = getenv("BRIGADE_SHARED");
    return shared ? shared : BRIGADE_SOURCE_DIR "/../shared";
}

// Real texts: the tokens of bytes are the bytes; GPT-2's ids are those of the whole text encoded at once.
static void check_real(void **state)
{
    const struct fixture *f = *state;
    struct bg_error err = {0};
    struct bg_file_info info = {0};
    char path[512], vocab[512];
    snprintf(path, sizeof path, "%s/data/text/tinyshakespeare.txt", shared());
    snprintf(vocab, sizeof vocab, "%s/data/tokenizers/gpt2.tiktoken", shared());
    assert_int_equal(f->env->ops->path_info(f->env, path, &err, &info), BG_OK);
    if (!info.exists) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
    struct bg_map map;
    assert_int_equal(f->env->ops->map_open(f->env, path, &err, &map), BG_OK);
    const char *one = path;
    struct corpus_options options = one_path(&one);
    options.valid = 0.1;
    struct corpus *corpus = NULL;
    assert_int_equal(open_with(f, options, &err, &corpus), BG_OK);
    assert_true(corpus->train.count == 1003854 && corpus->valid.count == 111540); // nanoGPT's split
    assert_view(&corpus->train, (const char *)map.data, 1003854);
    assert_int_equal(corpus->valid_bytes, 111540);
    corpus_close(f->env, corpus);
    struct tokenizer *gpt2 = NULL;
    assert_int_equal(tokenizer_open(f->env, vocab, &err, &gpt2), BG_OK);
    options.cache_dir = f->cache;
    assert_int_equal(corpus_open(f->env, &options, gpt2, NULL, NULL, &err, &corpus), BG_OK);
    struct token_list ids = {0};
    assert_int_equal(tokenizer_encode(gpt2, (const char *)map.data, map.size, false, &err, &ids), BG_OK);
    assert_int_equal(corpus->train.count + corpus->valid.count, ids.count);
    for (size_t i = 0; i < corpus->train.count; i++)
        assert_int_equal(token_at(&corpus->train, i), ids.ids[i]);
    assert_int_equal(corpus->train_bytes + corpus->valid_bytes, map.size);
    token_list_fini(&ids);
    corpus_close(f->env, corpus);
    tokenizer_destroy(gpt2);
    f->env->ops->map_close(f->env, &map);
}

static void check_real_jsonl(void **state)
{
    const struct fixture *f = *state;
    struct bg_error err = {0};
    struct bg_file_info info = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/data/text/gsm8k-test.jsonl", shared());
    assert_int_equal(f->env->ops->path_info(f->env, path, &err, &info), BG_OK);
    if (!info.exists) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
    const char *one = path;
    struct corpus_options options = one_path(&one);
    struct corpus *corpus = NULL;
    assert_int_equal(open_with(f, options, &err, &corpus), BG_FORMAT);
    assert_true(strstr(err.text, "gsm8k-test.jsonl:1:") && strstr(err.text, "\"question\", \"answer\""));
    options.field = "question";
    assert_int_equal(open_with(f, options, &err, &corpus), BG_OK);
    assert_int_equal(corpus->documents, 1319);
    assert_int_equal(corpus->train.count, corpus->train_bytes + 1318);
    corpus_close(f->env, corpus);
}

static void check_bijection(void **state)
{
    (void)state;
    uint8_t *seen = bg_alloc(1 << 20);
    for (uint64_t n = 1; n < 1200000; n = n < 2000 ? n + 1 : n * 7 + 1) {
        uint64_t epochs = n < 100 ? 3 : 1;
        for (uint64_t epoch = 0; epoch < epochs && n <= 1 << 20; epoch++) {
            memset(seen, 0, n);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t sample = data_order(n, n, epoch * n + i);
                assert_true(sample < n && !seen[sample]);
                seen[sample] = 1;
            }
        }
    }
    bg_free(seen);
    const uint64_t big[] = {UINT64_C(1) << 32, (UINT64_C(1) << 40) + 5, UINT64_MAX};
    for (size_t i = 0; i < 3; i++)
        for (uint64_t p = 1; p < 1000; p++) {
            assert_true(data_order(1, big[i], p) < big[i]);
            assert_true(data_order(1, big[i], p) != data_order(1, big[i], p - 1));
        }
}

// Over many epochs every sample comes first, and follows every other, about equally often.
static void check_uniformity(void **state)
{
    (void)state;
    const uint64_t sizes[] = {2, 3, 5, 8, 13};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint64_t n = sizes[s], epochs = 200 * n * n;
        uint32_t pairs[13][13] = {{0}};
        for (uint64_t epoch = 0; epoch < epochs; epoch++)
            pairs[data_order(7, n, epoch * n)][data_order(7, n, epoch * n + 1)]++;
        double expected = (double)epochs / (double)(n * (n - 1)), chi = 0;
        for (uint64_t a = 0; a < n; a++)
            for (uint64_t b = 0; b < n; b++)
                chi += a == b ? 0 : (pairs[a][b] - expected) * (pairs[a][b] - expected) / expected;
        double freedom = (double)(n * (n - 1)) - 1, spread = chi - freedom; // mean 0, variance 2 freedom
        assert_true(spread * spread < 25 * 2 * freedom);
    }
}

static void check_pinned(void **state)
{
    (void)state;
    uint64_t order[40];
    for (uint64_t i = 0; i < 40; i++)
        order[i] = data_order(1, 10, i);
    char hex[65];
    bg_sha256_hex(order, sizeof order, hex);
    static const uint64_t first[10] = {1, 4, 6, 8, 9, 7, 0, 5, 2, 3};
    for (size_t i = 0; i < 10; i++)
        if (order[i] != first[i])
            fail_msg("position %zu: %llu", i, (unsigned long long)order[i]);
    assert_string_equal(hex, "8aa2e3436fa02c5cd5e948d3a5a76029d5f9e6dc95f38a7604d1c31c8170003c");
    uint64_t far[64];
    for (uint64_t i = 0; i < 64; i++)
        far[i] = data_order(UINT64_C(0x123456789abcdef) * i, UINT64_C(1) << (i % 48) | 3, i << 33 | i * 977);
    bg_sha256_hex(far, sizeof far, hex);
    assert_string_equal(hex, "17c663bc997476fac3dcbbc9d2871bef1c1f974cb97e1b6ed121ef5746ea197c");
}

static void check_micro_batch(void **state)
{
    (void)state;
    enum { T = 4, B = 3, M = 2, N = 7, COUNT = N * T + 1 };
    uint16_t narrow[COUNT];
    uint32_t wide[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        narrow[i] = (uint16_t)(65000 + i);
        wide[i] = 65000 + i;
    }
    struct token_view views[] = {{narrow, COUNT, 2}, {wide, COUNT, 4}};
    assert_int_equal(data_samples(&views[0], T), N);
    assert_int_equal(data_samples(&(struct token_view){narrow, COUNT - 1, 2}, T), N - 1);
    assert_int_equal(data_samples(&(struct token_view){narrow, 0, 2}, T), 0);
    for (uint64_t step = 0; step < 9; step++) {
        for (uint32_t m = 0; m < M; m++) {
            int32_t tokens[2][B * T], targets[2][B * T];
            for (int v = 0; v < 2; v++)
                data_micro_batch(&views[v], 5, step, M, m, B, T, tokens[v], targets[v]);
            assert_memory_equal(tokens[0], tokens[1], sizeof tokens[0]);
            for (uint32_t j = 0; j < B * T; j++) {
                uint64_t sample = data_order(5, N, (step * M + m) * B + j / T);
                assert_int_equal(tokens[0][j], 65000 + sample * T + j % T);
                assert_int_equal(targets[0][j], tokens[0][j] + 1);
            }
            assert_memory_equal(targets[0], targets[1], sizeof targets[0]);
        }
    }
}

#define ON_DISK(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DISK(check_sources),
        ON_DISK(check_jsonl),
        ON_DISK(check_archives),
        ON_DISK(check_utf8),
        ON_DISK(check_refusals),
        ON_DISK(check_split),
        ON_DISK(check_full_disk),
        ON_DISK(check_kills),
        ON_DISK(check_damage),
        cmocka_unit_test(check_pieces),
        ON_DISK(check_real),
        ON_DISK(check_real_jsonl),
        cmocka_unit_test(check_bijection),
        cmocka_unit_test(check_uniformity),
        cmocka_unit_test(check_pinned),
        cmocka_unit_test(check_micro_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
