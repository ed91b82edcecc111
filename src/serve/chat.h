// A chat as text: its template over the messages and the tokenizer's control tokens; and what the template tells of the
// model: the token that ends a turn.
#ifndef SERVE_CHAT_H
#define SERVE_CHAT_H

#include "model/tokenizer.h"
#include "serve/template.h"

// opens: the answer's beginning comes last. extra: further values for the template; NULL: none. *text: bg_free it.
BG_MUST_USE bg_status chat_render(const struct chat_template *chat, const struct tokenizer *tokenizer, json_t *messages,
                                  bool opens, const json_t *extra, struct bg_error *err, char **text, size_t *size);
// The control token that the template writes right after an answer; -1: none.
int32_t chat_turn_end(const struct chat_template *chat, const struct tokenizer *tokenizer);

#endif
