// Structured output: a grammar (GBNF, or a JSON schema) compiled to an automaton over bytes, and the tokens that it
// allows next. Fails closed: what cannot be compiled is refused by name, and an answer never leaves the grammar. White
// space between JSON values is at most one blank or newline with indentation, numbers have at most 16 + 16 digits.
#ifndef SERVE_GRAMMAR_H
#define SERVE_GRAMMAR_H

#include "model/tokenizer.h"

struct grammar;       // shared by the answers to a request; made by one thread, then walked by one
struct grammar_state; // of one answer

// Errors name the rule, line and column, or the schema's path (#/properties/a), and what was expected. Bounded in time
// and memory whatever the text.
BG_MUST_USE bg_status grammar_compile_gbnf(const char *text, size_t size, const struct tokenizer *tokenizer,
                                           struct bg_error *err, struct grammar **grammar);
// schema: JSON text; NULL: any JSON object (response_format json_object).
BG_MUST_USE bg_status grammar_compile_schema(const char *schema, size_t size, const struct tokenizer *tokenizer,
                                             struct bg_error *err, struct grammar **grammar);
void grammar_retain(struct grammar *grammar);
void grammar_release(struct grammar *grammar);

struct grammar_state *grammar_begin(const struct grammar *grammar);
struct grammar_state *grammar_state_copy(const struct grammar_state *state);
void grammar_state_destroy(struct grammar_state *state);
// Bit i of mask (ceil(vocab / 64) words): token i may come next; what ends a text (tokenizer_ends, but for bos) may
// come where the text may end, or where no token can go on (a grammar that asks for bytes which no token has, or that
// takes too long); who draws it there has a text that was cut off. Never empty. A function of the grammar and of
// the tokens accepted since grammar_begin(), whoever else walks the grammar and whichever masks were asked for.
void grammar_mask(struct grammar_state *state, uint64_t *mask);
// False: the token does not fit, or the text took too long (the state is as it was). What a mask allows is accepted.
bool grammar_accept(struct grammar_state *state, int32_t token);
bool grammar_may_end(const struct grammar_state *state);

#endif
