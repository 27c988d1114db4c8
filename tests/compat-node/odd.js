// A producer with odd data and options, as JavaScript lets them through. Prints how each of its jobs ended.
//
//   node odd.js PORT

const Redis = require('ioredis');
const { connection, eventually, LONG, run } = require('./bull');

run(async (queue, events) => {
  const jobs = {};
  jobs.half = await queue.add('stdin', 'party 🎉'.slice(0, 7));
  jobs.halfArgument = await queue.add('echo', ['party 🎉'.slice(0, 7)]);
  jobs.odd = await queue.add('fail', [], { attempts: 4, backoff: 50, delay: 10.5 });
  jobs.text = await queue.add('fail', [], { attempts: '3', backoff: { type: 'fixed', delay: 5.5 }, stackTraceLimit: 2 });
  jobs.mine = await queue.add('echo', [], { attempts: 3, backoff: { type: 'mine' } });
  jobs.lines = await queue.add('lines', [], { keepLogs: 3 });
  jobs.talks = await queue.add('talks', []);
  jobs.broken = await queue.add('stdin', { x: 1 }, { delay: 1500 });
  const client = new Redis(connection);
  await client.hset(queue.toKey(jobs.broken.id), 'data', '{"x": NaN}');
  const removed = await queue.add('echo', ['gone'], { delay: 10.5, removeOnComplete: true });
  await removed.waitUntilFinished(events, LONG);

  const ended = {};
  for (const [name, job] of Object.entries(jobs)) {
    try {
      await job.waitUntilFinished(events, LONG);
    } catch {
      // Told below, with what is stored.
    }
    if (job === jobs.broken) {
      // BullMQ itself can't read it any more.
      const { failedReason } = await client.hgetall(queue.toKey(job.id));
      ended[name] = { id: job.id, state: await job.getState(), failedReason };
      continue;
    }
    const now = await queue.getJob(job.id);
    const { logs } = await queue.getJobLogs(job.id);
    const { id, returnvalue, failedReason, attemptsMade, attemptsStarted, stacktrace, progress } = now;
    const state = await now.getState();
    ended[name] = { id, state, returnvalue, failedReason, attemptsMade, attemptsStarted, stacktrace, progress, logs };
  }
  await eventually('the removal of a job', async () => (await queue.getJob(removed.id)) === undefined);

  // A fixed id, taken three times because nothing is kept of it.
  for (const word of ['one', 'two', 'three']) {
    const job = await queue.add('echo', [word], { jobId: 'report', removeOnComplete: true });
    await job.waitUntilFinished(events, LONG);
  }
  client.disconnect();
  return ended;
});
