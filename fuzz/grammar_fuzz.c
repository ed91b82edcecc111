// Grammars and JSON schemas: any text is compiled within bounds or refused; from what was compiled, tokens can always
// go on or end, and every token that the mask allows is accepted.
#include "serve/grammar_int.h"

#include "base/assert.h"
#include "base/mem.h"
#include "os/live.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *the_bytes(void)
{
    static struct tokenizer *bytes;
    static struct bg_env *env;
    const struct os_options options = {.threads = 1};
    struct bg_error err;
    if (!bytes && (os_env_create(&options, &err, &env) || tokenizer_open(env, "bytes", &err, &bytes)))
        __builtin_trap();
    return bytes;
}

static void walk(struct grammar *grammar, const uint8_t *data, size_t size)
{
    const struct tokenizer *t = the_bytes();
    struct grammar_state *state = grammar_begin(grammar);
    grammar_limit(grammar, 1 << 16, 1 << 20, 1 << 12); // ambiguous ones end within seconds, under sanitizers too
    for (size_t step = 0; step < 30; step++) {
        uint64_t mask[8] = {0};
        grammar_mask(state, mask);
        const uint32_t vocab = tokenizer_size(t), start = size ? data[step % size] : 0;
        uint32_t id = vocab;
        for (uint32_t i = 0; i < vocab && id == vocab; i++)
            if (mask[(start + i) % vocab / 64] >> (start + i) % vocab % 64 & 1)
                id = (start + i) % vocab;
        BG_ASSERT(id < vocab);                 // never empty
        if ((int32_t)id == tokenizer_eos(t)) { // where the text may end, or where no token can go on
            for (uint32_t i = 0; i < vocab && !grammar_may_end(state); i++)
                BG_ASSERT(i == id || !(mask[i / 64] >> i % 64 & 1));
            break;
        }
        BG_ASSERT(grammar_accept(state, (int32_t)id));
    }
    grammar_state_destroy(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct grammar *grammar = NULL;
    if (grammar_compile_gbnf((const char *)data, size, the_bytes(), &err, &grammar) == BG_OK) {
        walk(grammar, data, size);
        grammar_release(grammar);
    } else {
        BG_ASSERT(err.text[0]);
    }
    err = (struct bg_error){0};
    if (grammar_compile_schema((const char *)data, size, the_bytes(), &err, &grammar) == BG_OK) {
        walk(grammar, data, size);
        grammar_release(grammar);
    } else {
        BG_ASSERT(err.text[0]);
    }
    return 0;
}
