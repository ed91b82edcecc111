// `brigade generate`: prints prompt and continuation on standard output, nothing added. What else there is to tell (a
// drawn seed, a full context) goes to standard error.
#include "cli/speak.h"

#include "base/mem.h"

#include <string.h>

static bool collect(void *arg, const char *bytes, size_t size)
{
    bg_str_add_bytes(arg, bytes, size);
    return true;
}

static void print_json(const char *prompt, const struct bg_str *text, const struct speak_flags *flags,
                       const struct generate_result *r)
{
    static const char *const ends[] = {"eos", "length", "context", "stopped"}; // in the order of enum generate_end
    json_t *body = json_stringn(bg_str_text(text), text->size);
    json_t *asked = json_string(prompt);
    json_t *o = json_pack("{s:o, s:o, s:s, s:i, s:i, s:I, s:f, s:f}", "prompt", asked ? asked : json_null(), "text",
                          body ? body : json_null(), "end", ends[r->end], "prompt_tokens", (int)r->prompt_tokens,
                          "tokens", (int)r->tokens, "seed", (json_int_t)flags->sample.seed, "prompt_seconds",
                          r->prompt_seconds, "seconds", r->seconds);
    cli_print_json(o);
}

static int generate(struct cli *cli, struct speaker *s, const struct speak_flags *flags, const struct bg_str *prompt)
{
    struct bg_error err = {0};
    struct token_list ids = {0};
    struct bg_str text = {0};
    struct generate_result result = {0};
    struct generate_options options = {flags->sample, flags->tokens, flags->ignore_eos,
                                       cli->json ? collect : speak_print, cli->json ? &text : NULL};
    bg_status status = generate_prompt(s->tokenizer, bg_str_text(prompt), prompt->size, true, &err, &ids);
    if (!status && !cli->json && !speak_print(NULL, bg_str_text(prompt), prompt->size))
        status = bg_fail(&err, BG_IO, "standard output is closed");
    if (!status)
        status = generate_run(cli->env, s->decoder, s->sampler, s->tokenizer, ids.ids, (uint32_t)ids.count, &options,
                              &err, &result);
    if (!status && cli->json)
        print_json(bg_str_text(prompt), &text, flags, &result);
    fflush(stdout);
    if (!status && result.end == GENERATE_CONTEXT)
        fprintf(stderr, "\nbrigade: stopped after %u tokens: the context of %u is full\n", result.tokens,
                decoder_context(s->decoder));
    token_list_fini(&ids);
    bg_str_fini(&text);
    return status ? cli_fail(&err) : 0;
}

int cmd_generate(struct cli *cli, int argc, char **argv)
{
    const char *prompt = NULL, *file = NULL, *seed = NULL;
    struct speak_flags flags;
    struct cli_option options[SPEAK_OPTIONS + 2] = {
        {"prompt", CLI_TEXT, &prompt, "TEXT", "what to continue (default: nothing, the start token)"},
        {"prompt-file", CLI_TEXT, &file, "FILE", "the same from a file; - for standard input"},
    };
    speak_options(&flags, &seed, options + 2);
    const struct cli_usage usage = {
        "generate MODEL [--prompt TEXT] [options]",
        "Prints the prompt and its continuation, nothing added. The tokens are a function of model, prompt, options\n"
        "and seed. MODEL is a run directory, a checkpoint, a Hugging Face directory or a .gguf.",
        options,
        SPEAK_OPTIONS + 2,
        1,
        1,
        true};
    struct bg_strlist words = {0};
    struct speaker speaker = {0};
    struct bg_str text = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && prompt && file)
        code = cli_misuse("generate", "--prompt or --prompt-file, not both");
    if (code >= 0)
        goto undo_words;
    code = speak_open(cli, words.items[0], seed, &flags, &speaker);
    if (!code && file)
        code = speak_read(cli, file, &text);
    else if (!code && prompt)
        bg_str_add(&text, prompt);
    if (!code)
        code = generate(cli, &speaker, &flags, &text);
    bg_str_fini(&text);
    speak_close(&speaker);
undo_words:
    bg_strlist_fini(&words);
    return code;
}
