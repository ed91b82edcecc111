// The official client against a server: serve_openai_test.py starts both. Every body that comes back is held against
// the shapes that OpenAI documents, before the client sees it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [base, key, modules] = process.argv.slice(2);
const { default: OpenAI } = await import(pathToFileURL(createRequire(modules + "/x.js").resolve("openai")));

// ---- Shapes ----
const str = (v, at) => assert.equal(typeof v, "string", at);
const int = (v, at) => assert.ok(Number.isSafeInteger(v) && v >= 0, `${at}: ${v}`);
const num = (v, at) => assert.ok(typeof v === "number" && Number.isFinite(v), `${at}: ${v}`);
const is = (...values) => (v, at) => assert.ok(values.includes(v), `${at}: ${v} is none of ${values}`);
const or = (a, other) => (v, at) => v === other || a(v, at);
const nul = a => or(a, null);
const list = a => (v, at) => { assert.ok(Array.isArray(v), at); v.forEach((each, i) => a(each, `${at}[${i}]`)); };
const map = a => (v, at) => Object.entries(v).forEach(([k, each]) => a(each, `${at}.${k}`));
// Fields that must be there, and those that may; nothing else.
const shape = (must, may = {}) => (v, at) => {
  assert.ok(v && typeof v === "object" && !Array.isArray(v), at);
  for (const k in must) { assert.ok(k in v, `${at}.${k} is missing`); must[k](v[k], `${at}.${k}`); }
  for (const k in v) if (!(k in must)) { assert.ok(k in may, `${at}.${k} is not documented`); may[k](v[k], `${at}.${k}`); }
};
const ours = { seed: int }, oursOfChoice = { tokens: list(int) }; // what we add
const usage = shape({ prompt_tokens: int, completion_tokens: int, total_tokens: int },
  { prompt_tokens_details: shape({ cached_tokens: int }, { audio_tokens: int }) });
const finish = is("stop", "length");
const token = shape({ token: str, logprob: num, bytes: nul(list(int)) });
const chatLogprobs = nul(shape({ content: nul(list(shape({ token: str, logprob: num, bytes: nul(list(int)), top_logprobs: list(token) }))), refusal: nul(list(token)) }));
const textLogprobs = nul(shape({ tokens: list(str), token_logprobs: list(num), top_logprobs: list(map(num)), text_offset: list(int) }));
const frame = { id: str, created: int, model: str };
const completion = shape({ ...frame, object: is("text_completion"), usage,
  choices: list(shape({ index: int, text: str, logprobs: textLogprobs, finish_reason: finish }, oursOfChoice)) }, { ...ours, system_fingerprint: str });
const chat = shape({ ...frame, object: is("chat.completion"), usage,
  choices: list(shape({ index: int, finish_reason: finish, logprobs: chatLogprobs,
    message: shape({ role: is("assistant"), content: nul(str), refusal: nul(str) }) }, oursOfChoice)) }, { ...ours, system_fingerprint: str });
const textChunk = shape({ ...frame, object: is("text_completion"),
  choices: list(shape({ index: int, text: str, logprobs: textLogprobs, finish_reason: nul(finish) }, oursOfChoice)) }, { ...ours, usage: nul(usage), system_fingerprint: str });
const chatChunk = shape({ ...frame, object: is("chat.completion.chunk"),
  choices: list(shape({ index: int, finish_reason: nul(finish), delta: shape({}, { role: is("assistant"), content: nul(str) }) }, { ...oursOfChoice, logprobs: chatLogprobs })) },
  { ...ours, usage: nul(usage), system_fingerprint: str });
const modelShape = shape({ id: str, object: is("model"), created: int, owned_by: str }, { meta: map(() => true) });
const models = shape({ object: is("list"), data: list(modelShape) });
const embeddings = shape({ object: is("list"), model: str, usage: shape({ prompt_tokens: int, total_tokens: int }),
  data: list(shape({ object: is("embedding"), index: int, embedding: (v, at) => typeof v === "string" || list(num)(v, at) })) });
const error = shape({ error: shape({ message: str, type: str, code: nul(str), param: nul(str) }, { n_prompt_tokens: int, n_ctx: int }) });
const whole = { "/v1/completions": completion, "/v1/chat/completions": chat, "/v1/models": models, "/v1/embeddings": embeddings };
const chunks = { "/v1/completions": textChunk, "/v1/chat/completions": chatChunk };

