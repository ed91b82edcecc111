// Status and error text. A function that can fail returns `bg_status`, takes `struct bg_error *err` and
// writes its out-parameters (last) only on success. Whoever detects the failure calls bg_fail() once, with
// the file, line, key or machine at fault, what was expected and what to do; callers forward.
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include <brigade/status.h>

#include <stdint.h>

typedef enum bg_status bg_status;

#define BG_MUST_USE     __attribute__((warn_unused_result))
#define BG_PRINTF(f, a) __attribute__((format(printf, f, a)))

struct bg_error {
    bg_status status;
    char text[1024];
};

// Fills *err (which may be NULL) and returns `status`, so that a failure reads `return bg_fail(err, ...)`.
bg_status bg_fail(struct bg_error *err, bg_status status, const char *format, ...) BG_PRINTF(3, 4);

// Puts "<prefix>: " before the text already in *err; returns err->status. For callers that know the file or key.
bg_status bg_fail_prefix(struct bg_error *err, const char *format, ...) BG_PRINTF(2, 3);

const char *bg_status_text(bg_status status);
enum bg_scope bg_status_scope(bg_status status);

// The failure another process told by its code: BG_INTERNAL where that is no failure known here.
bg_status bg_status_told(uint32_t code);

#endif
