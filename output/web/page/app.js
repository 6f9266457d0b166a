import { call, get, still, whenSignedOut } from './api.js';
import { Link } from './link.js';
import { Captions } from './captions.js';
import { Publisher } from './publish.js';

const $ = id => document.getElementById(id);

// h makes an element; strings become text, never markup.
function h(tag, attrs = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k in e && k !== 'list') e[k] = v;
    else e.setAttribute(k, v);
  }
  e.append(...children.filter(c => c !== null && c !== undefined));
  return e;
}

const KEEP = 300;                 // events kept on the page, of each stream
const kinds = { description: 'Seen', answer: 'Answer', alert: 'Alert', label: 'Label', status: 'Stream' };
const kindOf = ev => /^video\.lookout\.(\w+)\./.exec(ev.type)?.[1] ?? 'description';
const clock = t => new Date(t).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const percent = p => `${Math.round(p * 100)}%`;
// sure is what a yes or no says, with its probability.
const sure = p => p < 0.5 ? `no ${percent(1 - p)}` : `yes ${percent(p)}`;
const newest = ev => ev.data.evidence?.at(-1);

const app = {
  me: null, link: null, streams: [], stream: null,
  lives: new Map(),               // event_id -> the newest revision, in the order of their start
  alerts: new Map(),              // stream -> the event_ids of its alerts that hold
  strange: new Map(),             // stream -> why the model does not know its footage
  show: 'all', asks: new Map(),   // prompt id -> the answer's element
};
window.lookout = app;             // for those who look under the bonnet, and for tests

// ---- start, sign in

async function begin() {
  try {
    app.me = await get('/api/session');
  } catch (e) {
    if (e.code === 'unauthorized') { signIn(); return; }
    setLink('off', e.message);
    setTimeout(begin, 2000);
    return;
  }
  $('leave').hidden = !app.me.accounts;
  $('camera').hidden = !app.me.publish;
  for (const e of [$('add'), ...document.querySelectorAll('.manage')]) e.hidden = !app.me.manage;
  $('version').textContent = app.me.version ? `Lookout ${app.me.version}` : '';
  app.link?.close();
  app.link = new Link(app.me.ice_servers, { state: setLink, event: onEvent, delta: onDelta, lost: onLost, video: show });
  await refresh();
  clearInterval(app.poll);
  app.poll = setInterval(refresh, 2000);
}

// show plays v. autoplay alone does not after another stream's end has paused
// the player.
function show(v) {
  const video = $('video');
  video.srcObject = v;
  video.play().catch(() => {}); // another stream was chosen meanwhile
}

function signIn() {
  clearInterval(app.poll);
  app.link?.close();
  app.stream = null; // chosen again, and played, after signing in
  setLink('off', 'Signed out');
  if (!$('signin').open) $('signin').showModal();
}
whenSignedOut(signIn);
$('signin').addEventListener('cancel', e => e.preventDefault());
$('signin-form').addEventListener('submit', async e => {
  e.preventDefault();
  $('signin-error').textContent = '';
  try {
    await call('POST', '/api/session', { user: $('signin-user').value, password: $('signin-password').value });
    $('signin-password').value = '';
    $('signin').close();
    begin();
  } catch (err) { $('signin-error').textContent = err.message; }
});
$('leave').addEventListener('click', async () => { await call('DELETE', '/api/session').catch(() => {}); location.reload(); });

// ---- streams

async function refresh() {
  try {
    app.streams = (await get('/api/streams')).streams;
  } catch { return; }
  const names = app.streams.map(s => s.name);
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (!names.includes(app.stream)) select(names.includes(wanted) ? wanted : names[0] ?? null);
  drawTiles();
  drawHealth();
  drawBars();
}

const info = () => app.streams.find(s => s.name === app.stream);
const can = what => info()?.can.includes(what);