let checked = 0;
async function checkedFetch(url, init) {
  const response = await fetch(url, init), path = new URL(url).pathname, body = await response.text();
  checked++;
  if (!response.ok) {
    assert.match(response.headers.get("content-type"), /^application\/json/);
    error(JSON.parse(body), "error");
  } else if (response.headers.get("content-type") === "text/event-stream; charset=utf-8") {
    const events = body.split("\n\n");
    assert.equal(events.pop(), "");
    assert.equal(events.pop(), "data: [DONE]");
    const ids = new Set(), last = {}, wants = JSON.parse(init.body).stream_options?.include_usage;
    events.forEach((event, i) => {
      assert.ok(event.startsWith("data: "));
      const chunk = JSON.parse(event.slice(6));
      chunks[path](chunk, `chunk ${i}`);
      ids.add(chunk.id);
      if (wants) assert.equal(chunk.usage !== null, i === events.length - 1);
      else assert.ok(!("usage" in chunk));
      if (wants && i === events.length - 1) assert.deepEqual(chunk.choices, []);
      for (const c of chunk.choices) {
        assert.ok(!last[c.index], "nothing after finish_reason");
        if (chunk.object === "chat.completion.chunk")
          assert.equal("role" in c.delta, !(c.index in last), "the role comes first, once");
        last[c.index] = c.finish_reason;
      }
    });
    assert.equal(ids.size, 1);
    for (const i in last) assert.ok(last[i]);
  } else {
    assert.match(response.headers.get("content-type"), /^application\/json/);
    (whole[path] ?? modelShape)(JSON.parse(body), path);
  }
  return new Response(body, response);
}

