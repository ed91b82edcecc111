// Philox4x32-10: ten rounds of two 32x32 multiplications, the key bumped by Weyl constants between rounds.
// Constants and round as in Salmon et al., SC'11, section 3.3. Stateless: the word at a counter never depends
// on what was drawn before, which is what makes dropout and data order free of layout.
#include "base/philox.h"

struct bg_philox_counter bg_philox(struct bg_philox_counter counter, struct bg_philox_key key)
{
    uint32_t c0 = counter.c[0], c1 = counter.c[1], c2 = counter.c[2], c3 = counter.c[3];
    uint32_t k0 = key.k[0], k1 = key.k[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)c0 * 0xD2511F53u;
        uint64_t p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (struct bg_philox_counter){{c0, c1, c2, c3}};
}

struct bg_philox_key bg_philox_key(uint64_t seed, enum bg_stream stream)
{
    struct bg_philox_counter counter = {{(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)stream, 0}};
    struct bg_philox_counter word = bg_philox(counter, (struct bg_philox_key){{0, 0}});
    return (struct bg_philox_key){{word.c[0], word.c[1]}};
}
