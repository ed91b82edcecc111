// The router's decisions. No clock, no I/O, no state but what the caller holds.
#include "serve/route_policy.h"

#include "base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_size(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool faster(const struct route_load *x, const struct route_load *y)
{
    if (x->latency_s < y->latency_s || y->latency_s < x->latency_s)
        return x->latency_s < y->latency_s;
    return x->in_flight < y->in_flight;
}

uint32_t route_choose(const struct route_load *loads, uint32_t count, double quantile, uint32_t liked, uint32_t turn)
{
    uint32_t sorted[ROUTE_REPLICAS_MAX], usable = 0, best = ROUTE_NOBODY;
    for (uint32_t i = 0; i < count && i < ROUTE_REPLICAS_MAX; i++)
        if (loads[i].usable)
            sorted[usable++] = loads[i].in_flight;
    if (usable == 0)
        return ROUTE_NOBODY;
    qsort(sorted, usable, sizeof *sorted, by_size);
    const uint32_t hot = sorted[(uint32_t)(quantile * (usable - 1))];
    if (liked < count && loads[liked].usable && loads[liked].in_flight <= hot)
        return liked;
    for (uint32_t k = 0; k < count; k++) {
        const uint32_t i = (uint32_t)(((uint64_t)turn + k) % count);
        if (loads[i].usable && loads[i].in_flight <= hot && (best == ROUTE_NOBODY || faster(&loads[i], &loads[best])))
            best = i;
    }
    return best;
}

uint32_t route_prefixes(const void *bytes, size_t size, uint64_t hashes[ROUTE_BLOCKS_MAX])
{
    const char *at = bytes;
    uint64_t chain[2] = {0};
    uint32_t count = 0;
    for (; count < ROUTE_BLOCKS_MAX && size - (size_t)count * ROUTE_BLOCK >= ROUTE_BLOCK; count++) {
        chain[1] = bg_xxh64(at + (size_t)count * ROUTE_BLOCK, ROUTE_BLOCK);
        hashes[count] = chain[0] = bg_xxh64(chain, sizeof chain);
    }
    return count;
}

uint32_t route_affinity_find(const struct route_affinity *a, const uint64_t *hashes, uint32_t count)
{
    while (count-- > 0)
        if (a->hash[hashes[count] % ROUTE_AFFINITY_SLOTS] == hashes[count])
            return a->replica[hashes[count] % ROUTE_AFFINITY_SLOTS];
    return ROUTE_NOBODY;
}

void route_affinity_note(struct route_affinity *a, const uint64_t *hashes, uint32_t count, uint32_t replica)
{
    for (uint32_t i = 0; i < count; i++) {
        a->hash[hashes[i] % ROUTE_AFFINITY_SLOTS] = hashes[i];
        a->replica[hashes[i] % ROUTE_AFFINITY_SLOTS] = replica;
    }
}

static void keep_within(struct route_credit *c)
{
    c->credits = c->credits < 1 ? 1 : c->credits > ROUTE_CREDITS_MAX ? ROUTE_CREDITS_MAX : c->credits;
}

void route_credit_update(struct route_credit *c, double waited_s, double target_s, uint32_t clients, uint32_t in_use)
{
    const double more = 0.001 * clients > 1 ? 0.001 * clients : 1, less = 0.02; // the paper's alpha and beta
    if (waited_s < target_s) {
        c->credits += 2.0 * in_use >= c->credits ? more : 0;
    } else {
        const double factor = 1 - less * (waited_s - target_s) / target_s;
        c->credits *= factor > 0.5 ? factor : 0.5;
    }
    keep_within(c);
}

void route_credit_refused(struct route_credit *c)
{
    c->credits *= 0.5;
    keep_within(c);
}

static double whole_steps(double seconds, double step_s, uint32_t most)
{
    if (!(seconds > 0))
        return 0;
    const double steps = step_s > 0 ? floor(seconds / step_s) : most;
    return steps < most ? steps : most;
}

struct route_arrangement route_arrange(const struct route_notice *n)
{
    const double grace = n->grace_s > 0 ? n->grace_s : 0;
    if (n->tokens_left * n->token_s <= grace)
        return (struct route_arrangement){ROUTE_FINISH, n->tokens_left, 0};
    const double steps = whole_steps(grace, n->token_s, n->tokens_left);
    const struct route_arrangement recompute = {ROUTE_RECOMPUTE, (uint32_t)steps,
                                                (n->tokens_held + steps) * n->recompute_s};
    if (!(n->bandwidth > 0))
        return recompute;
    const double token_ship_s = n->bytes_token / n->bandwidth, held_ship_s = n->tokens_held * token_ship_s;
    if (held_ship_s > grace)
        return recompute;
    const double k = whole_steps(grace - held_ship_s, n->token_s + token_ship_s, n->tokens_left);
    const struct route_arrangement ship = {ROUTE_SHIP, (uint32_t)k, (n->tokens_held + k) * token_ship_s};
    return ship.pause_s < recompute.pause_s ? ship : recompute;
}

// ---- Reading ----
bool route_read_sample(const char *text, size_t size, struct route_sample *sample)
{
    double running = 0, waiting = 0;
    struct {
        const char *name;
        double *value;
    } const wanted[] = {{"brigade_requests_running ", &running},
                        {"brigade_requests_waiting ", &waiting},
                        {"brigade_time_to_first_token_seconds_sum ", &sample->ttft_s},
                        {"brigade_time_to_first_token_seconds_count ", &sample->ttft_count},
                        {"brigade_inter_token_latency_seconds_sum ", &sample->gap_s},
                        {"brigade_inter_token_latency_seconds_count ", &sample->gap_count},
                        {"brigade_queue_seconds_sum ", &sample->queued_s},
                        {"brigade_queue_seconds_count ", &sample->queued_count},
                        {"brigade_prompt_tokens_total ", &sample->prompt_tokens},
                        {"brigade_cached_tokens_total ", &sample->cached_tokens}};
    enum { WANTED = sizeof wanted / sizeof *wanted };
    unsigned found = 0;
    *sample = (struct route_sample){0};
    for (const char *line = text, *end = text + size; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        const size_t length = (size_t)((stop ? stop : end) - line);
        for (unsigned i = 0; i < WANTED; i++) {
            const size_t name = strlen(wanted[i].name);
            char number[40], *rest;
            if (length <= name || length - name >= sizeof number || memcmp(line, wanted[i].name, name) != 0)
                continue;
            memcpy(number, line + name, length - name);
            number[length - name] = '\0';
            const double value = strtod(number, &rest);
            if (rest != number && *rest == '\0' && value >= 0 && value < 1e18) {
                *wanted[i].value = value;
                found |= 1u << i;
            }
        }
        line += length + 1;
    }
    sample->running = (uint32_t)(running < 1e9 ? running : 1e9);
    sample->waiting = (uint32_t)(waiting < 1e9 ? waiting : 1e9);
    return found == (1u << WANTED) - 1;
}

size_t route_record(const char *bytes, size_t size, const char **data, size_t *data_size)
{
    for (size_t i = 1; i < size; i++) {
        if (bytes[i] != '\n' || bytes[i - 1] != '\n')
            continue;
        size_t begin = 0;
        *data = NULL;
        *data_size = 0;
        if (i > 5 && memcmp(bytes, "data:", 5) == 0) {
            begin = bytes[5] == ' ' ? 6 : 5;
            *data = bytes + begin;
            *data_size = i - 1 - begin;
        }
        return i + 1;
    }
    return 0;
}
