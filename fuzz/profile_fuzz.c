// A profile's text, which a user writes or gets from another machine. Any bytes are read or refused; what is accepted
// says the same again.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/profile.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_profile profile, again;
    if (plan_profile_parse((const char *)data, size, &err, &profile)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    char *text = plan_profile_format(&profile);
    BG_ASSERT(plan_profile_parse(text, strlen(text), &err, &again) == BG_OK);
    char *twice = plan_profile_format(&again);
    BG_ASSERT(strcmp(text, twice) == 0);
    plan_profile_fini(&profile);
    plan_profile_fini(&again);
    bg_free(text);
    bg_free(twice);
    return 0;
}
