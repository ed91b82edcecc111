// One table, one row a record, in the order of appending. The journal is a WAL that is not synced at every commit: what
// append has written survives the death of any process, since the pages are the kernel's then. Doubles are stored as
// the integers of their bits.
#include "store/sqlite/sqlite.h"

#include "base/mem.h"

#include <sqlite3.h>
#include <string.h>

struct store_sqlite {
    struct store base; // first: the ops cast back
    sqlite3 *db;
    sqlite3_stmt *insert;
    char *path;
};

static const char create_sql[] = "CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL,"
                                 " a INTEGER NOT NULL, b INTEGER NOT NULL, c INTEGER NOT NULL, d INTEGER NOT NULL,"
                                 " x INTEGER NOT NULL, y INTEGER NOT NULL, z INTEGER NOT NULL, text TEXT) STRICT";
static const char insert_sql[] = "INSERT INTO log (kind, a, b, c, d, x, y, z, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char select_sql[] = "SELECT kind, a, b, c, d, x, y, z, text FROM log ORDER BY seq";

enum { USER_VERSION = 0x62726901 }; // "bri", 1

static bg_status fail(const struct store_sqlite *s, const char *what, struct bg_error *err)
{
    int code = sqlite3_errcode(s->db) & 0xff;
    const char *text = sqlite3_errmsg(s->db);
    switch (code) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return bg_fail(err, BG_CORRUPT,
                       "%s: %s: the controller's log is damaged (%s). Move it and its -wal and -shm files away and "
                       "resume the run: it goes on from the newest checkpoint",
                       s->path, what, text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return bg_fail(err, BG_EXISTS, "%s: %s: another process uses this log (%s)", s->path, what, text);
    case SQLITE_FULL:
        return bg_fail(err, BG_FULL, "%s: %s: no room left on the disk", s->path, what);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return bg_fail(err, BG_DENIED, "%s: %s: %s", s->path, what, text);
    case SQLITE_NOMEM:
        return bg_fail(err, BG_NO_MEMORY, "%s: %s: %s", s->path, what, text);
    default:
        return bg_fail(err, BG_IO, "%s: %s: %s", s->path, what, text);
    }
}

static sqlite3_int64 bits_of(double value)
{
    sqlite3_int64 bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(sqlite3_int64 bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static bg_status append(struct store *store, const struct store_record *r, struct bg_error *err)
{
    struct store_sqlite *s = (struct store_sqlite *)store;
    sqlite3_stmt *q = s->insert;
    const sqlite3_int64 values[8] = {(sqlite3_int64)r->kind, (sqlite3_int64)r->a, (sqlite3_int64)r->b,
                                     (sqlite3_int64)r->c,    (sqlite3_int64)r->d, bits_of(r->x),
                                     bits_of(r->y),          bits_of(r->z)};
    int code = SQLITE_OK;
    for (int i = 0; i < 8 && code == SQLITE_OK; i++)
        code = sqlite3_bind_int64(q, i + 1, values[i]);
    if (code == SQLITE_OK)
        code = r->text ? sqlite3_bind_text(q, 9, r->text, -1, SQLITE_STATIC) : sqlite3_bind_null(q, 9);
    if (code == SQLITE_OK)
        code = sqlite3_step(q);
    bg_status status = code == SQLITE_DONE ? BG_OK : fail(s, "appending a record", err);
    sqlite3_reset(q);
    return status;
}

static bg_status read_row(const struct store_sqlite *s, sqlite3_stmt *q, struct bg_error *err, struct store_record *r)
{
    sqlite3_int64 v[8];
    for (int i = 0; i < 8; i++)
        v[i] = sqlite3_column_int64(q, i);
    const char *text = (const char *)sqlite3_column_text(q, 8);
    if (v[0] < STORE_JOB || v[0] > STORE_FINISHED || (text && strlen(text) > 1023))
        return bg_fail(
            err, BG_CORRUPT,
            "%s: a record of kind %lld, which this program does not know: the controller's log is damaged or "
            "from another version. Move it away and resume the run: it goes on from the newest checkpoint",
            s->path, (long long)v[0]);
    *r = (struct store_record){.kind = (enum store_kind)v[0],
                               .a = (uint64_t)v[1],
                               .b = (uint64_t)v[2],
                               .c = (uint64_t)v[3],
                               .d = (uint64_t)v[4],
                               .x = double_of(v[5]),
                               .y = double_of(v[6]),
                               .z = double_of(v[7]),
                               .text = text};
    return BG_OK;
}

static bg_status replay(struct store *store, bg_status (*fn)(void *arg, const struct store_record *, struct bg_error *),
                        void *arg, struct bg_error *err)
{
    struct store_sqlite *s = (struct store_sqlite *)store;
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(s->db, select_sql, -1, &q, NULL) != SQLITE_OK)
        return fail(s, "reading the log", err);
    bg_status status = BG_OK;
    int code;
    while (!status && (code = sqlite3_step(q)) != SQLITE_DONE) {
        struct store_record record;
        status = code == SQLITE_ROW ? read_row(s, q, err, &record) : fail(s, "reading the log", err);
        if (!status)
            status = fn(arg, &record, err);
    }
    sqlite3_finalize(q);
    return status;
}

static void close_store(struct store *store)
{
    struct store_sqlite *s = (struct store_sqlite *)store;
    sqlite3_finalize(s->insert);
    sqlite3_close(s->db);
    bg_free(s->path);
    bg_free(s);
}

static bg_status run(const struct store_sqlite *s, const char *sql, const char *what, struct bg_error *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? BG_OK : fail(s, what, err);
}

// The file's own mark: 0 in a new one.
static bg_status check_version(const struct store_sqlite *s, struct bg_error *err)
{
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &q, NULL) != SQLITE_OK || sqlite3_step(q) != SQLITE_ROW) {
        bg_status status = fail(s, "opening the log", err);
        sqlite3_finalize(q);
        return status;
    }
    int version = sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    if (version == 0 || version == USER_VERSION)
        return BG_OK;
    return bg_fail(err, BG_UNSUPPORTED,
                   "%s: version %d, this program writes %d: not a log of a controller, or one of another version",
                   s->path, version, USER_VERSION);
}

static bg_status set_up(struct store_sqlite *s, struct bg_error *err)
{
    static const char mark[] = "PRAGMA user_version = 1651665153";
    _Static_assert(USER_VERSION == 1651665153, "the mark says the version");
    sqlite3_busy_timeout(s->db, 0);
    bg_status status = check_version(s, err);
    if (!status)
        status = run(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL", "opening the log", err);
    if (!status)
        status = run(s, create_sql, "opening the log", err);
    if (!status)
        status = run(s, mark, "opening the log", err);
    if (!status && sqlite3_prepare_v3(s->db, insert_sql, -1, SQLITE_PREPARE_PERSISTENT, &s->insert, NULL) != SQLITE_OK)
        status = fail(s, "opening the log", err);
    return status;
}

bg_status store_sqlite_open(const char *path, struct bg_error *err, struct store **store)
{
    static const struct store_ops ops = {append, replay, close_store};
    struct store_sqlite *s = bg_alloc(sizeof *s);
    s->base.ops = &ops;
    s->path = bg_strdup(path);
    bg_status status;
    if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        status = s->db ? fail(s, "opening the log", err) : bg_fail(err, BG_NO_MEMORY, "%s: opening the log", path);
    else
        status = set_up(s, err);
    if (status)
        close_store(&s->base);
    else
        *store = &s->base;
    return status;
}
