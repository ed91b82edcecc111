// Chat templates: texts, tags and comments, with Hugging Face's settings (the first newline after a tag is dropped, and
// blanks before a tag that begins a line); statements; running them.
#include "serve/template.h"

#include "base/mem.h"
#include "serve/template_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char chat_template_default[] =
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";

// ---- Nodes ----
struct template_node *template_node(struct template_parser *p, enum template_kind kind)
{
    struct template_node *n = bg_alloc(sizeof *n);
    n->kind = kind;
    n->line = p->line;
    n->next = p->made->all;
    return p->made->all = n;
}

void template_add(struct template_node *n, struct template_node *child)
{
    n->child = bg_realloc_array(n->child, n->child_count + 1u, sizeof *n->child);
    n->child[n->child_count++] = child;
}

void template_add_name(struct template_node *n, const char *name, size_t size)
{
    n->names = bg_realloc_array(n->names, n->name_count + 1u, sizeof *n->names);
    n->names[n->name_count++] = name ? bg_strndup(name, size) : NULL;
}

void chat_template_destroy(struct chat_template *compiled)
{
    if (!compiled)
        return;
    for (struct template_node *n = compiled->all, *next; n; n = next) {
        next = n->next;
        for (uint32_t i = 0; i < n->name_count; i++)
            bg_free(n->names[i]);
        bg_free(n->names);
        bg_free(n->child);
        bg_free(n->text);
        json_decref(n->value);
        bg_free(n);
    }
    bg_free(compiled);
}

void template_refuse(struct template_parser *p, const char *format, ...)
{
    char text[512];
    va_list args;
    if (p->failed)
        return;
    p->failed = true;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bg_fail(p->err, BG_INVALID, "line %u: %s", p->line, text);
}

// ---- Statements ----
static struct template_node *parse_block(struct template_parser *p, const char *const *ends, const char **end);

static void end_tag(struct template_parser *p)
{
    template_skip(p);
    const bool strip = p->at < p->end && *p->at == '-';
    p->at += strip;
    if (p->end - p->at < 2 || memcmp(p->at, "%}", 2) != 0) {
        template_refuse(p, "expected %%} here: \"%.20s\"", p->end - p->at > 0 ? p->at : "");
        return;
    }
    p->at += 2;
    if (strip) {
        for (; p->at < p->end && strchr(" \t\r\n", *p->at); p->at++)
            p->line += *p->at == '\n';
    } else if (p->at < p->end && *p->at == '\n') {
        p->line++;
        p->at++;
    } else if (p->end - p->at > 1 && memcmp(p->at, "\r\n", 2) == 0) {
        p->line++;
        p->at += 2;
    }
}

static void expect_end(struct template_parser *p, const char *found, const char *wanted)
{
    if (!p->failed && (!found || strcmp(found, wanted) != 0))
        template_refuse(p, "expected {%% %s %%}", wanted);
    end_tag(p);
}

static struct template_node *parse_if(struct template_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct template_node *n = template_node(p, T_IF);
    const char *end = "elif";
    while (!p->failed && strcmp(end, "elif") == 0) {
        template_add(n, template_expression(p));
        end_tag(p);
        template_add(n, parse_block(p, ends, &end));
    }
    if (!p->failed && strcmp(end, "else") == 0) {
        end_tag(p);
        template_add(n, parse_block(p, ends + 2, &end));
    }
    expect_end(p, end, "endif");
    return n;
}

static void parse_variables(struct template_parser *p, struct template_node *n)
{
    do {
        const size_t size = template_word(p);
        if (size == 0)
            template_refuse(p, "expected the name of a variable");
        template_add_name(n, p->at, size);
        p->at += size;
    } while (!p->failed && template_take(p, ","));
}

