// OpenAI's JavaScript client against the server of URL. TALKER and EMBEDDER are models of
// it. STAND_IN says that the engines are stand-ins, which say what they are told and have
// paths that llama.cpp lacks.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI, { toFile } from "openai";

const { URL: url, TALKER: talker, EMBEDDER: embedder, STAND_IN: standIn } = process.env;
const client = new OpenAI({ baseURL: url + "/v1", apiKey: "none", maxRetries: 120 });
const told = "tell me of the sea";
const messages = [{ role: "user", content: told }];
const only = { skip: standIn ? false : "llama.cpp does not say what it is told" };

test("chat", async () => {
  const got = await client.chat.completions.create({ model: talker, messages, max_completion_tokens: 5 });
  assert.equal(got.usage.completion_tokens, 5);
  assert.notEqual(got.choices[0].message.content, "");
  if (standIn) assert.equal(got.choices[0].message.content, told);
});

test("a stream with usage", async () => {
  const stream = await client.chat.completions.create({
    model: talker, messages, max_completion_tokens: 5, stream: true, stream_options: { include_usage: true },
  });
  let text = "", usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(usage.completion_tokens, 5);
  assert.equal(usage.total_tokens, usage.prompt_tokens + 5);
  assert.notEqual(text, "");
  if (standIn) assert.equal(text, told);
});

test("a stream that is left", async () => {
  const stream = await client.chat.completions.create(
    { model: talker, messages, max_completion_tokens: 5, stream: true },
    { headers: standIn ? { "X-Fault": "endless" } : {} },
  );
  for await (const _ of stream) break;
});

test("completions", async () => {
  const got = await client.completions.create({ model: talker, prompt: told, max_tokens: 5 });
  assert.equal(got.usage.completion_tokens, 5);
  if (standIn) assert.equal(got.choices[0].text, told);
});

test("embeddings", async () => { // this client asks for base64
  const got = await client.embeddings.create({ model: embedder, input: ["water", "fire"] });
  assert.equal(got.data.length, 2);
  const [water, fire] = got.data.map((d) => d.embedding);
  assert.ok(water.length >= 3 && water.length === fire.length);
  assert.ok(water.every(Number.isFinite));
  assert.notDeepEqual(water, fire);
});

test("models", async () => {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  assert.ok(ids.includes(talker) && ids.includes(embedder), ids.join());
  assert.equal((await client.models.retrieve(talker)).id, talker);
});

test("an unknown model", async () => {
  await assert.rejects(
    client.chat.completions.create({ model: talker + "x", messages }),
    (err) => err instanceof OpenAI.NotFoundError && err.code === "not_found",
  );
});

test("tools", only, async () => {
  const tools = [{ type: "function", function: { name: "look_up", parameters: { type: "object", properties: { text: { type: "string" } } } } }];
  const got = await client.chat.completions.create({ model: talker, messages, tools });
  const [call] = got.choices[0].message.tool_calls;
  assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["look_up", { text: told }]);
  const after = await client.chat.completions.create({
    model: talker, tools, messages: [...messages, got.choices[0].message, { role: "tool", tool_call_id: call.id, content: "deep and blue" }],
  });
  assert.equal(after.choices[0].message.content, "deep and blue");
});

test("responses", only, async () => {
  const got = await client.responses.create({ model: talker, input: told });
  assert.equal(got.output_text, told);
  let text = "";
  for await (const e of await client.responses.create({ model: talker, input: told, stream: true })) {
    if (e.type === "response.output_text.delta") text += e.delta;
  }
  assert.equal(text, told);
});

test("sound", only, async () => {
  const speech = await client.audio.speech.create({ model: "speaker", voice: "alloy", input: told });
  assert.equal(await speech.text(), "sound of: " + told);
  const heard = await client.audio.transcriptions.create({ model: "listener", file: await toFile(Buffer.from(told), "x.wav") });
  assert.equal(heard.text, told);
});

test("images", only, async () => {
  const made = await client.images.generate({ model: "painter", prompt: told });
  assert.equal(Buffer.from(made.data[0].b64_json, "base64").toString(), "picture of: " + told);
  const edited = await client.images.edit({ model: "painter", prompt: "brighter", image: await toFile(Buffer.from("a cat"), "cat.png") });
  assert.equal(Buffer.from(edited.data[0].b64_json, "base64").toString(), "brighter: a cat");
});
