// Double-precision exp, log, pow, sin, cos whose bits do not depend on the C library, the compiler or the CPU:
// plain C, no fma, no tables that a build could change. For schedules, RoPE tables, bias corrections and
// initial values (NUMERICS 2). Within 2 ulp.
#ifndef BASE_DMATH_H
#define BASE_DMATH_H

double bg_dexp(double x);
double bg_dlog(double x);
double bg_dpow(double x, double y); // x > 0
double bg_dsin(double x);           // |x| <= 2^30
double bg_dcos(double x);

#endif
