// The generation loop: prompt in, pieces of text out as they are drawn.
#ifndef MODEL_GENERATE_H
#define MODEL_GENERATE_H

#include "model/decode.h"
#include "model/sample.h"
#include "model/tokenizer.h"

enum generate_end {
    GENERATE_EOS,     // the model ended its text (eos, or bos as llama2.c's models do)
    GENERATE_LENGTH,  // as many tokens as were asked for
    GENERATE_CONTEXT, // the decoder's context is full
    GENERATE_STOPPED, // the callback or a stop signal asked for it
};

// Bytes of generated text: whole UTF-8 characters where the tokens make some, other bytes as they are. All pieces
// together are exactly the bytes of the tokens. Returns false to stop.
typedef bool (*generate_fn)(void *arg, const char *bytes, size_t size);

struct generate_options {
    struct sample_options sample;
    uint32_t tokens;   // most tokens to draw
    bool ignore_eos;   // go on after eos
    generate_fn piece; // may be NULL
    void *arg;
};

struct generate_result {
    enum generate_end end;
    uint32_t prompt_tokens, tokens; // fed before the first draw; drawn (the ending eos is not counted)
    int32_t last;                   // last token drawn; -1: none
    double prompt_seconds, seconds;
};

// The tokens a text starts from: bos where the tokenizer wants one; a lone bos or eos where the text is empty and the
// tokenizer has either; else BG_INVALID. `special`: see tokenizer_encode.
BG_MUST_USE bg_status generate_prompt(const struct tokenizer *tokenizer, const char *text, size_t size, bool special,
                                      struct bg_error *err, struct token_list *tokens);

// Feeds `prompt` (at least one token) after what the decoder holds already, then draws. The last token drawn has not
// been fed: whoever goes on puts it before the next prompt. BG_FULL: the prompt itself does not fit.
BG_MUST_USE bg_status generate_run(struct bg_env *env, struct decoder *decoder, struct sampler *sampler,
                                   const struct tokenizer *tokenizer, const int32_t *prompt, uint32_t count,
                                   const struct generate_options *options, struct bg_error *err,
                                   struct generate_result *result);

#endif