function select(name) {
  if (name === app.stream && name) return;
  app.stream = name;
  captions.reset();
  $('live').dataset.state = 'connecting';
  $('latency').hidden = true;
  $('name').textContent = name ? info()?.title || name : '';
  veil(name ? 'Connecting' : `No stream yet.\n${app.me.manage ? 'Add one, or use your camera.' : 'Add one to lookout.yaml.'}`, !!name);
  $('video').srcObject = null;
  drawTiles();
  drawEvents();
  drawHealth();
  drawBars();
  drawStrange();
  if (!name) { app.link.close(); setLink('live', 'Ready'); return; }
  if (decodeURIComponent(location.hash.slice(1)) !== name) history.replaceState(null, '', '#' + encodeURIComponent(name));
  app.link.play(name);
  // What stands was said before: it is not sent again.
  const last = [...app.lives.values()].filter(ev => ev.data.stream === name && kindOf(ev) === 'description' && ev.data.text && ev.data.phase !== 'end').at(-1);
  if (last) captions.put({ id: last.data.event_id, index: 1e9, text: last.data.text, final: true, phase: last.data.phase, rtp: newest(last)?.rtp, old: true });
}
addEventListener('hashchange', () => {
  const n = decodeURIComponent(location.hash.slice(1));
  if (app.streams.some(s => s.name === n)) select(n);
});

const tiles = new Map();
function drawTiles() {
  const box = $('tiles');
  box.hidden = $('grid').hidden = app.streams.length < 2;
  if (box.hidden) setGrid(false);
  for (const [n, t] of tiles) if (!app.streams.some(s => s.name === n)) { t.el.remove(); tiles.delete(n); }
  for (const s of app.streams) {
    let t = tiles.get(s.name);
    if (!t) {
      t = { img: h('img', { alt: '', loading: 'lazy' }), dot: h('span', { className: 'dot' }), last: h('small') };
      t.img.addEventListener('error', () => t.img.setAttribute('data-none', ''));
      t.img.addEventListener('load', () => t.img.removeAttribute('data-none'));
      t.el = h('button', { type: 'button', className: 'tile', onclick: () => { select(s.name); setGrid(false); } }, t.img, h('b', {}, t.dot, s.title || s.name), t.last);
      tiles.set(s.name, t);
      box.append(t.el);
    }
    t.el.classList.toggle('alarm', !!app.alerts.get(s.name)?.size);
    t.el.setAttribute('aria-current', s.name === app.stream);
    t.dot.dataset.state = s.state;
    t.el.setAttribute('aria-label', `${s.title || s.name}, ${s.state}`);
    t.last.textContent = s.state === 'live' ? (app.strange.has(s.name) ? 'Unknown footage' : t.words ?? '') : [s.state, s.reason].filter(Boolean).join(': ');
    if (!box.hidden && !document.hidden && s.state === 'live') t.img.src = still(s.name, 'latest', app.grid ? 640 : 320) + `&t=${Math.floor(Date.now() / 2000)}`;
  }
}

// setGrid shows all streams side by side, or one of them large.
function setGrid(on) {
  if (!!app.grid === on) return;
  app.grid = on;
  document.body.classList.toggle('grid', on);
  $('grid').setAttribute('aria-pressed', on);
  if (on) drawTiles(); else $('stage').focus();
}
$('grid').addEventListener('click', () => setGrid(!app.grid));

function drawStrange() {
  const why = app.strange.get(app.stream);
  $('strange').hidden = !why;
  $('strange').title = why ?? '';
}

function drawHealth() {
  const s = info();
  const stat = (name, value, unit, title) => [h('dt', { title }, name), h('dd', {}, value, ' ', h('small', {}, unit))];
  const cells = s ? [
    ['Camera', s.fps ? s.fps.toFixed(s.fps < 10 ? 1 : 0) : '–', 'fps', 'Pictures the camera sends'],
    ['Looks', s.look_fps ? s.look_fps.toFixed(1) : '–', 'a second', 'Pictures the model looks at'],
    ['Glass to word', s.glass_to_word_ms ? Math.round(s.glass_to_word_ms) : '–', 'ms', 'From the picture taken to the first word, median'],
    ['Picture', s.width ? `${s.width}×${s.height}` : '–', s.codec ?? '', 'What the camera sends'],
  ] : [];
  $('change').hidden = !s || !app.me.manage;
  $('stats').replaceChildren(...cells.map(c => h('div', {}, ...stat(...c))));
  const skipped = Object.entries(s?.skipped ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 6);
  const total = skipped.reduce((n, [, v]) => n + v, 0);
  const out = [];
  if (total) {
    const bar = h('div', { className: 'stack', role: 'img', 'aria-label': 'Frames not looked at, by reason' });
    skipped.forEach(([, v], i) => { const p = h('i', { className: 'c' + i }); p.style.flexGrow = v; bar.append(p); });
    out.push(bar, h('ul', {}, ...skipped.map(([why, v], i) => h('li', {}, h('i', { className: 'c' + i }), `${v.toLocaleString()} ${why.replaceAll('_', ' ')}`))));
  }
  if (s?.degraded) out.push(h('p', { className: 'warn' }, s.degraded));
  if (s && s.state !== 'live') out.push(h('p', { className: 'warn' }, [s.state, s.reason, s.fix].filter(Boolean).join('. ')));
  if (s && app.missed?.stream === s.name && Date.now() - app.missed.at < 60000) out.push(h('p', { className: 'warn' }, `Your connection is too slow for the video: ${app.missed.n.toLocaleString()} pictures missed.`));
  if (s) out.push(h('p', {}, s.viewers === 1 ? '1 viewer' : `${s.viewers} viewers`));
  $('skips').replaceChildren(...out);
}

