// Example of a consumer group's member that reads Lookout's events from Redis.
// Needs node-redis: npm install redis
'use strict';

const os = require('node:os');
const { parseArgs } = require('node:util');
const { createClient } = require('redis');

// handle does the work. It may get an entry again after a crash: event.id is the
// same then.
async function handle(id, event) {
  const d = event.data;
  console.log([id, d.stream, event.type, d.phase, d.text ?? ''].join('\t'));
}

async function main() {
  const { values: a } = parseArgs({
    options: {
      url: { type: 'string', default: 'redis://127.0.0.1:6379' },
      key: { type: 'string', default: 'lookout:events' },
      group: { type: 'string', default: 'example' },
      consumer: { type: 'string', default: os.hostname() }, // its own for each running program
      from: { type: 'string', default: '$' }, // where a new group begins: $ now, 0 at the oldest entry
      'claim-after': { type: 'string', default: '60000' }, // milliseconds
      count: { type: 'string', default: '0' }, // end after so many entries
    },
  });
  const claimAfter = Number(a['claim-after']);
  const count = Number(a.count);

  const client = createClient({ url: a.url });
  client.on('error', (err) => console.error(err.message)); // it connects again by itself
  await client.connect();

  try {
    await client.xGroupCreate(a.key, a.group, a.from, { MKSTREAM: true });
  } catch (err) {
    if (!err.message.startsWith('BUSYGROUP')) throw err;
  }

  let done = 0;
  const work = async (entries) => {
    for (const entry of entries) {
      if (!entry) continue; // trimmed away while it was pending
      let event;
      try {
        event = JSON.parse(entry.message.json);
      } catch (err) {
        // Acknowledged all the same, or it comes back for ever.
        console.error(`entry ${entry.id} is no event: ${err.message}`);
      }
      if (event) await handle(entry.id, event);
      await client.xAck(a.key, a.group, entry.id);
      done++;
    }
  };

  let claimed = -Infinity;
  while (!count || done < count) {
    if (performance.now() - claimed > claimAfter / 2) { // what a dead member left
      claimed = performance.now();
      let cursor = '0-0';
      do {
        const res = await client.xAutoClaim(a.key, a.group, a.consumer, claimAfter, cursor, { COUNT: 100 });
        await work(res.messages);
        cursor = res.nextId;
      } while (cursor !== '0-0');
      if (count && done >= count) break;
    }
    const block = Math.min(Math.floor(claimAfter / 2) + 1, 5000);
    const streams = await client.xReadGroup(a.group, a.consumer, { key: a.key, id: '>' }, { COUNT: 100, BLOCK: block });
    for (const s of streams ?? []) await work(s.messages);
  }
  await client.close();
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
