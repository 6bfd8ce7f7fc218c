// LangChain's client, which is also the one inside LibreChat: chat completions and Responses.
import { ChatOpenAI } from '@langchain/openai';
import { asks, joined, usageOf } from './asking.mjs';

async function ask(baseURL, { way, model, stream, user, questions }) {
  const client = new ChatOpenAI({
    model,
    user,
    apiKey: 'any',
    maxRetries: 0,
    useResponsesApi: way === 'responses',
    configuration: { baseURL },
  });
  const message = stream ? await concatenated(await client.stream(questions[0])) : await client.invoke(questions[0]);
  const { input_tokens, output_tokens, total_tokens } = message.usage_metadata;
  const parts = typeof message.content === 'string' ? [{ text: message.content }] : message.content;
  return {
    text: joined(parts.map((part) => part.text)),
    reasoning: message.additional_kwargs.reasoning_content ?? summary(message.additional_kwargs.reasoning),
    toolCalls: message.tool_calls ?? [],
    sources: parts.flatMap((part) => (part.annotations ?? []).map((annotation) => annotation.url)),
    usage: usageOf(input_tokens, output_tokens, total_tokens),
    finish: message.response_metadata.finish_reason ?? message.response_metadata.status,
  };
}

async function concatenated(chunks) {
  let message;
  for await (const chunk of chunks) message = message === undefined ? chunk : message.concat(chunk);
  return message;
}

const summary = (reasoning) => joined((reasoning?.summary ?? []).map((part) => part.text));

await asks({ chat: ask, responses: ask });
