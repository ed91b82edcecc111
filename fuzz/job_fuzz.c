// Job files: any text resolves or is refused with an error; what resolves reads back alike from its own YAML.
#include "train/job_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bg_status resolve(const char *text, size_t size, const char *override, struct job *job)
{
    struct bg_error err = {0};
    struct job_source source = {.file = "job.yaml", .text = text, .size = size, .stem = "job"};
    bg_status status = job_resolve(&source, &override, override ? 1 : 0, &err, job);
    BG_ASSERT(status == BG_OK || (err.status == status && err.text[0]));
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct job first, second;
    // The same bytes as an override, over a job that would do.
    static const char enough[] = "data: {train: x}";
    char *override = bg_strndup((const char *)data, size);
    if (resolve(enough, sizeof enough - 1, override, &first) == BG_OK)
        job_fini(&first);
    bg_free(override);
    if (resolve((const char *)data, size, NULL, &first) != BG_OK)
        return 0;
    char *yaml = job_to_yaml(&first);
    BG_ASSERT(resolve(yaml, strlen(yaml), NULL, &second) == BG_OK);
    char *again = job_to_yaml(&second);
    BG_ASSERT(strcmp(yaml, again) == 0);
    bg_free(again);
    bg_free(yaml);
    job_fini(&first);
    job_fini(&second);
    return 0;
}
