// What a run directory holds besides models: manifests and steps.jsonl. Any bytes are read or refused with an error;
// what a manifest says is saved and read back alike only through files, so here it is enough that nothing breaks.
#include "base/assert.h"
#include "train/manifest.h"
#include "train/steplog.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct manifest manifest;
    if (manifest_parse("manifest.json", data, size, &err, &manifest) == BG_OK)
        manifest_fini(&manifest);
    for (int lenient = 0; lenient < 2; lenient++) {
        struct steplog log;
        if (steplog_parse("steps.jsonl", (const char *)data, size, lenient, &err, &log))
            continue;
        BG_ASSERT(log.begin[0] == 0 && log.begin[log.steps] <= size);
        steplog_fini(&log);
    }
    return 0;
}
