// OpenAI's own client: chat completions (also as Azure's) and Responses, by its streaming helpers and whole.
import OpenAI, { AzureOpenAI } from 'openai';
import { asks, joined, usageOf, WEATHER } from './asking.mjs';

const common = { apiKey: 'any', maxRetries: 0 };

async function chat(client, { model, stream, user, questions, tools }) {
  const request = { model, user, messages: [{ role: 'user', content: questions[0] }] };
  if (tools) request.tools = [{ type: 'function', function: WEATHER }];
  const { completion, message } = stream ? await streamed(client, request) : await whole(client, request);
  const { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
  return {
    text: message.content ?? '',
    reasoning: message.reasoning_content ?? '',
    toolCalls: (message.tool_calls ?? []).map((call) => ({
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments),
    })),
    sources: (message.annotations ?? []).map((annotation) => annotation.url_citation.url),
    usage: usageOf(prompt_tokens, completion_tokens, total_tokens),
    finish: completion.choices[0].finish_reason,
  };
}

async function whole(client, request) {
  const completion = await client.chat.completions.create(request);
  return { completion, message: completion.choices[0].message };
}

async function streamed(client, request) {
  const helper = client.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
  const deltas = [];
  // The helper keeps the last of fields that it does not know: these are put together here.
  for await (const chunk of helper) deltas.push(...chunk.choices.map((choice) => choice.delta));
  const completion = await helper.finalChatCompletion();
  const message = {
    ...completion.choices[0].message,
    reasoning_content: joined(deltas.map((delta) => delta.reasoning_content)),
    annotations: deltas.flatMap((delta) => delta.annotations ?? []),
  };
  const said = joined(deltas.map((delta) => delta.content));
  if (said !== (message.content ?? '')) throw new Error(`the helper's text is not the deltas': ${said}`);
  return { completion, message };
}

async function responses(client, { model, stream, user, questions, tools }) {
  const request = { model, user, input: questions[0] };
  if (tools) request.tools = [{ type: 'function', strict: true, ...WEATHER }];
  const response = stream
    ? await client.responses.stream(request).finalResponse()
    : await client.responses.create(request);
  const of = (type) => response.output.filter((item) => item.type === type);
  const { input_tokens, output_tokens, total_tokens } = response.usage;
  return {
    text: response.output_text,
    reasoning: joined(of('reasoning').flatMap((item) => item.summary.map((part) => part.text))),
    toolCalls: of('function_call').map((call) => ({ name: call.name, arguments: JSON.parse(call.arguments) })),
    sources: of('message').flatMap((item) =>
      item.content.flatMap((part) => (part.annotations ?? []).map((annotation) => annotation.url)),
    ),
    usage: usageOf(input_tokens, output_tokens, total_tokens),
    finish: response.status,
  };
}

const azure = (baseURL, { model }) =>
  new AzureOpenAI({
    ...common,
    endpoint: baseURL.replace(/\/v1$/, ''),
    apiVersion: '2024-10-21',
    deployment: model,
  });

await asks({
  chat: (baseURL, asked) => chat(new OpenAI({ ...common, baseURL }), asked),
  azure: (baseURL, asked) => chat(azure(baseURL, asked), { ...asked, model: 'gpt-4o' }),
  responses: (baseURL, asked) => responses(new OpenAI({ ...common, baseURL }), asked),
});