// ---- labels

function drawBars() {
  const s = info();
  $('label-form').hidden = $('ask').hidden = $('own').hidden = !can('ask');
  const scores = new Map((s?.scores ?? []).map(l => [l.name, l]));
  const names = s?.labels?.length ? s.labels : [...scores.keys()];
  const box = $('bars');
  const old = new Map([...box.children].map(li => [li.dataset.name, li]));
  const rows = names.map(name => {
    let li = old.get(name);
    if (!li) {
      li = h('li', {}, h('span', { className: 'name' }, name), h('span', { className: 'value' }),
        can('ask') ? h('button', { type: 'button', 'aria-label': `Remove label ${name}`, onclick: () => setLabels(names.filter(n => n !== name)) }, '×') : h('span'),
        h('div', { className: 'track' }, h('i')));
      li.dataset.name = name;
    }
    const p = scores.get(name)?.probability;
    li.querySelector('.value').textContent = p === undefined ? '' : percent(p);
    li.querySelector('.track i').style.transform = `scaleX(${p ?? 0})`;
    return li;
  });
  if (rows.length !== box.children.length || rows.some((r, i) => r !== box.children[i])) box.replaceChildren(...rows);
}

async function setLabels(labels) {
  try {
    await call('PUT', `/api/streams/${encodeURIComponent(app.stream)}/labels`, { labels });
    await refresh();
  } catch (e) { alarm(e.message); }
}
$('label-form').addEventListener('submit', e => {
  e.preventDefault();
  const l = $('label').value.trim();
  if (!l) return;
  $('label').value = '';
  const s = info();
  setLabels([...(s.labels ?? (s.scores ?? []).map(x => x.name)), l]);
});

// ---- connection

function setLink(state, text) {
  $('link').dataset.state = state;
  $('link').textContent = state === 'off' && text !== 'Signed out' ? 'Reconnecting' : text;
  $('link').title = text;
  if (state === 'live') return;
  $('live').dataset.state = 'connecting';
  const s = info();
  if (s && s.state !== 'live') veil([`This stream is ${s.state}.`, s.reason, s.fix].filter(Boolean).join('\n'), true);
  else veil(state === 'off' ? `${text.replace(/\.$/, '')}.\nTrying again.` : text, true);
}

function veil(text, spin) {
  $('veil-text').textContent = text;
  $('veil').querySelector('.spin').hidden = !spin;
  $('veil').classList.remove('gone');
}
$('video').addEventListener('playing', () => { $('veil').classList.add('gone'); $('live').dataset.state = 'live'; });

function alarm(text) { $('alarm').textContent = text; }

// ---- words on the picture

const captions = new Captions($('video'), $('caption-box'), $('caption'), $('caption-before'), {
  first(item) {
    if (!item.capture || item.old) return;
    const ms = Date.now() + app.link.offset - Date.parse(item.capture);
    if (ms < 0 || ms > 60000) return;
    app.latency = ms;
    $('latency').textContent = `${Math.round(ms)} ms glass to word`;
    $('latency').hidden = false;
  },
});
captions.live = () => $('live').dataset.state === 'live';
app.captions = captions;

// spoken tells whether a delta's words belong over the picture: not those of
// alerts and questions.
function spoken(d) {
  const id = d.prompt?.id ?? '';
  return d.stream === app.stream && !id.startsWith('ask-') && !(info()?.alerts ?? []).some(a => a.id === id);
}

