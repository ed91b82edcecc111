// What machines cost: a list of prices, by name, put into the machines of a profile.
//
// Text, one price a line, blank lines and what stands behind a # are skipped:
//   NAME DOLLARS            an hour of the machine NAME; a NAME that ends in * is the beginning of names
// A colon behind the name and quotes around it are allowed, so that a flat YAML mapping reads alike.
#ifndef PLAN_PRICE_H
#define PLAN_PRICE_H

#include "plan/cost/profile.h"

#include <stdbool.h>

struct plan_price {
    char name[PLAN_NAME_MAX]; // without the *
    bool beginning;
    double dollars_hour;
};
struct plan_prices {
    struct plan_price *rows;
    size_t count;
};

#define PLAN_PRICES_MAX 65536

void plan_prices_fini(struct plan_prices *prices);
// Errors name the line. A name stands once.
BG_MUST_USE bg_status plan_prices_parse(const char *text, size_t size, struct bg_error *err,
                                        struct plan_prices *prices);
// Into dollars_hour of every machine: the price of its name, else of its longest beginning. BG_INVALID names a machine
// that has none; nothing is changed then.
BG_MUST_USE bg_status plan_prices_apply(const struct plan_prices *prices, struct bg_error *err,
                                        struct plan_profile *profile);

#endif
