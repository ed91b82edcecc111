// Chat templates: constructs, what is refused and where, broken texts of every length. Against Jinja itself:
// test/serve_template_test.py.
#include "base/mem.h"
#include "serve/template.h"

#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static json_t *values(void)
{
    return json_pack("{s:[{s:s, s:s}, {s:s, s:s}], s:s, s:b}", "messages", "role", "system", "content", "Be kind.",
                     "role", "user", "content", " H\xc3\xa9! ", "eos_token", "</s>", "add_generation_prompt", 1);
}

// From memory that ends where the text does.
static bg_status compile(const char *text, size_t size, struct bg_error *err, struct chat_template **template)
{
    char *exact = malloc(size ? size : 1);
    assert_non_null(exact);
    memcpy(exact, text, size);
    bg_status status = chat_template_compile(exact, size, err, template);
    free(exact);
    return status;
}

static bg_status render(const char *text, struct bg_error *err, char **out)
{
    struct chat_template *template;
    size_t size;
    bg_status status = compile(text, strlen(text), err, &template);
    if (status)
        return status;
    json_t *v = values();
    status = chat_template_render(template, v, err, out, &size);
    json_decref(v);
    chat_template_destroy(template);
    return status;
}

static void constructs(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"{{ '' }}", ""},
        {"{% for m in messages %}{{ m.role }}:{{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
         "system:Be kind.</s>user:H\xc3\xa9!</s>"},
        {"{% if messages[0].role == 'system' %}\n a\n {% else %}b{% endif %}", " a\n"},
        {"x {%- if not false -%} y {%- endif %} z", "xy z"},
        {"{% set n = namespace(c=0) %}{% for m in messages %}{% set n.c = n.c + 2 %}{% endfor %}{{ n.c }}", "4"},
        {"{% macro f(a, b='q') %}<{{ a }}{{ b }}>{% endmacro %}{{ f('p') }}{{ f(b=1, a=2) }}", "<pq><21>"},
        {"{{ messages[1].content.strip()[-2:] }}{{ 'h\xc3\xa9' | length }}{{ 'abc'[::-1] }}", "\xc3\xa9!2cba"},
        {"{{ 'a' in 'cat' and 3 // 2 == 1 }}{{ nothing is defined }}{{ none }}", "TrueFalseNone"},
        {"{{ {'a': [1, none, true]} | tojson }}", "{\"a\": [1, null, true]}"},
        {"{{ range(3) | join('+') }}{{ range(5, -4, -3) }}{{ - (-7) }}", "0+1+2[5, 2, -1]7"},
        {"{{ 'aXbX' | replace('X', '--') }}{{ 'aaa' | replace('aa', 'b') }}{{ 'x' | replace('', 'y') }}", "a--b--bax"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bg_error err = {0};
        char *out = NULL;
        if (render(cases[i][0], &err, &out))
            fail_msg("%s: %s", cases[i][0], err.text);
        assert_string_equal(out, cases[i][1]);
        bg_free(out);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"a\n{% for %}", "line 2"},
        {"{{ 1 + }}", "line 1"},
        {"\n\n{{ messages.nothing() }}", "line 3"},
        {"{% if 1 %}", "before the end"},
        {"{{ raise_exception('turn by turn') }}", "turn by turn"},
        {"{{ 'a' + 1 }}", "line 1"},
        {"{{ 1 / 0 }}", "zero"},
        {"{% for x in 7 %}{% endfor %}", "line 1"},
        {"{{ 'a' | sparkle }}", "sparkle"},
        {"{% include 'x' %}", "include"},
        {"{{ [1][0:1:0] }}", "slice"},
        {"{{ range(100002) }}", "range"},
        {"{{ range(0, -9223372036854775807 + -1, -1) }}", "range"},
        {"{{ range(9223372036854775807, -9223372036854775807 + -1) }}", "range"},
        {"{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(19) %}{% set n.x = n.x + n.x %}{% endfor %}"
         "{{ range(100000) | join(n.x) }}",
         "grows"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bg_error err = {0};
        char *out = NULL;
        if (render(cases[i][0], &err, &out) == BG_OK)
            fail_msg("%s was taken: %s", cases[i][0], out);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i][0], err.text, cases[i][1]);
    }
}

static void broken_at_every_byte(void **state)
{
    (void)state;
    static const char whole[] =
        "{%- macro f(a, b='x') -%}{{ a ~ b }}{%- endmacro -%}{# c #}{% set n = namespace(v=[1, {'k': -2.5}]) %}"
        "{% for m in messages[::-1] if m.role != 'tool' %}{{ f(m.content | trim, b=loop.index) if true else none }}"
        "{% elif %}{% endfor %}{% if n.v is defined and not false or 'a' in 'b' %}{{ \"\\n\" }}{% endif %} \xc3\xa9";
    for (size_t size = 0; size < sizeof whole; size++) {
        struct chat_template *template = NULL;
        struct bg_error err = {0};
        if (compile(whole, size, &err, &template))
            assert_true(err.text[0]);
        else
            chat_template_destroy(template);
    }
    struct chat_template *template = NULL;
    struct bg_error err = {0};
    assert_int_equal(compile("a\0b", 3, &err, &template), BG_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs),
        cmocka_unit_test(refusals),
        cmocka_unit_test(broken_at_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
