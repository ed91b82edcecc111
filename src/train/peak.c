// Measures the FMA peak: each lane runs bursts of about a millisecond; the fastest of several rounds counts, because a
// shared machine only ever slows a burst down.
#include "train/peak.h"

struct burst {
    const struct kern *kern;
    uint64_t rounds, flops;
};

static void run_burst(void *arg, size_t index, unsigned lane)
{
    struct burst *burst = arg;
    float sink[16];
    (void)lane;
    uint64_t flops = burst->kern->fma_burst(sink, burst->rounds);
    if (index == 0)
        burst->flops = flops;
}

double peak_flops(struct bg_env *env, const struct kern *kern)
{
    struct burst burst = {kern, 200000, 0};
    double best = 0;
    for (int attempt = 0; attempt < 12; attempt++) {
        uint64_t start = env_now_ns(env);
        env_parallel_for(env, env->threads, run_burst, &burst);
        double seconds = 1e-9 * (double)(env_now_ns(env) - start);
        double rate = seconds > 0 ? (double)burst.flops * env->threads / seconds : 0;
        best = rate > best ? rate : best;
    }
    return best;
}
