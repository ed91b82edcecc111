// From tokens to text: whole UTF-8 characters, stop strings found across tokens and never given out.
#ifndef SERVE_TEXT_H
#define SERVE_TEXT_H

#include "base/str.h"
#include "model/tokenizer.h"

struct text {
    const char *const *stops;
    uint32_t stop_count;
    struct bg_str held; // bytes not given out yet: they may belong to a character or to a stop string
    struct bg_str out;  // given out by the last call
    bool stopped;       // a stop string was found: what is before it has been given out
};

void text_init(struct text *text, const char *const *stops, uint32_t stop_count);
void text_fini(struct text *text);
void text_add(struct text *text, const char *bytes, size_t size); // out: what is certain now
void text_end(struct text *text);                                 // out: the rest

#endif
