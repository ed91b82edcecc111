// Payloads of the control frames. The first byte picks the message. What decodes encodes to the same bytes again: a
// receiver and a sender cannot mean different things by one payload.
#include "base/assert.h"
#include "base/mem.h"
#include "wire/message.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Room for one byte more than there may be: a longer encoding shows.
static void same(const uint8_t *data, size_t size, const uint8_t *again, size_t written)
{
    BG_ASSERT(written == size && memcmp(data, again, size) == 0);
}

#define ROUND(name, fini)                                                                                              \
    static void name##_round(const uint8_t *data, size_t size, uint8_t *again)                                         \
    {                                                                                                                  \
        struct bg_error err = {0};                                                                                     \
        struct message_##name m;                                                                                       \
        if (message_##name##_decode(data, size, &err, &m)) {                                                           \
            BG_ASSERT(err.text[0] != '\0');                                                                            \
            return;                                                                                                    \
        }                                                                                                              \
        same(data, size, again, message_##name##_encode(&m, again, size + 1));                                         \
        fini;                                                                                                          \
    }
ROUND(hello, (void)0)
ROUND(welcome, (void)0)
ROUND(trouble, (void)0)
ROUND(commit, (void)0)
ROUND(task_done, (void)0)

static void report_round(const uint8_t *data, size_t size, uint8_t *again)
{
    struct message_report m;
    if (message_report_decode(data, size, NULL, &m))
        return;
    BG_ASSERT(size <= message_report_bytes(&m));
    same(data, size, again, message_report_encode(&m, again, size + 1));
    message_fini(m.memory);
}

static void generation_round(const uint8_t *data, size_t size, uint8_t *again)
{
    struct message_generation m;
    if (message_generation_decode(data, size, NULL, &m))
        return;
    BG_ASSERT(size <= message_generation_bytes(&m) && m.now[m.now_bytes] == '\0' && m.steady[m.steady_bytes] == '\0');
    same(data, size, again, message_generation_encode(&m, again, size + 1));
    message_fini(m.memory);
}

static void task_round(const uint8_t *data, size_t size, uint8_t *again)
{
    struct message_task m;
    if (message_task_decode(data, size, NULL, &m))
        return;
    BG_ASSERT(size <= message_task_bytes(&m));
    same(data, size, again, message_task_encode(&m, again, size + 1));
    message_fini(m.memory);
}

static double *doubles(const uint8_t *at, uint32_t count)
{
    double *values = bg_alloc_array((size_t)count + 1, sizeof *values);
    for (uint32_t i = 0; i < count; i++)
        values[i] = message_double(at, i);
    return values;
}

static void loss_round(const uint8_t *data, size_t size, uint8_t *again)
{
    struct message_loss m;
    if (message_loss_decode(data, size, NULL, &m))
        return;
    double *losses = doubles(m.losses, m.count);
    same(data, size, again, message_loss_encode(m.first, m.count, losses, again, size + 1));
    bg_free(losses);
}

static void proof_round(const uint8_t *data, size_t size, uint8_t *again)
{
    struct message_proof m;
    if (message_proof_decode(data, size, NULL, &m))
        return;
    uint64_t *sums = bg_alloc_array(m.count + 1, sizeof *sums);
    for (uint32_t u = 0; u < m.count; u++)
        sums[u] = message_u64(m.sums, u);
    same(data, size, again, message_proof_encode(m.count, m.held, sums, again, size + 1));
    bg_free(sums);
}

static void vote_round(const uint8_t *data, size_t size, uint8_t *again)
{
    struct message_vote m;
    if (message_vote_decode(data, size, NULL, &m))
        return;
    double *squares = doubles(m.squares, m.count);
    same(data, size, again, message_vote_encode(m.count, m.held, squares, m.computed, again, size + 1));
    bg_free(squares);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const rounds[])(const uint8_t *, size_t, uint8_t *) = {
        hello_round,      welcome_round, trouble_round, commit_round, task_done_round, report_round,
        generation_round, task_round,    loss_round,    vote_round,   proof_round,
    };
    if (size == 0)
        return 0;
    uint8_t *again = bg_alloc(size + 1);
    rounds[data[0] % (sizeof rounds / sizeof *rounds)](data + 1, size - 1, again);
    bg_free(again);
    return 0;
}
