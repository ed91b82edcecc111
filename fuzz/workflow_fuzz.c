// Workflows from JSON: whatever is read has passed the check, and is placed without a fault.
#include "plan/service/jellybean_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct plan_jellybean_file *file;
    if (plan_jellybean_read("fuzz", data, size, &err, &file))
        return 0;
    if (file->workflow.operator_count <= 3) { // more may take seconds
        struct plan_jellybean_placement placement;
        plan_jellybean_place(&file->workflow, &placement);
    }
    plan_jellybean_file_destroy(file);
    return 0;
}
