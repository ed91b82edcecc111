// A replica's stream, as the router takes it in: any bytes become chunks of one answer or are refused, and what is kept
// of them is bounded by what was asked for.
#include "base/assert.h"
#include "base/mem.h"
#include "serve/route/route_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ASKED = 40 };

static void forget(struct visit *visit, struct answer *answer, struct branch *branch)
{
    record_drop_held(branch);
    bg_str_fini(&visit->out);
    bg_str_fini(&branch->text);
    bg_free(branch->tokens);
    json_decref(branch->logprobs);
    json_decref(branch->ids);
    json_decref(branch->finish);
    json_decref(answer->frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct route route = {0};
    struct visit visit = {.route = &route};
    struct branch branch = {0};
    struct answer answer = {.visit = &visit,
                            .branches = &branch,
                            .n = 1,
                            .count = 1,
                            .max_tokens = ASKED,
                            .stream = data[0] & 1,
                            .chat = data[0] & 2,
                            .logprobs = data[0] & 4,
                            .return_tokens = data[0] & 8};
    branch.answer = &answer;
    const char *text = (const char *)data + 1, *record, *why;
    size_t at = 0, used, record_size;
    while (!branch.done && (used = route_record(text + at, size - 1 - at, &record, &record_size)) > 0) {
        at += used;
        if (record && !record_take(&branch, record, record_size, &why)) {
            BG_ASSERT(!branch.done && *why);
            record_drop_held(&branch); // the next one goes on
        }
        BG_ASSERT(branch.count <= ASKED);
        BG_ASSERT(answer.stream || visit.out.size == 0);
    }
    if (branch.done && !answer.stream) {
        json_t *whole = record_answer(&answer);
        BG_ASSERT(
            json_is_string(json_object_get(json_array_get(json_object_get(whole, "choices"), 0), "finish_reason")));
        json_decref(whole);
    }
    forget(&visit, &answer, &branch);
    return 0;
}
