// Answers as Markdown. Whatever they hold, only these elements and attributes reach the page; nothing is loaded
// from elsewhere, since an image's address can carry a conversation away.
import { Marked } from './vendor/marked.esm.js';
import DOMPurify from './vendor/purify.es.mjs';
import { copyButton, h } from './dom.js';

const TAGS = ['a', 'b', 'blockquote', 'br', 'code', 'del', 'details', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'i', 'img', 'kbd',
  'li', 'ol', 'p', 'pre', 's', 'span', 'strong', 'sub', 'summary', 'sup', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'u', 'ul'];
const ATTRIBUTES = ['href', 'src', 'alt', 'title', 'start', 'colspan', 'rowspan', 'align'];
const FILES = '/v1/flowise/files/';
const OWN_IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,/;

// Of HTML in an answer only these plain tags are taken for such; everything else is shown as it was written.
const OTHER_TAG = /<(?!\/?(?:b|blockquote|br|code|del|details|em|hr|i|kbd|li|ol|p|pre|s|strong|sub|summary|sup|u|ul)\s*\/?>)/gi;
const marked = new Marked({ gfm: true, breaks: true, async: false, renderer: { html: ({ text }) => text.replace(OTHER_TAG, '&lt;') } });

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'IMG') return;
  // Here the image is not yet in the page: nothing has been loaded.
  const source = localFile(node.getAttribute('src') ?? '');
  if (OWN_IMAGE.test(source) || isLocalFile(source)) {
    node.setAttribute('src', source);
  } else {
    node.removeAttribute('src');
    node.setAttribute('data-elsewhere', source);
  }
});

/** A text as elements. */
export function markdown(text) {
  const html = marked.parse(text);
  const content = DOMPurify.sanitize(html, { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, RETURN_DOM_FRAGMENT: true });
  for (const image of content.querySelectorAll('img')) amendImage(image);
  for (const anchor of content.querySelectorAll('a')) anchor.replaceWith(link(anchor.getAttribute('href') ?? '', [...anchor.childNodes]));
  for (const table of content.querySelectorAll('table')) {
    const frame = h('div', { class: 'scroll', tabIndex: 0, role: 'group', 'aria-label': 'Table' });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const block of content.querySelectorAll('pre')) {
    block.tabIndex = 0;
    block.setAttribute('role', 'group');
    block.setAttribute('aria-label', 'Code');
    const frame = h('div', { class: 'code-frame' });
    block.replaceWith(frame);
    frame.append(block, copyButton(() => block.textContent, 'Copy', 'code'));
  }
  // The page has its own headings above.
  for (const heading of content.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    heading.replaceWith(h('p', { class: `heading level-${heading.tagName[1]}` }, ...heading.childNodes));
  }
  return content;
}

function amendImage(image) {
  const elsewhere = image.getAttribute('data-elsewhere');
  if (elsewhere !== null) image.replaceWith(link(elsewhere, [`image: ${image.alt || 'without a description'}`]));
  else {
    image.alt ||= 'Image of the answer';
    // What only has an image's name is sent as a download.
    image.addEventListener('error', () => image.replaceWith(link(image.getAttribute('src'), [image.alt])), { once: true });
  }
}

/** A link that opens a tab of its own; a plain text for an address that is not one of the web's. */
export function link(address, children) {
  const url = URL.canParse(localFile(address), location.href) ? new URL(localFile(address), location.href) : null;
  if (!url || !['http:', 'https:', 'mailto:'].includes(url.protocol)) return h('span', null, ...children);
  return h('a', { href: url.href, target: '_blank', rel: 'noopener noreferrer nofollow' }, ...children);
}

// PROXY_PUBLIC_URL may name this server otherwise than the browser does.
function localFile(address) {
  const at = address.indexOf(FILES);
  return at >= 0 && /^(?:https?:\/\/[^/?#]+)?(?:\/[^?#]*)?$/.test(address.slice(0, at)) ? `.${address.slice(at)}` : address;
}

const isLocalFile = (address) => address.startsWith(`.${FILES}`);
