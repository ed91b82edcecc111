// How many machines there will be: the predictor of Parcae (NSDI'24, section 6, and its authors' program): ARIMA(1,1,0)
// on a cleaned history, with bounds on what it may say.
#ifndef PLAN_PREDICTOR_H
#define PLAN_PREDICTOR_H

#include <stdint.h>

struct plan_predictor {
    uint32_t window;    // looks back at most so far
    uint32_t low, high; // no forecast is below or above; the present may be
    uint32_t step;      // nor further than this from the first one
};

// counts: (count) so far, the last is now, count > 0; forecast: (ahead).
// What is left out: the authors draw further losses from a Poisson distribution where the forecast is flat.
void plan_predict(const struct plan_predictor *predictor, const uint32_t *counts, uint32_t count, uint32_t ahead,
                  uint32_t *forecast);

#endif