static struct template_node *parse_for(struct template_parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct template_node *n = template_node(p, T_FOR), *condition = NULL;
    const char *end = NULL;
    const bool bracket = template_take(p, "(");
    parse_variables(p, n);
    if (bracket && !template_take(p, ")"))
        template_refuse(p, "expected )");
    if (!template_take_word(p, "in"))
        template_refuse(p, "expected \"in\"");
    p->no_if = true;
    template_add(n, template_primary_list(p));
    p->no_if = false;
    if (template_take_word(p, "if"))
        condition = template_expression(p);
    end_tag(p);
    template_add(n, parse_block(p, ends, &end));
    struct template_node *other = NULL;
    if (!p->failed && strcmp(end, "else") == 0) {
        end_tag(p);
        other = parse_block(p, ends + 1, &end);
    }
    template_add(n, other);
    template_add(n, condition);
    expect_end(p, end, "endfor");
    return n;
}

static struct template_node *parse_set(struct template_parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct template_node *n = template_node(p, T_SET);
    size_t size = template_word(p);
    if (size == 0)
        template_refuse(p, "expected the name of a variable");
    template_add_name(n, p->at, size);
    p->at += size;
    if (template_take(p, ".")) {
        size = template_word(p);
        n->text = bg_strndup(p->at, size);
        p->at += size;
    }
    if (template_take(p, "=")) {
        template_add(n, template_primary_list(p));
        end_tag(p);
        return n;
    }
    const char *end = NULL;
    end_tag(p);
    template_add(n, parse_block(p, ends, &end));
    expect_end(p, end, "endset");
    return n;
}

static struct template_node *parse_macro(struct template_parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct template_node *n = template_node(p, T_MACRO);
    const size_t size = template_word(p);
    const char *end = NULL;
    n->text = bg_strndup(p->at, size);
    p->at += size;
    template_add(n, NULL);
    if (size == 0 || !template_take(p, "("))
        template_refuse(p, "expected the name of a macro and (");
    while (!p->failed && !template_take(p, ")")) {
        const size_t name = template_word(p);
        if (name == 0)
            template_refuse(p, "expected the name of a parameter");
        template_add_name(n, p->at, name);
        p->at += name;
        template_add(n, template_take(p, "=") ? template_expression(p) : NULL);
        if (!template_take(p, ",") && !(p->at < p->end && *p->at == ')'))
            template_refuse(p, "expected , or )");
    }
    end_tag(p);
    n->child[0] = parse_block(p, ends, &end);
    expect_end(p, end, "endmacro");
    return n;
}

static struct template_node *parse_statement(struct template_parser *p)
{
    if (template_take_word(p, "if"))
        return parse_if(p);
    if (template_take_word(p, "for"))
        return parse_for(p);
    if (template_take_word(p, "set"))
        return parse_set(p);
    if (template_take_word(p, "macro"))
        return parse_macro(p);
    struct template_node *n = NULL;
    if (template_take_word(p, "break"))
        n = template_node(p, T_BREAK);
    else if (template_take_word(p, "continue"))
        n = template_node(p, T_CONTINUE);
    else if (template_take_word(p, "generation") || template_take_word(p, "endgeneration"))
        n = template_node(p, T_BLOCK); // marks for training
    else
        template_refuse(p, "the tag {%% %.*s is not supported", (int)template_word(p), p->at);
    end_tag(p);
    return n;
}

// Where the next tag begins, or the end.
static const char *find_tag(const struct template_parser *p)
{
    const char *at = p->at;
    while (at < p->end && !(*at == '{' && p->end - at > 1 && strchr("%{#", at[1])))
        at++;
    return at;
}

static void add_text(struct template_parser *p, struct template_node *block, const char *end)
{
    size_t size = (size_t)(end - p->at);
    if (end < p->end && p->end - end > 2 && end[2] == '-') { // {%- and its like: all blanks before
        while (size > 0 && strchr(" \t\r\n", p->at[size - 1]))
            size--;
    } else if (end < p->end && end[1] != '{' && !(p->end - end > 2 && end[2] == '+')) { // blanks from the line's start
        size_t start = size;
        while (start > 0 && strchr(" \t", p->at[start - 1]))
            start--;
        if (start == 0 ? p->at == p->begin || p->at[-1] == '\n' : p->at[start - 1] == '\n')
            size = start;
    }
    if (size > 0) {
        struct template_node *n = template_node(p, T_TEXT);
        n->text = bg_strndup(p->at, size);
        n->text_size = size;
        template_add(block, n);
    }
    for (const char *c = p->at; c < end; c++)
        p->line += *c == '\n';
    p->at = end;
}

