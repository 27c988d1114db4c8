// Takes two jobs, completes the one and fails the other, and keeps neither in the queue.
//
//   BULLMQ=bullmq|bullmq6 node remover.js PORT

const { UnrecoverableError, Worker, connection, QUEUE, run } = require('./bull');

run(async (queue) => {
  const keep = { count: 0 };
  const worker = new Worker(QUEUE, null, { connection, removeOnComplete: keep, removeOnFail: keep });
  const first = await worker.getNextJob('token');
  const second = await worker.getNextJob('token');
  await first.moveToCompleted({ success: true, result: 'kept' }, 'token', false);
  await second.moveToFailed(new UnrecoverableError('broken'), 'token', false);
  await worker.close();
  const left = await Promise.all([first, second].map((job) => queue.getJob(job.id)));
  return { ids: [first.id, second.id], left: left.filter(Boolean).length };
});
