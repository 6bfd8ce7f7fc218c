// Vercel's AI SDK: its OpenAI provider (Responses, and .chat), Azure's, and its provider for compatible servers.
import { createAzure } from '@ai-sdk/azure';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, isStepCount, jsonSchema, Output, streamText, tool } from 'ai';
import { answerCases, converse, joined, RESULT, usageOf, WEATHER } from '../shared/asking.mjs';

const ask = (connect, options = {}) => (baseURL, asked) => {
  const model = connect(baseURL, asked);
  const settings = { user: asked.user, ...options };
  return converse(asked, async (messages, turn) => {
    messages.push({ role: 'user', content: content(turn) });
    const answer = await one(model, settings, asked, messages);
    // What was left or called in the middle says what is gone on from by itself.
    messages.push(...(answer.messages ?? []));
    delete answer.messages;
    return answer;
  });
};

function content({ text, image, document }) {
  const parts = [{ type: 'text', text }];
  if (image) parts.push({ type: 'file', mediaType: 'image/png', data: image });
  if (document) parts.push({ type: 'file', mediaType: 'application/pdf', filename: document.name, data: document.data });
  return parts;
}

async function one(model, settings, asked, messages) {
  const request = { model, messages, providerOptions: { openai: settings, azure: settings, compatible: settings } };
  if (asked.tools) {
    const { name, description, parameters } = WEATHER;
    request.tools = { [name]: tool({ description, inputSchema: jsonSchema(parameters), execute: () => RESULT }) };
    request.stopWhen = isStepCount(2);
  }
  if (asked.schema) request.output = Output.object({ schema: jsonSchema(asked.schema) });
  const failures = [];
  const leaving = new AbortController();
  const result = asked.stream
    ? streamText({ ...request, abortSignal: leaving.signal, onError: ({ error }) => failures.push(error) })
    : await generateText(request);
  const pieces = [];
  if (asked.stream) {
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta') pieces.push(part.text);
      if (pieces.length === asked.stopAfter) {
        leaving.abort();
        return { text: joined(pieces) };
      }
    }
  }
  if (failures.length > 0) throw failures[0];
  const usage = await result.totalUsage;
  const steps = await result.steps;
  return {
    text: await result.text,
    pieces: pieces.length,
    object: asked.schema && (await result.output),
    reasoning: (await result.reasoningText) ?? '',
    toolCalls: steps.flatMap((step) => step.toolCalls).map((call) => ({ name: call.toolName, arguments: call.input })),
    sources: (await result.sources).map((source) => source.url),
    usage: usageOf(usage.inputTokens, usage.outputTokens, usage.totalTokens),
    finish: await result.finishReason,
    messages: (await result.response).messages,
  };
}

const openai = (baseURL) => createOpenAI({ baseURL, apiKey: 'any' });
const compatible = (baseURL, { model }) =>
  createOpenAICompatible({
    name: 'compatible',
    baseURL,
    apiKey: 'any',
    includeUsage: true,
    supportsStructuredOutputs: true,
  })(model);

const azure = (baseURL) => createAzure({ baseURL: baseURL.replace(/\/v1$/, '/openai'), apiKey: 'any' });

await answerCases({
  responses: ask((baseURL, { model }) => openai(baseURL)(model)),
  // The AI SDK sends earlier items back as `item_reference` unless it is told `store: false`.
  unstored: ask((baseURL, { model }) => openai(baseURL)(model), { store: false }),
  azure: ask((baseURL, { model }) => azure(baseURL)(model)),
  chat: ask((baseURL, { model }) => openai(baseURL).chat(model)),
  compatible: ask(compatible),
});
