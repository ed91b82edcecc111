// OpenAI's requests and answers as JSON: what a body asks for, checked field by field, and the objects and chunks that
// go back. Knows nothing of HTTP. Errors have OpenAI's shape: {"error": {"message", "type", "code", "param"}}.
#ifndef SERVE_OPENAI_H
#define SERVE_OPENAI_H

#include "base/str.h"
#include "model/tokenizer.h"
#include "serve/request.h"

#include <jansson.h>

struct openai_error {
    int http;         // 400, 401, 404, 413, 429, 500, 503
    const char *type; // "invalid_request_error", "exceed_context_size_error", ..
    char param[64];   // the field at fault; "": none
    struct bg_error err;
    double retry_s; // 429 and 503: when to ask again
    json_t *more;   // further members of the error object; NULL: none
};
json_t *openai_error_json(struct openai_error *error); // takes error->more
// Fills *error and returns false, so that a refusal reads `return openai_refuse(...)`.
bool openai_refuse(struct openai_error *error, int http, const char *type, const char *param, const char *format, ...)
    BG_PRINTF(5, 6);

enum openai_kind { OPENAI_COMPLETION, OPENAI_CHAT };
enum { OPENAI_CHOICES_MAX = 32, OPENAI_STOPS_MAX = 16, OPENAI_STOP_BYTES_MAX = 1024, OPENAI_BIASES_MAX = 1024 };

struct openai_ask { // what one body asks for. Its pointers live as long as it does, or until its release
    enum openai_kind kind;
    json_t *body;
    json_t *messages;        // of a chat; borrowed
    struct bg_strlist texts; // prompts of a completion as text ..
    json_t *ids;             // .. or an array of arrays of token ids; borrowed or made
    uint32_t n;
    bool stream, include_usage, echo, return_tokens, cache_prompt;
    bool seed_given;
    struct serve_request request; // all but prompt, grammar, seed where none was given
    const char *grammar;          // GBNF; NULL: none
    json_t *schema;               // json_null(): any object; NULL: none
    int32_t *drawn;               // request.drawn points here
    const char *model;            // as asked for; NULL: none
};
// vocab: ids are below it. tokens_max: for where nothing is asked for.
bool openai_parse(enum openai_kind kind, const char *body, size_t size, uint32_t vocab, uint32_t tokens_max,
                  struct openai_error *error, struct openai_ask *ask);
// Frees what the body was read into. What is left: request, texts, flags, seed.
void openai_ask_release(struct openai_ask *ask);
void openai_ask_fini(struct openai_ask *ask);
// Checks a list of messages; contents of several parts of text become one text.
bool openai_messages(json_t *messages, struct openai_error *error);
// Where the field is there: it must be true or false.
bool openai_flag(const json_t *body, const char *name, bool *value, struct openai_error *error);

struct openai_reply { // one answer's frame
    const struct openai_ask *ask;
    const struct tokenizer *tokenizer;
    const char *id, *model;
    int64_t created;
};
// Text as JSON: bytes that are no UTF-8 become U+FFFD.
json_t *openai_text(const char *bytes, size_t size);

struct openai_choice { // of one answer, gathered or in the making
    uint32_t index;
    struct bg_str echo; // goes before the text
    struct bg_str text;
    json_int_t offset;              // characters of the tokens with logprobs so far
    int32_t *tokens;                // gathered: (token_count)
    struct serve_logprob *logprobs; // gathered: (token_count, 1 + top_logprobs); NULL: none wanted
    size_t token_count, token_capacity;
    enum serve_finish finish;
    uint32_t prompt_tokens, cached_tokens, drawn_tokens;
    bool begun; // a first chunk has gone out
};
// Chunks of a stream: `data: {..}\n\n`, as OpenAI defines them: the role first, finish_reason null until the last.
void openai_chunk(const struct openai_reply *reply, struct openai_choice *choice, const struct serve_event *event,
                  struct bg_str *out);
void openai_usage_chunk(const struct openai_reply *reply, const struct openai_choice *choices, uint32_t count,
                        struct bg_str *out);
// Adds an event to a choice that will be answered whole; then the whole answer.
void openai_gather(const struct openai_reply *reply, struct openai_choice *choice, const struct serve_event *event);
json_t *openai_answer(const struct openai_reply *reply, struct openai_choice *choices, uint32_t count);
void openai_choice_fini(struct openai_choice *choice);
const char *openai_finish(enum serve_finish finish); // "stop", "length", ..; NULL while it runs

enum { OPENAI_INPUTS_MAX = 256 };
struct openai_embed {      // what one body asks embeddings of
    json_t *body, *inputs; // an array of strings, or of arrays of ids
    bool base64;
    const char *model; // NULL: none
};
bool openai_parse_embed(const char *body, size_t size, uint32_t vocab, struct openai_error *error,
                        struct openai_embed *embed);
void openai_embed_fini(struct openai_embed *embed);
json_t *openai_embedding(bool as_base64, size_t index, const float *values, size_t dim);

#endif
