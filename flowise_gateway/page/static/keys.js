// The key this page uses: asked for, tried, and kept for this tab alone.
import { getJson, hasKey, useKey } from './api.js';
import { announce, h } from './dom.js';
import { needsKey, refresh, state } from './state.js';

export function keysSection() {
  const field = h('input', { type: 'password', id: 'key', autocomplete: 'off', spellcheck: false, required: true });
  const answer = h('p', { class: 'answer-line', role: 'status' });
  const forget = h('button', { type: 'button', class: 'quiet', on: { click: async () => {
    useKey('');
    answer.textContent = '';
    await refresh();
  } } }, 'Forget the key');
  const state_ = h('p', { class: 'lead' });
  const form = h('form', { class: 'stack', on: { submit: tryKey } },
    h('label', { for: 'key' }, 'Client key'),
    h('div', { class: 'row' }, field, h('button', { type: 'submit', class: 'main' }, 'Use this key'), forget),
    h('p', { class: 'muted' }, 'Kept in this tab’s sessionStorage until it is closed, and sent to this server alone.'),
    answer);
  const element = h('div', { class: 'narrow' },
    h('h1', null, 'Keys'), state_, form,
    h('h2', null, 'Make keys'),
    h('p', null, 'Client keys are set in ', h('code', null, 'PROXY_API_KEYS'), ', or in ', h('code', null, 'proxy.yaml'),
      ' with the models and limits of each. This command makes one, with its lines for that file:'),
    h('pre', { tabIndex: 0, role: 'group', 'aria-label': 'Command' }, h('code', null, 'flowise-gateway keys new librechat')));

  async function tryKey(event) {
    event.preventDefault();
    const candidate = field.value.trim();
    try {
      const ready = await getJson('/ready', { candidate });
      if (!('flowise' in ready)) return say('The server does not know this key.', 'bad');
      // Where keys are passed through, only Flowise knows a wrong one.
      await getJson('/v1/models', { candidate }).catch((error) => { if (error.status === 401) throw error; });
      useKey(candidate);
      field.value = '';
      await refresh();
      say(state.error ? state.error.message : `Right: ${state.models.length} ${state.models.length === 1 ? 'model' : 'models'}.`, state.error ? 'bad' : 'good');
    } catch (error) {
      say(error.message, 'bad');
    }
  }

  function say(text, kind) {
    answer.textContent = text;
    answer.className = `answer-line ${kind}`;
    announce(text);
  }

  function show() {
    forget.hidden = !hasKey();
    state_.textContent = state.isLoading ? 'Asking …'
      : needsKey() ? hasKey() ? 'The server does not know the key of this tab.' : 'This server answers only callers with a key.'
        : hasKey() ? 'This tab has a key that the server knows.' : 'This server needs no key from you.';
  }

  state.addEventListener('change', show);
  show();
  return { title: 'Keys', element, entered: () => { if (needsKey()) field.focus(); } };
}
