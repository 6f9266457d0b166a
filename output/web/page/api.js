// The HTTP API. Errors are thrown with the server's code and words.

export class Failure extends Error {
  constructor(code, message) { super(message); this.code = code; }
}

let onNobody = () => {};
export function whenSignedOut(f) { onNobody = f; }

export async function call(method, path, body, headers = {}) {
  const init = { method, headers: { ...headers } };
  if (body !== undefined) {
    init.body = typeof body === 'string' ? body : JSON.stringify(body);
    init.headers['Content-Type'] ??= 'application/json';
  }
  let res;
  try { res = await fetch(path, init); } catch { throw new Failure('offline', 'The server cannot be reached.'); }
  if (res.ok) return res;
  let e = {};
  try { e = (await res.json()).error ?? {}; } catch { /* not ours: a proxy's page */ }
  if (res.status === 401 && path !== '/api/session') onNobody();
  throw new Failure(e.code ?? 'internal', e.message ?? `The server says ${res.status}.`);
}

export const get = async path => (await call('GET', path)).json();
export const still = (stream, frame, width) => `/api/streams/${encodeURIComponent(stream)}/frames/${frame}.jpg?width=${width}`;