function onDelta(d) {
  const answer = d.prompt && app.asks.get(d.prompt.id);
  if (answer) { answer.put(d); return; }
  if (spoken(d)) captions.put({ id: d.event_id, index: d.index, text: d.text, done: d.done, rtp: d.evidence?.rtp, capture: d.evidence?.capture });
}

function onEvent(ev) {
  const d = ev.data, kind = kindOf(ev), e = newest(ev);
  const fresh = Date.now() + app.link.offset - Date.parse(ev.time) < 15000;
  const old = app.lives.get(d.event_id);
  if (old && d.revision < old.data.revision) return;
  app.lives.delete(d.event_id); // what changes is news: its place is that of its newest time
  app.lives.set(d.event_id, old ? { ...ev, begun: old.begun ?? old.time, data: { ...d, text: d.text || old.data.text, evidence: d.evidence ?? old.data.evidence } } : ev);
  forget(d.stream);
  drawEvent(app.lives.get(d.event_id), fresh);

  if (kind === 'description') {
    if (d.stream === app.stream && (fresh || !captions.current)) captions.put({ id: d.event_id, index: 1e9, text: d.text, final: true, phase: d.phase, rtp: e?.rtp, capture: e?.capture, old: !fresh });
    const t = tiles.get(d.stream);
    if (t && d.text) { t.words = d.text; t.last.textContent = d.text; }
    if (fresh && d.stream === app.stream && d.text && d.phase !== 'end') $('said').textContent = d.text;
  }
  if (kind === 'alert') {
    // Of what came while the page was away too: the tile shows what holds.
    const on = app.alerts.get(d.stream) ?? app.alerts.set(d.stream, new Set()).get(d.stream);
    if (d.phase === 'end') on.delete(d.event_id); else on.add(d.event_id);
    tiles.get(d.stream)?.el.classList.toggle('alarm', on.size > 0);
    if (fresh && d.phase !== 'update') alarm(d.phase === 'end' ? `Over: ${d.text}` : `Alert on ${d.stream}: ${d.text || d.prompt?.text}`);
  }
  if (kind === 'label' && d.labels) {
    const s = app.streams.find(x => x.name === d.stream);
    if (s) { s.scores = d.labels; if (d.stream === app.stream) drawBars(); }
  }
  if (kind === 'status') {
    if (d.status.state === 'out_of_domain') app.strange.set(d.stream, [d.status.reason, d.status.fix].filter(Boolean).join('. '));
    if (d.status.state === 'in_domain') app.strange.delete(d.stream);
    drawStrange();
  }
  if (kind === 'answer' && d.prompt) app.asks.get(d.prompt.id)?.finish(ev);
}

// forget keeps, about, a stream's newest events, and alerts that hold: a busy
// camera does not push out what a quiet one has said, nor scores what was said.
const heard = new Map();
function forget(stream) {
  const n = (heard.get(stream) ?? 0) + 1;
  heard.set(stream, n);
  if (n % 50) return;
  const over = (n, which) => {
    const mine = [...app.lives.values()].filter(ev => ev.data.stream === stream && which(ev));
    for (const ev of mine.slice(0, Math.max(0, mine.length - n))) app.lives.delete(ev.data.event_id);
  };
  over(KEEP, ev => kindOf(ev) !== 'label' && !app.alerts.get(stream)?.has(ev.data.event_id));
  over(20, ev => kindOf(ev) === 'label');
}

function onLost(m) {
  if (m.pictures) app.missed = { stream: m.stream, n: (app.missed?.stream === m.stream ? app.missed.n : 0) + m.pictures, at: Date.now() };
  const n = m.events ?? m.deltas;
  if (!m.events || app.found) return;
  const li = h('li', {}, h('div', { className: 'event', 'data-kind': 'lost' }, `${n} event${n === 1 ? '' : 's'} missed: ${m.reason === 'history' ? 'too long ago' : 'this connection was too slow'}`));
  $('events').prepend(li);
  trim();
}

// ---- timeline

function visible(ev) {
  return ev.data.stream === app.stream && (app.show === 'all' ? kindOf(ev) !== 'label' : kindOf(ev) === app.show);
}

