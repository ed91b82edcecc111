// The sampler. Order of the filters, as Hugging Face transformers applies them: temperature, top-k, top-p, min-p.
//   scaled = (logit - max logit) / temperature, in fp32;
//   top-k keeps the k largest, ties to the lower id;
//   top-p keeps, of what is left and renormalised, the shortest run in descending order (ties by id) whose sum reaches
//   top_p; min-p keeps what has at least min_p times the largest probability; the most probable token always stays.
// What is kept is put in order of ids, made probabilities by the kernels' softmax, and drawn by one 53-bit uniform from
// counter {position low, high, choice, 0} in the sampling stream: same bits in every ISA, whatever else is decoded
// meanwhile.
#include "model/sample.h"

#include "base/mem.h"
#include "base/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sampler {
    const struct kern *kern;
    uint32_t vocab;
    float *scaled, *p; // (vocab)
    uint32_t *heap;    // (vocab) ids
    uint32_t *kept;    // (vocab) ids
};

struct sampler *sampler_create(const struct kern *kern, uint32_t vocab)
{
    struct sampler *s = bg_alloc(sizeof *s);
    s->kern = kern;
    s->vocab = vocab;
    s->scaled = bg_alloc_array(vocab, sizeof *s->scaled);
    s->p = bg_alloc_array(vocab, sizeof *s->p);
    s->heap = bg_alloc_array(vocab, sizeof *s->heap);
    s->kept = bg_alloc_array(vocab, sizeof *s->kept);
    return s;
}

void sampler_destroy(struct sampler *sampler)
{
    if (!sampler)
        return;
    bg_free(sampler->scaled);
    bg_free(sampler->p);
    bg_free(sampler->heap);
    bg_free(sampler->kept);
    bg_free(sampler);
}

enum { RUN = 64, SIDE = 16 };

// Whether one of RUN numbers is larger: no branch for each, and as many side by side as the compiler likes.
static bool any_larger(const float *x, float than)
{
    int larger[SIDE] = {0}, any = 0;
    for (size_t i = 0; i < RUN; i += SIDE)
        for (size_t j = 0; j < SIDE; j++)
            larger[j] |= x[i + j] > than;
    for (size_t j = 0; j < SIDE; j++)
        any |= larger[j];
    return any;
}

// The first of the largest; a NaN only where there is nothing else.
static int32_t greedy(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    while (best + 1 < vocab && isnan(logits[best]))
        best++;
    if (isnan(logits[best]))
        return 0;
    for (uint32_t i = best + 1; i < vocab; i++) {
        while (vocab - i > RUN && !any_larger(logits + i, logits[best]))
            i += RUN;
        if (logits[i] > logits[best])
            best = i;
    }
    return (int32_t)best;
}

static bool before(const float *scaled, uint32_t a, uint32_t b)
{
    return scaled[a] > scaled[b] || (scaled[a] == scaled[b] && a < b);
}

static void sift(uint32_t *heap, uint32_t count, uint32_t i, const float *scaled)
{
    uint32_t id = heap[i];
    for (uint32_t child = 2 * i + 1; child < count; child = 2 * i + 1) {
        if (child + 1 < count && before(scaled, heap[child + 1], heap[child]))
            child++;
        if (!before(scaled, heap[child], id))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = id;
}

static uint32_t pop(uint32_t *heap, uint32_t *count, const float *scaled)
{
    uint32_t top = heap[0];
    heap[0] = heap[--*count];
    if (*count > 0)
        sift(heap, *count, 0, scaled);
    return top;
}

// Fills kept with the ids that top-k and top-p leave, most probable first; returns their number.
static uint32_t filter_ranked(struct sampler *s, const struct sample_options *o)
{
    uint32_t count = s->vocab, most = o->top_k > 0 && o->top_k < s->vocab ? o->top_k : s->vocab, kept = 0;
    bool nucleus = o->top_p < 1.0f;
    for (uint32_t i = 0; i < count; i++)
        s->heap[i] = i;
    for (uint32_t i = count / 2; i-- > 0;)
        sift(s->heap, count, i, s->scaled);

    // Without top-k the sum of top-p runs over everything, in order of ids; with it over the k, in order of rank.
    double total = 0.0, sum = 0.0;
    if (most == s->vocab && nucleus) {
        memcpy(s->p, s->scaled, s->vocab * sizeof *s->p);
        s->kern->softmax(s->p, s->vocab);
        while (kept < most && (kept == 0 || sum < (double)o->top_p)) {
            uint32_t id = pop(s->heap, &count, s->scaled);
            sum += (double)s->p[id];
            s->kept[kept++] = id;
        }
        return kept;
    }
    for (; kept < most; kept++)
        s->kept[kept] = pop(s->heap, &count, s->scaled);
    if (!nucleus)
        return kept;
    for (uint32_t i = 0; i < kept; i++)
        s->p[i] = s->scaled[s->kept[i]];
    s->kern->softmax(s->p, kept);
    for (uint32_t i = 0; i < kept; i++) {
        total += (double)s->p[i];
        if (total >= (double)o->top_p)
            return i + 1;
    }
    return kept;
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t filter(struct sampler *s, const struct sample_options *o)
{
    uint32_t kept = s->vocab;
    if (o->top_k > 0 || o->top_p < 1.0f) {
        kept = filter_ranked(s, o);
        qsort(s->kept, kept, sizeof *s->kept, by_id);
    } else {
        for (uint32_t i = 0; i < kept; i++)
            s->kept[i] = i;
    }
    for (uint32_t i = 0; i < kept; i++)
        s->p[i] = s->scaled[s->kept[i]];
    s->kern->softmax(s->p, kept);
    if (!(o->min_p > 0.0f))
        return kept;

    float most = 0.0f;
    for (uint32_t i = 0; i < kept; i++)
        most = s->p[i] > most ? s->p[i] : most;
    float least = (o->min_p < 1.0f ? o->min_p : 1.0f) * most;
    uint32_t left = 0;
    for (uint32_t i = 0; i < kept; i++) {
        if (s->p[i] >= least)
            s->kept[left++] = s->kept[i];
    }
    for (uint32_t i = 0; i < left; i++)
        s->p[i] = s->scaled[s->kept[i]];
    s->kern->softmax(s->p, left);
    return left;
}

static double uniform(const struct sample_options *o, uint64_t position)
{
    struct bg_philox_counter counter = {{(uint32_t)position, (uint32_t)(position >> 32), o->choice, 0}};
    counter = bg_philox(counter, bg_philox_key(o->seed, BG_STREAM_SAMPLING));
    return (double)(((uint64_t)counter.c[0] << 32 | counter.c[1]) >> 11) * 0x1p-53;
}

int32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sample_options *options,
                     uint64_t position)
{
    int32_t best = greedy(logits, sampler->vocab);
    float most = logits[best];
    if (!(options->temperature > 0.0f) || !isfinite(most))
        return best;
    for (uint32_t i = 0; i < sampler->vocab; i++) {
        float scaled = (logits[i] - most) / options->temperature;
        sampler->scaled[i] = isnan(scaled) ? -INFINITY : scaled;
    }
    uint32_t kept = filter(sampler, options);
    double total = 0.0, sum = 0.0;
    for (uint32_t i = 0; i < kept; i++)
        total += (double)sampler->p[i];
    double at = uniform(options, position) * total;
    int32_t last = best;
    for (uint32_t i = 0; i < kept; i++) {
        if (!(sampler->p[i] > 0.0f))
            continue;
        last = (int32_t)sampler->kept[i];
        sum += (double)sampler->p[i];
        if (sum > at)
            break;
    }
    return last;
}
