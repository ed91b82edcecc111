// Inside the room: numbers between bounds as rules.
#ifndef SERVE_GRAMMAR_NUMBER_H
#define SERVE_GRAMMAR_NUMBER_H

#include "base/json.h"
#include "serve/grammar_int.h"

// A rule of the numbers (or integers, where `whole`) that keep minimum, maximum, exclusiveMinimum and exclusiveMaximum
// of the schema, with at most 16 digits before and 16 after the point, without exponents. NULL, or why there is none.
const char *grammar_rule_of_number(struct grammar_text *g, const json_t *schema, bool whole, uint32_t *rule);

#endif
