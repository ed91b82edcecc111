#!/usr/bin/env python3
"""Structured output against jsonschema (skipped without it): whatever is drawn under a random schema is valid by it."""
import json
import random
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


class Schemas:
    """Random ones; some ask for what nothing fits, or for what cannot be kept."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def value(self):
        return self.rng.choice(VALUES)

    def leaf(self):
        rng = self.rng
        kind = rng.randrange(7)
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
        if kind == 5:  # not "time": jsonschema knows only that of an old draft, without a zone
            return {"type": "string", "format": rng.choice(["date", "uuid", "date-time"])}
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
    def test_random_schemas(self):
        warnings.simplefilter("ignore")
        directory = serving.scratch("schema")
        self.addCleanup(serving.remove, directory)
        server = Server(serving.stories(directory) or serving.small_model(), "--threads", "1")
        self.addCleanup(server.ends_well)
        schemas, checker = Schemas(11), jsonschema.FormatChecker()
        valid, refused, count = 0, 0, 2000 if FULL else 200
        for seed in range(count):
            schema = {"$defs": {"a": schemas.any(1), "b": schemas.any(0)}, "anyOf": [schemas.any(2)]}
            status, answer = server.post("/v1/chat/completions", {
                "messages": [{"role": "user", "content": "Hey"}], "max_tokens": 120, "seed": seed, "temperature": 3,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
            if status != 200:
                self.assertEqual((status, answer["error"]["param"]), (400, "response_format"), answer)
                refused += 1
                continue
            choice = answer["choices"][0]
            if choice["finish_reason"] == "stop":
                with self.subTest(schema=schema, text=choice["message"]["content"]):
                    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(choice["message"]["content"]))
                valid += 1
        self.assertGreater(valid, count // 4)
        self.assertGreater(refused, 0)


if __name__ == "__main__":
    unittest.main()