const client = new OpenAI({ baseURL: base + "/v1", apiKey: key, fetch: checkedFetch, maxRetries: 0 });
const model = "stories", messages = [{ role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "Hey" }] }];
const gather = async (stream, pick) => { let text = ""; for await (const chunk of stream) text += chunk.choices[0] ? pick(chunk.choices[0]) ?? "" : ""; return text; };
const tests = {
  async models() {
    const page = await client.models.list();
    assert.deepEqual(page.data.map(m => m.id), [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
    await assert.rejects(client.models.retrieve("gpt-4"), OpenAI.NotFoundError);
  },
  async completions() {
    const ask = { model, prompt: "Once upon a time", max_tokens: 20, seed: 5 };
    const one = await client.completions.create(ask), two = await client.completions.create(ask);
    assert.equal(one.choices[0].text, two.choices[0].text);
    assert.equal(one.choices[0].finish_reason, "length");
    assert.equal(one.usage.completion_tokens, 20);
    assert.equal(one.usage.total_tokens, one.usage.prompt_tokens + 20);
    assert.notEqual((await client.completions.create({ ...ask, seed: 6 })).choices[0].text, one.choices[0].text);
    const text = await gather(await client.completions.create({ ...ask, stream: true }), c => c.text);
    assert.equal(text, one.choices[0].text);
    const echoed = await client.completions.create({ ...ask, echo: true });
    assert.equal(echoed.choices[0].text, ask.prompt + one.choices[0].text);
    assert.equal(await gather(await client.completions.create({ ...ask, echo: true, stream: true }), c => c.text), echoed.choices[0].text);
    const several = await client.completions.create({ ...ask, prompt: ["Once", "The dog"], n: 2 });
    assert.deepEqual(several.choices.map(c => c.index), [0, 1, 2, 3]);
    assert.equal(new Set(several.choices.map(c => c.text)).size, 4);
    const drawn = await client.completions.create({ model, prompt: "Once", max_tokens: 20 });
    const same = await client.completions.create({ model, prompt: "Once", max_tokens: 20, seed: drawn.seed });
    assert.equal(same.choices[0].text, drawn.choices[0].text); // a seed survives JavaScript's numbers
  },
  async chat() {
    const ask = { model, messages, max_tokens: 24, seed: 7 };
    const one = await client.chat.completions.create(ask);
    assert.equal(one.choices[0].message.role, "assistant");
    const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
    let text = "", last;
    for await (const chunk of stream) { text += chunk.choices[0]?.delta.content ?? ""; last = chunk; }
    assert.equal(text, one.choices[0].message.content);
    assert.deepEqual(last.usage.completion_tokens, one.usage.completion_tokens);
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
    const three = await client.chat.completions.create({ ...ask, n: 3, temperature: 1.2 });
    assert.equal(three.choices.length, 3);
    assert.ok(new Set(three.choices.map(c => c.message.content)).size > 1);
  },
  async stops() {
    const plain = (await client.completions.create({ model, prompt: "Once upon a time", temperature: 0, max_tokens: 60 })).choices[0].text;
    const at = plain.slice(20, 26), stopped = await client.completions.create({ model, prompt: "Once upon a time", temperature: 0, max_tokens: 60, stop: ["never this", at] });
    assert.equal(stopped.choices[0].text, plain.slice(0, plain.indexOf(at)));
    assert.equal(stopped.choices[0].finish_reason, "stop");
    assert.equal(await gather(await client.completions.create({ model, prompt: "Once upon a time", temperature: 0, max_tokens: 60, stop: at, stream: true }), c => c.text), stopped.choices[0].text);
  },
  async logprobs() {
    const old = (await client.completions.create({ model, prompt: "Once upon a time", temperature: 0, max_tokens: 8, logprobs: 3 })).choices[0];
    assert.equal(old.logprobs.tokens.join(""), old.text);
    old.logprobs.token_logprobs.forEach((p, i) => {
      assert.ok(p <= 0 && Math.abs(p - Math.max(...Object.values(old.logprobs.top_logprobs[i]))) < 1e-6); // greedy: the best
      assert.equal(old.logprobs.text_offset[i], [...old.logprobs.tokens.slice(0, i).join("")].length);
    });
    const entries = (await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0, logprobs: true, top_logprobs: 5 })).choices[0].logprobs.content;
    for (const entry of entries) {
      assert.equal(entry.top_logprobs.length, 5);
      assert.equal(entry.top_logprobs[0].logprob, entry.logprob);
      assert.deepEqual(Buffer.from(entry.bytes).toString(), entry.token);
      const sum = entry.top_logprobs.reduce((all, t) => all + Math.exp(t.logprob), 0);
      assert.ok(sum > 0 && sum < 1.000001);
    }
    const streamed = [];
    for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0, logprobs: true, top_logprobs: 5, stream: true }))
      streamed.push(...chunk.choices[0].logprobs?.content ?? []);
    assert.deepEqual(streamed, entries);
  },
  async formats() {
    const schema = { type: "object", properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer" }, tags: { type: "array", items: { enum: ["a", "b"] }, maxItems: 3 } }, required: ["name", "age", "tags"], additionalProperties: false };
    for (let seed = 1; seed <= 5; seed++) {
      const answer = await client.chat.completions.create({ model, messages, seed, max_tokens: 300, response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema } } });
      if (answer.choices[0].finish_reason === "length") continue;
      const person = JSON.parse(answer.choices[0].message.content);
      assert.deepEqual(Object.keys(person).sort(), ["age", "name", "tags"]);
      assert.ok(typeof person.name === "string" && Number.isInteger(person.age) && person.tags.every(t => "ab".includes(t)));
    }
    const fixed = await client.chat.completions.create({ model, messages, response_format: { type: "json_schema", json_schema: { name: "x", schema: { const: "42" } } } });
    assert.equal(fixed.choices[0].message.content, '"42"');
    await assert.rejects(client.chat.completions.create({ model, messages, response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "nothing" } } } }), OpenAI.BadRequestError);
  },
  async streamed_formats() {
    const ask = { model, messages, max_tokens: 60, stream: true, response_format: { type: "json_schema", json_schema: { name: "x", schema: { enum: ["é€", "plain"] } } } };
    assert.ok(["é€", "plain"].includes(JSON.parse(await gather(await client.chat.completions.create(ask), c => c.delta.content))));
    const { stream, ...whole } = ask;
    const parsed = await client.chat.completions.parse(whole);
    assert.ok(["é€", "plain"].includes(parsed.choices[0].message.parsed));
  },
  async aborts() {
    const plain = new OpenAI({ baseURL: base + "/v1", apiKey: key, maxRetries: 0 }), long = { model, prompt: "Once", max_tokens: 450, ignore_eos: true, n: 4, stream: true };
    const stream = await plain.completions.create(long);
    for await (const _ of stream) stream.controller.abort(); // at the first chunk
    const stop = new AbortController(), answer = plain.completions.create({ ...long, stream: false, n: 32 }, { signal: stop.signal });
    stop.abort();
    await assert.rejects(answer, OpenAI.APIUserAbortError);
    for (let running = 1; running > 0;) { // what nobody reads any more is not drawn on
      const metrics = await (await fetch(base + "/metrics", { headers: { authorization: `Bearer ${key}` } })).text();
      running = Number(metrics.match(/^brigade_requests_running ([\d.]+)$/m)[1]);
    }
  },
  async embeddings() {
    const rows = await client.embeddings.create({ model, input: ["a dog", "a cat"] }); // the client asks for base64
    const plain = await client.embeddings.create({ model, input: "a cat", encoding_format: "float" });
    const raw = await client.embeddings.create({ model, input: ["a dog", "a cat"], encoding_format: "base64" });
    assert.deepEqual(new Float32Array(Uint8Array.from(Buffer.from(raw.data[1].embedding, "base64")).buffer), Float32Array.from(rows.data[1].embedding));
    assert.equal(rows.data[1].embedding.length, 64);
    rows.data[1].embedding.forEach((v, i) => assert.equal(Math.fround(plain.data[0].embedding[i]), Math.fround(v)));
  },
  async errors() {
    const fails = async (promise, kind, status, check = () => {}) =>
      assert.rejects(promise, e => { assert.ok(e instanceof kind, e); assert.equal(e.status, status); check(e); return true; });
    await fails(client.completions.create({ model, prompt: "x", temperature: -1 }), OpenAI.BadRequestError, 400, e => assert.equal(e.param, "temperature"));
    await fails(client.completions.create({ model, prompt: "x ".repeat(2000) }), OpenAI.BadRequestError, 400, e => {
      assert.equal(e.type, "exceed_context_size_error");
      assert.equal(e.code, "context_length_exceeded");
      assert.ok(e.error.n_prompt_tokens > e.error.n_ctx);
    });
    await fails(client.chat.completions.create({ model: "gpt-4", messages }), OpenAI.NotFoundError, 404, e => assert.equal(e.code, "model_not_found"));
    const tool = { type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } };
    const cannot = { tools: [tool], tool_choice: "required", functions: [{ name: "f" }], audio: { voice: "alloy", format: "wav" }, prediction: { type: "content", content: "x" } };
    for (const [param, value] of Object.entries(cannot)) // said by name, not passed over
      await fails(client.chat.completions.create({ model, messages, [param]: value }), OpenAI.BadRequestError, 400, e => assert.equal(e.param, param));
    await fails(client.chat.completions.create({ model, messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:," } }] }] }), OpenAI.BadRequestError, 400, e => assert.equal(e.param, "messages"));
    await fails(client.completions.create({ model, prompt: "x", stream_options: { include_usage: true } }), OpenAI.BadRequestError, 400, e => assert.equal(e.param, "stream_options"));
    await fails(client.embeddings.create({ model, input: "x", dimensions: 5 }), OpenAI.BadRequestError, 400, e => assert.equal(e.param, "dimensions"));
    await fails(client.responses.create({ model, input: "x" }), OpenAI.NotFoundError, 404);
    await fails(new OpenAI({ baseURL: base + "/v1", apiKey: "wrong", fetch: checkedFetch, maxRetries: 0 }).models.list(), OpenAI.AuthenticationError, 401, e => assert.equal(e.code, "invalid_api_key"));
    let refused = [];
    for (let round = 0; round < 10 && refused.length === 0; round++) { // one of them fills the queue
      const crowd = await Promise.allSettled(Array.from({ length: 20 }, (_, i) => client.completions.create({ model, prompt: "x " + i, max_tokens: 300, n: 32 })));
      refused = crowd.filter(c => c.status === "rejected");
    }
    assert.ok(refused.length > 0 && refused.length < 20, `${refused.length} of 20 refused`);
    for (const { reason } of refused) {
      assert.ok(reason instanceof OpenAI.RateLimitError, reason);
      assert.ok(Number(reason.headers.get("retry-after")) >= 1);
    }
    const patient = new OpenAI({ baseURL: base + "/v1", apiKey: key, fetch: checkedFetch, maxRetries: 5 });
    assert.ok((await patient.completions.create({ model, prompt: "x", max_tokens: 1 })).id);
  },
};
for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log("ok", name);
}
console.log(checked, "responses checked");
