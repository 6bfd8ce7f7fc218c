// Elements without HTML strings: whatever a server, a flow or a file says becomes text.

/** An element with properties and children; `on` holds listeners, names with a hyphen are attributes. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'on') for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === 'class') element.className = value;
    else if (name.includes('-') || ['role', 'for', 'colspan', 'list', 'href'].includes(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element of SVG; all properties are attributes. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Tell a screen reader. */
export function announce(text) {
  document.getElementById('announcer').textContent = text;
}

/** A button that copies what `text()` gives. */
export function copyButton(text, label = 'Copy', what = '') {
  const button = h('button', { type: 'button', class: 'quiet small', 'aria-label': what ? `${label} ${what}` : null }, label);
  button.addEventListener('click', async () => {
    const copied = await copy(text());
    button.textContent = copied ? 'Copied' : 'Select and copy by hand';
    announce(button.textContent);
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without HTTPS a browser has no clipboard for other machines' pages.
    const area = h('textarea', { value: text, class: 'unseen', 'aria-hidden': 'true' });
    document.body.append(area);
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    return copied;
  }
}

/** A block of code under a bar with its title and a button to copy it. */
export function codeBlock(text, title, props = {}) {
  return h('figure', { class: 'code', ...props },
    h('figcaption', null, h('span', null, title), copyButton(() => text, 'Copy', title)),
    h('pre', { tabIndex: 0, role: 'group', 'aria-label': title }, h('code', null, text)));
}

/** Seconds as a person reads them. */
export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${Number(value.toFixed(value < 10 ? 2 : 1))} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** A number of bytes as a person reads it. */
export function bytes(value) {
  if (value < 1024) return `${value} B`;
  return value < 1024 ** 2 ? `${Math.round(value / 1024)} kB` : `${(value / 1024 ** 2).toFixed(1)} MB`;
}
