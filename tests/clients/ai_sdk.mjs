// Vercel's AI SDK: its OpenAI provider (Responses, and .chat) and its provider for compatible servers.
// Of several questions each goes on from the answer before, as `response.messages` has it.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, jsonSchema, streamText, tool } from 'ai';
import { asks, usageOf, WEATHER } from './asking.mjs';

async function ask(model, { way, stream, user, questions, tools }) {
  const messages = [];
  let answer;
  for (const question of questions) {
    messages.push({ role: 'user', content: question });
    answer = await one(model, { way, stream, user, messages, tools });
    messages.push(...answer.messages);
  }
  delete answer.messages;
  return answer;
}

async function one(model, { way, stream, user, messages, tools }) {
  const options = way === 'unstored' ? { user, store: false } : { user };
  const request = { model, messages, maxRetries: 0, providerOptions: { openai: options, compatible: options } };
  if (tools) {
    const { name, description, parameters } = WEATHER;
    request.tools = { [name]: tool({ description, inputSchema: jsonSchema(parameters) }) };
  }
  const failures = [];
  const result = stream
    ? streamText({ ...request, onError: ({ error }) => failures.push(error) })
    : await generateText(request);
  const parts = [];
  if (stream) for await (const part of result.fullStream) parts.push(part);
  if (failures.length > 0) throw failures[0];
  const usage = await result.totalUsage;
  return {
    text: await result.text,
    reasoning: (await result.reasoningText) ?? '',
    toolCalls: (await result.toolCalls).map((call) => ({ name: call.toolName, arguments: call.input })),
    sources: (await result.sources).map((source) => source.url),
    usage: usageOf(usage.inputTokens, usage.outputTokens, usage.totalTokens),
    finish: await result.finishReason,
    messages: (await result.response).messages,
  };
}

const openai = (baseURL) => createOpenAI({ baseURL, apiKey: 'any' });
const compatible = (baseURL) =>
  createOpenAICompatible({ name: 'compatible', baseURL, apiKey: 'any', includeUsage: true });

await asks({
  responses: (baseURL, asked) => ask(openai(baseURL)(asked.model), asked),
  unstored: (baseURL, asked) => ask(openai(baseURL)(asked.model), asked),
  chat: (baseURL, asked) => ask(openai(baseURL).chat(asked.model), asked),
  compatible: (baseURL, asked) => ask(compatible(baseURL)(asked.model), asked),
});
