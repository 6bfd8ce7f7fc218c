// One answer as it comes: text, reasoning, tools, sources, decisions, what it took, what was sent for it.
import { BASE, hasKey } from './api.js';
import { codeBlock, copyButton, h, seconds } from './dom.js';
import { link, markdown } from './markdown.js';

const MAX_RAW = 400_000;

/** A new answer to a request. */
export const newAnswer = (model, request, headers) => ({
  model, request, headers, text: '', reasoning: '', annotations: [], flowise: null, usage: null, error: null, status: 'waiting',
  began: performance.now(), first: null, took: null, raw: [], rawSize: 0, told: {},
});

/** Add what an event of the stream brings. */
export function addEvent(answer, event) {
  if (event.error) {
    answer.error = { ...event.error, status: 0 };
    return;
  }
  const delta = event.choices?.[0]?.delta ?? {};
  if (answer.first === null && (delta.content || delta.reasoning_content)) answer.first = (performance.now() - answer.began) / 1000;
  answer.text += delta.content ?? '';
  answer.reasoning += delta.reasoning_content ?? '';
  answer.annotations.push(...(delta.annotations ?? []));
  answer.flowise = event.flowise ?? answer.flowise;
  answer.usage = event.usage ?? answer.usage;
}

/** Keep an event as it came, within a bound. */
export function keepRaw(answer, text) {
  answer.rawSize += text.length;
  if (answer.rawSize <= MAX_RAW) answer.raw.push(text);
}

/** The answer's element, and what shows its present state. `actions`: regenerate, send. */
export function answerView(answer, actions) {
  // A long one scrolls, which a keyboard can do only within what it can focus.
  const reasoning = h('div', { class: 'reasoning-text', tabIndex: 0, role: 'group', 'aria-label': 'Reasoning' });
  const lastStep = h('span', { class: 'muted last-step' });
  const thoughts = h('details', { class: 'fold reasoning' }, h('summary', null, 'Reasoning and steps ', lastStep), reasoning);
  const content = h('div', { class: 'markdown' });
  const extras = h('div', { class: 'extras' });
  const meta = h('span', { class: 'muted meta' });
  const foot = h('div', { class: 'foot' });
  const element = h('li', { class: 'message answer' },
    h('h2', { class: 'who' }, answer.model), thoughts, content, extras, foot);
  let drawn = { text: '', reasoning: '' };

  function update() {
    thoughts.hidden = !answer.reasoning;
    if (drawn.reasoning !== answer.reasoning) {
      reasoning.textContent = answer.reasoning.trim();
      lastStep.textContent = answer.text || isDone() ? '' : (answer.reasoning.trim().split('\n').at(-1) ?? '').slice(0, 80);
    }
    if (drawn.text !== answer.text) {
      content.replaceChildren(markdown(answer.text));
      lastStep.textContent = '';
    }
    drawn = { text: answer.text, reasoning: answer.reasoning };
    element.setAttribute('aria-busy', String(!isDone()));
    element.classList.toggle('writing', !isDone());
    if (isDone()) finish();
    else meta.textContent = answer.status === 'waiting' && !answer.text ? 'Waiting for the flow …' : '';
    if (!isDone()) foot.replaceChildren(meta);
  }

  const isDone = () => !['waiting', 'streaming'].includes(answer.status);

  function finish() {
    lastStep.textContent = '';
    const details = answer.flowise ?? {};
    extras.replaceChildren(...[
      answer.error && errorNotice(answer.error),
      answer.status === 'stopped' && h('p', { class: 'notice' }, 'Stopped here; the flow’s run was ended.'),
      ...(details.warnings ?? []).map((text) => h('p', { class: 'notice warn' }, text)),
      details.transcript && h('p', { class: 'muted' }, `Heard: ${details.transcript}`),
      fold('Tools', details.used_tools, tool),
      fold('Nodes', details.nodes, node),
      sources(answer),
      fold('Files', details.files, (file) => h('li', null, link(file.url, [file.name]))),
      choices(details.action?.choices, 'Decision', 'main'),
      choices(details.follow_up_prompts, 'Follow-up', 'quiet'),
    ].filter(Boolean));
    meta.textContent = measures(answer);
    const [button, panel] = requestPanel(answer);
    foot.replaceChildren(meta, h('span', { class: 'tools' },
      copyButton(() => answer.text, 'Copy', 'answer'),
      h('button', { type: 'button', class: 'quiet small', on: { click: actions.regenerate } }, 'Regenerate'),
      button), panel);
  }

  function choices(texts, title, kind) {
    if (!texts?.length) return null;
    return h('div', { class: 'choices', role: 'group', 'aria-label': title },
      ...texts.map((text) => h('button', { type: 'button', class: kind, on: { click: () => actions.send(text) } }, text)));
  }

  update();
  return { element, update };
}

