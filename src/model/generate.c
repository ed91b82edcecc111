// The generation loop. The token drawn after `n` fed tokens has absolute position n, which is all the sampler's
// randomness depends on besides seed and choice: going on from a longer prompt draws what the first run would have
// drawn.
#include "model/generate.h"

#include "base/mem.h"

// Holds back the bytes of a character that is not complete yet.
struct stream {
    generate_fn piece;
    void *arg;
    char held[4];
    size_t size, want; // bytes held; bytes of the character they begin
    bool open;         // false once the callback asked to stop
};

// Bytes of the character that `byte` begins; 1 where it begins none.
static size_t utf8_length(unsigned char byte)
{
    if (byte >= 0xc2 && byte <= 0xdf)
        return 2;
    if (byte >= 0xe0 && byte <= 0xef)
        return 3;
    return byte >= 0xf0 && byte <= 0xf4 ? 4 : 1;
}

static void put(struct stream *s, const char *bytes, size_t size)
{
    if (size > 0 && s->open && s->piece)
        s->open = s->piece(s->arg, bytes, size);
}

static void flush(struct stream *s)
{
    put(s, s->held, s->size);
    s->size = 0;
}

static void stream_bytes(struct stream *s, const char *bytes, size_t size)
{
    size_t done = 0; // bytes before this are out or held
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        bool continues = (byte & 0xc0) == 0x80;
        if (s->size > 0 && !continues)
            flush(s); // a character that was cut short: as it is
        if (s->size > 0) {
            s->held[s->size++] = bytes[i];
            done = i + 1;
            if (s->size == s->want)
                flush(s);
            continue;
        }
        size_t want = utf8_length(byte);
        if (want <= size - i)
            continue; // not cut by the end of these bytes: goes out with its neighbours
        put(s, bytes + done, i - done);
        s->held[0] = bytes[i];
        s->size = 1;
        s->want = want;
        done = i + 1;
    }
    put(s, bytes + done, size - done);
}

static void push(struct token_list *list, int32_t id)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity * 2 + 16;
        list->ids = bg_realloc_array(list->ids, list->capacity, sizeof *list->ids);
    }
    list->ids[list->count++] = id;
}

bg_status generate_prompt(const struct tokenizer *tokenizer, const char *text, size_t size, bool special,
                          struct bg_error *err, struct token_list *tokens)
{
    int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos(tokenizer);
    int32_t start = bos >= 0 ? bos : eos; // eos stands before every document but the first
    bool lead = (tokenizer_adds_bos(tokenizer) && bos >= 0) || (size == 0 && tokens->count == 0);
    if (lead && start < 0)
        return bg_fail(err, BG_INVALID,
                       "the prompt is empty and this tokenizer has no token that begins a text: give a prompt");
    if (lead)
        push(tokens, start);
    return size > 0 ? tokenizer_encode(tokenizer, text, size, special, err, tokens) : BG_OK;
}

bg_status generate_run(struct bg_env *env, struct decoder *decoder, struct sampler *sampler,
                       const struct tokenizer *tokenizer, const int32_t *prompt, uint32_t count,
                       const struct generate_options *options, struct bg_error *err, struct generate_result *result)
{
    const float *logits = NULL;
    uint64_t begin = env_now_ns(env);
    bg_status status = decoder_feed(decoder, prompt, count, err, &logits);
    if (status != BG_OK)
        return status;
    uint64_t fed = env_now_ns(env);

    struct generate_result r = {.end = GENERATE_LENGTH, .prompt_tokens = count, .last = -1};
    struct stream stream = {.piece = options->piece, .arg = options->arg, .open = true};
    int32_t previous = prompt[count - 1];
    while (r.tokens < options->tokens) {
        int32_t token = sampler_draw(sampler, logits, &options->sample, decoder_position(decoder));
        if (!options->ignore_eos && tokenizer_ends(tokenizer, token)) {
            r.end = GENERATE_EOS;
            break;
        }
        const char *bytes;
        size_t size;
        tokenizer_token_bytes(tokenizer, previous, token, &bytes, &size);
        stream_bytes(&stream, bytes, size);
        r.last = previous = token;
        r.tokens++;
        if (!stream.open || env->ops->stop_signal(env) != 0) {
            r.end = GENERATE_STOPPED;
            break;
        }
        if (r.tokens == options->tokens)
            break;
        if (decoder_position(decoder) == decoder_context(decoder)) {
            r.end = GENERATE_CONTEXT;
            break;
        }
        status = decoder_feed(decoder, &token, 1, err, &logits);
        if (status != BG_OK)
            return status;
    }
    flush(&stream);
    r.prompt_seconds = (double)(fed - begin) * 1e-9;
    r.seconds = (double)(env_now_ns(env) - fed) * 1e-9;
    *result = r;
    return BG_OK;
}
