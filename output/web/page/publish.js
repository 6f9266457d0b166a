// Publisher sends this device's camera to the server (WHIP).

import { call } from './api.js';

export class Publisher {
  constructor(iceServers, onEnd) { this.ice = iceServers; this.onEnd = onEnd; }

  async start(name) {
    if (!navigator.mediaDevices) throw new Error('Browsers give the camera only to https:// pages and to localhost. Open this page by one of those.');
    try {
      this.media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 15, max: 30 }, facingMode: 'environment' }, audio: false });
    } catch (e) {
      throw new Error(e.name === 'NotAllowedError' ? 'The browser was not allowed to use the camera.' : `No camera: ${e.message}`);
    }
    try {
      const pc = this.pc = new RTCPeerConnection({ iceServers: this.ice });
      const [track] = this.media.getVideoTracks();
      track.contentHint = 'motion';
      track.onended = () => this.stop('The camera stopped.');
      pc.addTransceiver(track, { direction: 'sendonly', streams: [this.media] });
      pc.onconnectionstatechange = () => {
        if (pc.connectionState === 'failed') this.stop('The connection was lost.');
      };
      await pc.setLocalDescription();
      await gathered(pc);
      const res = await call('POST', `/whip/${encodeURIComponent(name)}`, pc.localDescription.sdp, { 'Content-Type': 'application/sdp' });
      this.resource = res.headers.get('Location');
      await pc.setRemoteDescription({ type: 'answer', sdp: await res.text() });
      this.name = name;
    } catch (e) {
      this.stop();
      throw e;
    }
  }

  stop(why) {
    if (!this.media) return;
    this.media.getTracks().forEach(t => { t.onended = null; t.stop(); });
    this.media = null;
    this.pc?.close();
    if (this.resource) fetch(this.resource, { method: 'DELETE', keepalive: true }).catch(() => {});
    this.onEnd(why);
  }
}

// gathered waits for our addresses, but not for a slow STUN server.
function gathered(pc) {
  if (pc.iceGatheringState === 'complete') return Promise.resolve();
  return new Promise(done => {
    setTimeout(done, 1500);
    pc.onicegatheringstatechange = () => { if (pc.iceGatheringState === 'complete') done(); };
  });
}
