// Lists of passes, from the command line or a job. Any text is read or refused; what is read is within what plans take,
// and its passes say themselves again.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/pass/pass.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_pass_wish wish, again;
    char text[64], twice[64], *list = bg_alloc_array(size + 1, 1);
    if (size > 0)
        memcpy(list, data, size);
    if (plan_passes_parse(list, &err, &wish)) {
        BG_ASSERT(err.text[0]);
    } else {
        BG_ASSERT(wish.passes.chunks <= PLAN_CHUNKS_MAX && wish.passes.owner <= PLAN_WORKERS_MAX);
        plan_passes_text(&wish.passes, text);
        BG_ASSERT(plan_passes_parse(text, &err, &again) == BG_OK);
        plan_passes_text(&again.passes, twice);
        BG_ASSERT(strcmp(text, twice) == 0);
    }
    bg_free(list);
    return 0;
}
