// Decisions about gradient traffic, as pure functions of sizes and links. They rewrite no plan:
// * Wait-free backpropagation (Poseidon, USENIX ATC 2017, section 3.1) and chunks (Centauri, ASPLOS 2024, section 4)
//   are in every plan already: COLL stands right behind a stage's last weight gradient, and PLAN_LAST lets its sums
//   leave unit by unit while the rest is computed. Moving or cutting a COLL in a list could only delay something.
// * Sending factors in place of a gradient (Poseidon, section 4.2) leaves every worker to sum outer products in its own
//   order, which is not the canonical tree: another numeric class, so no plan does it.
// * Who sums which part of a gradient does not show in its bits, so the two forms of an all-reduce below are equal in
//   them; the records of a plan do not name one, it is the message service's to choose.
#ifndef PLAN_TRAFFIC_H
#define PLAN_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

struct plan_traffic_link {
    double latency_s, bytes_s;
};

// ---- Full gradient or its factors ----
struct plan_traffic_layer {         // a weight (inputs, outputs), its gradient a sum over rows of outer products
    uint64_t rows, inputs, outputs; // rows: tokens of one worker's share of the step
    uint32_t workers;
};
struct plan_traffic_bytes { // that a worker sends and receives for the layer, fp32
    double full, factors;
};
// full: every element to whoever sums it and back, 2 (P - 1) / P of the gradient each way; factors: all rows to and
// from all others, P - 1 times rows * (inputs + outputs) each way. Factors pay for few rows and few workers.
struct plan_traffic_bytes plan_traffic_bytes(const struct plan_traffic_layer *layer);
bool plan_traffic_factors_pay(const struct plan_traffic_layer *layer);

// ---- Chunks ----
// A gradient that is ready bit by bit over `compute_s` leaves in `chunks` equal messages, one after the other: the time
// from the beginning until the last one has arrived.
double plan_traffic_chunked_s(double bytes, double compute_s, const struct plan_traffic_link *link, uint32_t chunks);
// The number of chunks, 1 to chunks_max, with the least such time; the fewest of equals.
uint32_t plan_traffic_chunks(double bytes, double compute_s, const struct plan_traffic_link *link, uint32_t chunks_max);

// ---- The form of an all-reduce ----
enum plan_traffic_form {
    PLAN_TRAFFIC_TREE,    // up the tree and down again, all of it: 2 ceil(log2 P) messages of all bytes
    PLAN_TRAFFIC_SCATTER, // everybody sums a part, then all parts go to all: 2 (P - 1) messages of bytes / P
};
double plan_traffic_form_s(enum plan_traffic_form form, double bytes, uint32_t workers,
                           const struct plan_traffic_link *link);
enum plan_traffic_form plan_traffic_form(double bytes, uint32_t workers, const struct plan_traffic_link *link);

#endif
