// Looks at the schedulers that are there, removes the one called `to-remove`, puts one of its own in place, and waits
// until its jobs have run three times.
//
//   BULLMQ=bullmq|bullmq6 node schedules.js PORT

const { run } = require('./bull');

run(async (queue, events) => {
  const seen = await queue.getJobSchedulers();
  const removed = await queue.removeJobScheduler('to-remove');
  const ran = [];
  let returned;
  const thrice = new Promise((resolve) => {
    events.on('completed', ({ jobId, returnvalue }) => {
      ran.push(jobId);
      returned = typeof returnvalue === 'string' ? JSON.parse(returnvalue) : returnvalue;
      if (ran.length === 3) resolve();
    });
  });
  await queue.upsertJobScheduler('from-node', { every: 1000 }, { name: 'echo', data: ['tick'] });
  await thrice;
  return { seen, removed, ran, returned };
});
