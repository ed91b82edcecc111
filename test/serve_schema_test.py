#!/usr/bin/env python3
"""Structured output against jsonschema (skipped without it): whatever is drawn under a random schema is valid by it."""
import datetime
import email.headerregistry
import json
import random
import re
import unittest
import warnings

import serving
from serving import FULL, Server

try:
    import jsonschema
except ImportError:
    jsonschema = None

TYPES = ["string", "number", "integer", "boolean", "null", "array", "object"]
VALUES = [1, 2, 2.0, 1.5, "a", "b", None, True, False, [], [1], {}, {"k": 1}]


ATOMS = ["a", "b", "Z", "7", "-", "/", "é", ".", r"\.", r"\d", r"\w", r"\s", r"\S", r"\D", r"\W", r"\n", r"\t", r"\\", '"', r"\x41",
         r"\u00e9", "[abc]", "[a-z0-9_]", "[^a]", r"[^\s\"]", r"[\d.]", "[A-Za-z]", r"[\s\S]", "[+-]"]
TIMES = ["", "", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"]
# What real clients send.
PATTERNS = [r"^\d{3}-\d{2}-\d{4}$", r"^[A-Z]{2}\d{4,6}$", r"^#[0-9a-fA-F]{6}$", r"^(\+\d{1,3} ?)?\d{6,12}$", r"^v?\d+\.\d+\.\d+(-[a-z0-9.]+)?$",
            r"^[a-z0-9]+(-[a-z0-9]+)*$", r"^(red|green|blue)$", r"^https?://[a-z]{1,9}\.(com|org)(/[\w.-]*)*$", r"^\S+@\S+\.\S+$",
            r"^\$\d{1,3}(,\d{3})*\.\d{2}$", r"^(?:[01]\d|2[0-3]):[0-5]\d$", r"[0-9]", r"^@[a-zA-Z0-9_]+$", r"^.{1,8}$", r"^(yes|no)|maybe$"]


def is_host(text):
    labels = text.split(".")
    return len(text) <= 253 and not labels[-1].isdigit() and all(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", label) for label in labels)


def is_duration(text):
    """By order and adjacency of the units, as RFC 3339's appendix A has them."""
    date, clock, time = text[1:].partition("T")
    units = ["".join(re.findall("[A-Z]", part)) for part in (date, time)]
    plain = all(re.fullmatch(r"(\d+[A-Z])*", part) for part in (date, time))
    return text[0] == "P" and plain and text != "P" and (not clock or units[1] != "") and (
        text[1:] == date and units[0] == "W" or units[0] in "YMD" and units[1] in "HMS")


def checker():
    """jsonschema's, which passes over some formats; those are checked here."""
    formats = jsonschema.FormatChecker()
    for name, good in (("time", lambda text: datetime.time.fromisoformat(text).tzinfo is not None),
                       ("date-time", lambda text: datetime.datetime.fromisoformat(text).tzinfo is not None),
                       ("email", lambda text: is_host(email.headerregistry.Address(addr_spec=text).domain)),
                       ("hostname", is_host), ("duration", is_duration)):
        formats.checks(name, Exception)(lambda value, good=good: not isinstance(value, str) or good(value))
    return formats


class Schemas:
    """Random ones; some ask for what nothing fits, or for what cannot be kept."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def value(self):
        return self.rng.choice(VALUES)

    def pattern(self, depth=0):
        rng, out = self.rng, []
        for _ in range(1 + (rng.random() < 0.25)):
            text = "^" if depth == 0 and rng.random() < 0.8 else ""
            for _ in range(rng.randint(0, 4)):
                inner = depth < 3 and rng.random() < 0.25
                text += rng.choice(["(", "(?:"]) + self.pattern(depth + 1) + ")" if inner else rng.choice(ATOMS)
                text += rng.choice(TIMES)
            out.append(text + ("$" if depth == 0 and rng.random() < 0.8 else ""))
        return "|".join(out)

    def string(self):
        rng = self.rng
        kind = rng.randrange(4)
        schema = {"format": rng.choice(["date", "uuid", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6"])} if kind == 0 else \
            {"pattern": rng.choice(PATTERNS)} if kind == 1 else {"pattern": self.pattern()}
        if kind == 0 and rng.random() < 0.3:
            schema["pattern"] = rng.choice(["1", r"^[^2]", r"[a-f0-9]$", r"\d{2}", "^.{9,30}$", "[-:.]0*[1-9]"])
        if rng.random() < 0.3:
            schema["minLength"] = rng.randint(0, 4)
        if rng.random() < 0.4:
            schema["maxLength"] = rng.randint(3, 40)
        return schema

    def bounds(self):
        rng = self.rng
        ends = [0, 1, -1, 10, 100, 99, -100, 0.5, 1.0, 2.75, -0.125, 1e-3, 5e-7, 12345678, 1e16, -1e20, 2**53, 2**63 - 251]
        end = lambda: rng.choice(ends) if rng.random() < 0.5 else rng.randint(-300, 300) if rng.random() < 0.5 else rng.uniform(-9, 9)
        low = end()
        high = end() if rng.random() < 0.3 else low + abs(rng.choice([1, 7, 0.5, 250]))
        schema = {}
        if rng.random() < 0.7:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.7:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = high
        return schema

    def restricted(self):
        """Strings and numbers by their words, with and without a type, or a list of them."""
        rng = self.rng
        kind = rng.randrange(5)
        if kind < 2:
            return {"type": "string", **self.string()}
        if kind < 4:
            return {"type": rng.choice(["integer", "number"]), **self.bounds()}
        types = rng.choice([["string", "null"], ["integer", "boolean"], ["number", "string"], ["null", "integer"]])
        return {"type": types, **(self.string() if "string" in types else {}), **(self.bounds() if types[0][0] in "in" or types[1][0] == "i" else {})}

    def leaf(self):
        rng = self.rng
        kind = rng.randrange(8)
        if kind == 7:
            return self.restricted()
        if kind == 0:
            return {"type": rng.choice(TYPES[:5])}
        if kind == 1:
            return {"const": self.value(), **({"type": rng.choice(TYPES)} if rng.random() < 0.3 else {})}
        if kind == 2:
            return {"enum": [self.value() for _ in range(rng.randint(1, 4))],
                    **({"type": rng.choice(["string", "integer", ["number", "null"]])} if rng.random() < 0.4 else {})}
        if kind == 3:
            return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(1, 5)}
        if kind == 4:
            return {"type": rng.sample(TYPES, 2)}
        if kind == 5:
            return {"type": "string", "format": rng.choice(["date", "uuid", "date-time", "time"])}
        return {"$ref": "#/$defs/" + rng.choice("ab")}

    def object(self, depth):
        rng = self.rng
        names = rng.sample("klm", rng.randint(0, 3))
        schema = {"type": "object", "properties": {name: self.any(depth) for name in names}}
        if names and rng.random() < 0.7:
            schema["required"] = rng.sample(names, rng.randint(1, len(names)))
        more = rng.random()
        if more < 0.5:
            schema["additionalProperties"] = False if more < 0.3 else self.any(depth) if more < 0.45 else True
        return schema

    def any(self, depth):
        rng = self.rng
        kind = rng.randrange(12) if depth > 0 else 0
        if kind < 7:
            return self.leaf()
        if kind == 7:
            return {"type": "array", "items": self.any(depth - 1), "minItems": rng.randint(0, 2), "maxItems": rng.randint(1, 3)}
        if kind == 8:
            return {"type": "array", "prefixItems": [self.any(depth - 1) for _ in range(rng.randint(1, 2))],
                    **({"items": False} if rng.random() < 0.5 else {}), **({"minItems": rng.randint(0, 2)} if rng.random() < 0.5 else {})}
        if kind == 9:
            return {rng.choice(["anyOf", "oneOf", "oneOf"]): [self.any(depth - 1) for _ in range(rng.randint(1, 3))]}
        return self.object(depth - 1)


@unittest.skipUnless(jsonschema, "needs jsonschema")
class Drawn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        warnings.simplefilter("ignore")
        cls.directory = serving.scratch("schema")
        cls.server = Server(serving.stories(cls.directory) or serving.small_model(), "--threads", "1")

    @classmethod
    def tearDownClass(cls):
        cls.server.ends_well()
        serving.remove(cls.directory)

    def draw(self, schemas):
        """(valid, cut off, refused): how many of them"""
        valid, cut, refused, formats = 0, 0, 0, checker()
        for seed, schema in enumerate(schemas):
            status, answer = self.server.post("/v1/chat/completions", {
                "messages": [{"role": "user", "content": "Hey"}], "max_tokens": 120, "seed": seed, "temperature": 3,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
            if status != 200:
                self.assertEqual((status, answer["error"]["param"]), (400, "response_format"), answer)
                refused += 1
                continue
            choice = answer["choices"][0]
            if choice["finish_reason"] == "stop":
                with self.subTest(schema=schema, text=choice["message"]["content"]):
                    jsonschema.Draft202012Validator(schema, format_checker=formats).validate(json.loads(choice["message"]["content"]))
                valid += 1
            else:
                cut += 1
        return valid, cut, refused

    def test_random_schemas(self):
        schemas, count = Schemas(11), 2000 if FULL else 200
        valid, _, refused = self.draw({"$defs": {"a": schemas.any(1), "b": schemas.any(0)}, "anyOf": [schemas.any(2)]} for _ in range(count))
        self.assertGreater(valid, count // 4)
        self.assertGreater(refused, 0)

    def test_patterns_formats_and_bounds(self):
        schemas, count = Schemas(12), 4000 if FULL else 300
        valid, _, refused = self.draw(schemas.restricted() for _ in range(count))
        self.assertGreater(valid, count // 2)
        self.assertGreater(refused, 0)  # what nothing fits
        self.assertLess(refused, count // 3)

    def test_what_clients_send_is_taken(self):
        valid, cut, refused = self.draw({"type": "string", "pattern": pattern} for pattern in PATTERNS)
        self.assertEqual(refused, 0)
        self.assertGreater(valid, cut)

    def test_what_cannot_go_on_is_cut_off(self):
        """After two characters too much is possible to look at: the text does not end as if it were whole."""
        status, answer = self.server.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Hey"}], "max_tokens": 120, "response_format": {
                "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "^x." + ".*" * 300 + "z$"}}}})
        self.assertEqual((status, answer["choices"][0]["finish_reason"]), (200, "length"), answer)

    def test_what_never_ends_is_refused(self):
        """By the rule's name or the schema's path; where another alternative ends, that one is written."""
        chat = {"messages": [{"role": "user", "content": "Hey"}], "max_tokens": 120}
        more = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
        asked = {"grammar": 'root ::= "a" more\nmore ::= [b-c] more'}, {"response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": more}}}
        for ask, rule in zip(asked, ("more", "#/properties/a")):
            status, answer = self.server.post("/v1/chat/completions", chat | ask)
            self.assertEqual((status, answer["error"]["param"]), (400, *ask), answer)
            self.assertIn(f'rule "{rule}" never ends', answer["error"]["message"])
        status, answer = self.server.post("/v1/chat/completions", chat | {"grammar": 'root ::= "a" more | "de"\nmore ::= [b-c] more'})
        self.assertEqual((status, answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]), (200, "de", "stop"))

    def test_the_oracle_sees_errors(self):
        for schema, value in (({"format": "duration"}, "P1Y3D"), ({"format": "hostname"}, "a..b"), ({"format": "email"}, "a@b@c"),
                              ({"format": "ipv6"}, "1::2::3"), ({"format": "time"}, "12:00:00"), ({"pattern": "^a$"}, "b"),
                              ({"format": "date-time"}, "2023-02-29T00:00:00Z"), ({"exclusiveMinimum": 0.1}, 0.1)):
            with self.assertRaises(jsonschema.ValidationError, msg=schema):
                jsonschema.Draft202012Validator(schema, format_checker=checker()).validate(value)


if __name__ == "__main__":
    unittest.main()
