// OpenAI's client for JavaScript: chat completions (also as Azure's), completions, and Responses in each way of going on.
import OpenAI, { AzureOpenAI } from 'openai';
import { answerCases, converse, inputContent, joined, RESULT, usageOf, userContent, WEATHER } from '../shared/asking.mjs';
import { called } from './calls.mjs';

async function completion(client, asked, { text }) {
  const request = { model: asked.model, prompt: text, user: asked.user };
  if (!asked.stream) {
    const { choices, usage } = await client.completions.create(request);
    return { text: choices[0].text, finish: choices[0].finish_reason, usage: chatUsage(usage) };
  }
  const pieces = [];
  let finish;
  let usage;
  const stream = await client.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    pieces.push(...chunk.choices.map((choice) => choice.text).filter(Boolean));
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
    if (pieces.length === asked.stopAfter) return { text: joined(pieces) };
  }
  return { text: joined(pieces), pieces: pieces.length, finish, usage: chatUsage(usage) };
}

async function chat(client, asked, history, turn) {
  history.push({ role: 'user', content: userContent(turn) });
  const answer = await chatOnce(client, asked, history);
  if (!answer.toolCalls?.length) return answer;
  for (const { id } of answer.toolCalls) history.push({ role: 'tool', tool_call_id: id, content: RESULT });
  return { ...(await chatOnce(client, asked, history)), toolCalls: answer.toolCalls };
}

async function chatOnce(client, asked, history) {
  const request = { model: asked.model, user: asked.user, messages: history };
  if (asked.tools) request.tools = [{ type: 'function', function: WEATHER }];
  if (asked.schema) {
    request.response_format = { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: asked.schema } };
  }
  const { completion, message, pieces } = asked.stream
    ? await streamed(client, request, asked)
    : await whole(client, request);
  if (!completion) return { text: joined(pieces) };
  const { role, content, tool_calls } = message;
  history.push(tool_calls?.length ? { role, content, tool_calls } : { role, content });
  const { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
  return {
    text: content ?? '',
    pieces: pieces.length,
    object: asked.schema && JSON.parse(content),
    reasoning: message.reasoning_content ?? '',
    toolCalls: (tool_calls ?? []).map((call) => ({
      id: call.id,
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
  return { completion, message: completion.choices[0].message, pieces: [] };
}

async function streamed(client, request, { stopAfter }) {
  const helper = client.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
  const deltas = [];
  const pieces = [];
  // The helper keeps the last of fields that it does not know: these are put together here.
  for await (const chunk of helper) {
    deltas.push(...chunk.choices.map((choice) => choice.delta));
    pieces.push(...chunk.choices.map((choice) => choice.delta.content).filter(Boolean));
    if (pieces.length === stopAfter) {
      helper.abort();
      return { pieces };
    }
  }
  const completion = await helper.finalChatCompletion();
  const message = {
    ...completion.choices[0].message,
    reasoning_content: joined(deltas.map((delta) => delta.reasoning_content)),
    annotations: deltas.flatMap((delta) => delta.annotations ?? []),
  };
  if (joined(pieces) !== (message.content ?? '')) throw new Error(`the helper's text is not the deltas': ${pieces}`);
  return { completion, message, pieces };
}

async function response(client, asked, history, turn) {
  const answer = await responseOnce(client, asked, history, [{ role: 'user', content: inputContent(turn) }]);
  if (!answer.toolCalls?.length) return answer;
  const results = answer.toolCalls.map(({ id }) => ({ type: 'function_call_output', call_id: id, output: RESULT }));
  return { ...(await responseOnce(client, asked, history, results)), toolCalls: answer.toolCalls };
}

async function responseOnce(client, asked, history, fresh) {
  const request = { model: asked.model, user: asked.user, input: fresh };
  if (asked.surface === 'responses') Object.assign(request, { input: [...history, ...fresh], store: false });
  else if (asked.surface === 'conversation') request.conversation = `conv_${asked.user}`;
  else if (history.length > 0) request.previous_response_id = history.at(-1);
  if (asked.tools) request.tools = [{ type: 'function', strict: true, ...WEATHER }];
  if (asked.schema) request.text = { format: { type: 'json_schema', name: 'weather', strict: true, schema: asked.schema } };
  const pieces = [];
  let result;
  if (asked.stream) {
    const stream = client.responses.stream(request);
    for await (const event of stream) {
      if (event.type === 'response.output_text.delta') pieces.push(event.delta);
      if (pieces.length === asked.stopAfter) {
        stream.abort();
        return { text: joined(pieces) };
      }
    }
    result = await stream.finalResponse();
  } else {
    result = await client.responses.create(request);
  }
  if (asked.surface === 'responses') history.push(...fresh, ...result.output);
  else history.push(result.id);
  const of = (type) => result.output.filter((item) => item.type === type);
  const { input_tokens, output_tokens, total_tokens } = result.usage;
  return {
    text: result.output_text,
    pieces: pieces.length,
    object: asked.schema && JSON.parse(result.output_text),
    reasoning: joined(of('reasoning').flatMap((item) => item.summary.map((part) => part.text))),
    toolCalls: of('function_call').map((call) => ({
      id: call.call_id,
      name: call.name,
      arguments: JSON.parse(call.arguments),
    })),
    sources: of('message').flatMap((item) =>
      item.content.flatMap((part) => (part.annotations ?? []).map((annotation) => annotation.url)),
    ),
    usage: usageOf(input_tokens, output_tokens, total_tokens),
    finish: result.status,
  };
}

const chatUsage = ({ prompt_tokens, completion_tokens, total_tokens }) =>
  usageOf(prompt_tokens, completion_tokens, total_tokens);

const openai = (baseURL) => new OpenAI({ apiKey: 'any', baseURL });
const azure = (baseURL, { model }) =>
  new AzureOpenAI({ apiKey: 'any', endpoint: baseURL.replace(/\/v1$/, ''), apiVersion: '2024-10-21', deployment: model });

const conversation = (one, connect) => (baseURL, asked) => {
  const client = connect(baseURL, asked);
  return converse(asked, (history, turn) => one(client, asked, history, turn));
};
const prompted = (client, asked, history, turn) => completion(client, asked, turn);

await answerCases({
  chat: conversation(chat, openai),
  azure: conversation(chat, azure),
  completions: conversation(prompted, openai),
  responses: conversation(response, openai),
  chained: conversation(response, openai),
  conversation: conversation(response, openai),
  calls: called,
});
