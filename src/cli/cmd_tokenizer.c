// `brigade tokenizer train|encode|decode`: learn a vocabulary from text, and turn text into ids and back. Without
// --text or ids on the command line the input is standard input; decode prints exactly the bytes that the ids stand
// for.
#include "cli/cli.h"

#include "base/json.h"
#include "base/mem.h"
#include "model/io.h"
#include "model/tokenizer.h"
#include "os/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

// A tokenizer file or directory, or a run directory, whose newest checkpoint has one.
static bg_status open_source(struct cli *cli, const char *source, struct bg_error *err, struct tokenizer **tokenizer)
{
    bg_status status = tokenizer_open(cli->env, source, err, tokenizer);
    struct bg_file_info info;
    char *directory;
    if (status != BG_NOT_FOUND || cli->env->ops->path_info(cli->env, source, NULL, &info) != BG_OK || !info.exists ||
        model_resolve(cli->env, source, NULL, &directory) != BG_OK)
        return status;
    if (strcmp(directory, source) != 0)
        status = tokenizer_open(cli->env, directory, err, tokenizer);
    bg_free(directory);
    return status;
}

// ---- train

static int train(struct cli *cli, int argc, char **argv)
{
    uint32_t vocab = 0;
    const char *out = NULL;
    const struct cli_option options[] = {
        {"vocab", CLI_U32, &vocab, "N", "tokens to learn: 256 bytes, N - 257 merges and <|endoftext|>"},
        {"out", CLI_TEXT, &out, "DIR", "where tokenizer.json is written"},
    };
    const struct cli_usage usage = {
        "tokenizer train FILE... --vocab N --out DIR [--json]",
        "Learns a byte-level BPE from text files, directories and .jsonl, packed (.gz, .zst) or "
        "not. The same files give the same tokenizer.",
        options,
        sizeof options / sizeof *options,
        1,
        SIZE_MAX,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct tokenizer *tokenizer = NULL;
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0)
        goto undo_words;
    if (!out || vocab == 0)
        code = cli_misuse("tokenizer train", "%s is missing", out ? "--vocab" : "--out");
    else if (vocab < 257 || vocab > 1000000)
        code = cli_misuse("tokenizer train", "--vocab: expected 257 to 1000000, found %u", vocab);
    else
        code = cli_env(cli, 1);
    if (code)
        goto undo_words;
    bg_status status =
        tokenizer_train(cli->env, (const char *const *)words.items, words.count, vocab, &err, &tokenizer);
    if (status == BG_OK)
        status = tokenizer_save(cli->env, tokenizer, out, &err);
    if (status != BG_OK) {
        code = cli_fail(&err);
        goto undo_words;
    }
    char hex[65];
    tokenizer_sha256(tokenizer, hex);
    if (cli->json)
        printf("{\"vocab\": %u, \"merges\": %zu, \"sha256\": \"%s\"}\n", tokenizer_size(tokenizer),
               tokenizer_merge_count(tokenizer), hex);
    else
        printf("%s/tokenizer.json: %u tokens, %zu merges, sha256 %s\n", out, tokenizer_size(tokenizer),
               tokenizer_merge_count(tokenizer), hex);
    if (tokenizer_size(tokenizer) < vocab)
        fprintf(stderr, "brigade: %u of %u tokens: no pair of tokens occurs twice any more\n",
                tokenizer_size(tokenizer), vocab);
    code = cli_finish_output();
undo_words:
    tokenizer_destroy(tokenizer);
    bg_strlist_fini(&words);
    return code;
}

// ---- encode

static void print_ids(struct cli *cli, const struct tokenizer *tokenizer, const struct token_list *list)
{
    if (!cli->json) {
        for (size_t i = 0; i < list->count; i++)
            printf(i ? " %d" : "%d", (int)list->ids[i]);
        printf("\n");
        return;
    }
    json_t *ids = json_array(), *pieces = json_array();
    for (size_t i = 0; i < list->count; i++) {
        const char *piece;
        size_t size;
        float score;
        enum token_kind kind;
        tokenizer_piece(tokenizer, list->ids[i], &piece, &size, &score, &kind);
        json_array_append_new(ids, json_integer(list->ids[i]));
        json_array_append_new(pieces, json_stringn(piece, size));
    }
    json_t *object = json_pack("{s:I, s:o, s:o}", "count", (json_int_t)list->count, "ids", ids, "pieces", pieces);
    cli_print_json(object);
}

static int encode(struct cli *cli, int argc, char **argv)
{
    const char *text = NULL;
    bool bos = false, plain = false;
    const struct cli_option options[] = {
        {"text", CLI_TEXT, &text, "TEXT", "what to encode (default: standard input)"},
        {"bos", CLI_FLAG, &bos, NULL, "start as the model's texts do, where the tokenizer says so"},
        {"plain", CLI_FLAG, &plain, NULL, "special tokens in the text are text"},
    };
    const struct cli_usage usage = {"tokenizer encode SOURCE [--text TEXT] [--bos] [--plain] [--json]",
                                    "Prints the ids of a text. SOURCE: bytes, a tokenizer file, or a directory that "
                                    "holds one (a model, a run).",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    1,
                                    true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct bg_str input = {0};
    struct token_list list = {0};
    struct tokenizer *tokenizer = NULL;
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0 || (code = cli_env(cli, 1)) != 0)
        goto undo;
    if (open_source(cli, words.items[0], &err, &tokenizer) != BG_OK) {
        code = cli_fail(&err);
        goto undo;
    }
    if (text)
        bg_str_add(&input, text);
    else if ((code = cli_read_input(&input)) != 0)
        goto undo;
    if (bos && tokenizer_adds_bos(tokenizer)) {
        list.ids = bg_alloc_array(1, sizeof *list.ids);
        list.ids[list.count++] = tokenizer_bos(tokenizer);
        list.capacity = 1;
    }
    if (tokenizer_encode(tokenizer, bg_str_text(&input), input.size, !plain, &err, &list) != BG_OK) {
        code = cli_fail(&err);
        goto undo;
    }
    print_ids(cli, tokenizer, &list);
    code = cli_finish_output();
undo:
    token_list_fini(&list);
    tokenizer_destroy(tokenizer);
    bg_str_fini(&input);
    bg_strlist_fini(&words);
    return code;
}

