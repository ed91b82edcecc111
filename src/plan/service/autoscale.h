// How many replicas a service wants: requests of the last minute over what one replica is to serve, with hysteresis, as
// in SkyServe (Mao et al., "SkyServe: Serving AI Models across Regions and Clouds with Spot Instances", EuroSys'25).
#ifndef PLAN_AUTOSCALE_H
#define PLAN_AUTOSCALE_H

#include <stdint.h>

struct plan_autoscale {
    double rate;         // requests a second that one replica is to serve, > 0
    double window_s;     // requests are counted over so long
    double interval_s;   // between two decisions
    double up_s, down_s; // the wish must last so long before it is granted
    uint32_t least, most;
};
struct plan_autoscale_state { // all 0 at the start
    uint32_t target;
    uint32_t up, down; // decisions for which the wish has been above, below the target
};

// requests: of the last window. Returns the new target. From none it grants the wish at once.
uint32_t plan_autoscale(const struct plan_autoscale *scale, uint64_t requests, struct plan_autoscale_state *state);

#endif
