// Decisions about gradient traffic: each compares what its formulas in the header say.
#include "plan/cost/traffic.h"

enum { BYTES_EACH = 4 };
#define CLEARLY (1 - 1e-12) // less than rounding makes it

struct plan_traffic_bytes plan_traffic_bytes(const struct plan_traffic_layer *layer)
{
    const double inputs = (double)layer->inputs, outputs = (double)layer->outputs;
    const double workers = layer->workers, others = workers > 1 ? workers - 1 : 0;
    return (struct plan_traffic_bytes){
        .full = workers > 1 ? 2 * 2 * others / workers * inputs * outputs * BYTES_EACH : 0,
        .factors = 2 * others * (double)layer->rows * (inputs + outputs) * BYTES_EACH,
    };
}

bool plan_traffic_factors_pay(const struct plan_traffic_layer *layer)
{
    const struct plan_traffic_bytes bytes = plan_traffic_bytes(layer);
    return bytes.factors < bytes.full * CLEARLY;
}

// Chunk k is ready at compute_s (k + 1) / chunks, and leaves when the one before has arrived. Since both ready times
// and messages are evenly spaced, the last message waits for its own readiness or for all messages after the first.
double plan_traffic_chunked_s(double bytes, double compute_s, const struct plan_traffic_link *link, uint32_t chunks)
{
    const double message = link->latency_s + bytes / chunks / link->bytes_s;
    const double by_compute = compute_s + message, by_link = compute_s / chunks + chunks * message;
    return by_compute > by_link ? by_compute : by_link;
}

uint32_t plan_traffic_chunks(double bytes, double compute_s, const struct plan_traffic_link *link, uint32_t chunks_max)
{
    uint32_t best = 1;
    double least = plan_traffic_chunked_s(bytes, compute_s, link, 1);
    for (uint32_t chunks = 2; chunks <= chunks_max; chunks++) {
        const double time = plan_traffic_chunked_s(bytes, compute_s, link, chunks);
        if (time < least * CLEARLY) {
            least = time;
            best = chunks;
        }
    }
    return best;
}

double plan_traffic_form_s(enum plan_traffic_form form, double bytes, uint32_t workers,
                           const struct plan_traffic_link *link)
{
    uint32_t rounds = 0;
    while (((uint64_t)1 << rounds) < workers)
        rounds++;
    if (workers < 2)
        return 0;
    if (form == PLAN_TRAFFIC_TREE)
        return 2 * rounds * (link->latency_s + bytes / link->bytes_s);
    return 2 * (workers - 1.0) * (link->latency_s + bytes / workers / link->bytes_s);
}

enum plan_traffic_form plan_traffic_form(double bytes, uint32_t workers, const struct plan_traffic_link *link)
{
    return plan_traffic_form_s(PLAN_TRAFFIC_SCATTER, bytes, workers, link) <
                   plan_traffic_form_s(PLAN_TRAFFIC_TREE, bytes, workers, link)
               ? PLAN_TRAFFIC_SCATTER
               : PLAN_TRAFFIC_TREE;
}
