// What a step is made of and what it runs on: the costs of a model's units, machines, links. Measured
// (train/measure.h), written by hand, or both. Seconds are those of a machine of speed 1 that has all its cores to
// itself.
//
// Text, one record a line, canonical order, blank lines and lines that begin with # are skipped:
//   profile 1
//   unit embed|block|head|other forward_s S input_s S weight_s S parameter_bytes B gradient_bytes B stash_bytes B
//       cut_bytes B                                   (one line each, in order)
//   overhead op_s S message_s S message_byte_s S commit_s S step_byte_s S reduce_byte_s S tie_bytes B
//       sharing X disk_byte_s S work_bytes B process_bytes B
//   link inner|outer latency_s S bytes_s B
//   machine NAME speed X memory BYTES host H cores C threads T quota X period_s S dollars_hour P watts W idle_watts W
// Behind a kind or name any key may be missing: it is 0 then, a machine's speed and threads 1.
#ifndef PLAN_PROFILE_H
#define PLAN_PROFILE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum plan_unit_kind { PLAN_UNIT_EMBED, PLAN_UNIT_BLOCK, PLAN_UNIT_HEAD, PLAN_UNIT_OTHER };
struct plan_unit { // of one micro-batch
    enum plan_unit_kind kind;
    double forward_s, input_s, weight_s; // forward; backward for the input; backward for the weights
    double parameter_bytes;              // fp32 weights; gradient and two moments are as large, each
    double gradient_bytes;               // of the gradient that travels (an embedding's rows); 0: all of it
    double stash_bytes;                  // kept from forward to backward
    double cut_bytes;                    // the output, which travels where a stage ends (its gradient is as large)
};

enum { PLAN_NAME_MAX = 64 };
struct plan_machine { // runs one worker
    char name[PLAN_NAME_MAX];
    double speed;        // times as fast as the profile's
    double memory_bytes; // 0: no limit
    uint32_t host;       // machines of one host share its cores, and the inner link
    double cores;        // of the host, that the job may use; 0: it shares nothing
    double threads;      // of this worker
    double quota;        // what its threads may have of every period_s, once gone they wait for the next; 0: all of it
    double period_s;
    double dollars_hour, watts, idle_watts;
};
// Over long: of speed and threads what the quota leaves.
static inline double plan_machine_speed(const struct plan_machine *machine)
{
    return machine->quota > 0 ? machine->speed * machine->quota : machine->speed;
}

static inline double plan_machine_threads(const struct plan_machine *machine)
{
    return machine->quota > 0 ? machine->threads * machine->quota : machine->threads;
}

struct plan_link {
    double latency_s, bytes_s; // bytes_s 0: no bytes take time
};

struct plan_profile {
    struct plan_unit *units;
    uint32_t unit_count;
    struct plan_machine *machines;
    uint32_t machine_count;
    struct plan_link inner, outer; // between machines of one host, and of two
    double op_s;                   // of every compute op, beside its units
    double message_s;              // of every message, at the sender and at the receiver: time of the worker itself
    double message_byte_s;         // of every byte of one, likewise (checks)
    double commit_s;               // votes and commit of a step
    double step_byte_s;            // optimizer, a parameter byte
    double reduce_byte_s;          // folding a pair of partial sums, a byte of one
    double tie_bytes;              // of a table that the first unit shares with the last, in the parameter_bytes of
                                   // both; 0: they share nothing
    double sharing;                // what is left of a core that two threads or more share (caches are filled anew
                                   // at every turn); 0: all of it
    double disk_byte_s;            // of a byte of a stash that waits on disk, each time it comes into memory: time
                                   // of the worker itself; 0: not known
    double work_bytes;             // of a worker that computes, a micro-batch of its largest item: what all ops share
    double process_bytes;          // of every worker
};

#define PLAN_PROFILE_UNITS_MAX    4096
#define PLAN_PROFILE_MACHINES_MAX 1024
#define PLAN_PROFILE_NUMBER_MAX   1e18

void plan_profile_fini(struct plan_profile *profile);
char *plan_profile_format(const struct plan_profile *profile); // bg_free it
// Errors name the line and what was expected. All numbers lie between 0 and 1e18; speeds > 0.
BG_MUST_USE bg_status plan_profile_parse(const char *text, size_t size, struct bg_error *err,
                                         struct plan_profile *profile);

struct plan_graph;
// A graph of layers (graph.h) as a chain of units: one for each node, behind those that it reads. What is cut between
// two units is the output of every node that is read behind the cut. Half of a backward is the input's. No machines.
void plan_profile_from_graph(const struct plan_graph *graph, struct plan_profile *profile);

#endif
