// How things stand, and which models there are.
import { BASE } from './api.js';
import { h, seconds } from './dom.js';
import { choose, needsKey, refresh, refreshIfOld, state } from './state.js';

const TYPES = { CHATFLOW: 'Chatflow', AGENTFLOW: 'Agentflow', MULTIAGENT: 'Multi-agent', ASSISTANT: 'Assistant' };

export function statusSection() {
  const cards = h('dl', { class: 'cards' });
  const list = h('div');
  const search = h('input', { type: 'search', id: 'model-search', placeholder: 'Name, id or type', autocomplete: 'off', on: { input: () => showModels() } });
  const count = h('span', { class: 'muted', role: 'status' });
  const models = h('section', { 'aria-labelledby': 'models-title' },
    h('div', { class: 'row' }, h('h2', { id: 'models-title' }, 'Models'), count,
      h('span', { class: 'spacer' }),
      h('div', { class: 'picker' }, h('label', { for: 'model-search' }, 'Search'), search)),
    list);
  const element = h('div', null,
    h('div', { class: 'row' }, h('h1', null, 'Status'), h('span', { class: 'spacer' }),
      h('button', { type: 'button', on: { click: refresh } }, 'Ask again')),
    cards, models);

  function show() {
    cards.replaceChildren(...cardsOf(state));
    models.hidden = needsKey() || state.ready === null;
    showModels();
  }

  function showModels() {
    const wanted = search.value.trim().toLowerCase();
    const found = state.models.filter((model) => [model.id, model.name, model.type, model.description].join(' ').toLowerCase().includes(wanted));
    count.textContent = wanted ? `${found.length} of ${state.models.length}` : String(state.models.length || '');
    if (found.length) return list.replaceChildren(table(found));
    list.replaceChildren(h('p', { class: 'empty' }, state.isLoading ? 'Asking …' : wanted ? 'No model fits.' : emptyText()));
  }

  state.addEventListener('change', show);
  show();
  return { title: 'Status', element, entered: refreshIfOld };
}

function emptyText() {
  if (state.error) return 'The list of models could not be had; the reason stands above.';
  return 'Flowise has no flow that this caller may use. A flow added there is here within a minute.';
}

function cardsOf({ ready, latency, error, isLoading }) {
  if (isLoading && !ready) return [card('Gateway', '', 'Asking …')];
  if (!ready) return [card('Gateway', 'bad', 'Not reached', error?.message)];
  const gateway = card('Gateway', 'good', 'Ready', ready.version ? `version ${ready.version} at ${BASE}` : BASE);
  if (needsKey()) {
    return [gateway, card('Key', 'warn', 'Needed', h('a', { href: '#/keys' }, 'Enter a key'), ' to see Flowise and its models.')];
  }
  const trouble = error && `${error.message}${error.code ? ` (${error.code})` : ''}`;
  const flowises = Object.entries(ready.flowises);
  return [
    gateway,
    ...flowises.map(([name, flowise]) => {
      const title = flowises.length > 1 ? `Flowise ${name}` : 'Flowise';
      const problem = flowise.error ?? trouble;
      return flowise.reachable
        ? card(title, problem ? 'warn' : 'good', `Version ${flowise.version ?? 'unknown'}`, problem || `answered in ${seconds(latency)}`)
        : card(title, 'bad', 'Not reached', problem);
    }),
    ready.config_error ? card('Configuration', 'bad', 'Broken, the one before is used', ready.config_error) : card('Configuration', 'good', 'In order', 'as in .env and proxy.yaml'),
    ready.store_error || ready.secret_error ? card('Store', 'bad', 'Failing', ready.store_error || ready.secret_error) : card('Store', 'good', 'Working', 'conversations continue'),
  ];
}

function card(title, kind, value, ...more) {
  return h('div', { class: `card ${kind}` },
    h('dt', null, title),
    h('dd', null, h('span', { class: 'value' }, h('span', { class: 'dot', 'aria-hidden': 'true' }), value),
      more.some(Boolean) && h('span', { class: 'muted detail' }, ...more)));
}

const COLUMNS = [['Streams', 'streaming'], ['Images', 'vision'], ['Files', 'files'], ['Memory', 'memory']];

function table(models) {
  const head = ['Model', 'Type', ...COLUMNS.map(([title]) => title), 'Overrides'].map((title) => h('th', { scope: 'col' }, title));
  return h('table', { class: 'models' },
    h('thead', null, h('tr', null, ...head, h('td', null))),
    h('tbody', null, ...models.map(row)));
}

function row(model) {
  const use = (section, text) => h('a', { href: section, 'aria-label': `${text} ${model.id}`, on: { click: () => choose(model.id) } }, text);
  return h('tr', null,
    h('th', { scope: 'row' },
      h('span', { class: 'name' }, model.name || model.id),
      model.name && model.name !== model.id && h('code', null, model.id),
      model.description && h('span', { class: 'muted detail' }, model.description)),
    h('td', { 'data-label': 'Type' }, TYPES[model.type] ?? (model.type || 'unknown')),
    ...COLUMNS.map(([title, name]) => h('td', { 'data-label': title }, ability(model.capabilities?.[name]))),
    h('td', { 'data-label': 'Overrides', class: 'overrides' }, overrides(model.flowise?.override_inputs)),
    h('td', { class: 'actions' }, use('#/try', 'Try'), use('#/connect', 'Connect')));
}

// What a request's parameters and overrides can set in the flow, as its API configuration in Flowise allows.
function overrides(inputs) {
  if (!inputs?.length) return h('span', { class: 'muted' }, inputs ? 'none' : 'not told');
  return inputs.map((name) => h('code', null, name));
}

function ability(value) {
  if (value === true) return h('span', { class: 'yes' }, 'yes');
  return h('span', { class: 'muted' }, value === false ? 'no' : 'not told');
}
