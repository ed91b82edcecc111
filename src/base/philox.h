// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): counted randomness.
// Key = (seed, stream), NUMERICS "Randomness and data".
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stdint.h>

enum bg_stream { BG_STREAM_INIT = 1, BG_STREAM_DATA = 2, BG_STREAM_DROPOUT = 3, BG_STREAM_SAMPLING = 4 };

struct bg_philox_key {
    uint32_t k[2];
};
struct bg_philox_counter {
    uint32_t c[4];
};

// 64-bit seeds are folded so that (seed, stream) pairs stay distinct: k0 = low word ^ rotl(high word, 16) * odd
// constant is NOT used; instead k = first two words of philox(counter = (seed lo, seed hi, stream, 0), key = 0).
struct bg_philox_key bg_philox_key(uint64_t seed, enum bg_stream stream);
struct bg_philox_counter bg_philox(struct bg_philox_counter counter, struct bg_philox_key key);
// 24-bit uniform in [0,1): (word >> 8) * 2^-24.
static inline float bg_uniform(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

#endif