function card(ev) {
  const d = ev.data, kind = kindOf(ev), e = newest(ev);
  const text = d.text || d.status && [d.status.state, d.status.reason].filter(Boolean).join(': ').replaceAll('_', ' ') || d.prompt?.text || '';
  const img = e ? h('img', { alt: '', loading: 'lazy', src: still(d.stream, e.frame, 320) }) : null;
  const none = () => kind === 'status' ? '' : h('span', { className: 'none', 'aria-hidden': 'true' }, '–');
  img?.addEventListener('error', () => img.replaceWith(none()));
  const at = e?.capture ?? ev.time;
  const b = h('button', { type: 'button', className: 'event', onclick: () => openFrame(ev) },
    img ?? none(),
    h('div', {},
      h('div', { className: 'meta' }, h('time', { dateTime: at }, kind === 'alert' && d.phase === 'end' && ev.begun ? `${clock(ev.begun)} – ${clock(at)}` : clock(at)), h('span', { className: 'kind' }, kinds[kind] ?? kind),
        d.probability !== undefined ? h('span', { className: 'badge' }, sure(d.probability)) : null,
        d.abstained ? h('span', { className: 'badge' }, 'cannot tell') : null,
        d.phase === 'end' ? h('span', {}, 'ended') : null),
      kind === 'answer' || kind === 'alert' && d.prompt ? h('p', { className: 'muted' }, d.prompt?.text ?? '') : null,
      h('p', {}, text)));
  b.dataset.kind = kind;
  b.dataset.event = d.event_id;
  return h('li', {}, b);
}

function drawEvent(ev, fresh) {
  if (app.found || !visible(ev)) return; // what a search found stands until it is over
  const list = $('events');
  const li = card(ev);
  const old = list.querySelector(`[data-event="${CSS.escape(ev.data.event_id)}"]`)?.parentElement;
  const focus = old?.contains(document.activeElement);
  if (!old && fresh) li.firstChild.classList.add('fresh');
  old?.remove();
  list.prepend(li);
  if (focus) li.firstChild.focus({ preventScroll: true });
  trim();
}

function trim() {
  while ($('events').children.length > KEEP) $('events').lastChild.remove();
  $('empty').hidden = $('events').children.length > 0;
}

function drawEvents() {
  if (app.found) return;
  $('events').replaceChildren(...[...app.lives.values()].filter(visible).reverse().map(card));
  $('empty').textContent = 'Nothing said yet. Words appear here as things happen.';
  trim();
}

for (const b of $('filters').children) {
  b.addEventListener('click', () => {
    endSearch();
    app.show = b.dataset.show;
    for (const x of $('filters').children) x.setAttribute('aria-pressed', x === b);
    drawEvents();
  });
}

function openFrame(ev) {
  const e = newest(ev), d = ev.data;
  const img = $('frame-image');
  img.hidden = !e;
  img.onerror = () => { img.hidden = true; };
  if (e) img.src = still(d.stream, e.frame, 1280);
  img.alt = d.text ?? '';
  // The clip of an alert takes the picture's place once it can play: it is made
  // some seconds after the alert began.
  const clip = $('frame-clip');
  clip.hidden = true;
  if (d.clip) {
    clip.onloadeddata = () => { clip.hidden = false; img.hidden = true; clip.play().catch(() => {}); };
    clip.src = d.clip;
  } else clip.removeAttribute('src');
  $('frame-text').textContent = d.text || d.status?.reason || d.prompt?.text || '';
  $('frame-meta').textContent = [
    d.stream, clock(e?.capture ?? ev.time),
    d.latency?.glass_to_word_ms && `${Math.round(d.latency.glass_to_word_ms)} ms glass to word`,
    d.probability !== undefined && sure(d.probability), d.model?.name,
  ].filter(Boolean).join(' · ');
  $('frame').showModal();
}

$('frame').addEventListener('close', () => $('frame-clip').pause());

// ---- search

$('search').addEventListener('submit', async e => {
  e.preventDefault();
  const q = $('query').value.trim();
  if (!q) { endSearch(); drawEvents(); return; }
  try {
    const { hits } = await get(`/api/search?q=${encodeURIComponent(q)}`);
    app.found = q;
    $('events-title').textContent = `Found for “${q}”`;
    $('events').replaceChildren(...hits.map(x => card(x.event)));
    $('empty').textContent = 'Nothing like that was seen.';
    trim();
  } catch (err) { $('empty').hidden = false; $('empty').textContent = err.message; }
});
$('query').addEventListener('input', () => { if (!$('query').value && app.found) { endSearch(); drawEvents(); } });
function endSearch() { app.found = null; $('events-title').textContent = 'Timeline'; $('query').value = ''; }

