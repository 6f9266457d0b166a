// Link keeps one stream's picture and all streams' words coming: over WebRTC,
// or, while there is no picture, words alone by server-sent events. It comes
// back by itself and asks for what it missed.

import { call } from './api.js';

export class Link {
  // on: {state(name, text), event(ev), delta(d), lost(m), video(stream)}
  constructor(iceServers, on) {
    this.ice = iceServers;
    this.on = on;
    this.after = {};          // seq of the last event that we have, by stream
    this.times = {};          // and its time
    this.offset = 0;          // server's clock minus ours, in ms
    this.epoch = 0;           // grows with each connection; late callbacks of old ones are ignored
    this.tries = 0;
    this.requests = new Map();
    this.unsent = [];         // requests from before control was open
    this.nextID = 1;
  }

  play(stream) {
    this.stream = stream;
    this.tries = 0;
    this.open();
  }

  close() {
    this.epoch++;
    this.drop();
    this.words(false);
  }

  drop() {
    clearTimeout(this.timer);
    clearInterval(this.pinger);
    clearTimeout(this.lag);
    for (const r of this.requests.values()) r.fail(new Error('The connection was lost. Ask again.'));
    this.requests.clear();
    this.unsent = [];
    this.control = null;
    if (this.pc) {
      this.pc.onconnectionstatechange = this.pc.onicecandidate = this.pc.ontrack = null;
      this.pc.close();
      this.pc = null;
    }
    if (this.resource) {
      fetch(this.resource, { method: 'DELETE', keepalive: true }).catch(() => {});
      this.resource = null;
    }
  }

  async open() {
    const epoch = ++this.epoch;
    this.drop();
    this.on.state('connecting', 'Connecting');
    const pc = this.pc = new RTCPeerConnection({ iceServers: this.ice, bundlePolicy: 'max-bundle' });
    const mine = f => (...a) => { if (epoch === this.epoch) f(...a); };
    try {
      const t = pc.addTransceiver('video', { direction: 'recvonly' });
      if ('jitterBufferTarget' in t.receiver) t.receiver.jitterBufferTarget = 0;
      pc.ontrack = mine(e => this.on.video(e.streams[0] ?? new MediaStream([e.track])));
      const take = mine(e => this.message(JSON.parse(e.data)));
      const events = pc.createDataChannel('events');
      const text = pc.createDataChannel('text', { ordered: false, maxPacketLifeTime: 2000 });
      const control = pc.createDataChannel('control');
      events.onmessage = text.onmessage = control.onmessage = take;
      control.onopen = mine(() => {
        this.control = control;
        for (const text of this.unsent.splice(0)) control.send(text);
        this.ping();
      });
      events.onclose = mine(() => this.again('Connection lost'));
      this.timer = setTimeout(mine(() => this.again('No way through to the server')), 15000);
      pc.onconnectionstatechange = mine(() => {
        clearTimeout(this.lag);
        if (pc.connectionState === 'failed') this.again('Connection lost');
        if (pc.connectionState === 'disconnected') this.lag = setTimeout(mine(() => this.again('Connection lost')), 3000);
      });
      this.trickle(pc, mine);

      await pc.setLocalDescription();
      const q = this.after[this.stream] === undefined ? '' : `?after=${this.after[this.stream]}`;
      const res = await call('POST', `/whep/${encodeURIComponent(this.stream)}${q}`, pc.localDescription.sdp, { 'Content-Type': 'application/sdp' });
      const resource = res.headers.get('Location');
      if (epoch !== this.epoch) {
        fetch(resource, { method: 'DELETE' }).catch(() => {});
        return;
      }
      this.resource = resource;
      this.etag = res.headers.get('ETag');
      await pc.setRemoteDescription({ type: 'answer', sdp: await res.text() });
      this.flush?.();
    } catch (e) {
      if (epoch === this.epoch) this.again(e.message, e.code);
    }
  }

