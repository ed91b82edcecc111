// BG_ASSERT: for what we believe, never for input, peers or the machine. Stays on in every build: it prints
// file, line and condition, and aborts.
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

#define BG_ASSERT(condition) ((condition) ? (void)0 : bg_assert_failed(__FILE__, __LINE__, #condition))

_Noreturn void bg_assert_failed(const char *file, int line, const char *condition);

#endif
