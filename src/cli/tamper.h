// Frames that get lost, spoiled or late on purpose, for chaos: BRIGADE_TAMPER tells a worker what to do to the data
// frames it sends. Control frames pass: a link that loses those is a link that is down.
#ifndef CLI_TAMPER_H
#define CLI_TAMPER_H

#include "base/status.h"
#include "comm/shm/shm.h"

struct tamper {
    uint64_t seed, process, frames; // frames seen so far
    double drop, corrupt, delay;    // probabilities
    uint64_t delay_ns;
};
// "SEED:drop:1e-3,corrupt:1e-3,delay:1e-2:5ms": any of the three. `process` tells processes of one seed apart.
BG_MUST_USE bg_status tamper_parse(const char *text, uint64_t process, struct bg_error *err, struct tamper *tamper);
// For comm_shm_options.
bool tamper_frame(void *arg, uint32_t peer, struct wire_frame *frame, uint64_t *delay_ns);

#endif
