// Set-up of each client with this server's address and the chosen model.
import { BASE } from './api.js';
import { codeBlock, h } from './dom.js';
import { modelPicker } from './picker.js';
import { snippets } from './snippets.js';
import { isOpen, needsKey, state } from './state.js';

const HERE = /^https?:\/\/(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/]|$)/;

export function connectSection() {
  let client = '';
  const clients = h('ul', { class: 'chips' });
  const body = h('div', { class: 'snippet', 'aria-live': 'polite' });
  const element = h('div', null,
    h('div', { class: 'row' }, h('h1', null, 'Connect'), h('span', { class: 'spacer' }), modelPicker('connect-model')),
    h('nav', { 'aria-label': 'Clients' }, clients), body,
    h('p', { class: 'muted' }, 'Every route and field, to read and to try: ', h('a', { href: 'docs' }, 'API'), '; for programs: ', h('a', { href: 'openapi.json' }, 'openapi.json'), '.'));

  function show() {
    if (needsKey()) {
      clients.replaceChildren();
      body.replaceChildren(h('p', null, h('a', { href: '#/keys' }, 'Enter a key'), ' to choose among the models that it may use.'));
      return;
    }
    const key = isOpen() ? 'not-needed' : 'YOUR_KEY';
    const all = snippets({ base: BASE, model: state.model || 'YOUR_MODEL', key });
    const shown = all.find((each) => each.id === client) ?? all[0];
    clients.replaceChildren(...all.map((each) => h('li', null,
      h('a', { href: `#/connect/${each.id}`, 'aria-current': each === shown ? 'true' : null }, each.title))));
    body.replaceChildren(...view(shown, key));
  }

  function view({ id, title, file, text, note, container, language }, key) {
    return [
      h('h2', null, title),
      note && h('p', null, note),
      codeBlock(text, file, { 'data-snippet': id, 'data-language': language }),
      key === 'YOUR_KEY' && h('p', { class: 'muted' }, 'Put a client key in the place of ', h('code', null, 'YOUR_KEY'), '.'),
      container && HERE.test(BASE) && h('p', { class: 'muted' },
        'A container reaches this machine as ', h('code', null, 'host.docker.internal'), '; run the client without one, and it is ', h('code', null, BASE),
        '. From a container the server must listen on more than ', h('code', null, 'localhost'), ': set ', h('code', null, 'HOST=0.0.0.0'), ' with client keys.'),
    ].filter(Boolean);
  }

  state.addEventListener('change', show);
  show();
  return { title: 'Connect', element, show: (name) => { client = name; show(); } };
}