// ---- questions

$('ask').addEventListener('submit', async e => {
  e.preventDefault();
  const q = $('question').value.trim();
  if (!q || !app.stream) return;
  $('question').value = '';
  const words = h('span', { className: 'words' }, '…');
  const a = h('div', { className: 'a' }, words);
  const li = h('li', {}, h('div', { className: 'q' }, q), a);
  $('thread').prepend(li);
  while ($('thread').children.length > 30) $('thread').lastChild.remove();
  const parts = [];
  const answer = {
    put(d) {
      if (answer.over) return; // the event has overtaken its own pieces
      parts[d.index] = d.text;
      words.textContent = parts.join('');
    },
    finish(ev) {
      if (answer.over) return;
      answer.over = true;
      const d = ev.data;
      words.textContent = d.text || (d.abstained ? 'I cannot tell.' : '');
      a.classList.toggle('unsure', !!d.abstained);
      if (d.probability !== undefined) a.append(h('span', { className: 'badge', title: 'How probable that is' }, sure(d.probability)));
      if (newest(ev)) a.append(h('button', { type: 'button', onclick: () => openFrame(ev) }, 'picture'));
    },
  };
  try {
    const m = await app.link.request({ op: 'ask', stream: app.stream, question: q, since_ms: Number($('since').value) }, id => app.asks.set(id, answer));
    answer.finish(m.event);
  } catch (err) {
    a.classList.add('wrong');
    words.textContent = err.message;
  }
});

// ---- own prompt

$('own-form').addEventListener('submit', async e => {
  e.preventDefault();
  const text = $('own-text').value.trim();
  try {
    await app.link.request({ op: 'prompt', stream: app.stream, text });
    $('own-state').textContent = text ? 'The words over the video now follow this.' : 'Back to the stream’s own.';
  } catch (err) { $('own-state').textContent = err.message; }
});

// ---- streams added, changed and removed

const PUSHED = 'push:'; // the source of a camera that somebody publishes
let changing = null;    // the stream whose form is open; null adds one

function openStream(s) {
  changing = s;
  $('stream-title').textContent = s ? `Change ${s.title || s.name}` : 'Add a stream';
  $('stream-name').value = s?.name ?? '';
  $('stream-name').readOnly = !!s; // events and keys are under it
  $('stream-url').value = s?.source ?? '';
  $('stream-url').disabled = $('stream-loop').disabled = s?.source === PUSHED;
  $('stream-loop').checked = !!s?.loop;
  $('stream-prompt').value = s?.prompt ?? '';
  $('stream-error').textContent = '';
  $('stream-save').textContent = s ? 'Save' : 'Add';
  $('stream-remove').hidden = !s;
  sureToRemove(false);
  $('stream').showModal();
  (s ? $('stream-url') : $('stream-name')).focus();
}
$('add').addEventListener('click', () => openStream(null));
$('change').addEventListener('click', () => openStream(info()));

// manage does what the form asks for and shows why it cannot be done.
async function manage(method, path, body) {
  $('stream-error').textContent = '';
  for (const b of [$('stream-save'), $('stream-remove')]) b.disabled = true;
  try {
    await call(method, path, body);
    $('stream').close();
    await refresh();
    return true;
  } catch (err) { $('stream-error').textContent = err.message; } finally {
    for (const b of [$('stream-save'), $('stream-remove')]) b.disabled = false;
  }
}
const pathOf = name => `/api/streams/${encodeURIComponent(name)}`;
$('stream-form').addEventListener('submit', async e => {
  e.preventDefault();
  const name = $('stream-name').value.trim(), url = $('stream-url').value.trim(), loop = $('stream-loop').checked, prompt = $('stream-prompt').value.trim();
  if (!changing) {
    if (await manage('POST', '/api/streams', { name, url, loop, describe: { prompt } })) select(name);
    return;
  }
  // Only what was changed: the address shown has its password taken out.
  const patch = {};
  if (url !== changing.source) patch.url = url;
  if (loop !== !!changing.loop) patch.loop = loop;
  if (prompt !== (changing.prompt ?? '')) patch.describe = { prompt };
  if (!Object.keys(patch).length) { $('stream').close(); return; }
  await manage('PATCH', pathOf(name), patch);
});

