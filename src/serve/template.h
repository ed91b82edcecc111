// Chat templates: the subset of Jinja that tokenizer_config.json files use, rendered over JSON values. Errors are
// errors: nothing is silently left out. Bounded in time, depth and output.
#ifndef SERVE_TEMPLATE_H
#define SERVE_TEMPLATE_H

#include "base/status.h"

#include <jansson.h>
#include <stddef.h>

struct chat_template;

// Errors name line and column and what is not supported.
BG_MUST_USE bg_status chat_template_compile(const char *text, size_t size, struct bg_error *err,
                                            struct chat_template **compiled);
void chat_template_destroy(struct chat_template *compiled);
// values: an object with what the template reads: messages, add_generation_prompt, bos_token, eos_token, tools, ...
// *text: bg_free it. raise_exception() in the template gives BG_INVALID with its text.
BG_MUST_USE bg_status chat_template_render(const struct chat_template *compiled, json_t *values, struct bg_error *err,
                                           char **text, size_t *size);
// Where a model brings none: its family's usual one, or a plain "role: text" form.
extern const char chat_template_default[];

#endif
