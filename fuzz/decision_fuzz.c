// A logged decision of a fleet policy: any text is refused, or decided on again. Texts of many machines or layers are
// left out: they are right, but take long to decide on.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/fleet/fleet_ask.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_small(const char *text, const char *name, unsigned long most)
{
    const char *at = strstr(text, name);
    return !at || strtoul(at + strlen(name), NULL, 10) <= most;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    char *given = bg_strndup((const char *)data, size);
    if (is_small(given, " nodes ", 6) && is_small(given, " layers ", 30) && plan_fleet_decision_replay(given, &err))
        BG_ASSERT(err.text[0]);
    bg_free(given);
    return 0;
}
