// An operator with BullMQ's own tools, while Jobber works. Prints one JSON object about what Jobber made of each.
//
//   node operator.js PORT RUNNING        RUNNING: the file into which the job `hold` writes its process id

const fs = require('fs');
const { eventually, LONG, run, sleep } = require('./bull');

const running = process.argv[3];
/** Longer than Jobber takes to notice that there is something to do. */
const QUIET = 600;

run(async (queue, events) => {
  const said = {};
  let now = 0;
  let most = 0;
  events.on('active', () => (most = Math.max(most, (now += 1))));
  for (const name of ['completed', 'failed']) events.on(name, () => (now -= 1));
  const all = (jobs) => Promise.all(jobs.map((job) => job.waitUntilFinished(events, LONG)));
  const naps = (count) => queue.addBulk(Array.from({ length: count }, () => ({ name: 'nap', data: [] })));

  await queue.pause();
  const paused = await queue.add('nap', []);
  await sleep(QUIET);
  said.whilePaused = [await queue.isPaused(), (await queue.getJob(paused.id)).processedOn ?? null];
  await queue.resume();
  await all([paused]);

  most = 0;
  await all(await naps(4));
  said.atOnceWithoutLimit = most;
  await queue.setGlobalConcurrency(1);
  most = 0;
  await all(await naps(4));
  said.atOnceWithGlobalConcurrency1 = most;
  await queue.removeGlobalConcurrency();

  await queue.setGlobalRateLimit(2, 700);
  const limited = await naps(6);
  await all(limited);
  const starts = await Promise.all(limited.map(async (job) => (await queue.getJob(job.id)).processedOn));
  said.rateLimitedSpan = Math.max(...starts) - Math.min(...starts);
  await queue.removeGlobalRateLimit();

  await queue.pause();
  const drained = [...(await naps(3)), await queue.add('nap', [], { delay: 1 }), await queue.add('nap', [], { priority: 5 })];
  await queue.drain(true);
  said.drained = await queue.getJobCounts('waiting', 'paused', 'delayed', 'prioritized');
  await queue.resume();
  await sleep(QUIET);
  said.drainedRan = (await Promise.all(drained.map((job) => queue.getJob(job.id)))).filter(Boolean).length;

  const failing = await queue.addBulk([1, 2].map(() => ({ name: 'once', data: [] })));
  await Promise.allSettled(failing.map((job) => job.waitUntilFinished(events, LONG)));
  said.failedBeforeRetry = await Promise.all(failing.map((job) => job.getState()));
  const counted = async (state) => (await queue.getJobCounts(state))[state];
  const before = await counted('completed');
  await queue.retryJobs({ state: 'failed' });
  await eventually('the retried jobs', async () => (await counted('completed')) === before + 2);
  said.retried = await Promise.all(failing.map(async (job) => [job.id, (await queue.getJob(job.id)).attemptsMade]));

  const later = await queue.add('nap', [], { delay: 3_600_000 });
  await later.promote();
  await all([later]);
  const removed = await queue.add('nap', [], { delay: 3_600_000 });
  await removed.remove();

  said.cleaned = (await queue.clean(0, 1000, 'completed')).length;
  said.completedAfterClean = await counted('completed');

  await queue.add('hold', [running]);
  const holder = await eventually('a running job', () => fs.existsSync(running) && fs.readFileSync(running, 'utf8').trim());
  await queue.obliterate({ force: true });
  said.obliterated = await queue.getJobCounts();
  // Its lock is gone, so Jobber must stop it. A job that another worker may start any moment has a tenth of a second left,
  // in which a busy machine runs no trap: so its process tells.
  await eventually('the end of the obliterated job', () => !fs.existsSync(`/proc/${holder}`));
  const after = await queue.add('nap', []);
  await after.waitUntilFinished(events, LONG);
  said.afterwards = await after.getState();
  return said;
});