static void skip_comment(struct template_parser *p)
{
    while (p->at < p->end && !(p->end - p->at > 1 && p->at[0] == '#' && p->at[1] == '}')) {
        p->line += *p->at == '\n';
        p->at++;
    }
    if (p->at >= p->end) {
        template_refuse(p, "a comment {# does not end");
        return;
    }
    const bool strip = p->at[-1] == '-';
    p->at += 2;
    if (strip)
        for (; p->at < p->end && strchr(" \t\r\n", *p->at); p->at++)
            p->line += *p->at == '\n';
    else if (p->at < p->end && *p->at == '\n') {
        p->line++;
        p->at++;
    }
}

static void parse_print(struct template_parser *p, struct template_node *block)
{
    struct template_node *n = template_node(p, T_PRINT);
    p->at += 2;
    p->at += p->at < p->end && (*p->at == '-' || *p->at == '+');
    template_add(n, template_expression(p));
    template_skip(p);
    const bool strip = p->at < p->end && *p->at == '-';
    p->at += strip;
    if (p->end - p->at < 2 || memcmp(p->at, "}}", 2) != 0) {
        template_refuse(p, "expected }} here: \"%.20s\"", p->at < p->end ? p->at : "");
        return;
    }
    p->at += 2;
    if (strip)
        for (; p->at < p->end && strchr(" \t\r\n", *p->at); p->at++)
            p->line += *p->at == '\n';
    template_add(block, n);
}

// Up to a tag of `ends` (NULL: the end of the template), whose word is taken in.
static struct template_node *parse_block(struct template_parser *p, const char *const *ends, const char **end)
{
    struct template_node *block = template_node(p, T_BLOCK);
    if (++p->depth > TEMPLATE_DEPTH_MAX)
        template_refuse(p, "nested too deeply");
    while (!p->failed) {
        add_text(p, block, find_tag(p));
        if (p->at >= p->end) {
            if (ends)
                template_refuse(p, "expected {%% %s %%} before the end", ends[0]);
            break;
        }
        if (p->at[1] == '{') {
            parse_print(p, block);
            continue;
        }
        const bool comment = p->at[1] == '#';
        p->at += 2;
        if (comment) {
            skip_comment(p);
            continue;
        }
        p->at += p->at < p->end && (*p->at == '-' || *p->at == '+');
        for (size_t i = 0; ends && ends[i]; i++)
            if (template_take_word(p, ends[i])) {
                *end = ends[i];
                p->depth--;
                return block;
            }
        struct template_node *n = parse_statement(p);
        if (n)
            template_add(block, n);
    }
    p->depth--;
    return block;
}

bg_status chat_template_compile(const char *text, size_t size, struct bg_error *err, struct chat_template **compiled)
{
    struct chat_template *t = bg_alloc(sizeof *t);
    char *copy = bg_strndup(text, size); // with an end that errors may read up to
    struct template_parser p = {.at = copy, .begin = copy, .end = copy + size, .line = 1, .made = t, .err = err};
    if (size > 0 && memchr(text, '\0', size))
        template_refuse(&p, "a NUL byte");
    else
        t->root = parse_block(&p, NULL, NULL);
    bg_free(copy);
    if (p.failed) {
        chat_template_destroy(t);
        return BG_INVALID;
    }
    *compiled = t;
    return BG_OK;
}

// ---- Running ----
enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };
static enum flow execute(struct template_run *run, const struct template_node *n);

json_t *template_fail(struct template_run *run, uint32_t line, const char *format, ...)
{
    char text[512];
    va_list args;
    if (run->failed)
        return NULL;
    run->failed = true;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bg_fail(run->err, BG_INVALID, "line %u: %s", line, text);
    return NULL;
}

static void set_variable(struct template_run *run, const char *name, json_t *value) // takes the reference
{
    json_object_set_new(run->scopes[run->scope_count - 1], name, value ? value : json_null());
}

