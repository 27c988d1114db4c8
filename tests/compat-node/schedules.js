// Looks at the schedulers that are there, removes the one called `to-remove`, puts one of its own in place, and waits
// until its jobs have run three times. Prints one JSON object about what it saw.
//
//   node schedules.js PORT

const { Queue, QueueEvents } = require('bullmq');

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) };

async function main() {
  const queue = new Queue('my-job-queue', { connection });
  const events = new QueueEvents('my-job-queue', { connection, lastEventId: '0-0' });
  await events.waitUntilReady();
  const seen = await queue.getJobSchedulers();
  const removed = await queue.removeJobScheduler('to-remove');

  const ran = [];
  let returned;
  const thrice = new Promise((resolve) => {
    events.on('completed', ({ jobId, returnvalue }) => {
      ran.push(jobId);
      returned = returnvalue;
      if (ran.length === 3) resolve();
    });
  });
  await queue.upsertJobScheduler('from-node', { every: 1000 }, { name: 'echo', data: ['tick'] });
  await thrice;
  console.log(JSON.stringify({ seen, removed, ran, returned: typeof returned === 'string' ? JSON.parse(returned) : returned }));
  await events.close();
  await queue.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
