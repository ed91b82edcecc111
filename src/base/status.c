// Status texts and error filling. One table, generated from the list in <brigade/status.h>; the text of an
// error is cut at the size of its buffer, never overrun. Assertion failure lives here too: it is the other
// way in which the core says that something is wrong.
#include "base/status.h"

#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bg_status bg_fail(struct bg_error *err, bg_status status, const char *format, ...)
{
    if (err) {
        // The text may be an argument of its own replacement, so it is built aside.
        char text[sizeof err->text];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        err->status = status;
        memcpy(err->text, text, sizeof text);
    }
    return status;
}

bg_status bg_fail_prefix(struct bg_error *err, const char *format, ...)
{
    if (!err)
        return BG_INTERNAL; // callers that pass no error forward the status they have
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t used = length < 0 ? 0 : strlen(text);
    for (const char *c = ": "; *c && used < sizeof text - 1; c++)
        text[used++] = *c;
    size_t old = strnlen(err->text, sizeof text - 1 - used);
    memcpy(text + used, err->text, old);
    text[used + old] = 0;
    memcpy(err->text, text, sizeof text);
    return err->status;
}

const char *bg_status_text(bg_status status)
{
    switch (status) {
#define STATUS_TEXT(name, code, scope, text)                                                                           \
    case BG_##name:                                                                                                    \
        return text;
        BG_STATUS_LIST(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

enum bg_scope bg_status_scope(bg_status status)
{
    switch (status) {
#define STATUS_SCOPE(name, code, scope, text)                                                                          \
    case BG_##name:                                                                                                    \
        return BG_SCOPE_##scope;
        BG_STATUS_LIST(STATUS_SCOPE)
#undef STATUS_SCOPE
    }
    return BG_SCOPE_PROCESS;
}

bg_status bg_status_told(uint32_t code)
{
    switch (code) {
#define STATUS_TOLD(name, number, scope, text)                                                                         \
    case number:                                                                                                       \
        return (number) ? BG_##name : BG_INTERNAL;
        BG_STATUS_LIST(STATUS_TOLD)
#undef STATUS_TOLD
    }
    return BG_INTERNAL;
}

void bg_assert_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    fflush(stderr);
    abort();
}
