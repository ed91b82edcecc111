// Chat templates: any text is compiled or refused, and what was compiled is rendered over a conversation or refused,
// within bounds of time and memory. After a NUL byte, the input names the values as JSON.
#include "serve/template.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *values_of(const char *text, size_t size)
{
    json_t *values = json_loadb(text, size, 0, NULL);
    if (json_is_object(values))
        return values;
    json_decref(values);
    return json_pack("{s:[{s:s, s:s}, {s:s, s:s}, {s:s, s:n}], s:s, s:s, s:b}", "messages", "role", "system", "content",
                     "Be kind.", "role", "user", "content", " H\xc3\xa9 ", "role", "assistant", "content", "bos_token",
                     "<s>", "eos_token", "</s>", "add_generation_prompt", 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *end = size ? memchr(data, 0, size) : NULL;
    const size_t length = end ? (size_t)(end - text) : size;
    struct chat_template *template = NULL;
    struct bg_error err = {0};
    if (chat_template_compile(text, length, &err, &template)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    json_t *values = values_of(end ? end + 1 : "", end ? size - length - 1 : 0);
    char *out = NULL;
    size_t out_size = 0;
    if (chat_template_render(template, values, &err, &out, &out_size) == BG_OK)
        BG_ASSERT(out && strlen(out) <= out_size);
    else
        BG_ASSERT(err.text[0]);
    bg_free(out);
    json_decref(values);
    chat_template_destroy(template);
    return 0;
}
