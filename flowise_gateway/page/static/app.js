// Sections by the address' hash, the theme, the pill that says how things stand.
import { h } from './dom.js';
import { needsKey, refresh, state } from './state.js';
import { chatSection } from './chat.js';
import { connectSection } from './connect.js';
import { keysSection } from './keys.js';
import { liveSection } from './live.js';
import { statusSection } from './status.js';

const SECTIONS = { status: statusSection, try: chatSection, connect: connectSection, keys: keysSection, live: liveSection };
const main = document.getElementById('main');
const made = {};
let shown = '';

function show() {
  if (location.hash && !location.hash.startsWith('#/')) return; // the link that skips the navigation
  const [name, ...rest] = location.hash.slice(2).split('/');
  const section = name in SECTIONS ? name : 'status';
  made[section] ??= SECTIONS[section]();
  made[section].show?.(rest.join('/'));
  for (const anchor of document.querySelectorAll('nav[aria-label="Sections"] a')) {
    const isHere = anchor.getAttribute('href') === `#/${section}`;
    if (isHere) anchor.setAttribute('aria-current', 'page');
    else anchor.removeAttribute('aria-current');
    if (isHere) anchor.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
  if (shown === section) return;
  const isFirst = shown === '';
  made[shown]?.hide?.();
  shown = section;
  main.replaceChildren(made[section].element);
  main.dataset.section = section;
  document.title = `${made[section].title} · Flowise gateway`;
  if (!isFirst) scrollTo(0, 0);
  if (!isFirst && section !== 'try') main.focus({ preventScroll: true });
  made[section].entered?.();
}

function showHealth() {
  const pill = document.getElementById('health');
  const { ready, error } = state;
  const flowises = Object.values(ready?.flowises ?? {});
  let [kind, text] = ['good', `Flowise ${ready?.flowise?.version ?? ''}`.trim()];
  if (state.isLoading) [kind, text] = ['', 'Asking …'];
  else if (!ready || error?.code === 'unreachable') [kind, text] = ['bad', 'Server not reached'];
  else if (needsKey()) [kind, text] = ['', 'Key needed'];
  else if (!flowises.some((flowise) => flowise.reachable)) [kind, text] = ['bad', 'Flowise not reached'];
  else if (error || flowises.some((flowise) => !flowise.reachable || flowise.error) || ready.config_error || ready.store_error || ready.secret_error) [kind, text] = ['warn', 'Needs a look'];
  pill.className = `pill ${kind}`;
  pill.replaceChildren(h('span', { class: 'dot', 'aria-hidden': 'true' }), h('span', { class: 'label' }, text));
}

const THEMES = ['auto', 'light', 'dark'];
function setTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = document.getElementById('theme');
  button.replaceChildren(h('span', { class: 'wide' }, 'Theme: '), theme);
  button.setAttribute('aria-label', `Theme: ${theme}`);
  button.onclick = () => {
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem('flowise-gateway-theme', next);
    setTheme(next);
  };
}

const theme = localStorage.getItem('flowise-gateway-theme');
setTheme(THEMES.includes(theme) ? theme : 'auto');
addEventListener('hashchange', show);
state.addEventListener('change', showHealth);
showHealth();
show();
refresh();
