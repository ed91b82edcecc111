// The log in an SQLite file (WAL). One process at a time: the run directory's lock sees to it.
#ifndef STORE_SQLITE_SQLITE_H
#define STORE_SQLITE_SQLITE_H

#include "store/store.h"

BG_MUST_USE bg_status store_sqlite_open(const char *path, struct bg_error *err, struct store **store);

#endif
