#!/usr/bin/python3
"""Chat templates against Jinja itself (Debian's python3-jinja2, with the settings of Hugging Face): the usual families'
and made-up ones, over conversations plain and odd. Without Jinja, against what it said once (test/templates/*.txt);
`serve_template_test.py --write` writes that."""
import glob
import json
import os
import random
import sys
import tempfile
import unittest

import serving

try:
    import jinja2
    import jinja2.sandbox
except ImportError:
    jinja2 = None
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")

# One construct each; jinja2 decides what they give.
SMALL = [
    "{{ messages | length }} {{ messages[-1].content }} {{ messages[0]['role'] | upper }}",
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}|{% else %}none{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "  {% if true %}  \n  a\n  {% endif %}  \n b",
    "  {%- if true -%}  \n  a\n  {%- endif -%}  \n b",
    "a\n{# c #}\nb{#- d -#} \n c",
    "{{ 'a' ~ 1 ~ none ~ true }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 + 3 * 4 }} {{ -3 + 1 }} {{ 1 < 2 and not 3 > 4 or false }}",
    "{{ 'a,b,c'.split(',') | join('-') }} {{ ' x '.strip() }} {{ 'abc'[1:] }} {{ 'ab\u00e9c'[::-1] }} {{ 'a\u00e9\u4e2d'[-2] }} {{ 'abcdef'[4:1:-2] }} {{ [1, 2, 3, 4][-3::2] }} {{ [1, 2, 3][5:] }} {{ [1, 2, 3][-9:2] }} {{ messages[::-1][0].role }} {{ [1, 2, 3][:2] }}",
    "{{ undefined_name is defined }} {{ undefined_name is not defined }} {{ messages is iterable }} {{ 'x' is string }} {{ 3 is number }} {{ none is none }}",
    "{{ {'a': [1, 'x', None, True], 'b': {'c': 1.5}} | tojson }} {{ [1, {'k': 'v<>&\"'}] | tojson }}",
    "{{ 'x' if false }}|{{ 'x' if true else 'y' }}|{{ undefined_name | default('d') }}|{{ '' | default('e', true) }}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = 2 %}{% endfor %}{{ x }}{% set ns = namespace(v=1) %}{% for i in [1, 2] %}{% set ns.v = ns.v + i %}{% endfor %}{{ ns.v }}",
    "{% macro f(a, b='B') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}",
    "{% set t %}in {{ 1 + 1 }}{% endset %}{{ t | trim | upper }}",
    "{{ 'Hello'.startswith('He') }} {{ 'Hello'.endswith('x') }} {{ 'hello world' | title }} {{ 'Hello' | lower }} {{ 'a-b' | replace('-', '+') }} {{ 'hELLO' | capitalize }}",
    "{% for i in range(3) %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}{% for i in range(2, 8, 3) %}{{ i }}{% continue %}x{% endfor %}",
    "{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ [3, 1, 2] | first }} {{ [3, 1, 2] | last }}",
    "{{ 'user' in ['user'] }} {{ 'z' not in 'xyz' }} {{ 'role' in messages[0] }} {{ 3 in [1, 2] }} {{ messages[0].get('name', 'nobody') }}",
    "{{ \"it's\" }} {{ 'say \"x\"' }} {{ '\\n\\t\\\\' }} {{ 'caf\u00e9 \u4e2d' | length }} {{ 1.5 }} {{ 10 / 4 }}",
    "{{ [1, 'a', None, True, 2.5, {'k': [0]}] }} {{ {'a': 'b'} }} {{ [] }}",
    "{%- for m in messages -%}\n{{- m.content | trim -}}\n{%- if not loop.last %}, {% endif -%}\n{%- endfor -%}",
]
USUAL = [{"role": "system", "content": "Be kind.\n"}, {"role": "user", "content": "  Hello, you! "},
         {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi \u00e9\u4e2d \U0001f600"}, {"role": "user", "content": "What's 2 < 3 & \"x\"?"}]


def render(text, messages, **more):
    """As Hugging Face does it."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])

    def fail(message):
        raise jinja2.exceptions.TemplateError(message)
    env.globals["raise_exception"] = fail
    env.filters["tojson"] = lambda v, indent=None: json.dumps(v, ensure_ascii=False, indent=indent)
    return env.from_string(text).render(messages=messages, **more)


def conversations():
    rng = random.Random(4)
    yield USUAL
    yield USUAL[1:]
    yield USUAL[1:2]
    yield USUAL[:2]
    words = ["a", " b ", "\n", "{{ x }}", "<|im_end|>", "\u00e9", "", "'", "\\n"]
    for _ in range(8):
        yield [{"role": rng.choice(["user", "assistant", "system", "tool"]), "content": "".join(rng.choices(words, k=rng.randint(0, 5)))}
               for _ in range(rng.randint(1, 6))]


def families():
    for path in sorted(glob.glob(os.path.join(HERE, "*.jinja"))):
        with open(path) as file:
            text = file.read()
        yield os.path.basename(path)[:-6], text[:-1] if text.endswith("\n") else text


class Templates(unittest.TestCase):
    def served(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
            file.write(text)
            file.flush()
            server = serving.Server(serving.small_model(), "--threads", "1", "--chat-template", file.name)
        self.addCleanup(server.ends_well)
        values = server.get("/props")[1]
        return server, {"bos_token": values["bos_token"], "eos_token": values["eos_token"], "add_generation_prompt": True}

    def compare(self, name, text, all_conversations):
        server, values = self.served(text)
        for messages in all_conversations:
            status, answer = server.post("/apply-template", {"messages": messages})
            try:
                want = render(text, messages, **values)
            except jinja2.exceptions.TemplateError as error:
                self.assertEqual(status, 400, (name, messages, str(error), answer))
                continue
            self.assertEqual((status, answer.get("prompt")), (200, want), (name, messages, answer))
        server.stop()

    @unittest.skipUnless(jinja2, "needs python3-jinja2")
    def test_families(self):
        for name, text in families():
            self.compare(name, text, conversations())

    @unittest.skipUnless(jinja2, "needs python3-jinja2")
    def test_constructs(self):
        joined = "\n=====\n".join(SMALL)
        try:
            self.compare("all", joined, [USUAL, USUAL[1:]])
        except AssertionError:
            for text in SMALL:
                with self.subTest(text):
                    self.compare(text, text, [USUAL, USUAL[1:]])

    def test_known(self):
        for name, text in families():
            server, _ = self.served(text)
            with open(os.path.join(HERE, name + ".txt"), newline="") as file:
                self.assertEqual(server.post("/apply-template", {"messages": USUAL})[1].get("prompt"), file.read(), name)

    def test_refusals_name_the_place(self):
        done = serving.subprocess.run([serving.BRIGADE, "serve", serving.small_model(), "--no-key", "--port", "0", "--chat-template", "/dev/stdin"],
                                      input=b"a\n{% for %}", capture_output=True, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        server, _ = self.served("{{ messages[0].content.nothing() }}")
        status, answer = server.post("/apply-template", {"messages": USUAL})
        self.assertEqual(status, 400)
        self.assertIn("line 1", answer["error"]["message"])
        grow = "{% set ns = namespace(v=START) %}{% for i in range(60) %}{% set ns.v = STEP %}{% endfor %}{{ ns.v }}"
        for text in ("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
                     "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
                     grow.replace("START", "[1]").replace("STEP", "[ns.v, ns.v]"), grow.replace("START", "'ab'").replace("STEP", "ns.v + ns.v"),
                     grow.replace("START", "'ab'").replace("STEP", "ns.v | replace('a', 'aaaa')"), grow.replace("START", "1").replace("STEP", "[ns]"),
                     grow.replace("START", "[1]").replace("STEP", "ns.v + ns.v")):
            server, _ = self.served(text)
            self.assertEqual(server.post("/apply-template", {"messages": USUAL})[0], 400, text)
            server.stop()


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        for name, text in families():
            server = serving.Server(serving.small_model(), "--threads", "1")
            values = server.get("/props")[1]
            server.stop()
            with open(os.path.join(HERE, name + ".txt"), "w", newline="") as file:
                file.write(render(text, USUAL, bos_token=values["bos_token"], eos_token=values["eos_token"], add_generation_prompt=True))
    else:
        unittest.main()