static bool push_scope(struct template_run *run, uint32_t line)
{
    if (run->scope_count > TEMPLATE_DEPTH_MAX) {
        template_fail(run, line, "loops and macros are nested too deeply");
        return false;
    }
    run->scopes[run->scope_count++] = json_object();
    return true;
}

static void pop_scope(struct template_run *run)
{
    json_decref(run->scopes[--run->scope_count]);
}

// What a for loop goes over: a list, the keys of an object, the characters of a text.
static json_t *items_of(struct template_run *run, const struct template_node *n, json_t *value)
{
    json_t *list = json_array(), *each;
    const char *key;
    if (json_is_array(value)) {
        json_array_extend(list, value);
    } else if (json_is_object(value)) {
        json_object_foreach(value, key, each) json_array_append_new(list, json_string(key));
    } else if (json_is_string(value)) {
        json_decref(list);
        list = template_characters(value);
    } else if (!run->failed) {
        template_fail(run, n->line, "cannot loop over %s", value ? "this value" : "what is undefined");
    }
    return list;
}

static void bind(struct template_run *run, const struct template_node *n, json_t *item)
{
    if (n->name_count == 1) {
        set_variable(run, n->names[0], json_incref(item));
        return;
    }
    if (json_array_size(item) != n->name_count) {
        template_fail(run, n->line, "%u variables for an item of %zu values", n->name_count, json_array_size(item));
        return;
    }
    for (uint32_t i = 0; i < n->name_count; i++)
        set_variable(run, n->names[i], json_incref(json_array_get(item, i)));
}

static json_t *loop_of(const json_t *list, size_t i)
{
    const json_int_t count = (json_int_t)json_array_size(list), at = (json_int_t)i;
    json_t *loop =
        json_pack("{s:I, s:I, s:I, s:I, s:b, s:b, s:I}", "index0", at, "index", at + 1, "revindex", count - at,
                  "revindex0", count - at - 1, "first", i == 0, "last", at + 1 == count, "length", count);
    if (i > 0)
        json_object_set(loop, "previtem", json_array_get(list, i - 1));
    if (at + 1 < count)
        json_object_set(loop, "nextitem", json_array_get(list, i + 1));
    return loop;
}

static void execute_for(struct template_run *run, const struct template_node *n)
{
    json_t *value = template_evaluate(run, n->child[0]), *list = items_of(run, n, value);
    json_decref(value);
    if (n->child[3]) { // filtered first: loop counts what is left
        json_t *left = json_array();
        for (size_t i = 0; i < json_array_size(list) && !run->failed && push_scope(run, n->line); i++) {
            bind(run, n, json_array_get(list, i));
            json_t *keep = template_evaluate(run, n->child[3]);
            if (template_true(keep))
                json_array_append(left, json_array_get(list, i));
            json_decref(keep);
            pop_scope(run);
        }
        json_decref(list);
        list = left;
    }
    enum flow flow = FLOW_ON;
    for (size_t i = 0; i < json_array_size(list) && !run->failed && flow != FLOW_BREAK && push_scope(run, n->line);
         i++) {
        bind(run, n, json_array_get(list, i));
        set_variable(run, "loop", loop_of(list, i));
        flow = execute(run, n->child[1]);
        pop_scope(run);
    }
    if (json_array_size(list) == 0 && n->child[2])
        execute(run, n->child[2]);
    json_decref(list);
}

static json_t *find_variable(struct template_run *run, const char *name)
{
    for (uint32_t i = run->scope_count; i-- > 0;) {
        json_t *value = json_object_get(run->scopes[i], name);
        if (value)
            return value;
    }
    return NULL;
}

static void execute_set(struct template_run *run, const struct template_node *n)
{
    json_t *value;
    if (n->child[0]->kind == T_BLOCK) {
        struct bg_str out = run->out;
        run->out = (struct bg_str){0};
        execute(run, n->child[0]);
        value = json_stringn(bg_str_text(&run->out), run->out.size);
        template_weigh(run, n->line, value);
        bg_str_fini(&run->out);
        run->out = out;
    } else {
        value = template_evaluate(run, n->child[0]);
    }
    if (!n->text) {
        set_variable(run, n->names[0], value);
        return;
    }
    json_t *namespace = find_variable(run, n->names[0]);
    if (!json_is_object(namespace)) {
        json_decref(value);
        template_fail(run, n->line, "%s is no namespace", n->names[0]);
        return;
    }
    json_object_set_new(namespace, n->text, value ? value : json_null());
    if (!template_weigh(run, n->line, namespace)) // it may hold itself now
        json_object_del(namespace, n->text);
}

