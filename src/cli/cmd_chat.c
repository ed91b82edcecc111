// `brigade chat`: a conversation line by line; all turns stay in the KV cache. The special tokens of the tokenizer tell
// the template: ChatML, Llama 3, Llama 2; a model without any just continues what was typed.
#include "cli/speak.h"

#include "base/mem.h"
#include "os/host.h"

#include <string.h>

struct template_row {
    const char *name;
    const char *mark;                                  // a special token that only this family has
    const char *system_open, *system_close;            // around --system
    const char *user_open, *user_close, *answer_close; // user_close opens the answer as well
};

static const struct template_row templates[] = {
    {"plain", NULL, "", "\n", "", "", ""},
    {"chatml", "<|im_start|>", "<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n",
     "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"},
    {"llama3", "<|start_header_id|>", "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>",
     "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|>"},
    {"llama2", NULL, "[INST] <<SYS>>\n", "\n<</SYS>>\n\n[/INST]", "[INST] ", " [/INST]", ""},
};
enum { TEMPLATES = sizeof templates / sizeof *templates };

struct chat {
    struct cli *cli;
    struct speaker *speaker;
    const struct speak_flags *flags;
    const struct template_row *template;
    const char *system;
    int32_t last; // drawn but not fed yet; -1: none
    uint32_t turn;
};

static bool holds_token(const struct tokenizer *tokenizer, const char *text)
{
    struct token_list ids = {0};
    struct bg_error err;
    bool one = !tokenizer_encode(tokenizer, text, strlen(text), true, &err, &ids) && ids.count == 1;
    token_list_fini(&ids);
    return one;
}

static const struct template_row *find_template(const char *name, const struct tokenizer *tokenizer)
{
    for (size_t i = 0; i < TEMPLATES; i++) {
        if (name ? !strcmp(name, templates[i].name) : templates[i].mark && holds_token(tokenizer, templates[i].mark))
            return &templates[i];
    }
    return name ? NULL : &templates[0];
}

// The tokens of one user turn, after what the decoder holds.
static bg_status encode_turn(struct chat *c, const char *line, size_t size, struct bg_error *err,
                             struct token_list *ids)
{
    const struct template_row *t = c->template;
    struct bg_str text = {0};
    if (c->turn == 0 && c->system) {
        bg_str_add(&text, t->system_open);
        bg_str_add(&text, c->system);
        bg_str_add(&text, t->system_close);
    }
    if (c->turn > 0)
        bg_str_add(&text, t->answer_close);
    bg_str_add(&text, t->user_open);
    bg_str_add_bytes(&text, line, size);
    bg_str_add(&text, t->user_close);
    bg_status status = BG_OK;
    if (c->turn == 0)
        status = generate_prompt(c->speaker->tokenizer, bg_str_text(&text), text.size, true, err, ids);
    else
        status = tokenizer_encode(c->speaker->tokenizer, bg_str_text(&text), text.size, true, err, ids);
    bg_str_fini(&text);
    return status;
}

static bg_status answer(struct chat *c, const char *line, size_t size, struct bg_error *err)
{
    struct token_list turn = {0}, ids = {0};
    struct generate_result result = {0};
    struct generate_options options = {c->flags->sample, c->flags->tokens, c->flags->ignore_eos, speak_print, NULL};
    bg_status status = encode_turn(c, line, size, err, &turn);
    if (!status) {
        ids.ids = bg_alloc_array(turn.count + 1, sizeof *ids.ids);
        if (c->last >= 0)
            ids.ids[ids.count++] = c->last;
        memcpy(ids.ids + ids.count, turn.ids, turn.count * sizeof *ids.ids);
        ids.count += turn.count;
        status = generate_run(c->cli->env, c->speaker->decoder, c->speaker->sampler, c->speaker->tokenizer, ids.ids,
                              (uint32_t)ids.count, &options, err, &result);
    }
    if (!status) {
        c->last = result.last;
        c->turn++;
        printf("\n");
        if (result.end == GENERATE_CONTEXT)
            status = bg_fail(err, BG_FULL, "the context of %u is full: the conversation ends here",
                             decoder_context(c->speaker->decoder));
    }
    token_list_fini(&turn);
    token_list_fini(&ids);
    return status;
}

static int converse(struct chat *c)
{
    bool prompt = os_is_terminal(OS_STDIN);
    struct bg_error err = {0};
    char line[65536];
    if (prompt)
        fprintf(stderr, "template %s; an empty line or Ctrl-D ends the conversation\n", c->template->name);
    for (;;) {
        if (prompt)
            fprintf(stderr, "> ");
        if (!fgets(line, sizeof line, stdin))
            return 0;
        size_t size = strcspn(line, "\n");
        if (size == 0)
            return 0;
        bg_status status = answer(c, line, size, &err);
        if (status == BG_FULL) {
            fprintf(stderr, "brigade: %s\n", err.text);
            return 0;
        }
        if (status)
            return cli_fail(&err);
        if (c->cli->env->ops->stop_signal(c->cli->env))
            return 0;
    }
}

int cmd_chat(struct cli *cli, int argc, char **argv)
{
    const char *seed = NULL, *system = NULL, *name = NULL;
    struct speak_flags flags;
    struct cli_option options[SPEAK_OPTIONS + 2] = {
        {"system", CLI_TEXT, &system, "TEXT", "what the model is told before the first turn"},
        {"template", CLI_TEXT, &name, "NAME", "plain, chatml, llama3 or llama2 (default: by the tokenizer)"},
    };
    speak_options(&flags, &seed, options + 2);
    const struct cli_usage usage = {"chat MODEL [options]",
                                    "Reads a line, answers, remembers. MODEL as for generate.",
                                    options,
                                    SPEAK_OPTIONS + 2,
                                    1,
                                    1,
                                    false};
    struct bg_strlist words = {0};
    struct speaker speaker = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0)
        goto undo_words;
    code = speak_open(cli, words.items[0], seed, &flags, &speaker);
    if (!code) {
        struct chat chat = {cli, &speaker, &flags, find_template(name, speaker.tokenizer), system, -1, 0};
        code = chat.template
                   ? converse(&chat)
                   : cli_misuse("chat", "--template: expected plain, chatml, llama3 or llama2, found '%s'", name);
    }
    speak_close(&speaker);
undo_words:
    bg_strlist_fini(&words);
    return code;
}
