// The one list of statuses. Each has a code, a text and the scope of what is lost when it happens:
// recovery switches on the scope, never on the code. Codes are part of the ABI: append, never renumber.
#ifndef BRIGADE_STATUS_H
#define BRIGADE_STATUS_H

// X(NAME, code, scope, "text")
#define BG_STATUS_LIST(X)                                                                                              \
    X(OK, 0, NONE, "ok")                                                                                               \
    X(INVALID, 1, OP, "invalid argument")                                                                              \
    X(NOT_FOUND, 2, OP, "not found")                                                                                   \
    X(EXISTS, 3, OP, "already exists")                                                                                 \
    X(FORMAT, 4, OP, "malformed input")                                                                                \
    X(UNSUPPORTED, 5, OP, "not supported")                                                                             \
    X(MISMATCH, 6, OP, "does not match")                                                                               \
    X(CORRUPT, 7, OP, "corrupt data")                                                                                  \
    X(FULL, 8, OP, "no room left")                                                                                     \
    X(DENIED, 9, OP, "permission denied")                                                                              \
    X(NO_MEMORY, 10, PROCESS, "out of memory")                                                                         \
    X(IO, 11, OP, "input/output error")                                                                                \
    X(STOPPED, 12, OP, "stopped by request")                                                                           \
    X(NOT_FINITE, 13, JOB, "a loss or norm is not finite")                                                             \
    X(INTERNAL, 14, PROCESS, "internal error")                                                                         \
    X(NOT_CREATED, 15, OP, "cannot be created")

enum bg_scope {
    BG_SCOPE_NONE,
    BG_SCOPE_OP,
    BG_SCOPE_BUFFER,
    BG_SCOPE_LINK,
    BG_SCOPE_PEER,
    BG_SCOPE_STAGE,
    BG_SCOPE_JOB,
    BG_SCOPE_PROCESS,
};

enum bg_status {
#define BG_STATUS_ENUM(name, code, scope, text) BG_##name = (code),
    BG_STATUS_LIST(BG_STATUS_ENUM)
#undef BG_STATUS_ENUM
};

#endif
