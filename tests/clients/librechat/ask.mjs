// LibreChat's own library, set up as LibreChat does for a custom endpoint and for a group of azureOpenAI:
// a graph run streams each answer, and the title of a new conversation is asked for at the same moment.
import { randomUUID } from 'node:crypto';
import { AIMessage, HumanMessage } from '@langchain/core/messages';
import {
  ChatModelStreamHandler,
  createContentAggregator,
  GraphEvents,
  ModelEndHandler,
  Providers,
  Run,
  TitleMethod,
  tool,
} from '@librechat/agents';
import { answerCases, converse, joined, RESULT, usageOf, WEATHER } from '../shared/asking.mjs';

const CONTENT_EVENTS = [
  GraphEvents.ON_RUN_STEP,
  GraphEvents.ON_RUN_STEP_DELTA,
  GraphEvents.ON_RUN_STEP_COMPLETED,
  GraphEvents.ON_MESSAGE_DELTA,
  GraphEvents.ON_REASONING_DELTA,
];

const custom = (baseURL, { model, user }, headers) => ({
  provider: Providers.OPENAI,
  said: (text) => text,
  // `usage` is what LibreChat sets for its custom endpoints: no `stream_options` is sent.
  options: { model, user, apiKey: 'any', streamUsage: false, usage: true, configuration: { baseURL, defaultHeaders: headers } },
});

const azure = (baseURL, { model, user }, headers) => ({
  provider: Providers.AZURE,
  said: (text) => [{ type: 'text', text }],
  options: {
    model,
    user,
    azureOpenAIApiKey: 'any',
    azureOpenAIApiVersion: '2024-10-21',
    azureOpenAIApiDeploymentName: model,
    azureOpenAIBasePath: `${baseURL.replace(/\/v1$/, '')}/openai/deployments`,
    configuration: { defaultHeaders: headers },
  },
});

function ask(endpoint, baseURL, asked) {
  const conversation = randomUUID();
  let first = true;
  return converse(asked, async (messages, turn) => {
    const headers = { 'X-Conversation-Id': conversation, 'X-Message-Id': randomUUID(), 'X-User-Id': asked.user };
    const { provider, options, said } = endpoint(baseURL, asked, headers);
    messages.push(new HumanMessage({ content: content(turn, said) }));
    const answer = await one({ provider, options, messages, question: turn.text, conversation, asked, first });
    first = false;
    messages.push(new AIMessage({ content: said(answer.text.trim()) }));
    return answer;
  });
}

function content({ text, image }, said) {
  return image ? [{ type: 'text', text }, { type: 'image_url', image_url: { url: image, detail: 'auto' } }] : said(text);
}

async function one({ provider, options, messages, question, conversation, asked, first }) {
  const { contentParts, aggregateContent } = createContentAggregator();
  const usages = [];
  let pieceSeen;
  const take = (event, data) => {
    aggregateContent({ event, data });
    if (event === GraphEvents.ON_MESSAGE_DELTA) pieceSeen();
  };
  const runId = randomUUID();
  const run = await Run.create({
    runId,
    graphConfig: {
      type: 'standard',
      agents: [
        {
          agentId: 'under-test',
          provider,
          clientOptions: { streaming: true, ...options },
          reasoningKey: 'reasoning_content',
          tools: asked.tools ? [weather] : [],
        },
      ],
    },
    customHandlers: {
      [GraphEvents.CHAT_MODEL_STREAM]: new ChatModelStreamHandler(),
      [GraphEvents.CHAT_MODEL_END]: new ModelEndHandler(usages),
      ...Object.fromEntries(
        CONTENT_EVENTS.map((name) => [name, { handle: (event, data) => take(event, data) }]),
      ),
    },
    returnContent: true,
    skipCleanup: true,
  });
  const configurable = { thread_id: conversation, user_id: asked.user };
  const titled = first
    ? run.generateTitle({
        provider,
        clientOptions: { ...options, streaming: false },
        inputText: question,
        contentParts: [],
        titleMethod: asked.titleMethod ?? TitleMethod.COMPLETION,
        chainOptions: { configurable },
      })
    : {};
  const leaving = new AbortController();
  let pieces = 0;
  pieceSeen = () => {
    pieces += 1;
    if (pieces === asked.stopAfter) leaving.abort();
  };
  const answered = run.processStream(
    { messages: [...messages] },
    { configurable, streamMode: 'values', version: 'v2', signal: leaving.signal },
  );
  const [{ title }] = await Promise.all([titled, answered.catch((error) => leaving.signal.aborted || Promise.reject(error))]);
  if (leaving.signal.aborted) return { text: joined(contentParts.filter(Boolean).map((part) => part.text)) };
  return { ...understood(contentParts, run.getRunMessages(), usages, title), pieces };
}

function understood(contentParts, messages, usages, title) {
  const parts = contentParts.filter(Boolean);
  const of = (type) => parts.filter((part) => part.type === type);
  const last = messages.at(-1);
  const usage = usages.at(-1) ?? {};
  return {
    title,
    text: joined(of('text').map((part) => part.text)),
    reasoning: joined(of('think').map((part) => part.think)),
    toolCalls: of('tool_call').map((part) => ({
      name: part.tool_call.name,
      arguments: JSON.parse(part.tool_call.args),
      output: part.tool_call.output,
    })),
    usage: usageOf(usage.input_tokens, usage.output_tokens, usage.total_tokens),
    finish: last.response_metadata.finish_reason,
    kinds: parts.map((part) => part.type),
  };
}

const weather = tool(() => RESULT, {
  name: WEATHER.name,
  description: WEATHER.description,
  schema: WEATHER.parameters,
});

await answerCases({
  custom: (baseURL, asked) => ask(custom, baseURL, asked),
  azure: (baseURL, asked) => ask(azure, baseURL, asked),
});
