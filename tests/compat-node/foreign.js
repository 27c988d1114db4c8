// Does to jobs of Jobber's what a worker and an operator with BullMQ's own tools do, without a word to Jobber.
//
//   BULLMQ=bullmq|bullmq6 node foreign.js PORT '{"done": ID, ...}'

const { UnrecoverableError, Worker, connection, QUEUE, run } = require('./bull');

const ids = JSON.parse(process.argv[3]);

run(async (queue) => {
  const worker = new Worker(QUEUE, null, { connection });
  const forgetful = new Worker(QUEUE, null, { connection, name: 'forgetful', removeOnComplete: { count: 0 } });
  const take = async (by, token) => {
    const job = await by.getNextJob(token);
    return job;
  };
  const seen = {};
  for (;;) {
    const by = (await queue.getWaiting(0, 0)).length ? worker : null;
    if (!by) break;
    const next = (await queue.getWaiting()).map((job) => job.id);
    const owner = next.includes(ids.forgotten) && next.length === 1 ? forgetful : worker;
    const job = await take(owner, 'token');
    if (!job) break;
    const name = Object.keys(ids).find((key) => ids[key] === job.id);
    seen[name] = (seen[name] || 0) + 1;
    if (name === 'done' || name === 'forgotten') {
      await job.moveToCompleted({ success: true, result: `${name} by node` }, 'token', false);
    } else if (name === 'again' && seen[name] > 1) {
      await job.moveToCompleted('second time', 'token', false);
    } else if (name === 'held') {
      // Still running when this script ends.
    } else {
      await job.moveToFailed(new UnrecoverableError('broken by node'), 'token', false);
      if (name === 'again') await job.retry('failed');
    }
  }
  await (await queue.getJob(ids.delayed)).remove();
  await worker.close(true);
  await forgetful.close(true);
  return { seen, left: await queue.getJobCounts() };
});
