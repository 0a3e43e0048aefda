// Anthropic's JavaScript client against the server of URL, as openai.mjs.
import assert from "node:assert/strict";
import test from "node:test";
import Anthropic from "@anthropic-ai/sdk";

const { URL: url, TALKER: talker, STAND_IN: standIn } = process.env;
const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 120 });
const told = "tell me of the sea";
const ask = { model: talker, max_tokens: 5, system: "Be brief.", messages: [{ role: "user", content: told }] };
const only = { skip: standIn ? false : "llama.cpp does not say what it is told" };

test("messages", async () => {
  const got = await client.messages.create(ask);
  assert.equal(got.usage.output_tokens, 5);
  assert.notEqual(got.content[0].text, "");
  if (standIn) assert.equal(got.content[0].text, told);
});

test("a stream", async () => {
  const got = await client.messages.stream(ask).finalMessage();
  assert.equal(got.usage.output_tokens, 5);
  assert.notEqual(got.content[0].text, "");
  if (standIn) assert.equal(got.content[0].text, told);
});

test("an unknown model", async () => {
  await assert.rejects(client.messages.create({ ...ask, model: talker + "x" }), (err) => err instanceof Anthropic.NotFoundError);
});

test("tools in a stream", only, async () => {
  const tools = [{ name: "look_up", input_schema: { type: "object", properties: { text: { type: "string" } } } }];
  const got = await client.messages.stream({ ...ask, tools }).finalMessage();
  assert.equal(got.stop_reason, "tool_use");
  const call = got.content.find((block) => block.type === "tool_use");
  assert.deepEqual([call.name, call.input], ["look_up", { text: told }]);
  const after = await client.messages.create({
    ...ask, tools,
    messages: [...ask.messages, { role: "assistant", content: got.content }, { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "deep and blue" }] }],
  });
  assert.equal(after.content[0].text, "deep and blue");
});

test("an engine that ends in a stream", only, async () => {
  const cut = client.messages.stream(ask, { headers: { "X-Fault": "close-mid-stream" }, maxRetries: 0 });
  await assert.rejects(cut.finalMessage(), (err) => err instanceof Anthropic.AnthropicError);
});

test("count_tokens", only, async () => {
  const got = await client.messages.countTokens({ model: talker, messages: ask.messages });
  assert.ok(got.input_tokens >= 5);
});
