// A producer of a queue of any name. Prints one JSON line for each job once it has ended.
//
//   node queues.js PORT QUEUE JOBS [cluster]

const { Queue, QueueEvents, connection, LONG } = require('./bull');

async function main(name, count) {
  const queue = new Queue(name, { connection });
  const events = new QueueEvents(name, { connection });
  await events.waitUntilReady();
  const added = await queue.addBulk([...Array(count).keys()].map((n) => ({ name: 'echo', data: [`${name}-${n}`] })));
  for (const job of added) {
    const returned = await job.waitUntilFinished(events, LONG);
    console.log(JSON.stringify({ id: job.id, returned }));
  }
  await events.close();
  await queue.close();
}

main(process.argv[3], Number(process.argv[4])).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
