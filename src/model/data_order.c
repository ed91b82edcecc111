// Which sample stands where: a stateless permutation, so that any worker can name the samples of any step without
// having seen the steps before. A balanced Feistel network over the smallest even number of bits that holds n, its
// round function Philox keyed (seed, data) and counted by (half, round, epoch); values beyond n walk on along their
// cycle until they fall below n (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
// The order is part of every job's signature: data_test.c pins it.
#include "model/data.h"

#include "base/assert.h"
#include "base/philox.h"

enum { ROUNDS = 8 };

void data_micro_batch(const struct token_view *view, uint64_t seed, uint64_t step, uint32_t micro_batches,
                      uint32_t micro_batch, uint32_t batch, uint32_t length, int32_t *tokens, int32_t *targets)
{
    uint64_t samples = data_samples(view, length);
    BG_ASSERT(samples > 0 && micro_batch < micro_batches);
    uint64_t position = (step * micro_batches + micro_batch) * batch;
    for (uint32_t j = 0; j < batch; j++) {
        uint64_t start = data_order(seed, samples, position + j) * length;
        for (uint32_t t = 0; t < length; t++) {
            tokens[(size_t)j * length + t] = token_at(view, start + t);
            targets[(size_t)j * length + t] = token_at(view, start + t + 1);
        }
    }
}

// One pass over [0, 2^(2 half)).
static uint64_t feistel(struct bg_philox_key key, uint64_t epoch, unsigned half, uint64_t x)
{
    uint32_t mask = (uint32_t)((UINT64_C(1) << half) - 1);
    uint32_t left = (uint32_t)(x >> half) & mask, right = (uint32_t)x & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct bg_philox_counter word =
            bg_philox((struct bg_philox_counter){{right, round, (uint32_t)epoch, (uint32_t)(epoch >> 32)}}, key);
        uint32_t next = left ^ (word.c[0] & mask);
        left = right;
        right = next;
    }
    return (uint64_t)left << half | right;
}

uint64_t data_order(uint64_t seed, uint64_t samples, uint64_t position)
{
    BG_ASSERT(samples > 0);
    unsigned half = 1;
    while (half < 32 && (samples - 1) >> (2 * half))
        half++;
    struct bg_philox_key key = bg_philox_key(seed, BG_STREAM_DATA);
    uint64_t epoch = position / samples, x = position % samples;
    do
        x = feistel(key, epoch, half, x);
    while (x >= samples);
    return x;
}

uint64_t data_samples(const struct token_view *view, uint32_t length)
{
    BG_ASSERT(length > 0);
    return view->count ? (view->count - 1) / length : 0;
}
