// Captions put words on the picture they are about. A word carries the RTP
// time of its newest picture; it waits until the video shows that picture.

const TOLERANCE = 1500;   // of the 90 kHz clock: half a picture at 30 a second
const PATIENCE = 4000;    // ms; words whose picture never comes are shown anyway
const LATE = 90000 * 30;  // older by more than that is of another run of the stream
const OTHER_RUN = 90000 * 600;
const QUIET = 7000;       // ms after which a caption that has ended fades

// ahead is how far RTP time a is past b, across the wrap.
export const ahead = (a, b) => (a - b) | 0;

export class Captions {
  constructor(video, box, line, before, on) {
    Object.assign(this, { video, box, line, before, on });
    this.waiting = [];
    this.shown = null;      // RTP time of the picture on screen
    this.stats = { exact: 0, paired: 0, late: 0 };
    this.recent = [];       // RTP times of pictures shown, newest last
    if ('requestVideoFrameCallback' in HTMLVideoElement.prototype) {
      const frame = (now, meta) => {
        video.requestVideoFrameCallback(frame);
        if (meta.rtpTimestamp === undefined) return;
        this.shown = meta.rtpTimestamp;
        this.frames = (this.frames ?? 0) + 1;
        this.recent.push(this.shown);
        if (this.recent.length > 400) this.recent.shift();
        this.release();
      };
      video.requestVideoFrameCallback(frame);
    }
    setInterval(() => this.release(), 500);
  }

  reset() {
    this.waiting = [];
    this.shown = null;
    this.recent = [];
    this.current = null;
    this.line.textContent = this.before.textContent = '';
    this.box.classList.add('quiet');
  }

  // put queues a piece of text (index, text), or the whole of it (final).
  put(item) {
    item.since = performance.now();
    this.waiting.push(item);
    this.release();
  }

  ready(item, now) {
    if (this.shown === null || item.rtp === undefined) return now - item.since > (this.live?.() ? PATIENCE : 0);
    const d = ahead(this.shown, item.rtp);
    return d >= -TOLERANCE || d < -OTHER_RUN || now - item.since > PATIENCE;
  }

  release() {
    const now = performance.now();
    const due = this.waiting.filter(i => this.ready(i, now));
    if (!due.length) return;
    this.waiting = this.waiting.filter(i => !due.includes(i));
    due.sort((a, b) => ahead(a.rtp ?? 0, b.rtp ?? 0) || a.index - b.index);
    this.delay = 0; // words that come together are spoken one after another
    for (const i of due) this.show(i);
  }

  show(i) {
    const c = this.current;
    // A description that is updated keeps its id and begins anew, on a later picture.
    if (c?.id !== i.id || c.rtp !== undefined && i.rtp !== undefined && ahead(c.rtp, i.rtp) !== 0) {
      const late = c && c.rtp !== undefined && i.rtp !== undefined ? ahead(c.rtp, i.rtp) : 0;
      if (late > 0 && late < LATE) return; // an older caption comes too late
      if (i.final && i.phase === 'end') return;
      this.before.textContent = c && !c.over ? c.text : '';
      this.line.textContent = '';
      this.current = { id: i.id, rtp: i.rtp, parts: [], text: '' };
      this.box.classList.remove('quiet');
      if (this.shown !== null && i.rtp !== undefined) {
        const exact = this.recent.some(r => Math.abs(ahead(r, i.rtp)) <= TOLERANCE);
        this.stats.paired++;
        if (exact) this.stats.exact++;
      }
      this.on.first?.(i, this.shown);
    }
    const cur = this.current;
    clearTimeout(this.fade);
    if (i.final) {
      if (i.text && i.text !== cur.text) {
        cur.text = i.text;
        this.line.textContent = i.text;
      }
      this.line.classList.remove('talking');
      cur.whole = true;
      cur.over = i.phase === 'end';
      this.fade = setTimeout(() => { this.box.classList.add('quiet'); }, QUIET);
    } else if (i.done) {
      this.line.classList.remove('talking');
    } else if (cur.whole) {
      // The event has overtaken its own pieces: it had all of the text.
    } else if (cur.parts[i.index] === undefined && i.text) {
      cur.parts[i.index] = i.text;
      cur.text = cur.parts.join('');
      const span = document.createElement('span');
      span.textContent = i.text;
      const after = [...this.line.children].find(s => Number(s.dataset.i) > i.index);
      span.dataset.i = i.index;
      span.style.animationDelay = `${this.delay}ms`;
      this.delay += 70;
      this.line.insertBefore(span, after ?? null);
      this.line.classList.add('talking');
    }
    Object.assign(this.line.dataset, { event: cur.id, rtp: i.rtp ?? '', shown: this.shown ?? '' });
  }
}
