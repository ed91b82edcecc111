// Templates are asked, not known: what ends a turn is read off an answer that the template was given to write. One that
// refuses such a chat, or writes no control token there, tells nothing.
#include "serve/chat.h"

#include "base/mem.h"
#include "serve/openai.h"

#include <string.h>

bg_status chat_render(const struct chat_template *chat, const struct tokenizer *tokenizer, json_t *messages, bool opens,
                      const json_t *extra, struct bg_error *err, char **text, size_t *size)
{
    static const char *const names[2] = {"bos_token", "eos_token"};
    const int32_t ids[2] = {tokenizer_bos(tokenizer), tokenizer_eos(tokenizer)};
    json_t *values = json_pack("{s:O, s:b}", "messages", messages, "add_generation_prompt", (int)opens);
    for (size_t i = 0; i < 2; i++) {
        const char *bytes = "";
        size_t length = 0;
        float score;
        enum token_kind kind;
        if (ids[i] >= 0)
            tokenizer_piece(tokenizer, ids[i], &bytes, &length, &score, &kind);
        json_object_set_new(values, names[i], openai_text(bytes, length));
    }
    if (json_is_object(extra))
        json_object_update_missing(values, (json_t *)(uintptr_t)extra);
    bg_status status = chat_template_render(chat, values, err, text, size);
    json_decref(values);
    return status;
}

// Where `what` begins last; NULL: nowhere.
static const char *last_of(const char *text, const char *what)
{
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, what)); at++)
        found = at;
    return found;
}

int32_t chat_turn_end(const struct chat_template *chat, const struct tokenizer *tokenizer)
{
    static const char answer[] = "An answer of 5 words.";
    struct bg_error err;
    struct token_list tokens = {0};
    char *text = NULL;
    size_t size;
    int32_t end = -1;
    json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "user", "content", "Ask.", "role", "assistant",
                                 "content", answer);
    bg_status status = chat_render(chat, tokenizer, messages, false, NULL, &err, &text, &size);
    json_decref(messages);
    const char *after = status ? NULL : last_of(text, answer);
    if (after) {
        after += strlen(answer);
        after += strspn(after, " \n");
    }
    if (after && !tokenizer_encode(tokenizer, after, strlen(after), true, &err, &tokens) && tokens.count > 0) {
        const char *bytes;
        size_t length;
        float score;
        enum token_kind kind;
        tokenizer_piece(tokenizer, tokens.ids[0], &bytes, &length, &score, &kind);
        end = kind == TOKEN_CONTROL && tokens.ids[0] != tokenizer_bos(tokenizer) ? tokens.ids[0] : -1;
    }
    token_list_fini(&tokens);
    bg_free(text);
    return end;
}