  // trickle sends our candidates as they are found.
  trickle(pc, mine) {
    let found = [], timer;
    this.flush = () => {
      if (!this.resource || !found.length) return;
      const ufrag = /a=ice-ufrag:(.*)/.exec(pc.localDescription.sdp)?.[1].trim();
      const body = `a=ice-ufrag:${ufrag}\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n` + found.map(c => `a=${c}\r\n`).join('');
      found = [];
      call('PATCH', this.resource, body, { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': this.etag }).catch(() => {});
    };
    pc.onicecandidate = mine(e => {
      if (!e.candidate?.candidate) return;
      found.push(e.candidate.candidate);
      clearTimeout(timer);
      timer = setTimeout(mine(() => this.flush()), 50);
    });
  }

  // again tries once more, a little later each time.
  again(why, code) {
    this.epoch++;
    this.drop();
    if (code === 'unauthorized') { this.on.state('off', 'Signed out'); return; }
    const wait = Math.min(8000, 500 * 2 ** this.tries++) * (0.7 + 0.6 * Math.random());
    this.on.state('off', why);
    this.words(true);
    const epoch = this.epoch;
    this.timer = setTimeout(() => { if (epoch === this.epoch) this.open(); }, wait);
  }

  // words turns the events without pictures on or off.
  words(on) {
    if (!on) { this.source?.close(); this.source = null; return; }
    if (this.source) return;
    const after = Object.entries(this.after).map(([s, n]) => `${encodeURIComponent(s)}:${n}`).join(',');
    const s = this.source = new EventSource('/api/events' + (after ? `?after=${encodeURIComponent(after)}` : ''));
    s.addEventListener('event', e => this.message({ type: 'event', event: JSON.parse(e.data) }));
    s.addEventListener('delta', e => this.message({ type: 'delta', delta: JSON.parse(e.data) }));
    s.addEventListener('lost', e => this.message(JSON.parse(e.data)));
    s.onerror = () => this.words(false); // the next try brings it back, with what we have by then
  }

  message(m) {
    switch (m.type) {
      case 'hello':
        clearTimeout(this.timer);
        this.tries = 0;
        this.viewer = m.viewer;
        this.words(false);
        this.on.state('live', 'Live');
        this.request({ op: 'subscribe', streams: ['*'], after: this.after }).catch(() => {});
        break;
      case 'event': {
        const { stream, seq } = m.event.data, time = Date.parse(m.event.time);
        // A lower number of a later time: the server lost its state and began anew.
        if (seq <= (this.after[stream] ?? -1) && time <= this.times[stream]) return;
        this.after[stream] = seq;
        this.times[stream] = time;
        this.on.event(m.event);
        break;
      }
      case 'delta': this.on.delta(m.delta); break;
      case 'lost': this.on.lost(m); break;
      case 'accepted': this.requests.get(m.id)?.accepted?.(m.prompt); break;
      case 'reply': {
        const r = this.requests.get(m.id);
        this.requests.delete(m.id);
        if (m.error) r?.fail(new Error(m.error.message)); else r?.done(m);
      }
    }
  }

  // request sends a control message; accepted is called when a question is taken.
  request(r, accepted) {
    return new Promise((done, fail) => {
      if (!this.pc || this.control && this.control.readyState !== 'open') { fail(new Error('Not connected. Try again in a moment.')); return; }
      const id = this.nextID++, text = JSON.stringify({ id, ...r });
      this.requests.set(id, { done, fail, accepted });
      // events may open before control does
      if (this.control) this.control.send(text); else this.unsent.push(text);
    });
  }

  // ping measures the server's clock and finds connections that are dead.
  ping() {
    let best = Infinity, missed = 0;
    const one = async () => {
      const epoch = this.epoch, t0 = Date.now();
      if (++missed > 3) { this.again('The server does not answer'); return; }
      try {
        const m = await this.request({ op: 'ping' });
        if (epoch !== this.epoch) return;
        missed = 0;
        const t1 = Date.now();
        if (t1 - t0 <= best) { best = t1 - t0; this.offset = Date.parse(m.time) - (t0 + t1) / 2; }
        best += 2; // clocks drift: a new measure may replace an old one
      } catch { /* counted as missed */ }
    };
    one();
    this.pinger = setInterval(one, 3000);
  }
}
