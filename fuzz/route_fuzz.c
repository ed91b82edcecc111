// What replicas tell the router: metrics and event streams. Any bytes are read or passed over, and the records of a
// stream are the same however it was cut.
#include "base/assert.h"
#include "serve/route_policy.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *record, *again;
    struct route_sample sample;
    size_t record_size, again_size;
    if (route_read_sample(text, size, &sample))
        BG_ASSERT(isfinite(sample.ttft_s) && isfinite(sample.gap_s) && isfinite(sample.queued_s));
    for (size_t at = 0, used; (used = route_record(text + at, size - at, &record, &record_size)); at += used) {
        BG_ASSERT(used <= size - at);
        BG_ASSERT(!record || (record >= text + at && record + record_size < text + at + used));
        BG_ASSERT(route_record(text + at, used, &again, &again_size) == used && again == record);
        BG_ASSERT(route_record(text + at, used - 1, &again, &again_size) == 0);
    }
    return 0;
}
