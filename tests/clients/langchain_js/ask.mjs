// LangChain's client, which is also the one inside LibreChat: chat completions, also as Azure's, and Responses.
import { HumanMessage, ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { AzureChatOpenAI, ChatOpenAI } from '@langchain/openai';
import { answerCases, converse, joined, RESULT, usageOf, WEATHER } from '../shared/asking.mjs';

const weather = tool(() => RESULT, { name: WEATHER.name, description: WEATHER.description, schema: WEATHER.parameters });

const openai = (baseURL, { surface, model, user }) =>
  new ChatOpenAI({ model, user, apiKey: 'any', useResponsesApi: surface === 'responses', configuration: { baseURL } });

const azure = (baseURL, { model, user }) =>
  new AzureChatOpenAI({
    model,
    user,
    azureOpenAIApiKey: 'any',
    azureOpenAIApiVersion: '2024-10-21',
    azureOpenAIApiDeploymentName: model,
    azureOpenAIBasePath: `${baseURL.replace(/\/v1$/, '')}/openai/deployments`,
  });

function ask(baseURL, asked) {
  const client = asked.surface === 'azure' ? azure(baseURL, asked) : openai(baseURL, asked);
  const bound = asked.tools ? client.bindTools([weather]) : client;
  return converse(asked, async (messages, turn) => {
    messages.push(new HumanMessage({ content: content(turn) }));
    if (asked.schema) return structured(client, asked, messages);
    const answer = await one(bound, asked, messages);
    const calls = answer.toolCalls ?? [];
    if (calls.length === 0) return answer;
    for (const call of calls) messages.push(new ToolMessage({ content: await weather.invoke(call.arguments), tool_call_id: call.id }));
    return { ...(await one(bound, asked, messages)), toolCalls: calls };
  });
}

function content({ text, image, document }) {
  const parts = [{ type: 'text', text }];
  if (image) parts.push({ type: 'image_url', image_url: { url: image } });
  if (document) {
    const { name, data } = document;
    parts.push({ type: 'file', source_type: 'base64', mime_type: 'application/pdf', data, metadata: { filename: name } });
  }
  return parts;
}

async function structured(client, { schema, stream }, messages) {
  const reader = client.withStructuredOutput({ title: 'weather', ...schema }, { method: 'jsonSchema' });
  if (!stream) return { text: '', object: await reader.invoke(messages) };
  let object;
  for await (object of await reader.stream(messages));
  return { text: '', object };
}

async function one(client, { stream, stopAfter }, messages) {
  const pieces = [];
  let message;
  if (stream) {
    for await (const chunk of await client.stream(messages)) {
      if (chunk.text) pieces.push(chunk.text);
      message = message === undefined ? chunk : message.concat(chunk);
      if (pieces.length === stopAfter) return { text: joined(pieces) };
    }
  } else {
    message = await client.invoke(messages);
  }
  messages.push(message);
  const { input_tokens, output_tokens, total_tokens } = message.usage_metadata;
  const parts = typeof message.content === 'string' ? [{ text: message.content }] : message.content;
  return {
    text: joined(parts.map((part) => part.text)),
    pieces: pieces.length,
    reasoning: message.additional_kwargs.reasoning_content ?? summary(message.additional_kwargs.reasoning),
    toolCalls: (message.tool_calls ?? []).map(({ id, name, args }) => ({ id, name, arguments: args })),
    sources: parts.flatMap((part) => (part.annotations ?? []).map((annotation) => annotation.url)),
    usage: usageOf(input_tokens, output_tokens, total_tokens),
    finish: message.response_metadata.finish_reason ?? message.response_metadata.status,
  };
}

const summary = (reasoning) => joined((reasoning?.summary ?? []).map((part) => part.text));

await answerCases({ chat: ask, azure: ask, responses: ask });