static enum flow execute_if(struct template_run *run, const struct template_node *n)
{
    uint32_t i = 0;
    for (; i + 1 < n->child_count && !run->failed; i += 2) {
        json_t *value = template_evaluate(run, n->child[i]);
        const bool yes = template_true(value);
        json_decref(value);
        if (yes && !run->failed)
            return execute(run, n->child[i + 1]);
    }
    return i < n->child_count && !run->failed ? execute(run, n->child[i]) : FLOW_ON;
}

static void execute_print(struct template_run *run, const struct template_node *n)
{
    json_t *value = template_evaluate(run, n->child[0]);
    if (value)
        template_print(&run->out, value, false);
    json_decref(value);
}

static enum flow execute(struct template_run *run, const struct template_node *n)
{
    enum flow flow = FLOW_ON;
    if (++run->steps > TEMPLATE_STEPS_MAX || run->out.size > TEMPLATE_OUTPUT_MAX)
        template_fail(run, n->line, "the template runs for too long, or writes too much");
    if (run->failed)
        return FLOW_ON;
    switch (n->kind) {
    case T_TEXT:
        bg_str_add_bytes(&run->out, n->text, n->text_size);
        break;
    case T_PRINT:
        execute_print(run, n);
        break;
    case T_BLOCK:
        for (uint32_t i = 0; i < n->child_count && flow == FLOW_ON && !run->failed; i++)
            flow = execute(run, n->child[i]);
        return flow;
    case T_IF:
        return execute_if(run, n);
    case T_FOR:
        execute_for(run, n);
        break;
    case T_SET:
        execute_set(run, n);
        break;
    case T_MACRO:
        if (run->macro_count == 64)
            template_fail(run, n->line, "more than 64 macros");
        else
            run->macros[run->macro_count++] = n;
        break;
    case T_BREAK:
        return FLOW_BREAK;
    case T_CONTINUE:
        return FLOW_CONTINUE;
    default:
        break;
    }
    return FLOW_ON;
}

json_t *template_call_macro(struct template_run *run, const struct template_node *macro, json_t **args, char **names,
                            uint32_t count)
{
    struct bg_str out = run->out;
    if (!push_scope(run, macro->line))
        return NULL;
    for (uint32_t i = 0; i < macro->name_count; i++) {
        json_t *value = NULL;
        for (uint32_t k = 0; k < count && !value; k++) // given twice: the first counts
            if (names[k] ? strcmp(names[k], macro->names[i]) == 0 : k == i)
                value = json_incref(args[k]);
        if (!value && macro->child[i + 1])
            value = template_evaluate(run, macro->child[i + 1]);
        if (value)
            set_variable(run, macro->names[i], value);
    }
    run->out = (struct bg_str){0};
    execute(run, macro->child[0]);
    json_t *text = json_stringn(bg_str_text(&run->out), run->out.size);
    bg_str_fini(&run->out);
    run->out = out;
    pop_scope(run);
    return text;
}

bg_status chat_template_render(const struct chat_template *compiled, json_t *values, struct bg_error *err, char **text,
                               size_t *size)
{
    struct template_run *run = bg_alloc(sizeof *run);
    bg_status status = BG_OK;
    run->err = err;
    run->scopes[run->scope_count++] = json_incref(values);
    push_scope(run, 0);
    execute(run, compiled->root);
    while (run->scope_count > 0)
        pop_scope(run);
    if (run->failed) {
        bg_str_fini(&run->out);
        status = BG_INVALID;
    } else {
        *size = run->out.size;
        *text = bg_str_take(&run->out);
    }
    bg_free(run);
    return status;
}