// ---- decode

// Ids separated by blanks, commas or brackets, as encode prints them.
static bg_status parse_ids(const struct tokenizer *tokenizer, const char *text, struct bg_error *err,
                           struct token_list *list)
{
    static const char between[] = " \t\r\n,[]";
    for (text += strspn(text, between); *text; text += strspn(text, between)) {
        size_t size = strcspn(text, between);
        char *end;
        errno = 0;
        long id = strtol(text, &end, 10);
        if (end != text + size || errno || id < 0 || id >= (long)tokenizer_size(tokenizer))
            return bg_fail(err, BG_FORMAT, "'%.*s' is not an id: expected 0 to %u", (int)(size < 40 ? size : 40), text,
                           tokenizer_size(tokenizer) - 1);
        if (list->count == list->capacity) {
            list->capacity = list->capacity ? 2 * list->capacity : 256;
            list->ids = bg_realloc_array(list->ids, list->capacity, sizeof *list->ids);
        }
        list->ids[list->count++] = (int32_t)id;
        text += size;
    }
    return BG_OK;
}

static void print_text(struct cli *cli, const struct tokenizer *tokenizer, const struct token_list *list)
{
    struct bg_str out = {0};
    for (size_t i = 0; i < list->count; i++) {
        const char *bytes;
        size_t size;
        tokenizer_token_bytes(tokenizer, i ? list->ids[i - 1] : -1, list->ids[i], &bytes, &size);
        bg_str_add_bytes(&out, bytes, size);
    }
    if (cli->json) {
        json_t *text = json_stringn(bg_str_text(&out), out.size); // NULL where it is not UTF-8
        struct bg_str hex = {0};
        for (size_t i = 0; !text && i < out.size; i++)
            bg_str_addf(&hex, "%02x", (unsigned)(uint8_t)out.data[i]);
        json_t *object = text ? json_pack("{s:o}", "text", text) : json_pack("{s:s}", "hex", bg_str_text(&hex));
        cli_print_json(object);
        bg_str_fini(&hex);
    } else {
        fwrite(bg_str_text(&out), 1, out.size, stdout);
        if (os_is_terminal(OS_STDOUT))
            putchar('\n');
    }
    bg_str_fini(&out);
}

static int decode(struct cli *cli, int argc, char **argv)
{
    const struct cli_usage usage = {"tokenizer decode SOURCE [ID...] [--json]",
                                    "Prints the text of ids, which stand on the command line or on standard input.",
                                    NULL,
                                    0,
                                    1,
                                    SIZE_MAX,
                                    true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct bg_str input = {0};
    struct token_list list = {0};
    struct tokenizer *tokenizer = NULL;
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0 || (code = cli_env(cli, 1)) != 0)
        goto undo;
    if (open_source(cli, words.items[0], &err, &tokenizer) != BG_OK) {
        code = cli_fail(&err);
        goto undo;
    }
    if (words.count == 1 && (code = cli_read_input(&input)) != 0)
        goto undo;
    for (size_t i = 1; i < words.count; i++)
        bg_str_addf(&input, "%s ", words.items[i]);
    if (parse_ids(tokenizer, bg_str_text(&input), &err, &list) != BG_OK) {
        code = cli_fail(&err);
        goto undo;
    }
    print_text(cli, tokenizer, &list);
    code = cli_finish_output();
undo:
    token_list_fini(&list);
    tokenizer_destroy(tokenizer);
    bg_str_fini(&input);
    bg_strlist_fini(&words);
    return code;
}

int cmd_tokenizer(struct cli *cli, int argc, char **argv)
{
    static const struct {
        const char *name;
        char full[20]; // what errors point to the help of
        cli_verb_fn run;
    } verbs[] = {{"train", "tokenizer train", train},
                 {"encode", "tokenizer encode", encode},
                 {"decode", "tokenizer decode", decode}};
    static const struct cli_usage usage = {"tokenizer train|encode|decode ... (each has its own --help)",
                                           "train: learn a byte-level BPE from text. encode: ids of a text. decode: "
                                           "text of ids.",
                                           NULL,
                                           0,
                                           0,
                                           0,
                                           false};
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(argv[1], verbs[i].name) == 0) {
            char full[sizeof verbs->full];
            memcpy(full, verbs[i].full, sizeof full);
            argv[1] = full;
            return verbs[i].run(cli, argc - 1, argv + 1);
        }
    }
    struct bg_strlist words = {0};
    if (argc > 1 && argv[1][0] != '-')
        return cli_misuse("tokenizer", "'%s' is not one of train, encode, decode", argv[1]);
    int code = argc > 1 ? cli_parse(cli, &usage, argc, argv, &words) : -1;
    bg_strlist_fini(&words);
    return code >= 0 ? code : cli_misuse("tokenizer", "expected train, encode or decode");
}
