// A dead engine must not look alive: a thread of its own sees whether steps end, also idle ones, and calls out when
// none did for so long. It takes no lock that the engine may hold. Time in which the whole process stood still (a
// suspended machine) does not count.
#ifndef SERVE_WATCHDOG_H
#define SERVE_WATCHDOG_H

#include "serve/engine.h"

struct watchdog_options {
    double limit_s; // default 120
    // Called once, by the watchdog's thread; `doing`: what the engine did last, `seconds`: since when.
    void (*dead)(void *arg, const char *doing, double seconds);
    void *arg;
};

struct watchdog;
BG_MUST_USE bg_status watchdog_start(struct bg_env *env, struct engine *engine, const struct watchdog_options *options,
                                     struct bg_error *err, struct watchdog **watchdog);
void watchdog_stop(struct watchdog *watchdog);

#endif
