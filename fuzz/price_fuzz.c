// A list of prices, which a user writes or gets from elsewhere. Any bytes are read or refused; what is accepted holds
// prices that are numbers, and a machine pays one of them or none.
#include "base/assert.h"
#include "plan/cost/price.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_prices prices;
    if (plan_prices_parse((const char *)data, size, &err, &prices)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    struct plan_machine machines[] = {{.name = "a"}, {.name = "machine-7", .dollars_hour = -1}};
    struct plan_profile profile = {.machines = machines, .machine_count = 2};
    if (plan_prices_apply(&prices, &err, &profile) == BG_OK)
        BG_ASSERT(isfinite(machines[1].dollars_hour) && machines[1].dollars_hour >= 0);
    else
        BG_ASSERT(machines[1].dollars_hour < 0);
    plan_prices_fini(&prices);
    return 0;
}
