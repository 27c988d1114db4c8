// Prints every event of a job, one JSON line each, from the beginning to its end.
//
//   node listener.js PORT JOB

const { LONG, run, sleep } = require('./bull');

const NAMES = ['added', 'waiting', 'active', 'stalled', 'progress', 'delayed', 'completed', 'failed'];

run(async (queue, events) => {
  const seen = [];
  for (const name of NAMES) {
    events.on(name, (event) => event.jobId === process.argv[3] && seen.push(name));
  }
  const began = Date.now();
  while (!seen.includes('completed') && !seen.includes('failed') && Date.now() - began < LONG) {
    await sleep(20);
  }
  return seen;
});