/** An error as a person should read it, with its code. */
export function errorNotice(error) {
  const more = [error.status && `HTTP ${error.status}`, error.requestId, error.retryAfter && `try again after ${error.retryAfter} s`];
  return h('div', { class: 'notice bad', role: 'alert' },
    h('p', null, error.message),
    h('p', { class: 'muted' }, error.code && h('code', null, error.code), ` ${more.filter(Boolean).join(' · ')}`));
}

function fold(title, entries, show) {
  if (!entries?.length) return null;
  return h('details', { class: 'fold' }, h('summary', null, `${title} (${entries.length})`), h('ul', null, ...entries.map(show)));
}

const asText = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2) ?? '');

const tool = (used) => h('li', null, h('strong', null, used.name), used.error && h('span', { class: 'error-text' }, ` failed: ${used.error}`),
  h('pre', { class: 'value', tabIndex: 0, role: 'group', 'aria-label': `Input and output of ${used.name}` }, `${asText(used.input)}\n→ ${asText(used.output)}`));

const node = (step) => h('li', null, step.name,
  h('span', { class: 'muted' }, ` ${[step.state?.toLowerCase(), step.seconds !== undefined && seconds(step.seconds)].filter(Boolean).join(' · ')}`));

function sources(answer) {
  const documents = answer.flowise?.source_documents ?? [];
  const cited = answer.annotations.map((annotation) => annotation.url_citation).filter(Boolean);
  const shown = new Map(cited.map((citation) => [citation.url, { title: citation.title || citation.url, url: citation.url, text: '' }]));
  documents.forEach((document, number) => {
    const { source, title, fileName, loc } = document.metadata ?? {};
    const url = [source, document.metadata?.url].find((text) => typeof text === 'string' && /^https?:\/\//.test(text));
    const name = [title, fileName, url, source].find((text) => typeof text === 'string' && text) ?? `Source ${number + 1}`;
    const place = loc?.pageNumber ? `, page ${loc.pageNumber}` : '';
    const entry = shown.get(url) ?? { title: name + place, url, text: '' };
    entry.text = [entry.text, asText(document.pageContent)].filter(Boolean).join('\n…\n');
    shown.set(url ?? number, entry);
  });
  const result = fold('Sources', [...shown.values()], (entry) => h('li', null,
    entry.url ? link(entry.url, [entry.title]) : h('strong', null, entry.title),
    entry.text && h('p', { class: 'muted passage' }, entry.text.slice(0, 400))));
  if (result) result.open = true;
  return result;
}

function measures({ usage, flowise, took, first, status, text }) {
  const parts = [];
  if (usage) {
    const thought = usage.completion_tokens_details?.reasoning_tokens;
    parts.push(`${flowise?.usage_estimated ? 'about ' : ''}${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out${thought ? ` (${thought} reasoning)` : ''}`);
  }
  if (took !== null) parts.push(seconds(took));
  if (first !== null) parts.push(`first after ${seconds(first)}`);
  if (usage && took && first !== null && text && took - first > 0.05) parts.push(`${Math.round(usage.completion_tokens / (took - first))} tokens/s`);
  return status === 'failed' && !parts.length ? 'failed' : parts.join(' · ');
}

// A button, and what it opens under the line it stands in.
function requestPanel(answer) {
  const panel = h('div', { class: 'request', hidden: true });
  const button = h('button', { type: 'button', class: 'quiet small show-request', 'aria-expanded': 'false' }, 'Show the request');
  button.addEventListener('click', () => {
    panel.hidden = !panel.hidden;
    button.setAttribute('aria-expanded', String(!panel.hidden));
    if (panel.children.length) return;
    const told = Object.entries(answer.told).map(([name, value]) => `${name}: ${value}\n`).join('');
    const cut = answer.rawSize > MAX_RAW ? `\n\n(the rest of ${answer.rawSize} characters is not kept)` : '';
    panel.append(
      codeBlock(curlOf(answer), 'curl'),
      codeBlock(`${told}\n${answer.raw.join('\n\n')}${cut}`.trim() || 'Nothing came.', 'Headers and raw events'));
  });
  return [button, panel];
}

/** The request as a command; long data of files is shortened in it. */
export function curlOf({ request, headers }) {
  const body = JSON.stringify(request, (name, value) => (
    typeof value === 'string' && value.length > 300 && (name === 'data' || value.startsWith('data:')) ? `${value.slice(0, 60)}…` : value), 2);
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const sent = ['Content-Type: application/json', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)];
  const authorization = hasKey() ? ' \\\n  -H "Authorization: Bearer $FLOWISE_GATEWAY_KEY"' : '';
  return `curl -N ${quoted(`${BASE}/v1/chat/completions`)}${authorization}${sent.map((text) => ` \\\n  -H ${quoted(text)}`).join('')} \\\n  -d ${quoted(body)}`;
}