function sureToRemove(sure) {
  $('stream-remove').classList.toggle('sure', sure);
  $('stream-remove').textContent = sure ? 'Press again to remove it' : 'Remove stream';
}
$('stream-remove').addEventListener('click', () => {
  if ($('stream-remove').classList.contains('sure')) manage('DELETE', pathOf(changing.name));
  else sureToRemove(true);
});
$('stream-remove').addEventListener('blur', () => sureToRemove(false));

// ---- own camera

let publisher;
$('camera').addEventListener('click', () => {
  if (publisher) { publisher.stop(); return; }
  $('publish-error').textContent = '';
  $('publish').showModal();
});
$('publish-form').addEventListener('submit', async e => {
  e.preventDefault();
  const p = new Publisher(app.me.ice_servers, why => {
    publisher = null;
    $('camera').classList.remove('on');
    $('camera').querySelector('span').textContent = 'Use my camera';
    if (why) alarm(why);
  });
  const button = $('publish-form').querySelector('button');
  button.disabled = true;
  try {
    await p.start($('publish-name').value);
    publisher = p;
    $('camera').classList.add('on');
    $('camera').querySelector('span').textContent = 'Stop my camera';
    $('publish').close();
    for (let i = 0; i < 20 && !app.streams.some(s => s.name === p.name); i++) { await new Promise(r => setTimeout(r, 300)); await refresh(); }
    if (app.streams.some(s => s.name === p.name)) select(p.name);
  } catch (err) { $('publish-error').textContent = err.message; }
  button.disabled = false;
});
addEventListener('pagehide', () => { publisher?.stop(); app.link?.close(); });
addEventListener('pageshow', e => { if (e.persisted) location.reload(); });

// ---- look and keys

function setTheme(t, keep) {
  document.documentElement.dataset.theme = t;
  document.querySelector('meta[name="theme-color"]').content = t === 'light' ? '#f4f2ee' : '#0c0f14';
  if (keep) try { localStorage.setItem('theme', t); } catch { /* private windows */ }
}
const dark = matchMedia('(prefers-color-scheme: dark)');
let kept = null;
try { kept = localStorage.getItem('theme'); } catch { /* private windows */ }
setTheme(kept ?? (dark.matches ? 'dark' : 'light'));
dark.addEventListener('change', e => { if (!kept) setTheme(e.matches ? 'dark' : 'light'); });
function flipTheme() { kept = document.documentElement.dataset.theme === 'light' ? 'dark' : 'light'; setTheme(kept, true); }
$('theme').addEventListener('click', flipTheme);
$('help').addEventListener('click', () => $('keys').showModal());
function full() { if (document.fullscreenElement) document.exitFullscreen(); else $('stage').requestFullscreen?.(); }
$('full').addEventListener('click', full);
for (const d of document.querySelectorAll('dialog:not(#signin)')) d.addEventListener('click', e => { if (e.target === d) d.close(); });

function step(n) {
  const i = app.streams.findIndex(s => s.name === app.stream);
  if (i >= 0) select(app.streams[(i + n + app.streams.length) % app.streams.length].name);
}
function walk(n) {
  const all = [...$('events').querySelectorAll('button.event')];
  all[Math.max(0, Math.min(all.length - 1, all.indexOf(document.activeElement) + n))]?.focus();
}
addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog[open]')) return;
  if (e.target.matches('input, select, textarea')) { if (e.key === 'Escape') e.target.blur(); return; }
  const act = {
    n: () => { if (app.me?.manage) openStream(null); }, e: () => { if (app.me?.manage && info()) openStream(info()); },
    g: () => { if (!$('grid').hidden) setGrid(!app.grid); }, '/': () => $('query').focus(), a: () => $('question').focus(), '?': () => $('keys').showModal(), t: flipTheme, f: full,
    c: () => { $('caption-box').hidden = !$('caption-box').hidden; }, j: () => walk(1), k: () => walk(-1), ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  }[e.key.length === 1 ? e.key.toLowerCase() : e.key];
  if (/^[1-9]$/.test(e.key)) { const s = app.streams[Number(e.key) - 1]; if (s) { select(s.name); setGrid(false); } } else if (act) act(); else return;
  e.preventDefault();
});

begin();
