// Inside the fleet: fleet.c opens a run and ends it, fleet_children.c starts the processes and sees that none stays,
// fleet_host.c is what the controller does to the world.
#ifndef CLI_FLEET_INT_H
#define CLI_FLEET_INT_H

#include "cli/fleet.h"
#include "ctl/ctl.h"
#include "os/process.h"
#include "train/run.h"

struct fleet_child {
    struct os_process process;
    uint64_t token;
    uint32_t place; // among the workers, for its CPUs; UINT32_MAX: the shadow
    char name[24];
};
struct fleet_children {
    struct fleet_child *list;
    size_t count;
    uint32_t started[2]; // by role, to name them
    uint32_t first;      // workers of the first round: they get the faults of BRIGADE_FAULT
    uint32_t threads;    // of a worker
    bool pinned;         // every worker has CPUs of its own
    char executable[1024];
    const char *run;
};
BG_MUST_USE bg_status fleet_child_start(struct fleet_children *c, uint64_t token, enum message_role role,
                                        struct bg_error *err, const struct fleet_child **child);
// Ends the one that was started with this token; false: it is not here.
bool fleet_child_end(struct fleet_children *c, uint64_t token);
// Of the workers on such machines of a zone the first `keep` stay; how many of the others have not ended yet.
uint32_t fleet_children_keep(struct fleet_children *c, enum plan_rent rent, uint32_t zone, uint32_t keep);
// Those that an earlier controller started and that live (events.jsonl tells): at the end they are ours.
void fleet_children_adopt(struct bg_env *env, struct fleet_children *c, const char *run);
bool fleet_process_lives(int pid, uint64_t start_time);
// One that has ended since: its token and how, and it is forgotten. False: none.
bool fleet_child_ended(struct fleet_children *c, uint64_t *token, char why[64]);
// Those that have not ended within grace_ns are killed; then none of ours is left.
void fleet_children_end(struct bg_env *env, struct fleet_children *c, uint64_t grace_ns);

#endif
