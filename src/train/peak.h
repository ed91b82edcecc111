// The peak of this machine, measured: register-only FMA chains on all lanes. For utilisation figures, never for bits.
#ifndef TRAIN_PEAK_H
#define TRAIN_PEAK_H

#include "base/env.h"
#include "kern/kern.h"

// Flops per second of all lanes together; takes some 20 ms.
double peak_flops(struct bg_env *env, const struct kern *kern);

#endif
