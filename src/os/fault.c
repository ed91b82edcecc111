// Faults at named protocol points: BRIGADE_FAULT tells one process to raise a signal on itself when it gets there.
#include "os/live_int.h"

void os_point(struct bg_env *env, const char *name)
{
    (void)env;
    (void)name;
}
