// Runs a job, obliterates the queue, and runs another one, which gets the first one's id.
//
//   BULLMQ=bullmq|bullmq6 node obliterated.js PORT

const { LONG, run } = require('./bull');

run(async (queue, events) => {
  const ran = async (word) => {
    const job = await queue.add('echo', [word]);
    return { id: job.id, returned: await job.waitUntilFinished(events, LONG) };
  };
  const first = await ran('first');
  await queue.obliterate({ force: true });
  return [first, await ran('second')];
});
