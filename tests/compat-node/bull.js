// What every script here begins with: the BullMQ that was asked for, a connection, and one JSON line about what was seen.
//
//   BULLMQ=bullmq|bullmq6 node SCRIPT PORT ...

const bull = require(process.env.BULLMQ || 'bullmq');

const server = { host: '127.0.0.1', port: Number(process.argv[2]) };
// With the word `cluster` at the end of its arguments, a script reaches a cluster by that node.
const connection =
  process.argv.at(-1) === 'cluster'
    ? new (require('ioredis').Cluster)([server], { redisOptions: { maxRetriesPerRequest: null } })
    : server;
const QUEUE = 'my-job-queue';
const LONG = 60_000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Looks again and again until `look` gives something. */
async function eventually(what, look) {
  const began = Date.now();
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() - began > LONG) throw new Error(`waited in vain for: ${what}`);
    await sleep(20);
  }
}

/** Opens a queue and its events from the beginning, lets `act` use them, and prints what it answers. */
async function main(act) {
  const queue = new bull.Queue(QUEUE, { connection });
  const events = new bull.QueueEvents(QUEUE, { connection, lastEventId: '0-0' });
  await events.waitUntilReady();
  const said = JSON.stringify(await act(queue, events));
  await events.close();
  await queue.close();
  // All of it is out before the process ends, also through a pipe.
  await new Promise((resolve) => process.stdout.write(`${said}\n`, resolve));
}

function run(act) {
  main(act).then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}

module.exports = { ...bull, connection, QUEUE, LONG, sleep, eventually, run };
