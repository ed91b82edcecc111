// /v1/embeddings: what is asked, and one answer's entry.
#include "base/mem.h"
#include "serve/openai.h"

#include <string.h>

static const char invalid[] = "invalid_request_error";

static bool check_input(const json_t *input, uint32_t vocab, struct openai_error *error)
{
    if (json_is_string(input))
        return true;
    for (size_t i = 0; i < json_array_size(input); i++) {
        const json_t *id = json_array_get(input, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return openai_refuse(error, 400, invalid, "input", "input[%zu]: expected a token id below %u", i, vocab);
    }
    return json_is_array(input) ||
           openai_refuse(error, 400, invalid, "input", "input: expected strings only, or lists of token ids only");
}

static bool read_input(struct openai_embed *embed, uint32_t vocab, struct openai_error *error)
{
    json_t *input = json_object_get(embed->body, "input");
    const json_t *first = json_array_get(input, 0);
    if (json_is_string(input) || json_is_integer(first))
        embed->inputs = json_pack("[O]", input);
    else if (json_is_array(input) && first)
        embed->inputs = json_incref(input);
    else
        return openai_refuse(error, 400, invalid, "input", "input: expected a string, token ids, or a list of either");
    const size_t count = json_array_size(embed->inputs);
    if (count > OPENAI_INPUTS_MAX)
        return openai_refuse(error, 400, invalid, "input", "input: %zu inputs, at most %d", count, OPENAI_INPUTS_MAX);
    for (size_t i = 0; i < count; i++)
        if (!check_input(json_array_get(embed->inputs, i), vocab, error))
            return false;
    return true;
}

bool openai_parse_embed(const char *body, size_t size, uint32_t vocab, struct openai_error *error,
                        struct openai_embed *embed)
{
    json_error_t at;
    *embed = (struct openai_embed){.body = json_loadb(body, size, JSON_REJECT_DUPLICATES, &at)};
    const json_t *format = json_object_get(embed->body, "encoding_format"),
                 *model = json_object_get(embed->body, "model"),
                 *dimensions = json_object_get(embed->body, "dimensions");
    const char *how = json_string_value(format);
    bool good;
    embed->model = json_string_value(model);
    embed->base64 = how && strcmp(how, "base64") == 0;
    if (!json_is_object(embed->body))
        good = openai_refuse(error, 400, invalid, "", "the body is no JSON object%s%s", embed->body ? "" : ": ",
                             embed->body ? "" : at.text);
    else if (model && !json_is_null(model) && !embed->model)
        good = openai_refuse(error, 400, invalid, "model", "model: expected a string");
    else if (format && !json_is_null(format) && !embed->base64 && !(how && strcmp(how, "float") == 0))
        good = openai_refuse(error, 400, invalid, "encoding_format", "encoding_format: expected float or base64");
    else if (dimensions && !json_is_null(dimensions))
        good = openai_refuse(error, 400, invalid, "dimensions", "dimensions: not supported");
    else
        good = read_input(embed, vocab, error);
    if (!good)
        openai_embed_fini(embed);
    return good;
}

void openai_embed_fini(struct openai_embed *embed)
{
    json_decref(embed->inputs);
    json_decref(embed->body);
    *embed = (struct openai_embed){0};
}

static json_t *base64(const void *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *at = bytes;
    struct bg_str text = {0};
    for (size_t i = 0; i < size; i += 3) {
        const size_t left = size - i < 3 ? size - i : 3;
        const uint32_t three =
            (uint32_t)at[i] << 16 | (left > 1 ? (uint32_t)at[i + 1] << 8 : 0) | (left > 2 ? at[i + 2] : 0);
        char four[4];
        for (size_t k = 0; k < 4; k++)
            four[k] = k <= left ? digits[three >> (18 - 6 * k) & 63] : '=';
        bg_str_add_bytes(&text, four, 4);
    }
    json_t *json = json_stringn(bg_str_text(&text), text.size);
    bg_str_fini(&text);
    return json;
}

json_t *openai_embedding(bool as_base64, size_t index, const float *values, size_t dim)
{
    json_t *list;
    if (as_base64) { // 32-bit floats, little-endian, as everything that runs this
        list = base64(values, dim * sizeof *values);
    } else {
        list = json_array();
        for (size_t i = 0; i < dim; i++)
            json_array_append_new(list, json_real((double)values[i]));
    }
    return json_pack("{s:s, s:I, s:o}", "object", "embedding", "index", (json_int_t)index, "embedding", list);
}
